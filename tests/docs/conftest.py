"""What the tests of the documentation share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from skyloom.workflows.cli import main

Runner = Callable[[list[str]], int]


@pytest.fixture(scope="session")
def remembered(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """The command line, which makes like sessions and projects of several pages once.

    Simulated frames and first runs are the same wherever they are made: the folder that a page makes is kept, and
    the next page that gives the same commands begins with a copy of it.
    """
    kept = tmp_path_factory.mktemp("kept")
    made: dict[tuple[str, ...], Path] = {}
    frames: dict[Path, tuple[str, ...]] = {}

    def run(arguments: list[str]) -> int:
        command, *rest = arguments
        if command == "simulate":
            key, folder = ("simulate", *rest[1:]), Path(rest[0])
            frames[folder.absolute()] = key
        elif (
            command == "run"
            and len(rest) == 4
            and rest[2] == "-o"
            and "://" not in rest[3]
            and not Path(rest[3]).exists()
        ):
            key, folder = ("run", rest[0], *frames.get(Path(rest[1]).absolute(), (rest[1],))), Path(rest[3])
        else:
            return main(arguments)
        if key in made:
            shutil.copytree(made[key], folder)
            if command == "simulate":
                return 0
        code = main(arguments)
        if code == 0 and key not in made:
            made[key] = Path(shutil.copytree(folder, kept / f"{len(made)}"))
        return code

    return run
