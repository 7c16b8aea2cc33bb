"""The optional columns of the audit: what `tokenstore.stats` can say of a split beyond its sizes and codes.

A column is one function. Given a store and the options of the audit, it returns a value for each split, or
None if the options do not ask for it. A value is a JSON value or has a method `to_dict`. COLUMNS names the
function of every column; `register_column` adds one from outside the package.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tokenstore.sources.options import OriginalsOptions

if TYPE_CHECKING:
    from tokenstore.audit.quality import SplitQuality
    from tokenstore.loading import Mixing
    from tokenstore.reading import TokenStore
    from tokenstore.tokenizers.base import Tokenizer


BATCH_SIZE = 256
"""The samples of a batch, for the column `shuffle`, unless the caller says otherwise."""


@dataclass(frozen=True)
class StatsOptions:
    """The options of an audit, as `tokenstore.stats` takes them."""

    quality: int | None = None
    shuffle: bool = False
    batch_size: int = BATCH_SIZE
    shuffle_window: int | None = None
    images: Any = None
    tokenizer: str | Tokenizer | None = None
    device: str = "cpu"
    of_images: OriginalsOptions = field(default_factory=OriginalsOptions)
    """The options of opening the images."""
    further: bool = False


class StatsColumn(Protocol):
    """A function that computes one column of the audit."""

    def __call__(self, store: TokenStore, options: StatsOptions) -> Mapping[str, Any] | None:
        """Return the value of each split by its name, or None if `options` do not ask for the column."""


COLUMNS: dict[str, str | StatsColumn] = {
    "quality": "tokenstore.audit.columns:quality",
    "shuffle": "tokenstore.audit.columns:shuffle",
    "further": "tokenstore.audit.column_use:column_use",
}
"""The function of each column by its name; a text `module:function` is imported when it is needed."""


def register_column(name: str, column: StatsColumn) -> None:
    """Add a column to every audit from now on.

    Raises ValueError for a name that is taken.
    """
    if name in COLUMNS:
        raise ValueError(f"expected a new name of a column, found {name!r}, which is taken")
    COLUMNS[name] = column


def compute_columns(store: TokenStore, options: StatsOptions) -> dict[str, dict[str, Any]]:
    """Compute the columns that `options` ask for: the values of each split by the columns' names.

    Raises whatever a column raises.
    """
    values: dict[str, dict[str, Any]] = {split: {} for split in store.splits}
    for name, column in COLUMNS.items():
        for split, value in (_function(column)(store, options) or {}).items():
            values[split][name] = value
    return values


def quality(store: TokenStore, options: StatsOptions) -> Mapping[str, SplitQuality] | None:
    """Compare reconstructions with the images they were made of: PSNR and SSIM of each split.

    Raises SourceError if the images cannot be read, TokenizerError if the tokenizer is not the store's.
    """
    if options.quality is None:
        return None
    # imported here, since torch takes seconds
    from tokenstore.audit.originals import folder_of, open_images
    from tokenstore.audit.quality import measure_quality
    from tokenstore.audit.reconstruct import tokenizer_for

    source = open_images(store.manifest, options.images, folder_of(store), **options.of_images)
    tokenizer = tokenizer_for(store.manifest, options.tokenizer, options.device)
    return measure_quality(store, tokenizer, source, options.quality)


def shuffle(store: TokenStore, options: StatsOptions) -> Mapping[str, Mixing | None] | None:
    """Measure how well the orders of an epoch mix each split; None for a split that has nothing to mix."""
    if not options.shuffle:
        return None
    from tokenstore.loading import measure_mixing

    return {
        name: measure_mixing(store[name], options.batch_size, options.shuffle_window) for name in store.splits
    }


def json_value(value: Any) -> Any:
    """Return a column's value as a JSON value."""
    if isinstance(value, Mapping):
        return {name: json_value(each) for name, each in value.items()}
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _function(column: str | StatsColumn) -> StatsColumn:
    if not isinstance(column, str):
        return column
    module, _, name = column.partition(":")
    function: StatsColumn = getattr(importlib.import_module(module), name)
    return function
