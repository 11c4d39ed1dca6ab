"""Writes the reference pages from the code: ops, presets, commands, and the example notebook as a page."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

from skyloom.configs.loader import preset_names
from skyloom.ops.registry import FILES, Op, Parameter, all_ops
from skyloom.workflows.cli import command_parser
from skyloom.workflows.completion import subcommands
from skyloom.workflows.graph import Workflow

STAGES = {
    "session": "The frames there are",
    "calibration": "Calibration",
    "measurement": "Measuring frames",
    "registration": "Registration and the canvas",
    "normalization": "Normalization",
    "artifacts": "Trails, ghosts and blobs",
    "integration": "Integration",
    "background": "Edges and gradients",
    "restoration": "Deconvolution and noise",
    "colour": "Colour",
    "display": "Stretching",
    "workflows": "Files and views",
}
"""Packages of ops in the order of the data, as their sections are called."""


def write_reference(folder: Path) -> None:
    """Write all generated pages to a folder; what has not changed is left alone, so that builds stay quick."""
    folder.mkdir(exist_ok=True)
    pages = {
        "ops.md": ops_page(),
        "presets.md": presets_page(),
        "commands.md": commands_page(),
        "example.md": notebook_page(folder.parent / "example.ipynb"),
    }
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def ops_page() -> str:
    """Every op with its parameters, by stage."""
    ops = all_ops()
    lines = [
        "# Ops and their parameters",
        "",
        "Generated from the code; `skyloom ops NAME` prints the same. Set a parameter of a node with",
        "`--set NODE.PARAM=VALUE` or in a workflow file. A node has the name of its op unless the workflow gives",
        "it another one: `fit` is of the op `linear_fit`.",
        "",
    ]
    stages: dict[str, list[Op]] = {name: [] for name in STAGES}
    for op in ops.values():
        stages[_stage(op)].append(op)
    for stage, members in stages.items():
        if not members:
            continue
        lines += [f"## {STAGES[stage]}", ""]
        for op in members:
            lines += [*_op_lines(op), ""]
    return "\n".join(lines)


def _stage(op: Op) -> str:
    parts = op.function.__module__.split(".")
    found = next((p for p in parts if p in STAGES and p != "workflows"), None)
    return found or "workflows"


def _op_lines(op: Op) -> Iterator[str]:
    inputs = ", ".join(f"[{n}]" if n in op.optional_inputs else n for n in op.inputs)
    yield f"### `{op.name}`"
    yield ""
    yield _plain(op.summary)
    yield ""
    yield f"Inputs: {inputs}. " + (f"A task: one {' × '.join(op.unit)} block." if op.unit else "One task.")
    yield ""
    for parameter in op.parameters.values():
        if parameter.execution:
            continue
        yield f"`{parameter.name}`"
        yield f": {_facts(parameter)}"
        yield ""
        yield f"  {_plain(parameter.what)}"
        if parameter.when:
            yield ""
            yield f"  *{_plain(parameter.when)}*"
        yield ""


def _facts(parameter: Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        default = "required"
    elif parameter.default is None:
        default = "default none"
    elif parameter.default in ("", [], {}):
        default = "default empty"
    else:
        default = f"default `{parameter.default}`" + (f" {parameter.unit}" if parameter.unit else "")
    limits = f"; {parameter.range_text}" if parameter.range_text else ""
    return f"{default}; {parameter.type_name}{limits}".replace("|", "or")


def _plain(text: str) -> str:
    """A docstring's text as Markdown: nothing in it is markup but `names`."""
    for sign in "\\*_[]<>$":
        text = text.replace(sign, "\\" + sign)
    # Within backticks a backslash is one.
    pieces = text.split("`")
    for n in range(1, len(pieces), 2):
        for sign in "*_[]<>$":
            pieces[n] = pieces[n].replace("\\" + sign, sign)
    return "`".join(pieces)


def presets_page() -> str:
    """Every preset with its nodes and what it changes of the ops' defaults."""
    lines = [
        "# Presets",
        "",
        "Generated from the code; `skyloom workflows NAME` prints one as a file to edit.",
        "",
    ]
    for name in preset_names():
        workflow = Workflow.load(name)
        lines += [f"## {name}", "", _plain(" ".join(workflow.description.split())), ""]
        lines += ["| node | op | inputs | differs from the op's defaults |", "|---|---|---|---|"]
        for node in workflow.nodes:
            changed = ", ".join(
                f"{k} = {v}" for k, v in node.parameters.items() if v != node.op.parameters[k].default
            )
            inputs = ", ".join(p for p in node.inputs.values() if p != FILES) or FILES
            lines.append(
                f"| {_plain(node.name)} | {_plain(node.op.name)} | {_plain(inputs)} | {_plain(changed)} |"
            )
        lines.append("")
    return "\n".join(lines)


def commands_page() -> str:
    """Every command's help."""
    parser = command_parser()
    lines = ["# Commands", "", "Generated from the code; `skyloom COMMAND --help` prints the same.", ""]
    for name, (command, _) in subcommands(parser).items():
        command.formatter_class = _Wide
        lines += [f"## {name}", "", "```text", command.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


class _Wide(argparse.RawDescriptionHelpFormatter):
    """The same text whatever terminal the build runs in."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100, max_help_position=30)


def notebook_page(path: Path) -> str:
    """A notebook's cells as a page."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = []
    for cell in cells:
        text = "".join(cell["source"])
        lines += [text, ""] if cell["cell_type"] == "markdown" else ["```python", text, "```", ""]
    return "\n".join(lines)
