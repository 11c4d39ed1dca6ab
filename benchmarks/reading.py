"""What reading a frame costs in each format: a window of 1024 × 1024 pixels and the whole frame, by plain FITS.

    python benchmarks/reading.py [--size 4096] [--window 1024] [--repeat 5] [--keep FOLDER]

One thread, files in the page cache. The window is in the middle; each is read by a source that has decoded nothing
before. Pixels come as float32. MB/s are of the stored numbers (2 bytes a pixel of a 16-bit image), decompressed.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skyloom.ops.formats.examine import examine
from skyloom.ops.frames import FrameSource, forget_decoded


class Case(NamedTuple):
    label: str
    name: str
    write: Callable[[Path], None]
    item: int
    """Bytes of a stored number."""


def cases(size: int) -> list[Case]:
    random = np.random.default_rng(1)
    counts = random.normal(1000.0, 20.0, (size, size)).astype(np.uint16)
    floats = random.normal(1000.0, 20.0, (size, size)).astype(np.float32)

    def packed(data: NDArray[Any], method: str, **options: Any) -> Callable[[Path], None]:
        unit = fits.CompImageHDU(data, compression_type=method, **options)
        return lambda path: unit.writeto(path, checksum=True)

    def gzipped(path: Path) -> None:
        plain = path.with_suffix(".plain")
        fits.PrimaryHDU(counts).writeto(plain)
        with plain.open("rb") as source, gzip.open(path, "wb", 1) as target:
            shutil.copyfileobj(source, target)
        plain.unlink()

    def xisf(codec: str | None, shuffle: bool = False) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            from xisf import XISF

            XISF.write(str(path), counts[..., None], codec=codec, shuffle=shuffle)

        return write

    def tiff(path: Path) -> None:
        import tifffile

        tifffile.imwrite(path, counts)

    dithered = {"quantize_level": 16.0, "quantize_method": 1, "dither_seed": 1}
    signed = counts.astype(np.int16)
    return [
        Case("FITS 16-bit, BZERO", "u2.fits", fits.PrimaryHDU(counts).writeto, 2),
        Case("FITS float32", "f4.fits", fits.PrimaryHDU(floats).writeto, 4),
        Case("Rice, rows", "rice.fits.fz", packed(counts, "RICE_1"), 2),
        Case("Rice, 256² tiles", "rice256.fits.fz", packed(counts, "RICE_1", tile_shape=(256, 256)), 2),
        Case("Rice, floats dithered", "quantized.fits.fz", packed(floats, "RICE_1", **dithered), 4),
        Case("gzip tiles, rows", "gzip1.fits.fz", packed(counts, "GZIP_1"), 2),
        Case("gzip shuffled, rows", "gzip2.fits.fz", packed(counts, "GZIP_2"), 2),
        Case("HCOMPRESS, 16 rows", "hcompress.fits.fz", packed(signed, "HCOMPRESS_1"), 2),
        Case("FITS, gzip", "gz.fits.gz", gzipped, 2),
        Case("XISF", "plain.xisf", xisf(None), 2),
        Case("XISF, lz4 shuffled", "lz4.xisf", xisf("lz4", True), 2),
        Case("XISF, zstd shuffled", "zstd.xisf", xisf("zstd", True), 2),
        Case("TIFF", "plain.tif", tiff, 2),
    ]


def seconds(source: FrameSource, window: slice, repeat: int) -> float:
    """Shortest time of a read by a process that has decoded nothing."""
    times = []
    for _ in range(repeat + 1):
        forget_decoded()
        begin = time.perf_counter()
        source.read(window, window)
        times.append(time.perf_counter() - begin)
    # The first compiles kernels, or adds up the data to compare them with their sum.
    return min(times[1:])


def by_astropy(path: Path, window: slice, repeat: int) -> float:
    """The same window by astropy's `section`; of a gzip file, which it would unpack for every row, by its data."""
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        with fits.open(path, memmap=False) as units:
            unit = units[1] if len(units) > 1 else units[0]
            pixels = unit.data if path.suffix == ".gz" else unit.section
            np.asarray(pixels[window, window], dtype=np.float32)
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = options.keep or Path(tempfile.mkdtemp(prefix="reading-"))
    folder.mkdir(parents=True, exist_ok=True)
    size, side = options.size, options.window
    window, whole = slice((size - side) // 2, (size + side) // 2), slice(0, size)
    print(f"frame {size} × {size}, window {side} × {side}\n")
    print(
        f"{'':22}{'file':>7}  {'window':>8}{'Mpx/s':>8}{'MB/s':>8}{'/plain':>8}  {'astropy':>8}"
        f"  {'whole':>8}{'Mpx/s':>8}{'MB/s':>8}{'/plain':>8}"
    )
    plain: tuple[float, float] | None = None
    for case in cases(size):
        path = folder / case.name
        try:
            if not path.exists():
                case.write(path)
            source = examine(path)[0].source
        except ImportError as missing:
            print(f"{case.label:22}  ({missing})")
            continue
        part, full = seconds(source, window, options.repeat), seconds(source, whole, options.repeat)
        if plain is None:
            plain = (part, full)
        peer = f"{1e3 * by_astropy(path, window, options.repeat):6.1f}ms" if ".fits" in case.name else ""
        print(
            f"{case.label:22}{path.stat().st_size / 2**20:4.0f}MiB  "
            + _columns(part, side**2, case.item, plain[0])
            + f"  {peer:>8}  "
            + _columns(full, size**2, case.item, plain[1])
            + ("" if source.windowed else "  decoded whole, once, into the store"),
            flush=True,
        )
    if not options.keep:
        shutil.rmtree(folder)


def _columns(duration: float, pixels: int, item: int, plain: float) -> str:
    rate = pixels / duration / 1e6
    return f"{1e3 * duration:6.1f}ms{rate:8.0f}{rate * item:8.0f}{duration / plain:8.1f}"


if __name__ == "__main__":
    main()
