"""Joint surfaces: the linear algebra against naive twins, the solution against drawn truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.polynomial import legendre as numpy_legendre
from numpy.typing import NDArray

from skyloom.ops import background, joint
from skyloom.ops.background import Surfaces, coarse_space, evaluate, legendre, panels, solve_surfaces
from skyloom.ops.errors import DataError
from skyloom.ops.joint import Observations, System

Floats = NDArray[np.float64]


@dataclass
class Drawn:
    frame: NDArray[np.int64]
    point: NDArray[np.int64]
    value: Floats
    u: Floats
    v: Floats
    placement: Floats
    truth: Floats
    columns: int
    noise: float

    def solve(self, **options: Any) -> Surfaces:
        variance = np.full(len(self.value), self.noise**2)
        options = {"placement": self.placement, **options}
        return solve_surfaces(
            self.frame, self.point, self.value, variance, self.u, self.v, frames=len(self.truth), **options
        )

    def errors(self, solved: Surfaces, order: int, *, ignore: tuple[int, ...] = ()) -> tuple[float, Floats]:
        """Seam rms; rms of the mosaic's background after a constant, a plane, a quadratic."""
        keep = ~np.isin(self.frame, ignore)
        frame, point = self.frame[keep], self.point[keep]
        s, t = 2 * self.u[keep] - 1, 2 * self.v[keep] - 1
        wrong = np.einsum("ik,ik->i", legendre(s, t, 2), self.truth[frame])
        wrong -= np.einsum("ik,ik->i", legendre(s, t, order), solved.coefficients[frame])
        count = np.bincount(point)
        mean = np.bincount(point, weights=wrong) / np.maximum(count, 1)
        seen = np.flatnonzero(count)
        y, x = np.divmod(seen, self.columns)
        x, y = 2 * x / x.max() - 1.0, 2 * y / y.max() - 1.0
        out = []
        for degree in (0, 1, 2):
            terms = legendre(x, y, degree)
            rest = mean[seen] - terms @ np.linalg.lstsq(terms, mean[seen], rcond=None)[0]
            out.append(np.sqrt(np.mean(rest**2)))
        return float(np.std(wrong - mean[point])), np.array(out)


def draw(
    nx: int = 3,
    ny: int = 3,
    visits: int = 4,
    *,
    noise: float = 0.25,
    gap: int = 0,
    seed: int = 0,
    turn: bool = True,
) -> Drawn:
    """Superpixels of 64 px from frames of 2048 px, 15 % overlap, dithers, half turns, a wavy sky."""
    rng = np.random.default_rng(seed)
    size, step = 2048, 64
    pitch = size * 0.85
    columns = int((nx * pitch + size + 200 + gap) // step)
    amplitude = rng.normal(0, 30, 8)
    length, angle = np.geomspace(150, 5000, 8), rng.uniform(0, np.pi, 8)
    parts: list[list[Floats]] = [[], [], [], [], []]
    placement: list[Floats] = []
    truth: list[Floats] = []
    for j in range(ny):
        for i in range(nx):
            for k in range(visits):
                x0 = 60 + i * pitch + rng.uniform(-50, 50) + (gap if i == nx - 1 else 0)
                y0 = 60 + j * pitch + rng.uniform(-50, 50)
                a = np.array([[size, 0, x0], [0, size, y0]], dtype=np.float64)
                if turn and k % 2:
                    a = np.array([[-size, 0, x0 + size], [0, -size, y0 + size]])
                gx, gy = (
                    g.ravel()
                    for g in np.meshgrid(
                        np.arange(np.ceil(x0 / step), (x0 + size) // step),
                        np.arange(np.ceil(y0 / step), (y0 + size) // step),
                    )
                )
                x, y = (gx + 0.5) * step, (gy + 0.5) * step
                u, v = (x - a[0, 2]) / a[0, 0], (y - a[1, 2]) / a[1, 1]
                direction = rng.uniform(0, 2 * np.pi)
                swing = rng.uniform(100, 125)
                c = np.array(
                    [
                        rng.normal(0, 80),
                        swing * np.cos(direction),
                        swing * np.sin(direction),
                        *rng.normal(0, 25, 3),
                    ]
                )
                sky = 1000 + sum(
                    p * np.cos(2 * np.pi * (x * np.cos(q) + y * np.sin(q)) / w)
                    for p, w, q in zip(amplitude, length, angle, strict=True)
                )
                value = sky + evaluate(c, u, v) + rng.normal(0, noise, len(u))
                for part, new in zip(
                    parts, (np.full(len(u), float(len(truth))), gy * columns + gx, value, u, v), strict=True
                ):
                    part.append(new)
                placement.append(a)
                truth.append(c)
    frame, point, value, u, v = (np.concatenate(p) for p in parts)
    return Drawn(
        frame.astype(np.int64),
        point.astype(np.int64),
        value,
        u,
        v,
        np.array(placement),
        np.array(truth),
        columns,
        noise,
    )


@pytest.fixture(scope="module")
def mosaic() -> Drawn:
    return draw()


@pytest.fixture
def small() -> tuple[System, Floats]:
    """A random system with unequal weights, some of them 0, and its samples."""
    rng = np.random.default_rng(3)
    frame = np.repeat(np.arange(5), 30)
    point = np.concatenate([rng.permutation(600)[:30] for _ in range(5)]) % 60
    index, renumbered, points = joint.compress(frame, point, np.ones(150, dtype=bool))
    basis = rng.normal(size=(len(index), 3))
    seen = Observations(frame[index].astype(np.int32), renumbered, basis, 5, points)
    weight = rng.uniform(0.2, 3, len(index)) * (rng.uniform(size=len(index)) > 0.1)
    return System(seen, weight, rng.uniform(0.1, 1, (5, 3))), rng.normal(size=len(index))


def naive(system: System, value: Floats) -> Floats:
    """Every sky point an unknown, the prior as rows, one dense least squares."""
    o = system.observations
    terms = o.basis.shape[1]
    unknowns = o.frames * terms
    design = np.zeros((len(value) + unknowns, unknowns + o.points))
    for i in range(len(value)):
        root = np.sqrt(system.weight[i])
        design[i, o.frame[i] * terms : (o.frame[i] + 1) * terms] = root * o.basis[i]
        design[i, unknowns + o.point[i]] = root
    design[len(value) :, :unknowns] = np.diag(np.sqrt(system.prior.ravel()))
    right = np.concatenate([np.sqrt(system.weight) * value, np.zeros(unknowns)])
    return np.asarray(np.linalg.lstsq(design, right, rcond=None)[0][:unknowns].reshape(o.frames, terms))


def test_compress_keeps_shared_points_only() -> None:
    frame = np.array([1, 0, 2, 1, 0])
    point = np.array([7, 7, 9, 3, 3])
    usable = np.array([True, True, True, True, False])
    index, renumbered, points = joint.compress(frame, point, usable)
    assert index.tolist() == [1, 0]
    assert renumbered.tolist() == [0, 0]
    assert points == 1


def test_dense_and_operator_and_naive_agree(small: tuple[System, Floats]) -> None:
    system, value = small
    truth = naive(system, value)
    right = system.project(value)
    dense = np.linalg.solve(system.dense(), right.ravel()).reshape(5, 3)
    assert np.allclose(dense, truth, rtol=1e-9, atol=1e-12)
    assert np.allclose(system.apply(truth), right, rtol=1e-9, atol=1e-12)
    iterated, count = joint.conjugate_gradients(
        system.apply, right, np.zeros((5, 3)), system.preconditioner(), tolerance=1e-13
    )
    assert np.allclose(iterated, truth, rtol=1e-9, atol=1e-12)
    assert count <= 20


def test_normal_matrix_of_groups_is_the_projected_one(small: tuple[System, Floats]) -> None:
    """Groups that see a point several times: ZᵀAZ."""
    system, _ = small
    o = system.observations
    label = np.array([0, 1, 0, 1, 1])
    full = joint.normal_matrix(o.frame, o.point, o.basis, system.weight, 5, system.inverse_depth)
    z = np.kron(np.eye(2)[label], np.eye(3))
    grouped = joint.normal_matrix(label[o.frame], o.point, o.basis, system.weight, 2, system.inverse_depth)
    assert np.allclose(grouped, z.T @ full @ z, atol=1e-10)


def test_conjugate_gradients_say_when_they_fail() -> None:
    matrix = np.diag(np.geomspace(1, 1e8, 60))
    with pytest.raises(DataError, match="after 5 iterations"):
        joint.conjugate_gradients(
            lambda x: matrix @ x, np.ones(60), np.zeros(60), lambda r: r, tolerance=1e-12, limit=5
        )


def test_legendre_terms() -> None:
    s, t = np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 5))
    table = np.zeros((3, 3))
    table[0, 0], table[1, 0], table[0, 1], table[2, 0], table[1, 1], table[0, 2] = 1, 2, 3, 4, 5, 6
    expected = numpy_legendre.legval2d(s, t, table)
    assert np.allclose(legendre(s, t, 2) @ np.arange(1.0, 7.0), expected)
    assert legendre(s, t, 1).shape == (5, 7, 3)


def test_joint_surfaces_beat_constants_on_long_waves(mosaic: Drawn) -> None:
    constants = mosaic.errors(mosaic.solve(order=0), 0)
    solved = mosaic.solve(order=2)
    seam, error = mosaic.errors(solved, 2)
    assert seam < 0.3 * mosaic.noise
    assert error[2] < constants[1][2] / 10
    assert np.all(error <= constants[1])
    assert np.nanmedian(solved.residual_after) < 1.5 * mosaic.noise
    assert np.nanmedian(solved.residual_before) > 50
    assert abs(solved.noise_scale - 1) < 0.15


def test_the_spread_of_each_order_is_measured(mosaic: Drawn) -> None:
    solved = mosaic.solve(order=2)
    truth = mosaic.truth
    expected = [np.std(truth[:, 0]), np.sqrt(np.mean(truth[:, 1:3] ** 2)), np.sqrt(np.mean(truth[:, 3:] ** 2))]
    assert np.allclose(solved.prior_sigma, expected, rtol=0.25)


def test_a_prior_of_next_to_nothing_would_be_worse(mosaic: Drawn) -> None:
    """The lesson of the prototype, so that nobody 'simplifies' the measured prior away."""
    index, point, points = joint.compress(mosaic.frame, mosaic.point, np.ones(len(mosaic.value), dtype=bool))
    basis = legendre(2 * mosaic.u[index] - 1, 2 * mosaic.v[index] - 1, 2)
    seen = Observations(mosaic.frame[index].astype(np.int32), point, basis, len(mosaic.truth), points)
    system = System(seen, np.full(len(index), mosaic.noise**-2), np.full((seen.frames, 6), 1e-10))
    right = system.project(mosaic.value[index] - 1000).ravel()
    x = np.asarray(np.linalg.solve(system.dense(), right).reshape(-1, 6), dtype=np.float64)
    solved = mosaic.solve(order=2)
    weak = Surfaces(x, *(getattr(solved, n) for n in list(Surfaces.__dataclass_fields__)[1:]))
    assert mosaic.errors(weak, 2)[1][0] > 1.5 * mosaic.errors(solved, 2)[1][0]


def test_iterated_equals_factored() -> None:
    drawn = draw(3, 2, 4)
    index, point, points = joint.compress(drawn.frame, drawn.point, np.ones(len(drawn.value), dtype=bool))
    basis = legendre(2 * drawn.u[index] - 1, 2 * drawn.v[index] - 1, 2)
    seen = Observations(drawn.frame[index].astype(np.int32), point, basis, 24, points)
    prior = np.tile(np.array([80, 80, 80, 25, 25, 25]) ** -2.0, (24, 1))
    system = System(seen, np.full(len(index), drawn.noise**-2), prior)
    right = system.project(drawn.value[index])
    dense = np.linalg.solve(system.dense(), right.ravel()).reshape(24, 6)
    coarse = coarse_space(drawn.placement, 2, most=100)
    both, few = joint.conjugate_gradients(system.apply, right, 0 * right, system.preconditioner(coarse))
    alone, many = joint.conjugate_gradients(system.apply, right, 0 * right, system.preconditioner())
    assert np.allclose(both, dense, atol=1e-5)
    # Even at 1e-10 long waves lag behind without the coarse space.
    assert np.allclose(alone, dense, atol=0.5)
    assert few < 30 < many


def test_large_mosaics_are_iterated(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both measure their prior on the same 120 of the 128 frames.
    monkeypatch.setattr(background, "PRIOR_UNKNOWNS", 360)
    drawn = draw(4, 2, 16)
    dense = drawn.solve(order=1, dense_limit=10_000)
    sparse = drawn.solve(order=1, dense_limit=60)
    assert dense.iterations == 0
    assert 0 < sparse.iterations < 60
    # Rounds that only look for outliers are solved loosely: weights differ in the fourth digit.
    assert np.allclose(sparse.coefficients, dense.coefficients, atol=0.1)


def test_coarse_space_holds_the_modes_that_overlaps_hardly_see() -> None:
    drawn = draw(2, 1, 6)
    coarse = coarse_space(drawn.placement, 2, most=100)
    assert int(coarse.panel.max()) + 1 == 2
    assert np.array_equal(coarse.panel, np.repeat([0, 1], 6))
    index, point, points = joint.compress(drawn.frame, drawn.point, np.ones(len(drawn.value), dtype=bool))
    basis = legendre(2 * drawn.u[index] - 1, 2 * drawn.v[index] - 1, 2)
    seen = Observations(drawn.frame[index].astype(np.int32), point, basis, 12, points)
    system = System(seen, np.ones(len(index)), np.full((12, 6), 1e-12))
    # One sky-fixed quadratic over panel 0 alone costs something only where panel 1 sees it too.
    for term in range(6):
        x = coarse.transform[:, :, term] * (coarse.panel == 0)[:, None]
        inside = system.residual(system.surfaces(x), np.zeros_like(x))
        lonely = np.bincount(seen.point, weights=coarse.panel[seen.frame] == 1) == 0
        assert np.abs(inside[lonely[seen.point]]).max() < 1e-9


def test_panels_grow_until_few_enough() -> None:
    drawn = draw(3, 3, 2)
    assert int(panels(drawn.placement, most=9).max()) + 1 == 9
    assert int(panels(drawn.placement, most=2).max()) + 1 <= 2


def test_outliers_and_a_cloudy_frame_do_no_harm() -> None:
    clean = draw(seed=2)
    reference = clean.errors(clean.solve(), 2, ignore=(13,))
    rng = np.random.default_rng(5)
    wrong = rng.uniform(size=len(clean.value)) < 0.02
    clean.value[wrong] += rng.normal(0, 500, wrong.sum())
    cloud = clean.frame == 13
    clean.value[cloud] += 80 * np.sin(9 * clean.u[cloud]) * np.cos(12 * clean.v[cloud])
    solved = clean.solve()
    seam, error = clean.errors(solved, 2, ignore=(13,))
    assert error[2] < 1.5 * reference[1][2] + 0.5
    assert seam < 0.5
    assert np.argmax(solved.inflation) == 13
    assert solved.inflation[13] > 100
    assert np.median(np.delete(solved.inflation, 13)) < 2
    assert solved.residual_after[13] > 10 * np.nanmedian(solved.residual_after)
    assert 0.005 < np.median(solved.rejected) < 0.1


def test_islands_have_their_own_mean() -> None:
    drawn = draw(3, 2, 3, gap=2500)
    solved = drawn.solve()
    right = np.array([i // 3 % 3 == 2 for i in range(18)])
    assert np.all(solved.island[~right] == 0)
    assert np.all(solved.island[right] == 1)
    for island in (0, 1):
        assert np.mean(solved.coefficients[solved.island == island, 0]) == pytest.approx(0.0, abs=1e-9)


def test_a_frame_without_overlap_stays_as_it_is() -> None:
    drawn = draw(2, 1, 2)
    drawn.frame = np.concatenate([drawn.frame, np.full(50, 4)])
    drawn.point = np.concatenate([drawn.point, 10**6 + np.arange(50)])
    drawn.value = np.concatenate([drawn.value, np.full(50, 4000.0)])
    drawn.u = np.concatenate([drawn.u, np.linspace(0, 1, 50)])
    drawn.v = np.concatenate([drawn.v, np.linspace(0, 1, 50)])
    drawn.placement = np.concatenate([drawn.placement, drawn.placement[:1] + 1e5])
    drawn.truth = np.concatenate([drawn.truth, np.zeros((1, 6))])
    solved = drawn.solve()
    assert np.all(solved.coefficients[4] == 0)
    assert solved.samples[4] == 0
    assert np.isnan(solved.residual_after[4])
    assert solved.island.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_nothing_in_common(frames: int) -> None:
    frame = np.arange(frames)
    none = np.zeros(frames)
    solved = solve_surfaces(frame, frame, none + 5.0, none + 1.0, none, none, frames=frames)
    assert solved.coefficients.shape == (frames, 6)
    assert np.all(solved.coefficients == 0)
    assert solved.island.tolist() == list(range(frames))


def test_two_equal_frames_are_left_alone() -> None:
    drawn = draw(1, 1, 1, turn=False)
    frame = np.repeat([0, 1], len(drawn.frame))
    point, value, u, v = (
        np.tile(drawn.point, 2), np.tile(drawn.value, 2), np.tile(drawn.u, 2), np.tile(drawn.v, 2)
    )  # fmt: skip
    solved = solve_surfaces(frame, point, value, np.full(len(frame), 0.1), u, v, frames=2)
    assert np.allclose(solved.coefficients, 0, atol=1e-9)
    assert np.all(np.isfinite(solved.coefficients))


@pytest.mark.parametrize("order", range(background.HIGHEST_ORDER + 1))
def test_terms_span_all_polynomials_of_their_degree(order: int) -> None:
    rng = np.random.default_rng(order)
    s, t = rng.uniform(-1, 1, (2, 200))
    terms = background.legendre(s, t, order)
    assert terms.shape[1] == len(background.ORDERS[order]) == (order + 1) * (order + 2) // 2
    monomials = np.stack([s**i * t**j for i in range(order + 1) for j in range(order + 1 - i)], axis=-1)
    fitted = terms @ np.linalg.lstsq(terms, monomials, rcond=None)[0]
    np.testing.assert_allclose(fitted, monomials, atol=1e-12)
    corner = background.evaluate(np.ones(terms.shape[1]), np.array([1.0]), np.array([1.0]))
    assert corner == pytest.approx(terms.shape[1]), "Legendre terms are 1 in the corner"
