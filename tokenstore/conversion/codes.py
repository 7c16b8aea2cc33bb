"""The conversion of ready codes: stored as they are, with the codebook that their source names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tokenstore.conversion.options import ConvertOptions
from tokenstore.format import LABELS, Column, TokenizerIdentity, codebook_sizes, samples_table
from tokenstore.sources.base import CodeSource, CodeSplit
from tokenstore.tokenizers import load_codebook
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.split import SplitWriter
from tokenstore.writing.writer import StoreWriter

_SCAN_CODES = 2**22
"""The codes that are read at a time in search of the largest."""


@dataclass(frozen=True)
class CodePlan:
    """The plan of a conversion of ready codes."""

    source: CodeSource
    names: tuple[str, ...]
    """The splits that are converted, in order."""
    spec: StoreSpec
    options: ConvertOptions

    def columns(self, name: str) -> Mapping[str, Column]:
        """Return the aligned arrays that a split has besides the tokens and the labels."""
        columns = self.source.splits[name].columns
        return {column: Column(np.dtype(kind), shape) for column, (kind, shape) in columns.items()}

    def write(self, writer: StoreWriter, on_progress: Callable[[str, int, int], None]) -> dict[str, int]:
        """Write all splits, and return the number of samples of each that were in shards before.

        `on_progress` is called with a split, the end of its samples done and the number of bad ones.
        Raises CodecError for codes outside their codebook.
        """
        resumed_at = {}
        for name in self.names:
            split = self.source.splits[name]
            here = self.options.positions(len(split))
            has_labels = split.labels(0, 0) is not None
            part = writer.split(
                name, len(here), first=here.start, labels=has_labels, columns=self.columns(name)
            )
            resumed_at[name] = part.source_position - here.start
            while (start := part.source_position) < here.stop:
                on_progress(name, start, 0)
                self._write_shard(split, part, start, min(start + part.shard_samples, here.stop))
            on_progress(name, here.stop, 0)
        return resumed_at

    def _write_shard(self, split: CodeSplit, part: SplitWriter, start: int, stop: int) -> None:
        labels = split.labels(start, stop)
        columns = {name: np.asarray(split.column(name, start, stop)) for name in split.columns}
        if labels is not None:
            columns[LABELS] = labels
        names = split.names(start, stop)
        rows = samples_table(np.arange(start, stop), names, labels, self.source.class_names)
        part.write_shard(split.codes(start, stop), columns, rows, stop, [])


def plan_codes(
    source: CodeSource,
    names: tuple[str, ...],
    options: ConvertOptions,
    location: str,
    codebook: str | Path | None,
) -> CodePlan:
    """Plan a conversion of ready codes, with the vectors in the file `codebook` or those of the source.

    Raises TokenizerError for a file that holds no codebook, ManifestError for sizes that do not fit.
    """
    vectors = source.codebook
    path = codebook or source.codebook_path
    if path is not None:
        vectors = load_codebook(path)
    fingerprint = None if vectors is None else codebook_fingerprint(vectors)
    spec = StoreSpec(
        grid=source.grid,
        codebook_sizes=_codebook_sizes(source, names, options, vectors),
        tokenizer=TokenizerIdentity(source.tokenizer_name, fingerprint),
        codec=options.first_codec,
        chunk_samples=options.chunk_samples,
        shard_samples=options.shard_samples,
        class_names=source.class_names,
        source_kind=source.kind,
        source_location=location,
        codebook=vectors,
        synonyms=source.synonyms,
    )
    return CodePlan(source, names, spec, options)


def codebook_fingerprint(vectors: npt.NDArray[np.float32]) -> str:
    """Return the SHA-256 (hex) of a codebook's shape and little-endian float32 values."""
    digest = hashlib.sha256(str(vectors.shape).encode())
    digest.update(np.ascontiguousarray(vectors, "<f4").tobytes())
    return digest.hexdigest()


def _codebook_sizes(
    source: CodeSource,
    names: tuple[str, ...],
    options: ConvertOptions,
    vectors: npt.NDArray[np.float32] | None,
) -> tuple[int, ...]:
    if options.codebook_size is not None:
        return (options.codebook_size,)
    if source.codebook_sizes is not None:
        return source.codebook_sizes
    if vectors is not None:
        return codebook_sizes(vectors.shape)
    return (1 + max(_largest_code(source.splits[name], options.limit) for name in names),)


def _largest_code(split: CodeSplit, limit: int | None) -> int:
    samples = len(split) if limit is None else min(limit, len(split))
    step = max(1, _SCAN_CODES // split.codes(0, min(samples, 1)).size) if samples else 1
    return max(
        (int(split.codes(b, min(b + step, samples)).max()) for b in range(0, samples, step)), default=0
    )
