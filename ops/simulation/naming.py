"""Names and folders of a simulated session's files."""

from __future__ import annotations

from collections.abc import Sequence

from skyloom.ops.errors import ConfigError
from skyloom.ops.simulation.frame import SimulatedFrame
from skyloom.ops.simulation.hashing import hash_key

LAYOUTS = {
    "plain": "lights in one folder, calibration frames in folders of their kind; names say what they are",
    "shuffled": "random names, all in one folder",
    "scattered": "random names in random folders",
    "typed": "random names; headers do not say the kind, the folder's name does",
}
_KIND_FOLDERS = {"light": "Lights", "bias": "Bias", "dark": "Darks", "flat": "Flats", "flatdark": "Dark Flats"}
_NAME, _FOLDER = 51, 52
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


def check(layout: str) -> None:
    """Raise ConfigError for a layout that does not exist."""
    if layout not in LAYOUTS:
        raise ConfigError(f"no layout {layout!r} of files; there is: {', '.join(LAYOUTS)}")


def word(*parts: int) -> str:
    """Eight random letters out of a…p: no kind, filter or date can be read into them."""
    return f"{int(hash_key(*parts)) & 0xFFFFFFFF:08x}".translate(_LETTERS)


def paths(layout: str, seed: int, frames: Sequence[SimulatedFrame]) -> tuple[str, ...]:
    """File of each frame, relative to the session's folder."""
    out = []
    for frame in frames:
        name = word(seed, _NAME, frame.index) + word(seed, _NAME, frame.index, 1)
        if layout == "plain":
            path = f"{frame.name}.fits" if frame.kind == "light" else f"{frame.kind}/{frame.name}.fits"
        elif layout == "shuffled":
            path = f"{name}.fits"
        elif layout == "scattered":
            place = int(hash_key(seed, _FOLDER, frame.index)) % 7
            above = f"{word(seed, _FOLDER, place % 3)}/" if place > 2 else ""
            path = f"{above}{word(seed, _FOLDER, place)}/{name}.fits"
        else:
            path = f"{_KIND_FOLDERS[frame.kind]}/{name}.fits"
        out.append(path)
    return tuple(out)
