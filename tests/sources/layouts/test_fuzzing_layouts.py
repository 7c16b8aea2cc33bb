"""Mutated files of every layout are read or refused with a SourceError, at once.

20,000 mutations of each layout: python -m pytest -m slow tests/sources/layouts -k fuzzing
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.code_sources import read_all
from helpers.layout_files import (
    commavq_members,
    npy_bytes,
    put_group,
    put_json_lines,
    put_mds,
    put_memory_maps,
    put_modality,
    put_saved,
    put_tree,
    put_world_model,
    put_zarr_v2,
    put_zarr_v3,
    random_codes,
    safetensors_bytes,
    tar_bytes,
)
from helpers.mutations import mutated, survive

from tokenstore.errors import SourceChangedError, SourceError
from tokenstore.sources import CodeSource, open_source
from tokenstore.sources.base import Source

pytestmark = pytest.mark.filterwarnings("ignore")
SEEDS = [range(60), pytest.param(range(20_000), marks=pytest.mark.slow, id="20,000")]
CODES, LABELS = random_codes(9, 4, 5, size=200), np.arange(9) % 3


def put_safetensors(root: Path) -> Path:
    tensors = {"tokens": CODES.astype("i2"), "labels": LABELS, "score": np.ones((9, 2), np.float32)}
    (root / "x.safetensors").write_bytes(safetensors_bytes(tensors, {"tokenizer": "t"}))
    (root / "x_metadata.json").write_text('{"class_names": ["a", "b", "c"]}')
    return root / "x.safetensors"


def put_zarr(root: Path, format: int) -> Path:
    put_group(root / "x", format)
    put = put_zarr_v2 if format == 2 else put_zarr_v3
    put(root / "x/tokens", CODES.astype("<u2"), 4, {"tokenizer": "t"})
    put(root / "x/labels", LABELS, 5)
    return root / "x"


def put_commavq(root: Path) -> Path:
    seed = int(CODES.sum())
    videos = {key: random_codes(4, 8, 16, seed=seed + len(key)) for key in ("a", "bb")}
    (root / "x.tar.gz").write_bytes(gzip.compress(tar_bytes(commavq_members(videos)), 1, mtime=0))
    return root / "x.tar.gz"


def put_tar(root: Path) -> Path:
    members: dict[str, bytes] = {}
    for row in range(5):
        members |= {f"{row}.tokens.npy": npy_bytes(CODES[row]), f"{row}.cls": b"%d" % row}
        members[f"{row}.json"] = json.dumps({"score": row}).encode()
    (root / "x.tar").write_bytes(tar_bytes(members))
    return root / "x.tar"


def put_parquet(root: Path) -> Path:
    pq.write_table(
        pa.table({"tokens": CODES.tolist(), "label": LABELS}), root / "x.parquet", row_group_size=4
    )
    return root / "x.parquet"


def put_datasets(root: Path) -> Path:
    table = pa.table({"tokens": CODES.tolist(), "label": LABELS, "score": [[1.0]] * 9})
    features = {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    return put_saved(root / "x", table, [5, 4], features)


def put_mds_shards(root: Path) -> Path:
    head = bytes([65, 2 << 2, 4, 5])
    columns = {
        "tokens": ("ndarray", [head + each.tobytes() for each in CODES]),
        "label": ("int", [int(label).to_bytes(8, "little") for label in LABELS]),
        "score": ("str", [b"text"] * 9),
    }
    return put_mds(root / "x", columns, [5, 4])


def put_llamagen(root: Path) -> Path:
    return put_tree(root / "x", CODES[:, :2], LABELS)


def put_four_m(root: Path, tars: int) -> Path:
    keys = [f"{'ab'[row % 2]}/{row}" for row in range(8)]
    keys.sort()
    put_modality(root / "x/tok_rgb", CODES[:8, :2], keys, tars)
    crops = np.ones((8, 2, 5), np.int64)
    put_modality(root / "x/crop_settings", crops, keys, tars)
    return root / "x"


def put_world(root: Path) -> Path:
    return put_world_model(root / "x", CODES[:, :4, :4], LABELS // 2, vocab_size=256)


def put_maps(root: Path) -> Path:
    arrays = {"tokens": CODES, "labels": LABELS, "score": np.ones((9, 2), np.float32)}
    return put_memory_maps(
        root / "x", {"train": arrays}, codebook_sizes=[256], class_names=["a", "b", "c", "d"]
    )


LAYOUTS: dict[str, tuple[Callable[[Path], Path], str, dict[str, Any]]] = {
    "safetensors": (put_safetensors, "safetensors", {"columns": ["score"]}),
    "jsonl": (lambda root: put_json_lines(root / "x.jsonl", CODES, LABELS), "jsonl", {}),
    "zarr-2": (lambda root: put_zarr(root, 2), "zarr", {}),
    "zarr-3": (lambda root: put_zarr(root, 3), "zarr", {}),
    "commavq": (put_commavq, "commavq", {"window": 3, "columns": ["pose"]}),
    "memmap": (put_maps, "memmap", {"columns": ["score"]}),
    "1x": (put_world, "1x", {"window": 2, "columns": ["segment"]}),
    "parquet": (put_parquet, "parquet", {}),
    "tar": (put_tar, "tar", {"columns": ["score"]}),
    "datasets": (put_datasets, "datasets", {"columns": ["score"]}),
    "mds": (put_mds_shards, "mds", {"columns": ["score"]}),
    "llamagen": (put_llamagen, "llamagen", {}),
    "4m": (lambda root: put_four_m(root, 0), "4m", {}),
    "4m-tars": (lambda root: put_four_m(root, 2), "4m", {}),
}
A_FILE_A_SAMPLE = "llamagen", "4m"
"""The layouts in which each sample is a file, as in a folder of images: whatever is there is read."""


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fuzzing_a_layout(tmp_path: Path, layout: str, seeds: range) -> None:
    put, kind, options = LAYOUTS[layout]
    place = put(tmp_path)
    read_all(open_source(place, kind, **options))
    files = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    def mutation(rng: random.Random) -> tuple[Path, bytes]:
        path = rng.choice(list(files))
        if path.suffix == ".gz" and rng.random() < 0.5:
            return path, gzip.compress(mutated(gzip.decompress(files[path]), rng), 1, mtime=0)
        return path, mutated(files[path], rng)

    def read(content: object) -> None:
        assert isinstance(content, tuple)
        path, data = content
        path.write_bytes(data)
        try:
            read_all(open_source(place, kind, **options))
        finally:
            path.write_bytes(files[path])

    refused = survive(mutation, read, SourceError, seeds)
    assert refused > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_source_stays_where_it_was_opened(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open a source by a relative path, and read it after the working folder has changed."""
    put, kind, options = LAYOUTS[layout]
    place = put(tmp_path).relative_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    source = open_source(place, kind, **options)
    monkeypatch.chdir("/")
    read_all(source)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in A_FILE_A_SAMPLE])
def test_replaced_files_are_never_read_as_the_listed_ones(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other files of the same names and sizes take the place of a source that is open."""
    put, kind, options = LAYOUTS[layout]
    places = []
    for name in ("listed", "other"):
        (tmp_path / name).mkdir()
        places.append(put(tmp_path / name))
        monkeypatch.setattr(sys.modules[__name__], "CODES", CODES[:, ::-1] ^ 1)
    source, other = (open_source(place, kind, **options) for place in places)
    expected, replaced = all_codes(open_source(places[0], kind, **options)), all_codes(other)
    assert not np.array_equal(expected, replaced)
    for path in sorted((tmp_path / "other").rglob("*")):
        if path.is_file():
            os.utime(path, (1, 1))  # some kernels give two files that are written at once the same time
            path.replace(tmp_path / "listed" / path.relative_to(tmp_path / "other"))
    for each in (source, pickle.loads(pickle.dumps(source))):
        try:
            assert np.array_equal(all_codes(each), expected)
        except SourceChangedError as error:
            assert "was replaced after it was listed" in str(error)  # noqa: PT017 - either may happen


def all_codes(source: Source) -> npt.NDArray[Any]:
    assert isinstance(source, CodeSource)
    return np.concatenate([split.codes(0, len(split)) for split in source.splits.values()])
