"""Calibrated pixels a second on one core, against reading alone and against ccdproc, in turn on this machine.

    python benchmarks/calibration.py [--runs 5] [--size 4096] [--lights 4]

Raw frames are 16-bit FITS, masters float32 FITS, all in the system's cache. Time is processor time, of one core:
other programs on the machine hardly show. Ratios are taken run by run, their median is printed. ccdproc (`pip
install ccdproc`) is given its masters in memory; once bare, once with a mask of bad and saturated pixels and
uncertainties. skyloom reads its masters in strips, and marks saturated pixels always.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from threadpoolctl import threadpool_limits

from skyloom.ops.calibration.calibrated import CalibratedSource
from skyloom.ops.calibration.cfa import CfaSource
from skyloom.ops.calibration.cosmic_rays import CosmicRays
from skyloom.ops.calibration.layers import Master
from skyloom.ops.formats.examine import examine
from skyloom.ops.frames import forget_decoded, open_source

Job = Callable[[int], object]


def frames(folder: Path, side: int, lights: int) -> dict[str, list[str]]:
    """Specs of frames written to a folder."""
    random = np.random.default_rng(1)
    pattern = random.normal(0.0, 3.0, (side, side)).astype(np.float32)
    flat = random.normal(1.0, 0.03, (side, side)).astype(np.float32)
    sky = random.poisson(1500 * flat).astype(np.float32)
    images = {f"light{i}": (sky + pattern + 500).astype(np.uint16) + np.uint16(i) for i in range(lights)}
    images |= {
        "bias": pattern + 500,
        "dark": pattern + 505,
        "flat": flat,
        "bad": (random.uniform(size=(side, side)) < 1e-3).astype(np.uint8),
    }
    specs: dict[str, list[str]] = {}
    for name, pixels in images.items():
        path = folder / f"{name}.fits"
        fits.PrimaryHDU(pixels).writeto(path)
        specs.setdefault(name.rstrip("0123456789"), []).append(examine(path)[0].source.spec())
    return specs


def sources(specs: dict[str, list[str]], side: int) -> dict[str, list[CalibratedSource]]:
    """Lights calibrated in several ways."""
    bias, dark, flat = (Master(specs[n][0]) for n in ("bias", "dark", "flat"))
    plain = [
        CalibratedSource(
            light, (side, side), bias=bias, dark=dark, flat=flat, saturation=60000.0, gain=1.0, read_noise=3.0
        )
        for light in specs["light"]
    ]
    masked = replace(dark, bad=specs["bad"][0])
    return {
        "dark, flat": plain,
        "dark, flat, map of bad pixels": [replace(s, dark=masked) for s in plain],
        "scaled dark, bias, flat": [replace(s, dark_scale=0.5) for s in plain],
        "with cosmic rays": [replace(s, cosmic_rays=CosmicRays()) for s in plain],
    }


def ccdproc_jobs(folder: Path) -> dict[str, Job]:
    """Steps of ccdproc on the same files; none where it is not installed."""
    try:
        import ccdproc
        from astropy import units
        from astropy.nddata import CCDData
    except ImportError:
        return {}
    bias, dark, flat = (CCDData.read(folder / f"{n}.fits", unit="adu") for n in ("bias", "dark", "flat"))
    current = ccdproc.subtract_bias(dark, bias)
    bad = fits.getdata(folder / "bad.fits") != 0
    seconds = 60 * units.second
    electron = units.electron

    def steps(light: CCDData) -> CCDData:
        light = ccdproc.subtract_bias(light, bias)
        light = ccdproc.subtract_dark(
            light, current, dark_exposure=seconds, data_exposure=seconds, exposure_unit=units.second
        )
        return ccdproc.flat_correct(light, flat, norm_value=1.0)

    def bare(i: int) -> object:
        return steps(CCDData.read(folder / f"light{i}.fits", unit="adu"))

    def masked(i: int) -> object:
        light = CCDData.read(folder / f"light{i}.fits", unit="adu")
        light.mask = (light.data >= 60000) | bad
        light = ccdproc.create_deviation(
            light, gain=1.0 * electron / units.adu, readnoise=3.0 * electron, disregard_nan=True
        )
        light = steps(light)
        light.data[light.mask] = np.nan
        return light

    return {"ccdproc": bare, "ccdproc with mask and uncertainty": masked}


def astroscrappy_job(specs: dict[str, list[str]]) -> Job | None:
    """Another search for cosmic rays on raw pixels; None where it is not installed."""
    try:
        import astroscrappy
    except ImportError:
        return None
    side = 1024

    def job(i: int) -> object:
        pixels = open_source(specs["light"][i]).read(slice(0, side), slice(0, side)) - np.float32(500)
        with threadpool_limits(limits=1):
            return astroscrappy.detect_cosmics(pixels, gain=1.0, readnoise=3.0, sigclip=5.0)

    return job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--lights", type=int, default=4)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    side = options.size
    whole = slice(0, side), slice(0, side)
    with tempfile.TemporaryDirectory(prefix="calibration-") as name:
        folder = Path(name)
        specs = frames(folder, side, options.lights)
        made = sources(specs, side)
        jobs: dict[str, tuple[Job, float]] = {
            "reading": (lambda i: open_source(specs["light"][i]).read(*whole), side**2)
        }
        for title, lights in made.items():
            jobs[f"calibrated: {title}"] = (lambda i, s=lights: open_source(s[i].spec()).read(*whole), side**2)  # type: ignore[misc]
        plain = made["dark, flat"]
        del jobs["calibrated: with cosmic rays"]
        windows = [
            (slice(y, y + 512), slice(x, x + 512)) for y in range(0, side, 512) for x in range(0, side, 512)
        ]
        jobs["calibrated: the same, and its variance"] = (
            lambda i: [(s.read(*whole), s.variance(*whole)) for s in [made["dark, flat, map of bad pixels"][i]]],
            side**2,
        )
        jobs["calibrated: in windows of 512 × 512"] = (
            lambda i: [open_source(plain[i].spec()).read(*w) for w in windows],
            side**2,
        )

        def cold(i: int) -> object:
            forget_decoded()
            return open_source(plain[i].spec()).read(*whole)

        jobs["calibrated: masters read for every light"] = (cold, side**2)
        for method, size in (("superpixel", side // 2), ("interpolate", side)):
            planes = [
                [CfaSource(s.spec(), "RGGB", b, method, (size, size)).spec() for b in "RGB"]  # type: ignore[arg-type]
                for s in plain
            ]
            jobs[f"calibrated, R, G and B by {method}"] = (
                lambda i, p=planes: [open_source(s).read(*whole) for s in p[i]],  # type: ignore[misc]
                side**2,
            )
        rays = made["with cosmic rays"]

        def searched(i: int) -> object:
            forget_decoded()
            return open_source(rays[i].spec()).read(slice(0, 1024), slice(0, 1024))

        jobs["calibrated: with cosmic rays (1024 × 1024)"] = (searched, 1024**2)
        peers = {title: (job, float(side**2)) for title, job in ccdproc_jobs(folder).items()}
        if (scrappy := astroscrappy_job(specs)) is not None:
            peers["astroscrappy (1024 × 1024)"] = (scrappy, float(1024**2))
        jobs |= peers
        rates: dict[str, list[float]] = {title: [] for title in jobs}
        for _ in range(options.runs):
            for title, (job, pixels) in jobs.items():
                job(0)  # uncounted: page cache, compiled kernels, the masters' strips
                count = 1 if title in peers else options.lights
                begin = time.process_time()
                for i in range(count):
                    job(i)
                rates[title].append(count * pixels / 1e6 / (time.process_time() - begin))
    print(f"{side} × {side} pixels, one core, best of {options.runs} runs; ratios run by run, median")
    against = ("reading", *(title for title in peers if title.startswith("ccdproc")))
    print(f"{'':48} {'Mpixel/s':>9} " + " ".join(f"{'× ' + t:>{len(t) + 2}}" for t in against))
    for title, rate in rates.items():
        ratios = (statistics.median([a / b for a, b in zip(rate, rates[t], strict=True)]) for t in against)
        print(
            f"{title:48} {max(rate):9.1f} "
            + " ".join(f"{r:{len(t) + 2}.2f}" for t, r in zip(against, ratios, strict=True))
        )


if __name__ == "__main__":
    main()
