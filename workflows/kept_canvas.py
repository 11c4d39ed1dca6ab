"""Turns what a user calls a canvas (a file, a project, the last run's) into the canvas itself, before keys are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid
from skyloom.ops.objects import is_address
from skyloom.ops.registration.canvas import Wishes
from skyloom.ops.registration.given_canvas import AUTO, KEEP, canvas_text, is_header_text, read_canvas
from skyloom.workflows.graph import Node
from skyloom.workflows.store import Store

OP = "register"
GROWTH = 1024
"""Pixels by which a kept canvas grows where no tile of a mosaic says otherwise."""


def with_canvas(node: Node, input_keys: Sequence[str], store: Store | None) -> Node:
    """Return the node with its canvas as text, so that its key tells canvases apart and not files.

    Parameters
    ----------
    node
        Any node; only those of `register` have a canvas.
    input_keys
        Keys of its inputs.
    store
        The project, of which `keep` takes the canvas.

    Raises
    ------
    DataError
        If the canvas cannot be read.
    ConfigError
        If another scale or projection is asked for than the kept canvas has.
    """
    if node.op.name != OP:
        return node
    given = str(node.parameters["canvas"])
    if given == AUTO or is_header_text(given):
        return node
    if given == KEEP:
        return _kept(node, input_keys, store)
    project = Store(given if is_address(given) else Path(given).expanduser())
    if project.exists:
        found = _last(project)
        if found is None:
            raise DataError(f"canvas = {given}: no run of this project has come to its canvas yet")
        return _with(node, canvas=canvas_text(found[0]))
    return _with(node, canvas=canvas_text(read_canvas(given, tile=int(node.parameters["tile"]))))


def _with(node: Node, **parameters: Any) -> Node:
    return replace(node, parameters={**node.parameters, **parameters})


def _last(store: Store) -> tuple[Grid, dict[str, Any], str] | None:
    """Canvas of the newest registration of a project, the parameters it came from, and its key."""
    for name in store.nodes():
        key = store.newest(name)
        meta = store.meta(name, key) if key else None
        if key and meta and meta.get("op") == OP:
            return Grid.from_attrs(store.open(name, key).attrs), dict(meta["parameters"]), key
    return None


def _kept(node: Node, input_keys: Sequence[str], store: Store | None) -> Node:
    found = _last(store) if store is not None and store.exists else None
    if store is None or found is None:
        return _with(node, canvas=AUTO)
    grid, before, key = found
    # The very run that is there already: to call its result another canvas would be to make it again.
    names = ["canvas", "growth"] if before.get("canvas") == AUTO else ["canvas", "growth", *Wishes.shaping]
    again = _with(node, **{name: before[name] for name in names if name in before})
    if again.key(input_keys) == key:
        return again
    scale, code = node.parameters["pixel_scale"], grid.wcs.wcs.ctype[0][5:8]
    if scale is not None and abs(scale / grid.pixel_scale - 1) > 1e-4:
        raise ConfigError(
            f"pixel_scale = {scale:g}, but the canvas kept has {grid.pixel_scale:.6g} arcsec; "
            f"leave out pixel_scale, or begin anew with canvas = {AUTO}"
        )
    if node.parameters["projection"] not in ("auto", code):
        raise ConfigError(
            f"projection = {node.parameters['projection']}, but the canvas kept is {code}; "
            f"leave out projection, or begin anew with canvas = {AUTO}"
        )
    settled = {name: getattr(Wishes(), name) for name in Wishes.shaping}
    return _with(node, **settled, canvas=canvas_text(grid), growth=_step(store, int(node.parameters["tile"])))


def _step(store: Store, tile: int) -> int:
    """Pixels that are whole tiles of the registration and of every mosaic there is."""
    tiles = [
        int(attrs["grid_tile"])
        for attrs in (store.open(n).attrs for n in store.nodes() if store.newest(n))
        if "grid_tile" in attrs
    ]
    return math.lcm(tile, *tiles) if len(tiles) > 1 else math.lcm(tile, GROWTH, *tiles)
