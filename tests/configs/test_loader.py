"""Presets load and are complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyloom.configs.loader import load_workflow, preset_names
from skyloom.ops.errors import ConfigError
from skyloom.workflows.graph import Workflow


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_say_what_they_do(name: str) -> None:
    workflow = Workflow.load(name)
    assert workflow.name == name
    assert workflow.description


def test_unknown_preset_and_missing_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown preset 'mosiac'; did you mean 'mosaic'"):
        load_workflow("mosiac")
    with pytest.raises(ConfigError, match=r"gone.yaml: No such file"):
        load_workflow(tmp_path / "gone.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_workflow(binary)
