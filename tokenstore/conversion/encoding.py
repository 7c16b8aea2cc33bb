"""The encoding of ranges to segments: images are decoded in processes, and batches encoded by a tokenizer.

A batch of the tokenizer is the good ones of the samples [k * B, (k + 1) * B) of a split, for a batch size B,
whatever range they are asked for in. So codes are the same however a source is cut into ranges that begin at
multiples of B, even where a tokenizer's arithmetic depends on the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tokenstore.conversion.plans import RangeWorker
from tokenstore.conversion.ranges import BadSample, RangeRequest, Segment
from tokenstore.errors import SampleError, TokenizerError
from tokenstore.sources.decoding import DecodedBatch, DecodePool, DecodeTask, ImageFacts
from tokenstore.sources.images import ImageOptions
from tokenstore.sources.masks import MaskDecoder
from tokenstore.sources.views import ViewRule
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.encoder import Encoder, compiled_tokenizer

__all__ = ["EncoderRecipe", "RangeEncoder"]


@dataclass(frozen=True)
class EncoderRecipe:
    """A small picklable recipe of an encoder, from which every worker of a cluster makes its own."""

    tokenizer: str | Tokenizer
    """The name of the tokenizer, as `load_tokenizer` takes it, or a picklable tokenizer."""
    fingerprint: str
    """The fingerprint that the tokenizer has to have."""
    device: str
    """The device to encode on."""
    images: ImageOptions
    masks: MaskDecoder | None
    batch_size: int
    views: ViewRule | None = None
    compile: bool = False
    """True to compile the tokenizer's network."""

    def on(self, device: str) -> EncoderRecipe:
        """Return the recipe of an encoder on another device."""
        return replace(self, device=device)

    def begin(self, workers: int) -> RangeEncoder:
        """Return an encoder of ranges; raises TokenizerError as `load` does."""
        return RangeEncoder(self.load(), self.batch_size, workers)

    def load(self) -> Encoder:
        """Return the encoder; raise TokenizerError if the tokenizer here is another one."""
        tokenizer = self.tokenizer
        if isinstance(tokenizer, str):
            loaded = load_tokenizer(tokenizer, self.device)
        else:
            loaded = tokenizer.to(self.device)
        if loaded.fingerprint != self.fingerprint:
            raise TokenizerError(
                f"{loaded.name}: expected the tokenizer of fingerprint {self.fingerprint}, found "
                f"{loaded.fingerprint}. Give all machines the same weights"
            )
        if self.compile:
            loaded = compiled_tokenizer(loaded)
        return Encoder(loaded, self.images, self.masks, self.views)


class RangeEncoder(RangeWorker):
    """An encoder with decode processes of its own, used as a context manager.

    Several threads may encode at a time: while one's batch is with the tokenizer, another's is decoded.

    Raises SourceError where shared memory is too small for so many `workers`.
    """

    def __init__(self, encoder: Encoder, batch_size: int, workers: int) -> None:
        self._encoder = encoder
        self._batch_size = batch_size
        self._pool = DecodePool(encoder.decoder, workers, encoder.masks)
        self._lock = Lock()
        self.task_samples = self._pool.task_samples
        """The largest number of samples of a request's task."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(at_once=error is not None)

    def close(self, *, at_once: bool = False) -> None:
        """End the decode processes, `at_once` or when they have done what they began."""
        self._pool.close(at_once=at_once)

    def encode(self, request: RangeRequest) -> Segment:
        """Encode one range; raises what `segments` raises."""
        (segment,) = self.segments([request])
        return segment

    def segments(self, requests: Iterable[RangeRequest]) -> Iterator[Segment]:
        """Encode ranges, and yield their segments in order; images of a few are decoded ahead.

        Raises WorkerError if a decode process dies, and what the decode pool and the encoder raise.
        """
        ahead: deque[RangeRequest] = deque()

        def tasks() -> Iterator[DecodeTask]:
            for request in requests:
                ahead.append(request)
                yield from request.tasks

        batch = _Batch(self._encoder, self._batch_size, self._lock)
        builder = None
        for decoded in self._pool.decode(tasks()):
            if builder is None:
                builder = _SegmentBuilder(self._encoder, batch, ahead.popleft())
            if builder.take(decoded):
                yield builder.segment()
                builder = None


class _Batch:
    """The inputs and label maps of a tokenizer's next batch, in memory that is used again."""

    def __init__(self, encoder: Encoder, size: int, lock: Lock) -> None:
        self._encoder, self._lock = encoder, lock
        self.size = size
        self.count = 0
        """The number of samples in the batch."""
        decoder, masks = encoder.decoder, encoder.masks
        self._inputs = np.empty((size, *decoder.shape), decoder.dtype)
        self._masks = np.empty((size, *(() if masks is None else masks.shape)), np.uint8)

    def add(self, decoded: DecodedBatch, row: int) -> None:
        """Add one of the samples that were decoded."""
        self._inputs[self.count] = decoded.inputs[row]
        if decoded.masks is not None:
            self._masks[self.count] = decoded.masks[row]
        self.count += 1

    def encode(self, codes: npt.NDArray[Any], columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Fill codes (count, *shape) and columns (count, ...) with those of the samples, and begin anew."""
        inputs, masks = self._inputs[: self.count], self._masks[: self.count]
        with self._lock:
            codes[:] = self._encoder(inputs)
            for name, values in self._encoder.column_values(inputs, masks).items():
                columns[name][:] = values
        self.count = 0


class _SegmentBuilder:
    """The segment of one range while it is made."""

    def __init__(self, encoder: Encoder, batch: _Batch, request: RangeRequest) -> None:
        self._batch, self._samples = batch, request.samples
        count = len(self._samples)
        self._codes = np.empty((count, *encoder.shape), encoder.dtype)
        self._columns = {
            name: np.empty((count, *column.shape), column.dtype) for name, column in encoder.columns.items()
        }
        self._positions: list[int] = []
        self._facts: list[ImageFacts] = []
        self._bad: list[BadSample] = []

    def take(self, decoded: DecodedBatch) -> bool:
        """Take the next samples; return True if they are the last ones of the range."""
        for position, outcome in enumerate(decoded.outcomes, decoded.start):
            if isinstance(outcome, SampleError):
                self._bad.append(BadSample(position, str(outcome), tuple(outcome.parameters)))
            else:
                self._batch.add(decoded, position - decoded.start)
                self._positions.append(position)
                self._facts.append(outcome)
            is_last = position + 1 == self._samples.stop
            if self._batch.count and (is_last or (position + 1) % self._batch.size == 0):
                here = slice(len(self._positions) - self._batch.count, len(self._positions))
                columns = {name: values[here] for name, values in self._columns.items()}
                self._batch.encode(self._codes[here], columns)
        return decoded.start + len(decoded.outcomes) == self._samples.stop

    def segment(self) -> Segment:
        """Return the finished segment."""
        count = len(self._positions)
        facts: npt.NDArray[Any] = np.array(
            [(image.width, image.height, image.nbytes) for image in self._facts], np.int64
        )
        return Segment(
            self._samples,
            self._codes[:count],
            {name: values[:count] for name, values in self._columns.items()},
            np.array(self._positions, np.int64),
            facts.reshape(-1, 3),
            tuple(self._bad),
        )
