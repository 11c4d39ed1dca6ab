"""What a user states of frames, by patterns of their paths: it goes before everything else."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skyloom.ops.errors import ConfigError
from skyloom.ops.registry import suggest
from skyloom.ops.session.fact import Fact
from skyloom.ops.session.fields import FIELDS, Value

MATCH = "match"


@dataclass(frozen=True)
class Rule:
    """Facts of the frames whose path a pattern matches."""

    pattern: str
    expression: re.Pattern[str]
    values: Mapping[str, Value]

    def matches(self, path: str, part: str = "") -> bool:
        """Whether the pattern fits the end of the path, folder by folder; case does not matter.

        Parameters
        ----------
        path
            File, with slashes.
        part
            What tells the frame from the others of its file: "x.fits [R]" can be named too.
        """
        names = (path, f"{path} [{part}]") if part else (path,)
        return any(self.expression.match(name.lower()) is not None for name in names)


def read_rules(overrule: Sequence[Mapping[str, Any]]) -> list[Rule]:
    """Rules a config states: each a mapping with `match`, a glob of paths, and values of facts.

    Raises
    ------
    ConfigError
        If a rule has no `match`, nothing to state, an unknown fact or a value that is none of the fact's.
    """
    rules = []
    for index, entry in enumerate(overrule, start=1):
        pattern = entry.get(MATCH)
        if not isinstance(pattern, str) or not pattern.strip():
            raise ConfigError(f"overrule {index}: 'match' should be a pattern of paths such as '*/flats/*'")
        where = f"overrule {pattern!r}"
        values = {}
        for name, value in entry.items():
            if name == MATCH:
                continue
            if name not in FIELDS:
                raise ConfigError(f"{where}: there is no fact {name!r}{suggest(str(name), FIELDS)}")
            values[name] = _value(where, name, value)
        if not values:
            raise ConfigError(f"{where} states no fact; add some, such as kind: flat")
        rules.append(Rule(pattern, re.compile(_translated(pattern.strip())), values))
    return rules


def _value(where: str, name: str, value: Any) -> Value:
    field = FIELDS[name]
    if value is None:
        return field.default
    try:
        return field.read(value)
    except ValueError as problem:
        close = str(problem) if str(problem) in field.what.split(", ") else ""
        hint = f"; did you mean {close!r}?" if close else ""
        raise ConfigError(f"{where}: {name} = {value!r} should be {field.what}{hint}") from None


def _translated(pattern: str) -> str:
    # Python's own translation keeps `*` from trying again what it has passed.
    whole = pattern.lower().replace("\\", "/")
    return fnmatch.translate(whole if whole.startswith("/") else f"*/{whole.removeprefix('*/')}")


def stated(rules: Iterable[Rule], path: str, part: str = "") -> dict[str, Fact]:
    """Facts the rules state of a frame; of two rules the later counts."""
    facts = {}
    for rule in rules:
        if rule.matches(path, part):
            facts.update({name: Fact(value, f"user {rule.pattern!r}") for name, value in rule.values.items()})
    return facts
