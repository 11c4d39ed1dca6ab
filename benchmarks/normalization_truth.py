"""The modes of `normalize` against a simulated sky: superpixels and star fluxes drawn directly, no pixels.

    python benchmarks/normalization_truth.py [--seeds 3] [--panels 6 4] [--visits 12] [--above PART]
        [--scaling N ...]

Frames of 2048 px, 15 % overlap, dithered, every other turned by 180°. The glow of the sky (1000) varies by 20 % of
itself as a plane and 5 % as a quadratic over a frame, transparency is 0.7–1.05, a third of the frames have thin
clouds across them (planes and quadratics of ln T, rms 4 %); PART (0) of the glow lies above them. A nebula fills
most of the field. A sample is a superpixel of 64 px, pixel noise 14. Units are those of the frames.

seam       rms of frame − mosaic of what is wrong (no noise in it)
bias, scatter   of star fluxes in the mosaic (mean of frames), over the true flux in the mosaic's own convention
constant, quadratic   rms of mosaic − truth after a constant, after a quadratic over the whole mosaic
nebula     slope of mosaic on truth over the sky's long waves, less 1
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.normalization.bands import BandSolution, band_samples, band_scales, solve_band
from skyloom.ops.normalization.gains import below_clouds, follow_gains, gain_maps
from skyloom.ops.normalization.joint import System, conjugate_gradients
from skyloom.ops.normalization.legendre import HIGHEST_ORDER, ORDERS, evaluate, legendre
from skyloom.ops.normalization.local import solve_local
from skyloom.ops.normalization.observations import Samples
from skyloom.ops.normalization.panels import MOST_PANELS, coarse_space
from skyloom.ops.normalization.reference import reference_scales
from skyloom.ops.normalization.sightings import Sightings
from skyloom.ops.normalization.sky import Sampled

Floats = NDArray[np.float64]
SIZE, STEP, OVERLAP = 2048, 64, 0.15
PIXEL_NOISE, GLOW, NEBULA = 14.0, 1000.0, 60.0
STARS = 250
"""A frame sees."""
_AT = surface.sample_positions()
TERMS = ORDERS[HIGHEST_ORDER]
_ONES = np.ones((len(_AT), len(_AT)))


@dataclass
class Drawn:
    """Frames, and the truth."""

    sampled: list[Sampled | None]
    sightings: Sightings
    transparency: Floats
    """(frame, 6): ln T."""
    background: Floats
    """(frame, 6): b."""
    placement: Floats
    columns: int
    waves: Floats
    """(wave, 4): amplitude, kx, ky, phase of the nebula."""
    star_flux: Floats
    above: float = 0.0
    """Part of the glow that lies above the clouds."""
    anchors: int = 0

    @property
    def frames(self) -> int:
        """Frames, anchors not counted."""
        return len(self.transparency)

    def clean(self, f: int) -> Floats:
        """What a frame's superpixels would show without noise."""
        s = self.sampled[f]
        assert s is not None
        u, v = s.samples.u.astype(np.float64), s.samples.v.astype(np.float64)
        t = np.exp(evaluate(self.transparency[f], u, v))
        return self.sky(s.samples.point) * t + evaluate(self.background[f], u, v) * dimmed(t, self.above)

    def sky(self, point: NDArray[np.integer]) -> Floats:
        """Nebula at superpixels."""
        y, x = np.divmod(point.astype(np.int64), self.columns)
        return nebula(self.waves, (x + 0.5) * STEP, (y + 0.5) * STEP)


def dimmed(transparency: Floats, above: float) -> Floats:
    """Factor of clouds on the glow: airglow is above them, the light of towns below."""
    return 1.0 - above + above * transparency


def nebula(waves: Floats, x: Floats, y: Floats) -> Floats:
    """Sum of waves of all lengths: a sky without any empty place."""
    out = np.zeros(np.shape(x))
    for amplitude, kx, ky, phase in waves:
        out += amplitude * np.cos(kx * x + ky * y + phase)
    return out


def draw(nx: int, ny: int, visits: int, *, seed: int, stars: int = STARS, above: float = 0.0) -> Drawn:
    """Draw a mosaic of nx × ny panels."""
    rng = np.random.default_rng(seed)
    pitch = SIZE * (1 - OVERLAP)
    width, height = (int(n * pitch + SIZE) for n in (nx, ny))
    columns = width // STEP + 2
    length = np.geomspace(200.0, 2.0 * max(width, height), 16)
    angle, phase = rng.uniform(0, np.pi, 16), rng.uniform(0, 2 * np.pi, 16)
    amplitude = NEBULA * (length / length[-1]) ** 0.5
    waves = np.stack(
        [amplitude, 2 * np.pi * np.cos(angle) / length, 2 * np.pi * np.sin(angle) / length, phase], -1
    )
    total = int(stars * width * height / SIZE**2)
    sx, sy = rng.uniform(0, width, total), rng.uniform(0, height, total)
    flux = 3e3 * (1 - rng.uniform(0, 1, total)) ** (-1 / 1.2)
    by_x = np.argsort(sx)
    sx, sy, flux = sx[by_x], sy[by_x], flux[by_x]
    frames = nx * ny * visits
    sampled: list[Sampled | None] = []
    parts: list[tuple[NDArray[np.generic], ...]] = []
    ln_t, b, place = np.zeros((frames, 6)), np.zeros((frames, 6)), np.zeros((frames, 2, 3))
    for f in range(frames):
        panel = f // visits
        x0 = 40 + panel % nx * pitch + rng.uniform(-40, 40)
        y0 = 40 + panel // nx * pitch + rng.uniform(-40, 40)
        a = np.array([[SIZE, 0, x0], [0, SIZE, y0]], dtype=np.float64)
        if f % 2:
            a = np.array([[-SIZE, 0, x0 + SIZE], [0, -SIZE, y0 + SIZE]])
        place[f] = a
        ln_t[f, 0] = np.log(rng.uniform(0.7, 1.05))
        if rng.uniform() < 0.33:
            ln_t[f, 1:] = rng.normal(0, 1, 5) * np.array([0.05, 0.05, 0.02, 0.02, 0.02])
        turn, swing = rng.uniform(0, 2 * np.pi), 0.5 * GLOW * rng.uniform(0.15, 0.25)
        b[f] = (
            GLOW + rng.normal(0, 0.05 * GLOW),
            swing * np.cos(turn),
            swing * np.sin(turn),
            *(0.5 * 0.05 * GLOW * rng.normal(0, 1, 3)),
        )
        gx = np.arange(np.ceil(x0 / STEP), (x0 + SIZE) // STEP).astype(np.int64)
        gy = np.arange(np.ceil(y0 / STEP), (y0 + SIZE) // STEP).astype(np.int64)
        py, px = (g.ravel() for g in np.meshgrid(gy, gx, indexing="ij"))
        x, y = (px + 0.5) * STEP, (py + 0.5) * STEP
        u, v = (x - a[0, 2]) / a[0, 0], (y - a[1, 2]) / a[1, 1]
        s = nebula(waves, x, y)
        t = np.exp(evaluate(ln_t[f], u, v))
        value = s * t + evaluate(b[f], u, v) * dimmed(t, above)
        error = PIXEL_NOISE / STEP
        value += rng.normal(0, error, len(u))
        variance = np.full(len(u), error**2, dtype=np.float32)
        u, v = u.astype(np.float32), v.astype(np.float32)
        sampled.append(Sampled(Samples((py * columns + px).astype(np.int32), value, variance, u, v), a, _ONES))
        first, last = np.searchsorted(sx, (x0 + 5, x0 + SIZE - 5))
        near = first + np.flatnonzero((sy[first:last] > y0 + 5) & (sy[first:last] < y0 + SIZE - 5))
        su, sv = (sx[near] - a[0, 2]) / a[0, 0], (sy[near] - a[1, 2]) / a[1, 1]
        noise = PIXEL_NOISE * np.sqrt(80.0)
        seen = flux[near] * np.exp(evaluate(ln_t[f], su, sv) + rng.normal(0, 0.007, len(near)))
        seen += rng.normal(0, noise, len(near))
        good = seen > 10 * noise
        parts.append(
            (
                np.full(int(good.sum()), f, np.int32),
                near[good].astype(np.int32),
                np.log(seen[good]),
                (noise / seen[good]).astype(np.float32),
                su[good].astype(np.float32),
                sv[good].astype(np.float32),
            )
        )
    sightings = Sightings(*(np.concatenate(p) for p in zip(*parts, strict=True)))  # type: ignore[arg-type]
    return Drawn(sampled, sightings, ln_t, b, place, columns, waves, flux, above)


def with_anchor(drawn: Drawn, *, seed: int, noise: float = 1.0) -> Drawn:
    """Add a wide-field image of the whole mosaic: its own units, a level, no gradient, noise a superpixel."""
    rng = np.random.default_rng(seed + 1000)
    every = [s for s in drawn.sampled if s is not None]
    point = np.unique(np.concatenate([s.samples.point for s in every]))
    y, x = np.divmod(point.astype(np.int64), drawn.columns)
    side = np.array([x.max() + 1.0, y.max() + 1.0]) * STEP
    a = np.array([[side[0], 0, 0], [0, side[1], 0]])
    u, v = (x + 0.5) * STEP / side[0], (y + 0.5) * STEP / side[1]
    unit = 0.013
    value = unit * (drawn.sky(point) + 700.0 + rng.normal(0, noise, len(point)))
    variance = np.full(len(point), (unit * noise) ** 2, dtype=np.float32)
    samples = Samples(point, value, variance, u.astype(np.float32), v.astype(np.float32))
    bright = np.flatnonzero(drawn.star_flux > 3e4)
    seen = np.log(unit * drawn.star_flux[bright]) + rng.normal(0, 0.02, len(bright))
    half, old = np.full(len(bright), 0.5, np.float32), drawn.sightings
    added = Sightings(
        np.concatenate([old.frame, np.full(len(bright), drawn.frames, np.int32)]),
        np.concatenate([old.star, bright.astype(np.int32)]),
        np.concatenate([old.log_flux, seen]),
        np.concatenate([old.log_error, np.full(len(bright), 0.02, np.float32)]),
        np.concatenate([old.u, half]),
        np.concatenate([old.v, half]),
    )
    return replace(drawn, sampled=[*drawn.sampled, Sampled(samples, a, _ONES)], sightings=added, anchors=1)


@dataclass(frozen=True)
class Quality:
    """How far a solution is from the truth."""

    seam: float
    bias: float
    scatter: float
    constant: float
    quadratic: float
    nebula: float


def judge(drawn: Drawn, scale: Floats, offset: Floats) -> Quality:
    """Compare records (frame, node_y, node_x) with the truth."""
    frames = drawn.frames
    node = [_on_grid(drawn.transparency[f]) for f in range(frames)]
    # The convention is the solution's own: mean over frames of the mean of ln (a T).
    gauge = np.exp(np.mean([np.mean(np.log(_values(scale[f])) + node[f]) for f in range(frames)]))
    points, wrong, product = [], [], []
    for f in range(frames):
        s = drawn.sampled[f]
        assert s is not None
        u, v = s.samples.u.astype(np.float64), s.samples.v.astype(np.float64)
        truth, d = drawn.sky(s.samples.point), drawn.clean(f)
        points.append(s.samples.point)
        wrong.append(surface.evaluate(scale[f], u, v) * (d - surface.evaluate(offset[f], u, v)) - gauge * truth)
    point, rest = np.concatenate(points), np.concatenate(wrong)
    count = np.bincount(point)
    mean = np.bincount(point, weights=rest) / np.maximum(count, 1)
    seen = np.flatnonzero(count)
    y, x = np.divmod(seen, drawn.columns)
    px, py = 2 * x / x.max() - 1.0, 2 * y / y.max() - 1.0
    after = []
    for degree in (0, 2):
        terms = legendre(px, py, degree)
        left = mean[seen] - terms @ np.linalg.lstsq(terms, mean[seen], rcond=None)[0]
        after.append(float(np.sqrt(np.mean(left**2))))
    truth = drawn.sky(seen)
    slope = float(np.sum((truth - truth.mean()) * mean[seen]) / np.sum((truth - truth.mean()) ** 2)) / gauge
    sights = drawn.sightings.frame < frames
    frame, star = drawn.sightings.frame[sights], drawn.sightings.star[sights]
    product = np.empty(len(frame))
    for f in range(frames):
        mine = frame == f
        u, v = (getattr(drawn.sightings, n)[sights][mine].astype(np.float64) for n in ("u", "v"))
        product[mine] = surface.evaluate(scale[f], u, v) * np.exp(evaluate(drawn.transparency[f], u, v))
    stars = np.bincount(star)
    ratio = (np.bincount(star, weights=product) / np.maximum(stars, 1))[stars > 0] / gauge
    return Quality(
        float(np.sqrt(np.mean((rest - mean[point]) ** 2))),
        float(np.median(ratio) - 1),
        float(np.std(ratio)),
        *after,
        slope,
    )


def _on_grid(coefficients: Floats) -> Floats:
    v, u = np.meshgrid(_AT, _AT, indexing="ij")
    return evaluate(coefficients, u, v)


def _values(record: Floats) -> Floats:
    v, u = np.meshgrid(_AT, _AT, indexing="ij")
    return surface.evaluate(record, u, v)


def solve_joint(drawn: Drawn, degree: int | None) -> BandSolution:
    """Mode `joint` (degree None: chosen) or `constants` (0)."""
    members = np.arange(len(drawn.sampled))
    exposure, units = np.full(len(members), 60.0), np.full(len(members), "adu")
    scales = band_scales(drawn.sightings, members, drawn.sampled, exposure, units, anchors=drawn.anchors)
    return solve_band(scales, band_samples(scales, members, drawn.sampled), clip=5.0, degree=degree)


def solve_reference(drawn: Drawn, *, local: bool, whole: bool, best: int = 4) -> BandSolution:
    """Mode `reference` (local) or `linear`."""
    members = np.arange(len(drawn.sampled))
    exposure, units = np.full(len(members), 60.0), np.full(len(members), "adu")
    scales = band_scales(
        drawn.sightings, members, drawn.sampled, exposure, units, anchors=drawn.anchors, even=True
    )
    scales = reference_scales(
        scales, band_samples(scales, members, drawn.sampled), drawn.sightings, whole=whole, best=best
    )
    samples = band_samples(scales, members, drawn.sampled)
    return solve_local(scales, samples, local=local, whole=whole, best=best, clip=5.0)


def best_linear(drawn: Drawn, *, from_stars: bool) -> tuple[Floats, Floats]:
    """Records of the best linear estimate: true noise and spread of the surfaces, no robust weights.

    Scales are the true ones, or those which mode `joint` has from the stars.
    """
    members = np.arange(drawn.frames)
    sampled = drawn.sampled[: drawn.frames]
    sights = drawn.sightings
    if not from_stars:
        sights = replace(sights, **{n: getattr(sights, n)[:0] for n in sights.__dataclass_fields__})
    scales = band_scales(
        sights, members, sampled, np.full(drawn.frames, 60.0), np.full(drawn.frames, "adu"),
    )  # fmt: skip
    if not from_stars:
        field = -drawn.transparency
        field[:, 0] -= field[:, 0].mean()
        scales = replace(scales, field=field, scale=np.exp(field[:, 0]))
    field = scales.field
    samples = band_samples(scales, members, sampled)
    seen, value, level = samples.observations, samples.value, 0.0
    gain = np.ones((drawn.frames, len(_AT), len(_AT)))
    if len(seen.gain):
        level, gain = samples.level, gain_maps(field, 1.0 - drawn.above)
        seen, value = below_clouds(seen, value, part=1.0 - drawn.above, level=level)
    u, v = np.meshgrid(_AT, _AT)
    design = legendre(2 * u.ravel() - 1, 2 * v.ravel() - 1, HIGHEST_ORDER)
    true = np.array([
        np.linalg.lstsq(design, (_glow_of(drawn, f, field[f]) / gain[f] - level).ravel(), rcond=None)[0]
        for f in range(drawn.frames)
    ])  # fmt: skip
    true[:, 0] -= true[:, 0].mean()
    sigma = np.array([np.sqrt(np.mean(true[:, order == TERMS] ** 2)) for order in range(HIGHEST_ORDER + 1)])
    # What is truly none needs no room: with infinite precision nothing could be solved for.
    prior = np.tile(np.maximum(sigma[TERMS], 1e-6 * sigma.max()) ** -2.0, (drawn.frames, 1))
    system = System(seen, samples.precision, prior)
    right = system.project(value)
    coarse = follow_gains(coarse_space(samples.placement, HIGHEST_ORDER, most=MOST_PANELS), seen)
    x, _ = conjugate_gradients(system.apply, right, np.zeros_like(right), system.preconditioner(coarse))
    x[:, 0] -= x[:, 0].mean()
    background = gain * (level + np.array([_on_grid(c) for c in x])) - level
    scale = np.array([surface.fit(np.exp(_on_grid(c))) for c in field])
    offset = np.array([
        surface.fit(c / np.exp(_on_grid(a))) for c, a in zip(background, field, strict=True)
    ])  # fmt: skip
    return scale, offset


def _glow_of(drawn: Drawn, frame: int, field: Floats) -> Floats:
    """Glow of a frame in common units, on the grid of the records."""
    clear = dimmed(np.exp(_on_grid(drawn.transparency[frame])), drawn.above)
    return np.asarray(np.exp(_on_grid(field)) * _on_grid(drawn.background[frame]) * clear)


def untouched(drawn: Drawn) -> tuple[Floats, Floats]:
    """Mode `none`."""
    nodes = surface.NODES + 2
    return np.ones((drawn.frames, nodes, nodes)), np.zeros((drawn.frames, nodes, nodes))


def compare(panels: tuple[int, int], visits: int, seeds: int, above: float) -> None:
    """Print a table a seed."""
    print(
        f"{'mode':24}{'seam':>8}{'bias %':>8}{'scatter %':>10}{'constant':>10}{'quadratic':>10}"
        f"{'nebula %':>9}{'s':>7}"
    )
    for seed in range(seeds):
        drawn = draw(*panels, visits, seed=seed, above=above)
        anchored = with_anchor(drawn, seed=seed)
        print(f"seed {seed}: {drawn.frames} frames, {sum(len(s.samples) for s in drawn.sampled if s)} samples")
        for name, mode in MODES.items():
            begun = time.perf_counter()
            scale, offset, note = mode(anchored if "anchor" in name else drawn)
            took = time.perf_counter() - begun
            q = judge(drawn, scale[: drawn.frames], offset[: drawn.frames])
            print(
                f"{name:24}{q.seam:8.2f}{100 * q.bias:8.2f}{100 * q.scatter:10.2f}{q.constant:10.2f}"
                f"{q.quadratic:10.2f}{100 * q.nebula:9.2f}{took:7.1f}  {note}",
                flush=True,
            )


def _joint(degree: int | None) -> Callable[[Drawn], tuple[Floats, Floats, str]]:
    def run(drawn: Drawn) -> tuple[Floats, Floats, str]:
        solved = solve_joint(drawn, degree)
        s = solved.surfaces
        waves = float(np.sqrt(np.sum(s.modes.sigma[1:] ** 2)))
        note = (
            f"degree {s.order}, {s.below:.2f} below clouds, residual {np.nanmedian(s.residual_before):.1f} → "
            f"{np.nanmedian(s.residual_after):.2f} (held out {np.nanmedian(s.residual_held):.2f}), "
            f"long waves ± {waves:.1f}"
        )
        return solved.scale, solved.offset, note

    return run


def _local(*, local: bool, whole: bool) -> Callable[[Drawn], tuple[Floats, Floats, str]]:
    def run(drawn: Drawn) -> tuple[Floats, Floats, str]:
        solved = solve_reference(drawn, local=local, whole=whole)
        s = solved.surfaces
        note = f"residual {np.nanmedian(s.residual_before):.1f} → {np.nanmedian(s.residual_after):.2f}"
        return solved.scale, solved.offset, note

    return run


def _plain(records: Callable[[Drawn], tuple[Floats, Floats]]) -> Callable[[Drawn], tuple[Floats, Floats, str]]:
    return lambda drawn: (*records(drawn), "")


MODES: dict[str, Callable[[Drawn], tuple[Floats, Floats, str]]] = {
    "none": _plain(untouched),
    "linear": _local(local=False, whole=True),
    "reference, panels": _local(local=True, whole=False),
    "reference, canvas": _local(local=True, whole=True),
    "constants": _joint(0),
    "joint": _joint(None),
    "joint, degree 4": _joint(4),
    "best linear": _plain(partial(best_linear, from_stars=True)),
    "same, true scales": _plain(partial(best_linear, from_stars=False)),
    "joint + anchor": _joint(None),
}


def scaling(counts: Sequence[int]) -> None:
    """Time and peak memory of scales and backgrounds for mosaics of 24 frames a panel."""
    for count in counts:
        side = max(1, round(np.sqrt(count / 24)))
        drawn = draw(side, max(1, round(count / 24 / side)), 24, seed=0, stars=60)
        drawing = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        begun = time.perf_counter()
        solved = solve_joint(drawn, None)
        took = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        q = judge(drawn, solved.scale, solved.offset)
        print(
            f"{drawn.frames:6} frames: {took:7.1f} s, {peak:.2f} GiB peak ({drawing:.2f} before), degree "
            f"{solved.surfaces.order}, {solved.surfaces.iterations} steps, seam {q.seam:.2f}, after constant "
            f"{q.constant:.1f}, after quadratic {q.quadratic:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", type=int, nargs=2, default=(6, 4))
    parser.add_argument("--visits", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scaling", type=int, nargs="*", help="numbers of frames: time and memory instead")
    parser.add_argument("--above", type=float, default=0.0, help="part of the glow above the clouds, 0…1")
    options = parser.parse_args()
    if options.scaling:
        scaling(options.scaling)
    else:
        compare(tuple(options.panels), options.visits, options.seeds, options.above)


if __name__ == "__main__":
    main()
