"""The links are on the page, broken ones red."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from skyloom.ops.calibration.link import link
from skyloom.workflows.report.page import write_report
from skyloom.workflows.store import Store

COMMON = {"temperature": -10.0, "gain_setting": 100.0, "night": "2026-01-10", "height": 100, "width": 200}
ROWS: list[dict[str, Any]] = [
    {"kind": "light", "band": "L", "exposure": 120.0},
    {"kind": "light", "band": "<u>R", "exposure": 120.0},
    {"kind": "dark", "band": "none", "exposure": 120.0},
    {"kind": "flat", "band": "L", "exposure": 2.0},
    {"kind": "bias", "band": "none", "exposure": 0.0},
]


def project(folder: Path) -> Path:
    full = [{**COMMON, "camera": "A", "master": False, **row} for row in ROWS]
    columns = {name: ("frame", np.array([row[name] for row in full])) for name in full[0]}
    columns["name"] = ("frame", np.array([f"f{i}.fits" for i in range(len(ROWS))]))
    session = xr.Dataset(columns, coords={"frame": np.array([f"{i:016x}" for i in range(len(ROWS))])})
    store = Store(folder)
    store.create()
    store.write_table("ingest", "k", session, {"op": "ingest", "inputs": {"files": "files"}, "started": 1})
    links = link(session, on_broken="without")
    store.write_table("link", "k", links, {"op": "link", "inputs": {"session": "ingest"}, "started": 2})
    return folder


def test_broken_links_are_red(tmp_path: Path, read: Callable[[str], Any]) -> None:
    text = write_report(project(tmp_path)).read_text(encoding="utf-8")
    page = read(text)
    assert page.problems == []
    told = page.sections["links"]
    assert "no flat fits" in told
    assert "2 lights of 5 frames" in told
    assert "light <u>R" in told
    assert page.all("u") == []
    assert [a for a in page.all("ul") if a.get("class") == "bad"]
    # The legend's, and that to the flat that comes nearest.
    red = [a for a in page.all("path") if a.get("stroke") == "#c62828" and "stroke-dasharray" in a]
    assert len(red) == 2
