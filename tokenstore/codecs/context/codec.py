"""The codec `context`: a chunk's payload is a head, the streams' lengths, and every sample's own stream.

FORMAT.md, section 7. A chunk whose streams would take more bytes than packing at a fixed width is packed.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.codecs import bitpack
from tokenstore.codecs.chunks import OnFitProgress, SampleCodec, SampleSpans
from tokenstore.codecs.context.digits import has_digits, join_digits, sound_digits, split_digits
from tokenstore.codecs.context.given import GivenViews, decoded_model, encoded_model
from tokenstore.codecs.context.model import ContextModel
from tokenstore.codecs.context.streams import Streams, check_grid
from tokenstore.codecs.views import Views
from tokenstore.errors import CodecError

__all__ = ["Context"]

Codes = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

MOST_SAMPLES = 2**20
"""The most samples of a chunk, unless its reader knows a smaller limit."""
_PACKED, _CODED = 0, 1
_HEAD = struct.Struct("<BIIB")
"""The form, the samples, the shortest stream's length, and the bits of the other streams' extra lengths."""


class Context(SampleCodec):
    """The codec `context`: codes coded by a model of the codes before them, every sample a stream of its own.

    Without a model, samples are packed. Where samples have views, every view has a stream of its own, and
    views may be coded given earlier ones.
    """

    name = "context"
    zarr_name = "tokenstore.context"
    codebook_size: int
    has_tables = True

    def __init__(
        self, codebook_size: int, model: ContextModel | None, given_views: GivenViews | None = None
    ) -> None:
        bitpack.bit_width(codebook_size)
        self.digits = _digits(codebook_size, model, given_views)
        for each in (model, None if given_views is None else given_views.model):
            if each is not None and self.digits is None and each.codebook_size != codebook_size:
                raise CodecError(
                    f"expected a context model of {codebook_size} codes, found one of {each.codebook_size}"
                )
        if given_views is not None and given_views.model is not None and model is None:
            raise CodecError("expected a context model of the views without references, found none")
        self.codebook_size = codebook_size
        self.model = model
        self.given_views = given_views
        self.views = 1 if given_views is None else given_views.views.count
        self._streams: dict[tuple[int, ...], Streams] = {}

    @classmethod
    @override
    def for_codes(
        cls,
        codebook_size: int,
        model: ContextModel | None = None,
        views: Views | None = None,
        given_views: GivenViews | None = None,
    ) -> Self:
        if given_views is None and views is not None:
            given_views = GivenViews.of(views)
        return cls(codebook_size, model, given_views)

    @classmethod
    @override
    def fitted(
        cls,
        codes: Codes,
        codebook_sizes: tuple[int, ...],
        *,
        seed: int = 0,
        total_codes: int | None = None,
        copies: int = 1,
        views: Views | None = None,
        on_progress: OnFitProgress | None = None,
    ) -> Self:
        from tokenstore.codecs.context.fitting import fit_context  # imports numba

        codec = fit_context(
            codes,
            codebook_sizes,
            seed=seed,
            total_codes=total_codes,
            copies=copies,
            views=views,
            on_progress=on_progress,
        )
        return cls(codec.codebook_size, codec.model, codec.given_views)

    @classmethod
    @override
    def from_zarr(cls, codecs: list[dict[str, Any]]) -> Self | None:
        match codecs:
            case [{"name": cls.zarr_name, "configuration": configuration}]:
                return cls.from_configuration(configuration)
        return None

    @property
    @override
    def zarr(self) -> list[dict[str, Any]]:
        return [{"name": self.zarr_name, "configuration": self.configuration}]

    @property
    def configuration(self) -> dict[str, Any]:
        """The codec's Zarr configuration."""
        views = {} if self.given_views is None else {"views": self.given_views.to_json()}
        return {"codebook_size": self.codebook_size, "model": encoded_model(self.model), **views}

    @classmethod
    def from_configuration(cls, configuration: Any) -> Self:
        """Return the codec of a Zarr configuration; raises CodecError for a bad one."""
        if not isinstance(configuration, dict) or configuration.keys() - {"views"} != {
            "codebook_size",
            "model",
        }:
            raise CodecError(
                "tokenstore.context: expected a configuration of codebook_size and model, "
                f"found {configuration!r:.200}"
            )
        size, text = configuration["codebook_size"], configuration["model"]
        if type(size) is not int or not (text is None or isinstance(text, str)):
            raise CodecError(
                "tokenstore.context: expected an integer codebook_size and a base64 model, "
                f"found {size!r:.40} and {text!r:.40}"
            )
        views = configuration.get("views")
        given_views = GivenViews.from_json(views) if "views" in configuration else None
        return cls(size, decoded_model(text), given_views)

    @property
    @override
    def table_nbytes(self) -> int:
        views = 0 if self.given_views is None else stored_model_nbytes(self.given_views.model)
        return stored_model_nbytes(self.model) + views

    @override
    def check_codes(self, grid: tuple[int, ...], codebook_sizes: tuple[int, ...]) -> None:
        if self.model is None:
            return
        check_grid(self.model, grid if self.digits is None else (len(self.digits), *grid))
        sizes = tuple(plane.size for plane in self.model.planes)
        if self.digits is not None:
            sizes = (self.codebook_size,)
        if sizes != codebook_sizes:
            raise CodecError(f"expected a context model of {codebook_sizes} codes, found one of {sizes}")
        if self.given_views is not None:
            self.given_views.check_grid(grid, codebook_sizes)

    def streams(self, grid: tuple[int, ...]) -> Streams:
        """Return the model's streams over a grid, made once; raises CodecError without a model."""
        if self.model is None:
            raise CodecError("the chunk is coded by a context model, and the codec has none")
        if grid not in self._streams:
            planes = () if self.digits is None else (len(self.digits),)
            self._streams[grid] = Streams(self.model, (*planes, *grid))
        return self._streams[grid]

    @override
    def encode(self, samples: Codes, chunk_samples: int, fill_value: int) -> bytes:
        grid = samples.shape[1:] if self.given_views is None else samples.shape[2:]
        codes = np.ascontiguousarray(samples.reshape(len(samples) * self.views, math.prod(grid)))
        packed = bitpack.pack(codes, self.codebook_size).tobytes()
        if self.model is None or not len(codes):
            return bytes([_PACKED]) + packed
        coded = self._coded(codes, grid)
        return coded if len(coded) <= len(packed) else bytes([_PACKED]) + packed

    def _coded(self, codes: Codes, grid: tuple[int, ...]) -> bytes:
        if self.given_views is None or self.given_views.model is None:
            planes = codes if self.digits is None else split_digits(codes, self.digits)
            streams, lengths = self.streams(grid).encode(planes)
        else:
            by_view = codes.reshape(-1, self.views, codes.shape[1])
            streams, lengths = self.given_views.encode(by_view, grid, self.streams(grid))
        shortest = int(lengths.min())
        longer = lengths - shortest
        width = int(longer.max()).bit_length()
        head = _HEAD.pack(_CODED, len(codes), shortest, width)
        table = bitpack.pack(longer[None].astype(np.uint32), 2**width).tobytes() if width else b""
        return head + table + streams

    @override
    def decode(self, payload: Bytes, out: Codes) -> None:
        codes = out if self.given_views is None else out.reshape(-1, *out.shape[2:])
        spans = self.spans(payload, codes.shape[1:], at_most=len(codes))
        if len(spans.addresses) != len(codes):
            samples = len(spans.addresses) // self.views
            raise CodecError(f"expected {len(out)} samples, found {samples}")
        self.decode_spans([spans], np.zeros(len(codes), np.int64), np.arange(len(codes)), codes)

    def decode_rows(self, payload: Bytes, row_numbers: npt.NDArray[np.integer], out: Codes) -> None:
        """Decode samples (views, where samples have them) of a chunk, by row numbers, into `out` (m, *grid).

        Raises CodecError for a row number that the chunk does not have, and for a bad sample.
        """
        spans = self.spans(payload, out.shape[1:])
        samples = len(spans.addresses)
        if len(row_numbers) and not 0 <= int(row_numbers.min()) <= int(row_numbers.max()) < samples:
            raise CodecError(f"expected rows below {samples}, found {row_numbers}")
        self.decode_spans([spans], np.zeros(len(row_numbers), np.int64), row_numbers.astype(np.int64), out)

    @override
    def sample_nbytes(self, shape: tuple[int, ...]) -> None:
        return None

    @override
    def spans(self, payload: Bytes, shape: tuple[int, ...], at_most: int = MOST_SAMPLES) -> SampleSpans:
        payload = np.ascontiguousarray(payload)
        if not len(payload):
            raise CodecError("expected a chunk of the context codec, found no bytes")
        if payload[0] == _PACKED:
            nbytes = bitpack.sample_nbytes(math.prod(shape), self.codebook_size)
            count, rest = divmod(len(payload) - 1, nbytes)
            if rest:
                raise CodecError(f"expected samples of {nbytes} bytes, found {len(payload) - 1} bytes")
            self._check_count(count, at_most)
            return SampleSpans.equal(payload, start=1, count=count, nbytes=nbytes)
        if payload[0] != _CODED:
            raise CodecError(f"expected a chunk of form {_PACKED} or {_CODED}, found {payload[0]}")
        start, lengths = self._lengths(payload, at_most)
        addresses = payload.ctypes.data + start + np.cumsum(lengths) - lengths
        return SampleSpans(payload, addresses, lengths, packed=False)

    def _check_count(self, count: int, at_most: int) -> None:
        if count > at_most:
            raise CodecError(f"expected at most {at_most} samples, found {count}")
        if count % self.views:
            raise CodecError(f"expected {self.views} views of every sample, found {count} streams")

    def _lengths(self, payload: Bytes, at_most: int) -> tuple[int, npt.NDArray[np.int64]]:
        if len(payload) < _HEAD.size:
            raise CodecError(f"expected a head of {_HEAD.size} bytes, found {len(payload)}")
        _, count, shortest, width = _HEAD.unpack(payload[: _HEAD.size].tobytes())
        self._check_count(count, at_most)
        table_nbytes = (count * width + 7) // 8
        start = _HEAD.size + table_nbytes
        if not count or width > 31 or start + count * shortest > len(payload):
            raise CodecError(
                f"expected the lengths of {count} streams of at least {shortest} bytes, "
                f"found {len(payload)} bytes"
            )
        lengths = np.full(count, shortest, np.int64)
        if width:
            longer = np.empty((1, count), np.int64)
            bitpack.unpack(payload[_HEAD.size : start], count, 2**width, longer)
            lengths += longer[0]
        if start + int(lengths.sum()) != len(payload):
            raise CodecError(f"expected streams of {int(lengths.sum())} bytes, found {len(payload) - start}")
        return start, lengths

    @override
    def decode_at(self, addresses: npt.NDArray[np.uint64], out: Codes) -> None:
        raise NotImplementedError("streams differ in length: their spans have to be known")

    @override
    def decode_spans(
        self,
        chunks: list[SampleSpans],
        chunk: npt.NDArray[np.int64],
        row: npt.NDArray[np.int64],
        out: Codes,
    ) -> None:
        bitpack.check_buffer(out, (len(row), *out.shape[1:]), self.codebook_size)
        if not len(row):
            return
        numbers = SampleSpans.numbers(chunks, chunk, row)
        packed = np.array([spans.packed for spans in chunks], np.bool_)[chunk]
        if packed.all() or not packed.any():
            self._decode_alike(bool(packed[0]), chunks, numbers, out)
            return
        for form in (True, False):
            places = np.flatnonzero(packed == form)
            part = np.empty((len(places), *out.shape[1:]), out.dtype)
            try:
                self._decode_alike(form, chunks, numbers[places], part)
            except CodecError as error:
                if error.sample is None:
                    raise
                raise error.at(int(places[error.sample])) from error
            out[places] = part

    def _decode_alike(
        self, packed: bool, chunks: list[SampleSpans], numbers: npt.NDArray[np.int64], out: Codes
    ) -> None:
        """Decode samples that are all packed, or all coded."""
        if not packed and self.given_views is not None and self.given_views.model is not None:
            self._decode_given(chunks, numbers, out)
            return
        addresses, lengths = SampleSpans.places(chunks, numbers)
        if not packed:
            self._decode_streams(addresses, lengths, out)
            return
        codes = out.reshape(len(out), math.prod(out.shape[1:]))
        bitpack.unpack_at(addresses.view(np.uint64), codes.shape[1], self.codebook_size, codes)

    def _decode_streams(
        self, addresses: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], out: Codes
    ) -> None:
        streams = self.streams(out.shape[1:])
        codes = out.reshape(len(out), math.prod(out.shape[1:]))
        if self.digits is None:
            wrong = streams.decode(addresses, lengths, codes)
        else:
            planes = np.empty((len(out), streams.codes_per_sample), np.uint16)
            wrong = streams.decode(addresses, lengths, planes)
            beyond = join_digits(planes, self.digits, self.codebook_size, codes)
            wrong = beyond if wrong < 0 else wrong
        if wrong >= 0:
            raise CodecError("expected a stream of the context codec, found other bytes", sample=wrong)

    def _decode_given(self, chunks: list[SampleSpans], numbers: npt.NDArray[np.int64], out: Codes) -> None:
        """Decode coded views, by their numbers (m,) in all chunks, with the references that they need."""
        assert self.given_views is not None
        addresses, lengths = SampleSpans.places(chunks)
        grid = out.shape[1:]
        codes = out.reshape(len(out), math.prod(grid))
        wrong = self.given_views.decode(addresses, lengths, numbers, codes, grid, self.streams(grid))
        if wrong >= 0:
            raise CodecError("expected a stream of the context codec, found other bytes", sample=wrong)


def _digits(size: int, model: ContextModel | None, given_views: GivenViews | None) -> tuple[int, ...] | None:
    """Return the digits that a model codes of codes below `size`, or None; raise CodecError for others."""
    if not has_digits(size) or model is None:
        return None
    digits = tuple(plane.size for plane in model.planes)
    if not sound_digits(digits, size) or (given_views is not None and given_views.model is not None):
        raise CodecError(f"expected a context model of the digits of {size} codes, found one of {digits}")
    return digits


def stored_model_nbytes(model: ContextModel | None) -> int:
    """Return the bytes of a model in an array's metadata, where it stands in base64."""
    return 0 if model is None else -(-model.nbytes // 3) * 4
