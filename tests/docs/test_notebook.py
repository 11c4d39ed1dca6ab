"""The example notebook runs from top to bottom, and is kept without outputs."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyloom.workflows.api import Project

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "example.ipynb"


def run_cell(source: str, name: str, names: dict[str, Any]) -> Any:
    """Execute a cell as a kernel does: its value is that of a last expression without a semicolon."""
    tree = ast.parse(source)
    end = tree.body[-1] if tree.body else None
    last = end if isinstance(end, ast.Expr) else None
    if last is not None:
        tree.body.pop()
    exec(compile(tree, name, "exec"), names)
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), name, "eval"), names)
    return None if source.rstrip().endswith(";") else value


def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    shown, printed = [], io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        for number, cell in enumerate(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] == "code":
                value = run_cell("".join(cell["source"]), f"cell {number}", names)
                if hasattr(value, "_repr_html_"):
                    shown.append(value._repr_html_())
    from matplotlib import pyplot

    figures = [pyplot.figure(n) for n in pyplot.get_fignums()]
    try:
        assert len(figures) == 4
        for figure in figures:
            (image,) = figure.axes[0].images
            pixels = np.ma.filled(np.ma.asarray(image.get_array()).astype(float), np.nan)
            assert np.isfinite(pixels).mean() > 0.5
    finally:
        pyplot.close("all")
    plan, session, project = shown
    assert "<svg" in plan
    assert plan.count("<circle") == 6
    assert "6 × L" in session
    assert "integrate" in project
    assert list(Project(tmp_path / "example-project")) == list(names["project"])
    # What it says of the noise is true: neighbours are alike by the kernel's factor, as it is told.
    spread = float(printed.getvalue().rsplit(maxsplit=1)[-1])
    assert 0.4 < spread < 1.0


def test_outputs_are_stripped() -> None:
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
