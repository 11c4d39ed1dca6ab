"""Where a run's time goes: by node, and by function within nodes.

    python benchmarks/profile_run.py mosaic FRAMES [--functions 12] [--nodes integrate] [--set NODE.NAME=VALUE]

The table of nodes is of an ordinary run in a fresh project, with its usual threads; CPU is that of the process,
all threads, so that CPU / time tells how many cores a node kept busy. "imports" begins with the process, "between"
is the plan and what lies between nodes. The functions are of further runs, one task at a time: CPU time of the
main thread without what it calls, kernels loaded and modules imported before.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from skyloom.workflows import runner
from skyloom.workflows.cli import main as skyloom

Spent = dict[str, list[float]]


@contextmanager
def watched(spent: Spent, profile: cProfile.Profile | None, nodes: Sequence[str]) -> Iterator[None]:
    """Add seconds and CPU seconds up by node while runs go on; profile some of them."""
    original: Any = runner.Run._run_node
    last = [time.perf_counter(), time.process_time()]

    def note(name: str) -> None:
        now = [time.perf_counter(), time.process_time()]
        for k in range(2):
            spent[name][k] += now[k] - last[k]
        last[:] = now

    def run_node(self: Any, planned: Any, *rest: Any) -> Any:
        note("between")
        name = str(planned.plan.name)
        if profile is not None and name in nodes:
            profile.enable()
        try:
            return original(self, planned, *rest)
        finally:
            if profile is not None:
                profile.disable()
            note(name)

    runner.Run._run_node = run_node  # type: ignore[method-assign]
    try:
        yield
    finally:
        note("between")
        runner.Run._run_node = original  # type: ignore[method-assign]


def functions(profile: cProfile.Profile, most: int) -> list[tuple[str, int, float]]:
    """(function, calls, CPU seconds without what it calls), the most expensive first."""
    rows = []
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for (file, _, name), (_, calls, own, _, _) in stats.items():
        where = "/".join(Path(file).with_suffix("").parts[-2:]) if file != "~" else ""
        rows.append((f"{where} {name}".strip(), calls, own))
    return sorted(rows, key=lambda r: -r[2])[:most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow")
    parser.add_argument("frames", nargs="+")
    parser.add_argument("--functions", type=int, default=12, help="so many a node")
    parser.add_argument(
        "--nodes", nargs="*", default=["measure", "normalize", "integrate"], help="nodes to look into"
    )
    parser.add_argument("--set", action="append", default=[], help="as of skyloom run")
    options = parser.parse_args()
    imports = [time.time() - psutil.Process().create_time(), time.process_time()]
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        command = ["run", options.workflow, *options.frames, "--quiet", "--no-report"]
        for change in options.set:
            command += ["--set", change]
        spent: Spent = defaultdict(lambda: [0.0, 0.0])
        begin = time.perf_counter()
        with watched(spent, None, ()):
            if status := skyloom([*command, "-o", f"{folder}/whole"]):
                raise SystemExit(status)
        whole = time.perf_counter() - begin + imports[0]
        looks = {n: cProfile.Profile(time.thread_time) for n in options.nodes}
        for name, profile in looks.items():
            with watched(defaultdict(lambda: [0.0, 0.0]), profile, [name]):
                again = [*command, "--scheduler", "synchronous", "-o", f"{folder}/{name}"]
                if status := skyloom(again):
                    raise SystemExit(status)
    print(f"{'':22} {'time':>7} {'CPU':>7}")
    for name, (seconds, cpu) in {"imports": imports, **spent}.items():
        print(f"{name:22} {seconds:6.2f}s {cpu:6.2f}s")
    print(f"{'whole':22} {whole:6.2f}s")
    for name, profile in looks.items():
        total = sum(own for _, _, own in functions(profile, 10**9))
        print(f"\n{name}: {total:.2f} s of CPU, of which")
        for label, calls, own in functions(profile, options.functions):
            print(f"  {100 * own / total if total else 0:5.1f} %  {own:6.2f} s  {calls:7d} x  {label}")


if __name__ == "__main__":
    main()
