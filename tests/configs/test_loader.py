"""Presets load and are complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyloom.configs.loader import load_workflow, parse_workflow, preset_names
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


BASE = """
description: a base
nodes:
  first: {inputs: [files], parameters: {a: 1, b: 2}}
  second: {op: other, inputs: [first], parameters: {c: 3}}
  third: {inputs: [second]}
"""


def test_a_workflow_may_extend_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    changed = tmp_path / "changed.yaml"
    changed.write_text(
        "extends: base.yaml\nnodes:\n  first: {parameters: {b: 7}}\n  second: {inputs: [extra]}\n  third: null\n"
        "  extra: {op: more, inputs: [first]}\n"
    )
    made = load_workflow(changed)
    assert (made.name, made.description, made.origin) == ("changed", "a base", str(changed))
    assert [(n.name, n.op, n.inputs, n.parameters) for n in made.nodes] == [
        ("first", "first", ("files",), {"a": 1, "b": 7}),
        ("second", "other", ("extra",), {"c": 3}),
        ("extra", "more", ("first",), {}),
    ]
    # Another op begins anew; what has changed nothing is the other one.
    (tmp_path / "again.yaml").write_text(
        "extends: changed.yaml\nnodes:\n  first: {op: new, parameters: {d: 4}, inputs: [files]}\n"
    )
    again = {n.name: n for n in load_workflow(tmp_path / "again.yaml").nodes}
    assert (again["first"].op, again["first"].parameters) == ("new", {"d": 4})
    assert again["second"] == made.nodes[1]
    same = parse_workflow("extends: rgb", origin="mine.yaml")
    assert same.nodes == load_workflow("rgb").nodes
    assert same.name == "mine"


def test_presets_that_extend_differ_where_they_say() -> None:
    nodes = {name: {n.name: n for n in load_workflow(name).nodes} for name in ("rgb", "lrgb", "osc", "narrowband")}
    for name, differs in (
        ("lrgb", {"deconvolve", "luminance", "channels"}),
        ("osc", {"gradient_model", "channels"}),
        ("narrowband", {"stars", "balance", "channels", "tones"}),
    ):
        ours, base = nodes[name], nodes["rgb"]
        assert {n for n in {*ours, *base} if ours.get(n) != base.get(n)} == differs
    assert nodes["lrgb"]["channels"].parameters == {"palette": "LRGB"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("extends: rbg", "x.yaml: extends: unknown preset 'rbg'; did you mean 'rgb'"),
        ("extends: [rgb]", "x.yaml: 'extends' should name a preset or a file"),
        ("extends: x.yaml", "x.yaml: extends: x.yaml extends this one"),
        ("extends: gone.yaml", "x.yaml: extends: workflow file .*gone.yaml: No such file"),
        (
            "extends: rgb\nnodes:\n  strech: null",
            "x.yaml: node 'strech': nothing to leave out; did you mean 'stretch'",
        ),
        ("nodes:\n  stretch: null", "x.yaml: node 'stretch' should be a mapping"),
        ("name: x", "x.yaml: 'nodes' should map"),
    ],
)
def test_what_cannot_be_extended_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_workflow(path)
    assert "\n" not in str(caught.value)


def test_two_that_extend_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with pytest.raises(ConfigError, match=r"a.yaml: extends: .*b.yaml: extends: a.yaml extends this one"):
        load_workflow(tmp_path / "a.yaml")
