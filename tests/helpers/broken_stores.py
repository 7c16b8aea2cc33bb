"""Stores that break FORMAT.md under right checksums: CRCs, file digests and manifest digests are renewed."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from numcodecs.zstd import Zstd

from helpers.conformance import read_json, shard_of, write_full
from helpers.context_models import worked_model
from helpers.ragged import write_ragged
from helpers.stores import edit_root, few_are_many, random_codes, replace_files, write_store
from tokenstore.format import encode_table_array, table_array_document
from tokenstore.format.manifest import TokenizerIdentity

Break = Callable[[Path], object]
"""A function that breaks the store in a folder."""

TOKENS, LABELS, SAMPLES = "train/tokens/zarr.json", "train/labels/zarr.json", "train/samples.parquet"


def write_all(folder: Path) -> None:
    """Write the stores that are broken: of each codec, and one of two pruned codebooks."""
    write_full(folder / "bitpack")
    write_full(folder / "zstd", codec="zstd")
    write_ragged(folder / "columns")
    with few_are_many():
        write_full(folder / "large")
    write_store(
        folder / "pruned",
        {"train": (random_codes(4, (2, 3), (5, 3)),)},
        (5, 3),
        tokenizer=TokenizerIdentity("test", "ab" * 32, kept_codes=((0, 1, 2, 3, 4), (1, 5, 8))),
        codebook=np.stack([np.ones((5, 1)), np.array([[1], [1], [1], [0], [0]])]).astype(np.float32),
    )
    codes = np.zeros((21, 1, 2), np.uint8)
    codes[3], codes[20] = (1, 2), (2, 1)
    write_store(
        folder / "context", {"train": (codes,)}, 3, codec="context", model=worked_model(), chunk_samples=20
    )


def manifest(**fields: Any) -> Break:
    """Return a break that sets fields of the manifest; their names may have dots."""

    def enter(root: dict[str, Any]) -> None:
        for name, value in fields.items():
            *path, last = name.split("__")
            values = root["attributes"]["tokenstore"]
            for each in path:
                values = values[each]
            values[last] = value

    return lambda store: edit_root(store, enter)


def root(edit: Callable[[dict[str, Any]], object]) -> Break:
    """Return a break that changes the parsed root `zarr.json` in place."""
    return lambda store: edit_root(store, edit)


def document(path: str, edit: Callable[[Any], object]) -> Break:
    """Return a break that changes an array's or a group's parsed `zarr.json` in place."""

    def change(store: Path) -> None:
        values = read_json(store / path)
        edit(values)
        replace_files(store, {path: json.dumps(values).encode()})

    return change


def sharding(path: str, edit: Callable[[Any], object]) -> Break:
    """Return a break that changes the configuration of an array's sharding codec in place."""
    return document(path, lambda values: edit(values["codecs"][0]["configuration"]))


def file(path: str, data: bytes) -> Break:
    """Return a break that puts other bytes in a file's place."""
    return lambda store: replace_files(store, {path: data})


def forgotten(*paths: str, keep: bool = False) -> Break:
    """Return a break that takes files out of the manifest, the metadata and, unless `keep`, the folder."""

    def forget(store: Path) -> None:
        def leave_out(values: dict[str, Any]) -> None:
            listed = values["attributes"]["tokenstore"]["files"]
            for path in [each for each in listed if each.startswith(paths)]:
                del listed[path]
                if not keep:
                    (store / path).unlink()
                node = path.removesuffix("/zarr.json")
                values.get("consolidated_metadata", {"metadata": {}})["metadata"].pop(node, None)

        edit_root(store, leave_out)

    return forget


def unlisted(path: str, data: bytes = b"{}") -> Break:
    """Return a break that adds a file which the manifest does not list."""

    def add(store: Path) -> None:
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        (store / path).write_bytes(data)

    return add


def table(path: str, edit: Callable[[pa.Table], pa.Table]) -> Break:
    """Return a break that writes a changed table of samples, or of those left out."""

    def change(store: Path) -> None:
        buffer = io.BytesIO()
        pq.write_table(edit(pq.read_table(io.BytesIO((store / path).read_bytes()))), buffer)
        replace_files(store, {path: buffer.getvalue()})

    return change


def small_array(name: str, values: npt.NDArray[Any], chunk: bytes | None = None, **fields: Any) -> Break:
    """Return a break that writes another codebook or other synonyms, or another chunk or metadata of them."""

    def change(store: Path) -> None:
        axes = tuple("abc"[: values.ndim])
        path = "/".join([name, "c", *("0" for _ in values.shape)])
        forgotten(f"{name}/c/")(store)
        shutil.rmtree(store / name / "c")
        (store / path).parent.mkdir(parents=True)
        metadata = json.dumps({**table_array_document(values, axes), **fields}).encode()
        data = encode_table_array(values) if chunk is None else chunk
        replace_files(store, {f"{name}/zarr.json": metadata, path: data})

    return change


def shard(path: str, edit: Callable[[list[bytes]], list[bytes]], chunks_per_shard: int) -> Break:
    """Return a break that changes the payloads of a shard's chunks; CRCs and index are made anew."""

    def change(store: Path) -> None:
        payloads = edit(payloads_of((store / path).read_bytes(), chunks_per_shard))
        replace_files(store, {path: shard_of(*payloads, chunks_per_shard=chunks_per_shard)})

    return change


def payloads_of(data: bytes, chunks_per_shard: int) -> list[bytes]:
    """Return the payloads of a shard's chunks."""
    index = np.frombuffer(data[-4 - 16 * chunks_per_shard : -4], "<u8").reshape(-1, 2).tolist()
    return [data[offset : offset + length - 4] for offset, length in index if offset != 2**64 - 1]


def zstd(values: npt.NDArray[Any]) -> bytes:
    """Return a frame of values."""
    return bytes(Zstd(1).encode(np.ascontiguousarray(values)))


def record_of(data: bytes) -> list[Any]:
    """Return a file's entry in the manifest."""
    return [len(data), hashlib.sha256(data).hexdigest()]


def zstd_frame(nbytes: int, stated: int | None = -1) -> bytes:
    """Return a frame of zeros, a block of four bytes for each 128 kB.

    Its head has another size than `nbytes` if `stated` says so, and none if `stated` is None.
    """
    size = nbytes if stated == -1 else stated
    head = b"\x00\x50" if size is None else b"\xe0" + size.to_bytes(8, "little")
    sizes = [2**17] * (nbytes // 2**17) + [nbytes % 2**17]
    blocks = b"".join(
        ((size << 3) + 2 + (at == len(sizes) - 1)).to_bytes(3, "little") + b"\0"
        for at, size in enumerate(sizes)
    )
    return b"\x28\xb5\x2f\xfd" + head + blocks
