"""Images given by path, in the key of a result: what they contain counts, not where they lie."""

from __future__ import annotations

from dataclasses import replace

from skyloom.ops.normalization.images import given_image, open_images
from skyloom.workflows.graph import Node

OP = "normalize"


def by_content(node: Node) -> Node:
    """Return the node with the content ids of its images in the place of their paths, for its key alone.

    Parameters
    ----------
    node
        Any node; only those of `normalize` take images.

    Raises
    ------
    DataError
        If an image cannot be read.
    """
    if node.op.name != OP:
        return node
    parameters = dict(node.parameters)
    anchors = parameters.get("anchors")
    if anchors:
        parameters["anchors"] = [f"content {i.content}" for i in open_images(anchors, "anchor")]
    if given_image(str(parameters["mode"]), str(parameters["reference"])):
        (image,) = open_images([str(parameters["reference"])], "reference")
        parameters["reference"] = f"content {image.content}"
    return replace(node, parameters=parameters)
