"""Imports point one way, and the wheel has every package."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "ops": {"skyloom.workflows", "skyloom.configs", "zarr", "distributed"},
    "configs": {"skyloom.workflows"},
    "workflows": set(),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("layer", sorted(FORBIDDEN))
def test_layer_imports_nothing_above_it(layer: str) -> None:
    modules = sorted((ROOT / layer).rglob("*.py"))
    assert modules
    for path in modules:
        for name in imports(path):
            for banned in FORBIDDEN[layer]:
                assert not f"{name}.".startswith(f"{banned}."), f"{path.name} imports {name}"


def test_every_package_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = set(settings["tool"]["setuptools"]["packages"])
    found = {
        "skyloom." + ".".join(p.parent.relative_to(ROOT).parts)
        for folder in ("ops", "workflows", "configs")
        for p in (ROOT / folder).rglob("__init__.py")
    }
    assert declared == found
