"""Workflows are checked before anything runs, and every mistake is one line with file and node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skyloom.configs.loader import parse_workflow
from skyloom.ops.errors import ConfigError
from skyloom.workflows.graph import Workflow

GOOD = """
name: toy
nodes:
  read: {op: toy_read, inputs: [files]}
  tiles: {op: toy_tiles, inputs: [read], parameters: {gain: 3}}
  total: {op: toy_total, inputs: {tiles: tiles}}
"""


def load(text: str) -> Workflow:
    return Workflow.from_spec(parse_workflow(text, origin="toy.yaml"))


def test_order_follows_from_names(toy: dict[str, Any], toy_workflow: Workflow) -> None:
    assert toy_workflow.names == ["read", "tiles", "total"]
    assert load(GOOD).names == ["read", "tiles", "total"]


def test_parameters_are_complete_and_typed(toy: dict[str, Any]) -> None:
    assert load(GOOD)["tiles"].parameters == {"gain": 3.0, "tiles": 4, "task_memory": 1e9}


def test_yaml_of_a_workflow_reads_back(toy: dict[str, Any]) -> None:
    again = load(load(GOOD).to_yaml())
    assert again == load(GOOD)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("op: toy_tiles", "op: toy_tile"), ["toy.yaml: node 'tiles'", "unknown op 'toy_tile'", "'toy_tiles'"]),
        (("gain: 3", "gian: 3"), ["toy.yaml: node 'tiles'", "no parameter 'gian'", "did you mean 'gain'"]),
        (("gain: 3", "gain: high"), ["node 'tiles'", "gain = 'high' should be float"]),
        (("gain: 3", "gain: -1"), ["node 'tiles'", "gain = -1 is out of range: 0 to 1e+09"]),
        (("gain: 3", "gain: .nan"), ["node 'tiles'", "gain = nan should be float"]),
        (("gain: 3", "tiles: true"), ["node 'tiles'", "tiles = True should be int"]),
        (("gain: 3", "tiles: 2.5"), ["node 'tiles'", "tiles = 2.5 should be int"]),
        (("inputs: [read]", "inputs: [raed]"), ["node 'tiles'", "nothing produces its input 'raed'", "'read'"]),
        (("inputs: [read]", "inputs: [total]"), ["toy.yaml: the nodes form a cycle", "tiles", "total"]),
        (("inputs: [read]", "inputs: [read, read]"), ["node 'tiles'", "takes 1 inputs (numbers), got 2"]),
        (("inputs: [read]", "inputs: []"), ["node 'tiles'", "needs its input 'numbers'"]),
        (("{tiles: tiles}", "{tile: tiles}"), ["node 'total'", "no input 'tile'", "'tiles'"]),
        (("nodes:", "nodse:"), ["toy.yaml: unknown key 'nodse'", "did you mean 'nodes'"]),
        (
            ("op: toy_tiles,", "opp: toy_tiles,"),
            ["toy.yaml: node 'tiles': unknown key 'opp'", "did you mean 'op'"],
        ),
        (("  total:", "  tiles:"), ["toy.yaml, line 6: 'tiles' is given twice"]),
        (("name: toy", "name: [toy"), ["toy.yaml, line"]),
        (("read: {", "../read: {"), ["'../read'", "names a group"]),
    ],
)
def test_mistakes_are_one_clear_line(toy: dict[str, Any], change: tuple[str, str], says: list[str]) -> None:
    assert change[0] in GOOD
    with pytest.raises(ConfigError) as caught:
        load(GOOD.replace(*change, 1))
    message = str(caught.value)
    assert "\n" not in message
    for part in says:
        assert part in message


def test_a_file_runs_no_code(toy: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "made"
    evil = GOOD.replace("gain: 3", f"gain: !!python/object/apply:pathlib.Path.touch ['{target}']")
    with pytest.raises(ConfigError, match=r"toy.yaml, line 5"):
        load(evil)
    with pytest.raises(ConfigError, match="unknown op"):
        load(GOOD.replace("op: toy_read", "op: os.system"))
    assert not target.exists()


def test_set_checks_node_parameter_and_value(toy_workflow: Workflow) -> None:
    changed = toy_workflow.with_parameters({"tiles.gain": 5})
    assert changed["tiles"].parameters["gain"] == 5.0
    with pytest.raises(ConfigError, match="no node 'tile'; did you mean 'tiles'"):
        toy_workflow.with_parameters({"tile.gain": 5})
    with pytest.raises(ConfigError, match="no parameter 'gan'; did you mean 'gain'"):
        toy_workflow.with_parameters({"tiles.gan": 5})
    with pytest.raises(ConfigError, match=r"node 'tiles': gain = '5' should be float"):
        toy_workflow.with_parameters({"tiles.gain": "5"})


def test_until_keeps_what_is_needed(toy_workflow: Workflow) -> None:
    assert toy_workflow.until("tiles").names == ["read", "tiles"]


def test_keys_follow_content_not_execution(toy_workflow: Workflow) -> None:
    tiles = toy_workflow["tiles"]
    other = toy_workflow.with_parameters({"tiles.gain": 5})["tiles"]
    tuned = toy_workflow.with_parameters({"tiles.task_memory": 5})["tiles"]
    assert tiles.key(["a"]) == tuned.key(["a"])
    assert len({tiles.key(["a"]), other.key(["a"]), tiles.key(["b"])}) == 3
