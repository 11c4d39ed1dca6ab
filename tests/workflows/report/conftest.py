"""A project made by hand, and a reader of pages that is strict about what it reads."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from astropy.io import fits
from numpy.typing import NDArray
from PIL import Image

from skyloom.ops.session.ingest import ingest
from skyloom.workflows.store import Store

EVIL = "<script>alert(1)</script>.fits"
N = 8
SHAPE = (70, 110)
START = 1_700_000_000.0
VOID = {"br", "hr", "img", "input", "meta", "link", "source"}


class Page(HTMLParser):
    """A page taken apart; `problems` says what is not well formed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.sections: dict[str, str] = {}
        """Anchor → text."""
        self.tables: dict[str, list[list[str]]] = {}
        """Anchor → rows of all its tables."""
        self.scripts: list[str] = []
        self.text = ""
        self._stack: list[str] = []
        self._anchor = ""
        self.feed(text)
        self.close()
        if self._stack:
            self.problems.append(f"never closed: {self._stack}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        if len(found) != len(attrs):
            self.problems.append(f"{tag}: an attribute twice")
        self.elements.append((tag, found))
        if tag == "section":
            self._anchor = found["id"]
            self.sections[self._anchor] = ""
            self.tables[self._anchor] = []
        if tag == "tr" and self._anchor:
            self.tables[self._anchor].append([])
        if tag in ("td", "th") and self._anchor:
            self.tables[self._anchor][-1].append("")
        if tag not in VOID:
            self._stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._stack or self._stack.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")
        if tag == "section":
            self._anchor = ""

    def handle_data(self, data: str) -> None:
        if "script" in self._stack:
            self.scripts.append(data)
            return
        if "style" in self._stack:
            return
        self.text += data
        if self._anchor:
            self.sections[self._anchor] += data
            if {"td", "th"} & set(self._stack):
                self.tables[self._anchor][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """Attributes of all elements of a name."""
        return [a for t, a in self.elements if t == tag]


def picture_of(address: str) -> NDArray[np.uint8]:
    """Pixels of a `data:` address."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))


@pytest.fixture
def read() -> Callable[[str], Page]:
    return Page


@pytest.fixture
def decoded() -> Callable[[str], NDArray[np.uint8]]:
    return picture_of


def _session(folder: Path) -> xr.Dataset:
    rng = np.random.default_rng(5)
    for i in range(N):
        header = fits.Header()
        header["IMAGETYP"], header["FILTER"], header["EXPTIME"] = "LIGHT", "LR"[i % 2], 60.0
        header["DATE-OBS"] = f"2026-01-{10 + i // 4:02d}T2{i % 4}:00:00"
        pixels = rng.normal(1000.0, 10.0, (40, 60)).astype(np.float32)
        pixels[:20, :30] += 300.0  # the lower left quarter
        fits.PrimaryHDU(pixels, header).writeto(folder / f"frame{i}.fits")
    session = ingest([folder], take="all")
    names = session["name"].values.astype("<U40")
    names[3] = EVIL
    return session.assign(name=("frame", names))


def results(session: xr.Dataset) -> dict[str, tuple[str, dict[str, str], xr.Dataset]]:
    """Node → op, inputs, result: what a run would leave, with numbers that are easy to find again."""
    at, frame = np.arange(N, dtype=np.float64), session["frame"].values
    quantities = ["background", "noise", "fwhm", "ellipticity", "stars", "valid", "status"]
    summary = np.stack([1000 + at, 10 + at / 8, 2 + at / 8, at / 40, 100 + at, np.ones(N), np.zeros(N)], axis=1)
    reason = np.full(N, "", dtype="<U200")
    reason[3] = "fwhm 2.375 px is no <b>less</b> than 2.3 & more"
    use = reason == ""
    order = np.zeros((N, 11, 11))
    bands = np.array(["R", "L"])
    count = np.full((2, *SHAPE), 3, dtype=np.uint16)
    count[:, :10] = 0
    count[1, :, 55:] *= 2
    low = np.zeros_like(count)
    low[0, 30:] = 1
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = np.stack([1000 + y + 0.1 * x, 2000 + x + 0.1 * y]).astype(np.float32)
    image[count == 0] = np.nan
    canvas = ("band", "y", "x")
    measured = {"summary": (("frame", "summary_quantity"), summary)}
    registered = {
        "use": ("frame", use),
        "residual": ("frame", 0.1 + at / 100),
        "matches": ("frame", (20 + at).astype(np.int64)),
        "island": ("frame", np.zeros(N, np.int64)),
        "shift": (("frame", "axis"), np.stack([at / 10, -at / 10], axis=1)),
    }
    normalized = {
        "use": ("frame", use),
        "island": ("frame", np.zeros(N, np.int64)),
        "mean_scale": ("frame", 0.9 + at / 50),
        "noise": ("frame", 10 + at / 8),
        "stars": ("frame", (30 + at).astype(np.int64)),
        "scale_error": ("frame", at / 1000),
        "scale_spread": ("frame", np.zeros(N)),
        "inflation": ("frame", np.ones(N)),
        "residual_before": ("frame", 100 + at),
        "residual_after": ("frame", 1 + at / 10),
        "residual_held": ("frame", 2 + at / 10),
        "note": ("frame", np.where(at == 5, f"odd {EVIL}", "").astype("<U200")),
        "scale": (("frame", "node_y", "node_x"), order + 1.0),
        "offset": (("frame", "node_y", "node_x"), order),
        "confidence": (("frame", "node_y", "node_x"), order + 1.0),
        "degree": ("band", np.array([2, -1])),
        "mode_sigma": (("band", "mode"), np.array([[1.0, 3, 4, 0, 0, 2], [np.nan] * 6])),
    }
    integrated = {
        "image": (canvas, image),
        "count": (canvas, count),
        "weight": (canvas, count.astype(np.float32) / 100),
        "rejected_low": (canvas, low),
        "rejected_high": (canvas, np.zeros_like(count)),
    }
    of = {"session": "ingest"}
    shifts = {"frame": frame, "axis": ["x", "y"]}
    return {
        "measure": ("measure", of, xr.Dataset(measured, {"frame": frame, "summary_quantity": quantities})),
        "approve": ("approve", of, xr.Dataset({"reason": ("frame", reason)}, {"frame": frame})),
        "register": ("register", of, xr.Dataset(registered, shifts)),
        "normalize": ("normalize", of, xr.Dataset(normalized, {"frame": frame, "band": bands})),
        "integrate": ("integrate", of, xr.Dataset(integrated, {"band": bands}, {"units": "adu"})),
    }


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A finished project with eight frames of two bands, one of them left out, one with an evil name."""
    frames = tmp_path / "frames"
    frames.mkdir()
    session = _session(frames)
    store = Store(tmp_path / "<b>project&amp;")
    store.create()
    found = {"ingest": ("ingest", {"files": "files"}, session), **results(session)}
    nodes: dict[str, Any] = {}
    for node, (op, inputs, result) in found.items():
        meta = {"key": "k", "op": op, "inputs": inputs, "parameters": {}, "started": START + 1}
        store.write_table(node, "k", result, meta)
        parameters = {"weighting": "inverse_variance"} if op == "integrate" else {}
        nodes[node] = {"op": op, "inputs": inputs, "parameters": parameters}
    document = {"name": EVIL, "description": "", "nodes": nodes}
    (store.project / "workflow.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    events: list[dict[str, Any]] = [{"event": "run", "workflow": EVIL, "scheduler": "threads", "frames": N}]
    for i, node in enumerate(list(found)[1:]):
        facts = {"seconds": 1.5 + i, "units": i + 1, "reused": 0, "peak_memory": (300 + i) * 2**20}
        events.append({"event": "node", "node": node, **facts})
    events.append({"event": "done", "seconds": 12.0})
    lines = [json.dumps({"time": START + i, **e}) for i, e in enumerate(events)]
    (store.project / "run.log.jsonl").write_text("\n".join(["{torn", *lines]) + "\n")
    return Path(str(store.project))
