"""Stores made from stores."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tokenstore.codecs.bitpack import code_dtype
from tokenstore.errors import StoreError
from tokenstore.format.layout import LABELS, SKIPPED_TABLE, TOKENS, code_planes
from tokenstore.format.manifest import Manifest
from tokenstore.format.tables import Column, Skip
from tokenstore.reading.reader import SplitReader, TokenStore
from tokenstore.reading.store_files import Store
from tokenstore.storage.places import Storage
from tokenstore.writing.choices import CHOICES, MIN_DECODE_RATE
from tokenstore.writing.codec_choice import CodecChoice, choose_codec
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.target import finish_commit
from tokenstore.writing.writer import SplitWriter, StoreWriter

Kept: TypeAlias = tuple[npt.NDArray[np.int64], ...]
"""For each codebook the codes that occur, in rising order."""

_CHOICE = "codec.json"
_BLOCK_CODES = 2**22
_DENSE_CODES = 2**24


OnProgress: TypeAlias = Callable[[str, int, int], None]
OnChoice: TypeAlias = Callable[[CodecChoice], None]


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
    inputs = {"pruned": store.files.root_digest, "codec": codec, "shard_samples": shard_samples}
    with StoreWriter(target, _rewritten(store), resume=resume, inputs=inputs) as writer:
        return rewrite_into(
            writer, store, codec=codec, prune=True, shard_samples=shard_samples, on_progress=on_progress
        )


def recode(
    store: TokenStore,
    target: Storage,
    *,
    codec: str = "auto",
    min_decode_rate: float = MIN_DECODE_RATE,
    shard_samples: int | None = None,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    on_choice: OnChoice | None = None,
) -> Manifest:
    """Write `store` again with another codec: bitpack, context, zstd, or auto, the smallest of them.

    Shard by shard, each decoded from checked bytes; resumable. `on_progress` is told split, samples done and
    samples in all, `on_choice` the codec and why. Raises StoreError, DamageError, and StoreExistsError and
    ConversionError as StoreWriter does.
    """
    inputs = {
        "recoded": store.files.root_digest,
        "codec": codec,
        "min_decode_rate": min_decode_rate,
        "shard_samples": shard_samples,
    }
    with StoreWriter(target, _rewritten(store), resume=resume, inputs=inputs) as writer:
        return rewrite_into(
            writer,
            store,
            codec=codec,
            min_decode_rate=min_decode_rate,
            shard_samples=shard_samples,
            on_progress=on_progress,
            on_choice=on_choice,
        )


def recode_in_place(
    url: str | os.PathLike[str],
    *,
    codec: str = "auto",
    min_decode_rate: float = MIN_DECODE_RATE,
    shard_samples: int | None = None,
    on_progress: OnProgress | None = None,
    on_choice: OnChoice | None = None,
) -> Manifest:
    """`recode`, and put the new store where the old one was: a local folder or zip file.

    The new store is whole beside the old one before they change places. Called again after a crash it goes
    on. Raises StoreError for a store that is not local.
    """
    storage = Storage(url)
    if storage.root is None:
        raise StoreError(
            f"{storage}: expected a local store to recode in its place. Name another place for the new one"
        )
    old = storage.root.with_name(f".{storage.root.stem}.before-recode{storage.root.suffix}")
    new = storage.root.with_name(f".{storage.root.stem}.recoded{storage.root.suffix}")
    if old.exists():  # a crash while they changed places, or before the old one was gone
        changed = new if new.exists() else old
        finished = storage.root.exists() or changed is new
        if not storage.root.exists():
            changed.rename(storage.root)
        _remove(old)
        if finished and _is_wanted(storage, codec):
            return Store(storage).manifest
    target = Storage(str(new))
    if finish_commit(target):  # whole, but perhaps of a store that was here before
        _remove(new)
    recode(
        TokenStore(Store(storage)),
        target,
        codec=codec,
        min_decode_rate=min_decode_rate,
        shard_samples=shard_samples,
        resume=True,
        on_progress=on_progress,
        on_choice=on_choice,
    )
    storage.root.rename(old)
    new.rename(storage.root)
    _remove(old)
    return Store(storage).manifest


def _is_wanted(storage: Storage, codec: str) -> bool:
    return codec in ("auto", *Store(storage).manifest.features)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def rewrite_into(
    writer: StoreWriter,
    store: TokenStore,
    *,
    codec: str,
    min_decode_rate: float = MIN_DECODE_RATE,
    prune: bool = False,
    shard_samples: int | None = None,
    on_progress: OnProgress | None = None,
    on_choice: OnChoice | None = None,
) -> Manifest:
    """Let a writer that has written no split yet write `store` with a codec, and commit.

    What was chosen is kept beside the shards: a resumed writer goes on with the same codec and model.
    """
    if codec not in CHOICES:
        raise StoreError(f"expected a codec of {', '.join(CHOICES)}, found {codec!r}")
    kept = _kept(store) if prune else None
    spec = _rewritten(store) if kept is None else _pruned(store, kept)

    def renumbered(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return codes if kept is None else _renumber(codes, kept)

    noted = writer.recall(_CHOICE)
    if noted is None:
        choice = choose_codec(
            store,
            codec,
            spec.codebook_sizes,
            renumbered,
            min_decode_rate=min_decode_rate,
            on_progress=on_progress,
        )
        writer.note(_CHOICE, choice.to_json())
    else:
        choice = CodecChoice.from_json(noted)
    if on_choice is not None:
        on_choice(choice)
    writer.spec = replace(spec, codec=choice.codec, model=choice.model, shard_samples=shard_samples)
    for name in store.splits:
        split = store[name]
        columns = {
            array: Column(reader.layout.dtype, reader.layout.sample_shape)
            for array, reader in split.arrays.items()
            if array not in (TOKENS, LABELS)
        }
        part = writer.split(name, len(split), labels=LABELS in split.arrays, columns=columns)
        _copy_split(split, part, renumbered, on_progress)
    return writer.commit()


def _rewritten(store: TokenStore) -> StoreSpec:
    """What a store is, for it to be written again."""
    manifest: Manifest = store.manifest
    return StoreSpec(
        grid=manifest.grid,
        codebook_sizes=manifest.codebook_sizes,
        tokenizer=manifest.tokenizer,
        chunk_samples=store[store.splits[0]].arrays[TOKENS].layout.chunk_samples,
        class_names=manifest.class_names,
        preprocessing=manifest.preprocessing,
        ignore_index=manifest.ignore_index,
        source_kind=manifest.source_kind,
        source_location=manifest.source_location,
        codebook=store.codebook,
        synonyms=store.synonyms,
    )


def _kept(store: TokenStore) -> Kept:
    kept = codes_that_occur(store)
    if not all(len(codes) for codes in kept):
        raise StoreError(f"{store.files.storage}: expected samples to prune the codebook by, found none")
    return kept


def _pruned(store: TokenStore, kept: Kept) -> StoreSpec:
    tokenizer = store.manifest.tokenizer
    before = tokenizer.kept_codes
    own = kept if before is None else [np.array(b)[k] for b, k in zip(before, kept, strict=True)]
    return replace(
        _rewritten(store),
        codebook_sizes=tuple(map(len, kept)),
        tokenizer=replace(tokenizer, kept_codes=tuple(tuple(codes.tolist()) for codes in own)),
        codebook=_rows(store.codebook, kept),
        synonyms=_renumbered(store.synonyms, kept[0]),
    )


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
    renumbered: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    on_progress: OnProgress | None,
) -> None:
    rows = split.samples_table()
    while (start := part.source_position) < len(split):
        stop = min(start + part.shard_samples, len(split))
        here = np.arange(start, stop)
        columns = {name: split.read(name, here) for name in part.columns}
        codes = renumbered(split[start:stop])
        part.write_shard(codes, columns, rows.slice(start, stop - start), stop, [])
        if on_progress is not None:
            on_progress(f"{split.name}, rewriting", stop, len(split))
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
