"""The storage audit: where a store's bytes go, and how its codes are used."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.bitpack import bit_width
from tokenstore.format.layout import CODEBOOK, ROOT, SYNONYMS, TOKENS
from tokenstore.format.manifest import Manifest
from tokenstore.reading.reader import SplitReader, TokenStore

IMAGENET_SAMPLES = 1_281_167
IMAGENET_NBYTES = 140 * 10**9
"""ImageNet-1k's training set as images (SeiT++, table 1)."""

CONTEXT_MODEL = "context model"
"""The part that is the metadata of tokens, most of which is the model they are coded by."""
_BLOCK_CODES = 2**22
_DENSE_CODES = 2**24
"""Codebooks up to this size are counted in an array, larger ones by their distinct codes."""

Counts: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CodebookUse:
    """How often the codes of one codebook occur."""

    size: int
    used: int
    dead: int
    entropy_bits: float
    """Order-0 entropy: what no code-by-code coder can get below."""
    perplexity: float
    """2 ** entropy: as many equally frequent codes would give that entropy."""
    top_codes: list[tuple[int, int]]
    """The most frequent codes and their counts."""
    rank_histogram: list[float]
    """Share of all codes that falls to each tenth of the codebook, most frequent codes first."""


@dataclass(frozen=True)
class SplitAudit:
    """One split's samples, bytes and codes."""

    samples: int
    skipped: int
    codes_per_sample: int
    tokens_nbytes: int
    nbytes: int
    bits_per_code: float
    fixed_width_bits: int
    entropy_bits: float
    """Mean order-0 entropy over the codebooks."""
    source_nbytes: int | None
    codebooks: list[CodebookUse]
    class_counts: list[int] | None


@dataclass(frozen=True)
class StorageAudit:
    """A whole store's bytes, and its splits."""

    location: str
    codec: str
    nbytes: int
    nbytes_by_part: dict[str, int]
    samples: int
    source_nbytes: int | None
    imagenet_nbytes: int
    """What ImageNet-1k's training set would take at this store's bytes per sample."""
    splits: dict[str, SplitAudit]

    def to_dict(self) -> dict[str, Any]:
        """The audit as JSON values."""
        return asdict(self)


def audit(store: TokenStore, on_progress: Callable[[int, int], None] | None = None) -> StorageAudit:
    """Audit a store; every code is read and counted. `on_progress` is told samples done and in all."""
    manifest: Manifest = store.manifest
    total = sum(split.samples for split in manifest.splits.values())
    splits: dict[str, SplitAudit] = {}
    for name in store.splits:
        before = sum(split.samples for split in splits.values())
        splits[name] = _audit_split(store, name, partial(_report, on_progress, total, before))
    parts = _nbytes_by_part(store)
    nbytes = sum(parts.values())
    sources = [split.source_bytes for split in manifest.splits.values()]
    fixed = sum(parts.get(part, 0) for part in (CODEBOOK, SYNONYMS, CONTEXT_MODEL))
    return StorageAudit(
        location=store.files.storage.url,
        codec=", ".join(manifest.features),
        nbytes=nbytes,
        nbytes_by_part=parts,
        samples=total,
        source_nbytes=sum(s for s in sources if s is not None)
        if any(s is not None for s in sources)
        else None,
        imagenet_nbytes=fixed + round((nbytes - fixed) / max(total, 1) * IMAGENET_SAMPLES),
        splits=splits,
    )


def _report(on_progress: Callable[[int, int], None] | None, total: int, before: int, done: int) -> None:
    if on_progress is not None:
        on_progress(before + done, total)


def _audit_split(store: TokenStore, name: str, on_progress: Callable[[int], object]) -> SplitAudit:
    manifest: Manifest = store.manifest
    reader = store[name]
    summary = manifest.splits[name]
    codes_per_sample = math.prod(manifest.grid)
    counts = _count_codes(reader, manifest.codebook_sizes, codes_per_sample, on_progress)
    codebooks = [_use(*count, size) for count, size in zip(counts, manifest.codebook_sizes, strict=True)]
    nbytes = _file_nbytes(manifest, f"{name}/")
    tokens_nbytes = _file_nbytes(manifest, f"{name}/{TOKENS}/")
    return SplitAudit(
        samples=summary.samples,
        skipped=summary.skipped,
        codes_per_sample=codes_per_sample,
        tokens_nbytes=tokens_nbytes,
        nbytes=nbytes,
        bits_per_code=8 * tokens_nbytes / max(1, summary.samples * codes_per_sample),
        fixed_width_bits=bit_width(manifest.codebook_size),
        entropy_bits=sum(use.entropy_bits for use in codebooks) / len(codebooks),
        source_nbytes=summary.source_bytes,
        codebooks=codebooks,
        class_counts=_class_counts(reader, manifest),
    )


def _count_codes(
    reader: SplitReader, sizes: tuple[int, ...], codes_per_sample: int, on_progress: Callable[[int], object]
) -> list[tuple[Counts, Counts]]:
    """For each codebook the codes that occur and how often."""
    tallies = [_Tally(size) for size in sizes]
    block = max(1, _BLOCK_CODES // codes_per_sample)
    for start in range(0, len(reader), block):
        codes = reader[start : start + block]
        for plane, tally in enumerate(tallies):
            tally.add((codes if len(sizes) == 1 else codes[:, plane]).ravel())
        on_progress(min(start + block, len(reader)))
    return [tally.counts() for tally in tallies]


class _Tally:
    def __init__(self, size: int) -> None:
        self._dense = np.zeros(size, np.int64) if size <= _DENSE_CODES else None
        self._codes = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)

    def add(self, codes: npt.NDArray[Any]) -> None:
        if self._dense is not None:
            self._dense += np.bincount(codes, minlength=len(self._dense))
            return
        new, counts = np.unique(codes, return_counts=True)
        merged, place = np.unique(np.concatenate([self._codes, new.astype(np.int64)]), return_inverse=True)
        self._counts = np.bincount(place, np.concatenate([self._counts, counts])).astype(np.int64)
        self._codes = merged

    def counts(self) -> tuple[Counts, Counts]:
        if self._dense is None:
            return self._codes, self._counts
        codes = np.flatnonzero(self._dense)
        return codes, self._dense[codes]


def _use(codes: Counts, counts: Counts, size: int) -> CodebookUse:
    share = counts / max(1, int(counts.sum()))
    entropy = float(-(share * np.log2(share)).sum()) if len(share) else 0.0
    order = np.argsort(-counts, kind="stable")
    ranked = np.zeros(10)
    if len(share):
        np.add.at(ranked, np.arange(len(share)) * 10 // size, share[order])
    return CodebookUse(
        size=size,
        used=len(codes),
        dead=size - len(codes),
        entropy_bits=entropy,
        perplexity=2**entropy,
        top_codes=[(int(codes[i]), int(counts[i])) for i in order[:10]],
        rank_histogram=ranked.tolist(),
    )


def _class_counts(reader: SplitReader, manifest: Manifest) -> list[int] | None:
    labels = reader.labels
    if labels is None or not len(labels):
        return None
    classes = 0 if manifest.class_names is None else len(manifest.class_names)
    return [int(count) for count in np.bincount(labels, minlength=classes)]


def _nbytes_by_part(store: TokenStore) -> dict[str, int]:
    manifest: Manifest = store.manifest
    parts: dict[str, int] = {}
    for path, record in manifest.files.items():
        first, *rest = path.split("/")
        if path.endswith(f"/{TOKENS}/{ROOT}") and "context" in manifest.features:
            part = CONTEXT_MODEL
        elif path.endswith(ROOT):
            part = "metadata"
        elif first in (CODEBOOK, SYNONYMS):
            part = first
        else:
            part = rest[0].replace(".parquet", " table")
        parts[part] = parts.get(part, 0) + record.size
    parts["metadata"] = parts.get("metadata", 0) + store.files.root_nbytes
    return dict(sorted(parts.items(), key=lambda item: -item[1]))


def _file_nbytes(manifest: Manifest, prefix: str) -> int:
    return sum(record.size for path, record in manifest.files.items() if path.startswith(prefix))


def store_summary(store: TokenStore) -> dict[str, Any]:
    """What `tokenstore info` shows, as JSON values: the manifest, and each array's layout."""
    arrays = {}
    for split in store.splits:
        for name, reader in store[split].arrays.items():
            layout = reader.layout
            arrays[f"{split}/{name}"] = {
                "shape": list(layout.shape),
                "dtype": layout.dtype.name,
                "codec": layout.codec.name,
                "chunk_samples": layout.chunk_samples,
                "shard_samples": layout.shard_samples,
                "shards": layout.shards,
                "nbytes": _file_nbytes(store.manifest, f"{split}/{name}/"),
            }
    return {"location": store.files.storage.url, "manifest": store.manifest.to_dict(), "arrays": arrays}
