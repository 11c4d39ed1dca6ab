"""Frames that cannot be read by window (gzip, camera raw, some XISF): decoded once, into the store.

They lie in the group `frames` under their content id: a file that is renamed, or used by another workflow of the
project, is not decoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

import numpy as np
import xarray as xr
import zarr

from skyloom.ops.arrays import array_fields
from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.workflows.places import folders, zarr_root
from skyloom.workflows.schedulers import Scheduler
from skyloom.workflows.store import FRAMES, Store, disk_errors
from skyloom.workflows.stored import location
from skyloom.workflows.stored_layout import COMPRESSORS

CHUNK = (256, 1024)
"""Rows and columns of a chunk: what a window decodes at least."""
PIXEL_BYTES = 40.0
"""Peak of decoding a frame: float32 pixels and the copy that is written; of a packed colour image all planes."""


def unpacked(session: xr.Dataset, store: Store) -> xr.Dataset:
    """Session whose frames are read from their copies in the store where there are some."""
    sources = session["source"].values.tolist()
    changed = False
    copies = _copies(store)
    for index, content in enumerate(session["frame"].values.tolist()):
        if content in copies and _complete(store, content):
            shape = (int(session["height"].values[index]), int(session["width"].values[index]))
            sources[index] = array_fields(location(str(store.root), FRAMES), content, (-1, -1), shape)
            changed = True
    if not changed:
        return session
    return session.assign(source=("frame", np.array(sources, dtype=str)))


def packed_frames(session: xr.Dataset, store: Store | None) -> list[int]:
    """Rows of the frames that have to be decoded whole and have no copy yet."""
    rows = []
    copies = _copies(store) if store is not None else set()
    for index, (content, spec) in enumerate(
        zip(session["frame"].values.tolist(), session["source"].values.tolist(), strict=True)
    ):
        copied = store is not None and content in copies and _complete(store, content)
        if not copied and not open_source(spec).windowed:
            rows.append(index)
    return rows


def frame_bytes(session: xr.Dataset, rows: Sequence[int]) -> tuple[float, float]:
    """Bytes the copies take at most, and the peak of making the largest."""
    pixels = (session["height"].values * session["width"].values)[list(rows)].astype(np.float64)
    return 4.0 * float(pixels.sum()), PIXEL_BYTES * float(pixels.max(initial=0.0))


def unpack(
    session: xr.Dataset, rows: Sequence[int], store: Store, scheduler: Scheduler, *, workers: int
) -> Iterator[tuple[int, str]]:
    """Decode frames into the store, `workers` at a time.

    Yields
    ------
    row, problem
        As each is done; a frame that cannot be decoded keeps its file as its source, the nodes that read it say
        why.
    """
    names, specs = session["frame"].values.tolist(), session["source"].values.tolist()
    with disk_errors(f"decoding frames into {store.root}"):
        # Here, not in the tasks: two that make it at once get in each other's way.
        zarr.open_group(store.hierarchy, mode="a", zarr_format=3).require_group(FRAMES)
    waiting = list(rows)[::-1]
    flying: dict[Future[None], int] = {}
    while waiting or flying:
        while waiting and len(flying) < workers:
            row = waiting.pop()
            flying[scheduler.executor.submit(unpack_frame, str(store.root), names[row], specs[row])] = row
        ready, _ = wait(flying, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in ready:
            row, problem = flying.pop(future), future.exception()
            if problem is not None and not isinstance(problem, DataError | OSError):
                raise problem
            yield row, str(problem) if problem is not None else ""


def unpack_frame(root: str, content: str, spec: str) -> None:
    """Decode one frame and write it; integers of 16 bits stay such."""
    source = open_source(spec)
    height, width = source.shape
    pixels = source.read(slice(0, height), slice(0, width))
    with np.errstate(invalid="ignore"):
        counts = pixels.astype(np.uint16)
    with disk_errors(f"decoding a frame into {root}"):
        group = zarr.open_group(zarr_root(root), path=FRAMES, mode="r+", zarr_format=3)
        array = group.create_array(
            content,
            shape=(height, width),
            dtype=np.uint16 if np.array_equal(pixels, counts) else np.float32,
            chunks=(min(CHUNK[0], height), min(CHUNK[1], width)),
            compressors=COMPRESSORS,
            fill_value=0,
            overwrite=True,
        )
        array[...] = counts if array.dtype.kind == "u" else pixels
        # Written last: a copy without it is made again.
        array.attrs["complete"] = True


def _copies(store: Store) -> set[str]:
    """Content ids of the frames that have copies, perhaps unfinished ones."""
    return {folder.name for folder in folders(store.root / FRAMES)}


def _complete(store: Store, content: str) -> bool:
    if not (store.root / FRAMES / content / "zarr.json").exists():
        return False
    try:
        array = zarr.open_array(store.hierarchy, path=f"{FRAMES}/{content}", mode="r", zarr_format=3)
    except (ValueError, KeyError, TypeError):
        return False  # cut short when the power went
    return bool(array.attrs.get("complete"))
