"""The comparison of a complete store with the source that it would be converted from again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

from tokenstore.errors import ConversionError
from tokenstore.reading import SplitReader, TokenStore
from tokenstore.sources.base import Split
from tokenstore.writing import StoreSpec

__all__ = ["refuse_other_source"]


def refuse_other_source(
    store: TokenStore, spec: StoreSpec, splits: Mapping[str, Split], positions: Mapping[str, range]
) -> None:
    """Raise ConversionError if a complete store was not made as a conversion by `spec` would make it.

    `splits` are those to convert, of each of which the samples at `positions`. Compared are the kind of the
    source, the part, the tokenizer, the preparation of images, the names of classes, the ignored label, and
    the names and labels of all samples.
    """
    manifest = store.manifest
    facts: dict[str, tuple[Any, Any]] = {
        "a source of kind": (manifest.source_kind, spec.source_kind),
        "a tokenizer": (manifest.tokenizer.fingerprint, spec.tokenizer.fingerprint),
        "images of": (manifest.preprocessing, spec.preprocessing),
        "classes": (manifest.class_names, spec.class_names),
        "an ignored label": (manifest.ignore_index, spec.ignore_index),
        "the part": (str(manifest.part), str(spec.part)),
        "splits": (sorted(manifest.splits), sorted(splits)),
    }
    for what, (stored, given) in facts.items():
        if stored != given:
            raise _refusal(store, f"{what} {stored!s:.200}", f"{given!s:.200}")
    for name, split in splits.items():
        _refuse_other_samples(store, store[name], split, positions[name])


def _refuse_other_samples(store: TokenStore, reader: SplitReader, split: Split, here: range) -> None:
    summary = store.manifest.splits[reader.name]
    where = f"in split {reader.name} "
    if summary.samples + summary.skipped != len(here):
        stored = f"{where}{summary.samples + summary.skipped:,} samples"
        raise _refusal(store, stored, f"{len(here):,}")
    table = reader.samples_table()
    positions = pc.subtract(table["source_index"].combine_chunks(), here.start)
    stored_names = table["source"].combine_chunks()
    names = split.names(here.start, here.stop).take(positions)
    if not stored_names.equals(names):
        pairs = zip(stored_names.to_pylist(), names.to_pylist(), strict=True)
        stored_name, name = next(pair for pair in pairs if pair[0] != pair[1])
        raise _refusal(store, f"{where}the sample {stored_name}", name)
    labels = split.labels(here.start, here.stop)
    stored_labels = [] if reader.labels is None else reader.labels[:].tolist()
    if stored_labels != ([] if labels is None else labels[positions.to_numpy()].tolist()):
        raise _refusal(store, f"{where}the labels of the store", "others")


def _refusal(store: TokenStore, stored: str, given: str) -> ConversionError:
    return ConversionError(
        f"{store.files.storage}: a complete store is there, of another source or other options: expected "
        f"{stored}, found {given}. Choose another path, or remove the store"
    )
