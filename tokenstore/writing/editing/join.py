"""The merging of whole stores of one tokenizer: splits joined by name, classes unified by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.errors import ArgumentError, ManifestError, Parameter, StoreError
from tokenstore.format import (
    CODEBOOK,
    LABELS,
    NAME,
    SYMMETRIES,
    SYNONYMS,
    TOKENS,
    Column,
    FileRecord,
    TokenizerIdentity,
)
from tokenstore.reading import SplitReader, TokenStore
from tokenstore.reading.views import check_same_tokenizer
from tokenstore.storage import Storage
from tokenstore.writing.blocks import BlockExecutor
from tokenstore.writing.editing.label_files import check_label_maps, told_apart
from tokenstore.writing.editing.new_store import EditedStore, OnSamples, new_store, operation, same_spec
from tokenstore.writing.editing.rows import PickedRows
from tokenstore.writing.editing.select import write_picked
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.writer import StoreWriter

__all__ = ["Joining", "agreed_columns", "check_agreement", "join_stores", "unified_classes"]

_SHOWN = 5
"""The columns that a message names."""


@dataclass(frozen=True)
class Joining:
    """The way in which stores are joined."""

    split_names: str
    """The name of a new split, with `{split}`, `{store}` and `{number}` for those of its samples."""
    common_columns: bool
    """True to leave out columns that not all splits of a name have."""

    def names(self, store: TokenStore, number: int) -> dict[str, str]:
        """Return the new name of each split of a store, the `number`th from 1; raises ManifestError."""
        stem = re.sub("[^A-Za-z0-9_-]", "-", PurePosixPath(store.files.storage.url).stem).lstrip("-")
        found = {}
        for split in store.splits:
            words = {"": "", "{split}": split, "{store}": stem, "{number}": str(number)}
            pieces = re.split("({split}|{store}|{number})", self.split_names)
            name = "".join(words.get(piece, piece) for piece in pieces)
            if not NAME.fullmatch(name):
                named = Parameter("split_names")
                raise ManifestError(
                    f"split_names: {name!r:.80} cannot name a split: use letters, digits, _ and -, and "
                    "{split}, {store} and {number}",
                    parameters=[named],
                )
            found[split] = name
        if len(set(found.values())) < len(found):
            raise ArgumentError(
                f"split_names: expected a name for each of {', '.join(store.splits)}, found "
                f"{self.split_names!r:.80}, which names several alike. Put {{split}} into it",
                parameters=[Parameter("split_names")],
            )
        return found


def join_stores(
    stores: Sequence[TokenStore],
    target: Storage,
    how: Joining,
    *,
    executor: BlockExecutor,
    resume: bool,
    on_progress: OnSamples | None,
) -> EditedStore:
    """Write the store of the samples of all stores, one after another; see `tokenstore.merge`.

    Raises StoreError for stores that cannot be joined, ArgumentError and ManifestError for names of splits
    that cannot be, DamageError, and what `new_store` raises.
    """
    check_agreement(stores)
    names, labels = unified_classes(stores)
    picked: dict[str, list[PickedRows]] = {}
    for number, (store, table) in enumerate(zip(stores, labels, strict=True), 1):
        for split, name in how.names(store, number).items():
            picked.setdefault(name, []).append(PickedRows(store[split], labels=table))
    columns = {name: agreed_columns(name, parts, common=how.common_columns) for name, parts in picked.items()}
    spec = _spec(stores, how, names)

    def write(writer: StoreWriter) -> None:
        write_picked(writer, picked, writer.spec, executor, on_progress, columns)

    return new_store(target, spec, resume, write)


def _spec(stores: Sequence[TokenStore], how: Joining, names: tuple[str, ...] | None) -> StoreSpec:
    """Return the spec of the joined store: the first one's, without what others contradict."""
    histories = [[done.to_dict() for done in store.manifest.history] for store in stores]
    done = operation(
        "merge",
        stores,
        split_names=how.split_names,
        common_columns=how.common_columns or None,
        histories=histories if any(histories) else None,
    )
    manifests = [store.manifest for store in stores]

    def agreed(field: str) -> Any:
        values = [getattr(manifest, field) for manifest in manifests]
        return values[0] if all(value == values[0] for value in values) else None

    ignored = {manifest.ignore_index for manifest in manifests} - {None}
    books = (store.codebook for store in stores)
    synonyms = (store.synonyms for store in stores)
    symmetric = next((store.files for store in stores if store.manifest.symmetries), stores[0].files)
    return replace(
        same_spec(stores[0], done),
        tokenizer=joined_identity(stores),
        class_names=names,
        preprocessing=agreed("preprocessing"),
        source_kind=agreed("source_kind"),
        source_location=agreed("source_location"),
        ignore_index=ignored.pop() if ignored else None,
        codebook=next((book for book in books if book is not None), None),
        synonyms=next((table for table in synonyms if table is not None), None),
        symmetries=symmetric.manifest.symmetries,
        permutations=symmetric.permutations,
        history=(done,),
    )


def joined_identity(stores: Sequence[TokenStore]) -> TokenizerIdentity:
    """Return the identity of the tokenizer of all stores: the first one's, with the arithmetic of all.

    It names the device and the float type of each, and is compiled if any one is.
    """
    identities = [store.manifest.tokenizer for store in stores]
    return replace(
        identities[0],
        device=_names([identity.device for identity in identities]),
        dtype=_names([identity.dtype for identity in identities]),
        compiled=any(identity.compiled for identity in identities),
    )


def _names(texts: Sequence[str | None]) -> str | None:
    """Return the different names in some texts, in order, joined by `, `; None if there are none."""
    names = dict.fromkeys(name for text in texts if text is not None for name in text.split(", "))
    return ", ".join(names) or None


def check_agreement(stores: Sequence[TokenStore]) -> None:
    """Raise StoreError unless codes, vectors and masks mean the same in all stores."""
    for store in stores:
        if not store.splits:
            raise StoreError(f"{store.files.storage}: expected a store with splits, found none")
    check_same_tokenizer([store[store.splits[0]] for store in stores])
    for name in (CODEBOOK, SYNONYMS, SYMMETRIES):
        _check_equal(stores, name, [_records(store, f"{name}/c/") or None for store in stores])
    _check_equal(stores, "ignore_index", [store.manifest.ignore_index for store in stores])
    first = stores[0].manifest.views
    for store in stores:
        if store.manifest.views != first:
            raise _different(stores[0], store, "views", first, store.manifest.views)


def _check_equal(stores: Sequence[TokenStore], name: str, values: Sequence[Any]) -> None:
    known = [(store, value) for store, value in zip(stores, values, strict=True) if value is not None]
    for store, value in known:
        if value != known[0][1]:
            raise _different(known[0][0], store, name, known[0][1], value)


def _records(store: TokenStore, folder: str) -> list[FileRecord]:
    return [record for path, record in store.manifest.files.items() if path.startswith(folder)]


def _different(first: TokenStore, other: TokenStore, name: str, expected: Any, actual: Any) -> StoreError:
    return StoreError(
        f"{other.files.storage}: cannot be merged with {first.files.storage}: {name} is {expected!r:.200} "
        "there, "
        f"and {actual!r:.200} here"
    )


def unified_classes(
    stores: Sequence[TokenStore],
) -> tuple[tuple[str, ...] | None, list[npt.NDArray[np.int32] | None]]:
    """Return the names of all classes, and for each store the new label of each of its labels.

    None stands for labels that stay. Classes of one store stay apart, even where two have one name. Raises
    StoreError where only some labels have names, where stores have other numbers of classes of one name, and
    for label maps whose values would be other classes.
    """
    named = [store for store in stores if store.class_names is not None]
    if not named:
        return None, [None] * len(stores)
    for store in stores:
        if store.class_names is None and any(LABELS in store[name].columns for name in store.splits):
            naming = Parameter("class_names")
            raise StoreError(
                f"{store.files.storage}: expected names of classes as {named[0].files.storage} has, found "
                f"labels without. Convert it with {naming}, or give a store names by `tokenstore.relabel`",
                parameters=[naming],
            )
    _check_repeated(named)
    classes = list(dict.fromkeys(each for store in named for each in told_apart(store.class_names or ())))
    number = {each: label for label, each in enumerate(classes)}
    tables: list[npt.NDArray[np.int32] | None] = []
    for store in stores:
        own = told_apart(store.class_names or ())
        table = np.array([number[each] for each in own], np.int32)
        check_label_maps(store, table, f"its classes have other numbers than {named[0].files.storage}'s")
        tables.append(None if np.array_equal(table, np.arange(len(own))) else table)
    return tuple(name for name, _ in classes), tables


def _check_repeated(stores: Sequence[TokenStore]) -> None:
    """Raise StoreError for a name that stores with that name give to different numbers of classes."""
    counts: dict[str, tuple[TokenStore, int]] = {}
    for store in stores:
        for name, count in Counter(store.class_names).items():
            first, expected = counts.setdefault(name, (store, count))
            if count != expected:
                raise StoreError(
                    f"{store.files.storage}: expected {expected} classes of the name {name!r:.80} as "
                    f"{first.files.storage} has, found {count}, so that it is unknown which is which. Make "
                    "them one class by relabelling the stores first"
                )


def agreed_columns(name: str, parts: Sequence[PickedRows], *, common: bool | None = None) -> tuple[str, ...]:
    """Return the columns of a new split; raise StoreError where its parts have others.

    With `common` those that not all have are left out; None stands for a caller that cannot leave them out.
    """
    tables = [_described(part.split) for part in parts]
    first = tables[0]
    for part, table in zip(parts, tables, strict=True):
        if table != first and not common:
            differ = sorted(each for each in {*first, *table} if first.get(each) != table.get(each))
            leaving = Parameter("common_columns", True)
            hint = "" if common is None else f". Leave out what not all have by {leaving}"
            raise StoreError(
                f"split {name}: expected the same columns in {parts[0].split} and {part.split}, found "
                f"other {', '.join(differ[:_SHOWN])}{hint}",
                parameters=[] if common is None else [leaving],
            )
    return tuple(each for each in first if all(table.get(each) == first[each] for table in tables))


def _described(split: SplitReader) -> Mapping[str, Column]:
    return {name: split.column(name) for name in split.columns if name != TOKENS}
