"""The specification of a new store: all that is known before its first shard."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import (
    DEFAULT_CODEC,
    ContextModel,
    GivenViews,
    code_dtype,
    codec_names,
    named_codec,
    sample_nbytes,
)
from tokenstore.errors import ManifestError, did_you_mean
from tokenstore.format import ArrayLayout, Column, StoreFields, codebook_problem
from tokenstore.format.layout import MAX_CHUNK_NBYTES
from tokenstore.writing.choices import CHUNK_SAMPLES

SHARD_NBYTES = 2**25
"""The bytes of a shard of tokens, about, unless the caller says otherwise."""
MAX_SHARD_SAMPLES = 2**16

_SMALL_SAMPLE_NBYTES = 16
"""The bytes of a sample, such as a label, up to which a shard has one chunk: such arrays are read whole."""


@dataclass(frozen=True)
class StoreSpec(StoreFields):
    """The specification of a new store: the fields of its manifest, and all that decides its other bytes.

    Raises ManifestError for values that no store can have.
    """

    codec: str = DEFAULT_CODEC
    model: ContextModel | None = field(default=None, repr=False)
    """The model of the codec `context`; without one it packs."""
    given_views: GivenViews | None = field(default=None, repr=False)
    """The views that the codec `context` codes given others; None if it codes each view alone."""
    chunk_samples: int = CHUNK_SAMPLES
    shard_samples: int | None = None
    codebook: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    synonyms: npt.NDArray[np.int32] | None = field(default=None, repr=False)
    permutations: npt.NDArray[np.int32] | None = field(default=None, repr=False)
    """The permutation (S, K) or (S, n, K) of codes of each of `symmetries`."""

    def __post_init__(self) -> None:
        self.check()
        if self.codec not in codec_names():
            near = did_you_mean(self.codec, codec_names())
            raise ManifestError(f"codec: expected one of {codec_names()}, found {self.codec!r}{near}")
        if not 1 <= self.chunk_samples <= MAX_SHARD_SAMPLES:
            raise ManifestError(
                f"chunk_samples: expected 1 to {MAX_SHARD_SAMPLES}, found {self.chunk_samples}"
            )
        if self.shard_samples is not None and (
            self.shard_samples < 1 or self.shard_samples % self.chunk_samples
        ):
            raise ManifestError(
                f"shard_samples: expected a multiple of chunk_samples ({self.chunk_samples}), "
                f"found {self.shard_samples}"
            )
        if self.given_views is not None and self.given_views.views != self.views:
            raise ManifestError("given_views: expected those of the views of the store, found others")
        vectors = self.codebook
        if vectors is not None and (problem := codebook_problem(vectors.shape, self.codebook_sizes)):
            raise ManifestError(f"codebook: {problem}")

    @property
    def stored_codebook(self) -> npt.NDArray[np.float32] | None:
        """The vectors that the store holds as an array: none where they follow from a rule."""
        return self.codebook if self.tokenizer.implicit_codebook is None else None

    def samples_per_shard(self, listed: int | None, columns: Iterable[Column] = ()) -> int:
        """Return the samples of a full shard, in a split of which at most `listed` samples exist, if known.

        Raises ManifestError for samples of which no reader would take a chunk.
        """
        columns = list(columns)
        samples = self.shard_samples or self._samples_per_shard(listed, columns)
        layouts = [self.tokens_layout(1, samples)]
        layouts += [self.column_layout(1, samples, column) for column in columns]
        nbytes = max(layout.chunk_nbytes for layout in layouts)
        if nbytes > MAX_CHUNK_NBYTES:
            raise ManifestError(
                f"chunk_samples: expected chunks of at most {MAX_CHUNK_NBYTES:,} bytes, found {nbytes:,} for "
                f"{self.chunk_samples} samples. Give fewer"
            )
        return samples

    def _samples_per_shard(self, listed: int | None, columns: Iterable[Column]) -> int:
        tokens_nbytes = sample_nbytes(math.prod(self.sample_shape), self.codebook_size)
        nbytes = max([tokens_nbytes, *(column.nbytes for column in columns)])
        samples = max(self.chunk_samples, min(SHARD_NBYTES // nbytes, MAX_SHARD_SAMPLES))
        if listed is not None:
            samples = min(samples, max(1, listed))
        return -(-samples // self.chunk_samples) * self.chunk_samples

    def tokens_layout(self, samples: int, shard_samples: int) -> ArrayLayout:
        """Return the layout of a split's tokens (samples, *sample_shape)."""
        size = self.codebook_size
        return ArrayLayout(
            (samples, *self.sample_shape),
            code_dtype(size),
            self.chunk_samples,
            shard_samples,
            named_codec(self.codec, size, self.model, self.views, self.given_views),
            views=1 if self.views is None else self.views.count,
        )

    def column_layout(self, samples: int, shard_samples: int, column: Column) -> ArrayLayout:
        """Return the layout of an aligned array (samples, *column.shape)."""
        chunk = shard_samples if column.nbytes <= _SMALL_SAMPLE_NBYTES else self.chunk_samples
        shape, codec = (samples, *column.shape), column.codec
        return ArrayLayout(shape, column.dtype, chunk, shard_samples, codec, column.form)
