"""The conversion of ready codes: stored as they are, with the codebook that their source names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.conversion.images import LoadedTokenizer
from tokenstore.conversion.options import ConvertOptions
from tokenstore.conversion.plans import RangePlan, RangeWorker
from tokenstore.conversion.ranges import MOST_DEATHS, RangeRequest, SampleRange, Segment
from tokenstore.errors import WorkerError
from tokenstore.format import Column, TokenizerIdentity, codebook_sizes
from tokenstore.sources.base import CodeSource, CodeSplit, further_kinds
from tokenstore.tokenizers import load_codebook, symmetries_of
from tokenstore.tokenizers.related import codebook_fingerprint, related_identity
from tokenstore.writing.spec import StoreSpec

_RANGE_CODES = 2**19
"""The codes of a range, about."""
_SCAN_CODES = 2**22
"""The codes that are read at a time in search of the largest."""


@dataclass(frozen=True)
class CodeRecipe:
    """The recipe of a reader of ready codes, which has the listed splits."""

    splits: Mapping[str, CodeSplit]
    device: str = "cpu"

    def on(self, device: str) -> CodeRecipe:
        """Return the recipe, which needs no device."""
        return self

    def begin(self, workers: int) -> CodeReader:
        """Return a reader, which needs no process."""
        return CodeReader(self.splits)


class CodeReader(RangeWorker):
    """A reader of ranges of ready codes; raises what the source raises."""

    def __init__(self, splits: Mapping[str, CodeSplit]) -> None:
        self._splits = splits
        self.task_samples = 1

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()

    @override
    def close(self, *, at_once: bool = False) -> None:
        """Do nothing: a reader has no processes."""

    @override
    def segments(self, requests: Iterable[RangeRequest]) -> Iterator[Segment]:
        return map(self.encode, requests)

    @override
    def encode(self, request: RangeRequest) -> Segment:
        samples = request.samples
        split, start, stop = self._splits[samples.split], samples.start, samples.stop
        columns = {name: np.asarray(split.column(name, start, stop)) for name in split.columns}
        return Segment(samples, np.asarray(split.codes(start, stop)), columns, np.arange(start, stop), None)


@dataclass(frozen=True)
class CodePlan(RangePlan):
    """The plan of a conversion of ready codes; ranges may be cut at any sample."""

    source: CodeSource
    names: tuple[str, ...]
    spec: StoreSpec
    recipe: CodeRecipe
    options: ConvertOptions

    @property
    @override
    def batch_size(self) -> int:
        return 1

    @property
    @override
    def range_samples(self) -> int:
        # no more than a shard, whose bytes are bounded whatever columns the source has
        shards = (
            self.spec.samples_per_shard(len(self.positions(name)), self.columns(name).values())
            for name in self.names
        )
        return min(max(1, _RANGE_CODES // math.prod(self.spec.sample_shape)), *shards)

    @override
    def begin(self, workers: int) -> CodeReader:
        return self.recipe.begin(workers)

    @override
    def columns(self, split: str) -> Mapping[str, Column]:
        columns = self.source.splits[split].columns
        own = {column: Column(np.dtype(kind), shape) for column, (kind, shape) in columns.items()}
        return {**own, **further_kinds(self.source, split)}

    @override
    def request(self, samples: SampleRange, task_samples: int | None = None) -> RangeRequest:
        return RangeRequest(samples, ())

    @override
    def lost(self, sample: SampleRange, error: Exception) -> Segment:
        raise WorkerError(
            f"{sample}: {MOST_DEATHS} processes that read it died; the last: {error}"
        ) from error


def plan_codes(
    source: CodeSource,
    names: tuple[str, ...],
    options: ConvertOptions,
    location: str,
    codebook: str | Path | None,
    loaded: LoadedTokenizer | None = None,
) -> CodePlan:
    """Plan a conversion of ready codes, with the vectors in the file `codebook` or those of the source.

    `loaded`, if given, is the tokenizer that made the codes. Raises TokenizerError for a file that holds no
    codebook and for a tokenizer whose vectors are others, ManifestError for sizes that do not fit.
    """
    vectors = source.codebook
    path = codebook or source.codebook_path
    if path is not None:
        vectors = load_codebook(path)
    fingerprint = None if vectors is None else codebook_fingerprint(vectors)
    sizes = _codebook_sizes(source, names, options, vectors)
    identity = TokenizerIdentity(source.tokenizer_name, fingerprint)
    if loaded is not None:
        identity = related_identity(vectors, sizes, source.grid, loaded.tokenizer, loaded.spec)
    codes = identity.kept_codes
    symmetries, permutations = ((), None) if loaded is None else symmetries_of(loaded.tokenizer, codes)
    spec = StoreSpec(
        grid=source.grid,
        views=source.views,
        codebook_sizes=sizes,
        tokenizer=identity,
        codec=options.first_codec,
        chunk_samples=options.chunk_samples,
        shard_samples=options.shard_samples,
        class_names=source.class_names,
        source_kind=source.kind,
        source_location=location,
        codebook=vectors,
        synonyms=source.synonyms,
        symmetries=symmetries,
        permutations=permutations,
    )
    recipe = CodeRecipe({name: source.splits[name] for name in names})
    return CodePlan(source, names, spec, recipe, options)


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
