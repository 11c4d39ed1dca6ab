"""The scorer must report the errors planted in an otherwise perfect calibration, and in otherwise right links."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.frames import register_source
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.detector import dust_grains
from skyloom.ops.simulation.faults import FAULTS
from skyloom.ops.simulation.presets import raw_conditions
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.sky import SkyModel
from skyloom.ops.simulation.sources import session_table

SIZE = 320
ROLES = ("bias", "dark", "flat")


@pytest.fixture(scope="module")
def scoring(benchmark_script: Callable[[str], ModuleType]) -> Any:
    return benchmark_script("calibrated_truth")


def simulated(**changes: Any) -> SimulatedSession:
    session = SimulatedSession(
        seed=8,
        panels=(1, 1),
        frames=6,
        bands=("R",),
        pixel_scale=5.0,
        fwhm=(2.0, 2.5),
        linear=0.25,
        camera=Camera(height=SIZE, width=SIZE),
        sky=SkyModel(seed=8, extent=0.2, nebula=15.0, finest=40.0),
    )
    return replace(raw_conditions(session), **changes)


@lru_cache(maxsize=64)
def counted(session: SimulatedSession, index: int) -> tuple[Any, NDArray[np.uint16]]:
    return session.truth_of(index), session.render(index)  # type: ignore[return-value]


@dataclass(frozen=True)
class Perfect:
    """A calibration that knows all the truth, with an error planted."""

    session: SimulatedSession
    index: int
    error: str

    @property
    def shape(self) -> tuple[int, int]:
        camera = self.session.camera
        return camera.height, camera.width

    @property
    def windowed(self) -> bool:
        return True

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        told, counts = counted(self.session, self.index)
        dark, flat = told.dark, told.flat
        hot = told.hot > 0
        if self.error == "dark":
            # Of half the exposure, hot pixels and all.
            dark = 0.5 * dark
        if self.error == "hot":
            # One pixel is not in the map, and the dark does not have it.
            found = np.flatnonzero(told.hot.ravel() > 100.0)
            hot.ravel()[found[3]] = False
            dark = dark - np.where(np.arange(hot.size).reshape(hot.shape) == found[3], told.hot, 0.0)
        if self.error == "flat":
            flat = flat * (1.0 + 0.005 * np.sin(np.arange(SIZE) / 20.0))
        if self.error == "dust":
            frame = self.session.descriptors()[self.index]
            x, y, size, _ = max(
                dust_grains(frame.camera, frame.exposure.optics), key=lambda grain: float(grain[2])
            )
            distance = np.hypot(np.arange(SIZE) - x, np.arange(SIZE)[:, None] - y) / size
            flat = flat * (1.0 + 0.005 * np.exp(-12.0 * (distance - 0.8) ** 2) * (distance < 2.0))
        image = (counts - told.bias - dark) / flat + (1.0 if self.error == "bias" else 0.0)
        image[hot] = np.nan
        if self.error != "saturated":
            image[counts >= self.session.camera.ceiling] = np.nan
        return np.asarray(image[rows, columns], dtype=np.float32)

    def variance(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        told, _ = counted(self.session, self.index)
        factor = 1.1 if self.error == "variance" else 1.0
        return np.asarray(factor * told.variance[rows, columns], dtype=np.float32)


@lru_cache(maxsize=16)
def _session(text: str) -> SimulatedSession:
    return SimulatedSession.from_dict(json.loads(text))


def _open(fields: Mapping[str, Any]) -> Perfect:
    session = _session(json.dumps(fields["session"], sort_keys=True))
    return Perfect(session, int(fields["index"]), str(fields["error"]))


def calibrated(session: SimulatedSession, error: str = "") -> xr.Dataset:
    register_source("perfect", _open)
    specs = [
        json.dumps({"kind": "perfect", "session": session.to_dict(), "index": f.index, "error": error})
        for f in session.lights
    ]
    names = [session.paths[f.index] for f in session.lights]
    return xr.Dataset({"name": ("frame", names), "source": ("frame", specs)})


def summary(scoring: Any, error: str = "", **changes: Any) -> dict[str, Any]:
    session = simulated(**changes)
    if error == "saturated":
        session = replace(session, camera=replace(session.camera, saturation=4000.0))
    frames, dust = scoring.score_pixels(session.truth(), calibrated(session, error))
    result: dict[str, Any] = scoring.Score((), (), frames, dust).summary()
    return result


@pytest.mark.parametrize("bayer", ["", "GRBG"])
def test_a_perfect_calibration_has_perfect_marks(scoring: Any, bayer: str) -> None:
    changes: dict[str, Any] = {}
    if bayer:
        changes = {"bands": ("CFA",), "camera": replace(simulated().camera, bayer=bayer)}
    marks = summary(scoring, **changes)
    assert marks["clean_frames"] == 6
    assert marks["chi2"] == pytest.approx(1.0, abs=0.008)
    assert marks["chi2_worst"] == pytest.approx(1.0, abs=0.025)
    assert marks["dust_worst"] < 4 * marks["dust_error"]
    assert marks["dust_rms"] == pytest.approx(marks["dust_noise"], rel=0.8)
    assert marks["hot"] > 50
    assert marks["hot_left"] == marks["saturated_left"] == 0
    assert marks["lost"] == 0.0
    assert abs(marks["sky_bias"]) < 4 * marks["sky_bias_error"]


@pytest.mark.parametrize(
    ("error", "caught"),
    [
        ("flat", lambda m: m["chi2"] > 1.02),
        ("dust", lambda m: m["dust_worst"] > 0.003 and m["dust_worst"] > 5 * m["dust_error"]),
        ("dark", lambda m: abs(m["sky_bias"]) > 4 * m["sky_bias_error"]),
        ("hot", lambda m: m["hot_left"] == 6),
        ("bias", lambda m: m["sky_bias"] > 0.7),
        ("saturated", lambda m: m["saturated_left"] > 0),
        ("variance", lambda m: m["chi2"] < 0.93),
    ],
)
def test_a_planted_error_is_noticed(scoring: Any, error: str, caught: Callable[[dict[str, Any]], bool]) -> None:
    marks = summary(scoring, error)
    assert caught(marks), marks


def linked(session: SimulatedSession) -> tuple[dict[str, Any], xr.Dataset, xr.Dataset]:
    """Truth, table of frames and right links, as `link` would give them where it finds no fault."""
    truth = session.truth()
    table = session_table(session)
    table = table.assign(name=("frame", np.array(session.paths)))
    keys = list(truth["sets"])
    files = truth["files"]
    rows = {role: [keys.index(f[role]) if f.get(role) else -1 for f in files] for role in ROLES}
    columns = {
        "member": [keys.index(f["set"]) if f["set"] else -1 for f in files],
        **rows,
        "scale_dark": [False] * len(files),
        "use": [True] * len(files),
        "reason": np.array([""] * len(files), dtype="<U80"),
        "light_group": [-1 if f["set"] else i for i, f in enumerate(files)],
    }
    own = {
        f"own_{role}": ("group", [keys.index(s[role]) if s[role] else -1 for s in truth["sets"].values()])
        for role in ("bias", "dark")
    }
    lights = [{"label": f["path"]} for f in files if not f["set"]]
    edges = [
        {"from": f["path"], "to": f[role], "role": role, "verdict": "chosen", "reason": "same", "caution": False}
        for f in files
        if not f["set"]
        for role in ROLES
        if f[role]
    ]
    links = xr.Dataset(
        {k: ("frame", np.asarray(v)) for k, v in columns.items()} | own,
        attrs={"light_groups": json.dumps(lights), "edges": json.dumps(edges)},
    )
    return truth, table, links


def test_right_links_are_right(scoring: Any) -> None:
    session = simulated(bands=("R", "B"), nights=2, frames=2, flat_darks=True, layout="scattered")
    result = scoring.score_links(*linked(session))
    assert len(result) == 4 * 3 + 4 * 2
    assert {link.verdict for link in result} == {"right"}


@pytest.mark.parametrize("role", ["bias", "dark", "flat"])
def test_a_wrong_link_is_noticed(scoring: Any, role: str) -> None:
    truth, table, links = linked(simulated(bands=("R", "B"), nights=2, frames=2))
    first, last = links[role].values[[0, 3]]
    assert first != last
    links[role].values[0] = last
    result = scoring.score_links(truth, table, links)
    assert [(link.of, link.role) for link in result if link.verdict == "wrong"] == [
        (truth["files"][0]["path"], role)
    ]


def test_lacking_members_and_a_flats_wrong_bias_are_noticed(scoring: Any) -> None:
    truth, table, links = linked(simulated(bands=("R", "B"), nights=2, frames=2))
    row = next(i for i, f in enumerate(truth["files"]) if f["set"] == "dark_120s_n0")
    links["member"].values[row] = -1
    result = scoring.score_links(truth, table, links)
    assert {(link.role, link.verdict) for link in result if link.verdict != "right"} == {("dark", "short")}
    links["own_bias"].values[:] = links["own_bias"].values[-1]
    result = scoring.score_links(truth, table, links)
    assert {link.of for link in result if link.verdict == "wrong"} == {"flat_R_n0", "flat_B_n0"}


def test_faults_must_be_told(scoring: Any) -> None:
    session = simulated(bands=("R", "B"), nights=2, frames=4, faults=tuple(FAULTS))
    truth, table, links = linked(session)
    silent = scoring.score_faults(truth, table, links)
    assert [(f.name, f.reported) for f in silent] == [(name, False) for name in FAULTS]
    wrong = {(link.of, link.role) for link in scoring.score_links(truth, table, links) if link.verdict == "wrong"}
    hit = {f["name"]: f["lights"] for f in truth["faults"]}
    assert {(path, "flat") for path in hit["missing-flat"]} <= wrong
    assert {(path, "dark") for path in hit["wrong-dark"]} <= wrong
    said = json.loads(links.attrs["edges"])
    for name, role in (("missing-flat", "flat"), ("wrong-dark", "dark"), *(("odd-size", r) for r in ROLES)):
        verdict, caution = ("chosen", True) if name == "wrong-dark" else ("broken", False)
        said += [
            {"from": path, "to": "", "role": role, "verdict": verdict, "reason": "none fits", "caution": caution}
            for path in hit[name]
        ]
    links.attrs["edges"] = json.dumps(said)
    left_out = [[hit["broken-file"][0], "truncated"], [truth["faults"][-1]["files"][0], "same content as another"]]
    kept = [row for row, path in enumerate(session.paths) if path != hit["broken-file"][0]]
    table, links = table.isel(frame=kept), links.isel(frame=kept)
    table.attrs["left_out"] = json.dumps(left_out)
    told = scoring.score_faults(truth, table, links)
    assert all(f.reported for f in told), told
    assert {link.verdict for link in scoring.score_links(truth, table, links)} == {"right", "told"}


def test_tables_are_printed(scoring: Any) -> None:
    session = simulated(frames=1)
    truth, table, links = linked(session)
    result = scoring.score(truth, table, links, calibrated(session))
    text = result.to_text()
    # Bias, dark and flat of the light, flat-dark and bias of its flat.
    assert "links: 5 of 5 right" in text
    assert "reduced chi²" in text
    assert json.loads(json.dumps(result.to_dict()))["summary"]["frames"] == 1
