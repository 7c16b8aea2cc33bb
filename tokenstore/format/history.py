"""The history of a store that was made of other stores: an entry for each operation (FORMAT.md, M6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokenstore.format.fields import Reader, exactly, list_of, record, text

__all__ = ["Operation", "read_history"]


@dataclass(frozen=True)
class Operation:
    """An operation that made a store of other stores."""

    operation: str
    """The name of the operation, such as `select`."""
    arguments: Mapping[str, Any]
    """The arguments that decided the result, as JSON values."""
    inputs: tuple[str, ...]
    """The SHA-256 (hex) of the root `zarr.json` of each store that the operation read, in order."""
    version: str
    """The tokenstore that did it, such as `tokenstore 0.1.0`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "inputs": list(self.inputs)}


read_history: Reader[tuple[Operation, ...]] = list_of(
    record(
        Operation,
        {"operation": text, "arguments": exactly(dict), "inputs": list_of(text), "version": text},
    )
)
"""The reader of the field `history` of a manifest; raises FieldError."""
