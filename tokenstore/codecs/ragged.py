"""The codecs of ragged samples: texts, and lists of any length, each in bytes of its own.

A payload has the number of samples of its chunk (uint32), and for each sample the number of its bytes
(uint32) and these bytes (FORMAT.md, section 9). So Zarr's own `vlen-utf8` and `vlen-bytes` read it. Nothing
is compressed: a random batch would otherwise decompress a chunk for each of its samples, at 30 times the
cost (docs/log.md). The compiled loops are in `ragged_kernels.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.codecs.chunks import DeviceForm, MarkedCodec, SampleSpans
from tokenstore.errors import CodecError
from tokenstore.machine import importing_kernels

if TYPE_CHECKING:
    from tokenstore.codecs.context.given import GivenViews
    from tokenstore.codecs.context.model import ContextModel
    from tokenstore.codecs.views import Views

__all__ = ["Lists", "Ragged", "Texts"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Indices: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[Any]

_LENGTH_NBYTES = 4
_MOST_NBYTES = 2**31
"""The most bytes of a chunk's samples (FORMAT.md, M12)."""
_MOST_AXES = 31
"""The most axes of a list's values, as NumPy 1 has 32 and the list is one of them."""
_LIST_TYPES = {np.dtype(code).name: np.dtype(code) for code in "?bhilqBHILQefd"}
"""The types of a list's values by name. numpy takes other names too, and raises other errors for some."""
"""The kinds of dtypes that a list's values may have."""


class Ragged(MarkedCodec):
    """A codec of samples (n,) of any length: what is common to texts and lists."""

    name = "ragged"
    data_type: ClassVar[str]
    """The name of the Zarr data type."""
    feature = "ragged"
    """The feature of a manifest that says that such arrays are in the store."""
    mark_samples = 8
    first_mark = _LENGTH_NBYTES
    codebook_size = None

    @property
    def codec(self) -> Ragged:
        """The codec itself: the form of a column says by which codec its samples are stored."""
        return self

    @property
    def attributes(self) -> dict[str, Any]:
        """The facts that an array's metadata states beside its data type."""
        return {}

    @classmethod
    @override
    def for_codes(
        cls,
        codebook_size: int,
        model: ContextModel | None = None,
        views: Views | None = None,
        given_views: GivenViews | None = None,
    ) -> Self:
        raise CodecError("expected a codec of codes, found one of texts and lists")

    @classmethod
    @override
    def from_zarr(cls, codecs: list[dict[str, Any]]) -> Self | None:
        return None  # an array's data type tells, not its codecs

    def check(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Raise CodecError for an array of more than one axis."""
        if shape:
            raise CodecError(f"expected one {self} a sample, found samples of shape {shape}")

    def problem(self, values: Values) -> str | None:
        """Return None: what decodes is right."""
        return None

    def values(self, stored: Values) -> Values:
        """Return the texts or lists themselves."""
        return stored

    def bytes_of(self, value: Any) -> bytes:
        """Return the bytes of one sample; raises CodecError for a value that is none."""
        raise NotImplementedError

    def put(self, data: bytes, stops: list[int], out: Values) -> None:
        """Decode samples (m,) that lie back to back, each up to its stop, into `out` (m,)."""
        raise NotImplementedError

    @property
    @override
    def zarr(self) -> list[dict[str, Any]]:
        return [{"name": self.zarr_name, "configuration": {}}]

    @property
    @override
    def device_form(self) -> DeviceForm | None:
        return None

    @override
    def encode(self, samples: Values, chunk_samples: int, fill_value: int) -> bytes:
        parts, nbytes = [chunk_samples.to_bytes(_LENGTH_NBYTES, "little")], 0
        for place, value in enumerate(samples.tolist()):
            try:
                data = self.bytes_of(value)
            except CodecError as error:
                raise error.at(place) from error
            nbytes += len(data) + _LENGTH_NBYTES
            if nbytes > _MOST_NBYTES:
                raise CodecError(
                    f"expected chunks of at most {_MOST_NBYTES} bytes, found more: give fewer samples a chunk"
                )
            parts += (len(data).to_bytes(_LENGTH_NBYTES, "little"), data)
        parts.append(bytes(_LENGTH_NBYTES * (chunk_samples - len(samples))))
        return b"".join(parts)

    @override
    def decode(self, payload: Bytes, out: Values) -> None:
        spans = self.spans(payload, (), len(out))
        if len(spans.addresses) < len(out):
            raise CodecError(f"expected {len(out)} samples, found {len(spans.addresses)}")
        places = np.zeros(len(out), np.int64)
        self.decode_spans([spans], places, np.arange(len(out)), out)

    @override
    def check_payload(self, payload: Bytes, samples: int, shape: tuple[int, ...]) -> None:
        found = len(self.spans(payload, shape, samples).addresses)
        if found != samples:
            raise CodecError(f"expected {samples} samples, found {found}")

    @override
    def stated_samples(self, payload: Bytes) -> int:
        if len(payload) < _LENGTH_NBYTES:
            raise CodecError(f"expected the number of samples, found {len(payload)} bytes")
        return int.from_bytes(payload[:_LENGTH_NBYTES].tobytes(), "little")

    @override
    def sample_nbytes(self, shape: tuple[int, ...]) -> None:
        return None

    @override
    def spans(self, payload: Bytes, shape: tuple[int, ...], at_most: int) -> SampleSpans:
        starts, lengths = self._starts(payload)
        if lengths[at_most:].any():
            raise CodecError(f"expected no bytes behind sample {at_most - 1}, found some")
        addresses = payload.ctypes.data + starts[:at_most]
        return SampleSpans(payload, addresses, lengths[:at_most], packed=False)

    def _starts(self, payload: Bytes) -> tuple[Indices, Indices]:
        """Return the first byte (n,) and the bytes (n,) of each of a payload's samples."""
        count = self.stated_samples(payload)
        if len(payload) > _LENGTH_NBYTES + _MOST_NBYTES:
            raise CodecError(f"expected at most {_MOST_NBYTES} bytes of samples, found {len(payload)} bytes")
        if count > len(payload) // _LENGTH_NBYTES - 1:
            raise CodecError(f"expected a length for each of {count} samples, found {len(payload)} bytes")
        starts, lengths = np.empty(count, np.int64), np.empty(count, np.int64)
        refused = _kernels().item_spans(payload, starts, lengths)
        if refused == count:
            raise CodecError("expected no bytes behind the last sample, found some")
        if refused >= 0:
            raise CodecError("expected the bytes that its length says, found fewer", sample=refused)
        return starts, lengths

    @override
    def marks(self, payload: Bytes) -> npt.NDArray[np.uint32]:
        starts = self._starts(payload)[0]
        return (starts[:: self.mark_samples] - _LENGTH_NBYTES).astype(np.uint32)

    @override
    def decode_behind(
        self, addresses: npt.NDArray[np.uint64], lengths: Indices, row: Indices, out: Values
    ) -> None:
        if not len(row):
            return
        starts, sizes = np.empty(len(row), np.int64), np.empty(len(row), np.int64)
        refused = _kernels().walk(addresses.view(np.int64), lengths, row, starts, sizes)
        if refused >= 0:
            raise CodecError("expected the bytes that its length says, found fewer", sample=refused)
        self._put_gathered(starts, sizes, out)

    @override
    def decode_at(self, addresses: npt.NDArray[np.uint64], out: Values) -> None:
        raise CodecError("expected samples of one length, found texts or lists")

    @override
    def decode_spans(self, chunks: list[SampleSpans], chunk: Indices, row: Indices, out: Values) -> None:
        if len(row):
            self._put_gathered(*SampleSpans.select(chunks, chunk, row), out)

    def _put_gathered(self, addresses: Indices, lengths: Indices, out: Values) -> None:
        """Decode the samples of `lengths` (m,) bytes at addresses (m,) into `out` (m,)."""
        stops = lengths.cumsum()
        data = np.empty(int(stops[-1]), np.uint8)
        _kernels().gather(addresses, lengths, data)
        self.put(data.tobytes(), stops.tolist(), out)


@dataclass(frozen=True)
class Texts(Ragged):
    """The codec of texts: UTF-8, no text is missing or null. Arrays of them are of Python's `str`."""

    zarr_name = "vlen-utf8"
    data_type = "string"

    def __str__(self) -> str:
        return "text"

    @override
    def bytes_of(self, value: Any) -> bytes:
        if not isinstance(value, str):
            raise CodecError(f"expected a text, found {value!r:.80}")
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise CodecError(f"expected a text of whole characters, found half of one: {error}") from error

    @override
    def put(self, data: bytes, stops: list[int], out: Values) -> None:
        start = 0
        if data.isascii():  # decoded at once
            text = data.decode("ascii")
            for place, stop in enumerate(stops):
                out[place] = text[start:stop]
                start = stop
            return
        for place, stop in enumerate(stops):
            try:
                out[place] = data[start:stop].decode()
            except UnicodeDecodeError as error:
                raise CodecError(f"expected UTF-8, found {error}", sample=place) from error
            start = stop


@dataclass(frozen=True)
class Lists(Ragged):
    """The codec of lists of any length: a sample is an array (m, *shape) of `dtype`.

    Raises CodecError for a dtype that is none of numbers, and for values without a size.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()

    zarr_name = "vlen-bytes"
    data_type = "variable_length_bytes"

    def __post_init__(self) -> None:
        if self.dtype not in _LIST_TYPES.values():
            raise CodecError(f"expected a list of numbers of up to 64 bits, found {self.dtype}")
        sizes_fit = len(self.shape) <= _MOST_AXES and all(size > 0 for size in self.shape)
        if not sizes_fit or self.item_nbytes > _MOST_NBYTES:
            raise CodecError(f"expected the shape of a list's values, found {self.shape}")

    def __str__(self) -> str:
        return f"list of {self.dtype}{list(self.shape) if self.shape else ''}"

    @property
    def item_nbytes(self) -> int:
        """The bytes of one value (*shape)."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    @override
    def attributes(self) -> dict[str, Any]:
        return {"list": {"data_type": self.dtype.name, "shape": list(self.shape)}}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Lists:
        """Return the codec that `attributes` described; raises CodecError and ValueError for others."""
        match attributes:
            case {"list": {"data_type": str(name), "shape": list(shape)}} if all(
                type(size) is int for size in shape
            ):
                if name not in _LIST_TYPES:
                    raise CodecError(f"expected a list of numbers, found {name!r:.80}")
                return cls(_LIST_TYPES[name], tuple(shape))
        raise CodecError(
            f"expected attributes with data type and shape of a list's values, found {attributes!r:.200}"
        )

    @override
    def bytes_of(self, value: Any) -> bytes:
        if (
            not isinstance(value, np.ndarray)
            or value.dtype != self.dtype
            or value.ndim != 1 + len(self.shape)
        ):
            raise CodecError(f"expected a {self}, found {value!r:.80}")
        if value.shape[1:] != self.shape:
            raise CodecError(f"expected values of shape {self.shape}, found {value.shape[1:]}")
        return value.astype(self.dtype.newbyteorder("<"), copy=False).tobytes()

    @override
    def put(self, data: bytes, stops: list[int], out: Values) -> None:
        start, little_endian = 0, self.dtype.newbyteorder("<")
        for place, stop in enumerate(stops):
            count, rest = divmod(stop - start, self.item_nbytes)
            if rest:
                raise CodecError(
                    f"expected whole values of {self.item_nbytes} bytes, found {stop - start} bytes",
                    sample=place,
                )
            # a copy: a sample that is kept must not keep the batch's memory
            values = np.frombuffer(data[start:stop], little_endian).astype(self.dtype)
            out[place] = values.reshape(count, *self.shape)
            start = stop


@functools.cache
def _kernels() -> ModuleType:
    with importing_kernels:
        from tokenstore.codecs import ragged_kernels
    return ragged_kernels
