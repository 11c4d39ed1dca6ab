"""Masters as tasks use them: by name, read in strips of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.arrays import LazyArray, array_spec
from skyloom.ops.calibration.members import Group, sample_rows
from skyloom.ops.calibration.strips import STRIP
from skyloom.ops.frames import decoded, open_source

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """A master that is taken off frames."""

    image: str
    """Spec of its pixels, for `open_source`."""
    variance: str
    """… of the variance of their mean."""
    shape: tuple[int, int]
    """Rows, columns without padding."""
    pedestal: float
    """What its frames had been given besides (DN)."""

    def level(self, rows: slice) -> Pixels:
        """Rows of the master without its pedestal."""
        return _rows(self.image, rows, self.shape) - np.float32(self.pedestal)

    def sample(self) -> Pixels:
        """Rows of it that stand for a frame (see `sample_rows`); kept in the process."""
        return _sample(self)

    def noise(self, rows: slice) -> Pixels:
        """Rows of its variance."""
        return _rows(self.variance, rows, self.shape)


def _rows(spec: str, rows: slice, shape: tuple[int, int]) -> Pixels:
    source = open_source(spec)
    columns = slice(0, shape[1])
    if not isinstance(source, LazyArray):
        return source.read(rows, columns)
    # Not computed yet: every frame that is calibrated with it would compute it again.
    parts = []
    for strip in range(rows.start // STRIP, -(-rows.stop // STRIP)):
        first, stop = strip * STRIP, min((strip + 1) * STRIP, shape[0])
        whole = decoded((spec, strip), partial(source.read, slice(first, stop), columns))
        parts.append(whole[max(rows.start - first, 0) : min(rows.stop, stop) - first])
    return np.concatenate(parts)


@lru_cache(maxsize=8)
def _sample(reference: Reference) -> Pixels:
    return np.concatenate([reference.level(rows) for rows in sample_rows(reference.shape)])


def references(masters: xr.Dataset, groups: list[Group]) -> dict[int, Reference]:
    """Masters by the index of their group.

    Parameters
    ----------
    masters
        From `masters`.
    groups
        All groups it was made from.
    """
    by_index = {g.index: g for g in groups}
    found = {}
    for place, index in enumerate(masters["group"].values.tolist()):
        group = by_index.get(int(index))
        found[int(index)] = Reference(
            image=array_spec(masters, "image", master=place),
            variance=array_spec(masters, "variance", master=place),
            shape=(int(masters["height"].values[place]), int(masters["width"].values[place])),
            pedestal=group.pedestal if group is not None else 0.0,
        )
    return found


def reference_for(group: Group, masters: dict[int, Reference]) -> Reference | None:
    """What is taken off the flats of a group: its dark (of their exposure, the bias is in it), else its bias."""
    if group.given:
        return None
    for index in (group.dark, group.bias):
        reference = masters.get(index)
        if reference is not None and reference.shape == group.shape:
            return reference
    return None
