"""The plan's numbers come from the same graph and the same cost the runner uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from skyloom.ops.errors import CapacityError, DataError
from skyloom.workflows import drawing
from skyloom.workflows import plan as plan_module
from skyloom.workflows.graph import Workflow
from skyloom.workflows.machine import BASE_BYTES
from skyloom.workflows.plan import make_plan
from skyloom.workflows.runner import run_workflow

Numbers = Callable[..., list[Path]]


def test_counts_of_a_plan(toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers) -> None:
    plan = make_plan(toy_workflow, numbers(1, 2), memory=2**30, workers=4)
    tiles = next(n for n in plan.nodes if n.name == "tiles")
    assert (tiles.units, tiles.empty, tiles.done, tiles.workers) == (15, 1, 0, 4)
    assert tiles.bytes_written == 15 * 8 * 8 * 4
    assert tiles.bytes_read == 15 * 256
    assert tiles.memory == BASE_BYTES + 4 * 2e6
    assert tiles.seconds == pytest.approx(15 / 4)
    assert toy["computed"] == [], "a plan computes nothing"
    json.dumps(plan.to_dict())


def test_fewer_tasks_at_a_time_where_memory_is_short(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers
) -> None:
    heavy = toy_workflow.with_parameters({"tiles.gain": 100.0})  # 100 MB a task
    plan = make_plan(heavy, numbers(1), memory=BASE_BYTES + 250e6, workers=4)
    tiles = next(n for n in plan.nodes if n.name == "tiles")
    assert tiles.workers == 2
    assert tiles.memory == BASE_BYTES + 2e8
    plan.check()


def test_disk_too_small_is_refused(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyloom.workflows.plan._disk_free", lambda store: 1000.0)
    plan = make_plan(toy_workflow, numbers(1), project=tmp_path / "p", memory=2**30)
    with pytest.raises(CapacityError, match=r"writes up to 3.8 KiB .* in node 'tiles'.*1000 B are free"):
        plan.check()


def test_disk_of_what_compresses_is_what_is_left(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost_of = plan_module.node_cost
    monkeypatch.setattr(plan_module, "node_cost", lambda *given: replace(cost_of(*given), stored=0.25))
    plan = make_plan(toy_workflow, numbers(1, 2), memory=2**30)
    assert next(n for n in plan.nodes if n.name == "tiles").bytes_written == 15 * 8 * 8 * 4 / 4


def test_done_work_costs_nothing(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    files = numbers(1, 2)
    toy["fail"] = (3, 3)
    with pytest.raises(DataError):
        run_workflow(toy_workflow, files, project=tmp_path / "p", scheduler="synchronous")
    plan = make_plan(toy_workflow, files, project=tmp_path / "p")
    tiles = next(n for n in plan.nodes if n.name == "tiles")
    assert (tiles.units, tiles.done) == (1, 14)
    toy["fail"] = None
    run_workflow(toy_workflow, files, project=tmp_path / "p")
    assert all(n.stored for n in make_plan(toy_workflow, files, project=tmp_path / "p").nodes if n.name != "read")


def test_graph_pictures_name_every_node_and_edge(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers
) -> None:
    plan = make_plan(toy_workflow, numbers(1))
    text = drawing.mermaid(plan)
    for edge in ("files --> read", "read --> tiles", "tiles --> total"):
        assert edge in text
    picture = drawing.svg(plan)
    ElementTree.fromstring(picture)
    assert picture.count("<rect") == 1 + 4
    assert picture.count("marker-end") == 3
