"""Stores made from stores."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tokenstore.errors import StoreError
from tokenstore.manifest import Manifest
from tokenstore.reader import SplitReader, TokenStore
from tokenstore.spec import Column, Skip, StoreSpec
from tokenstore.storage import Storage
from tokenstore.store import LABELS, SKIPPED_TABLE, TOKENS, code_dtype, code_planes
from tokenstore.writer import SplitWriter, StoreWriter

Kept: TypeAlias = tuple[npt.NDArray[np.int64], ...]
"""For each codebook the codes that occur, in rising order."""

_BLOCK_CODES = 2**22
_DENSE_CODES = 2**24


OnProgress: TypeAlias = Callable[[str, int, int], None]


def prune_codebook(
    store: TokenStore,
    target: Storage,
    *,
    codec: str = "bitpack",
    shard_samples: int | None = None,
    resume: bool = False,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Write `store` again with only those codes that occur in it, numbered anew in their order.

    The manifest keeps each new code's old one (`tokenizer.kept_codes`); codebook and synonyms keep the rows
    of the codes that stay. `on_progress` is told split, samples done and samples in all. Raises
    StoreError, StoreExistsError, ConversionError as StoreWriter does.
    """
    spec, _ = _pruned(store, codec, shard_samples)
    inputs = {"pruned": store.files.root_digest, "codec": codec, "shard_samples": shard_samples}
    with StoreWriter(target, spec, resume=resume, inputs=inputs) as writer:
        return prune_into(writer, store, codec=codec, shard_samples=shard_samples, on_progress=on_progress)


def prune_into(
    writer: StoreWriter,
    store: TokenStore,
    *,
    codec: str,
    shard_samples: int | None,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Let a writer that has written no split yet write `store` pruned, and commit."""
    writer.spec, kept = _pruned(store, codec, shard_samples)
    for name in store.splits:
        split = store[name]
        columns = {
            array: Column(reader.layout.dtype, reader.layout.sample_shape)
            for array, reader in split.arrays.items()
            if array not in (TOKENS, LABELS)
        }
        part = writer.split(name, len(split), labels=LABELS in split.arrays, columns=columns)
        _copy_split(split, part, kept, on_progress)
    return writer.commit()


def _pruned(store: TokenStore, codec: str, shard_samples: int | None) -> tuple[StoreSpec, Kept]:
    kept = codes_that_occur(store)
    if not all(len(codes) for codes in kept):
        raise StoreError(f"{store.files.storage}: expected samples to prune the codebook by, found none")
    manifest: Manifest = store.manifest
    before = manifest.tokenizer.kept_codes
    own = kept if before is None else [np.array(b)[k] for b, k in zip(before, kept, strict=True)]
    spec = StoreSpec(
        grid=manifest.grid,
        codebook_sizes=tuple(map(len, kept)),
        tokenizer=replace(manifest.tokenizer, kept_codes=tuple(tuple(codes.tolist()) for codes in own)),
        codec=codec,
        chunk_samples=store[store.splits[0]].arrays[TOKENS].layout.chunk_samples,
        shard_samples=shard_samples,
        class_names=manifest.class_names,
        preprocessing=manifest.preprocessing,
        source_kind=manifest.source_kind,
        source_location=manifest.source_location,
        codebook=_rows(store.codebook, kept),
        synonyms=_renumbered(store.synonyms, kept[0]),
    )
    return spec, kept


def codes_that_occur(store: TokenStore) -> Kept:
    """For each codebook of a store the codes that any of its samples has."""
    sizes = store.manifest.codebook_sizes
    seen = [np.zeros(size, np.bool_) for size in sizes]
    if max(sizes) > _DENSE_CODES:
        raise StoreError(
            f"expected codebooks of at most {_DENSE_CODES:,} codes to prune, found {max(sizes):,}"
        )
    for name in store.splits:
        split = store[name]
        block = max(1, _BLOCK_CODES // int(np.prod(store.manifest.grid)))
        for start in range(0, len(split), block):
            planes = code_planes(split[start : start + block], sizes)
            for marks, (codes, _) in zip(seen, planes, strict=True):
                marks[codes] = True
    return tuple(np.flatnonzero(marks) for marks in seen)


def _copy_split(
    split: SplitReader,
    part: SplitWriter,
    kept: Kept,
    on_progress: OnProgress | None,
) -> None:
    rows = split.samples_table()
    while (start := part.source_position) < len(split):
        stop = min(start + part.shard_samples, len(split))
        here = np.arange(start, stop)
        columns = {name: split.read(name, here) for name in part.columns}
        codes = _renumber(split[start:stop], kept)
        part.write_shard(codes, columns, rows.slice(start, stop - start), stop, [])
        if on_progress is not None:
            on_progress(split.name, stop, len(split))
    part.finish(skips_of(split))


def _renumber(codes: npt.NDArray[Any], kept: Kept) -> npt.NDArray[Any]:
    dtype = code_dtype(max(map(len, kept)))
    if len(kept) == 1:
        return np.searchsorted(kept[0], codes).astype(dtype)
    planes = [np.searchsorted(old, codes[:, plane]) for plane, old in enumerate(kept)]
    return np.stack(planes, axis=1).astype(dtype)


def skips_of(split: SplitReader) -> list[Skip]:
    """The samples of the source that are not in a split."""
    if not split.store.manifest.splits[split.name].skipped:
        return []
    table = pq.read_table(io.BytesIO(split.store.read_checked(f"{split.name}/{SKIPPED_TABLE}")))
    return [Skip(**row) for row in table.to_pylist()]


def _rows(codebook: npt.NDArray[np.float32] | None, kept: Kept) -> npt.NDArray[np.float32] | None:
    """The vectors that stay; of several codebooks the shorter ones are filled up with zeros."""
    if codebook is None:
        return None
    if codebook.ndim == 2:
        return codebook[kept[0]]
    rows = np.zeros((len(kept), max(map(len, kept)), codebook.shape[2]), np.float32)
    for plane, codes in enumerate(kept):
        rows[plane, : len(codes)] = codebook[plane, codes]
    return rows


def _renumbered(
    synonyms: npt.NDArray[np.int32] | None, kept: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32] | None:
    """Each code's nearest codes, of those that stay, in their new numbers."""
    if synonyms is None:
        return None
    new = np.full(len(synonyms) + 1, -1, np.int32)  # subtle: the last entry is that of -1
    new[kept] = np.arange(len(kept))
    renumbered = new[synonyms[kept]]
    order = np.argsort(renumbered < 0, axis=1, kind="stable")
    return np.take_along_axis(renumbered, order, axis=1)
