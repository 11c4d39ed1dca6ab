"""The command line: `skyloom`. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyloom.ops.errors import ConfigError, SkyloomError
from skyloom.workflows.cli_examples import epilog

if TYPE_CHECKING:
    from skyloom.workflows.graph import Workflow
    from skyloom.workflows.plan import Plan

EPILOG = """\
WORKFLOW is the name of a preset (skyloom workflows) or a YAML file; FILES are frames or folders of frames.
Running again resumes: finished work is kept, changed parameters redo only what depends on them.

Exit codes, for scripts:
  0    done
  1    failed in a way nobody foresaw (with a traceback; please report it)
  2    refused before anything ran: the command, the workflow or its files have to be changed
  3    stopped by data: input files changed or went while they were used, or cannot be used
  4    stopped by the machine: disk full or not writable, out of memory, a task that hangs
  5    another run is at work in the project
  6    no cluster: no scheduler or worker, workers lost, or they run another skyloom
  130  stopped by Ctrl-C or SIGTERM (as batch systems send before they kill)
After 3, 4, 5, 6 and 130 what is done is kept: once the cause is gone the same command goes on.
"""


# Kernels use one thread each, parallelism comes from tasks: pools of other libraries only get in the way.
# Set before a command imports numpy (skyloom.ops.errors does not).
for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")


class _Parser(argparse.ArgumentParser):
    """A mistyped command line is a user's mistake like any other: one line, exit code 2."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see `EPILOG`)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        options = command_parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except SkyloomError as problem:
        _take_back(problem)
        if debug:
            raise
        print(f"skyloom: {' '.join(str(problem).split())}", file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        print("skyloom: abandoned; run the same command again to go on: what is done is kept", file=sys.stderr)
        sys.stderr.flush()
        # Tasks in threads cannot be stopped; what they have not journaled will be done again.
        os._exit(130)
    except BrokenPipeError:
        # The reader (head, less) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _take_back(problem: SkyloomError) -> None:
    """Have the next run mend a result that a command found damaged: it would not read it otherwise."""
    module = sys.modules.get("skyloom.workflows.stored")
    if module is None or not isinstance(problem, module.DamagedResult):
        return
    from skyloom.workflows.places import place
    from skyloom.workflows.store import Store

    # A project that cannot be written to cannot be mended either.
    with suppress(SkyloomError, OSError):
        Store(place(problem.root).parent).take_back(problem)


def command_parser() -> argparse.ArgumentParser:
    """Parser of the whole command line, a subparser a command."""
    parser = _Parser(
        prog="skyloom",
        description="Deep, seamless, photometrically honest mosaics of the sky from any number of frames.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    def add(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=epilog(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(command=function)
        return sub

    demo = add("demo", _demo, "simulate a small mosaic session, run all of it, say where the picture is")
    demo.add_argument("-o", "--output", default="skyloom-demo", metavar="FOLDER", help="where (%(default)s)")
    demo.add_argument("--seed", type=int, default=1, help="which sky (%(default)s)")

    inspect = add("inspect", _inspect, "show what is here and what is wrong with it")
    inspect.add_argument("files", nargs="+", metavar="FILES")
    inspect.add_argument("--json", action="store_true", help="as JSON")

    link = add("link", _link, "show which calibration frames belong to which light, and why")
    link.add_argument("files", nargs="+", metavar="FILES")
    link.add_argument(
        "--workflow", default="raw", metavar="WORKFLOW", help="whose rules: preset or YAML (%(default)s)"
    )
    link.add_argument("--set", action="append", default=[], metavar="NODE.PARAM=VALUE", help="change a parameter")
    link.add_argument("--diagram", metavar="FILE", help="draw it: .svg or .mmd (Mermaid)")
    link.add_argument("--json", action="store_true", help="as JSON")

    plan = add("plan", _plan, "show the graph and what it will cost, before a pixel moves")
    _add_job(plan)
    plan.add_argument("-o", "--output", metavar="PROJECT", help="project folder: its disk and finished work count")
    plan.add_argument("--json", action="store_true", help="as JSON")
    plan.add_argument("--graph", metavar="FILE", help="draw the graph: .svg or .mmd (Mermaid)")

    run = add("run", _run, "run a workflow, going on where an earlier run stopped")
    _add_job(run)
    run.add_argument("-o", "--output", metavar="PROJECT", required=True, help="project folder")
    run.add_argument(
        "--scheduler",
        default="threads",
        metavar="ADDRESS",
        help="threads, synchronous, or a dask scheduler's address (%(default)s)",
    )
    run.add_argument(
        "--cluster",
        metavar="KIND",
        help="start a cluster for this run: local, slurm, ssh, or a YAML file that describes one",
    )
    run.add_argument(
        "--task-timeout",
        type=float,
        metavar="SECONDS",
        help="try a task again that takes longer (on a cluster: 20 times what like tasks took; else: never)",
    )
    run.add_argument("--quiet", action="store_true", help="no progress")
    run.add_argument("--json", action="store_true", help="what was done as JSON, on standard output")
    run.add_argument("--no-report", action="store_true", help="leave no report.html")

    status = add("status", _status, "show how far a project is")
    status.add_argument("project", metavar="PROJECT")
    status.add_argument("files", nargs="*", metavar="FILES", help="say what would be done with these, and why")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.add_argument(
        "--check", action="store_true", help="read all results back; the next run mends what is damaged"
    )

    pixel = add(
        "pixel", _pixel, "show what went into a pixel: frames, their values and weights, what was rejected"
    )
    pixel.add_argument("project", metavar="PROJECT")
    pixel.add_argument("x", nargs="?", type=int, metavar="X", help="column, from 0 (FITS viewers count from 1)")
    pixel.add_argument("y", nargs="?", type=int, metavar="Y", help="row, from 0")
    pixel.add_argument(
        "--radec", metavar="PLACE", help='instead of X Y: "10.68 +41.27", "00:42:44 +41:16:09", "M 31"'
    )
    pixel.add_argument("--node", help="whose (the newest of integrate or drizzle)")
    pixel.add_argument("--band", help="only this band")
    pixel.add_argument("--json", action="store_true", help="as JSON")

    report = add("report", _report, "write a page that shows what a project's run did and how good the result is")
    report.add_argument("project", metavar="PROJECT")

    view = add("view", _view, "show a project in the browser: pan, zoom, stretch, compare, see what made a pixel")
    view.add_argument("project", metavar="PROJECT")
    view.add_argument("--node", help="shown first (the last picture)")
    view.add_argument("--port", type=int, default=0, help="on this machine (any that is free)")
    view.add_argument("--no-browser", action="store_true", help="only print the address")

    export = add("export", _export, "write a node's image to a file; the ending chooses the format")
    export.add_argument("project", metavar="PROJECT")
    export.add_argument("node", metavar="NODE")
    export.add_argument("file", metavar="FILE", help=".fits, .xisf, .tif, .png or .jpg")
    export.add_argument("--band", help="which band")
    export.add_argument("--variable", default="image", help="image, variance, weight, count, … (%(default)s)")
    export.add_argument(
        "--max-side", type=int, default=4096, help="longest side of a PNG or JPEG (%(default)s px)"
    )
    export.add_argument(
        "--depth",
        type=int,
        choices=(8, 16, 32),
        help="bits of a PNG of a picture (8, 16) or a TIFF (16, 32: floats)",
    )

    hips = add("hips", _hips, "write an image as a HiPS, which Aladin and other sky atlases open")
    hips.add_argument("project", metavar="PROJECT")
    hips.add_argument("node", metavar="NODE")
    hips.add_argument("folder", metavar="OUT", help="a folder that is not there yet")
    hips.add_argument("--band", help="which band")
    hips.add_argument("--variable", default="image", help="image, variance, weight, count, … (%(default)s)")
    hips.add_argument("--order", type=int, metavar="N", help="finest HEALPix order (by the canvas' pixels)")
    hips.add_argument("--workers", type=int, metavar="N", help="tiles at a time (the cores there are)")

    simulate = add("simulate", _simulate, "make a session of frames with known truth")
    simulate.add_argument("folder", metavar="OUT")
    _add_simulation(simulate)

    workflows = add("workflows", _workflows, "list the presets")
    workflows.add_argument("name", nargs="?", help="show this preset as YAML, complete with all parameters")
    workflows.add_argument("--json", action="store_true", help="as JSON")

    ops = add("ops", _ops, "list the ops with their parameters, units and defaults")
    ops.add_argument("name", nargs="?", help="only this op")
    ops.add_argument("--json", action="store_true", help="as JSON")

    completion = add("completion", _completion, "print a script that makes a shell complete this command line")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow", metavar="WORKFLOW", help="preset or YAML file")
    parser.add_argument("files", nargs="+", metavar="FILES")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.PARAM=VALUE",
        help="change a parameter (may be repeated)",
    )
    parser.add_argument(
        "--solution",
        metavar="HOW",
        help="of frames the project knows: keep (new frames are solved against them), auto (unless these differ "
        "too much), new, or a project whose frames are held; sets it in all nodes that have one",
    )
    parser.add_argument("--memory", metavar="SIZE", help="limit, such as 8GiB (three quarters of what is free)")
    parser.add_argument("--workers", type=int, metavar="N", help="tasks at a time (the cores there are)")
    parser.add_argument("--until", metavar="NODE", help="stop after this node")


def _add_simulation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--panels", default="2x2", metavar="ROWSxCOLUMNS", help="panels (%(default)s)")
    parser.add_argument("--frames", type=int, default=4, help="frames a panel and band (%(default)s)")
    parser.add_argument(
        "--size", default="1024", metavar="PX", help="side of a frame, or WIDTHxHEIGHT (%(default)s)"
    )
    parser.add_argument("--scale", type=float, metavar="ARCSEC", help="of a pixel (2; 4 of small frames)")
    parser.add_argument("--overlap", type=float, default=0.15, help="fraction of a side (%(default)s)")
    parser.add_argument("--bands", default="L", help="filters, with commas; CFA = a colour sensor (%(default)s)")
    parser.add_argument("--nights", type=int, default=2, help="nights (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which sky and which noise (%(default)s)")
    parser.add_argument(
        "--lazy",
        action="store_true",
        help="write no frames but one small file; they are computed where they are read, on any canvas",
    )
    parser.add_argument(
        "--raw", action="store_true", help="raw frames with bias, dark and flat frames beside them"
    )
    hard = parser.add_argument_group("frames that are hard to place")
    hard.add_argument("--no-wcs", action="store_true", help="headers do not say where the frames look")
    hard.add_argument("--flip", action="store_true", help="half of each panel's frames upside down")
    hard.add_argument("--turn", type=float, metavar="DEGREES", help="rms of the camera's rotation (0.2)")
    hard.add_argument("--dither", type=float, metavar="PX", help="rms of the pointing (10)")
    hard.add_argument("--barrel", type=float, default=0.0, metavar="PX", help="distortion at the corner (none)")
    hard.add_argument(
        "--second-camera",
        type=float,
        metavar="SCALE",
        help="another camera, with this times the pixel scale, takes every other frame of a panel",
    )
    hard.add_argument("--stars", type=int, help="stars that can be found in a frame, about")
    hard.add_argument("--hot", type=float, default=0.0, metavar="FRACTION", help="hot pixels (none)")
    hard.add_argument(
        "--bad", type=int, default=0, metavar="N", help="useless frames more: clouded, trailed, capped, elsewhere"
    )
    raw = parser.add_argument_group("raw frames")
    raw.add_argument("--faults", action="store_true", help="plant faults: a missing flat, a wrong dark, …")
    raw.add_argument("--layout", default="plain", help="files: plain, shuffled, scattered, typed (%(default)s)")
    raw.add_argument(
        "--dialect", default="skyloom", help="headers: skyloom, nina, asiair, sgp, maxim, ekos (%(default)s)"
    )
    raw.add_argument("--flat-darks", action="store_true", help="darks of the flats' exposures")
    raw.add_argument("--overscan", type=int, default=0, metavar="COLUMNS", help="columns without light (none)")
    raw.add_argument("--pedestal", type=float, default=0.0, metavar="DN", help="added to lights (%(default)s)")
    raw.add_argument("--rigs", type=int, default=1, help="cameras and telescopes, 1 or 2 (%(default)s)")


def _version() -> str:
    from importlib.metadata import version

    return f"skyloom {version('skyloom')}"


def _print(*items: Any) -> None:
    from rich.console import Console

    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 140)
    for item in items:
        console.print(item, markup=False, highlight=False)


@contextmanager
def _loading() -> Iterator[None]:
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


def _workflow(options: argparse.Namespace) -> Workflow:
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
    with _loading():
        from skyloom.workflows.plan import make_plan

        workflow = _workflow(options)
    return make_plan(
        workflow,
        options.files,
        project=options.output,
        memory=_memory(options),
        workers=_workers(options),
    )


def _plan(options: argparse.Namespace) -> int:
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


def _run(options: argparse.Namespace) -> int:
    with _loading():
        from skyloom.workflows import tables
        from skyloom.workflows.progress import Silent, reporter
        from skyloom.workflows.runner import run_workflow

        workflow = _workflow(options)
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


def _inspect(options: argparse.Namespace) -> int:
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


def _link(options: argparse.Namespace) -> int:
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


def _status(options: argparse.Namespace) -> int:
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


def _pixel(options: argparse.Namespace) -> int:
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


def _report(options: argparse.Namespace) -> int:
    with _loading():
        from skyloom.workflows.report.page import write_report

    print(write_report(options.project))
    return 0


def _view(options: argparse.Namespace) -> int:
    with _loading():
        from skyloom.workflows.viewer.command import open_server, serve

    server = open_server(options.project, node=options.node, port=options.port)
    serve(server, browser=not options.no_browser)
    return 0


def _export(options: argparse.Namespace) -> int:
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


def _hips(options: argparse.Namespace) -> int:
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


def _completion(options: argparse.Namespace) -> int:
    from skyloom.configs.loader import preset_names
    from skyloom.ops.registry import all_ops
    from skyloom.workflows.completion import completion_script

    presets = preset_names()
    first = {"plan": presets, "run": presets, "workflows": presets, "ops": list(all_ops())}
    print(completion_script(command_parser(), options.shell, first=first), end="")
    return 0


def _simulate(options: argparse.Namespace) -> int:
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


def _demo(options: argparse.Namespace) -> int:
    from skyloom.workflows import tables
    from skyloom.workflows.demo import run_demo
    from skyloom.workflows.places import local
    from skyloom.workflows.progress import reporter

    report, picture = run_demo(local(options.output, "the demo"), seed=options.seed, reporter=reporter())
    _print(*tables.run_tables(report))
    print(f"The picture: {picture}")
    return 0


def _workflows(options: argparse.Namespace) -> int:
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


def _ops(options: argparse.Namespace) -> int:
    from skyloom.ops.registry import all_ops, get_op
    from skyloom.workflows import tables

    ops = [get_op(options.name)] if options.name else list(all_ops().values())
    if options.json:
        print(json.dumps([op.to_dict() for op in ops], indent=2))
    else:
        _print(*tables.op_tables(ops))
    return 0
