"""The config of a tokenizer as JSON in the metadata of its weights file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self, TypeVar

from tokenstore.errors import TokenizerError
from tokenstore.format.fields import FieldError, Reader, checked, fields_of

__all__ = ["LARGEST_FIELD", "SIZE", "TEXT", "SizedConfig", "read_config"]

LARGEST_FIELD: Final = 1 << 16
"""The largest size in a config: a hostile file must not make us build an endless model."""

T = TypeVar("T")

TEXT: Final = checked("text", lambda value: isinstance(value, str) and bool(value))
"""The reader of text that is not empty."""
SIZE: Final = checked(
    f"in 1..{LARGEST_FIELD}", lambda value: type(value) is int and 1 <= value <= LARGEST_FIELD
)
"""The reader of a size."""


def read_config(text: str, kind: Callable[..., T], readers: Mapping[str, Reader[Any]]) -> T:
    """Return the config in a JSON text, made by `kind` of the fields by name.

    Raises TokenizerError unless the text is an object with exactly the fields that have readers, each valid.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"expected a JSON object as config, found {text[:80]!r}") from error
    try:
        return kind(**fields_of(values, "config", readers, others=False))
    except FieldError as error:
        name = error.where.removeprefix("config").removeprefix(".")
        if not name or error.expected is None:
            names = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise TokenizerError(
                f"expected a config with the fields {sorted(readers)}, found {names}"
            ) from error
        raise TokenizerError(
            f"config: expected {name} to be {error.expected}, found {error.actual}"
        ) from error


@dataclass(frozen=True)
class SizedConfig:
    """A config whose fields are a name and sizes."""

    def to_json(self) -> str:
        """Return the config as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse a config; raise TokenizerError unless the text has exactly the fields, of their types."""
        readers = {field.name: TEXT if field.name == "name" else SIZE for field in fields(cls)}
        return read_config(text, cls, readers)
