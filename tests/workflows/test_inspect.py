"""The table of frames a person sees."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from rich.console import Console

from skyloom.workflows.cli import main
from skyloom.workflows.tables import inspect_tables

ROW: dict[str, Any] = {
    "name": "a.fits",
    "kind": "light",
    "master": False,
    "band": "Ha",
    "filter": "Ha",
    "camera": "ASI",
    "exposure": 300.0,
    "temperature": -10.0,
    "gain": 0.25,
    "gain_setting": 100.0,
    "offset_setting": None,
    "binning": "1x1",
    "bayer": None,
    "rotation": None,
    "night": "2024-01-14",
    "date": "2024-01-15T05:06:07.000",
    "size": "40 x 30",
    "scale": None,
    "ra": 83.8,
    "dec": -5.4,
    "pixel_size": None,
    "focal_length": None,
    "oddities": [],
    "facts": {},
}


def shown(rows: list[dict[str, Any]], left_out: list[tuple[str, str]] | None = None) -> str:
    console = Console(width=200, record=True, file=StringIO())
    for table in inspect_tables(rows, left_out or []):
        console.print(table)
    return console.export_text()


def many(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [{**ROW, "name": f"{changes.get('kind', 'l')}{i}.fits", **changes} for i in range(count)]


def test_few_frames_are_listed_without_groups() -> None:
    text = shown([ROW])
    assert "Groups" not in text
    assert "Odd" not in text
    line = next(line for line in text.splitlines() if "a.fits" in line)
    assert [c.strip() for c in line.split("│")[1:-1]] == [
        *("a.fits", "light", "Ha", "300", "-10", "2024-01-15T05:06:07", "83.8", "-5.4"),
    ]


def test_many_frames_are_counted_first() -> None:
    rows = many(6) + many(4, kind="dark", band="none", filter=None, temperature=-9.5)
    rows += many(3, kind="dark", band="none", filter=None, temperature=-20.0)
    rows += many(2, kind="flat", master=True, temperature=None)
    rows += many(1, band="CFA", filter="L-Pro", bayer="RGGB")
    rows[7]["temperature"] = -10.2
    text = shown(rows).partition("Frames (16)")[0]
    lines = [[c.strip() for c in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert "Groups of like frames (5)" in text
    # kind, band, filter, camera, exposure, gain, binning, size, night, °C, frames
    assert [(c[0], c[1], c[2], c[-2], c[-1]) for c in lines] == [
        ("light", "CFA", "L-Pro", "-10.0", "1"),
        ("light", "Ha", "", "-10.0", "6"),
        ("master flat", "Ha", "", "", "2"),
        ("dark", "none", "", "-20.0", "3"),
        ("dark", "none", "", "-10.2 to -9.5", "4"),
    ]


def test_oddities_are_numbered_and_told_once() -> None:
    last = {**ROW, "name": "z.fits", "oddities": ["no WCS", "size differs"]}
    rows = [*many(5, oddities=["no WCS"]), last]
    text = shown(rows, [("broken.fits", "truncated")])
    assert text.count("no WCS") == 1
    assert "Odd (2)" in text
    assert "l0.fits, l1.fits, l2.fits and 3 more" in text
    line = next(line for line in text.splitlines() if "z.fits" in line)
    assert line.rstrip(" │").endswith("1, 2")
    assert "broken.fits" in text
    assert "truncated" in text


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(9):
        header = fits.Header({"IMAGETYP": "Dark", "EXPTIME": 60.0, "CCD-TEMP": -10.0 + i, "INSTRUME": "ASI"})
        header["DATE-OBS"] = f"2024-01-02T03:0{i}:00"
        data = np.full((20, 30), i, dtype=np.uint16)
        fits.PrimaryHDU(data, header).writeto(tmp_path / f"d{i}.fits")
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Groups of like frames (1)" in out
    assert "-10.0 to -2.0" in out
    assert "temperature drifts from -10.0 to -2.0" in out
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    frame = json.loads(capsys.readouterr().out)["frames"][0]
    assert frame["facts"]["exposure"] == [60.0, "header EXPTIME"]
    assert frame["facts"]["filter"] == ["", "default"]
