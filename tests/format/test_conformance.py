"""FORMAT.md's MUSTs on hierarchy and manifest (M1 to M11), one test each, against zarr and literal bytes.

Stores are written with tokenstore, and checked with everything but it: zarr, json, hashlib, struct. The
library's own reader appears only where a reader has to refuse something. `test_conformance_arrays.py` has the
MUSTs on arrays, `bitpack` and `zstd`, `test_conformance_context.py` those on the codec `context`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from helpers.conformance import (
    FORMAT,
    FULL_CODES,
    FULL_LABELS,
    FULL_MASKS,
    crc32c,
    manifest_of,
    read_json,
    write_full,
)
from helpers.stores import edit_root, random_codes, store_files, write_store

import tokenstore
from tokenstore.errors import (
    DamageError,
    IncompleteStoreError,
    ManifestError,
    NotAStoreError,
    StoreExistsError,
    VersionError,
)
from tokenstore.storage.local import LocalFolder


def test_every_must_has_a_test_of_its_number_and_every_test_a_must() -> None:
    stated = [int(number) for number in re.findall(r"\*\*M(\d+)\*\*", FORMAT.read_text())]
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_conformance*.py")]
    tested = [int(number) for text in texts for number in re.findall(r"^def test_m(\d+)_", text, re.M)]
    assert stated == list(range(1, len(stated) + 1))
    assert sorted(set(tested)) == stated


def test_the_checksum_of_these_tests_is_crc32c() -> None:
    assert crc32c(b"123456789") == bytes.fromhex("83 92 06 e3")  # the published check value


def test_m01_the_root_is_a_group_of_splits_that_hold_tokens(full: Path, tmp_path: Path) -> None:
    for group in ("", "train", "val"):
        document = read_json(full / group / "zarr.json")
        assert (document["zarr_format"], document["node_type"]) == (3, "group")
    root = zarr.open(full, mode="r")
    assert root["train/tokens"].shape == (21, 3, 4)
    assert root["val/tokens"].shape == (5, 3, 4)
    np.testing.assert_array_equal(root["train/tokens"][:], FULL_CODES)
    for grid, sizes in (((7,), (9,)), ((2, 1, 2, 3), (9,)), ((2, 3), (9, 300))):
        path = tmp_path / str(len(grid))
        codes = random_codes(3, grid, sizes)
        write_store(path, {"train": (codes,)}, sizes)
        np.testing.assert_array_equal(zarr.open(path, mode="r")["train/tokens"][:], codes)


def test_m02_aligned_arrays_have_a_row_for_each_sample_and_labels_are_int32(full: Path) -> None:
    split = zarr.open(full, mode="r")["train"]
    assert {name: array.shape[0] for name, array in split.arrays()} == {
        "tokens": 21,
        "labels": 21,
        "masks": 21,
    }
    assert split["labels"].dtype == np.int32
    assert split["labels"].shape == (21,)
    np.testing.assert_array_equal(split["labels"][:], FULL_LABELS)
    np.testing.assert_array_equal(split["masks"][:], FULL_MASKS)
    assert 0 <= split["labels"][:].min() <= split["labels"][:].max() < len(manifest_of(full)["class_names"])


@pytest.mark.parametrize(
    ("codebook_size", "data_type", "fill_value"),
    [
        (1, "uint8", 2**8 - 1),
        (255, "uint8", 2**8 - 1),
        (256, "uint16", 2**16 - 1),
        (65535, "uint16", 2**16 - 1),
        (65536, "uint32", 2**32 - 1),
        (2**31, "uint32", 2**32 - 1),
    ],
)
@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
def test_m03_the_data_type_is_the_smallest_with_a_value_that_is_no_code(
    tmp_path: Path, codebook_size: int, data_type: str, fill_value: int, codec: str
) -> None:
    codes = np.full((1, 1), codebook_size - 1, data_type)
    write_store(tmp_path / "store", {"train": (codes,)}, codebook_size, codec=codec)
    document = read_json(tmp_path / "store/train/tokens/zarr.json")
    assert document["data_type"] == data_type
    assert document["fill_value"] == fill_value


@pytest.mark.parametrize("codebook_size", [6, 256])
def test_m03_an_array_for_another_codebook_is_refused(example: Path, codebook_size: int) -> None:
    edit_root(example, lambda root: root["attributes"]["tokenstore"].update(codebook_sizes=[codebook_size]))
    with pytest.raises(ManifestError, match=rf"for the manifest's {codebook_size} codes, found uint8 for 5"):
        tokenstore.open(example)["train"]


@pytest.mark.parametrize("shape", [(5, 2), (2, 5, 2)])
def test_m04_codebook_and_synonyms_are_one_checked_chunk(tmp_path: Path, shape: tuple[int, ...]) -> None:
    codebook = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    synonyms = np.array([[1, 2], [0, -1], [0, 1], [-1, -1], [3, 2]], np.int32)
    sizes = (5,) * (len(shape) - 1)
    codes = random_codes(3, (2, 2), sizes)
    write_store(tmp_path / "store", {"train": (codes,)}, sizes, codebook=codebook, synonyms=synonyms)
    root = zarr.open(tmp_path / "store", mode="r")
    for name, values, data_type in (("codebook", codebook, "float32"), ("synonyms", synonyms, "int32")):
        document = read_json(tmp_path / "store" / name / "zarr.json")
        assert document["data_type"] == data_type
        assert document["shape"] == list(values.shape)
        assert document["chunk_grid"]["configuration"]["chunk_shape"] == list(values.shape)
        assert document["codecs"] == [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ]
        little_endian = values.astype(values.dtype.newbyteorder("<")).tobytes()
        stored = (tmp_path / "store" / name / "/".join("c" + "0" * values.ndim)).read_bytes()
        assert stored == little_endian + crc32c(little_endian)
        np.testing.assert_array_equal(root[name][:], values)


def test_m05_tables_have_a_row_for_each_sample_and_each_one_left_out(full: Path) -> None:
    samples = pq.read_table(full / "train/samples.parquet")
    assert dict(zip(samples.schema.names, samples.schema.types, strict=True)) == {
        "source_index": pa.int64(),
        "source": pa.string(),
        "label_name": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "source_bytes": pa.int64(),
    }
    kept = [index for index in range(22) if index != 4]
    assert samples["source_index"].to_pylist() == kept
    assert samples["source"].to_pylist() == [f"train/{index}.png" for index in kept]
    assert samples["label_name"].to_pylist() == [("ant", "bee", "cat")[label] for label in FULL_LABELS]
    skipped = pq.read_table(full / "train/skipped.parquet")
    assert skipped.to_pylist() == [{"source_index": 4, "source": "train/4.png", "reason": "not an image"}]
    assert pq.read_table(full / "val/samples.parquet").num_rows == 5
    assert not (full / "val/skipped.parquet").exists()


def test_m06_the_manifest_has_these_fields_and_others_are_ignored(full: Path, tmp_path: Path) -> None:
    manifest = manifest_of(full)
    files, digest = manifest.pop("files"), manifest.pop("digest")
    assert files
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert manifest == {
        "format_version": 1,
        "requires": "0.1.0",
        "features": ["bitpack"],
        "created_by": f"tokenstore {tokenstore.__version__}",
        "tokenizer": {"name": "test", "fingerprint": "ab" * 32},
        "grid": [3, 4],
        "codebook_sizes": [391],
        "preprocessing": {"height": 24, "width": 32, "resize": "squash", "filter": "bicubic"},
        "source_kind": "folder",
        "class_names": ["ant", "bee", "cat"],
        "splits": {
            "train": {"samples": 21, "skipped": 1, "source_bytes": None},
            "val": {"samples": 5, "skipped": 0, "source_bytes": None},
        },
    }
    newer = write_full(tmp_path / "newer")
    edit_root(newer, lambda root: root["attributes"]["tokenstore"].update(mood={"good": [True, None]}))
    assert tokenstore.open(newer).splits == ("train", "val")
    edit_root(newer, lambda root: root["attributes"]["tokenstore"].update(ignore_index=7))
    assert tokenstore.open(newer).manifest.ignore_index == 7
    done = {"operation": "merge", "arguments": {"a": [1]}, "inputs": ["ab" * 32], "version": "tokenstore 9"}
    edit_root(newer, lambda root: root["attributes"]["tokenstore"].update(history=[{**done, "mood": "good"}]))
    (entry,) = tokenstore.open(newer).manifest.history
    assert entry.to_dict() == done
    for field in done:
        edit_root(
            newer,
            lambda root, field=field: root["attributes"]["tokenstore"].update(history=[{**done, field: 1}]),
        )
        with pytest.raises(ManifestError, match=rf"manifest\.history\[0\]\.{field}: expected"):
            tokenstore.open(newer)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format_version": 2}, r"needs tokenstore >= 7\.1: it uses format version 2"),
        ({"features": ["bitpack", "braid"]}, r"needs tokenstore >= 7\.1: it uses feature 'braid'"),
    ],
)
def test_m07_a_newer_store_is_refused_with_the_version_it_needs(
    example: Path, edit: dict[str, Any], message: str
) -> None:
    edit_root(example, lambda root: root["attributes"]["tokenstore"].update(edit, requires="7.1"))
    with pytest.raises(VersionError, match=message):
        tokenstore.open(example)


def test_m08_every_file_but_the_root_is_listed_with_size_and_sha256(full: Path) -> None:
    found = {}
    for path in store_files(full):
        data = (full / path).read_bytes()
        found[path] = [len(data), hashlib.sha256(data).hexdigest()]
    del found["zarr.json"]
    assert manifest_of(full)["files"] == found
    assert {"train/tokens/c/0/0/0", "train/tokens/c/2/0/0", "train/samples.parquet", "codebook/c/0/0"} < set(
        found
    )


def test_m09_the_digest_is_that_of_the_root_with_zeros_in_its_place(example: Path) -> None:
    data = (example / "zarr.json").read_bytes()
    digest = manifest_of(example)["digest"].encode()
    assert data.count(digest) == 1
    assert hashlib.sha256(data.replace(digest, b"0" * 64)).hexdigest().encode() == digest
    (example / "zarr.json").write_bytes(data.replace(b'"samples": 3', b'"samples": 2'))
    with pytest.raises(DamageError, match="digest"):
        tokenstore.open(example)


def test_m10_the_root_is_written_last_and_nothing_is_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_full(tmp_path / "whole")
    create = LocalFolder.create

    def crash_at_the_root(storage: LocalFolder, path: str, data: bytes) -> None:
        if path == "zarr.json":
            raise KeyboardInterrupt
        create(storage, path, data)

    monkeypatch.setattr(LocalFolder, "create", crash_at_the_root)
    with pytest.raises(KeyboardInterrupt):
        write_full(tmp_path / "killed")
    monkeypatch.undo()
    killed = {path for path in store_files(tmp_path / "killed") if not path.startswith(".partial/")}
    assert killed == set(store_files(whole)) - {"zarr.json"}
    for path in killed:
        assert (tmp_path / "killed" / path).read_bytes() == (whole / path).read_bytes()
    assert (tmp_path / "killed/.partial").is_dir()
    with pytest.raises(IncompleteStoreError, match="not complete"):
        tokenstore.open(tmp_path / "killed")

    assert not (whole / ".partial").exists()
    before = {path: (whole / path).read_bytes() for path in store_files(whole)}
    with pytest.raises(StoreExistsError):
        write_full(whole)
    assert {path: (whole / path).read_bytes() for path in store_files(whole)} == before
    (whole / "zarr.json").unlink()
    with pytest.raises(NotAStoreError):
        tokenstore.open(whole)


def test_m11_the_root_carries_the_metadata_of_every_group_and_array(full: Path) -> None:
    consolidated = read_json(full / "zarr.json")["consolidated_metadata"]
    assert consolidated["kind"] == "inline"
    assert consolidated["must_understand"] is False
    nodes = {
        path.removesuffix("/zarr.json"): path for path in store_files(full) if path.endswith("/zarr.json")
    }
    assert consolidated["metadata"] == {node: read_json(full / path) for node, path in nodes.items()}
    assert set(nodes) == {
        *("train", "train/tokens", "train/labels", "train/masks"),
        *("val", "val/tokens", "val/labels"),
        *("codebook", "synonyms"),
    }
    assert zarr.open_consolidated(full, mode="r")["val/labels"].shape == (5,)
