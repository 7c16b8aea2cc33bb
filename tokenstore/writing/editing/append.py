"""Samples behind those of a store: a new edition of it, which shares all full shards with the one before.

Only the last shard of each array, if it is not full, and the last part of the samples table are written
again; whole chunks of that shard are copied as they are. So an append takes as long as its own samples, one
shard and the links of the store's files take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenstore.errors import Parameter, StoreError, StoreExistsError
from tokenstore.format import SAMPLES_TABLE, SKIPPED_TABLE
from tokenstore.machine import available_cores
from tokenstore.reading import TokenStore
from tokenstore.reading.open import StorePath
from tokenstore.writing.blocks import Threads
from tokenstore.writing.choices import checked_jobs
from tokenstore.writing.editing.edition import Edition, Editor, edit
from tokenstore.writing.editing.extended import ExtendedSplit
from tokenstore.writing.editing.join import agreed_columns, check_agreement, joined_identity, unified_classes
from tokenstore.writing.editing.new_store import EditedStore, OnSamples, spec_like
from tokenstore.writing.editing.rows import JoinedRows, PickedRows

__all__ = ["append_store"]


def append_store(
    store: StorePath | TokenStore,
    source: TokenStore,
    *,
    again: bool = False,
    jobs: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: OnSamples | None = None,
) -> EditedStore:
    """Write the samples of the store `source` behind those of `store`, in its place; see `tokenstore.append`.

    Raises StoreError for a store that is not local, or where the two cannot be joined; StoreExistsError for a
    source that was appended before, without `again`; ArgumentError for `jobs` below 1; ConversionError where
    another process writes the store; DamageError; and the errors of `tokenstore.open`.
    """
    threads = checked_jobs(jobs, available_cores())

    def editor(opened: TokenStore) -> Editor:
        _check(opened, source, again)
        return lambda edition: _appended(edition, source, threads, on_progress)

    done = {"name": "append"}
    return edit(store, None, done, editor, others=[source], storage_options=storage_options)


def _has_appended(store: TokenStore, source: TokenStore) -> bool:
    """Return True if the history of a store says that it has the samples of another one already."""
    digest = source.files.root_digest
    return any(done.operation == "append" and digest in done.inputs[1:] for done in store.manifest.history)


def _check(store: TokenStore, source: TokenStore, again: bool) -> None:
    """Raise StoreError unless the samples of one store may follow those of another."""
    where = store.files.storage
    for each in (store, source):
        if each.manifest.part is not None:
            raise StoreError(
                f"{each.files.storage}: expected a whole store, found part {each.manifest.part} of a "
                "conversion. "
                "Merge its parts first"
            )
    is_same = store.files.root_digest == source.files.root_digest
    if not again and (is_same or _has_appended(store, source)):
        named = Parameter("again", True)
        raise StoreExistsError(
            f"{where}: the samples of {source.files.storage} are in it already. To have them twice, append "
            f"them by {named}",
            parameters=[named],
        )
    check_agreement([store, source])
    steps, others = store.manifest.preprocessing, source.manifest.preprocessing
    if steps != others:
        raise StoreError(
            f"{source.files.storage}: expected images of {steps} as in {where}, found {others}. Convert them "
            "with the options of that store"
        )
    unified_classes([store, source])
    for name in source.splits:
        if name in store.splits:
            agreed_columns(name, [PickedRows(store[name]), PickedRows(source[name])])
            _check_shards(store, name)


def _check_shards(store: TokenStore, name: str) -> None:
    sizes = {array: reader.layout.shard_samples for array, reader in store[name].arrays.items()}
    if len(set(sizes.values())) > 1:
        raise StoreError(
            f"{store.files.storage}/{name}: expected shards of equal numbers of samples, found {sizes}. "
            "Recode "
            "the store first"
        )


def _appended(
    edition: Edition, source: TokenStore, jobs: int, on_progress: OnSamples | None
) -> dict[str, Any]:
    """Write the new files of an edition, keep all others, and return the manifest's fields that change."""
    store = edition.store
    names, (_, labels) = unified_classes([store, source])
    spec = spec_like(store)
    splits, features = dict(store.manifest.splits), dict.fromkeys(store.manifest.features)
    rewritten = []
    for name in source.splits:
        parts = [PickedRows(source[name], labels=labels)]
        if name in store.splits:
            parts.insert(0, PickedRows(store[name]))
        split = ExtendedSplit(edition, spec, name, JoinedRows(parts, 1))

        def report(done: int, total: int, step: str = f"{name}, appending") -> None:
            if on_progress is not None:
                on_progress(step, done, total)

        split.write_shards(Threads(jobs), report)
        splits[name] = split.write_tables()
        features |= dict.fromkeys(split.features)
        rewritten += [f"{name}/{SAMPLES_TABLE}", f"{name}/{SKIPPED_TABLE}"]
    edition.keep_rest(but=rewritten)
    ignored = store.manifest.ignore_index
    same_place = store.manifest.source_location == source.manifest.source_location
    return {
        "tokenizer": joined_identity([store, source]),
        "class_names": names,
        "splits": splits,
        "features": tuple(features),
        "ignore_index": source.manifest.ignore_index if ignored is None else ignored,
        "source_location": store.manifest.source_location if same_place else None,
    }
