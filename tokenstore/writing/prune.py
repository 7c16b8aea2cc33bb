"""The pruning of a codebook: a store with only those codes that occur in it, numbered anew."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import DEFAULT_CODEC, code_dtype
from tokenstore.errors import StoreError
from tokenstore.format import (
    TOKENS,
    Manifest,
    StoreFields,
    closed_codes,
    code_planes,
    symmetries_table,
    symmetries_within,
)
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.reading.array import Values
from tokenstore.storage import Storage
from tokenstore.writing.blocks import Block, BlockExecutor, StoredBlocks, block_executor
from tokenstore.writing.codec_choice import OnProgress
from tokenstore.writing.rewrite import RewritePlan, rewrite_into, spec_of
from tokenstore.writing.writer import StoreWriter

Remaining: TypeAlias = tuple[npt.NDArray[np.int64], ...]
"""The codes that occur, in rising order, for each codebook."""

_BLOCK_CODES = 2**20
_DENSE_CODES = 2**24


def prune_codebook(
    store: TokenStore,
    target: Storage,
    *,
    codec: str = DEFAULT_CODEC,
    shard_samples: int | None = None,
    jobs: int | None = None,
    executor: BlockExecutor | None = None,
    resume: bool = False,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Write `store` again with only those codes that occur in it, numbered anew in their order.

    The manifest keeps each new code's old one (`tokenizer.kept_codes`); codebook and synonyms keep the rows
    of the codes that remain. With a code that occurs, those remain to which a symmetry takes it: the flips of
    a pruned store stay exact. `jobs` pieces of shards are encoded at a time, by default one a core, or an
    executor has them encoded.
    `on_progress` is called with a step's name, and how much of it is done.

    Raises StoreError for a store without samples, an unknown codec or a codebook that is too large, and
    StoreExistsError and ConversionError as StoreWriter does.
    """
    executor = block_executor(jobs, executor)
    inputs = {"pruned": store.files.root_digest, "codec": codec, "shard_samples": shard_samples}
    with StoreWriter(target, spec_of(store), resume=resume, inputs=inputs) as writer:
        return rewrite_into(
            writer,
            store,
            codes_in_use(store, executor),
            codec=codec,
            shard_samples=shard_samples,
            executor=executor,
            on_progress=on_progress,
        ).manifest


def codes_in_use(store: TokenStore, executor: BlockExecutor | None = None) -> RewritePlan:
    """Return the plan that keeps only the codes that occur, which an executor counts.

    Raises StoreError for a store without samples or with a codebook that is too large.
    """
    symmetries = store.symmetries
    # subtle: without the code of a mirrored patch, no flip of the pruned store would be exact
    remaining = closed_codes(codes_that_occur(store, executor), symmetries)
    if not all(len(codes) for codes in remaining):
        raise StoreError(f"{store.files.storage}: expected samples to prune the codebook by, found none")
    tokenizer = store.manifest.tokenizer
    before = tokenizer.kept_codes
    own = remaining if before is None else [np.array(b)[r] for b, r in zip(before, remaining, strict=True)]
    sizes = tuple(map(len, remaining))
    names, permutations = symmetries_table(symmetries_within(symmetries, remaining), sizes)
    spec = replace(
        spec_of(store),
        codebook_sizes=sizes,
        tokenizer=replace(tokenizer, kept_codes=tuple(tuple(codes.tolist()) for codes in own)),
        codebook=_rows(store.codebook, remaining),
        synonyms=_renumbered_synonyms(store.synonyms, remaining[0]),
        symmetries=names,
        permutations=permutations,
    )
    return RewritePlan(spec, partial(_renumber, remaining=remaining))


def codes_that_occur(store: TokenStore, executor: BlockExecutor | None = None) -> Remaining:
    """Return for each codebook of a store the codes (k,) that any of its samples has.

    Raises StoreError for a codebook that is too large to count, DamageError for damaged codes.
    """
    sizes = store.manifest.codebook_sizes
    if max(sizes) > _DENSE_CODES:
        raise StoreError(
            f"expected codebooks of at most {_DENSE_CODES:,} codes to prune, found {max(sizes):,}"
        )
    step = max(1, _BLOCK_CODES // math.prod(store.manifest.sample_shape))
    blocks = (
        Block(name, TOKENS, start, min(start + step, split.samples))
        for name, split in store.manifest.splits.items()
        for start in range(0, split.samples, step)
    )
    seen = [np.zeros(-(-size // 8), np.uint8) for size in sizes]
    executor = executor or block_executor(None, None)
    with contextlib.closing(executor.blocks(_Counting((store.files,), store.manifest), blocks)) as counts:
        for marks in counts:
            for all_marks, some in zip(seen, marks, strict=True):
                all_marks |= some
    return tuple(np.flatnonzero(np.unpackbits(marks)) for marks in seen)


@dataclass(frozen=True)
class _Counting:
    """The task of marking the codes that occur in a block, a bit a code, for each codebook."""

    stores: Sequence[StoreFiles]
    fields: StoreFields

    def reader(self, threads: int) -> StoredBlocks:
        return StoredBlocks(self.stores, threads)

    def __call__(self, block: Block, values: Values, /) -> list[npt.NDArray[np.uint8]]:
        sizes = self.fields.codebook_sizes
        marks = [np.zeros(size, np.bool_) for size in sizes]
        for occurs, (codes, _) in zip(marks, code_planes(self.fields.grids(values), sizes), strict=True):
            occurs[codes] = True
        return [np.packbits(occurs) for occurs in marks]


def _renumber(codes: npt.NDArray[Any], remaining: Remaining) -> npt.NDArray[Any]:
    dtype = code_dtype(max(map(len, remaining)))
    if len(remaining) == 1:
        return np.searchsorted(remaining[0], codes).astype(dtype)
    planes = [np.searchsorted(old, codes[:, plane]) for plane, old in enumerate(remaining)]
    return np.stack(planes, axis=1).astype(dtype)


def _rows(codebook: npt.NDArray[np.float32] | None, remaining: Remaining) -> npt.NDArray[np.float32] | None:
    """Return the vectors of the remaining codes; shorter codebooks of several are filled up with zeros."""
    if codebook is None:
        return None
    if codebook.ndim == 2:
        return codebook[remaining[0]]
    rows = np.zeros((len(remaining), max(map(len, remaining)), codebook.shape[2]), np.float32)
    for plane, codes in enumerate(remaining):
        rows[plane, : len(codes)] = codebook[plane, codes]
    return rows


def _renumbered_synonyms(
    synonyms: npt.NDArray[np.int32] | None, remaining: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32] | None:
    """Return each remaining code's nearest codes that remain, in their new numbers."""
    if synonyms is None:
        return None
    new = np.full(len(synonyms) + 1, -1, np.int32)  # subtle: the last entry is that of -1
    new[remaining] = np.arange(len(remaining))
    renumbered = new[synonyms[remaining]]
    order = np.argsort(renumbered < 0, axis=1, kind="stable")
    return np.take_along_axis(renumbered, order, axis=1)
