"""How a result is cut into units, and which part of each array a unit writes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import xarray as xr

from skyloom.ops.errors import ConfigError


@dataclass(frozen=True)
class VariableLayout:
    """How one variable of a result lies in the store."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    block: tuple[int, ...]
    """Shape of a full block: what one unit writes."""
    dtype: str
    unit_axes: tuple[int, ...]
    """For each axis, the position of its dimension in the unit's index, or -1."""

    def region(self, unit: tuple[int, ...]) -> tuple[slice, ...]:
        """Part of the array that belongs to a unit."""
        parts = []
        for axis, position in enumerate(self.unit_axes):
            if position < 0:
                parts.append(slice(0, self.shape[axis]))
            else:
                start = unit[position] * self.block[axis]
                parts.append(slice(start, min(start + self.block[axis], self.shape[axis])))
        return tuple(parts)


@dataclass(frozen=True)
class Layout:
    """How a result is cut into units and laid out in the store."""

    unit_dims: tuple[str, ...]
    unit_shape: tuple[int, ...]
    """Number of units along each unit dimension."""
    variables: tuple[VariableLayout, ...]

    @classmethod
    def of(cls, dataset: xr.Dataset, unit_dims: tuple[str, ...], *, node: str) -> Layout:
        """Layout of a lazy result.

        Raises
        ------
        ConfigError
            If a variable's chunks do not follow the unit dimensions (an error of the op).
        """
        counts: dict[str, int] = {}
        variables = []
        for name, variable in dataset.variables.items():
            chunks = variable.chunks
            if chunks is None:
                continue
            axes, block = [], []
            for dim, sizes in zip(variable.dims, chunks, strict=True):
                if dim in unit_dims:
                    if counts.setdefault(str(dim), len(sizes)) != len(sizes) or len(set(sizes[:-1])) > 1:
                        raise ConfigError(f"node {node!r}: {name} is chunked unlike the rest along {dim}")
                    axes.append(unit_dims.index(str(dim)))
                elif len(sizes) > 1:
                    raise ConfigError(f"node {node!r}: {name} is in {len(sizes)} chunks along {dim}, not in one")
                else:
                    axes.append(-1)
                block.append(int(sizes[0]))
            variables.append(
                VariableLayout(
                    str(name),
                    tuple(str(d) for d in variable.dims),
                    tuple(variable.shape),
                    tuple(block),
                    str(variable.dtype),
                    tuple(axes),
                )
            )
        return cls(unit_dims, tuple(counts.get(d, 1) for d in unit_dims), tuple(variables))

    def ordered(self, names: Sequence[str]) -> Layout:
        """Return the layout with its variables in the order of their names in a list; others come last."""
        place = {name: i for i, name in enumerate(names)}
        return replace(self, variables=tuple(sorted(self.variables, key=lambda v: place.get(v.name, len(place)))))

    def units(self) -> Iterator[tuple[int, ...]]:
        """Indices of all units in order."""
        yield from product(*(range(n) for n in self.unit_shape))

    def unit_bytes(self) -> int:
        """Bytes of the arrays of one full unit."""
        return sum(math.prod(v.block) * np.dtype(v.dtype).itemsize for v in self.variables)

    def largest_block(self) -> int:
        """Bytes of a full block of the largest variable."""
        return max((math.prod(v.block) * np.dtype(v.dtype).itemsize for v in self.variables), default=0)
