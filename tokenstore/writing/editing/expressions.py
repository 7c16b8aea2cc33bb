"""Conditions on samples, such as `label in (3, 5) and width > 200`, parsed here and computed by pyarrow.

A condition has the syntax of Python, but only a few kinds of its expressions, and nothing in it is run as
Python: names are columns, and every operation is a function of `pyarrow.compute`. Of a value that is missing
no comparison is true.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenstore.errors import ArgumentError, Parameter, did_you_mean

__all__ = ["Condition"]

_LONGEST = 100_000
"""The characters of the longest condition that is parsed."""
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: lambda one, other: pc.divide(pc.cast(one, pa.float64()), pc.cast(other, pa.float64())),
}
_METHODS: dict[str, Callable[[Any, str], Any]] = {
    "startswith": lambda texts, word: pc.starts_with(texts, pattern=word),
    "endswith": lambda texts, word: pc.ends_with(texts, pattern=word),
}
_GRAMMAR = (
    "names of columns, numbers, texts, ==, !=, <, <=, >, >=, in (...), 'text' in NAME, is None, and, or, "
    "not, "
    "+, -, *, /, NAME.startswith('text') and NAME.endswith('text')"
)


class Condition:
    """A condition on samples, from its text; raises ArgumentError for a text that is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            if len(text) > _LONGEST:
                raise ValueError(f"expected at most {_LONGEST} characters, found {len(text)}")
            self._tree = ast.parse(text.strip(), mode="eval").body
            self.names = frozenset(node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name))
            """The names of the columns."""
            self._function = _compiled(self._tree)
        except (ValueError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
            if isinstance(error, ArgumentError):
                raise
            raise _refused(text, str(error)) from error

    def check_names(self, columns: Mapping[str, object], where: str) -> None:
        """Raise ArgumentError for a name that is no column; `where` says what has the columns."""
        for name in sorted(self.names):
            if name not in columns:
                raise ArgumentError(
                    f"condition {self.text!r:.200}: {where} has no column {name!r} to compare; it has "
                    f"{', '.join(columns)}{did_you_mean(name, columns)}",
                    parameters=[Parameter("where")],
                )

    def holds(self, columns: Mapping[str, Any], rows: int) -> npt.NDArray[np.bool_]:
        """Return which of some samples (rows,) the condition is true of, given the arrays of its columns.

        Raises ArgumentError for values that cannot be compared.
        """
        try:
            values = self._function(columns)
            if isinstance(values, pa.Scalar):
                values = pa.repeat(values, rows)
            if values.type != pa.bool_():
                raise ValueError(f"expected true or false for each sample, found {values.type}")
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise _refused(self.text, str(error)) from error
        members: npt.NDArray[np.bool_] = np.asarray(
            pc.fill_null(values, False).to_numpy(zero_copy_only=False)
        )
        return members


def _refused(text: str, problem: str) -> ArgumentError:
    return ArgumentError(
        f"condition {text!r:.200}: {problem}. A condition has {_GRAMMAR}", parameters=[Parameter("where")]
    )


_Function = Callable[[Mapping[str, Any]], Any]


def _compiled(node: ast.expr) -> _Function:
    """Return the function of columns that an expression is; raises ValueError for other expressions."""
    match node:
        case ast.Name(id=name):
            return lambda columns: columns[name]
        case ast.Constant(value=value) if type(value) in (int, float, str, bool):
            scalar = pa.scalar(value)
            return lambda columns: scalar
        case ast.BoolOp(op=operator, values=parts):
            joined = pc.and_kleene if isinstance(operator, ast.And) else pc.or_kleene
            return _folded(joined, [_compiled(part) for part in parts])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _compiled(operand)
            return lambda columns: pc.invert(inner(columns))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _compiled(operand)
            return lambda columns: pc.negate(inner(columns))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
            return _pair(_ARITHMETIC[type(operator)], _compiled(left), _compiled(right))
        case ast.Compare(left=left, ops=operators, comparators=others):
            pairs = zip([left, *others], operators, others, strict=False)
            return _folded(pc.and_kleene, [_comparison(one, how, two) for one, how, two in pairs])
        case ast.Call(func=ast.Attribute(value=texts, attr=method), args=[ast.Constant(value=str(word))]) if (
            method in _METHODS and not node.keywords
        ):
            inner = _compiled(texts)
            return lambda columns: _METHODS[method](inner(columns), word)
    raise ValueError(f"{ast.unparse(node)!r:.80} cannot stand there")


def _comparison(left: ast.expr, how: ast.cmpop, right: ast.expr) -> _Function:
    match how, left, right:
        case ((ast.Is() | ast.IsNot()), _, ast.Constant(value=None)):
            inner = _compiled(left)
            known = isinstance(how, ast.IsNot)
            return lambda columns: (pc.is_valid if known else pc.is_null)(inner(columns))
        case ((ast.In() | ast.NotIn()), ast.Constant(value=str(word)), _):
            inner = _compiled(right)
            found: _Function = lambda columns: pc.match_substring(inner(columns), word)  # noqa: E731
            return found if isinstance(how, ast.In) else lambda columns: pc.invert(found(columns))
        case ((ast.In() | ast.NotIn()), _, (ast.Tuple(elts=elements) | ast.List(elts=elements))):
            inner, chosen = _compiled(left), pa.array([_constant(element) for element in elements])
            return lambda columns: _is_in(inner(columns), chosen, isinstance(how, ast.In))
    if type(how) not in _COMPARISONS:
        raise ValueError("expected a list such as (1, 2) behind `in`, or None behind `is`")
    return _pair(_COMPARISONS[type(how)], _compiled(left), _compiled(right))


def _is_in(values: Any, chosen: Any, is_in: bool) -> Any:
    if pa.types.is_string(values.type) != (pa.types.is_string(chosen.type) or not len(chosen)):
        raise ValueError(f"expected values of {values.type} behind `in`, found {chosen.type}")
    found = pc.is_in(values, value_set=chosen.cast(values.type))
    return pc.and_kleene(found if is_in else pc.invert(found), pc.is_valid(values))


def _constant(node: ast.expr) -> Any:
    """Return the number or text that an element of a list is; raises ValueError for anything else."""
    match node:
        case ast.Constant(value=value) if type(value) in (int, float, str, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value) | float(value))):
            return -value
    raise ValueError(f"{ast.unparse(node)!r:.80} cannot stand in a list")


def _pair(function: Callable[[Any, Any], Any], one: _Function, two: _Function) -> _Function:
    return lambda columns: function(one(columns), two(columns))


def _folded(function: Callable[[Any, Any], Any], parts: list[_Function]) -> _Function:
    def folded(columns: Mapping[str, Any]) -> Any:
        result = parts[0](columns)
        for part in parts[1:]:
            result = function(result, part(columns))
        return result

    return folded
