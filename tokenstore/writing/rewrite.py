"""The rewriting of a store shard by shard: with another codec, or with its codes numbered anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.errors import StoreError, did_you_mean
from tokenstore.format import (
    LABELS,
    SKIPPED_SCHEMA,
    SKIPPED_TABLE,
    TOKENS,
    Column,
    Manifest,
    Skip,
    read_table,
)
from tokenstore.reading import SplitReader, TokenStore
from tokenstore.writing.choices import MIN_DECODE_RATE, choices
from tokenstore.writing.codec_choice import CodecChoice, OnProgress, choose_codec
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.writer import SplitWriter, StoreWriter

Renumber: TypeAlias = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

_CHOICE = "codec.json"


@dataclass(frozen=True)
class RewritePlan:
    """The changes that rewriting makes to a store, besides its codec."""

    spec: StoreSpec
    """The spec of the new store; codec, model and shard size are set later."""
    renumber: Renumber
    """The function from stored codes (n, *grid) to the codes that are written."""


@dataclass(frozen=True)
class Rewritten:
    """A store that was rewritten: its manifest, and the codec with the reason for it."""

    manifest: Manifest
    choice: CodecChoice


def same_codes(store: TokenStore) -> RewritePlan:
    """Return the plan that changes nothing."""
    return RewritePlan(spec_of(store), lambda codes: codes)


def rewrite_into(
    writer: StoreWriter,
    store: TokenStore,
    plan: RewritePlan,
    *,
    codec: str,
    min_decode_rate: float = MIN_DECODE_RATE,
    shard_samples: int | None = None,
    on_progress: OnProgress | None = None,
) -> Rewritten:
    """Write `store` by a plan and with a codec, through a writer that has written no split yet, and commit.

    The choice of a codec is noted beside the shards: a resumed writer goes on with the same codec and model.

    Raises StoreError for an unknown codec, or if none decodes at `min_decode_rate`; DamageError for damaged
    codes.
    """
    check_codec(codec)
    noted = writer.recall(_CHOICE)
    if noted is None:
        choice = choose_codec(
            store,
            codec,
            plan.spec.codebook_sizes,
            plan.renumber,
            min_decode_rate=min_decode_rate,
            on_progress=on_progress,
        )
        writer.note(_CHOICE, choice.to_json())
    else:
        choice = CodecChoice.from_json(noted)
    writer.spec = replace(plan.spec, codec=choice.codec, model=choice.model, shard_samples=shard_samples)
    for name in store.splits:
        split = store[name]
        columns = {
            array: Column(reader.layout.dtype, reader.layout.sample_shape)
            for array, reader in split.arrays.items()
            if array not in (TOKENS, LABELS)
        }
        part = writer.split(name, len(split), labels=LABELS in split.arrays, columns=columns)
        _copy_split(split, part, plan.renumber, on_progress)
    return Rewritten(writer.commit(), choice)


def check_codec(codec: str) -> None:
    """Raise StoreError unless `codec` is one that a store can be rewritten with."""
    if codec not in choices():
        near = did_you_mean(codec, choices())
        raise StoreError(f"expected a codec of {', '.join(choices())}, found {codec!r}{near}")


def spec_of(store: TokenStore) -> StoreSpec:
    """Return the spec of a store as it is, to write the store again."""
    return StoreSpec(
        **store.manifest.shared(),
        chunk_samples=store[store.splits[0]].arrays[TOKENS].layout.chunk_samples,
        codebook=store.codebook,
        synonyms=store.synonyms,
    )


def skips_of(split: SplitReader) -> list[Skip]:
    """Read the samples of the source that are not in a split; raises DamageError for a damaged table."""
    skipped = split.store.manifest.splits[split.name].skipped
    if not skipped:
        return []
    path = f"{split.name}/{SKIPPED_TABLE}"
    data = split.store.read_checked(path)
    table = read_table(data, SKIPPED_SCHEMA, skipped, f"{split.store.storage}/{path}")
    return [Skip(**row) for row in table.to_pylist()]


def _copy_split(
    split: SplitReader, part: SplitWriter, renumber: Renumber, on_progress: OnProgress | None
) -> None:
    rows = split.samples_table()
    while (start := part.source_position) < len(split):
        stop = min(start + part.shard_samples, len(split))
        here = np.arange(start, stop)
        columns = {name: split.read(name, here) for name in part.columns}
        codes = renumber(split[start:stop])
        part.write_shard(codes, columns, rows.slice(start, stop - start), stop, [])
        if on_progress is not None:
            on_progress(f"{split.name}, rewriting", stop, len(split))
    part.finish(skips_of(split))
