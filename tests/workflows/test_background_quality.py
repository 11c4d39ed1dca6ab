"""What is said of edges and gradients, and where presets have them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from skyloom.workflows.background_quality import background_lines
from skyloom.workflows.graph import Workflow


def model(**changes: object) -> xr.Dataset:
    values = {
        "degree": [2, 0],
        "amplitude": [57.25, 0.0],
        "rms": [11.5, 0.0],
        "samples": [420, 900],
        "protected": [0.43, 0.1],
        "stiffness": [np.nan, np.nan],
        **changes,
    }
    variables: dict[str, object] = {n: ("band", np.array(v)) for n, v in values.items()}
    variables["notes"] = ((), np.array("R: no plain sky"))
    return xr.Dataset(variables, {"band": ["G", "R"]}, {"units": "adu"})


def test_gradients_a_line_a_band() -> None:
    taken = xr.Dataset(attrs={"gradient": "divide"})
    assert background_lines({"gradient_model": model(), "gradient": taken}) == [
        "gradient: G: degree 2 divided by, 57.2 adu from end to end (rms 11.5), from 420 places of sky, "
        "43 % protected",
        "gradient: R: none taken away",
        "gradient: R: no plain sky",
    ]
    spline = background_lines({"gradient_model": model(stiffness=[0.1, np.nan])})
    assert spline[0].startswith("gradient: G: spline found, 57.2 adu")


def test_edges_a_line() -> None:
    def said(**attrs: object) -> list[str]:
        return background_lines({"edges": xr.Dataset(attrs={"crop": [20, 30, 400, 330], "told": "", **attrs})})

    assert said(kept=0.91) == ["edges: cut to 380 × 300 px from (20, 30), 91 % of what is covered"]
    assert said(kept=1.0) == []
    assert said(kept=1.0, told="too little") == ["edges: not cut: too little"]


@pytest.mark.parametrize("name", ["lrgb", "rgb", "osc", "narrowband"])
def test_pictures_are_made_of_what_edges_and_gradient_leave(name: str) -> None:
    workflow = Workflow.load(name)
    nodes = {n.name: n for n in workflow.nodes}
    assert set(nodes["edges"].inputs.values()) == {"integrate", "coverage"}
    assert set(nodes["gradient"].inputs.values()) == {"edges", "gradient_model"}
    assert "gradient" in nodes["survey"].inputs.values()
    assert set(nodes["deconvolve"].inputs.values()) == {"gradient", "psf"}
    assert "deconvolve" in nodes["channels"].inputs.values()
    # Levels of the picture from what denoising has not changed: less noise is no reason to stretch harder.
    assert set(nodes["denoise"].inputs.values()) == {"channels", "noise_levels"}
    assert set(nodes["stretch"].inputs.values()) == {"denoise", "tones"}
    assert set(nodes["survey_colour"].inputs.values()) == {"channels"}
    wanted = ["normalize", "artifacts", "integrate", "edges", "gradient", "deconvolve", "channels", "denoise"]
    assert [n for n in workflow.names if n in wanted] == wanted


@pytest.mark.parametrize("name", ["mosaic", "stack", "raw"])
def test_mosaics_stay_as_they_are(name: str) -> None:
    assert not {"edges", "gradient"} & set(Workflow.load(name).names)
