"""Every command and every example of README and docs does what it says: it is run, or at least understood.

A block whose info string has `norun` is checked, not run: commands by the real parser and the real workflows,
Python by its syntax and its imports. `file=NAME` makes a block a file of the page's folder.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import logging
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from skyloom.configs.loader import preset_names
from skyloom.ops import registry
from skyloom.ops.errors import ConfigError
from skyloom.ops.registry import Op, all_ops
from skyloom.workflows.cli import command_parser
from skyloom.workflows.cli_examples import EXAMPLES
from skyloom.workflows.commands import chosen_workflow
from skyloom.workflows.completion import subcommands
from skyloom.workflows.graph import Workflow

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "reference")
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LANGUAGES = {"sh", "python", "yaml", "toml", "text", "{toctree}"}
BEFORE = {"README.md": ["simulate FRAMES --raw --bands L,R,G,B --panels 1x1 --frames 3 --size 280 --nights 1"]}
"""Commands that a page takes for granted."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    place: str
    language: str
    words: tuple[str, ...]
    """What follows the language in the info string."""
    text: str

    @property
    def file(self) -> str | None:
        return next((w.removeprefix("file=") for w in self.words if w.startswith("file=")), None)


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        language, *words = found[1].split() or [""]
        line = text.count("\n", 0, found.start()) + 1
        yield Block(f"{path.name}:{line}", language, tuple(words), found[2])


def commands(text: str) -> Iterator[tuple[list[str], str | None]]:
    """Words of each command line of a block, and the file that takes its output."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if ">" in words:
            at = words.index(">")
            yield words[:at], words[at + 1]
        elif words:
            yield words, None


def skyloom_commands(text: str) -> Iterator[list[str]]:
    """Arguments of each skyloom command of a block, also of one among others of the shell."""
    for words, _ in commands(text):
        start = 0
        for at in [*(i for i, w in enumerate(words) if w in {"&&", "&", "||", "|", ";"}), len(words)]:
            part, start = words[start:at], at + 1
            if part and Path(part[0]).name == "skyloom":
                yield part[1:]


def understood(arguments: list[str]) -> None:
    """Check a command line as far as that goes without frames: its options, its preset, its settings."""
    options = command_parser().parse_args(arguments)
    workflow = getattr(options, "workflow", None)
    if workflow in preset_names() and hasattr(options, "solution"):
        chosen_workflow(options)


def run_block(block: Block, main: Callable[[list[str]], int], names: dict[str, Any]) -> None:
    if block.file is not None:
        Path(block.file).write_text(block.text, encoding="utf-8")
        compile(block.text, block.place, "exec") if block.language == "python" else yaml.safe_load(block.text)
    elif block.language == "sh":
        for words, target in commands(block.text):
            assert words[0] == "skyloom", f"{block.place}: mark the block norun: {shlex.join(words)}"
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(words[1:])
            assert code == 0, f"{block.place}: {shlex.join(words)}\n{err.getvalue()[-2000:]}"
            assert "Traceback" not in err.getvalue(), block.place
            if "--json" in words:
                json.loads(out.getvalue())
            if target is not None:
                Path(target).write_text(out.getvalue(), encoding="utf-8")
    elif block.language == "python":
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block.text, block.place, "exec"), names)


def check_block(block: Block) -> None:
    if block.language == "sh":
        for arguments in skyloom_commands(block.text):
            understood(arguments)
    elif block.language == "python":
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skyloom"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, a.name) for a in node.names), block.place
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "yaml":
        yaml.safe_load(block.text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of a page, with a registry and modules of its own."""
    all_ops()
    monkeypatch.setattr(registry, "_OPS", dict(registry._OPS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    known = set(sys.modules)
    levels = {name: logging.getLogger(name).level for name in ("", "skyloom", "skyloom.run")}
    handlers = set(logging.root.handlers)
    yield tmp_path
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    # An example shows how to hear less.
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for handler in set(logging.root.handlers) - handlers:
        logging.root.removeHandler(handler)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_page(
    page: Path, folder: Path, remembered: Callable[[list[str]], int], request: pytest.FixtureRequest
) -> None:
    if any("s3://" in block.text and "norun" not in block.words for block in blocks(page)):
        # A server that has the bucket the page speaks of.
        request.getfixturevalue("s3")
    for line in BEFORE.get(page.name, []):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert remembered(shlex.split(line)) == 0
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: a block of {block.language or 'no language'}"
        if "norun" in block.words or block.language not in {"sh", "python", "yaml"}:
            check_block(block)
        else:
            run_block(block, remembered, names)


def test_a_wrong_command_would_be_found() -> None:
    understood(shlex.split("run stack FRAMES -o PROJECT --set integrate.low=5"))
    for wrong in (
        "run stack FRAMES -o PROJECT --set integrate.lo=5",
        "run stack FRAMES -o PROJECT --set integrate.low=many",
        "run stack FRAMES --outputs PROJECT",
        "walk stack FRAMES",
    ):
        with pytest.raises(ConfigError):
            understood(shlex.split(wrong))
    lines = "python3 -m venv v && v/bin/skyloom demo  # try\nskyloom ops \\\n  integrate & wait $!\n"
    found = list(skyloom_commands(lines))
    assert found == [["demo"], ["ops", "integrate"]]


def _nodes() -> dict[str, Op]:
    """Names by which a text speaks of ops: their own, and those of the presets' nodes."""
    named = {node.name: node.op for preset in preset_names() for node in Workflow.load(preset).nodes}
    return all_ops() | named


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_parameters_that_are_named_exist(page: Path) -> None:
    nodes = _nodes()
    every = {name for op in nodes.values() for name in op.parameters}
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for spoken in INLINE.findall(text):
        found = re.fullmatch(r"([a-z_]*)\.([a-z_]+)(?:=(\S+))?", spoken)
        if found is None or (found[1] and found[1] not in nodes) or Path(f"x.{found[2]}").suffix in _ENDINGS:
            continue
        if not found[1]:
            assert found[2] in every, f"{page.name}: no op has {spoken}"
            continue
        parameters = nodes[found[1]].parameters
        assert found[2] in parameters, f"{page.name}: {found[1]} has no {found[2]}"
        # Words in capitals stand for values of the reader's.
        if found[3] and not re.search(r"[A-Z]{4}|[{(]", found[3]):
            parameters[found[2]].check(yaml.safe_load(found[3]))


_ENDINGS = {
    ".yaml",
    ".fits",
    ".xisf",
    ".tif",
    ".png",
    ".jpg",
    ".fz",
    ".zip",
    ".ser",
    ".tar",
    ".xnml",
    ".head",
    ".ssf",
}


def test_every_command_has_examples_that_it_understands() -> None:
    known = {name: parser for name, (parser, _) in subcommands(command_parser()).items()}
    assert set(known) <= set(EXAMPLES)
    for name in known:
        text = EXAMPLES[name]
        assert f"  {text.splitlines()[0]}" in known[name].format_help()
        lines = re.sub(r"source <\((.*)\)", r"\1", text)
        found = [(words[1:], words[0]) for words, _ in commands(lines)]
        assert found
        for arguments, program in found:
            assert program == "skyloom"
            assert arguments[0] == name
            understood(arguments)
