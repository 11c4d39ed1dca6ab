"""Shell completion: scripts for bash, zsh and fish, made from the argument parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Command:
    """What can follow the name of a command."""

    name: str
    summary: str
    options: Mapping[str, tuple[str, bool]]
    """Flag → its help, and whether a value follows."""
    values: Mapping[str, tuple[str, ...]]
    """Flag → the values it takes, where they are few."""
    words: tuple[str, ...]
    """What its first argument may be, beside files."""


def completion_script(
    parser: argparse.ArgumentParser, shell: str, *, first: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Script that makes a shell complete the command line.

    Parameters
    ----------
    parser
        The command line's, with its commands.
    shell
        "bash", "zsh" or "fish".
    first
        Command → what its first argument may be, beside files.

    Returns
    -------
    str
        To be sourced, or saved where the shell looks.
    """
    commands = list(_commands(parser, first or {}))
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser.prog, commands)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Commands of a parser: name → (its parser, what it does)."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return {name: (sub, texts.get(name, "")) for name, sub in action.choices.items()}
    return {}


def _commands(parser: argparse.ArgumentParser, first: Mapping[str, Sequence[str]]) -> Iterator[Command]:
    for name, (sub, summary) in subcommands(parser).items():
        options: dict[str, tuple[str, bool]] = {}
        values: dict[str, tuple[str, ...]] = {}
        words = tuple(first.get(name, ()))
        for action in sub._actions:
            choices = tuple(str(c) for c in action.choices) if action.choices else ()
            if not action.option_strings:
                words = words or choices
            for flag in action.option_strings:
                text = (action.help or "").replace("%(default)s", str(action.default))
                options[flag] = (text, action.nargs != 0)
                if choices:
                    values[flag] = choices
        yield Command(name, summary, options, values, words)


def _bash(program: str, commands: Sequence[Command]) -> str:
    lines = [
        f"# bash completion of {program}: source it, or save it as {program} in",
        "# ~/.local/share/bash-completion/completions",
        f"_{program}() {{",
        "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=",
        "  COMPREPLY=()",
        "  if ((COMP_CWORD == 1)); then",
        f'    COMPREPLY=($(compgen -W "{" ".join(c.name for c in commands)} --help --version" -- "$word"))',
        "    return",
        "  fi",
        '  case "${COMP_WORDS[1]} $before" in',
        *(f'    "{c.name} {flag}") words="{" ".join(v)}" ;;' for c in commands for flag, v in c.values.items()),
        "  esac",
        "  if [[ -z $words ]]; then",
        '    case "${COMP_WORDS[1]}" in',
    ]
    for c in commands:
        lines.append(f"      {c.name})")
        lines.append(f'        [[ $word == -* ]] && words="{" ".join(c.options)}"')
        if c.words:
            lines.append(f'        [[ $word != -* ]] && ((COMP_CWORD == 2)) && words="{" ".join(c.words)}"')
        lines.append("        ;;")
    lines += [
        "    esac",
        "  fi",
        '  [[ -n $words ]] && COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "# Where nothing of these fits: files and folders.",
        f"complete -o default -F _{program} {program}",
    ]
    return "\n".join(lines) + "\n"


def _zsh(program: str, commands: Sequence[Command]) -> str:
    def quoted(text: str) -> str:
        for sign in "\\[]:":
            text = text.replace(sign, "\\" + sign)
        return text.replace("'", "'\\''")

    lines = [
        f"#compdef {program}",
        f"# zsh completion of {program}: save it as _{program} in a folder of $fpath, or source it after compinit",
        f"_{program}() {{",
        "  local -a commands",
        "  commands=(",
        *(f"    '{c.name}:{quoted(c.summary)}'" for c in commands),
        "  )",
        "  if ((CURRENT == 2)); then",
        "    _describe -t commands command commands",
        "    return",
        "  fi",
        '  local name="${words[2]}"',
        "  shift words",
        "  ((CURRENT--))",
        '  case "$name" in',
    ]
    for c in commands:
        lines.append(f"    {c.name})")
        lines.append("      _arguments \\")
        for flag, (text, valued) in c.options.items():
            value = ""
            if flag in c.values:
                value = f":value:({' '.join(c.values[flag])})"
            elif valued:
                value = ":value:_files"
            lines.append(f"        '*{flag}[{quoted(text)}]{value}' \\")
        if c.words:
            lines.append(
                f'        \'1:word:_alternative "words:word:({" ".join(c.words)})" "files:file:_files"\' \\'
            )
        lines.append("        '*:file:_files'")
        lines.append("      ;;")
    lines += [
        "  esac",
        "}",
        # Sourced it registers itself; found by $fpath it is the function.
        f'if [[ "${{funcstack[1]}}" == "_{program}" ]]',
        f'then _{program} "$@"',
        f"else compdef _{program} {program}",
        "fi",
    ]
    return "\n".join(lines) + "\n"


def _fish(program: str, commands: Sequence[Command]) -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    lines = [f"# fish completion of {program}: save it as ~/.config/fish/completions/{program}.fish"]
    for c in commands:
        lines.append(f"complete -c {program} -n __fish_use_subcommand -f -a {c.name} -d {quoted(c.summary)}")
    for c in commands:
        here = f"complete -c {program} -n '__fish_seen_subcommand_from {c.name}'"
        for flag, (text, valued) in c.options.items():
            name = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
            if flag in c.values:
                value = f" -x -a {quoted(' '.join(c.values[flag]))}"
            else:
                value = " -r -F" if valued else ""
            lines.append(f"{here} {name}{value} -d {quoted(text)}")
        if c.words:
            lines.append(f"{here} -a {quoted(' '.join(c.words))}")
    return "\n".join(lines) + "\n"
