"""A store's paths and arrays: what is where, and its metadata on the way in and out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.cache import Cache
from tokenstore.codecs import chunks, sharding
from tokenstore.codecs.bitpack import code_dtype
from tokenstore.codecs.chunks import Bitpack, ChunkCodec
from tokenstore.codecs.context.codec import Context
from tokenstore.codecs.machine import available_cores
from tokenstore.errors import DamageError, IncompleteStoreError, ManifestError, NotAStoreError
from tokenstore.manifest import FileRecord, Manifest, decode_root, encode_json
from tokenstore.storage import STAGING, Storage, working_storage

ROOT = "zarr.json"
CODEBOOK = "codebook"
SYNONYMS = "synonyms"
TOKENS = "tokens"
LABELS = "labels"
MASKS = "masks"
SAMPLES_TABLE = "samples.parquet"
SKIPPED_TABLE = "skipped.parquet"

_CHECKSUM = {"name": "crc32c"}
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}


def fill_value(dtype: np.dtype[Any]) -> int | float:
    """What Zarr readers put where nothing is stored: never a valid code or label."""
    if dtype.kind == "u":
        return int(np.iinfo(dtype).max)
    if dtype.kind == "b":
        return False  # Zarr wants a JSON boolean
    return -1 if dtype.kind == "i" else 0


def code_planes(
    codes: npt.NDArray[Any], codebook_sizes: tuple[int, ...]
) -> list[tuple[npt.NDArray[Any], int]]:
    """Each codebook's codes out of (n, *grid), and its size."""
    if len(codebook_sizes) == 1:
        return [(codes, codebook_sizes[0])]
    return [(codes[:, plane], size) for plane, size in enumerate(codebook_sizes)]


@dataclass(frozen=True)
class ArrayLayout:
    """A sharded array of aligned samples: shape (N, *sample_shape)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_samples: int
    shard_samples: int
    codec: ChunkCodec

    @property
    def samples(self) -> int:
        return self.shape[0]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def shards(self) -> int:
        return -(-self.samples // self.shard_samples)

    @property
    def chunks_per_shard(self) -> int:
        return self.shard_samples // self.chunk_samples

    @property
    def index_nbytes(self) -> int:
        return sharding.index_nbytes(self.chunks_per_shard)

    def shard_file(self, shard: int) -> str:
        """The shard's file, relative to the array's folder."""
        return "/".join(["c", str(shard), *("0" for _ in self.sample_shape)])

    def shard_chunks(self, shard: int) -> int:
        """Chunks of the shard that hold samples."""
        samples = min(self.shard_samples, self.samples - shard * self.shard_samples)
        return -(-samples // self.chunk_samples)

    def chunk_span(self, chunk: int) -> tuple[int, int]:
        """First sample of a chunk and the one after its last."""
        start = chunk * self.chunk_samples
        return start, min(start + self.chunk_samples, self.samples)

    def encode_shard(self, rows: npt.NDArray[Any]) -> bytes:
        """The bytes of the shard that holds `rows`."""
        fill = int(fill_value(self.dtype))

        def encoded(start: int) -> bytes:
            return self.codec.encode(rows[start : start + self.chunk_samples], self.chunk_samples, fill)

        with ThreadPoolExecutor(available_cores()) as pool:
            payloads = pool.map(encoded, range(0, len(rows), self.chunk_samples))
            return sharding.encode_shard(payloads, self.chunks_per_shard)

    def decode_shard(self, data: bytes, where: str) -> npt.NDArray[Any]:
        """The rows of a shard, as a reader finds them; raises DamageError or CodecError."""
        stored = np.frombuffer(data, np.uint8)
        chunks_there = self.shard_chunks(0)
        index = sharding.decode_index(stored[-self.index_nbytes :], chunks_there, len(stored), where)
        rows = np.empty((min(self.samples, self.shard_samples), *self.sample_shape), self.dtype)

        def decode(chunk: int) -> None:
            offset, length = index[chunk].tolist()
            payload = sharding.checked_payload(stored[offset : offset + length])
            self.codec.decode(payload, rows[chunk * self.chunk_samples : (chunk + 1) * self.chunk_samples])

        with ThreadPoolExecutor(available_cores()) as pool:
            list(pool.map(decode, range(chunks_there)))
        return rows

    def to_zarr(self, name: str) -> dict[str, Any]:
        """The array's Zarr v3 metadata document (FORMAT.md, section 3)."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype.name,
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
            "attributes": {},
            "dimension_names": _dimension_names(name, self.sample_shape),
        }

    @classmethod
    def from_zarr(cls, document: Any, where: str) -> ArrayLayout:
        """Parse the metadata of a sharded array; raises ManifestError where it is not as FORMAT.md says."""
        try:
            (sharding_codec,) = document["codecs"]
            configuration = sharding_codec["configuration"]
            shape = tuple(document["shape"])
            layout = cls(
                shape=shape,
                dtype=np.dtype(document["data_type"]),
                chunk_samples=configuration["chunk_shape"][0],
                shard_samples=document["chunk_grid"]["configuration"]["chunk_shape"][0],
                codec=chunks.from_zarr(configuration["codecs"][:-1]),
            )
            expected = layout.to_zarr("")
            for key in set(expected) - {"attributes", "dimension_names"}:
                if document[key] != expected[key]:
                    raise ValueError(f"expected {key} {expected[key]!r}, found {document[key]!r}")
            if not shape:
                raise ValueError("an array without an axis of samples")
            if (
                not 0 < layout.chunk_samples <= layout.shard_samples
                or layout.shard_samples % layout.chunk_samples
            ):
                raise ValueError(f"chunks of {layout.chunk_samples} in shards of {layout.shard_samples}")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ManifestError(f"{where}: not the metadata of a store's array: {error}") from error
        return layout


def _dimension_names(name: str, sample_shape: tuple[int, ...]) -> list[str]:
    if name == TOKENS:
        axes: tuple[str, ...] = {1: ("position",), 2: ("row", "column")}.get(len(sample_shape), ())
        if axes:
            return ["sample", *axes]
    return ["sample", *(f"{name}_{axis}" for axis in range(len(sample_shape)))]


def table_array_document(values: npt.NDArray[Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Zarr metadata of a small array held in one checked chunk, such as the codebook."""
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
    data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return data + sharding.crc32c(data).to_bytes(sharding.CHECKSUM_NBYTES, "little")


def group_document() -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": {}}


def file_record(data: bytes) -> FileRecord:
    return FileRecord(len(data), hashlib.sha256(data).hexdigest())


class Store:
    """A complete store's files and metadata; a reader turns them into codes.

    Raises NotAStoreError where there is none, IncompleteStoreError where a conversion has not finished,
    VersionError where it is newer than this version, DamageError where its metadata has changed.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | Storage,
        storage_options: Mapping[str, Any] | None = None,
        *,
        cache: Cache | None = None,
    ) -> None:
        self.storage = url if isinstance(url, Storage) else Storage(url, storage_options)
        self.cache = cache
        """Where fetched parts of the store are kept on this machine's disk."""
        try:
            root = self.storage.read(ROOT)
        except (FileNotFoundError, NotADirectoryError, KeyError) as error:
            raise _why_no_root(self.storage) from error
        self.manifest: Manifest = decode_root(root, f"{self.storage}/{ROOT}")
        self.root_nbytes = len(root)
        self.root_digest = hashlib.sha256(root).hexdigest()
        self.nbytes = len(root) + sum(record.size for record in self.manifest.files.values())
        """Bytes of all files of the store."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.manifest.splits)

    def split_arrays(self, split: str) -> tuple[str, ...]:
        """Names of a split's aligned arrays, `tokens` first."""
        prefix, suffix = f"{split}/", f"/{ROOT}"
        names = [
            path[len(prefix) : -len(suffix)]
            for path in self.manifest.files
            if path.startswith(prefix) and path.endswith(suffix)
        ]
        names = [name for name in names if name and "/" not in name]
        return tuple(sorted(names, key=lambda name: (name != TOKENS, name != LABELS, name)))

    def layout(self, array: str) -> ArrayLayout:
        """The layout of an aligned array, such as `train/tokens`."""
        path = f"{array}/{ROOT}"
        layout = ArrayLayout.from_zarr(self._read_json(path), f"{self.storage}/{array}")
        split, name = array.split("/")
        samples = self.manifest.splits[split].samples
        if layout.samples != samples:
            raise ManifestError(
                f"{self.storage}/{array}: expected the manifest's {samples} samples, found {layout.samples}"
            )
        if name == TOKENS and layout.sample_shape != self.manifest.grid:
            raise ManifestError(
                f"{self.storage}/{array}: expected the manifest's grid {self.manifest.grid}, "
                f"found {layout.sample_shape}"
            )
        size = self.manifest.codebook_size
        packed_for = layout.codec.codebook_size if isinstance(layout.codec, Bitpack | Context) else size
        if name == TOKENS and (layout.dtype != code_dtype(size) or packed_for != size):
            raise ManifestError(
                f"{self.storage}/{array}: expected {code_dtype(size)} for the manifest's {size} codes, "
                f"found {layout.dtype} for {packed_for}"
            )
        return layout

    @cached_property
    def codebook(self) -> npt.NDArray[np.float32] | None:
        """The tokenizer's vectors (K, D) or (n, K, D), where the store holds them."""
        return self._table_array(CODEBOOK, np.dtype(np.float32))

    @cached_property
    def synonyms(self) -> npt.NDArray[np.int32] | None:
        """Each code's nearest codes, best first (K, M), filled up with -1, where the store holds them."""
        return self._table_array(SYNONYMS, np.dtype(np.int32))

    def record(self, path: str) -> FileRecord:
        """The size and digest that the manifest has for a file."""
        try:
            return self.manifest.files[path]
        except KeyError:
            raise DamageError(f"{self.storage}: the manifest lists no file {path}") from None

    def read_checked(self, path: str) -> bytes:
        """A whole file, its digest checked; raises DamageError."""
        expected = self.record(path)
        try:
            data = self.storage.read(path)
        except FileNotFoundError as error:
            raise DamageError(
                f"{self.storage}/{path}: the file is missing. Restore it from a copy"
            ) from error
        found = file_record(data)
        if found != expected:
            raise DamageError(
                f"{self.storage}/{path}: expected {expected.size} bytes with SHA-256 {expected.sha256}, "
                f"found {found.size} bytes with {found.sha256}. Restore the file from a copy"
            )
        return data

    def _read_json(self, path: str) -> Any:
        try:
            return json.loads(self.read_checked(path))
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{self.storage}/{path}: expected JSON: {error}") from error

    def _table_array(self, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
        if f"{name}/{ROOT}" not in self.manifest.files:
            return None
        document = self._read_json(f"{name}/{ROOT}")
        try:
            shape = tuple(document["shape"])
            data = self.read_checked(f"{name}/{'/'.join(['c', *('0' for _ in shape)])}")
            stored = np.frombuffer(data[: -sharding.CHECKSUM_NBYTES], dtype.newbyteorder("<"))
            values = stored.reshape(shape).astype(dtype)
            expected = table_array_document(values, ())
            if {**document, "dimension_names": []} != expected:
                raise ValueError(f"expected {expected}")
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"{self.storage}/{name}: not the metadata of a {name}: {error}") from error
        return values


def _why_no_root(storage: Storage) -> NotAStoreError | IncompleteStoreError:
    if working_storage(storage).exists(STAGING):
        return IncompleteStoreError(
            f"{storage}: this store is not complete: what writes it was interrupted or is still running. "
            "Run the same `tokenstore convert`, `recode` or `copy` again with --resume"
        )
    if storage.exists():
        return NotAStoreError(f"{storage}: expected a token store, found no {ROOT} in it")
    return NotAStoreError(f"{storage}: no such file or folder; expected a token store")


__all__ = ["ArrayLayout", "Store", "code_dtype", "encode_json"]
