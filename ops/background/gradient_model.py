"""The slow light over a whole mosaic, as a result of its own to look at before it is taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.background.blocks import Blocks, block_cells, gather
from skyloom.ops.background.model import NODES, Background, Choices, Method, fit_backgrounds
from skyloom.ops.background.places import Place, cells_within, check_places, read_places
from skyloom.ops.colour.adjustment import band_names, require_linear
from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.tiles import Dependencies, in_one_piece, whole_cost

Floats = NDArray[np.float64]

NEEDED = ("median", "noise", "valid")
OVERRULE = " (places of plain sky that you name overrule this)"


@dataclass(frozen=True)
class _Fit:
    """Task."""

    grid: Grid
    cell: int
    bands: tuple[str, ...]
    choices: Choices
    protect: tuple[Place, ...]
    plain: tuple[Place, ...]

    def __call__(self, median: NDArray[Any], noise: NDArray[Any], valid: NDArray[Any]) -> dict[str, NDArray[Any]]:
        use = ~cells_within(self.protect, self.grid, self.cell)
        if self.plain:
            use &= cells_within(self.plain, self.grid, self.cell)
        blocks = gather(
            median, noise, valid, cell=self.cell, canvas=self.grid.shape, use=use, any_cell=bool(self.plain)
        )
        if not np.isfinite(blocks.level).any():
            raise DataError("there is no place to measure the background at: all is protected or without data")
        everywhere = gather(median, noise, valid, cell=self.cell, canvas=self.grid.shape)
        found = fit_backgrounds(blocks, self.choices)
        rows = [self._band(b, blocks, np.isfinite(everywhere.level[i])) for i, b in enumerate(found)]
        out = {name: np.stack([r[name] for r in rows]) for name in rows[0]}
        out["level"] = np.array([self._level(b, there) for b, there in zip(found, out["covered"], strict=True)])
        del out["covered"]
        told = [f"{name}: {b.surface.told}" for name, b in zip(self.bands, found, strict=True) if b.surface.told]
        text = "; ".join(told)[:900] + (OVERRULE if told else "")
        out["notes"] = np.array(text, dtype="<U1000")
        out["blocks"] = everywhere.level.astype(np.float32)
        return out

    @staticmethod
    def _level(found: Background, there: NDArray[np.bool_]) -> float:
        """Level of the sky that stays: the median of the model."""
        return float(np.median(found.model[there])) if there.any() else 0.0

    @staticmethod
    def _band(found: Background, blocks: Blocks, there: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        model = found.model[there]
        plain = found.surface.plain
        return {
            "coefficients": found.coefficients,
            "amplitude": np.array(float(np.ptp(model)) if model.size else 0.0),
            "rms": np.array(float(np.std(model)) if model.size else 0.0),
            "degree": np.array(found.surface.degree),
            "samples": np.array(found.samples),
            "protected": np.array(1.0 - plain.sum() / max(there.sum(), 1)),
            "scatter": np.array(found.surface.scatter),
            "error": np.array(found.error),
            "stiffness": np.array(found.stiffness),
            "model": np.where(there, found.model, np.nan).astype(np.float32),
            "sky": plain,
            "covered": there,
        }


def _cost(survey: xr.Dataset, **parameters: Any) -> Cost:
    return whole_cost(survey, NEEDED, copies=8.0)


@register(version=2, cost=_cost)
def gradient_model(
    survey: xr.Dataset,
    *,
    method: Method = "polynomial",
    degree: Annotated[int, Param(low=0, high=4)] = 2,
    limit: Annotated[float, Param(unit="sigma", low=1, high=20)] = 3.0,
    grow: Annotated[int, Param(unit="blocks", low=0, high=20)] = 1,
    protect: list[str] = [],  # noqa: B006  (never changed; a list is what YAML has)
    plain: list[str] = [],  # noqa: B006
    samples: Annotated[int, Param(low=4, high=32)] = 12,
    stiffness: Annotated[float | None, Param(low=0, high=1e6)] = None,
) -> xr.Dataset:
    """Model the slow background of a mosaic through its plain sky, nebulae left out.

    Parameters
    ----------
    survey
        Of the linear mosaic (`survey`).
    method
        polynomial; spline: a thin-plate smoothing spline on top of one, for backgrounds no polynomial follows;
        none. Change it to spline where light of towns leaves more than a bowl, to none where nebula fills the
        field.
    degree
        Of the polynomial, at most: the lowest that foretells held-out patches of sky as well is taken, and less
        than that (down to a constant, which takes nothing away) where there is too little plain sky to know
        better. Change it to 1 where a large nebula bends the model, to 3 or 4 for wide fields with much plain sky.
    limit
        What stands out of the sky by more is an object. Change it to less where faint nebula is taken for sky, to
        more where noise leaves too little sky.
    grow
        Blocks (64 to the longer side) left out around extended objects. Change it to more where the outskirts of
        objects pull the model up.
    protect
        Places that are no sky whatever they look like: "RA DEC RADIUS" or "RA DEC WIDTH HEIGHT" in degrees (RA
        also as 18:03:37), or "X Y RADIUS px", "X Y WIDTH HEIGHT px" in canvas pixels. Change it where faint light
        that you know of, such as dust, would be taken away.
    plain
        Places that are sky, in the same words: only they are used, all of them, and at their word. Change it where
        you know better than the program what is sky.
    samples
        spline: boxes along the longer side in which plain sky is averaged. Change it to more for gradients with
        finer structure, to less where objects are large.
    stiffness
        spline: smoothing (0: through every sample); none: what best foretells patches held out. Change it to more
        where the model follows the objects.

    Returns
    -------
    xarray.Dataset
        Over band: `coefficients` (knot_y, knot_x; cubic B-spline over the canvas, in its units), `level` (median
        of the model, which the sky keeps), `amplitude` and `rms` of the model over what has data, `degree`,
        `samples` (blocks or boxes of sky it rests on), `protected` (fraction of the blocks left out), `scatter` (σ
        of the plain blocks about it), `error` (expected σ of a polynomial where it is known worst), `stiffness`;
        to look at, over (row, column) of blocks: `model`, `sky` (used or not), `blocks` (levels); `notes` () on
        what was lowered.

    Raises
    ------
    ConfigError
        If a place is none.
    DataError
        If the data are not linear; while computing, if no place is left to measure at.

    Notes
    -----
    Cells are gathered to at most 64 × 64 blocks. Sky is what a surface runs through while nothing lies below it
    (`plain_sky`). A nebula that fills the field cannot be told from a gradient. The degree is lowered, and `notes`
    say so, where the sky scatters beyond 3 σ of a cell of 16 pixels and the surface does not stand out of that
    scatter 20 times (degree 1; 30 for 2, 50 for 3) and no higher degree explains it, where plain sky is less than
    a seventh of the field (degree 1; a quarter for 2, a third for 3), and where it lies on one side only.
    """
    require_linear(survey, "modelling a gradient")
    grid = Grid.from_attrs(survey.attrs)
    places = {
        name: read_places(texts, what=f"gradient_model: {name}")
        for name, texts in (("protect", protect), ("plain", plain))
    }
    for name, found in places.items():
        check_places(found, grid, what=f"gradient_model: {name}")
    bands = band_names(survey)
    choices = Choices(method, degree, limit, grow, samples, stiffness, bool(plain))
    dependencies = Dependencies()
    work = _Fit(grid, int(survey.attrs["cell"]), tuple(bands), choices, places["protect"], places["plain"])
    arrays = in_one_piece(
        "gradient_model",
        work,
        _outputs(len(bands), grid.shape, work.cell),
        arguments=[dependencies.argument(survey[n]) for n in NEEDED],
        dependencies=dependencies,
    )
    attrs = {k: v for k, v in survey.attrs.items() if k not in ("provenance", "cell")}
    size = block_cells(grid.shape, work.cell) * work.cell
    return xr.Dataset(arrays, coords={"band": np.asarray(bands, dtype=str)}, attrs={**attrs, "block": size})


def _outputs(bands: int, canvas: tuple[int, int], cell: int) -> dict[str, tuple[tuple[str, ...], Any, Any]]:
    """Name → dimensions, shape, dtype."""
    size = block_cells(canvas, cell) * cell
    shape = (bands, *(-(-n // size) for n in canvas))
    dims = ("band", "row", "column")
    numbers = ("level", "amplitude", "rms", "protected", "scatter", "error", "stiffness")
    return {
        "coefficients": (("band", "knot_y", "knot_x"), (bands, NODES + 2, NODES + 2), np.float64),
        **dict.fromkeys(numbers, (("band",), (bands,), np.float64)),
        **dict.fromkeys(("degree", "samples"), (("band",), (bands,), np.int64)),
        "model": (dims, shape, np.float32),
        "sky": (dims, shape, np.bool_),
        "blocks": (dims, shape, np.float32),
        "notes": ((), (), "<U1000"),
    }
