"""The labels in a column of Parquet files, read in batches without one object a sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.errors import Parameter, SourceChangedError, SourceError, StorageError
from tokenstore.parquet_pages import column_pages, open_parquet
from tokenstore.sources.arrow_types import READ_ERRORS, as_bytes, check_indices, is_number, plain
from tokenstore.sources.base import Labels, Note
from tokenstore.sources.files import SourceFile, reading
from tokenstore.sources.labels import check_class_range, check_labels, label_words
from tokenstore.sources.listings import FileListing, ListingTask, SavedListings, list_files
from tokenstore.sources.parquet_cells import LARGEST_INFLATION, SMALL_NBYTES
from tokenstore.sources.parquet_columns import Columns

_BATCH_ROWS = 4096
_HIDDEN_LABEL = -1
"""The label of every sample of a hub's test split whose labels are secret."""


class NotWholeError(SourceError):
    """A column of labels holds numbers that are not whole."""


@dataclass(frozen=True)
class ListLabels(ListingTask):
    """The listing of the labels in a Parquet file, a row a sample.

    `number` is int64, `word` a dictionary of binary; one of them is null. Raises SourceError for values that
    are null or cannot be read, NotWholeError for fractions.
    """

    name: str
    """The name of the column."""

    @override
    def __call__(self, file: SourceFile) -> FileListing:
        try:
            return FileListing(label_table(self._batches(file), str(file), self.name), {})
        except (StorageError, SourceChangedError):
            raise
        except READ_ERRORS as error:
            raise SourceError(f"{file}: column {self.name!r} cannot be read: {error}") from error

    def _batches(self, file: SourceFile) -> Iterator[pa.Array]:
        """Yield the values of a file, a few at a time; raise ValueError where they inflate beyond reason."""
        # texts stay dictionaries, of which few bytes can be many long values
        with (
            reading(file) as reader,
            open_parquet(reader, read_dictionary=[self.name]) as opened,
        ):
            leaves = [opened.schema.column(leaf).path for leaf in range(len(opened.schema.names))]
            groups = column_pages(reader, leaves.index(self.name))
            for group, pages in zip(range(opened.num_row_groups), groups, strict=True):
                if not opened.metadata.row_group(group).num_rows:  # writers disagree on what such a group has
                    continue
                _check_pages(pages)
                for batch in opened.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=[self.name], use_threads=False
                ):
                    yield batch.column(0)


def label_table(batches: Iterable[pa.Array], where: str, name: str) -> pa.Table:
    """Return the labels in some cells of a column, a row a sample, with the columns of `ListLabels`.

    Raises SourceError for cells that are null, NotWholeError for fractions, and whatever Arrow raises.
    """
    numbers, codes, words, row = NumberBuilder(), NumberBuilder(), dict[bytes, int](), 0
    for values in batches:
        if values.null_count or _has_nan(values):
            raise _null(where, name, row, values)
        if is_number(values.type):
            numbers.append(_whole(where, name, values))
        else:
            codes.append(_codes(values, words))
        row += len(values)
    dictionary = pa.array(list(words), pa.binary())
    columns = numbers.finish(row, pa.int64()), codes.finish(row, pa.int32())
    word = pa.DictionaryArray.from_arrays(columns[1], dictionary)
    return pa.table({"number": columns[0], "word": word})


def _whole(where: str, name: str, values: pa.Array) -> npt.NDArray[np.int64]:
    try:
        whole: npt.NDArray[np.int64] = plain(values).cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        if pa.types.is_integer(values.type):
            raise
        raise NotWholeError(f"{where}: column {name!r} has numbers that are not whole") from error
    return whole


def _null(where: str, name: str, row: int, values: pa.Array) -> SourceError:
    nulls = pc.is_null(values, nan_is_null=True)
    first = row + nulls.index(True).as_py()
    return SourceError(f"{where}: {pc.sum(nulls).as_py()} labels are null (first: row {first} of {name!r})")


class NumberBuilder:
    """A builder of a column of numbers, which is null where none were added."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.int64]] = []

    def append(self, numbers: npt.NDArray[np.int64]) -> None:
        """Append some numbers."""
        self._parts.append(numbers)

    def finish(self, rows: int, kind: pa.DataType) -> pa.Array:
        """Return the column."""
        return pa.array(np.concatenate(self._parts), kind) if self._parts else pa.nulls(rows, kind)


def _codes(values: pa.Array, words: dict[bytes, int]) -> npt.NDArray[np.int64]:
    """Return the number of each text among `words`, to which new ones are added."""
    coded = values if pa.types.is_dictionary(values.type) else pc.dictionary_encode(values)
    check_indices(coded)
    indices = coded.indices.to_numpy(zero_copy_only=False)
    texts = as_bytes(coded.dictionary)
    occurs = np.zeros(len(texts), np.bool_)  # a dictionary may have words that no row has
    occurs[indices] = True
    numbers = [
        words.setdefault(text or b"", len(words)) if is_used else -1
        for text, is_used in zip(texts, occurs, strict=True)
    ]
    codes: npt.NDArray[np.int64] = np.array(numbers, np.int64)[indices]
    return codes


@dataclass
class LabelColumn:
    """The values of one column in all files of a source: all numbers, or all texts."""

    name: str
    where: str
    _numbers: dict[str, list[npt.NDArray[np.int64]]] = field(default_factory=dict)
    _texts: dict[str, list[npt.NDArray[np.int32]]] = field(default_factory=dict)
    """The indices of texts in `_words` by split."""
    _words: dict[bytes, int] = field(default_factory=dict)

    def add(self, split: str, table: pa.Table) -> None:
        """Add the values of one file, as `ListLabels` lists them."""
        if not len(table):
            return
        if not table["number"].null_count:
            self._numbers.setdefault(split, []).append(table["number"].to_numpy())
            return
        for coded in table["word"].chunks:
            words = as_bytes(coded.dictionary)
            ids = [self._words.setdefault(word or b"", len(self._words)) for word in words]
            indices = coded.indices.to_numpy(zero_copy_only=False)
            self._texts.setdefault(split, []).append(np.array(ids, np.int32)[indices])

    def labels(self, class_names: tuple[str, ...] | None) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
        """Return the labels of each split that has some, and the names of the classes, if known.

        Raises SourceError for negative and too large labels, empty texts, and numbers beside texts.
        """
        if not self._numbers:
            ids = {split: np.concatenate(parts) for split, parts in self._texts.items()}
            return label_words(ids, list(self._words), self.where)
        if self._texts:
            both = set(self._numbers) & set(self._texts)
            raise SourceError(
                f"{self.where}: column {self.name!r} has numbers in some {'files' if both else 'splits'} only"
            )
        return self._checked(class_names), class_names

    def _checked(self, class_names: tuple[str, ...] | None) -> dict[str, Labels]:
        labels = {}
        for split, parts in self._numbers.items():
            numbers = np.concatenate(parts)
            if (numbers != _HIDDEN_LABEL).any():
                labels[split] = check_labels(numbers, f"{self.where}: column {self.name!r} of split {split}")
        check_class_range(labels, class_names, self.where)
        return labels


def read_labels(
    name: str,
    files: Mapping[str, tuple[SourceFile, ...]],
    class_names: tuple[str, ...] | None,
    where: str,
    listings: SavedListings | None = None,
) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    """Read the column of labels of all files; the splits whose labels are all hidden are left out.

    Raises SourceError like `ListLabels` and `LabelColumn`.
    """
    column = LabelColumn(name, where)
    try:
        for split, of_split in files.items():
            for listing in list_files(of_split, ListLabels(name), listings, in_processes=False):
                column.add(split, listing.table)
        return column.labels(class_names)
    except (NotWholeError, SourceChangedError):
        raise
    except SourceError as error:
        ways = Parameter("label_column"), Parameter("no_labels", True)
        text = f"{error}. Take another column by {ways[0]}, or leave labels out by {ways[1]}"
        raise SourceError(text, parameters=ways) from error


def labels_of(
    files: Mapping[str, tuple[SourceFile, ...]],
    columns: Columns,
    where: str,
    listings: SavedListings | None,
) -> tuple[dict[str, Labels], tuple[str, ...] | None, tuple[str, ...]]:
    """Return the labels of each split, the class names, and the notes on labels that are not used.

    Raises SourceError like `read_labels`.
    """
    if columns.label is None:
        return {}, None, columns.unused_labels
    try:
        return *read_labels(columns.label, files, columns.class_names, where, listings), ()
    except NotWholeError as error:
        if columns.label_is_named:
            raise
        parameter = Parameter("label_column")
        text = f"{error}, so it is not used; {parameter} takes another column"
        return {}, None, (Note(text, [parameter]),)


def _check_pages(pages: Iterable[tuple[int, int]]) -> None:
    """Raise ValueError for pages that together inflate to more than labels do."""
    inflated = stored = 0
    for each_inflated, each_stored in pages:
        inflated, stored = inflated + each_inflated, stored + each_stored
        if inflated > max(SMALL_NBYTES, LARGEST_INFLATION * stored):
            raise ValueError(f"{stored:,} bytes inflate to {inflated:,} or more")


def _has_nan(values: pa.Array) -> bool:
    return bool(pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py())
