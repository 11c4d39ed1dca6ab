"""Patterns of names in the words of the user: `{object}_{kind}_{band}_{exposure}s_{temperature}C`.

A template is matched against the end of a path, with as many folders as it has slashes. `{fact}` is a value, `*`
is anything but a slash, all else is itself (in either case). There is no regular expression of the user's, and no
more than (length of the template × length of the path²) steps: what did not fit at a place is not tried again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skyloom.ops.errors import ConfigError
from skyloom.ops.registry import suggest
from skyloom.ops.session.fact import Fact
from skyloom.ops.session.fields import ANYTHING, FIELDS, Field, Value
from skyloom.ops.session.names import stem_of

_PIECE = re.compile(r"\{([^{}]*)\}|(\*+)|([^{}*]+)|([{}])")
_ANY = Field("*", "anything", str, "", ANYTHING)


@dataclass(frozen=True)
class _Literal:
    text: re.Pattern[str]


Piece = _Literal | Field


@dataclass(frozen=True)
class Template:
    """A template, cut into texts and values."""

    text: str
    pieces: tuple[Piece, ...]
    folders: int

    def facts(self, path: str) -> dict[str, Fact]:
        """Facts a path states by this template; none where it does not fit.

        Parameters
        ----------
        path
            File, with slashes.
        """
        parts = path.rsplit("/", self.folders + 1)[-(self.folders + 1) :]
        if len(parts) <= self.folders:
            return {}
        name = "/".join([*parts[:-1], stem_of(parts[-1])])
        found = _match(self.pieces, 0, name, 0, set())
        if found is None:
            return {}
        start_of_file = name.rfind("/") + 1
        facts = {}
        for field, start, value in found:
            where = "file name" if start >= start_of_file else "folder name"
            facts[field.name] = Fact(value, f"{where} {self.text!r}")
        return facts


def read_templates(patterns: Sequence[str]) -> list[Template]:
    """Templates a config states.

    Raises
    ------
    ConfigError
        If one names an unknown fact or the same twice, has none, or has two values with nothing between them.
    """
    return [_read(text) for text in patterns]


def _read(text: str) -> Template:
    where = f"pattern {text!r}"
    pieces: list[Piece] = []
    names: list[str] = []
    known = {name: field for name, field in FIELDS.items() if field.form}
    for name, anything, literal, brace in _PIECE.findall(stem_of(text.strip().replace("\\", "/"))):
        if brace:
            raise ConfigError(f"{where}: a brace without its other half; a value is written {{exposure}}")
        if literal:
            pieces.append(_Literal(re.compile(re.escape(literal), re.IGNORECASE)))
            continue
        if pieces and not isinstance(pieces[-1], _Literal):
            raise ConfigError(f"{where}: nothing between two values ({{{name or '*'}}}); put a text between them")
        if anything:
            pieces.append(_ANY)
            continue
        if name not in known:
            raise ConfigError(f"{where}: there is no {{{name}}} in names{suggest(name, known)}")
        if name in names:
            raise ConfigError(f"{where}: {{{name}}} is there twice")
        names.append(name)
        pieces.append(known[name])
    if not names:
        raise ConfigError(f"{where} states no fact; write one as {{exposure}}, anything as *")
    folders = sum(p.text.pattern.count("/") for p in pieces if isinstance(p, _Literal))
    return Template(text, tuple(pieces), folders)


_Found = tuple[Field, int, Value]


def _match(
    pieces: tuple[Piece, ...], index: int, text: str, start: int, failed: set[tuple[int, int]]
) -> list[_Found] | None:
    """Values of the pieces from `index` on in the text from `start` on; None where they do not fit."""
    if index == len(pieces):
        return [] if start == len(text) else None
    if (index, start) in failed:
        return None
    piece = pieces[index]
    if isinstance(piece, _Literal):
        literal = piece.text.match(text, start)
        rest = _match(pieces, index + 1, text, literal.end(), failed) if literal is not None else None
        if rest is not None:
            return rest
    else:
        following = pieces[index + 1] if index + 1 < len(pieces) else None
        for end in _ends(piece, following, text, start):
            # Any text is a value of a free one: it is not worth reading before all else fits.
            value = None if piece.free else piece.value_in_name(text[start:end])
            if value is None and not piece.free:
                continue
            rest = _match(pieces, index + 1, text, end, failed)
            if rest is None:
                continue
            if piece is _ANY:
                return rest
            read = piece.value_in_name(text[start:end]) if value is None else value
            return rest if read is None else [(piece, start, _scaled(piece, read, text, end)), *rest]
    failed.add((index, start))
    return None


def _ends(field: Field, following: Piece | None, text: str, start: int) -> Iterator[int]:
    """Places where a value may end: where what follows begins, in the order they are meant."""
    form = re.compile(field.form)
    whole = form.match(text, start)
    if whole is None:
        return
    if following is None:
        if whole.end() == len(text):
            yield len(text)
        return
    assert isinstance(following, _Literal)
    ends = range(start + (field is not _ANY), whole.end() + 1)
    for end in ends if field.free else reversed(ends):
        if following.text.match(text, end) and (field.free or form.fullmatch(text, start, end)):
            yield end


def _scaled(field: Field, value: Value, text: str, end: int) -> Value:
    """A value in the unit of the facts: milliseconds behind an exposure."""
    if field.name == "exposure" and re.match(r" ?ms(?![a-z])", text[end:], re.IGNORECASE):
        return float(value) * 1e-3
    return value
