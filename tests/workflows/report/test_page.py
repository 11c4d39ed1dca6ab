"""The page is whole, safe whatever files are called, and its numbers are the store's."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.workflows.cli import main
from skyloom.workflows.report import page as page_module
from skyloom.workflows.report.page import SECTIONS, write_report
from skyloom.workflows.store import Store

EVIL = "<script>alert(1)</script>.fits"
REASON = "fwhm 2.375 px is no <b>less</b> than 2.3 & more"
Read = Callable[[str], Any]


def report(project: Path) -> str:
    path = write_report(project)
    assert path == project / "outputs" / "report.html"
    return path.read_text(encoding="utf-8")


def test_page_is_well_formed_and_needs_nothing_else(made: Path, read: Read) -> None:
    text = report(made)
    page = read(text)
    assert page.problems == []
    assert "could not be made" not in page.text
    assert list(page.sections) == [a for a, _, _ in SECTIONS if a != "links"], "there is no node that links"
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert not {k for k in attributes if k.startswith("on")}, tag
        for name in {"src", "href", "data", "action", "srcset", "poster", "xlink:href"} & set(attributes):
            assert attributes[name].startswith(("data:image/", "#")), (tag, attributes)
    assert not {"link", "iframe", "object", "embed", "base"} & {t for t, _ in page.elements}
    assert set(re.findall(r"https?://[^\"' <)]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert all(u.startswith("url(#") for u in re.findall(r"url\([^)]*", text))


def test_only_its_own_script_may_run(made: Path, read: Read) -> None:
    page = read(report(made))
    (script,) = page.scripts
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert re.findall(r"script-src ([^;]*)", policy) == [f"'sha256-{digest}'"]


def test_names_are_shown_as_they_are(made: Path, read: Read) -> None:
    page = read(report(made))
    assert EVIL in [row[0] for row in page.tables["frames"]]
    assert EVIL in [row[0] for row in page.tables["left-out"]]
    assert any(f"odd {EVIL}" in row for row in page.tables["normalization"])
    assert any(EVIL in a.get("data-t", "") for _, a in page.elements)
    assert f"{EVIL}: complete" in page.text
    assert "<b>project&amp;" in page.text


def test_frames_have_the_numbers_of_the_store(made: Path, read: Read) -> None:
    head, *rows = read(report(made)).tables["frames"]
    store = Store(made)
    session, summary = store.open("ingest"), store.open("measure")["summary"]
    assert [r[0] for r in rows] == session["name"].values.tolist()
    units = f" ({session['units'].values[0]})"
    columns = {
        f"background{units}": "background", f"noise{units}": "noise", "FWHM (px)": "fwhm", "stars": "stars",
    }  # fmt: skip
    for title, quantity in columns.items():
        shown = [float(r[head.index(title)]) for r in rows]
        np.testing.assert_allclose(shown, summary.sel(summary_quantity=quantity).values, rtol=6e-4)
    residual = [float(r[head.index("residual (px)")]) for r in rows]
    np.testing.assert_allclose(residual, store.open("register")["residual"].values, rtol=6e-4)
    ratio = 1 - summary.sel(summary_quantity="ellipticity").values
    eccentricity = [float(r[head.index("eccentricity")]) for r in rows]
    np.testing.assert_allclose(eccentricity, np.sqrt(1 - ratio**2), rtol=6e-4)
    assert [r[-1] for r in rows] == ["", "", "", REASON, "", "", "", ""]


def test_weights_are_those_of_the_mean(made: Path, read: Read) -> None:
    head, *rows = read(report(made)).tables["frames"]
    weight = [r[head.index("weight")] for r in rows]
    assert [w == "–" for w in weight] == [i == 3 for i in range(8)], "what was left out has none"
    store = Store(made)
    normalization, bands = store.open("normalize"), store.open("ingest")["band"].values
    noise = (normalization["noise"] * normalization["mean_scale"]).values
    for band in "LR":
        here = [i for i in range(8) if bands[i] == band and i != 3]
        expected = noise[here] ** -2.0 / (noise[here] ** -2.0).max()
        np.testing.assert_allclose([float(weight[i]) for i in here], expected, rtol=6e-4)


def test_bands_and_maps_have_the_numbers_of_the_store(made: Path, read: Read) -> None:
    page = read(report(made))
    head, first, second, *_ = page.tables["normalization"]
    assert (first[0], second[0]) == ("L", "R")
    assert first[head.index("frames")] == "4"
    assert second[head.index("frames")] == "3"
    after = Store(made).open("normalize")["residual_after"].values
    assert float(second[head.index("after")]) == pytest.approx(np.median(after[[1, 5, 7]]), rel=1e-3)
    long_waves = [second[head.index(n)] for n in ("degree", "level ±", "planes ±", "quadratics ±")]
    assert long_waves == ["2", "1", "5", "2"]
    assert first[head.index("degree")] == "–"
    _, left, right = page.tables["maps"]
    assert left == ["L", "4.5", "6", "0"]
    assert right[:3] == ["R", "3", "3"]
    # In 40 of the 60 rows with data one of four samples is gone.
    assert float(right[3]) == pytest.approx(25 * 40 / 60, rel=0.01)


def test_graph_says_times_and_memory(made: Path, read: Read) -> None:
    text = read(report(made)).sections["graph"]
    assert "5.5 s, 5 tasks" in text
    assert "304.0 MiB" in text
    assert text.count("done in this run") == 6


def test_left_out_frame_is_shown(made: Path, read: Read, decoded: Callable[[str], NDArray[np.uint8]]) -> None:
    page = read(report(made))
    assert page.tables["left-out"][1:] == [[EVIL, "approve", REASON]]
    (image,) = [a for a in page.all("img") if a["alt"] == EVIL]
    pixels = decoded(image["src"])[..., 0].astype(float)
    assert pixels.shape == (40, 60)
    # The first row is at the bottom: the bright quarter is in the lower left.
    bright = pixels[25:, :25].mean()
    assert bright > pixels[25:, 35:].mean() + 60
    assert bright > pixels[:15, :25].mean() + 60


def test_frame_that_is_gone_has_no_picture(made: Path, read: Read) -> None:
    (made.parent / "frames" / "frame3.fits").unlink()
    page = read(report(made))
    assert [row[0] for row in page.tables["left-out"][1:]] == [EVIL]
    assert not [a for a in page.all("img") if a["alt"] == EVIL]


def test_section_that_fails_hides_no_other(made: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(project: Any) -> None:
        raise ValueError(f"no such <thing>, {EVIL}")

    changed = [(a, h, broken if a == "registration" else m) for a, h, m in SECTIONS]
    monkeypatch.setattr(page_module, "SECTIONS", changed)
    page = read(report(made))
    assert page.problems == []
    assert f"This part could not be made: ValueError: no such <thing>, {EVIL}" in page.sections["registration"]
    assert "FWHM" in page.sections["frames"]
    assert "held out" in page.sections["normalization"]


def test_result_that_is_broken_hides_no_other(made: Path, read: Read) -> None:
    (made / "project.zarr" / "register" / "k" / "residual" / "zarr.json").write_text("{")
    page = read(report(made))
    assert page.problems == []
    assert "registration" not in page.sections
    assert "FWHM" in page.sections["frames"]


def test_page_without_workflow_and_log(made: Path, read: Read) -> None:
    (made / "workflow.yaml").write_text("nodes: [")
    (made / "run.log.jsonl").unlink()
    page = read(report(made))
    assert page.problems == []
    assert "The log tells of no run." in page.text
    assert "integrate" in page.sections["graph"]


def test_command_writes_the_page(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(made)]) == 0
    assert capsys.readouterr().out.strip() == str(made / "outputs" / "report.html")
    assert (made / "outputs" / "report.html").exists()
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "is no project" in capsys.readouterr().err
    with pytest.raises(DataError, match="is no project"):
        write_report(tmp_path / "nothing")
