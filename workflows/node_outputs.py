"""Files a node leaves for people: what its export writes, and pictures of what was linked and normalized."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from skyloom.workflows.evaluate import Step
from skyloom.workflows.link_drawing import link_svg
from skyloom.workflows.places import Place, as_folder, files, place, relative, resolved
from skyloom.workflows.progress import Reporter
from skyloom.workflows.store import Store, disk_errors


def draw_links(store: Store, step: Step, steps: Mapping[str, Step]) -> list[Place]:
    """Leave the picture of what was linked with what."""
    links, session = step.dataset, steps[step.node.inputs["session"]].dataset
    if links is None or session is None:
        return []
    path = store.project / "outputs" / "links.svg"
    with disk_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(link_svg(links, session), encoding="utf-8")
    return [path]


def draw_normalization(store: Store, step: Step, steps: Mapping[str, Step], *, before: bool) -> list[Place]:
    """Leave pictures of what was corrected and how well; those of the same result are left as they are."""
    from skyloom.workflows.normalization_drawing import FOLDER, write_pictures

    session = steps[step.node.inputs["session"]].dataset
    if step.dataset is None or session is None:
        return []
    folder = store.project / "outputs" / FOLDER
    if before and (made := sorted(str(p) for p, _ in files(folder) if p.suffix == ".png")):
        return [place(p) for p in made]
    with disk_errors(f"writing to {folder}"), as_folder(folder) as (here, final):
        return [final(path) for path in write_pictures(session, step.dataset, here)]


def write_outputs(store: Store, step: Step, steps: Mapping[str, Step], reporter: Reporter) -> list[Place]:
    """Let an export write its files."""
    node = step.node
    directory, manifest = _outputs(store, step)
    reporter.node_begins(node.name, units=1, done=0)
    begin = time.monotonic()
    with disk_errors(f"node {node.name!r}, writing to {directory}"):
        inputs = {n: steps[p].dataset for n, p in node.inputs.items()}
        with as_folder(directory) as (here, final):
            written = [place(p) for p in node.op.function(**inputs, directory=here, **node.parameters)]
            made = [final(p) if isinstance(p, Path) else p for p in written]
        sizes = {relative(p, directory): p.stat().st_size for p in made}
        manifest.write_text(json.dumps({"key": step.key, "files": sizes}), encoding="utf-8")
    reporter.node_ends(node.name, seconds=time.monotonic() - begin, note="")
    return made


def _outputs(store: Store, step: Step) -> tuple[Place, Place]:
    """Folder of the files an export makes, and the list of them."""
    directory = store.project / "outputs"
    return directory, directory / f".{step.node.name}.json"


def made_before(store: Store, step: Step) -> list[Place]:
    """Files an export made under this key, if they are all still there in their full size."""
    directory, manifest = _outputs(store, step)
    try:
        record = json.loads(manifest.read_text(encoding="utf-8"))
        sizes = {resolved(directory, n): int(size) for n, size in record["files"].items()}
        if record["key"] == step.key and all(p.stat().st_size == size for p, size in sizes.items()):
            return list(sizes)
    except (OSError, ValueError, KeyError, AttributeError):
        pass
    return []
