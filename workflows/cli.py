"""The command line: `skyloom`, its options and its exit codes. `commands` does what they ask for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from skyloom.ops.errors import ConfigError, SkyloomError
from skyloom.workflows import commands
from skyloom.workflows.cli_examples import epilog

if TYPE_CHECKING:
    pass

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
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    def add(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=epilog(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(command=function)
        return sub

    demo = add("demo", commands.demo, "simulate a small mosaic session, run all of it, say where the picture is")
    demo.add_argument("-o", "--output", default="skyloom-demo", metavar="FOLDER", help="where (%(default)s)")
    demo.add_argument("--seed", type=int, default=1, help="which sky (%(default)s)")

    inspect = add("inspect", commands.inspect, "show what is here and what is wrong with it")
    inspect.add_argument("files", nargs="+", metavar="FILES")
    inspect.add_argument("--json", action="store_true", help="as JSON")

    link = add("link", commands.link, "show which calibration frames belong to which light, and why")
    link.add_argument("files", nargs="+", metavar="FILES")
    link.add_argument(
        "--workflow", default="raw", metavar="WORKFLOW", help="whose rules: preset or YAML (%(default)s)"
    )
    link.add_argument("--set", action="append", default=[], metavar="NODE.PARAM=VALUE", help="change a parameter")
    link.add_argument("--diagram", metavar="FILE", help="draw it: .svg or .mmd (Mermaid)")
    link.add_argument("--json", action="store_true", help="as JSON")

    plan = add("plan", commands.plan, "show the graph and what it will cost, before a pixel moves")
    _add_job(plan)
    plan.add_argument(
        "-o",
        "--output",
        metavar="PROJECT",
        help="project folder, or s3://BUCKET/…: its disk and finished work count",
    )
    plan.add_argument("--json", action="store_true", help="as JSON")
    plan.add_argument("--graph", metavar="FILE", help="draw the graph: .svg or .mmd (Mermaid)")

    run = add("run", commands.run, "run a workflow, going on where an earlier run stopped")
    _add_job(run)
    run.add_argument("-o", "--output", metavar="PROJECT", required=True, help="project folder, or s3://BUCKET/…")
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

    status = add("status", commands.status, "show how far a project is")
    status.add_argument("project", metavar="PROJECT")
    status.add_argument("files", nargs="*", metavar="FILES", help="say what would be done with these, and why")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.add_argument(
        "--check", action="store_true", help="read all results back; the next run mends what is damaged"
    )

    pixel = add(
        "pixel", commands.pixel, "show what went into a pixel: frames, their values and weights, what was rejected"
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

    report = add(
        "report", commands.report, "write a page that shows what a project's run did and how good the result is"
    )
    report.add_argument("project", metavar="PROJECT")

    view = add(
        "view", commands.view, "show a project in the browser: pan, zoom, stretch, compare, see what made a pixel"
    )
    view.add_argument("project", metavar="PROJECT")
    view.add_argument("--node", help="shown first (the last picture)")
    view.add_argument("--port", type=int, default=0, help="on this machine (any that is free)")
    view.add_argument("--no-browser", action="store_true", help="only print the address")

    export = add("export", commands.export, "write a node's image to a file; the ending chooses the format")
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

    hips = add("hips", commands.hips, "write an image as a HiPS, which Aladin and other sky atlases open")
    hips.add_argument("project", metavar="PROJECT")
    hips.add_argument("node", metavar="NODE")
    hips.add_argument("folder", metavar="OUT", help="a folder that is not there yet")
    hips.add_argument("--band", help="which band")
    hips.add_argument("--variable", default="image", help="image, variance, weight, count, … (%(default)s)")
    hips.add_argument("--order", type=int, metavar="N", help="finest HEALPix order (by the canvas' pixels)")
    hips.add_argument("--workers", type=int, metavar="N", help="tiles at a time (the cores there are)")

    simulate = add("simulate", commands.simulate, "make a session of frames with known truth")
    simulate.add_argument("folder", metavar="OUT")
    _add_simulation(simulate)

    workflows = add("workflows", commands.workflows, "list the presets")
    workflows.add_argument("name", nargs="?", help="show this preset as YAML, complete with all parameters")
    workflows.add_argument("--json", action="store_true", help="as JSON")

    ops = add("ops", commands.ops, "list the ops with their parameters, units and defaults")
    ops.add_argument("name", nargs="?", help="only this op")
    ops.add_argument("--json", action="store_true", help="as JSON")

    completion = add(
        "completion", commands.completion, "print a script that makes a shell complete this command line"
    )
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
