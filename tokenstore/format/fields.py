"""The reading of JSON objects: every field by a reader of its kind, or an error that says what is wrong.

A reader is a function of a JSON value and its place in the document. It returns the checked value in the
form that dataclasses have, with tuples for lists. `record` makes the reader of a dataclass out of readers of
its fields. Whoever reads a document turns a FieldError into an error of its own kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

__all__ = [
    "FieldError",
    "Reader",
    "checked",
    "exactly",
    "fields_of",
    "identical",
    "integer",
    "list_of",
    "mapping_of",
    "null_or",
    "record",
    "text",
]

T = TypeVar("T")
Reader: TypeAlias = Callable[[object, str], T]
"""A reader of values: (value, place in the document) -> value; raises FieldError."""


class FieldError(ValueError):
    """A JSON value is missing, or is not of the kind that its place in the document needs."""

    def __init__(self, where: str, expected: str | None = None, actual: str = "") -> None:
        super().__init__(
            f"{where}: missing" if expected is None else f"{where}: expected {expected}, found {actual:.80}"
        )
        self.where = where
        """The place of the value, such as "manifest.grid[1]"."""
        self.expected = expected
        """The valid values, in words; None if the value is missing."""
        self.actual = f"{actual:.80}"
        """The value, as Python writes it."""


def checked(expected: str, is_valid: Callable[[Any], bool]) -> Reader[Any]:
    """Return a reader of values that pass a test, which `expected` says in words."""

    def read(value: object, where: str) -> Any:
        if not is_valid(value):
            raise FieldError(where, expected, repr(value))
        return value

    return read


def exactly(kind: type[T]) -> Reader[T]:
    """Return a reader of values of one type, none of its subclasses: True is no integer."""
    return checked(kind.__name__, lambda value: type(value) is kind)


def identical(value: object, expected: object) -> bool:
    """Return True if two JSON values are equal and of the same types: 1, 1.0 and true are three values."""
    if type(value) is not type(expected):
        return False
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            identical(value[name], each) for name, each in expected.items()
        )
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(identical, value, expected))
    return value == expected


text: Reader[str] = exactly(str)
"""The reader of text."""
_list: Reader[list[object]] = exactly(list)
_dict: Reader[dict[str, object]] = exactly(dict)


def integer(minimum: int = 0, maximum: int = 2**63 - 1) -> Reader[int]:
    """Return a reader of integers in `minimum` to `maximum`, both included."""
    return checked(
        f"an integer from {minimum} to {maximum}",
        lambda value: type(value) is int and minimum <= value <= maximum,
    )


def null_or(read: Reader[T]) -> Reader[T | None]:
    """Return a reader that lets null pass as None, and reads everything else with `read`."""

    def read_or_null(value: object, where: str) -> T | None:
        try:
            return None if value is None else read(value, where)
        except FieldError as error:
            if error.where != where or error.expected is None:
                raise
            raise FieldError(where, f"{error.expected} or null", error.actual) from error

    return read_or_null


def list_of(read: Reader[T]) -> Reader[tuple[T, ...]]:
    """Return a reader of lists, which reads every value with `read`."""

    def read_list(value: object, where: str) -> tuple[T, ...]:
        return tuple(read(each, f"{where}[{i}]") for i, each in enumerate(_list(value, where)))

    return read_list


def mapping_of(read: Reader[T]) -> Reader[dict[str, T]]:
    """Return a reader of objects with any names, which reads every value with `read`."""

    def read_mapping(value: object, where: str) -> dict[str, T]:
        return {name: read(each, f"{where}.{name}") for name, each in _dict(value, where).items()}

    return read_mapping


def record(
    kind: Callable[..., T],
    required: Mapping[str, Reader[Any]],
    optional: Mapping[str, Reader[Any]] | None = None,
) -> Reader[T]:
    """Return a reader of objects with these fields, which calls `kind` with them by name."""
    return lambda value, where: kind(**fields_of(value, where, required, optional))


def fields_of(
    value: object,
    where: str,
    required: Mapping[str, Reader[Any]],
    optional: Mapping[str, Reader[Any]] | None = None,
    *,
    others: bool = True,
) -> dict[str, Any]:
    """Return the fields of an object by name; optional ones that are absent or null are left out.

    Raises FieldError for a missing field and for a value that its reader refuses, and without `others` also
    for a name that is in neither mapping.
    """
    values = _dict(value, where)
    optional = optional or {}
    unknown = () if others else values.keys() - required.keys() - optional.keys()
    if unknown:
        names = sorted(required.keys() | optional.keys())
        raise FieldError(where, f"the fields {names}", str(sorted(values)))
    fields = {}
    for name, read in required.items():
        place = f"{where}.{name}"
        if name not in values:
            raise FieldError(place)
        fields[name] = read(values[name], place)
    for name, read in optional.items():
        if values.get(name) is not None:
            fields[name] = read(values[name], f"{where}.{name}")
    return fields
