"""FORMAT.md's MUSTs on stores of many shards (M28 and M29), against literal bytes and pyarrow."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from helpers.conformance import FORMAT, FULL_CODES, FULL_LABELS, manifest_of, read_json, write_full
from helpers.stores import edit_root, few_are_many, store_files

import tokenstore
from tokenstore.errors import ManifestError, VersionError
from tokenstore.format import FileRecord, encode_records, shard_manifest


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the store with everything, whose training split counts as one of many shards."""
    with few_are_many():
        return write_full(tmp_path_factory.mktemp("large") / "store")


def test_m28_shards_are_listed_in_a_file_of_rows_and_not_in_the_root(large: Path) -> None:
    manifest = manifest_of(large)
    assert manifest["features"] == ["bitpack", "manifests", "tables"]
    of_lists = [path for path in manifest["files"] if path.endswith("/shards.bin")]
    assert of_lists == [f"train/{array}/shards.bin" for array in ("labels", "masks", "tokens")]
    listed = dict(manifest["files"])
    for path in of_lists:
        folder = path.removesuffix("/shards.bin")
        rest = "".join("/0" for _ in read_json(large / folder / "zarr.json")["shape"][1:])
        rows = [struct.unpack("<Q32s", row) for row in _rows((large / path).read_bytes())]
        for shard, (size, digest) in enumerate(rows):
            listed[f"{folder}/c/{shard}{rest}"] = [size, digest.hex()]
    found = {}
    for path in store_files(large):
        data = (large / path).read_bytes()
        found[path] = [len(data), hashlib.sha256(data).hexdigest()]
    del found["zarr.json"]
    assert listed == found
    assert "val/tokens/c/0/0/0" in manifest["files"]


def _rows(data: bytes) -> list[bytes]:
    return [data[start : start + 40] for start in range(0, len(data), 40)]


def test_m28_the_worked_example_s_bytes_are_those_of_the_format() -> None:
    text = FORMAT.read_text()
    shown = re.search(r"`shards.bin` is\n\n```\n(.*?)```", text, re.DOTALL)
    assert shown
    expected = bytes.fromhex(re.sub(r"\s", "", shown[1]))
    shards = [b"abc", b""]
    records = [FileRecord(len(data), hashlib.sha256(data).hexdigest()) for data in shards]
    assert encode_records(records) == expected
    assert list(shard_manifest.decode_records(expected)) == records
    assert shard_manifest.shard_sizes(expected).tolist() == [3, 0]


def test_m28_without_the_feature_the_file_means_nothing(tmp_path: Path) -> None:
    with few_are_many():
        store = write_full(tmp_path / "store")
    edit_root(store, lambda root: root["attributes"]["tokenstore"]["features"].remove("manifests"))
    with pytest.raises(tokenstore.errors.DamageError, match="lists no file train/tokens/c/0/0/0"):
        tokenstore.open(store)["train"]


def test_m29_a_table_in_parts_is_a_folder_of_tables_of_the_same_rows(large: Path, tmp_path: Path) -> None:
    splits = manifest_of(large)["splits"]
    assert splits["train"]["part_rows"] == 16
    assert "part_rows" not in splits["val"]
    parts = sorted((large / "train/samples.parquet").iterdir())
    assert [part.name for part in parts] == ["000000.parquet", "000001.parquet"]
    assert [pq.read_table(part).num_rows for part in parts] == [16, 5]
    whole = pq.read_table(write_full(tmp_path / "small") / "train/samples.parquet")
    assert pq.read_table(large / "train/samples.parquet").equals(whole)
    assert tokenstore.open(large)["train"].samples_table().equals(whole)
    assert [batch.num_rows for batch in tokenstore.open(large)["train"].samples_batches()]


@pytest.mark.parametrize("feature", ["manifests", "tables"])
def test_m29_a_reader_without_a_feature_refuses_the_store(
    large: Path, feature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = frozenset({"manifests", "tables"} - {feature})
    monkeypatch.setattr("tokenstore.format.manifest._OTHER_FEATURES", others)
    with pytest.raises(VersionError, match=rf"needs tokenstore >= .*: it uses feature '{feature}'"):
        tokenstore.open(large)


def test_m29_parts_without_the_feature_are_refused(tmp_path: Path) -> None:
    with few_are_many():
        store = write_full(tmp_path / "store")
    edit_root(store, lambda root: root["attributes"]["tokenstore"]["features"].remove("tables"))
    with pytest.raises(ManifestError, match="part_rows: expected the feature 'tables'"):
        tokenstore.open(store)


def test_zarr_reads_a_store_of_many_shards(large: Path) -> None:
    root = zarr.open(large, mode="r")
    np.testing.assert_array_equal(root["train/tokens"][:], FULL_CODES)
    np.testing.assert_array_equal(root["train/labels"][:], FULL_LABELS)
