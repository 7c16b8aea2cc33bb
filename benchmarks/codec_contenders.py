"""The contenders of bench_codecs.py: ways to turn samples of codes into bytes and back, measured in turns.

General-purpose compressors see codes either as little-endian integers or in the bytes of the SeiT release,
where a code below 255 is one byte and a larger one the byte 255 and then the byte `code - 255`. Their
payloads are decoded whole; with our own codecs a sample is decoded alone.
"""

from __future__ import annotations

import bz2
import lzma
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit
from numcodecs.zstd import Zstd

from tokenstore.codecs import Bitpack, ChunkCodec
from tokenstore.codecs.context import fit_context
from tokenstore.format import code_planes, fill_value

Rows: TypeAlias = npt.NDArray[Any]
Note: TypeAlias = Callable[[str], None]
ToBytes: TypeAlias = Callable[[Rows], bytes]
FromBytes: TypeAlias = Callable[[bytes, Rows], None]
Compressor: TypeAlias = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]

CHUNK_SAMPLES = 64
SEIT_LARGEST_CODEBOOK = 509
_ESCAPE = 255
_ONE_RUN_SECONDS = 5.0
"""The seconds beyond which an encoder is not run again."""
_TURN_SECONDS = 0.1


@dataclass(frozen=True)
class Contender:
    """A codec: samples (n, *grid) to a payload and back.

    `chunk_samples` go into a payload; None: all of them.
    """

    name: str
    alone: str
    """The part that can be decoded without the rest, in words."""
    encode: ToBytes
    decode: FromBytes
    chunk_samples: int | None
    table_nbytes: int = 0
    """The bytes that decoding needs beside the payloads."""

    def chunks(self, rows: Rows) -> list[Rows]:
        """Split samples into those of each payload."""
        step = self.chunk_samples or len(rows)
        return [rows[start : start + step] for start in range(0, len(rows), step)]


@dataclass
class Measured:
    """One contender's payloads of the scored codes, and its best processor times for all of them."""

    contender: Contender
    payloads: list[bytes]
    encode_seconds: float
    decode_seconds: float = math.inf

    @property
    def nbytes(self) -> int:
        """The bytes of all payloads."""
        return sum(map(len, self.payloads))


def measure(contenders: list[Contender], codes: Rows, repeats: int, note: Note) -> list[Measured]:
    """Encode, check that decoding gives the codes back, and time in turns. Raises ValueError."""
    measured, out = [], np.empty_like(codes)

    def encode(contender: Contender) -> list[bytes]:
        return [contender.encode(rows) for rows in contender.chunks(codes)]

    def decode(contender: Contender, payloads: list[bytes]) -> None:
        for payload, rows in zip(payloads, contender.chunks(out), strict=True):
            contender.decode(payload, rows)

    for contender in contenders:
        note(f"{contender.name} ...")
        started = time.process_time()
        payloads = encode(contender)
        measured.append(Measured(contender, payloads, time.process_time() - started))
        out.fill(fill_value(out.dtype))
        decode(contender, payloads)
        if not np.array_equal(out, codes):
            raise ValueError(f"{contender.name}: what was decoded differs from what was encoded")
    again = [one.encode_seconds < _ONE_RUN_SECONDS for one in measured]
    for _ in range(repeats):
        for one, encodes in zip(measured, again, strict=True):
            if encodes:
                one.encode_seconds = min(one.encode_seconds, _best(partial(encode, one.contender)))
            one.decode_seconds = min(one.decode_seconds, _best(partial(decode, one.contender, one.payloads)))
    return measured


def _best(run: Callable[[], object]) -> float:
    """Return a core's seconds in the fastest of the runs that fit into one turn."""
    best, spent = math.inf, 0.0
    while spent < _TURN_SECONDS:
        started = time.process_time()
        run()
        took = time.process_time() - started
        best, spent = min(best, took), spent + took
    return best


def general(codebook_size: int, dtype: np.dtype[Any], note: Note) -> list[Contender]:
    """Return general-purpose compressors, the reference first; those not installed are noted and left out."""
    makers: dict[str, Callable[[], Compressor]] = {
        "gzip -9": lambda: (_gzip, partial(zlib.decompress, wbits=31, bufsize=2**17)),
        "zstd -19": lambda: (Zstd(19).encode, Zstd().decode),
        "brotli 11": _brotli,
        "xz -9e": lambda: (partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
        "bzip2 -9": lambda: (bz2.compress, bz2.decompress),
        "blosc2 shuffle zstd 9": partial(_blosc2, dtype.itemsize, "SHUFFLE"),
        "blosc2 bitshuffle zstd 9": partial(_blosc2, dtype.itemsize, "BITSHUFFLE"),
    }
    contenders = []
    seit = {"SeiT layout": (to_seit, from_seit)}
    for name, make in makers.items():
        try:
            compressor = make()
        except ImportError as error:
            note(f"{name} is left out: {error}")
            continue
        layouts = {"codes": (_to_little_endian, _from_little_endian)}
        if name == "gzip -9" and codebook_size <= SEIT_LARGEST_CODEBOOK:
            layouts = seit
        elif name in ("zstd -19", "brotli 11", "xz -9e") and _ESCAPE < codebook_size <= SEIT_LARGEST_CODEBOOK:
            layouts |= seit
        for layout, (to_bytes, from_bytes) in layouts.items():
            for samples in (None, CHUNK_SAMPLES):
                alone, how = (
                    (f"{samples} samples", f"chunks of {samples}") if samples else ("nothing", "solid")
                )
                encode, decode = _through(compressor, to_bytes, from_bytes)
                contenders.append(Contender(f"{name}, {layout}, {how}", alone, encode, decode, samples))
    return contenders


def _through(compressor: Compressor, to_bytes: ToBytes, from_bytes: FromBytes) -> tuple[ToBytes, FromBytes]:
    compress, decompress = compressor
    return lambda rows: compress(to_bytes(rows)), lambda data, out: from_bytes(decompress(data), out)


def _gzip(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, wbits=31)
    return compressor.compress(data) + compressor.flush()


def _brotli() -> Compressor:
    import brotli

    return partial(brotli.compress, quality=11, lgwin=24), brotli.decompress


def _blosc2(itemsize: int, shuffle: str) -> Compressor:
    import blosc2

    settings = blosc2.CParams(
        codec=blosc2.Codec.ZSTD, clevel=9, typesize=itemsize, filters=[blosc2.Filter[shuffle]], nthreads=1
    )
    return partial(blosc2.compress2, cparams=settings), partial(blosc2.decompress2, nthreads=1)


def _to_little_endian(rows: Rows) -> bytes:
    return rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes()


def _from_little_endian(data: bytes, out: Rows) -> None:
    out[...] = np.frombuffer(data, out.dtype.newbyteorder("<")).reshape(out.shape)


def to_seit(rows: Rows) -> bytes:
    """Write codes up to 508 in the bytes of the SeiT release."""
    codes = rows.reshape(-1)
    escaped = codes >= _ESCAPE
    stored = np.stack(
        [np.where(escaped, _ESCAPE, codes), codes - escaped * codes.dtype.type(_ESCAPE)], axis=1
    )
    return stored.astype(np.uint8)[np.stack([np.ones_like(escaped), escaped], axis=1)].tobytes()


def from_seit(data: bytes, out: Rows) -> None:
    """Read codes from the bytes of the SeiT release."""
    if not _unescape(np.frombuffer(data, np.uint8), out.reshape(-1)):
        raise ValueError(f"expected {out.size} codes in {len(data)} escaped bytes")


@njit(nogil=True)
def _unescape(data: Any, out: Any) -> bool:
    # The byte after an escape is below 255, so that a byte's meaning hangs on the byte before it alone,
    # and no branch depends on the data.
    at = 0
    added = 0
    for byte in data:
        if at == out.size:
            return False
        out[at] = byte + added
        is_escape = np.int64(byte == _ESCAPE)
        added = is_escape * _ESCAPE
        at += 1 - is_escape
    return at == out.size


def ours(fit_codes: Rows, codebook_sizes: tuple[int, ...], note: Note) -> tuple[list[Contender], float]:
    """Return the store's own codecs, bit packing first, and the seconds of fitting the context model."""
    dtype = fit_codes.dtype
    packed = _own("bitpack, fixed width", Bitpack(max(codebook_sizes)), dtype)
    started = time.perf_counter()
    codec = fit_context(fit_codes, codebook_sizes, seed=0, on_progress=None)
    seconds = time.perf_counter() - started
    return [packed, _own("context, per sample", codec, dtype, codec.table_nbytes)], seconds


def _own(name: str, codec: ChunkCodec, dtype: np.dtype[Any], table_nbytes: int = 0) -> Contender:
    def encode(rows: Rows) -> bytes:
        return codec.encode(rows, CHUNK_SAMPLES, int(fill_value(dtype)))

    def decode(payload: bytes, out: Rows) -> None:
        codec.decode(np.frombuffer(payload, np.uint8), out)

    return Contender(name, "a sample", encode, decode, CHUNK_SAMPLES, table_nbytes)


def order_0_bits(codes: Rows, codebook_sizes: tuple[int, ...]) -> float:
    """Return the bits a code that no coder of single codes goes below, each codebook by itself."""
    bits = 0.0
    for plane, _ in code_planes(codes, codebook_sizes):
        counts = np.unique(plane, return_counts=True)[1]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits / codes.size
