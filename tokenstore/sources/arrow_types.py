"""The Arrow types that hold texts and bytes: plain, large and view types, and dictionaries of them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

__all__ = [
    "READ_ERRORS",
    "as_bytes",
    "check_indices",
    "is_bytes",
    "is_number",
    "is_text",
    "plain",
    "type_name",
    "value_type",
]

READ_ERRORS = (
    *(pa.ArrowException, OSError, ValueError, TypeError, LookupError),
    *(OverflowError, MemoryError, RecursionError),
)
"""The errors by which Arrow says that a damaged or hostile file cannot be read."""


def value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a dictionary's values, or the type itself."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def type_name(kind: pa.DataType) -> str:
    """Return a name that types have in common if their values are alike, for comparison.

    Texts have one, a dictionary has that of its values, and names inside of lists don't count.
    """
    kind = pa.string() if is_text(kind) else value_type(kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{'list' if pa.types.is_list(kind) else 'large_list'}<{type_name(kind.value_type)}>"
    return str(kind)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of that type, or its dictionary, holds texts."""
    kind = value_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether a column of that type, or its dictionary, holds bytes of any length."""
    kind = value_type(kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Return whether a column of that type, or its dictionary, holds numbers, which may be whole."""
    kind = value_type(kind)
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def check_indices(values: pa.DictionaryArray) -> None:
    """Raise ValueError for an index outside the dictionary, which Arrow itself would follow."""
    bounds = pc.min_max(values.indices).as_py()
    if bounds["min"] is not None and not 0 <= bounds["min"] <= bounds["max"] < len(values.dictionary):
        raise ValueError(f"expected indices of {len(values.dictionary)} values, found {bounds['max']}")


def plain(values: pa.Array) -> pa.Array:
    """Return an array without a dictionary; raise ValueError for indices outside of it."""
    if not pa.types.is_dictionary(values.type):
        return values
    check_indices(values)
    return values.dictionary_decode()


def as_bytes(values: pa.Array) -> list[bytes | None]:
    """Return texts or bytes as Python's bytes; texts need not be UTF-8. Raises ValueError like `plain`."""
    contents: list[bytes | None] = plain(values).cast(pa.large_binary()).to_pylist()
    return contents
