"""The pruning of a codebook: a store with only those codes that occur in it, numbered anew."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import DEFAULT_CODEC, code_dtype
from tokenstore.errors import StoreError
from tokenstore.format import TOKENS, Manifest, code_planes
from tokenstore.reading import TokenStore
from tokenstore.storage import Storage
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
    resume: bool = False,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Write `store` again with only those codes that occur in it, numbered anew in their order.

    The manifest keeps each new code's old one (`tokenizer.kept_codes`); codebook and synonyms keep the rows
    of the codes that remain. `jobs` pieces of shards are encoded at a time, by default one a core.
    `on_progress` is called with a step's name, and how much of it is done.

    Raises StoreError for a store without samples, an unknown codec or a codebook that is too large, and
    StoreExistsError and ConversionError as StoreWriter does.
    """
    inputs = {"pruned": store.files.root_digest, "codec": codec, "shard_samples": shard_samples}
    with StoreWriter(target, spec_of(store), resume=resume, inputs=inputs) as writer:
        return rewrite_into(
            writer,
            store,
            codes_in_use(store),
            codec=codec,
            shard_samples=shard_samples,
            jobs=jobs,
            on_progress=on_progress,
        ).manifest


def codes_in_use(store: TokenStore) -> RewritePlan:
    """Return the plan that keeps only the codes that occur.

    Raises StoreError for a store without samples or with a codebook that is too large.
    """
    remaining = codes_that_occur(store)
    if not all(len(codes) for codes in remaining):
        raise StoreError(f"{store.files.storage}: expected samples to prune the codebook by, found none")
    tokenizer = store.manifest.tokenizer
    before = tokenizer.kept_codes
    own = remaining if before is None else [np.array(b)[r] for b, r in zip(before, remaining, strict=True)]
    spec = replace(
        spec_of(store),
        codebook_sizes=tuple(map(len, remaining)),
        tokenizer=replace(tokenizer, kept_codes=tuple(tuple(codes.tolist()) for codes in own)),
        codebook=_rows(store.codebook, remaining),
        synonyms=_renumbered_synonyms(store.synonyms, remaining[0]),
    )
    return RewritePlan(spec, partial(_renumber, remaining=remaining))


def codes_that_occur(store: TokenStore) -> Remaining:
    """Return for each codebook of a store the codes (k,) that any of its samples has.

    Raises StoreError for a codebook that is too large to count, DamageError for damaged codes.
    """
    sizes = store.manifest.codebook_sizes
    if max(sizes) > _DENSE_CODES:
        raise StoreError(
            f"expected codebooks of at most {_DENSE_CODES:,} codes to prune, found {max(sizes):,}"
        )
    seen = [np.zeros(size, np.bool_) for size in sizes]
    for name in store.splits:
        split = store[name]
        tokens = split.array(TOKENS).streamed()
        block = max(1, _BLOCK_CODES // int(np.prod(store.manifest.grid)))
        for start in range(0, len(split), block):
            planes = code_planes(tokens.read_range(start, min(start + block, len(split))), sizes)
            for marks, (codes, _) in zip(seen, planes, strict=True):
                marks[codes] = True
    return tuple(np.flatnonzero(marks) for marks in seen)


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
