"""The protocols of codecs: how the samples of one chunk become its payload, and back.

`ChunkCodec` has what every codec can do. `SampleCodec` adds the reading of single samples.
A new codec is a subclass of one of them in a file of its own, and a line in `registry.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenstore.codecs.context.given import GivenViews
    from tokenstore.codecs.context.model import ContextModel
    from tokenstore.codecs.views import Views

__all__ = ["ChunkCodec", "DeviceForm", "MarkedCodec", "OnFitProgress", "SampleCodec", "SampleSpans"]

Values: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Indices: TypeAlias = npt.NDArray[np.int64]
MAX_FIT_CODES = 8_000_000
"""The most codes that a codec is fitted to."""
OnFitProgress: TypeAlias = Callable[[int, int], None]
"""A callback for the progress of a fit: steps done, and steps in all."""


@dataclass(frozen=True)
class SampleSpans:
    """The spans in memory of the samples of one chunk's payload. They keep the payload alive."""

    payload: Bytes = field(repr=False)
    addresses: Indices
    """The samples' memory addresses (n,)."""
    lengths: Indices
    """The samples' bytes (n,)."""
    packed: bool
    """True if samples are packed at a fixed width (`bitpack`), not coded by a model."""

    @classmethod
    def equal(cls, payload: Bytes, *, start: int, count: int, nbytes: int) -> SampleSpans:
        """Return the spans of `count` packed samples of `nbytes` each, from byte `start` of a payload."""
        first = payload.ctypes.data + start
        addresses = first + nbytes * np.arange(count, dtype=np.int64)
        return cls(payload, addresses, np.full(count, nbytes, np.int64), packed=True)

    @staticmethod
    def select(chunks: list[SampleSpans], chunk: Indices, row: Indices) -> tuple[Indices, Indices]:
        """Return the addresses (m,) and lengths (m,) of sample `row` (m,) of `chunks[chunk]` (m,)."""
        return SampleSpans.places(chunks, SampleSpans.numbers(chunks, chunk, row))

    @staticmethod
    def numbers(chunks: list[SampleSpans], chunk: Indices, row: Indices) -> Indices:
        """Return the number (m,) of sample `row` (m,) of `chunks[chunk]` (m,) among those of all chunks."""
        numbers: Indices = np.cumsum([0, *(len(spans.addresses) for spans in chunks)])[chunk] + row
        return numbers

    @staticmethod
    def places(chunks: list[SampleSpans], numbers: Indices | slice = slice(None)) -> tuple[Indices, Indices]:
        """Return the addresses (m,) and lengths (m,) of samples by their numbers in all chunks."""
        addresses = np.concatenate([spans.addresses for spans in chunks])[numbers]
        return addresses, np.concatenate([spans.lengths for spans in chunks])[numbers]

    @property
    def nbytes(self) -> int:
        """The bytes of the payload and of the spans themselves."""
        return self.payload.nbytes + self.addresses.nbytes + self.lengths.nbytes


@dataclass(frozen=True)
class DeviceForm:
    """The forms in which a device can decode samples: packed at a fixed width, or coded by a model."""

    codebook_size: int
    """The codebook size that packed samples are packed for."""
    model: ContextModel | None
    """The model of coded samples; None if all samples are packed."""


class ChunkCodec(Protocol):
    """A codec of samples (n, *shape) to a chunk's payload and back. Checksums are the shard's matter."""

    name: ClassVar[str]
    """The codec's name, as a feature in manifests and in the parameter `codec`."""
    zarr_name: ClassVar[str]
    """The name of the Zarr codec that stands for this one in an array's metadata: the last of `zarr`."""
    has_tables: ClassVar[bool] = False
    """True if the codec is fitted to a store's codes, and its tables stand in each array's metadata."""

    codebook_size: int | None = None
    """The size below which all codes must lie; None for a codec of any values."""
    model: ContextModel | None = None
    """The model that the codec codes by; None for a codec without one."""
    digits: tuple[int, ...] | None = None
    """The numbers of values of the digits that the model codes; None where it codes the codes themselves."""
    views: int = 1
    """The views of a sample that can be read alone; 1 where samples have no axis of views.

    Samples (n, *shape) of several are (n, views, *grid). What `SampleCodec` says of samples then goes for
    views, n * views of them, sample by sample.
    """
    given_views: GivenViews | None = None
    """The views, and how they are coded given others; None for a codec that codes none so."""

    @classmethod
    def for_codes(
        cls,
        codebook_size: int,
        model: ContextModel | None = None,
        views: Views | None = None,
        given_views: GivenViews | None = None,
    ) -> Self:
        """Return the codec for codes below `codebook_size`; raises CodecError if they do not fit.

        With `views`, each of the `views.count` views of a sample can be read alone. `given_views` are the
        same views as a codec with a model codes them.
        """
        raise NotImplementedError

    @classmethod
    def fitted(
        cls,
        codes: Values,
        codebook_sizes: tuple[int, ...],
        *,
        seed: int = 0,
        total_codes: int | None = None,
        copies: int = 1,
        views: Views | None = None,
        on_progress: OnFitProgress | None = None,
    ) -> Self:
        """Return the codec for codes like those of `codes` (n, *grid), fitted to them if it has tables.

        With `views`, codes are (n, V, *grid). `total_codes` is the number of codes in the store, `copies` how
        often the store will hold the tables.
        """
        if views is None:
            return cls.for_codes(max(codebook_sizes))
        return cls.for_codes(max(codebook_sizes), views=views)

    @classmethod
    def from_zarr(cls, codecs: list[dict[str, Any]]) -> Self | None:
        """Return the codec that `zarr` described; None for other codecs. Raises CodecError for a bad one."""
        raise NotImplementedError

    @property
    def zarr(self) -> list[dict[str, Any]]:
        """The codec as a part of an array's Zarr v3 metadata."""
        raise NotImplementedError

    @property
    def table_nbytes(self) -> int:
        """The bytes of the codec's tables in an array's metadata."""
        return 0

    @property
    def samples(self) -> SampleCodec | None:
        """The same codec with access to single samples; None if only whole chunks decode."""
        return None

    @property
    def device_form(self) -> DeviceForm | None:
        """The form in which a device can store and decode the samples; None if it cannot."""
        return None

    def encode(self, samples: Values, chunk_samples: int, fill_value: int) -> bytes:
        """Return the payload of a chunk of `chunk_samples` samples, of which `samples` (n, *shape) have data.

        Raises CodecError for values that the codec cannot store.
        """
        raise NotImplementedError

    def decode(self, payload: Bytes, out: Values) -> None:
        """Decode the first len(out) samples. Raises CodecError unless the payload encodes them."""
        raise NotImplementedError

    def check_payload(self, payload: Bytes, samples: int, shape: tuple[int, ...]) -> None:
        """Raise CodecError if the size of a payload shows that it has not exactly so many samples."""
        return

    def check_codes(self, grid: tuple[int, ...], codebook_sizes: tuple[int, ...]) -> None:
        """Raise CodecError if the codec's tables are made for other grids or codebooks."""
        return

    def stated_samples(self, payload: Bytes) -> int | None:
        """Return the samples of a chunk that a payload states, filler included; None if it states none.

        Raises CodecError for a payload that is none of the codec's.
        """
        return None

    def decoded_nbytes(self, payload: Bytes) -> int | None:
        """Return the bytes that a payload says it decodes to; None if it does not say.

        A codec that compresses has this method: a payload of another size than its chunk's is not decoded.
        Raises CodecError for a payload that is none of the codec's.
        """
        return None


class SampleCodec(ChunkCodec, Protocol):
    """A codec whose samples can be read alone: each has bytes of its own in the payload."""

    @property
    def samples(self) -> SampleCodec:
        """The codec itself."""
        return self

    @property
    def marked(self) -> MarkedCodec | None:
        """The same codec with marks in its payloads; None for one that needs none."""
        return None

    @property
    def device_form(self) -> DeviceForm | None:
        """The codec's form in a device's memory: packed samples, and a model if some are coded."""
        return None if self.codebook_size is None else DeviceForm(self.codebook_size, self.model)

    def sample_nbytes(self, shape: tuple[int, ...]) -> int | None:
        """Return the bytes of every sample; None if samples differ in length, and have `spans` only."""
        raise NotImplementedError

    def spans(self, payload: Bytes, shape: tuple[int, ...], at_most: int) -> SampleSpans:
        """Return the spans of a payload's samples. Raises CodecError for a bad payload, or more samples."""
        raise NotImplementedError

    def decode_at(self, addresses: npt.NDArray[np.uint64], out: Values) -> None:
        """Decode the samples at addresses (m,) into `out` (m, *shape), if all have the same `sample_nbytes`.

        Raises CodecError with the sample's position in `out` if its bytes are no encoding.
        """
        raise NotImplementedError

    def decode_spans(self, chunks: list[SampleSpans], chunk: Indices, row: Indices, out: Values) -> None:
        """Decode sample `row` (m,) of `chunks[chunk]` (m,) into `out` (m, *shape), C-contiguous.

        Raises CodecError with the sample's position in `out` if its bytes are no encoding.
        """
        raise NotImplementedError


class MarkedCodec(SampleCodec, Protocol):
    """A codec of samples of any length: a sample is found by a walk over those behind a mark before it."""

    mark_samples: ClassVar[int]
    """The samples from one mark to the next."""
    first_mark: ClassVar[int]
    """The place of the first mark in a payload, which is that of its first sample."""

    @property
    def marked(self) -> MarkedCodec:
        """The codec itself."""
        return self

    def marks(self, payload: Bytes) -> npt.NDArray[np.uint32]:
        """Return the places in a payload of its samples 0, `mark_samples`, 2 * `mark_samples` and so on.

        Raises CodecError for a bad payload.
        """
        raise NotImplementedError

    def decode_behind(
        self, addresses: npt.NDArray[np.uint64], lengths: Indices, row: Indices, out: Values
    ) -> None:
        """Decode the sample `row` (m,) samples behind each mark at addresses (m,).

        Nothing is read but `lengths` (m,) bytes from each mark on. Raises CodecError as `decode_spans` does.
        """
        raise NotImplementedError
