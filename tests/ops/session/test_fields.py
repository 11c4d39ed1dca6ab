"""The facts there are."""

from __future__ import annotations

import re

import pytest

from skyloom.ops.session.fields import COLUMNS, FIELDS


def test_defaults_are_values_of_their_facts() -> None:
    for field in FIELDS.values():
        if isinstance(field.default, float) and field.default != field.default:
            continue
        if field.name in ("date", "night", "binning"):
            assert field.default == ""
        else:
            assert field.read(field.default) == field.default


def test_every_column_has_one_type() -> None:
    kinds = {field.name: type(field.default) for field in COLUMNS}
    assert {kinds[n] for n in ("kind", "band", "binning", "bayer", "night", "trim", "telescope")} == {str}
    assert {kinds[n] for n in ("exposure", "temperature", "gain_setting", "pedestal", "ra")} == {float}
    assert kinds["master"] is bool


@pytest.mark.parametrize("name", [n for n, f in FIELDS.items() if f.form])
def test_forms_are_expressions(name: str) -> None:
    assert re.compile(FIELDS[name].form)
    assert FIELDS[name].value_in_name("\x00") in (None, "")
