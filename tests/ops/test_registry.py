"""Ops describe themselves by their signature."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal

import pytest
import xarray as xr

from skyloom.ops import registry
from skyloom.ops.errors import ConfigError
from skyloom.ops.registry import Param


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.all_ops()
    monkeypatch.setattr(registry, "_OPS", dict(registry._OPS))


def test_signature_becomes_the_description() -> None:
    @registry.register(version=3, unit=("y", "x"))
    def sharpen(
        image: xr.Dataset,
        mask: xr.Dataset | None = None,
        *,
        radius: Annotated[float, Param(unit="px", low=0.5, high=64)] = 2.0,
        kind: Literal["wavelet", "tv"] = "tv",
        limit: int | None = None,
        bands: list[str] = [],  # noqa: B006
    ) -> xr.Dataset:
        """Make it sharp.

        Parameters
        ----------
        image
            The image.
        radius
            How far,
            in pixels.
        kind, limit
            Which way.

        Returns
        -------
        Dataset
            Sharp.
        """
        return image

    op = registry.get_op("sharpen")
    assert op.inputs == ("image", "mask")
    assert op.optional_inputs == ("mask",)
    assert op.summary == "Make it sharp."
    radius = op.parameters["radius"]
    assert (radius.unit, radius.low, radius.high, radius.default) == ("px", 0.5, 64, 2.0)
    assert radius.doc == "How far, in pixels."
    assert op.parameters["kind"].doc == "Which way."
    assert op.parameters["kind"].type_name == "wavelet | tv"
    assert op.parameters["limit"].type_name == "int | none"
    assert op.check({"limit": None, "radius": 3, "bands": ["L"]}) == {
        "radius": 3.0,
        "kind": "tv",
        "limit": None,
        "bands": ["L"],
    }
    cases: list[tuple[dict[str, Any], str]] = [
        ({"radius": 0.1}, "0.5 to 64 px"),
        ({"kind": "tvv"}, "did you mean 'tv'"),
        ({"bands": [1]}, "should be list"),
        ({"limit": 1.0}, "should be int | none"),
    ]
    for wrong, says in cases:
        with pytest.raises(ConfigError, match=says.replace("|", r"\|")):
            op.check(wrong)


def test_parameters_may_be_lists_of_mappings() -> None:
    @registry.register(version=1)
    def tell(image: xr.Dataset, *, rules: list[dict[str, Any]] | None = None) -> xr.Dataset:
        """Tell."""
        return image

    op = registry.get_op("tell")
    given = [{"match": "*/a/*", "exposure": 3, "night": date(2024, 1, 2)}, {}]
    assert op.check({"rules": given}) == {"rules": [{"match": "*/a/*", "exposure": 3, "night": "2024-01-02"}, {}]}
    assert op.check({}) == {"rules": None}
    for wrong in ({"match": "x"}, [["match"]], [{1: "x"}], ["match"]):
        with pytest.raises(ConfigError, match=r"rules = .* should be list"):
            op.check({"rules": wrong})


def test_parameters_need_types_and_names_are_unique() -> None:
    with pytest.raises(ConfigError, match="parameter x has no type"):

        @registry.register(version=1)
        def loose(image: xr.Dataset, *, x=1):  # type: ignore[no-untyped-def]
            return image

    with pytest.raises(ConfigError, match="exists already"):

        @registry.register(version=1, name="export")
        def mine(image: xr.Dataset) -> xr.Dataset:
            return image


def test_broken_entry_point_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    point = EntryPoint("mine", "no_such_module_of_mine", registry.ENTRY_POINT)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(ConfigError, match=r"entry point 'mine' .* cannot be loaded"):
        registry.all_ops()


def test_every_parameter_says_what_it_does_and_when_to_change_it() -> None:
    silent = [
        f"{op.name}.{p.name}"
        for op in registry.all_ops().values()
        if op.origin == "skyloom" and op.function.__module__.startswith("skyloom.")
        for p in op.parameters.values()
        if not p.execution and (len(p.what) < 5 or not re.match(r"Change it (\w+) .*\.$", p.when))
    ]
    assert not silent, f"end their texts with a sentence: {registry.CHANGE} to more where …"
