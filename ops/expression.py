"""Rules and mixtures people write (`fwhm < 4 px`, `0.6 * Ha + 0.4 * R`), evaluated without being run as code.

The text is parsed as a Python expression, and only numbers, known names, arithmetic, comparisons, `and`, `or`,
`not` and a few functions are let through; a config file someone sent you can say nothing else.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.registry import suggest

MAX_LENGTH = 500
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def _mad(values: NDArray[np.float64]) -> Any:
    return 1.4826 * np.nanmedian(np.abs(values - np.nanmedian(values)))


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "log": np.log,
    "exp": np.exp,
    "median": np.nanmedian,
    "mean": np.nanmean,
    "sigma": _mad,
    "min": np.fmin,
    "max": np.fmax,
    "best": np.nanmax,
    "least": np.nanmin,
}
"""What a rule may call; median, mean, sigma (robust), best and least are over all frames."""

PIXEL_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "log": np.log,
    "exp": np.exp,
    "asinh": np.arcsinh,
    "min": np.minimum,
    "max": np.maximum,
    "where": np.where,
}
"""What a mixture of bands may call: nothing that looks at other pixels, and NaN stays NaN."""

_COUNTS = {"min": 2, "max": 2, "where": 3}

_UNIT = re.compile(
    r"(?<![A-Za-z_\d.])(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*(px|arcsec|adu|DN|s|deg)(?![A-Za-z_\d])"
)


class Expression:
    """A parsed rule."""

    def __init__(
        self,
        text: str,
        names: Mapping[str, str],
        *,
        functions: Mapping[str, Callable[..., Any]] = FUNCTIONS,
    ) -> None:
        """Parse.

        Parameters
        ----------
        text
            The rule.
        names
            Names it may use → their unit ("" for none).
        functions
            What it may call.

        Raises
        ------
        ConfigError
            If it is no such expression, or names something unknown (with the nearest known name).
        """
        self.text = text
        self._names = names
        self._functions = functions
        if len(text) > MAX_LENGTH:
            raise ConfigError(f"a rule has {len(text)} characters, at most {MAX_LENGTH} are read")
        units = {unit for _, unit in _UNIT.findall(text)}
        try:
            self._tree = ast.parse(_UNIT.sub(r"\1", text).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ConfigError(f"rule {text!r} is no expression, such as: fwhm < 4 px and stars > 20") from None
        self.used = self._check(self._tree)
        for unit in units - {names[n] for n in self.used}:
            known = ", ".join(f"{n} ({names[n]})" for n in sorted(self.used) if names[n])
            raise ConfigError(
                f"rule {text!r}: nothing in it is in {unit}; there is: {known or 'nothing with a unit'}"
            )

    def _check(self, node: ast.expr, depth: int = 0) -> set[str]:
        """Names used below a node; refuses everything that is not allowed."""
        if depth > 50:
            raise ConfigError(f"rule {self.text!r} is nested too deep")
        children: list[ast.expr] = []
        if isinstance(node, ast.Constant):
            if isinstance(node.value, bool) or not isinstance(node.value, int | float):
                raise ConfigError(f"rule {self.text!r}: {node.value!r} is no number")
        elif isinstance(node, ast.Name):
            if node.id not in self._names:
                raise ConfigError(f"rule {self.text!r}: unknown name {node.id!r}{suggest(node.id, self._names)}")
            return {node.id}
        elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            children = [node.left, node.right]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd | ast.Not):
            children = [node.operand]
        elif isinstance(node, ast.BoolOp):
            children = list(node.values)
        elif isinstance(node, ast.Compare) and all(type(o) in _COMPARE for o in node.ops):
            children = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            if node.func.id not in self._functions:
                hint = suggest(node.func.id, self._functions)
                raise ConfigError(f"rule {self.text!r}: unknown function {node.func.id!r}{hint}")
            if len(node.args) != _COUNTS.get(node.func.id, 1):
                raise ConfigError(f"rule {self.text!r}: {node.func.id} takes another number of values")
            children = list(node.args)
        else:
            raise ConfigError(f"rule {self.text!r}: {ast.unparse(node)!r} is not allowed in a rule")
        return set().union(*(self._check(c, depth + 1) for c in children)) if children else set()

    def evaluate(self, values: Mapping[str, NDArray[np.float64]]) -> NDArray[Any]:
        """Value for every frame, or for every pixel.

        Parameters
        ----------
        values
            Name → array, all of one shape: (frames,) or (rows, columns). NaN = unknown: a comparison with it is
            false.
        """
        shape = next(iter(values.values())).shape if values else (0,)
        with np.errstate(all="ignore"):
            result = np.asarray(self._value(self._tree, values))
        return np.broadcast_to(result, shape).copy() if result.ndim == 0 else result

    def _value(self, node: ast.expr, values: Mapping[str, NDArray[np.float64]]) -> Any:
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, int | float)
            return float(node.value)
        if isinstance(node, ast.Name):
            return values[node.id]
        if isinstance(node, ast.BinOp):
            return _BINARY[type(node.op)](self._value(node.left, values), self._value(node.right, values))
        if isinstance(node, ast.UnaryOp):
            operand = self._value(node.operand, values)
            if isinstance(node.op, ast.Not):
                return np.logical_not(operand)
            return -operand if isinstance(node.op, ast.USub) else operand
        if isinstance(node, ast.BoolOp):
            combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            result = self._value(node.values[0], values)
            for item in node.values[1:]:
                result = combine(result, self._value(item, values))
            return result
        if isinstance(node, ast.Compare):
            left, result = self._value(node.left, values), np.bool_(True)
            for op, comparator in zip(node.ops, node.comparators, strict=True):
                right = self._value(comparator, values)
                result = np.logical_and(result, _COMPARE[type(op)](left, right))
                left = right
            return result
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Name)
        return self._functions[node.func.id](*(self._value(a, values) for a in node.args))

    def parts(self) -> list[Expression]:
        """The conditions an `and` joins, each on its own: what a reason names."""
        if isinstance(self._tree, ast.BoolOp) and isinstance(self._tree.op, ast.And):
            return [Expression(ast.unparse(v), self._names, functions=self._functions) for v in self._tree.values]
        return [self]
