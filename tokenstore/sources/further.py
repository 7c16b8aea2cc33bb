"""The further columns that a user asks for: their names in the store, and what the source calls them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.codecs import NAME, Column
from tokenstore.errors import Parameter, SourceError, did_you_mean
from tokenstore.sources.arrow_values import Extent, column_values
from tokenstore.sources.base import Note, SourceColumn
from tokenstore.sources.names import digest, sliced
from tokenstore.texts import shortened

__all__ = ["ArrowColumn", "arrow_columns", "missing_field", "not_used", "requested_fields"]

_TAKEN = frozenset({"tokens", "labels", "masks", "soft_labels"})
"""The names of columns that a store fills in other ways."""
_READ_ROWS = 2**16


def requested_fields(columns: Sequence[str] | None, where: str) -> dict[str, str]:
    """Return the source's name of each column that is asked for, by its name in the store.

    A request is a name in the source, or `NAME=FIELD` for another name in the store. Raises SourceError for a
    name that a store cannot have, or that comes twice.
    """
    if isinstance(columns, str):
        columns = [columns]
    fields: dict[str, str] = {}
    for request in columns or ():
        name, equals, field = request.partition("=")
        field = field if equals else name
        if not NAME.fullmatch(name) or name in _TAKEN or name in fields or not field:
            parameter = Parameter("columns", f"NAME={field}")
            reason = "comes twice" if name in fields else "is no name that a column of a store can have"
            raise SourceError(
                f"{where}: the column {name!r} {reason}; {parameter} gives it another, of letters, digits, _ "
                "and -",
                parameters=[parameter],
            )
        fields[name] = field
    return fields


def not_used(what: str, names: Sequence[str], *, needed: Sequence[Parameter] = ()) -> tuple[Note, ...]:
    """Return a note that names what is not stored, and how it would be; none without names.

    `what` is the source's word for several of them, such as "columns". Beside the parameter that names a
    column, those `needed` have to be given.
    """
    if not names:
        return ()
    parameters = [*needed, Parameter("columns", "NAME")]
    way = " with ".join(map(str, parameters))
    text = f"{what} not used: {len(names)} ({shortened(names)}); {way} stores one as a further column"
    return (Note(text, parameters),)


def missing_field(where: str, field: str, known: Sequence[str]) -> SourceError:
    """Return the error for a column that the source does not have."""
    parameter = Parameter("columns", field)
    near = did_you_mean(field, known)
    return SourceError(
        f"{where}: {parameter}: no such column; found {shortened(known, 20) or 'none'}{near}",
        parameters=[parameter],
    )


@dataclass(frozen=True)
class ArrowColumn(SourceColumn):
    """A column whose values are in memory, as Arrow has them."""

    kind: Column
    values: pa.ChunkedArray
    where: str

    @property
    @override
    def column(self) -> Column:
        return self.kind

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return column_values(sliced(self.values, start, stop), self.kind, self.where)

    @override
    def fingerprint(self) -> str:
        whole = hashlib.sha256()
        for start in range(0, len(self.values), _READ_ROWS):  # not Arrow's buffers, which nulls leave open
            values = self.read(start, min(start + _READ_ROWS, len(self.values)))
            ragged = self.kind.is_ragged
            whole.update(self.kind.codec.encode(values, len(values), 0) if ragged else values.tobytes())
        return digest(str(self.kind), len(self.values), whole.hexdigest())


def arrow_columns(values: Mapping[str, pa.ChunkedArray], name: str, where: str) -> dict[str, ArrowColumn]:
    """Return a column of each split, whose `values` are of one kind in all splits.

    Raises SourceError for values that no column can have.
    """
    extent = Extent(f"{where}: column {name!r}")
    for of_split in values.values():
        for chunk in of_split.chunks:
            extent.add(chunk)
    kind = extent.column()
    return {split: ArrowColumn(kind, of_split, extent.where) for split, of_split in values.items()}
