"""What the commands of the command line do. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from skyloom.ops.errors import ConfigError

if TYPE_CHECKING:
    from skyloom.workflows.graph import Workflow
    from skyloom.workflows.plan import Plan


def _print(*items: Any) -> None:
    from rich.console import Console

    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 140)
    for item in items:
        console.print(item, markup=False, highlight=False)


@contextmanager
def loading() -> Iterator[None]:
    """Import without the collector of cycles, and keep what was imported out of its later rounds.

    A million objects are made that all stay: looking through them again and again is a third of the start-up.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def chosen_workflow(options: argparse.Namespace) -> Workflow:
    """Workflow a command line names, with what it changes in it."""
    from skyloom.workflows.graph import Workflow

    workflow = Workflow.load(options.workflow)
    if options.solution is not None:
        with_solutions = [n.name for n in workflow.nodes if "solution" in n.op.parameters]
        if not with_solutions:
            raise ConfigError(
                f"--solution {options.solution}: no node of {workflow.name!r} has a solution to keep"
            )
        workflow = workflow.with_parameters({f"{name}.solution": options.solution for name in with_solutions})
    if options.set:
        workflow = workflow.with_parameters(dict(_setting(text) for text in options.set))
    return workflow.until(options.until, write=True) if options.until else workflow


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: write node.parameter=value")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text}: the value is no YAML") from None


def _memory(options: argparse.Namespace) -> float | None:
    from skyloom.workflows.machine import parse_bytes

    return parse_bytes(options.memory) if options.memory else None


def _workers(options: argparse.Namespace) -> int:
    from skyloom.workflows.schedulers import default_workers

    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: at least 1")
    return options.workers or default_workers()


def _make_plan(options: argparse.Namespace) -> Plan:
    with loading():
        from skyloom.workflows.plan import make_plan

        workflow = chosen_workflow(options)
    return make_plan(
        workflow,
        options.files,
        project=options.output,
        memory=_memory(options),
        workers=_workers(options),
    )


def plan(options: argparse.Namespace) -> int:
    """Show what a run would do and cost."""
    plan = _make_plan(options)
    from skyloom.workflows import drawing, tables
    from skyloom.workflows.store import disk_errors

    if options.graph:
        path = Path(options.graph)
        if path.suffix not in {".svg", ".mmd"}:
            raise ConfigError(f"--graph {path}: the ending should be .svg or .mmd")
        with disk_errors(f"writing {path}"):
            path.write_text(
                drawing.svg(plan) if path.suffix == ".svg" else drawing.mermaid(plan), encoding="utf-8"
            )
    if options.json:
        print(json.dumps(plan.to_dict(), indent=2))
    else:
        _print(*tables.plan_tables(plan))
    plan.check()
    return 0


def run(options: argparse.Namespace) -> int:
    """Run a workflow."""
    with loading():
        from skyloom.workflows import tables
        from skyloom.workflows.progress import Silent, reporter
        from skyloom.workflows.runner import run_workflow

        workflow = chosen_workflow(options)
    if options.task_timeout is not None and not options.task_timeout > 0:
        raise ConfigError(f"--task-timeout {options.task_timeout:g}: seconds, more than 0")
    report = run_workflow(
        workflow,
        options.files,
        project=options.output,
        scheduler=_scheduler(options),
        workers=_workers(options),
        memory=_memory(options),
        reporter=Silent() if options.quiet else reporter(),
        page=not options.no_report,
        task_timeout=options.task_timeout,
    )
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _print(*tables.run_tables(report))
    return 0


def _scheduler(options: argparse.Namespace) -> Any:
    """Where the tasks run: what --scheduler says, or the cluster --cluster describes."""
    if options.cluster is None:
        return options.scheduler
    from dataclasses import replace

    from skyloom.workflows.clusters import ClusterSpec

    if options.scheduler != "threads":
        raise ConfigError(f"--cluster {options.cluster} starts a scheduler of its own: leave --scheduler out")
    spec = ClusterSpec.load(options.cluster)
    return replace(spec, workers=options.workers) if options.workers is not None else spec


def inspect(options: argparse.Namespace) -> int:
    """Show frames as they were understood."""
    from skyloom.ops.session.ingest import describe, ingest
    from skyloom.workflows import tables

    session = ingest(options.files, take="all")
    rows = describe(session)
    left_out = json.loads(session.attrs["left_out"])
    if options.json:
        print(json.dumps({"frames": rows, "left_out": left_out}, indent=2))
    else:
        _print(*tables.inspect_tables(rows, left_out))
    return 0


def link(options: argparse.Namespace) -> int:
    """Show which calibration frames belong to which light."""
    from skyloom.workflows import link_drawing, link_report, link_tables
    from skyloom.workflows.evaluate import evaluate
    from skyloom.workflows.graph import Workflow
    from skyloom.workflows.store import disk_errors

    workflow = Workflow.load(options.workflow)
    if options.set:
        workflow = workflow.with_parameters(dict(_setting(text) for text in options.set))
    node = next((n for n in workflow.nodes if n.op.name == "link"), None)
    if node is None:
        raise ConfigError(f"workflow {options.workflow!r} links nothing (it has no node of the op 'link')")
    # To see what is broken nothing must be refused for it.
    policy = str(node.parameters["on_broken"])
    shown = workflow.with_parameters({f"{node.name}.on_broken": "without"}).until(node.name)
    steps = evaluate(shown, options.files)
    links, session = steps[node.name].dataset, steps[node.inputs["session"]].dataset
    assert links is not None
    assert session is not None
    if options.diagram:
        path = Path(options.diagram)
        drawings = {".svg": link_drawing.link_svg, ".mmd": link_drawing.link_mermaid}
        if path.suffix not in drawings:
            raise ConfigError(f"--diagram {path}: the ending should be .svg or .mmd")
        with disk_errors(f"writing {path}"):
            path.write_text(drawings[path.suffix](links, session), encoding="utf-8")
    if options.json:
        print(json.dumps(link_report.links_report(links, session), indent=2))
    else:
        notes = json.loads(session.attrs.get("notes", "[]"))
        _print(*link_tables.link_tables(links, session, policy=policy), *notes)
    return 0


def status(options: argparse.Namespace) -> int:
    """Show what a project has and lacks."""
    from skyloom.workflows import tables
    from skyloom.workflows.quality import quality
    from skyloom.workflows.status import open_project, project_status, still_to_do
    from skyloom.workflows.verify import check_results

    checked = check_results(open_project(options.project)) if options.check else []
    rows, left_out = project_status(options.project)
    lines = quality(open_project(options.project))
    to_do = still_to_do(options.project, options.files) if options.files else []
    if options.json:
        told = {"nodes": rows, "left_out": left_out, "quality": lines, "to_do": to_do, "checked": checked}
        print(json.dumps(told, indent=2))
    else:
        _print(*tables.status_tables(rows, left_out, [*lines, *to_do, *checked]))
    return 0


def pixel(options: argparse.Namespace) -> int:
    """Show what went into a pixel."""
    from skyloom.workflows import tables
    from skyloom.workflows.pixel import pixel_answer

    numbers = [v for v in (options.x, options.y) if v is not None]
    if len(numbers) != (0 if options.radec else 2):
        raise ConfigError("say where: X and Y (pixels from 0), or --radec")
    answer = pixel_answer(
        options.project,
        place=(options.x, options.y) if numbers else None,
        target=options.radec,
        node=options.node,
        band=options.band,
    )
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        _print(*tables.pixel_tables(answer))
    return 0


def report(options: argparse.Namespace) -> int:
    """Write a project's page."""
    with loading():
        from skyloom.workflows.report.page import write_report

    print(write_report(options.project))
    return 0


def view(options: argparse.Namespace) -> NoReturn:
    """Serve a project to the browser until it is stopped, and end the process."""
    with loading():
        from skyloom.workflows.viewer.command import open_server, serve

    server = open_server(options.project, node=options.node, port=options.port)
    serve(server, browser=not options.no_browser)
    sys.stdout.flush()
    # Threads that make tiles only read; those in the middle of it would meet an interpreter that shuts down.
    os._exit(0)


def export(options: argparse.Namespace) -> int:
    """Write a result as a file."""
    from skyloom.workflows.export import export_file
    from skyloom.workflows.places import as_folder, place
    from skyloom.workflows.status import open_project

    store = open_project(options.project)
    target = place(options.file)
    if isinstance(target, Path):
        where: Any = nullcontext((target.parent, None))
    else:
        where = as_folder(target.parent)
    with where as (folder, _):
        export_file(
            store.open(options.node),
            folder / target.name,
            variable=options.variable,
            band=options.band,
            max_side=options.max_side,
            depth=options.depth,
        )
    print(target)
    return 0


def hips(options: argparse.Namespace) -> int:
    """Write a result as a HiPS."""
    from skyloom.workflows.hips import write_hips
    from skyloom.workflows.places import local
    from skyloom.workflows.status import open_project

    folder = local(options.folder, "a HiPS")
    write_hips(
        open_project(options.project).open(options.node),
        folder,
        variable=options.variable,
        band=options.band,
        order=options.order,
        workers=_workers(options),
    )
    print(folder)
    return 0


def completion(options: argparse.Namespace) -> int:
    """Print the script for a shell."""
    from skyloom.configs.loader import preset_names
    from skyloom.ops.registry import all_ops
    from skyloom.workflows.cli import command_parser
    from skyloom.workflows.completion import completion_script

    presets = preset_names()
    first = {"plan": presets, "run": presets, "workflows": presets, "ops": list(all_ops())}
    print(completion_script(command_parser(), options.shell, first=first), end="")
    return 0


def simulate(options: argparse.Namespace) -> int:
    """Write a simulated session."""
    from skyloom.workflows.places import local
    from skyloom.workflows.progress import reporter
    from skyloom.workflows.simulate import (
        image_size,
        placing_options,
        raw_options,
        session_from_options,
        simulate_and_report,
        write_session,
    )

    folder = local(options.folder, "a simulated session")
    session = session_from_options(
        panels=options.panels,
        frames=options.frames,
        size=image_size(options.size),
        overlap=options.overlap,
        bands=[b.strip() for b in options.bands.split(",") if b.strip()],
        nights=options.nights,
        seed=options.seed,
        raw=options.raw,
        scale=options.scale,
    )
    session = raw_options(
        session,
        faults=options.faults,
        layout=options.layout,
        dialect=options.dialect,
        flat_darks=options.flat_darks,
        overscan=options.overscan,
        pedestal=options.pedestal,
        rigs=options.rigs,
    )
    session = placing_options(
        session,
        solved=not options.no_wcs,
        flip=options.flip,
        turn=options.turn,
        dither=options.dither,
        barrel=options.barrel,
        second_scale=options.second_camera,
        stars=options.stars,
        hot=options.hot,
        bad=options.bad,
    )
    if options.lazy:
        path = write_session(folder, session)
        print(f"{len(session)} frames in {path}, the truth in {path.parent / 'truth.json'}")
        return 0
    shown = reporter()
    try:
        paths = simulate_and_report(folder, session, shown)
    finally:
        shown.close()
    print(f"{len(paths)} frames in {options.folder}, the truth in {folder / 'truth.json'}")
    return 0


def demo(options: argparse.Namespace) -> int:
    """Simulate a session and run it."""
    from skyloom.workflows import tables
    from skyloom.workflows.demo import run_demo
    from skyloom.workflows.places import local
    from skyloom.workflows.progress import reporter

    report, picture = run_demo(local(options.output, "the demo"), seed=options.seed, reporter=reporter())
    _print(*tables.run_tables(report))
    print(f"The picture: {picture}")
    return 0


def workflows(options: argparse.Namespace) -> int:
    """Show presets."""
    from skyloom.configs.loader import preset_names
    from skyloom.workflows.graph import Workflow

    if options.json:
        names = [options.name] if options.name else preset_names()
        print(json.dumps([Workflow.load(name).to_dict() for name in names], indent=2))
        return 0
    if options.name:
        print(Workflow.load(options.name).to_yaml(), end="")
        return 0
    for name in preset_names():
        workflow = Workflow.load(name)
        print(f"{name}: {workflow.description}")
        print(f"    {' → '.join(workflow.names)}")
    return 0


def ops(options: argparse.Namespace) -> int:
    """Show ops and their parameters."""
    from skyloom.ops.registry import all_ops, get_op
    from skyloom.workflows import tables

    ops = [get_op(options.name)] if options.name else list(all_ops().values())
    if options.json:
        print(json.dumps([op.to_dict() for op in ops], indent=2))
    else:
        _print(*tables.op_tables(ops))
    return 0
