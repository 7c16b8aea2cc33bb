"""Stores written by a released version and kept for ever: read, verified, and written again the same.

`golden/v1` holds `bitpack.zarr` and `zstd.zarr`, as the first version of the format was written, and beside
each a JSON file with all that it must give. Its files never change. A new version of the format gets a folder
of its own, written once by

    PYTHONPATH=tests python tests/format/test_golden.py golden/v2

Today's writer must give the same bytes from the same input, with four exceptions. The parquet tables hold
the name of the pyarrow version that wrote them: they are compared by their schema and rows. Zstandard may
compress differently in another version of its library: where numcodecs is not the version that
`versions.json` names, zstd chunks are compared by their values; a context model by its arrays. And the
root `zarr.json` holds the digests of those files and the name of the tokenstore version: all else in it is
compared.
"""

from __future__ import annotations

import base64
import json
import math
import sys
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import zarr
from helpers.paths import GOLDEN
from helpers.ragged import objects, same
from helpers.stores import Samples, store_files, write_store

import tokenstore
from tokenstore import TokenDataset
from tokenstore.audit.verify import verify
from tokenstore.codecs import TEXT, Column, GivenViews, Views, list_column
from tokenstore.codecs.context import ContextModel
from tokenstore.codecs.context.model import Plane
from tokenstore.codecs.context.tree import CodeTree
from tokenstore.codecs.soft_labels import SoftLabels
from tokenstore.format.history import Operation
from tokenstore.format.manifest import Preprocessing, TokenizerIdentity
from tokenstore.format.tables import Skip

V1 = GOLDEN / "v1"
TABLES = ("codebook", "synonyms")


class Golden(NamedTuple):
    """The input of a golden store."""

    splits: dict[str, Samples]
    codebook_sizes: tuple[int, ...]
    spec: dict[str, Any]


def spread(shape: tuple[int, ...], below: int) -> npt.NDArray[np.int64]:
    """Return numbers from 0 to below - 1 that never change, with the largest among the first."""
    return (below - 1 - np.arange(math.prod(shape)) * 7919 % below).reshape(shape)


def bitpack_golden() -> Golden:
    """Write 391 codes on a grid of 3 by 4 in shards, labels, masks, class names, a sample left out."""
    codes = spread((9, 3, 4), 391).astype(np.uint16)
    return Golden(
        {
            "train": Samples(
                codes[:7],
                np.array([0, 2, 1, 1, 0, 2, 2], np.int32),
                {"masks": spread((7, 2, 3), 256).astype(np.float32) / 256},
                [Skip(3, "train/3.png", "cannot identify image file")],
            ),
            "val": Samples(codes[7:], np.array([1, 0], np.int32), {"masks": np.ones((2, 2, 3), np.float32)}),
        },
        (391,),
        {
            "codec": "bitpack",
            "chunk_samples": 2,
            "shard_samples": 4,
            "class_names": ("ant", "bee", "Käfer"),
            "preprocessing": Preprocessing(24, 32, "squash"),
            "source_kind": "folder",
            "codebook": spread((391, 2), 1009).astype(np.float32) / 64 - 7,
            "synonyms": (spread((391, 2), 392) - 1).astype(np.int32),
        },
    )


def zstd_golden() -> Golden:
    """Return clips of 2 by 3 by 4 codes in two codebooks of different sizes, without labels."""
    planes = [spread((5, 2, 3, 4), size) for size in (300, 7)]
    codes = np.stack(planes, axis=1).astype(np.uint16)
    return Golden(
        {"train": Samples(codes), "test": Samples(codes[:0])},
        (300, 7),
        {
            "codec": "zstd",
            "chunk_samples": 2,
            "shard_samples": 4,
            "codebook": spread((2, 300, 1), 1009).astype(np.float32) / 64 - 7,
        },
    )


def context_golden() -> Golden:
    """Return two codebooks on a grid of 4 by 5, coded by a model of neighbours; one chunk is packed."""
    planes = [np.broadcast_to(spread((9, 1, 1), size), (9, 4, 5)) for size in (40, 7)]
    codes = np.stack(planes, axis=1).astype(np.uint8)
    codes[8] = np.stack([spread((4, 5), 40), spread((4, 5), 7)])
    return Golden(
        {"train": Samples(codes, np.arange(9, dtype=np.int32) % 3)},
        (40, 7),
        {"codec": "context", "model": golden_model(), "chunk_samples": 4, "shard_samples": 8},
    )


def digits_golden() -> Golden:
    codes = np.repeat(np.array([[69_909], [69_901], [69_911], [69_913], [69_997]], np.uint32), 24, 1)
    model = golden_model(((0, -1), (0, -2), (-1, 0)), 2, (300, 234))
    return Golden({"train": Samples(codes)}, (70_000,), {"codec": "context", "model": model})


def columns_golden() -> Golden:
    """Return texts of several scripts, lists, soft labels and numbers beside the codes."""
    sizes = [0, 2, 1, 0, 3, 1, 2]
    boxes = [spread((size, 4), 64).astype(np.float32) / 64 for size in sizes]
    soft = SoftLabels(9).quantised(np.eye(9)[spread((7,), 9)] * 0.5 + 0.5 / 9, 3)
    columns = {
        "caption": objects(["", "ant", "größte Ameise", "蟻", "a\nb", "x" * 200, "🐜"]),
        "boxes": objects(boxes),
        "soft_labels": soft,
        "weight": (spread((7,), 64) / 64).astype(np.float32),
    }
    kinds = {
        "caption": TEXT,
        "boxes": list_column(np.dtype(np.float32), (4,)),
        "soft_labels": Column(soft.dtype, soft.shape[1:], SoftLabels(9)),
    }
    samples = Samples(spread((7, 2, 3), 300).astype(np.uint16), None, columns, (), kinds)
    return Golden({"train": samples}, (300,), {"chunk_samples": 2, "shard_samples": 4})


def views_golden() -> Golden:
    """Return two views of each sample, crops of its source, whose boxes are a column; packed."""
    boxes = np.stack([spread((5, 2), 7), spread((5, 2), 9), *[spread((5, 2), 5) + 8] * 2], axis=2)
    boxes = np.concatenate([boxes, np.arange(10).reshape(5, 2, 1) % 2], axis=2).astype(np.int32)
    samples = Samples(spread((5, 2, 3, 4), 300).astype(np.uint16), None, {"view_boxes": boxes})
    return Golden({"train": samples}, (300,), {"chunk_samples": 2, "shard_samples": 4, "views": Views(2)})


def given_views_golden() -> Golden:
    """Return a picture, its mirror image and a crop in two codebooks, each coded given those before."""
    views = Views(3, ((0, 0, 64, 80, 0), (0, 0, 64, 80, 1), (16, 16, 48, 64, 0)))
    planes = [np.broadcast_to(spread((9, 1, 1, 1), size), (9, 3, 4, 5)).copy() for size in (40, 7)]
    planes[0][8] = spread((3, 4, 5), 40)
    model = golden_model([[0, -1, 0, 0], [0, 0, 0, -1], [0, -2, 0, 0]], rank=4)
    return Golden(
        {"train": Samples(np.stack(planes, axis=2).astype(np.uint8))},
        (40, 7),
        {
            "codec": "context",
            "model": golden_model(),
            "views": views,
            "given_views": GivenViews(views, ((-1, -1), (-1, 0), (0, 1)), model),
            "chunk_samples": 4,
            "shard_samples": 8,
        },
    )


def history_golden() -> Golden:
    """Return a store that says which operations made it of other stores."""
    history = (
        Operation("select", {"where": "label < 2", "splits": ["train"]}, ("0f" * 32,), "tokenstore 0.1.0"),
        Operation("append", {}, ("1e" * 32, "2d" * 32), "tokenstore 0.1.0"),
    )
    samples = Samples(spread((5, 2, 2), 300).astype(np.uint16), np.array([0, 1, 1, 0, 0], np.int32))
    spec = {"chunk_samples": 2, "shard_samples": 4, "class_names": ("ant", "bee"), "history": history}
    return Golden({"train": samples}, (300,), spec)


def golden_model(
    contexts: Sequence[Sequence[int]] = ((0, 0, -1), (0, -1, 0), (-1, 0, 0)),
    rank: int = 3,
    sizes: tuple[int, int] = (40, 7),
) -> ContextModel:
    """Make tables of small numbers, the same for ever, and weights that make a code follow its like."""
    planes = []
    for number, size in enumerate(sizes):
        children = CodeTree.of(size).children
        looks = [(at + context[0]) for at in (0, 1) for context in contexts[: 2 + at]]
        readers = looks.count(number) + 2  # each context that looks at the codebook, the mean and the trace
        place = np.arange(children) % CodeTree.of(size).fan
        weights = np.where(np.arange(32) == place[:, None], 60, spread((children, 32), 5))
        planes.append(
            Plane(
                size=size,
                order=spread((size,), size).astype(np.uint32),
                contexts=np.array(contexts[: 2 + number], np.int8),
                gains=np.array([4096, 2000], np.uint16),
                components=(spread((2, 1 + size), 61) - 30).astype(np.int8),
                readers=(spread((2, readers, 64), 23) - 11).astype(np.int8),
                bias=(spread((64,), 41) - 20).astype(np.int16),
                weights=weights.astype(np.int8),
                biases=(spread((children,), 301) - 150).astype(np.int16),
                row_shift=14,
                logit_shift=3 + number,
                fade=3,
            )
        )
    return ContextModel(rank, tuple(planes))


GOLDEN: dict[str, Callable[[], Golden]] = {
    "bitpack": bitpack_golden,
    "columns": columns_golden,
    "context": context_golden,
    "digits": digits_golden,
    "given_views": given_views_golden,
    "history": history_golden,
    "views": views_golden,
    "zstd": zstd_golden,
}


def write_golden(folder: Path, name: str) -> Path:
    splits, sizes, spec = GOLDEN[name]()
    path = folder / f"{name}.zarr"
    write_store(path, splits, sizes, tokenizer=TokenizerIdentity(f"golden-{name}", "0f" * 32), **spec)
    return path


def expected_of(golden: Golden) -> dict[str, Any]:
    """Return all values of a golden store as JSON values, by the path of their array."""
    arrays: dict[str, npt.NDArray[Any]] = {name: golden.spec[name] for name in TABLES if name in golden.spec}
    for split, samples in golden.splits.items():
        arrays[f"{split}/tokens"] = samples.codes
        arrays |= {f"{split}/{name}": values for name, values in samples.columns.items()}
        if samples.labels is not None:
            arrays[f"{split}/labels"] = samples.labels
    return {
        path: {"dtype": str(values.dtype), "shape": values.shape, "values": _listed(values.ravel())}
        for path, values in arrays.items()
    }


def _listed(values: npt.NDArray[Any]) -> list[Any]:
    return [each.tolist() if isinstance(each, np.ndarray) else each for each in values.tolist()]


def write_all(folder: Path) -> None:
    """Write a folder of golden stores where there is none yet."""
    folder.mkdir(parents=True)
    for name, golden in GOLDEN.items():
        write_golden(folder, name)
        (folder / f"{name}.json").write_text(json.dumps(expected_of(golden())) + "\n")
    (folder / "versions.json").write_text(json.dumps({"numcodecs": version("numcodecs")}) + "\n")


@pytest.fixture(params=sorted(GOLDEN))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def expected(name: str) -> dict[str, npt.NDArray[Any]]:
    """Read the values of the golden store from the file beside it."""
    described = json.loads((V1 / f"{name}.json").read_text())
    return {path: _array(**array, like=path) for path, array in described.items()}


def _array(dtype: str, shape: list[int], values: list[Any], like: str) -> npt.NDArray[Any]:
    if dtype != "object":
        return np.array(values, dtype).reshape(shape)
    is_list = like.endswith("/boxes")
    return objects(np.array(value, np.float32).reshape(-1, 4) if is_list else value for value in values)


def test_the_golden_stores_are_there() -> None:
    assert sorted(path.name for path in V1.iterdir()) == sorted(
        ["versions.json", *(f"{name}.{suffix}" for name in GOLDEN for suffix in ("json", "zarr"))]
    )


def test_a_golden_store_verifies(name: str) -> None:
    found = verify(V1 / f"{name}.zarr")
    assert (found.problems, found.notes) == ([], [])
    assert found.files == len(store_files(V1 / f"{name}.zarr"))


def test_a_golden_store_gives_its_values(name: str, expected: dict[str, npt.NDArray[Any]]) -> None:
    store = tokenstore.open(V1 / f"{name}.zarr")
    found: dict[str, npt.NDArray[Any] | None] = {"codebook": store.codebook, "synonyms": store.synonyms}
    for split in store.splits:
        reader = store[split]
        found |= {f"{split}/{column}": reader.read(column, range(len(reader))) for column in reader.columns}
    found = {path: values for path, values in found.items() if values is not None}
    assert set(found) == set(expected)
    for path, values in expected.items():
        if values.dtype.hasobject:
            assert same(found[path], values), path
        else:
            np.testing.assert_array_equal(found[path], values, path, strict=True)


@pytest.mark.filterwarnings("ignore:The data type")  # those of texts and lists, which Zarr says may change
def test_a_golden_store_gives_its_values_to_zarr(name: str, expected: dict[str, npt.NDArray[Any]]) -> None:
    root = zarr.open(V1 / f"{name}.zarr", mode="r")
    for path, values in expected.items():
        if path.endswith("/boxes"):
            assert root[path][:].tolist() == [value.astype("<f4").tobytes() for value in values]
        elif values.dtype.hasobject:
            assert root[path][:].tolist() == values.tolist()
        else:
            np.testing.assert_array_equal(root[path][:], values, path, strict=True)


def test_a_golden_store_gives_its_samples_to_torch(name: str, expected: dict[str, npt.NDArray[Any]]) -> None:
    dataset = TokenDataset(V1 / f"{name}.zarr", "train", columns=["tokens"])
    dataset = dataset if dataset.view is None else dataset.with_view("all")
    assert len(dataset) == len(expected["train/tokens"])
    for tokens, codes in zip(dataset, expected["train/tokens"], strict=True):
        np.testing.assert_array_equal(tokens, codes)


def test_a_golden_store_says_what_it_is() -> None:
    manifest = tokenstore.open(V1 / "bitpack.zarr").manifest
    assert manifest.class_names == ("ant", "bee", "Käfer")
    assert str(manifest.tokenizer) == "golden-bitpack (0f0f0f0f0f0f)"
    assert manifest.preprocessing == Preprocessing(24, 32, "squash", "bicubic")
    assert (manifest.splits["train"].samples, manifest.splits["train"].skipped) == (7, 1)
    (skipped,) = pq.read_table(V1 / "bitpack.zarr/train/skipped.parquet").to_pylist()
    assert skipped == {"source_index": 3, "source": "train/3.png", "reason": "cannot identify image file"}
    history = tokenstore.open(V1 / "history.zarr").manifest.history
    assert [(done.operation, len(done.inputs)) for done in history] == [("select", 1), ("append", 2)]
    assert history == history_golden().spec["history"]
    manifest = tokenstore.open(V1 / "zstd.zarr").manifest
    assert (manifest.grid, manifest.codebook_sizes) == ((2, 2, 3, 4), (300, 7))


def is_zstd(store: Path, path: str) -> bool:
    """Return whether a file is a shard whose chunks Zstandard has compressed."""
    array, _, shard = path.partition("/c/")
    return bool(shard) and b'"zstd"' in (store / array / "zarr.json").read_bytes()


def unpacked_model(path: Path) -> Any:
    """Read an array's metadata, with the context model's arrays in place of its compressed bytes."""
    document = json.loads(path.read_bytes())
    codec = document["codecs"][0]["configuration"]["codecs"][0]["configuration"]
    for each in [codec, *([codec["views"]] if "views" in codec else [])]:
        data = base64.b64decode(each["model"])
        start = data.index(b"\x78", 4)  # where a zlib stream begins
        each["model"] = [data[:start].hex(), zlib.decompress(data[start:]).hex()]
    return document


def root_without(store: Path, files: set[str]) -> Any:
    """Return a root document without the digests of some files, and without all that follows from them."""
    root = json.loads((store / "zarr.json").read_bytes())
    manifest = root["attributes"]["tokenstore"]
    del manifest["digest"], manifest["created_by"]
    for path in files:
        manifest["files"][path] = None
    return root


def test_todays_writer_writes_a_golden_store_again(name: str, tmp_path: Path) -> None:
    golden, again = V1 / f"{name}.zarr", write_golden(tmp_path, name)
    assert store_files(again) == store_files(golden)
    same_zstd = json.loads((V1 / "versions.json").read_text())["numcodecs"] == version("numcodecs")
    tables = {path for path in store_files(golden) if path.endswith(".parquet")}
    compressed = set() if same_zstd else {path for path in store_files(golden) if is_zstd(golden, path)}
    modelled = {path for path in store_files(golden) if b"tokenstore.context" in (golden / path).read_bytes()}
    for path in modelled:
        assert unpacked_model(again / path) == unpacked_model(golden / path), path
    compressed |= modelled
    for path in set(store_files(golden)) - tables - compressed - {"zarr.json"}:
        assert (again / path).read_bytes() == (golden / path).read_bytes(), path
    for path in tables:
        table = pq.read_table(golden / path)
        assert pq.read_table(again / path).equals(table, check_metadata=True), path
    for array in {path.partition("/c/")[0] for path in compressed - modelled}:
        values = zarr.open(golden, mode="r")[array][:]
        np.testing.assert_array_equal(zarr.open(again, mode="r")[array][:], values, strict=True)
    assert root_without(again, tables | compressed) == root_without(golden, tables | compressed)


def test_the_input_of_a_golden_store_is_still_what_it_was(name: str) -> None:
    described = json.loads(json.dumps(expected_of(GOLDEN[name]())))
    assert described == json.loads((V1 / f"{name}.json").read_text())


if __name__ == "__main__":
    write_all(GOLDEN.parent / sys.argv[1])
