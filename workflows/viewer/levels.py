"""Smaller views of a layer: from its pyramid, or made here, first of a sample and then of all pixels."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import SkyloomError
from skyloom.ops.pyramid import quick_block_mean
from skyloom.workflows.viewer.layer import Layer, StoredLayer
from skyloom.workflows.viewer.parts import Parts

Pixels = NDArray[np.float32]
TILE = 512
"""Side of a tile of the page (pixels)."""
OVERLAP = 1
"""Pixels of its neighbours that a tile has around it: the library of the page would enlarge tiles without any."""
BASE_BYTES = 64 * 2**20
"""Of the smallest view of a layer that is kept whole."""
BASES_BYTES = 128 * 2**20
"""Of those of all layers."""
AT_ONCE = 900
"""Chunks that are read before the first picture is shown."""
CELL = 2048
"""Pixels a side that are made a view of at a time, at least."""
SAMPLE_SIDE = 1024
"""Longest side of the view that tones are measured on."""
_SAMPLE_FACTOR = 64
PARTS_BYTES = 16 * 2**20
"""Of parts that tiles are put together from."""
LARGEST_TILE = 13_000_000
"""Pixels that a tile is made from while somebody waits."""
_QUIET, _PATIENCE = 0.15, 1.0
"""Seconds without a tile asked for before work in the background goes on; it waits no longer than that."""
_COARSE, _FINER = 8, 4
"""A preview of one chunk in _COARSE² or less is followed by one of _FINER² times as many."""
_EMPTY, _PREVIEW, _EXACT = 0, 1, 2


def last_factor(shape: tuple[int, int]) -> int:
    """Factor of the smallest view: one tile holds all of it."""
    factor = 1
    while max(shape) > TILE * factor:
        factor *= 2
    return factor


class Base:
    """All of a layer at a factor at which it fits in memory, made in the background where that takes long."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        height, width = layer.shape
        factor = 4
        while layer.count * (height // factor) * (width // factor) * 4 > BASE_BYTES:
            factor *= 2
        self.factor = factor
        shape = tuple(-(-n // factor) for n in layer.shape)
        self.pixels = np.full((layer.count, *shape), np.nan, np.float32)
        self.side = max(CELL, factor)
        counts = tuple(-(-n // self.side) for n in layer.shape)
        self.state = np.zeros(counts, np.uint8)
        self._stamps: dict[tuple[int, int], tuple[int, ...]] = {}
        self._cell_locks = [threading.Lock() for _ in range(16)]
        chunk = layer.chunk if isinstance(layer, StoredLayer) else CELL
        chunks = layer.count * -(-height // chunk) * -(-width // chunk)
        step = 1
        while chunks > AT_ONCE * step * step:
            step *= 2
        self.step, self.chunk = step, max(chunk, factor)
        self.sampled = step
        """Distance of the chunks that the preview was made of."""
        self.sample: Pixels | None = None
        """Views of some chunks, shape (planes, pixels), where all of them would take too long."""
        self._sampling = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return int(self.pixels.nbytes)

    @property
    def slow(self) -> bool:
        """Whether it is shown from a sample first."""
        return self.step > 1

    @property
    def progress(self) -> float:
        """Fraction of it that is exact."""
        return float((self.state == _EXACT).mean())

    @property
    def stamp(self) -> float:
        """Number that changes when it becomes more exact: its progress, and how fine its preview is."""
        return self.progress + (0.0 if self.step == self.sampled else 1e-3)

    @property
    def finest_direct(self) -> int:
        """Largest factor below the base's at which a tile is made from its pixels; between them it is enlarged."""
        factor = self.factor // 2
        while self.slow and factor > 1 and self.layer.count * (TILE * factor) ** 2 > LARGEST_TILE:
            factor //= 2
        return factor

    def enlarged(self, rows: slice, columns: slice, factor: int) -> Pixels:
        """Window of the layer at a smaller factor than the base's, in the base's pixels."""
        times = self.factor // factor
        inside = [
            slice(s.start // self.factor * self.factor, min(-(-s.stop // self.factor) * self.factor, n))
            for s, n in zip((rows, columns), self.layer.shape, strict=True)
        ]
        out = self.view(inside[0], inside[1], self.factor).repeat(times, axis=1).repeat(times, axis=2)
        y, x = ((s.start - i.start) // factor for s, i in zip((rows, columns), inside, strict=True))
        height, width = (-(-(s.stop - s.start) // factor) for s in (rows, columns))
        return out[:, y : y + height, x : x + width]

    def preview(self) -> None:
        """Fill it from some chunks, if that has not been done."""
        if not self.slow or self.sample is not None:
            return
        with self._sampling:
            if self.sample is None:
                found = list(self._sampled(self.step))
                self.sample = np.concatenate(found, axis=1)
                self.state[self.state == _EMPTY] = _PREVIEW

    def sharpen(self) -> Iterator[None]:
        """Fill it from more chunks, a little at a time, where all of them take long."""
        if self.step < _COARSE or self.sampled < self.step:
            return
        for _ in self._sampled(self.step // _FINER):
            yield
        self.sampled = self.step // _FINER

    def _sampled(self, step: int) -> Iterator[Pixels]:
        """Views of a chunk in step × step, each laid over all that it stands for."""
        height, width = self.layer.shape
        far = step * self.chunk
        # Not the same place of every block: a lattice would see stripes of panels where there are none.
        for j, i in product(range(-(-height // far)), range(-(-width // far))):
            y = j * far + (j * 7 + i * 3) % step * self.chunk
            x = i * far + (i * 5 + j * 11) % step * self.chunk
            y, x = (v if v < n else v // far * far for v, n in zip((y, x), (height, width), strict=True))
            view = self.layer.reduced(
                slice(y, min(y + self.chunk, height)), slice(x, min(x + self.chunk, width)),
                min(_SAMPLE_FACTOR, self.factor),
            )  # fmt: skip
            there = np.isfinite(view)
            with np.errstate(invalid="ignore"):
                mean = np.where(there, view, 0.0).sum(axis=(1, 2)) / there.sum(axis=(1, 2))
            rows = slice(j * far // self.factor, (j + 1) * far // self.factor)
            columns = slice(i * far // self.factor, (i + 1) * far // self.factor)
            self.pixels[:, rows, columns] = mean[:, None, None]
            yield view.reshape(len(view), -1)

    def cells(self, rows: slice, columns: slice) -> Iterator[tuple[int, int]]:
        """Cells that a window of the layer touches."""
        return iter(
            product(
                range(rows.start // self.side, (rows.stop - 1) // self.side + 1),
                range(columns.start // self.side, (columns.stop - 1) // self.side + 1),
            )
        )

    def fill(self, cell: tuple[int, int]) -> None:
        """Make a cell from all of its pixels."""
        with self._cell_locks[hash(cell) % len(self._cell_locks)]:
            if self.state[cell] == _EXACT:
                return
            window = self._window(cell)
            stamp = self._stamp(window)
            # In parts: the window of a cell of a huge canvas is large.
            top, left = (s.start // self.factor for s in window)
            view = self.layer.reduced(*window, self.factor)
            self.pixels[:, top : top + view.shape[1], left : left + view.shape[2]] = view
            self._stamps[cell] = stamp
            self.state[cell] = _EXACT

    def refresh(self) -> None:
        """Take back what has changed in the store since it was made."""
        for cell in list(self._stamps):
            if self._stamp(self._window(cell)) != self._stamps[cell]:
                self.state[cell] = _PREVIEW if self.slow else _EMPTY

    def _window(self, cell: tuple[int, int]) -> tuple[slice, slice]:
        rows, columns = (
            slice(i * self.side, min((i + 1) * self.side, n)) for i, n in zip(cell, self.layer.shape, strict=True)
        )
        return rows, columns

    def _stamp(self, window: tuple[slice, slice]) -> tuple[int, ...]:
        return self.layer.state(*window) if isinstance(self.layer, StoredLayer) else ()

    def view(self, rows: slice, columns: slice, factor: int) -> Pixels:
        """Window of the layer at the base's factor or a larger one."""
        if self.slow:
            self.preview()
        else:
            for cell in self.cells(rows, columns):
                self.fill(cell)
        inside = (
            slice(rows.start // self.factor, -(-rows.stop // self.factor)),
            slice(columns.start // self.factor, -(-columns.stop // self.factor)),
        )
        return np.stack([quick_block_mean(p[inside], factor // self.factor) for p in self.pixels])


class Levels:
    """Views of layers at any factor, within a budget of memory; large ones are refined by a thread of its own."""

    def __init__(self) -> None:
        self._bases: OrderedDict[str, Base] = OrderedDict()
        self._lock = threading.Lock()
        self._work = threading.Condition()
        self._parts = Parts(PARTS_BYTES)
        self._stopped = False
        self._asked = 0.0
        self._thread: threading.Thread | None = None
        self._wanted: list[tuple[Base, tuple[int, int]]] = []

    def view(self, layer: Layer, rows: slice, columns: slice, factor: int) -> Pixels:
        """Means over blocks of a window, shape (planes, rows, columns).

        Parameters
        ----------
        layer
            Whose pixels.
        rows, columns
            In the layer's pixels, from multiples of the factor.
        factor
            A power of two.
        """
        self._asked = time.monotonic()
        if isinstance(layer, StoredLayer) and layer.levels and factor > 1:
            return self._from_pyramid(layer, rows, columns, factor)
        base = self.base(layer)
        if factor <= base.finest_direct:
            if isinstance(layer, StoredLayer):
                return self._parts.means(layer, rows, columns, factor)
            return layer.reduced(rows, columns, factor)
        view = base.view(rows, columns, factor) if factor >= base.factor else base.enlarged(rows, columns, factor)
        self._refine(base, list(base.cells(rows, columns)))
        return view

    def sample(self, layer: Layer) -> Pixels:
        """Pixels that tones are measured on, shape (planes, pixels): a view of all, or of some chunks."""
        factor = 1
        while max(layer.shape) > SAMPLE_SIDE * factor:
            factor *= 2
        if isinstance(layer, StoredLayer) and layer.levels and factor > 1:
            view = self._from_pyramid(layer, slice(0, layer.shape[0]), slice(0, layer.shape[1]), factor)
            return view.reshape(layer.count, -1)
        base = self.base(layer)
        if base.slow and isinstance(layer, StoredLayer) and layer.result.complete:
            base.preview()
            assert base.sample is not None
            return base.sample
        whole = slice(0, layer.shape[0]), slice(0, layer.shape[1])
        return self.view(layer, *whole, factor).reshape(layer.count, -1)

    def _from_pyramid(self, layer: StoredLayer, rows: slice, columns: slice, factor: int) -> Pixels:
        highest = max(f for f in layer.levels if f <= factor)
        window = (
            slice(rows.start // highest, -(-rows.stop // highest)),
            slice(columns.start // highest, -(-columns.stop // highest)),
        )
        planes = self._parts.level(layer, highest, *window)
        return np.stack([quick_block_mean(p, factor // highest) for p in planes])

    def progress(self, layer: Layer) -> float:
        """Fraction of a layer's smaller views that is exact; 1 where nothing is made in the background."""
        if isinstance(layer, StoredLayer) and layer.levels:
            return 1.0
        base = self.base(layer)
        return base.progress if base.slow else 1.0

    def stage(self, layer: Layer) -> str:
        """Text that changes when a layer's smaller views have become much more exact: the page draws them anew."""
        if isinstance(layer, StoredLayer) and layer.levels:
            return ""
        base = self.base(layer)
        return f"{int(base.progress * 8)}{'' if base.sampled == base.step else 'f'}" if base.slow else ""

    def stamp(self, layer: Layer, factor: int) -> float:
        """Number that changes when views at a factor become more exact."""
        if isinstance(layer, StoredLayer) and layer.levels:
            return 1.0
        base = self.base(layer)
        return base.stamp if base.slow and factor > base.finest_direct else 1.0

    def between(self, layer: Layer) -> tuple[int, int]:
        """Factors between which views of a layer are enlarged; the same twice where none is."""
        if isinstance(layer, StoredLayer) and layer.levels:
            return 1, 1
        base = self.base(layer)
        return (base.finest_direct, base.factor) if 2 * base.finest_direct < base.factor else (1, 1)

    def base(self, layer: Layer) -> Base:
        """Small view of a layer that is kept whole."""
        key = f"{layer.name} {layer.revision.partition('-')[0]}"
        with self._lock:
            base = self._bases.get(key)
            if base is None:
                base = self._bases[key] = Base(layer)
            elif base.layer.revision != layer.revision:
                base.layer = layer
                base.refresh()
            self._bases.move_to_end(key)
            while len(self._bases) > 1 and sum(b.nbytes for b in self._bases.values()) > BASES_BYTES:
                self._bases.popitem(last=False)
        return base

    def _refine(self, base: Base, cells: list[tuple[int, int]]) -> None:
        """Have a slow base made exact, the cells looked at first."""
        if not base.slow or (base.state == _EXACT).all():
            return
        with self._work:
            open_cells = [(base, c) for c in cells if base.state[c] != _EXACT]
            rest = [(base, (int(j), int(i))) for j, i in np.argwhere(base.state != _EXACT)]
            self._wanted = list(dict.fromkeys([*open_cells, *rest]))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="viewer-levels", daemon=True)
                self._thread.start()
            self._work.notify()

    def _run(self) -> None:
        while True:
            with self._work:
                while not self._wanted and not self._stopped:
                    self._work.wait()
                if self._stopped:
                    return
                base, cell = self._wanted.pop(0)
            try:
                for _ in base.sharpen():
                    if self._stopped:
                        return
                self._give_way()
                base.fill(cell)
            except SkyloomError:
                # A damaged chunk, or a result that has just been replaced: the preview stays.
                continue

    def _give_way(self) -> None:
        """Let the page have its tiles first; but not for ever."""
        end = time.monotonic() + _PATIENCE
        while not self._stopped and time.monotonic() < min(self._asked + _QUIET, end):
            time.sleep(_QUIET / 4)

    def stop(self) -> None:
        """End the thread."""
        with self._work:
            self._stopped = True
            self._wanted = []
            self._work.notify()
