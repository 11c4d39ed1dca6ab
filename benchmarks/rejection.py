"""Rejection and mean: speed of each method on one core, beside what people use, on the same stacks.

    python benchmarks/rejection.py [--frames 12 24 100] [--samples 12e6] [--runs 3] [--peers]

Stacks are noise with cosmic rays on one sample in two thousand, held in memory; the time is that of `combine`
(reject, average, variance, counts), CPU seconds, the best of the runs. `--peers` adds kappa-sigma of astropy
(`sigma_clip` and a mean), of ccdproc where installed (`Combiner.sigma_clipping`, `average_combine`), and pixel by
pixel in numpy, each on a smaller part of the stack.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.integration.combine import combine
from skyloom.ops.integration.rejection import RULES, Rejection

Stack = NDArray[np.float32]


def made(frames: int, samples: float) -> Stack:
    random = np.random.default_rng(frames)
    side = max(int((samples / frames) ** 0.5), 16)
    stack = random.standard_normal((frames, side, side), dtype=np.float32) + np.float32(1000.0)
    stack[random.random(stack.shape, dtype=np.float32) < 5e-4] += np.float32(200.0)
    return stack


def rate(work: Callable[[], object], samples: int, runs: int) -> float:
    """Mpixel·frames a second."""
    seconds = []
    for _ in range(runs):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return samples / 1e6 / min(seconds)


def one_by_one(stack: Stack) -> NDArray[np.float64]:
    """Kappa-sigma about the median with nothing but numpy, a pixel at a time."""
    out = np.empty(stack.shape[1:])
    for y, x in np.ndindex(*out.shape):
        kept = stack[:, y, x].astype(np.float64)
        while kept.size > 2:
            d, s = kept - np.median(kept), kept.std(ddof=1)
            inside = (d >= -4 * s) & (d <= 3 * s)
            if inside.all():
                break
            kept = kept[inside]
        out[y, x] = kept.mean()
    return out


def by_astropy(stack: Stack) -> object:
    from astropy.stats import sigma_clip

    return sigma_clip(
        stack, sigma_lower=4, sigma_upper=3, cenfunc="median", stdfunc="std", axis=0, copy=False, masked=True
    ).mean(axis=0)


def by_ccdproc(stack: Stack) -> object:
    from astropy.nddata import CCDData
    from ccdproc import Combiner

    combiner = Combiner([CCDData(frame, unit="adu") for frame in stack])
    combiner.sigma_clipping(low_thresh=4, high_thresh=3, func=np.ma.median)
    return combiner.average_combine()


def combined(stack: Stack, method: str, combination: str) -> object:
    n = len(stack)
    return combine(
        stack,
        np.full(stack.shape, 255, np.uint8),
        np.ones(n),
        np.ones(n),
        rejection=Rejection(method),  # type: ignore[arg-type]
        combination=combination,  # type: ignore[arg-type]
    )


def speed(stack: Stack, method: str, combination: str, runs: int) -> float:
    return rate(partial(combined, stack, method, combination), stack.size, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[12, 24, 100])
    parser.add_argument("--samples", type=float, default=12e6)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    stacks = {n: made(n, options.samples) for n in options.frames}
    print("Mpixel·frames/s   " + "".join(f"{n:>9d}" for n in stacks))

    def row(name: str, speeds: list[float]) -> None:
        print(f"{name:18s}" + "".join(f"{s:9.1f}" for s in speeds), flush=True)

    # Compiled code is loaded by the first call.
    combined(made(3, 768), "none", "mean")
    for method in (m for m in RULES if m != "auto"):
        row(method, [speed(stack, method, "mean", options.runs) for stack in stacks.values()])
    row("winsorized median", [speed(stack, "winsorized", "median", options.runs) for stack in stacks.values()])
    if not options.peers:
        return
    peers: dict[str, tuple[Callable[[Stack], object], int]] = {
        "astropy sigma": (by_astropy, 400),
        "numpy by pixel": (one_by_one, 60),
    }
    try:
        import ccdproc  # noqa: F401

        peers["ccdproc sigma"] = (by_ccdproc, 400)
    except ImportError:
        pass
    for name, (work, side) in peers.items():
        parts = [np.ascontiguousarray(s[:, :side, :side]) for s in stacks.values()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row(name, [rate(partial(work, p), p.size, 1) for p in parts])


if __name__ == "__main__":
    main()
