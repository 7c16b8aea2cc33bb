"""A chunk of the context codec: every sample's own stream, and where each begins.

FORMAT.md, section 7. Where a chunk's streams would take more than packing at a fixed width, it is packed.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import bitpack
from tokenstore.codecs.context.model import ContextModel
from tokenstore.codecs.context.streams import Streams
from tokenstore.errors import CodecError

__all__ = ["Context", "Located"]

Codes = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

MOST_SAMPLES = 2**20
"""Samples of a chunk, unless its reader knows how many there may be."""
_PACKED, _CODED = 0, 1
_HEAD = struct.Struct("<BIIB")
"""Form, samples, length of the shortest stream, and bits of what the others are longer."""


@dataclass(frozen=True)
class Located:
    """Where the samples of a chunk's payload lie in memory; it keeps them there."""

    payload: Bytes = field(repr=False)
    addresses: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    packed: bool
    """Whether samples are packed at a fixed width, rather than coded by the model."""

    @property
    def nbytes(self) -> int:
        return self.payload.nbytes + self.addresses.nbytes + self.lengths.nbytes


class Context:
    """Codes by a model of the codes before them, every sample a stream of its own; packed without a model."""

    name = "context"

    def __init__(self, codebook_size: int, model: ContextModel | None) -> None:
        bitpack.bit_width(codebook_size)
        if model is not None and model.codebook_size != codebook_size:
            raise CodecError(
                f"expected a context model of {codebook_size} codes, found one of {model.codebook_size}"
            )
        self.codebook_size = codebook_size
        self.model = model
        self._streams: dict[tuple[int, ...], Streams] = {}

    @property
    def zarr(self) -> list[dict[str, Any]]:
        model = None if self.model is None else base64.b64encode(self.model.to_bytes()).decode("ascii")
        configuration = {"codebook_size": self.codebook_size, "model": model}
        return [{"name": "tokenstore.context", "configuration": configuration}]

    @classmethod
    def from_configuration(cls, configuration: Any) -> Self:
        """The codec of a Zarr configuration; raises CodecError for any that is none."""
        if not isinstance(configuration, dict) or configuration.keys() != {"codebook_size", "model"}:
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
        try:
            data = None if text is None else base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CodecError(f"tokenstore.context: expected a model in base64: {error}") from error
        return cls(size, None if data is None else ContextModel.from_bytes(data))

    @property
    def table_nbytes(self) -> int:
        """Bytes of the model in an array's metadata."""
        return 0 if self.model is None else -(-self.model.nbytes // 3) * 4

    def streams(self, grid: tuple[int, ...]) -> Streams:
        """The model's streams over a grid, made once; raises CodecError without a model."""
        if self.model is None:
            raise CodecError("the chunk is coded by a context model, and the codec has none")
        if grid not in self._streams:
            self._streams[grid] = Streams(self.model, grid)
        return self._streams[grid]

    def encode(self, rows: Codes, chunk_samples: int, fill_value: int) -> bytes:
        """A chunk's payload, from codes (n, *grid), each below its codebook's size."""
        codes = np.ascontiguousarray(rows.reshape(len(rows), math.prod(rows.shape[1:])))
        packed = bitpack.pack(codes, self.codebook_size).tobytes()
        if self.model is None or not len(codes):
            return bytes([_PACKED]) + packed
        coded = self._coded(codes, rows.shape[1:])
        return coded if len(coded) <= len(packed) else bytes([_PACKED]) + packed

    def _coded(self, codes: Codes, grid: tuple[int, ...]) -> bytes:
        streams, lengths = self.streams(grid).encode(codes)
        shortest = int(lengths.min())
        longer = lengths - shortest
        width = int(longer.max()).bit_length()
        head = _HEAD.pack(_CODED, len(codes), shortest, width)
        table = bitpack.pack(longer[None].astype(np.uint32), 2**width).tobytes() if width else b""
        return head + table + streams

    def decode(self, payload: Bytes, out: Codes) -> None:
        """Decode the first len(out) samples. Raises CodecError where the payload is no encoding of them."""
        located = self.locate(payload, out.shape[1:], at_most=len(out))
        if len(located.addresses) != len(out):
            raise CodecError(f"expected {len(out)} samples, found {len(located.addresses)}")
        self.decode_at([located], np.zeros(len(out), np.int64), np.arange(len(out)), out)

    def decode_rows(self, payload: Bytes, rows: npt.NDArray[np.integer], out: Codes) -> None:
        """Decode the samples at `rows` (m,) of a chunk into `out` (m, *grid)."""
        located = self.locate(payload, out.shape[1:])
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(located.addresses):
            raise CodecError(f"expected rows below {len(located.addresses)}, found {rows}")
        self.decode_at([located], np.zeros(len(rows), np.int64), rows.astype(np.int64), out)

    def locate(self, payload: Bytes, grid: tuple[int, ...], at_most: int = MOST_SAMPLES) -> Located:
        """Where a payload's samples lie; raises CodecError where it is none, or has more than `at_most`."""
        payload = np.ascontiguousarray(payload)
        if not len(payload):
            raise CodecError("expected a chunk of the context codec, found no bytes")
        if payload[0] == _PACKED:
            nbytes = bitpack.sample_nbytes(math.prod(grid), self.codebook_size)
            count, rest = divmod(len(payload) - 1, nbytes)
            if rest:
                raise CodecError(f"expected samples of {nbytes} bytes, found {len(payload) - 1} bytes")
            self._check_count(count, at_most)
            start, lengths = 1, np.full(count, nbytes, np.int64)
        elif payload[0] == _CODED:
            start, lengths = self._lengths(payload, at_most)
        else:
            raise CodecError(f"expected a chunk of form {_PACKED} or {_CODED}, found {payload[0]}")
        addresses = payload.ctypes.data + start + np.cumsum(lengths) - lengths
        return Located(payload, addresses, lengths, bool(payload[0] == _PACKED))

    @staticmethod
    def _check_count(count: int, at_most: int) -> None:
        if count > at_most:
            raise CodecError(f"expected at most {at_most} samples, found {count}")

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

    def decode_at(
        self, chunks: list[Located], chunk: npt.NDArray[np.int64], row: npt.NDArray[np.int64], out: Codes
    ) -> None:
        """Decode sample `row` (m,) of `chunks[chunk]` (m,) into `out` (m, *grid), C-contiguous; without
        the GIL.

        Raises CodecError, naming the place in `out`, where a sample's bytes are not what an encoder wrote.
        """
        codes_per_sample = math.prod(out.shape[1:])
        bitpack.check_buffer(out, (len(row), *out.shape[1:]), self.codebook_size)
        if not len(row):
            return
        first = np.cumsum([0, *(len(located.addresses) for located in chunks)])[chunk] + row
        addresses = np.concatenate([located.addresses for located in chunks])[first]
        lengths = np.concatenate([located.lengths for located in chunks])[first]
        packed = np.array([located.packed for located in chunks], np.bool_)[chunk]
        if packed.all():
            codes = out.reshape(len(out), codes_per_sample)
            bitpack.unpack_at(addresses.view(np.uint64), codes_per_sample, self.codebook_size, codes)
        elif not packed.any():
            self._decode_streams(addresses, lengths, out)
        else:
            for form in (True, False):
                which = np.flatnonzero(packed == form)
                some = np.empty((len(which), *out.shape[1:]), out.dtype)
                try:
                    alike = np.zeros(len(which), np.int64)
                    sources = Located(chunks[0].payload, addresses[which], lengths[which], form)
                    self.decode_at([sources], alike, np.arange(len(which)), some)
                except CodecError as error:
                    named = re.match(r"sample (\d+)(.*)", str(error))
                    if named is None:
                        raise
                    raise CodecError(f"sample {which[int(named[1])]}{named[2]}") from error
                out[which] = some

    def _decode_streams(
        self, addresses: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], out: Codes
    ) -> None:
        streams = self.streams(out.shape[1:])
        wrong = streams.decode(addresses, lengths, out.reshape(len(out), streams.codes_per_sample))
        if wrong >= 0:
            raise CodecError(f"sample {wrong}: expected a stream of the context codec, found other bytes")
