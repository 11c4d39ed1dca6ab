"""Masters in strips of rows: how they lie in a Dataset, what a strip costs, and how one is stacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from skyloom.ops.blocks import Block, BlockLayer, Blocks, extended
from skyloom.ops.calibration.members import Group, Member, sample_bytes
from skyloom.ops.calibration.stacking import Clipping, NoiseModel, Stacked, stack_mean
from skyloom.ops.errors import CapacityError, DataError
from skyloom.ops.registry import Cost
from skyloom.ops.unit_keys import digest

STRIP = 256
"""Rows of a strip, the unit of work and of storage."""
LEAST_ROWS = 8
"""Rows read at a time at least (even, for colour filter arrays): less would mostly be calls."""
SOURCE_BYTES = 8
"""Bytes of a pixel while it is read: float32 and what it was decoded from."""
RESULT_BYTES = 4 + 4 + 2 + 2
"""Bytes of a finished pixel."""
FIXED_BYTES = 8e6
"""Of a task: buffers, the graph."""

VARIABLES: Mapping[str, Any] = {
    "image": np.float32,
    "variance": np.float32,
    "count": np.uint16,
    "rejected": np.uint16,
}

Reader = Callable[[Member, slice], NDArray[np.float32]]
"""Pixels of some rows of a member, over the whole width."""


def strips_of(height: int) -> int:
    """Number of strips of a height."""
    return -(-height // STRIP)


def rows_at_a_time(
    frames: int, strip: int, shape: tuple[int, int], task_memory: float, *, reading: float = SOURCE_BYTES
) -> tuple[int, float]:
    """Rows of a strip to stack at a time, and the peak memory of its task (bytes).

    Parameters
    ----------
    frames
        Members.
    strip
        Its rows.
    shape
        Rows, columns of the master.
    task_memory
        Bytes the task may take.
    reading
        Bytes a pixel of the member takes while it is read.

    Raises
    ------
    CapacityError
        If not even `LEAST_ROWS` rows fit.
    """
    fixed = FIXED_BYTES + RESULT_BYTES * strip * shape[1]
    row = (4.0 * frames + reading) * shape[1]
    step = min(int((task_memory - fixed) / row) // 2 * 2, strip)
    # The noise is found before the first rows are stacked.
    noise = fixed + sample_bytes(frames, shape)
    if step < min(LEAST_ROWS, strip) or noise > task_memory:
        least = max(fixed + LEAST_ROWS * row, noise)
        raise CapacityError(
            f"a strip of {shape[1]} px and {frames} frames needs {least / 2**20:.0f} MiB, "
            f"a task may take {task_memory / 2**20:.0f} MiB; raise the memory limit (--memory)"
        )
    return step, max(fixed + step * row, noise)


def stack_strip(
    members: Sequence[Member],
    read: Reader,
    rows: slice,
    width: int,
    models: tuple[NoiseModel, ...],
    *,
    factor: NDArray[np.float64],
    clipping: Clipping,
    step: int,
    out: Stacked,
) -> None:
    """Stack some rows of the members, a few at a time.

    Parameters
    ----------
    members
        At least one.
    read
        Reads rows of a member; one whose rows cannot be read is missing from those.
    rows
        Of the frame.
    width
        Pixels of a row.
    models, factor, clipping
        As in `stack_mean`.
    step
        Rows at a time.
    out
        Where to write, of the size of `rows` and `width`.
    """
    buffer = np.empty((len(members), min(step, rows.stop - rows.start), width), np.float32)
    for start in range(rows.start, rows.stop, step):
        part = slice(start, min(start + step, rows.stop))
        height = part.stop - part.start
        stack = buffer[:, :height]
        for k, frame in enumerate(members):
            try:
                stack[k] = read(frame, part)
            except DataError:
                stack[k] = np.nan
        inner = out.window(slice(start - rows.start, part.stop - rows.start), slice(0, width))
        stack_mean(stack, models, factor=factor, clipping=clipping, first_row=start, out=inner)


def strip_cost(groups: Sequence[Group], *, task_memory: float, rate: float, reading: float = SOURCE_BYTES) -> Cost:
    """Cost of the strips of masters; `read` counts pixels as float32."""
    strips = strips_of(max((g.shape[0] for g in groups), default=0))
    work, read, memory = np.zeros((3, len(groups), strips))
    widest = max((g.shape[1] for g in groups), default=0)
    for m, group in enumerate(groups):
        frames = len(group.members)
        for s in range(strips_of(group.shape[0]) if frames else 0):
            rows = min(STRIP, group.shape[0] - s * STRIP)
            pixels = float(rows * group.shape[1])
            work[m, s] = frames * pixels / 1e6
            read[m, s] = 4.0 * frames * pixels
            memory[m, s] = rows_at_a_time(frames, rows, group.shape, task_memory, reading=reading)[1]
            memory[m, s] += RESULT_BYTES * STRIP * (widest - group.shape[1])
    return Cost(work=work, read=read, memory=memory, rate=rate)


def strip_keys(groups: Sequence[Group], told: Mapping[int, str], made: Sequence[Any] = ()) -> NDArray[np.str_]:
    """What each strip of each master depends on.

    Parameters
    ----------
    groups
        A master each.
    told
        What each is made of (`members.identities`).
    made
        How what is taken off its frames was made.
    """
    height, width = (max((g.shape[axis] for g in groups), default=0) for axis in (0, 1))
    rows = [min(STRIP, height - start) for start in range(0, height, STRIP)]
    keys = [[digest(told[g.index], s, n, width, made) for s, n in enumerate(rows)] for g in groups]
    return np.array(keys, dtype=np.str_).reshape(len(groups), len(rows))


def masters_dataset(
    groups: Sequence[Group],
    name: str,
    token: str,
    task: Callable[[int, int, tuple[int, int]], tuple[Any, ...]],
    *,
    dependencies: Sequence[Any] = (),
) -> xr.Dataset:
    """Dataset of masters over (master, y, x), one task a strip.

    Parameters
    ----------
    groups
        A master each.
    name
        Of the op.
    token
        Tells these arrays from others.
    task
        Makes the dask task of (master, strip, shape of its block), which returns a `Stacked` of that shape.
    dependencies
        Dask arrays the tasks refer to.

    Returns
    -------
    xarray.Dataset
        Lazy `image, variance, count, rejected`, padded to the largest master with NaN and 0; in memory
        `group, kind, height, width` over `master`.
    """
    height = max((g.shape[0] for g in groups), default=0)
    width = max((g.shape[1] for g in groups), default=0)
    about = {
        "group": ("master", np.array([g.index for g in groups], dtype=np.int64)),
        "kind": ("master", np.array([g.kind for g in groups], dtype="<U8")),
        "height": ("master", np.array([g.shape[0] for g in groups], dtype=np.int64)),
        "width": ("master", np.array([g.shape[1] for g in groups], dtype=np.int64)),
    }
    dims = ("master", "y", "x")
    if not groups or not height or not width:
        empty = {n: (dims, np.zeros((len(groups), height, width), dtype)) for n, dtype in VARIABLES.items()}
        return xr.Dataset({**empty, **about})
    chunks = ((1,) * len(groups), tuple(min(STRIP, height - s) for s in range(0, height, STRIP)), (width,))
    base = f"{name}-strip-{token}"
    made = {(m, s) for m, g in enumerate(groups) for s in range(strips_of(g.shape[0])) if g.members}

    def strip_task(block: Block) -> tuple[Any, ...]:
        master, strip = block
        return task(master, strip, (chunks[1][strip], width))

    strips = BlockLayer(base, made, strip_task)
    graph = HighLevelGraph.from_collections(base, strips, dependencies=list(dependencies))
    variables: dict[str, Any] = {}
    for variable, dtype in VARIABLES.items():
        key = f"{name}-{variable}-{token}"

        def block_task(block: Block, variable: str = variable) -> tuple[Any, ...]:
            if block[:2] in made:
                return (_pick, (base, *block[:2]), variable)
            return (_fill, chunks[1][block[1]], width, variable)

        layer = BlockLayer(key, Blocks((len(groups), len(chunks[1]), 1)), block_task)
        variables[variable] = (dims, da.Array(extended(graph, layer, needs=base), key, chunks=chunks, dtype=dtype))
    return xr.Dataset({**variables, **about})


def _pick(result: Stacked, name: str) -> NDArray[Any]:
    return np.asarray(getattr(result, name))[np.newaxis]


def _fill(rows: int, columns: int, name: str) -> NDArray[Any]:
    dtype = np.dtype(VARIABLES[name])
    return np.full((1, rows, columns), np.nan if dtype.kind == "f" else 0, dtype=dtype)
