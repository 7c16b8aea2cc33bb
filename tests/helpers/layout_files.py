"""Files of published token layouts, written from their descriptions by none of the code that reads them."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_SAFETENSORS = {"u1": "U8", "u2": "U16", "i2": "I16", "i4": "I32", "i8": "I64", "f4": "F32", "f2": "F16"}


def random_codes(*shape: int, size: int = 1000, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return codes of a shape below a size."""
    return np.random.default_rng(seed).integers(0, size, shape)


def safetensors_bytes(
    tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return a safetensors file: the length of the header, the header, the tensors in order."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    body = b""
    for name, array in tensors.items():
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": _SAFETENSORS[array.dtype.str[1:]],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def put_json_lines(
    path: Path, codes: npt.NDArray[Any], labels: npt.NDArray[Any] | None = None, **more: Any
) -> Path:
    """Write a line for each sample, with its codes, its label, and further values."""
    with path.open("w") as file:
        for row, tokens in enumerate(codes.tolist()):
            line = {} if labels is None else {"class_id": int(labels[row])}
            line |= {"tokens": tokens, **{name: values[row] for name, values in more.items()}}
            file.write(json.dumps(line) + "\n")
    return path


def put_zarr_v2(
    path: Path, codes: npt.NDArray[Any], rows: int, attributes: Mapping[str, Any] | None = None
) -> Path:
    """Write an array of format 2, uncompressed, in chunks of so many rows."""
    path.mkdir(parents=True)
    shape = list(codes.shape)
    (path / ".zarray").write_text(
        json.dumps(
            {
                "zarr_format": 2, "shape": shape, "chunks": [rows, *shape[1:]], "dtype": codes.dtype.str,
                "compressor": None, "fill_value": 0, "order": "C", "filters": None,
            }
        )
    )  # fmt: skip
    if attributes is not None:
        (path / ".zattrs").write_text(json.dumps(attributes))
    for number, start in enumerate(range(0, len(codes), rows)):
        chunk = np.zeros((rows, *shape[1:]), codes.dtype)  # the last chunk is padded
        chunk[: len(codes) - start] = codes[start : start + rows]
        (path / ".".join([str(number)] + ["0"] * (codes.ndim - 1))).write_bytes(chunk.tobytes())
    return path


def put_zarr_v3(
    path: Path, codes: npt.NDArray[Any], rows: int, attributes: Mapping[str, Any] | None = None
) -> Path:
    """Write an array of format 3, uncompressed and little-endian, in chunks of so many rows."""
    path.mkdir(parents=True)
    shape = list(codes.shape)
    (path / "zarr.json").write_text(
        json.dumps(
            {
                "zarr_format": 3, "node_type": "array", "shape": shape, "data_type": codes.dtype.name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [rows, *shape[1:]]}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": 0, "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                "attributes": dict(attributes or {}),
            }
        )
    )  # fmt: skip
    for number, start in enumerate(range(0, len(codes), rows)):
        chunk = np.zeros((rows, *shape[1:]), codes.dtype)
        chunk[: len(codes) - start] = codes[start : start + rows]
        file = path.joinpath("c", str(number), *["0"] * (codes.ndim - 1))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(chunk.astype(codes.dtype.newbyteorder("<")).tobytes())
    return path


def put_group(path: Path, format: int = 3) -> Path:
    """Write the metadata of a group."""
    path.mkdir(parents=True, exist_ok=True)
    if format == 2:
        (path / ".zgroup").write_text('{"zarr_format": 2}')
    else:
        (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    return path


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """Return a `.npy` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tar_bytes(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    """Return a tar file; `w:gz` packs it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def commavq_members(videos: Mapping[str, npt.NDArray[Any]], poses: bool = True) -> dict[str, bytes]:
    """Return the members of videos (F, 8, 16): int16 codes, and a pose of six numbers a frame."""
    members: dict[str, bytes] = {}
    for key, codes in videos.items():
        members[f"{key}.json"] = json.dumps({"file_name": f"{key}.hevc"}).encode()
        if poses:
            members[f"{key}.pose.npy"] = npy_bytes(np.arange(len(codes) * 6, dtype=np.float32).reshape(-1, 6))
        members[f"{key}.token.npy"] = npy_bytes(codes.astype(np.int16))
    return members


def put_world_model(path: Path, codes: npt.NDArray[Any], segments: npt.NDArray[Any], **facts: Any) -> Path:
    """Write the three files of 1X's version 1.1: frames (n, s, s) uint32, and the segment of each."""
    path.mkdir(parents=True)
    (path / "metadata.json").write_text(json.dumps({"num_images": len(codes), "s": codes.shape[1]} | facts))
    codes.astype(facts.get("token_dtype", "<u4")).tofile(path / "video.bin")
    segments.astype("<i4").tofile(path / "segment_ids.bin")
    return path


def put_memory_maps(path: Path, splits: Mapping[str, Mapping[str, npt.NDArray[Any]]], **facts: Any) -> Path:
    """Write each column of each split as raw numbers, and the metadata that say their dtypes and shapes."""
    path.mkdir(parents=True)
    about = {}
    for split, columns in splits.items():
        for column, values in columns.items():
            name = f"{split}.bin" if column == "tokens" else f"{split}-{column}.bin"
            values.tofile(path / name)
            shape = list(values.shape)
            about[name] = {"split": split, "column": column, "dtype": values.dtype.str, "shape": shape}
    (path / "metadata.json").write_text(json.dumps({"arrays": about} | facts))
    return path


def put_tree(
    path: Path, codes: npt.NDArray[Any], labels: npt.NDArray[Any] | None, name: str = "imagenet64"
) -> Path:
    """Write a LlamaGen tree of codes (n, V, L): int64 files (1, V, L), and labels (1,)."""
    for ending in ("codes", "labels"):
        (path / f"{name}_{ending}").mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(codes):
        np.save(path / f"{name}_codes/{number}.npy", sample[None].astype(np.int64))
        if labels is not None:
            np.save(path / f"{name}_labels/{number}.npy", labels[number : number + 1].astype(np.int64))
    return path


def put_modality(path: Path, arrays: npt.NDArray[Any], keys: Sequence[str], tars: int = 0) -> Path:
    """Write a modality of 4M: a file a sample, or members of so many tar files of neighbouring samples."""
    path.mkdir(parents=True)
    if not tars:
        for key, array in zip(keys, arrays, strict=True):
            (path / f"{key}.npy").parent.mkdir(exist_ok=True)
            np.save(path / f"{key}.npy", array)
    for number in range(tars):
        rows = range(len(keys) * number // tars, len(keys) * (number + 1) // tars)
        members = {f"{keys[row]}.npy": npy_bytes(arrays[row]) for row in rows}
        (path / f"shard-{number:05}.tar").write_bytes(tar_bytes(members))
    return path


def put_saved(
    path: Path, table: pa.Table, rows: Sequence[int], features: Mapping[str, Any] | None = None
) -> Path:
    """Write a saved data set: a stream of Arrow for each number of rows, and the file that names them."""
    path.mkdir(parents=True)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    names, start = [], 0
    for number, count in enumerate(rows):
        names.append(f"data-{number:05}-of-{len(rows):05}.arrow")
        with (path / names[-1]).open("wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table.slice(start, count), max_chunksize=3)
        start += count
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (path / "dataset_info.json").write_text("{}")
    return path


def put_mds(path: Path, columns: Mapping[str, tuple[str, Sequence[bytes]]], rows: Sequence[int]) -> Path:
    """Write MDS shards of so many samples: for each column its encoding, and the bytes of its values.

    Columns whose encoding says the size of a value have none before their values.
    """
    path.mkdir(parents=True)
    shards, start = [], 0
    sizes = [_mds_size(encoding) for encoding, _ in columns.values()]
    for number, count in enumerate(rows):
        samples = []
        for row in range(start, start + count):
            values = [data[row] for _, data in columns.values()]
            varying = [len(value) for value, size in zip(values, sizes, strict=True) if size is None]
            samples.append(struct.pack(f"<{len(varying)}I", *varying) + b"".join(values))
        config, head = b'{"format": "mds"}', 4 * (count + 2)
        offsets = np.cumsum([head + len(config), *map(len, samples)])
        data = struct.pack(f"<{count + 2}I", count, *offsets.tolist()) + config + b"".join(samples)
        name = f"shard.{number:05}.mds"
        (path / name).write_bytes(data)
        shards.append(
            {
                "column_names": list(columns), "column_sizes": sizes, "hashes": [], "samples": count,
                "column_encodings": [encoding for encoding, _ in columns.values()], "format": "mds",
                "raw_data": {"basename": name, "bytes": len(data), "hashes": {}},
                "compression": None, "zip_data": None, "version": 2,
            }
        )  # fmt: skip
        start += count
    (path / "index.json").write_text(json.dumps({"version": 2, "shards": shards}, sort_keys=True))
    return path


def _mds_size(encoding: str) -> int | None:
    kind, _, rest = encoding.partition(":")
    if kind == "ndarray" and rest.count(":"):
        dtype, shape = rest.split(":")
        return int(np.dtype(dtype).itemsize * np.prod([int(size) for size in shape.split(",")]))
    return (
        8
        if kind == "int"
        else None
        if kind in ("str", "ndarray", "pkl", "bytes")
        else np.dtype(kind).itemsize
    )
