"""New labels for a store, and new names for its classes; tokens and all other columns stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from tokenstore.errors import ArgumentError, DamageError, Parameter, did_you_mean
from tokenstore.format import (
    LABEL_COLUMN,
    LABELS,
    SAMPLES_SCHEMA,
    SAMPLES_TABLE,
    SHARD_MANIFEST,
    TOKENS,
    ArrayLayout,
    encode_records,
    file_record,
)
from tokenstore.reading import SplitReader, TokenStore
from tokenstore.reading.open import StorePath
from tokenstore.storage import Storage
from tokenstore.texts import is_unicode
from tokenstore.writing.editing.edition import Edition, Editor, edit
from tokenstore.writing.editing.label_files import (
    GivenLabels,
    Labels,
    check_label_maps,
    given_labels,
    mapped_classes,
    read_class_map,
    read_labels,
)
from tokenstore.writing.editing.new_store import EditedStore, OnSamples
from tokenstore.writing.editing.rows import PickedRows
from tokenstore.writing.rewrite import TableRows, spec_of

__all__ = ["relabel", "rename_class"]

_NAMES_SHOWN = 5

LabelsOf: TypeAlias = Callable[[int, int], Labels]
"""A function that returns the labels of the samples [start, stop) of a split."""


def relabel(
    store: StorePath | TokenStore,
    out: StorePath | Storage | None = None,
    *,
    class_map: Mapping[str, str] | StorePath | None = None,
    labels: GivenLabels | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    on_progress: OnSamples | None = None,
) -> EditedStore:
    """Give the samples of `store` other labels: at `out`, or in its place.

    `class_map` maps names of classes to new names, or is a CSV file of both; several classes may become one,
    and those without an entry keep their names. Or `labels` are the new labels: integers (N,) of the only
    split, a mapping of them by split, a `.npy` file of them, or a CSV file with the columns `source` and
    `label`, which has every sample by its name in the samples table. Labels of such a file are numbers, or
    names of classes, of which new ones follow the store's own in alphabetical order.

    Tokens and all other columns are linked, or copied where that is not possible. In its place, the store has
    to be a local folder or zip file; the new one is whole beside it before they change places, and a call
    after a crash goes on by itself. `resume` goes on with what an interrupted call left at `out`.
    `storage_options` are those of `store`, or of `out` where `store` is local; `target_storage_options` are
    those of `out`. `on_progress` is called with a step's name, the files that are done, and all files.

    Raises ArgumentError for labels, names or options that cannot be used; StoreError for a store without
    names of classes to map, or one that cannot be replaced in its place; DamageError; StoreExistsError if
    something else is at `out`; ConversionError if an unfinished store there is of another operation; and the
    errors of `tokenstore.open`.
    """
    if (class_map is None) == (labels is None):
        named = [Parameter("class_map"), Parameter("labels")]
        found = "none" if labels is None else "both"
        raise ArgumentError(f"expected either {named[0]} or {named[1]}, found {found}", parameters=named)
    options: dict[str, Any] = {
        "resume": resume,
        "storage_options": storage_options,
        "target_storage_options": target_storage_options,
    }
    if class_map is not None:
        names = read_class_map(class_map)
        done = {"name": "relabel", "class_map": names}
        return edit(store, out, done, lambda opened: _mapped(opened, names, on_progress), **options)
    assert labels is not None
    given = read_labels(labels)
    done = {"name": "relabel", "labels": given.digest}

    def editor(opened: TokenStore) -> Editor:
        by_split, class_names = given_labels(opened, given)
        new = {name: _slices(values) for name, values in by_split.items()}
        return lambda edition: _write(edition, new, class_names, on_progress)

    return edit(store, out, done, editor, **options)


def rename_class(
    store: StorePath | TokenStore,
    old: str,
    new: str,
    out: StorePath | Storage | None = None,
    *,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    on_progress: OnSamples | None = None,
) -> EditedStore:
    """Give the class `old` of `store` the name `new`: at `out`, or in its place; its label stays.

    Raises ArgumentError for a class that the store does not have, or a name that another class has, and
    otherwise what `relabel` raises; the other arguments are as there.
    """
    if not is_unicode(new):
        raise ArgumentError(f"expected a name of Unicode's characters, found {new!r:.80}")

    def editor(opened: TokenStore) -> Editor:
        names = opened.class_names or ()
        if old not in names:
            known = did_you_mean(old, names) or f"; it has {_some(names)}"
            raise ArgumentError(f"{opened.files.storage}: no class {old!r:.80} to rename{known}")
        if names.count(old) > 1:
            raise ArgumentError(
                f"{opened.files.storage}: expected one class of the name {old!r:.80}, found "
                f"{names.count(old)}. Rename classes that are told apart by their names"
            )
        if new in names:
            merging = Parameter("class_map")
            raise ArgumentError(
                f"{opened.files.storage}: expected a new name, found {new!r:.80}, another class's. To make "
                "two "
                f"classes one, relabel by {merging}",
                parameters=[merging],
            )
        renamed = tuple(new if name == old else name for name in names)
        return lambda edition: _write(edition, {}, renamed, on_progress)

    return edit(
        store,
        out,
        {"name": "rename-class", "old": old, "new": new},
        editor,
        resume=resume,
        storage_options=storage_options,
        target_storage_options=target_storage_options,
    )


def _mapped(store: TokenStore, names: Mapping[str, str], on_progress: OnSamples | None) -> Editor:
    """Return the editor that maps classes; raises what `mapped_classes` raises."""
    classes = mapped_classes(store, names)
    check_label_maps(store, classes.labels, "classes become one, or another order")
    new = {
        name: _mapped_labels(PickedRows(store[name], labels=classes.labels))
        for name in store.splits
        if LABELS in store[name].columns
    }
    return lambda edition: _write(edition, new, classes.names, on_progress)


def _mapped_labels(rows: PickedRows) -> LabelsOf:
    reader = rows.split.array(LABELS).streamed()
    return lambda start, stop: rows.relabelled(reader.read_range(start, stop))


def _slices(values: Labels) -> LabelsOf:
    return lambda start, stop: values[start:stop]


def _write(
    edition: Edition,
    new: Mapping[str, LabelsOf],
    names: tuple[str, ...] | None,
    on_progress: OnSamples | None,
) -> dict[str, Any]:
    """Write the labels of some splits and the tables of all, and keep all other files."""
    store, replaced = edition.store, []
    for name in store.splits:
        split = store[name]
        labels = new.get(name)
        if labels is not None:
            _write_labels(edition, split, labels)
            replaced.append(f"{name}/{LABELS}")
        elif LABELS in split.columns:
            labels = split.array(LABELS).streamed().read_range
        if labels is not None and names is not None:
            _write_tables(edition, split, labels, names)
            replaced.append(f"{name}/{SAMPLES_TABLE}")
    edition.keep_rest(replaced, on_progress)
    return {"class_names": names}


def _write_labels(edition: Edition, split: SplitReader, labels: LabelsOf) -> None:
    array = f"{split.name}/{LABELS}"
    layout, is_listed = _labels_layout(edition.store, split)
    if is_listed:
        edition.listed_arrays.add(array)
    records = []
    for shard in range(layout.shards):
        start = shard * layout.shard_samples
        values = labels(start, min(start + layout.shard_samples, layout.samples))
        path, data = f"{array}/{layout.shard_file(shard)}", layout.encode_shard(values)
        records.append(file_record(data))
        edition.write(path, data)
    if is_listed:
        edition.write(f"{array}/{SHARD_MANIFEST}", encode_records(records))
    edition.write_document(array, layout.to_zarr(LABELS))


def _labels_layout(store: TokenStore, split: SplitReader) -> tuple[ArrayLayout, bool]:
    """Return the layout of a split's labels, and whether a file of their array lists their shards.

    Labels of a split that has none get the shards of its tokens.
    """
    like = LABELS if LABELS in split.columns else TOKENS
    is_listed = f"{split.name}/{like}" in store.files.listed_arrays
    layout = split.array(like).layout
    if like == TOKENS:
        layout = spec_of(store).column_layout(len(split), layout.shard_samples, LABEL_COLUMN)
    return layout, is_listed


def _write_tables(edition: Edition, split: SplitReader, labels: LabelsOf, names: tuple[str, ...]) -> None:
    """Write the samples table of a split anew, with the names of labels."""
    words, size = pa.array(names, pa.string()), split.array(TOKENS).layout.shard_samples
    rows, start = TableRows(split.samples_batches()), 0

    def tables(count: int) -> Iterator[pa.Table]:
        nonlocal start
        while count:
            for table in rows.take(min(count, size)):
                numbers = labels(start, start + len(table))
                if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(names):
                    raise DamageError(f"{split!r}: expected labels below {len(names)}. Check the store")
                place = SAMPLES_SCHEMA.get_field_index("label_name")
                yield table.set_column(place, SAMPLES_SCHEMA.field(place), words.take(pa.array(numbers)))
                start, count = start + len(table), count - len(table)

    for path, count in split.store.samples_parts(split.name):
        edition.write_table(path, SAMPLES_SCHEMA, tables(count))


def _some(names: Sequence[str]) -> str:
    """Return the first names of classes, and how many there are if these are not all."""
    if not names:
        return "no names of classes"
    more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(f"{name!r:.80}" for name in names[:_NAMES_SHOWN]) + more
