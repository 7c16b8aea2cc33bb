"""The layout of a store: its paths, and its arrays with their Zarr metadata (FORMAT.md, section 3)."""

from __future__ import annotations

import hashlib
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import ChunkCodec, Column, ColumnForm, codec_from_zarr, column_form
from tokenstore.errors import CodecError, ManifestError
from tokenstore.format import sharding
from tokenstore.format.fields import checked, identical, integer, list_of
from tokenstore.format.manifest import FileRecord
from tokenstore.format.store_fields import MAX_GRID_AXES
from tokenstore.machine import available_cores

ROOT = "zarr.json"
CODEBOOK = "codebook"
SYNONYMS = "synonyms"
TOKENS = "tokens"
LABELS = "labels"
MASKS = "masks"
VIEW_BOXES = "view_boxes"
SAMPLES_TABLE = "samples.parquet"
SKIPPED_TABLE = "skipped.parquet"


def samples_part(table: str, part: int) -> str:
    """Return the path of a part of a samples table in parts, which is a folder (FORMAT.md, M29)."""
    return f"{table}/{part:06d}.parquet"


MAX_CHUNK_NBYTES = 2**31
"""The most bytes of a chunk's values (FORMAT.md, M12): a reader needs so much memory for a chunk."""

_ATTRIBUTES = "tokenstore"
"""The name of the attributes that this library writes: a Zarr array may have those of others too."""
_CHECKSUM = {"name": "crc32c"}
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}


def fill_value(dtype: np.dtype[Any]) -> int | float | str:
    """Return the value that Zarr readers put where nothing is stored: never a valid code or label."""
    if dtype.hasobject:
        return ""  # texts, and the base64 of no bytes
    if dtype.kind == "u":
        return int(np.iinfo(dtype).max)
    if dtype.kind == "b":
        return False  # Zarr wants a JSON boolean
    return -1 if dtype.kind == "i" else 0


def code_planes(
    codes: npt.NDArray[Any], codebook_sizes: tuple[int, ...]
) -> list[tuple[npt.NDArray[Any], int]]:
    """Return each codebook's part of codes (n, *grid), with the codebook's size."""
    if len(codebook_sizes) == 1:
        return [(codes, codebook_sizes[0])]
    return [(codes[:, plane], size) for plane, size in enumerate(codebook_sizes)]


@dataclass(frozen=True)
class ArrayLayout:
    """A sharded array of aligned samples: shape (N, *sample_shape). The samples of `form` may be objects."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_samples: int
    shard_samples: int
    codec: ChunkCodec
    form: ColumnForm | None = None
    views: int = 1
    """The views on the first axis of a sample; 1 where a sample has no such axis."""

    @property
    def samples(self) -> int:
        """The number of samples N."""
        return self.shape[0]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.shape[1:]

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of one view of a sample; of the sample where it has no views."""
        return self.shape[2:] if self.views > 1 else self.shape[1:]

    @property
    def column(self) -> Column:
        """The array as a column: all that does not depend on how many samples there are."""
        return Column(self.dtype, self.sample_shape, self.form)

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.samples // self.shard_samples)

    @property
    def chunks_per_shard(self) -> int:
        """The number of chunks in a full shard."""
        return self.shard_samples // self.chunk_samples

    @property
    def chunk_nbytes(self) -> int:
        """The bytes of a full chunk's values; about, where samples differ."""
        return self.chunk_samples * self.column.nbytes

    @property
    def filler(self) -> int:
        """The number that fills up a chunk of numbers, for its codec."""
        return 0 if self.dtype.hasobject else int(fill_value(self.dtype))

    @property
    def index_nbytes(self) -> int:
        """The bytes of the index at a shard's end."""
        return sharding.index_nbytes(self.chunks_per_shard)

    def shard_file(self, shard: int) -> str:
        """Return a shard's path, relative to the array's folder."""
        return "/".join(["c", str(shard), *("0" for _ in self.sample_shape)])

    def shard_chunks(self, shard: int) -> int:
        """Return the number of chunks of a shard that hold samples."""
        samples = min(self.shard_samples, self.samples - shard * self.shard_samples)
        return -(-samples // self.chunk_samples)

    def chunk_span(self, chunk: int) -> tuple[int, int]:
        """Return the first sample of a chunk and the one after its last."""
        start = chunk * self.chunk_samples
        return start, min(start + self.chunk_samples, self.samples)

    def check_payload(self, chunk: int, payload: npt.NDArray[np.uint8]) -> None:
        """Raise CodecError if a payload says that it decodes to anything but the values of its chunk.

        So nothing is inflated that is larger than a chunk.
        """
        start, stop = self.chunk_span(chunk)
        self.codec.check_payload(payload, stop - start, self.sample_shape)
        stated = self.codec.stated_samples(payload)
        if stated is not None and stated != self.chunk_samples:
            raise CodecError(f"expected a chunk of {self.chunk_samples} samples, found one of {stated}")
        nbytes = self.codec.decoded_nbytes(payload)
        if nbytes is not None and nbytes != self.chunk_nbytes:
            raise CodecError(f"expected a chunk of {self.chunk_nbytes} bytes, found one of {nbytes}")

    def encode_shard(self, samples: npt.NDArray[Any]) -> bytes:
        """Return the bytes of the shard of `samples` (n, *sample_shape).

        Raises CodecError for values that the codec cannot store.
        """
        fill = self.filler

        def encoded(start: int) -> bytes:
            return self.codec.encode(samples[start : start + self.chunk_samples], self.chunk_samples, fill)

        starts = range(0, len(samples), self.chunk_samples)
        if len(starts) == 1:  # threads would take longer to start
            return sharding.encode_shard([encoded(0)], self.chunks_per_shard)
        with ThreadPoolExecutor(available_cores()) as pool:
            return sharding.encode_shard(pool.map(encoded, starts), self.chunks_per_shard)

    def decode_shard(self, data: bytes, where: str) -> npt.NDArray[Any]:
        """Return the samples (n, *sample_shape) in the bytes of this layout's first shard.

        `where` names the shard in messages. Raises DamageError for a bad index, CodecError for a bad chunk.
        """
        stored = np.frombuffer(data, np.uint8)
        chunks = self.shard_chunks(0)
        index = sharding.decode_index(stored[-self.index_nbytes :], chunks, len(stored), where)
        samples = np.empty((min(self.samples, self.shard_samples), *self.sample_shape), self.dtype)

        def decode(chunk: int) -> None:
            offset, length = index[chunk].tolist()
            payload = sharding.checked_payload(stored[offset : offset + length])
            self.check_payload(chunk, payload)
            self.codec.decode(payload, samples[chunk * self.chunk_samples : (chunk + 1) * self.chunk_samples])

        with ThreadPoolExecutor(available_cores()) as pool:
            list(pool.map(decode, range(chunks)))
        return samples

    def to_zarr(self, name: str) -> dict[str, Any]:
        """Return the array's Zarr v3 metadata document (FORMAT.md, section 3)."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self._data_type_name(),
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.shard_samples, *self.sample_shape]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill_value(self.dtype),
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": [self.chunk_samples, *self.sample_shape],
                        "codecs": [*self.codec.zarr, _CHECKSUM],
                        "index_codecs": [_LITTLE_ENDIAN, _CHECKSUM],
                        "index_location": "end",
                    },
                }
            ],
            "attributes": self._attributes(),
            "dimension_names": self._dimension_names(name),
        }

    @classmethod
    def from_zarr(cls, document: Any, where: str) -> ArrayLayout:
        """Return the layout in a Zarr document; raises ManifestError unless it is as FORMAT.md says."""
        try:
            (sharding_codec,) = document["codecs"]
            configuration = sharding_codec["configuration"]
            shape = _read_shape(document["shape"], "shape")
            grid = document["chunk_grid"]["configuration"]["chunk_shape"]
            form = column_form(document["data_type"], _own_attributes(document))
            of_objects = form is not None and form.data_type is not None
            layout = cls(
                shape=shape,
                dtype=np.dtype(object) if of_objects else _data_type(document["data_type"]),
                chunk_samples=_read_shape(configuration["chunk_shape"], "chunk_shape")[0],
                shard_samples=_read_shape(grid, "chunk_shape")[0],
                codec=form.codec if form and of_objects else codec_from_zarr(configuration["codecs"][:-1]),
                form=form,
            )
            layout = replace(layout, views=layout.codec.views)
            if form is not None:
                form.check(layout.dtype, layout.sample_shape)
            layout._check_sizes()
            expected = layout.to_zarr("")
            for key in expected.keys() - {"attributes", "dimension_names"}:
                # subtle: zeros of floats may have been written as 0 or 0.0
                equal = layout.dtype.kind in "fc" and key == "fill_value" and document[key] == expected[key]
                if not equal and not identical(document[key], expected[key]):
                    raise ValueError(f"expected {key} {expected[key]!r:.400}, found {document[key]!r:.400}")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ManifestError(f"{where}: not the metadata of a store's array: {error}") from error
        return layout

    def _data_type_name(self) -> str:
        own = None if self.form is None else self.form.data_type
        return self.dtype.name if own is None else own

    def _attributes(self) -> dict[str, Any]:
        own = {} if self.form is None else self.form.attributes
        return {_ATTRIBUTES: own} if own else {}

    def _dimension_names(self, name: str) -> list[str]:
        if name == TOKENS:
            axes: tuple[str, ...] = {1: ("position",), 2: ("row", "column")}.get(len(self.view_shape), ())
            if axes:
                return ["sample", *(["view"] if self.views > 1 else []), *axes]
        return ["sample", *(f"{name}_{axis}" for axis in range(len(self.sample_shape)))]

    def _check_sizes(self) -> None:
        """Raise ValueError for sizes that contradict each other, or that no memory holds."""
        if not 0 < self.chunk_samples <= self.shard_samples or self.shard_samples % self.chunk_samples:
            raise ValueError(f"chunks of {self.chunk_samples} in shards of {self.shard_samples}")
        if self.chunk_nbytes > MAX_CHUNK_NBYTES:
            raise ValueError(f"expected chunks of up to {MAX_CHUNK_NBYTES} bytes, found {self.chunk_nbytes}")


_read_axes = list_of(integer())
_DATA_TYPE = re.compile(r"[a-z]+[0-9]*(\[[A-Za-z0-9]+\])?")
_read_data_type = checked(
    "the name of a data type", lambda value: type(value) is str and _DATA_TYPE.fullmatch(value) is not None
)


def _own_attributes(document: Any) -> dict[str, Any]:
    """Return the attributes that this library wrote to an array's metadata, empty if there are none."""
    attributes = document.get("attributes")
    own = attributes.get(_ATTRIBUTES) if isinstance(attributes, dict) else None
    return own if isinstance(own, dict) else {}


def _read_shape(value: object, where: str) -> tuple[int, ...]:
    axes = _read_axes(value, where)
    if not 1 <= len(axes) <= MAX_GRID_AXES + 1:
        raise ValueError(f"{where}: expected 1 to {MAX_GRID_AXES + 1} axes, found {len(axes)}")
    return axes


def _data_type(value: object) -> np.dtype[Any]:
    name = _read_data_type(value, "data_type")
    dtype: np.dtype[Any] = np.dtype(name)
    if dtype.kind not in "biufcmM":
        raise ValueError(f"data_type: expected numbers or times, found {name}")
    return dtype


def table_array_document(values: npt.NDArray[Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the Zarr metadata of a small array in one chunk, such as the codebook (FORMAT.md, M4)."""
    floating = values.dtype.kind == "f"
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(values.shape),
        "data_type": values.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(values.shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN" if floating else fill_value(values.dtype),
        "codecs": [_LITTLE_ENDIAN, _CHECKSUM],
        "attributes": {},
        "dimension_names": list(names[-values.ndim :]),
    }


def encode_table_array(values: npt.NDArray[Any]) -> bytes:
    """Return the bytes of a small array's one chunk: little-endian values and a CRC-32C."""
    data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return data + sharding.crc32c(data).to_bytes(sharding.CHECKSUM_NBYTES, "little")


def decode_table_array(document: Any, data: bytes, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the values of a small array of this dtype: its Zarr metadata, and the bytes of its one chunk.

    Raises ValueError, KeyError and TypeError for a document or bytes that are not as FORMAT.md, M4, says.
    """
    shape = _read_shape(document["shape"], "shape")
    chunk = np.frombuffer(data, np.uint8)
    nbytes = dtype.itemsize * math.prod(shape) + sharding.CHECKSUM_NBYTES
    if len(chunk) != nbytes:
        raise ValueError(f"expected {nbytes} bytes for shape {shape}, found {len(chunk)}")
    stored = sharding.checked_payload(chunk).view(dtype.newbyteorder("<"))
    values = stored.reshape(shape).astype(dtype)
    expected = table_array_document(values, ())
    if not identical({**document, "dimension_names": []}, expected):
        raise ValueError(f"expected {expected}, found {document!r:.400}")
    return values


def group_document() -> dict[str, Any]:
    """Return the Zarr metadata of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": {}}


def file_record(data: bytes) -> FileRecord:
    """Return the size and digest of a file's bytes."""
    return FileRecord(len(data), hashlib.sha256(data).hexdigest())
