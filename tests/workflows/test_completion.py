"""Completion scripts, as the shells themselves take them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from skyloom.workflows.cli import command_parser, main
from skyloom.workflows.completion import completion_script, subcommands


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        text = completion_script(command_parser(), shell, first={"run": ["mosaic", "stack"]})
        (folder / shell).write_text(text, encoding="utf-8")
    return folder


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    ask = f'source "{script}"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _skyloom; '
    ask += 'printf "%s\\n" "${COMPREPLY[@]}"'
    found = subprocess.run(
        ["bash", "--norc", "-c", ask, "bash", "skyloom", *words], capture_output=True, text=True, check=True
    )
    assert not found.stderr
    return found.stdout.split()


def test_bash_offers_commands_options_and_values(scripts: Path) -> None:
    bash = scripts / "bash"
    assert set(completed(bash, "")) == {*subcommands(command_parser()), "--help", "--version"}
    assert completed(bash, "exp") == ["export"]
    assert completed(bash, "run", "m") == ["mosaic"]
    assert "--scheduler" in completed(bash, "run", "mosaic", "--")
    assert completed(bash, "export", "p", "n", "f", "--depth", "") == ["8", "16", "32"]
    assert completed(bash, "completion", "f") == ["fish"]
    # Files are bash's own business.
    assert completed(bash, "run", "mosaic", "fra") == []


def test_every_option_is_in_every_script(scripts: Path) -> None:
    for name, (parser, _) in subcommands(command_parser()).items():
        flags = [f for action in parser._actions for f in action.option_strings if f.startswith("--")]
        assert flags
        for shell in ("bash", "zsh", "fish"):
            text = (scripts / shell).read_text(encoding="utf-8")
            for flag in flags:
                assert (f"-l {flag[2:]}" if shell == "fish" else flag) in text, (shell, name, flag)


def test_flags_take_no_value_and_options_do(scripts: Path) -> None:
    fish = (scripts / "fish").read_text(encoding="utf-8")
    assert "from export' -l band -r -F -d " in fish
    assert "from status' -l json -d " in fish
    zsh = (scripts / "zsh").read_text(encoding="utf-8")
    assert "'*--band[which band]:value:_files'" in zsh
    assert "'*--json[as JSON]'" in zsh


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_theirs(scripts: Path, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([program, "-n", str(scripts / shell)], check=True)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 0
    out = capsys.readouterr().out
    assert "__fish_seen_subcommand_from ops' -a 'adjust approve" in out
    assert "lrgb" in out
