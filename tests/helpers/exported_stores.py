"""A store with a column of every kind for exports, and files of each layout decoded without tokenstore."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from helpers.ragged import KINDS, ragged_columns
from helpers.stores import Samples, random_codes, write_store

SAMPLES, GRID, SIZE = 23, (2, 3), 391
CLASSES = ("a", "größte Katze", "c|d")
ARRAYS = ("labels", "masks", "score", "soft_labels")
"""The columns that every layout of arrays holds."""
TEXTS = (*ARRAYS, "caption", "source")
ALL = (*TEXTS, "boxes", "tags")
LISTS = ("boxes", "tags")


def exported_store(path: Path, **settings: Any) -> Path:
    """Write a store with two splits, of which the first has a column of every kind."""
    score = np.where(np.arange(SAMPLES) % 5 == 0, np.nan, np.arange(SAMPLES) / 3).astype(np.float32)
    columns: dict[str, Any] = {
        **ragged_columns(SAMPLES),
        "masks": np.arange(SAMPLES * 6, dtype=np.uint8).reshape(SAMPLES, 2, 3),
        "score": score,
    }
    labels = (np.arange(SAMPLES) % 3).astype(np.int32)
    write_store(
        path,
        {
            "train": Samples(random_codes(SAMPLES, GRID, SIZE), labels, columns, kinds=KINDS),
            "val": Samples(random_codes(5, GRID, SIZE, 1), labels[:5]),
        },
        SIZE,
        class_names=CLASSES,
        codebook=np.arange(SIZE * 4, dtype=np.float32).reshape(SIZE, 4),
        chunk_samples=4,
        shard_samples=8,
        **settings,
    )
    return path


Columns = dict[str, Any]
"""The values of a split by column: arrays, or lists of what a sample has."""


def from_npy(folder: Path, split: str) -> Columns:
    columns = {path.stem.removeprefix(f"{split}-"): np.load(path) for path in folder.glob(f"{split}-*.npy")}
    return {"tokens": np.load(folder / f"{split}.npy"), **columns}


def from_npz(folder: Path, split: str) -> Columns:
    with np.load(folder / f"{split}.npz") as arrays:
        found = dict(arrays)
    assert found.pop("class_names").tolist() == list(CLASSES)
    assert found.pop("codebook").shape == (SIZE, 4)
    return found


def from_memmap(folder: Path, split: str) -> Columns:
    arrays = json.loads((folder / "metadata.json").read_text())["arrays"]
    return {
        about["column"]: np.memmap(folder / path, about["dtype"], "r", shape=tuple(about["shape"]))
        for path, about in arrays.items()
        if about["split"] == split
    }


def from_safetensors(folder: Path, split: str) -> Columns:
    return joined([load_file(path) for path in sorted(folder.glob(f"{split}*.safetensors"))])


def from_jsonl(folder: Path, split: str) -> Columns:
    lines = [
        json.loads(line)
        for path in sorted(folder.glob(f"{split}*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    columns: Columns = {name: [line[name] for line in lines] for name in lines[0]}
    columns["labels"] = columns.pop("class_id")
    columns["tokens"] = np.array(columns["tokens"]).reshape(-1, *GRID)
    return {name: with_nan(values) for name, values in columns.items()}


def from_parquet(folder: Path, split: str) -> Columns:
    files = sorted(folder.glob(f"data/{split}-*.parquet"))
    return of_arrow(pa.concat_tables(pq.read_table(file) for file in files))


def from_hf(folder: Path, split: str) -> Columns:
    tables = []
    for about in json.loads((folder / split / "state.json").read_text())["_data_files"]:
        with pa.memory_map(str(folder / split / about["filename"])) as file:
            tables.append(pa.ipc.open_stream(file).read_all())
    return of_arrow(pa.concat_tables(tables))


def from_webdataset(folder: Path, split: str) -> Columns:
    samples: dict[str, Columns] = {}
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, ending = member.name.partition(".")
                file = archive.extractfile(member)
                assert file is not None
                sample, data = samples.setdefault(key, {}), file.read()
                if ending == "cls":
                    sample["labels"] = int(data)
                elif ending == "json":
                    sample |= json.loads(data)
                else:
                    sample[ending.removesuffix(".npy")] = np.load(io.BytesIO(data))
    assert list(samples) == [f"{row:09d}" for row in range(len(samples))]
    for sample in samples.values():
        assert sample.pop("class_name") == CLASSES[sample["labels"]]
    first = next(iter(samples.values()))
    return {name: with_nan([sample[name] for sample in samples.values()]) for name in first}


def from_llamagen(folder: Path, split: str) -> Columns:
    codes = folder / split / "imagenet32_codes"
    count = len(list(codes.iterdir()))
    tokens = [np.load(codes / f"{row}.npy") for row in range(count)]
    labels = [np.load(folder / split / "imagenet32_labels" / f"{row}.npy") for row in range(count)]
    assert all(each.dtype == np.int64 and each.shape == (1, 1, 6) for each in tokens)
    return {"tokens": np.stack(tokens).reshape(-1, *GRID), "labels": np.concatenate(labels)}


def of_arrow(table: pa.Table) -> Columns:
    columns = {name: with_nan(table[name].to_pylist()) for name in table.column_names}
    columns["labels"] = columns.pop("label")
    return columns


def with_nan(values: list[Any]) -> list[Any]:
    return [np.nan if value is None else value for value in values]


def joined(parts: list[dict[str, npt.NDArray[Any]]]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


DECODERS: dict[str, tuple[Callable[[Path, str], Columns], tuple[str, ...]]] = {
    "npy": (from_npy, TEXTS),
    "npz": (from_npz, TEXTS),
    "memmap": (from_memmap, ARRAYS),
    "safetensors": (from_safetensors, ARRAYS),
    "jsonl": (from_jsonl, ALL),
    "parquet": (from_parquet, ALL),
    "hf": (from_hf, ALL),
    "webdataset": (from_webdataset, ALL),
    "llamagen": (from_llamagen, ("labels",)),
}
"""The decoder of each layout, and the columns that the layout holds."""
