"""FORMAT.md's MUSTs, one test each, against zarr itself and literal bytes.

Stores are written with tokenstore, and checked with everything but it: zarr, json, hashlib, struct. The
library's own reader appears only where a reader has to refuse something.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from helpers import plain_context
from helpers.context_models import codes_of, random_model
from helpers.paths import ROOT
from helpers.stores import edit_root, random_codes, replace_files, store_files, write_store
from zarr.storage import ZipStore

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs import codec_from_zarr
from tokenstore.codecs.context import Context, ContextModel
from tokenstore.codecs.context.model import Plane
from tokenstore.codecs.context.streams import Streams
from tokenstore.codecs.context.tree import CodeTree
from tokenstore.codecs.zarr import ContextCodec
from tokenstore.codecs.zstd import ZSTD_LEVEL
from tokenstore.errors import (
    CodecError,
    DamageError,
    IncompleteStoreError,
    ManifestError,
    NotAStoreError,
    StoreExistsError,
    VersionError,
)
from tokenstore.format.manifest import Preprocessing, TokenizerIdentity
from tokenstore.format.tables import Skip
from tokenstore.storage.local import LocalFolder

FORMAT = ROOT / "FORMAT.md"

SHARD = "train/tokens/c/0/0"
EXAMPLE_CODES = np.array([[1, 2], [3, 4], [0, 1]], np.uint8)
EXAMPLE_SHARD_BODY = "11 23 {0} 08 {1}"
EXAMPLE_INDEX = (
    "00 00 00 00 00 00 00 00   06 00 00 00 00 00 00 00 06 00 00 00 00 00 00 00   05 00 00 00 00 00 00 00"
)


def crc32c(data: bytes) -> bytes:
    """CRC-32C, bit by bit, as four little-endian bytes."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return struct.pack("<I", remainder ^ 0xFFFFFFFF)


def shard_of(*payloads: bytes, chunks_per_shard: int) -> bytes:
    """Build a shard by the letter of M12 and M13."""
    body, index = b"", b""
    for payload in payloads:
        index += struct.pack("<QQ", len(body), len(payload) + 4)
        body += payload + crc32c(payload)
    index += b"\xff" * 16 * (chunks_per_shard - len(payloads))
    return body + index + crc32c(index)


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def manifest_of(store: Path) -> Any:
    return read_json(store / "zarr.json")["attributes"]["tokenstore"]


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Write the worked example of FORMAT.md, section 3."""
    write_store(tmp_path / "store", {"train": (EXAMPLE_CODES,)}, 5, chunk_samples=2, shard_samples=4)
    return tmp_path / "store"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store with everything that a store may have; tests only read it."""
    return write_full(tmp_path_factory.mktemp("full") / "store")


FULL_CODES = random_codes(21, (3, 4), 391)
FULL_LABELS = (np.arange(21) % 3).astype(np.int32)
FULL_MASKS = np.random.default_rng(1).random((21, 2, 5), np.float32)


def write_full(path: Path, codec: str = "bitpack") -> Path:
    write_store(
        path,
        {
            "train": (
                FULL_CODES,
                FULL_LABELS,
                {"masks": FULL_MASKS},
                [Skip(4, "train/4.png", "not an image")],
            ),
            "val": (FULL_CODES[:5], FULL_LABELS[:5]),
        },
        391,
        codec=codec,
        chunk_samples=2,
        shard_samples=8,
        class_names=("ant", "bee", "cat"),
        codebook=np.random.default_rng(2).standard_normal((391, 3)).astype(np.float32),
        synonyms=np.full((391, 2), -1, np.int32),
        preprocessing=Preprocessing(24, 32, "squash"),
        tokenizer=TokenizerIdentity("test", "ab" * 32),
        source_kind="folder",
    )
    return path


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal_by_zarr(store: Path, selection: Any = ...) -> str:
    """Return zarr's error when it refuses to read the training tokens."""
    with pytest.raises(ValueError) as caught:
        zarr.open(store, mode="r")["train/tokens"][selection]
    return str(caught.value)


def test_every_must_has_a_test_of_its_number_and_every_test_a_must() -> None:
    stated = [int(number) for number in re.findall(r"\*\*M(\d+)\*\*", FORMAT.read_text())]
    tested = [int(match[1]) for name in globals() if (match := re.match(r"test_m(\d+)_", name))]
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
    write = LocalFolder.write

    def crash_at_the_root(storage: LocalFolder, path: str, data: bytes) -> None:
        if path == "zarr.json":
            raise KeyboardInterrupt
        write(storage, path, data)

    monkeypatch.setattr(LocalFolder, "write", crash_at_the_root)
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


def test_m12_aligned_arrays_are_sharded_along_the_samples_only(full: Path) -> None:
    for name, sample_shape in (("tokens", [3, 4]), ("labels", []), ("masks", [2, 5])):
        document = read_json(full / "train" / name / "zarr.json")
        assert document["shape"] == [21, *sample_shape]
        assert document["chunk_grid"] == {
            "name": "regular",
            "configuration": {"chunk_shape": [8, *sample_shape]},
        }
        assert document["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        (codec,) = document["codecs"]
        assert codec["name"] == "sharding_indexed"
        configuration = codec["configuration"]
        assert configuration["chunk_shape"] == [8 if name == "labels" else 2, *sample_shape]
        assert configuration["codecs"][-1] == {"name": "crc32c"}
        assert configuration["index_codecs"] == [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ]
        assert configuration["index_location"] == "end"
    tokens = read_json(full / "train/tokens/zarr.json")["codecs"][0]["configuration"]
    assert tokens["codecs"] == [
        {"name": "tokenstore.bitpack", "configuration": {"codebook_size": 391}},
        {"name": "crc32c"},
    ]


def test_m12_the_worked_example_is_stored_byte_for_byte(example: Path) -> None:
    checksums = [crc32c(bytes.fromhex(payload)).hex() for payload in ("11 23", "08")]
    index = bytes.fromhex(EXAMPLE_INDEX)
    expected = bytes.fromhex(EXAMPLE_SHARD_BODY.format(*checksums)) + index + crc32c(index)
    assert (example / SHARD).read_bytes() == expected
    np.testing.assert_array_equal(zarr.open(example, mode="r")["train/tokens"][:], EXAMPLE_CODES)
    shown = re.search(r"train/tokens/c/0/0\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    assert shown is not None
    lines = [re.match(r"(?:[0-9a-f]{2} *)*", line)[0] for line in shown[1].splitlines()]  # type: ignore[index]
    assert bytes.fromhex("".join(lines)) == bytes.fromhex("11 23 08" + EXAMPLE_INDEX)


def test_m13_chunks_lie_in_order_without_gaps_and_none_may_be_missing(full: Path, example: Path) -> None:
    for shard, chunks_held in (("0", 4), ("1", 4), ("2", 3)):
        data = (full / "train/tokens/c" / shard / "0/0").read_bytes()
        index = struct.unpack("<8Q", data[-68:-4])
        position = 0
        for offset, length in list(zip(index[::2], index[1::2], strict=True))[:chunks_held]:
            assert offset == position
            position += length
        assert position == len(data) - 68
        assert all(value == 2**64 - 1 for value in index[2 * chunks_held :])

    whole = (example / SHARD).read_bytes()
    index = b"\xff" * 16 + whole[-20:-4]
    replace_files(example, {SHARD: whole[:-36] + index + crc32c(index)})
    with pytest.raises(DamageError, match="chunk 0 of the shard is missing"):
        tokenstore.open(example)["train"].read("tokens", [2])
    (example / SHARD).unlink()
    with pytest.raises(DamageError, match="missing"):
        tokenstore.open(example)["train"].read("tokens", [2])


def test_m14_a_chunk_is_checked_before_its_values_are_returned(example: Path) -> None:
    data = bytearray((example / SHARD).read_bytes())
    data[1] ^= 0x02  # sample 1 becomes [1, 4]: valid codes, but for the checksum
    (example / SHARD).write_bytes(data)
    split = tokenstore.open(example)["train"]
    for sample in (0, 1):
        with pytest.raises(DamageError, match=r"shard 0 chunk 0 \(samples 0 to 1\).*CRC-32C"):
            split.read("tokens", [sample])
    np.testing.assert_array_equal(split.read("tokens", [2]), EXAMPLE_CODES[2:])
    assert "checksum" in refusal_by_zarr(example)


@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
@pytest.mark.parametrize(("sizes", "wrong"), [((5,), 5), ((5,), -1), ((5, 3), 3)])
def test_m15_a_code_that_its_codebook_does_not_have_is_not_written(
    tmp_path: Path, codec: str, sizes: tuple[int, ...], wrong: int
) -> None:
    codes = np.zeros((3, 2), np.int16)
    codes[1, 1] = wrong
    with pytest.raises(CodecError, match=rf"sample 1: expected codes from 0 to {sizes[-1] - 1}"):
        write_store(tmp_path / "store", {"train": (codes,)}, sizes, codec=codec)
    assert not (tmp_path / "store/zarr.json").exists()


def test_m16_codes_are_packed_least_significant_bit_first(tmp_path: Path) -> None:
    for size, codes, packed in (
        (391, [1, 2, 390], "01 04 18 06"),
        (5, [1, 2], "11"),
        (1, [0, 0, 0], "00"),
        (2, [1, 0, 1, 1, 0, 0, 0, 0, 1], "0d 01"),
        (256, [0, 127, 255], "00 7f ff"),
        (257, [256, 1], "00 03 00"),
        (65536, [0x1234, 0xFFFF], "34 12 ff ff"),
        (2**31, [2**31 - 1, 1], "ff ff ff ff 00 00 00 00"),
    ):
        store = tmp_path / f"{size}"
        write_store(store, {"train": (np.array([codes], np.uint32),)}, size, chunk_samples=1)
        assert (store / SHARD).read_bytes() == shard_of(bytes.fromhex(packed), chunks_per_shard=1)
        np.testing.assert_array_equal(zarr.open(store, mode="r")["train/tokens"][:], [codes])
    assert "K = 391 (b = 9), the sample [1, 2, 390] is `01 04 18 06`" in FORMAT.read_text()


def test_m17_samples_lie_back_to_back_and_missing_ones_decode_to_the_fill_value(example: Path) -> None:
    document = read_json(example / "train/tokens/zarr.json")
    document["shape"] = [4, 2]  # as if the sample that was left out existed
    replace_files(example, {"train/tokens/zarr.json": json.dumps(document).encode()})
    tokens = zarr.open(example, mode="r")["train/tokens"]
    np.testing.assert_array_equal(tokens[:], [*EXAMPLE_CODES, [255, 255]])
    np.testing.assert_array_equal(tokens[3], [255, 255])
    array = zarr.open(example, mode="r+")["train/tokens"]
    array[2:] = np.array([[0, 1], [255, 255]], np.uint8)
    assert (example / SHARD).read_bytes().startswith(bytes.fromhex("11 23") + crc32c(bytes.fromhex("11 23")))
    assert bytes.fromhex("08") + crc32c(bytes.fromhex("08")) in (example / SHARD).read_bytes()


@pytest.mark.parametrize(
    ("payload", "by_zarr", "by_reader"),
    [
        ("11", None, r"expected 2 (packed )?samples of 1 bytes"),
        ("11 23 11", "up to 2 samples of 1 bytes, found 3", r"expected 2 (packed )?samples of 1 bytes"),
        ("11 25", "sample 1, position 0: .*found 5", r"sample 1\): position 0: .*found 5"),
        ("11 c0", "sample 1: expected zero bits as padding", r"sample 1\): expected zero bits as padding"),
    ],
)
def test_m18_bytes_that_no_encoder_wrote_are_refused(
    example: Path, payload: str, by_zarr: str | None, by_reader: str
) -> None:
    shard = shard_of(bytes.fromhex(payload), bytes.fromhex("08"), chunks_per_shard=2)
    replace_files(example, {SHARD: shard})
    if by_zarr is not None:  # fewer samples than the chunk has are fill values to zarr: M17
        assert re.search(by_zarr, refusal_by_zarr(example))
    with pytest.raises(DamageError, match=by_reader):
        tokenstore.open(example)["train"].read("tokens", [0, 1])


def test_m18_half_a_sample_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_store(store, {"train": (np.array([[1, 2, 390]], np.uint16),)}, 391, chunk_samples=1)
    replace_files(store, {SHARD: shard_of(bytes.fromhex("01 04 18"), chunks_per_shard=1)})
    assert "up to 1 samples of 4 bytes, found 3" in refusal_by_zarr(store)
    with pytest.raises(DamageError, match=r"expected 1 (packed )?samples of 4 bytes, found 3"):
        tokenstore.open(store)["train"].read("tokens", [0])


WITHOUT_TOKENSTORE = """
import sys

class NoTokenstore:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tokenstore":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoTokenstore())
try:
    import tokenstore
except ModuleNotFoundError:
    pass
else:
    sys.exit("tokenstore is still there")
import json, zarr
split = zarr.open(sys.argv[1], mode="r")["train"]
print(json.dumps({name: split[name][:].tolist() for name in ("tokens", "labels", "masks")}))
"""


def test_m19_a_zstd_store_is_read_where_there_is_no_tokenstore(tmp_path: Path) -> None:
    store = write_full(tmp_path / "store", codec="zstd")
    assert manifest_of(store)["features"] == ["zstd"]
    values = json.loads(run(WITHOUT_TOKENSTORE, store))
    np.testing.assert_array_equal(values["tokens"], FULL_CODES)
    np.testing.assert_array_equal(values["labels"], FULL_LABELS)
    np.testing.assert_array_equal(np.float32(values["masks"]), FULL_MASKS)


def test_m19_its_codecs_are_those_of_zarr_as_are_those_of_other_arrays(full: Path, tmp_path: Path) -> None:
    store = write_full(tmp_path / "store", codec="zstd")
    expected = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
        {"name": "crc32c"},
    ]
    for array in (store / "train/tokens", store / "train/masks", full / "train/labels", full / "train/masks"):
        configuration = read_json(array / "zarr.json")["codecs"][0]["configuration"]
        assert configuration["codecs"] == expected
    data = (store / "val/tokens/c/0/0/0").read_bytes()
    offset, length = struct.unpack("<QQ", data[-68:-52])
    payload = data[offset : offset + length - 4]
    assert data[offset + length - 4 : offset + length] == crc32c(payload)
    chunk = pa.Codec("zstd").decompress(payload, decompressed_size=2 * 3 * 4 * 2)
    assert bytes(chunk) == FULL_CODES[:2].astype("<u2").tobytes()


BY_ZARR_ALONE = """
import sys, zarr
assert "tokenstore" not in sys.modules
tokens = zarr.open(sys.argv[1], mode="r")["train/tokens"]
chunk, last = tokens[2:5], tokens[-1]
print([tokens[:].tolist(), chunk.tolist(), last.tolist(), tokens.oindex[[20, 0, 7], 1, :2].tolist()])
"""


@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
def test_a_program_that_knows_only_zarr_reads_codes_and_slices(tmp_path: Path, codec: str) -> None:
    store = write_full(tmp_path / "store", codec=codec)
    everything, part, last, selected = json.loads(run(BY_ZARR_ALONE, store))
    np.testing.assert_array_equal(everything, FULL_CODES)
    np.testing.assert_array_equal(part, FULL_CODES[2:5])
    np.testing.assert_array_equal(last, FULL_CODES[20])  # alone in the last chunk
    np.testing.assert_array_equal(selected, FULL_CODES[[20, 0, 7], 1, :2])


@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
def test_zarr_reads_a_zip_file(tmp_path: Path, codec: str) -> None:
    path = write_full(tmp_path / "store.zip", codec=codec)
    with ZipStore(path, mode="r") as packed:
        root = zarr.open(packed, mode="r")
        np.testing.assert_array_equal(root["train/tokens"][:], FULL_CODES)
        np.testing.assert_array_equal(root["train/tokens"][19:], FULL_CODES[19:])
        np.testing.assert_array_equal(root["val/labels"][:], FULL_LABELS[:5])


def test_zarr_reads_an_empty_split(tmp_path: Path) -> None:
    write_store(tmp_path / "store", {"train": (FULL_CODES[:0], FULL_LABELS[:0])})
    root = zarr.open(tmp_path / "store", mode="r")
    assert root["train/tokens"][:].shape == (0, 3, 4)
    assert pq.read_table(tmp_path / "store/train/samples.parquet").num_rows == 0


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.uint8, np.int64, np.float16, np.float64], ids=lambda d: d.__name__
)
def test_zarr_reads_a_column_of_any_dtype_and_its_fill_value_is_valid(
    tmp_path: Path, dtype: Callable[..., Any]
) -> None:
    column = np.arange(6).reshape(3, 2).astype(dtype)
    write_store(tmp_path / "store", {"train": (FULL_CODES[:3], None, {"extra": column})})
    np.testing.assert_array_equal(zarr.open(tmp_path / "store", mode="r")["train/extra"][:], column)
    document = read_json(tmp_path / "store/train/extra/zarr.json")
    assert isinstance(document["fill_value"], bool) == (document["data_type"] == "bool")


def test_m20_codes_that_were_numbered_anew_can_be_led_back(tmp_path: Path) -> None:
    identity = TokenizerIdentity("test", "ab" * 32, kept_codes=((3, 5, 8),))
    codes = np.array([[0, 2], [1, 1]], np.uint8)
    write_store(tmp_path / "store", {"train": (codes,)}, 3, tokenizer=identity)
    root = json.loads((tmp_path / "store" / "zarr.json").read_bytes())
    assert root["attributes"]["tokenstore"]["tokenizer"] == {
        "name": "test",
        "fingerprint": "ab" * 32,
        "kept_codes": [[3, 5, 8]],
    }
    read = tokenstore.open(tmp_path / "store").manifest.tokenizer
    assert read == identity
    assert read != TokenizerIdentity("test", "ab" * 32)


@pytest.mark.parametrize(
    "kept", [[[3, 5]], [[3, 8, 5]], [[3, 3, 5]], [[3, 5, -1]], [[3, 5, "8"]], [], "all", [3, 5, 8]]
)
def test_m20_a_map_that_is_none_is_refused(tmp_path: Path, kept: object) -> None:
    write_store(tmp_path / "store", {"train": (np.array([[0, 2]], np.uint8),)}, 3)
    edit_root(
        tmp_path / "store",
        lambda root: root["attributes"]["tokenstore"]["tokenizer"].update(kept_codes=kept),
    )
    with pytest.raises(ManifestError, match="kept_codes"):
        tokenstore.open(tmp_path / "store")


# ---- the codec `context`


def worked_model() -> ContextModel:
    """Return the model of the worked example in FORMAT.md, section 7."""
    plane = Plane(
        size=3,
        order=np.arange(3, dtype=np.uint32),
        contexts=np.array([[0, -1]], np.int8),
        gains=np.zeros(0, np.uint16),
        components=np.zeros((0, 4), np.int8),
        readers=np.zeros((0, 3, 32), np.int8),
        bias=np.zeros(32, np.int16),
        weights=np.zeros((3, 32), np.int8),
        biases=np.array([0, -256, -512], np.int16),
        row_shift=1,
        logit_shift=0,
        fade=5,
    )
    return ContextModel(2, (plane,))


WORKED_HEAD = "01 02 0100 03000000 01 00 01 00 05"
WORKED_CHUNK = "01 03000000 00000000 01 05 d1 fb"
WORKED_CODES = np.array([[[1, 2]], [[0, 0]], [[2, 2]]], np.uint8)


@pytest.fixture
def coded(tmp_path: Path) -> Path:
    """Write a store of two chunks: 20 samples coded by the worked model, and a packed chunk."""
    codes = np.zeros((21, 1, 2), np.uint8)
    codes[3], codes[20] = (1, 2), (2, 1)
    write_store(
        tmp_path / "coded", {"train": (codes,)}, 3, codec="context", model=worked_model(), chunk_samples=20
    )
    return tmp_path / "coded"


def context_codec(store: Path) -> Any:
    return codec_from_zarr(
        read_json(store / "train/tokens/zarr.json")["codecs"][0]["configuration"]["codecs"][:-1]
    )


def test_m11_a_context_model_is_in_the_metadata_of_its_array_alone(coded: Path) -> None:
    assert "consolidated_metadata" not in read_json(coded / "zarr.json")
    assert zarr.open(coded, mode="r")["train/tokens"][3].tolist() == [[1, 2]]  # type: ignore[index]
    assert verify(coded).ok


def test_m21_a_chunk_is_packed_or_has_streams_and_their_lengths(coded: Path) -> None:
    shard = (coded / "train/tokens/c/0/0/0").read_bytes()
    streams = "01 14000000 00000000 01 080000 d1"  # 20 lengths of 1 bit: only that of sample 3 is 1
    first, second = bytes.fromhex(streams), bytes.fromhex("00 06")
    assert shard.startswith(first + crc32c(first) + second + crc32c(second))
    codec = context_codec(coded)
    out = np.empty_like(WORKED_CODES)
    codec.decode(np.frombuffer(bytes.fromhex(WORKED_CHUNK), np.uint8), out)
    np.testing.assert_array_equal(out, WORKED_CODES)
    text = FORMAT.read_text()
    assert f"`{WORKED_CHUNK}`" in text.replace("  ", " ")
    streams = [plain_context.encoded(worked_model(), (1, 2), codes.ravel()) for codes in WORKED_CODES]
    assert [stream.hex() for stream in streams] == ["d1", "", "fb"]


def test_m21_missing_samples_decode_to_the_fill_value(coded: Path) -> None:
    tokens = zarr.open(coded, mode="r")["train/tokens"]
    assert tokens.shape == (21, 1, 2)  # type: ignore[union-attr]
    codec = ContextCodec(3, base64.b64encode(worked_model().to_bytes()).decode())
    array = zarr.create_array(
        {},
        shape=(4, 1, 2),
        chunks=(4, 1, 2),
        dtype="uint8",
        fill_value=255,
        serializer=codec,
        compressors=None,
    )
    array[:3] = WORKED_CODES
    np.testing.assert_array_equal(array[:], np.concatenate([WORKED_CODES, [[[255, 255]]]]))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ("", "found no bytes"),
        ("02 00", "form 0 or 1, found 2"),
        ("01 01000000 00", "a head of 10 bytes"),
        ("01 00000000 00000000 00", "0 streams"),
        ("01 01000000 02000000 00 d1", "1 streams of at least 2 bytes"),
        ("01 01000000 01000000 00 d1 00", "streams of 1 bytes, found 2"),
        ("01 02000000 00000000 01 03 d1", "streams of 2 bytes, found 1"),
        ("01 04000000 00000000 00", "at most 3 samples, found 4"),
        ("00 01 02 03 04", "at most 3 samples, found 4"),
        ("00 03 00 00", "expected a code below the codebook size 3"),
        ("01 03000000 04000000 00 ffffffff d1000000 00000000", "expected a stream of the context codec"),
    ],
)
def test_m22_bytes_that_no_encoder_wrote_are_refused(payload: str, message: str) -> None:
    codec = Context(3, worked_model())
    data = np.frombuffer(bytes.fromhex(payload), np.uint8)

    def decode() -> None:
        located = codec.spans(data, (1, 2), at_most=3)
        rows = np.arange(len(located.addresses))
        codec.decode_spans([located], np.zeros_like(rows), rows, np.empty((len(rows), 1, 2), np.uint8))

    with pytest.raises(CodecError, match=message):
        decode()


def test_m22_streams_without_a_model_are_refused() -> None:
    codec = Context(3, None)
    with pytest.raises(CodecError, match="has none"):
        codec.decode(np.frombuffer(bytes.fromhex(WORKED_CHUNK), np.uint8), np.empty((3, 1, 2), np.uint8))


def test_m23_the_model_is_a_head_and_compressed_arrays(coded: Path) -> None:
    configuration = read_json(coded / "train/tokens/zarr.json")["codecs"][0]["configuration"]["codecs"][0]
    assert configuration["name"] == "tokenstore.context"
    assert configuration["configuration"].keys() == {"codebook_size", "model"}
    data = base64.b64decode(configuration["configuration"]["model"])
    head = bytes.fromhex(WORKED_HEAD)
    assert data.startswith(head)
    arrays = ["00 ff", "0000 0100 0200", "00" * 64, "00" * 96, "0000 00ff 00fe"]
    assert zlib.decompress(data[len(head) :]) == bytes.fromhex("".join(arrays))
    assert WORKED_HEAD in re.sub(r" +", " ", FORMAT.read_text())


@pytest.mark.parametrize(
    ("size", "levels", "fan"),
    [
        (1, 0, 1),
        (2, 1, 2),
        (32, 1, 32),
        (33, 2, 6),
        (391, 2, 20),
        (1024, 2, 32),
        (1025, 3, 11),
        (65536, 4, 16),
    ],
)
def test_m24_a_code_is_named_by_the_digits_of_its_place(size: int, levels: int, fan: int) -> None:
    tree = CodeTree.of(size)
    assert (tree.levels, tree.fan) == (levels, fan) == plain_context.tree_of(size)
    assert fan**levels >= size
    assert tree.children == sum(-(-size // fan**below) for below in range(levels))


STREAMED = pytest.mark.parametrize(
    ("grid", "sizes"), [((5,), (391,)), ((3, 4), (40,)), ((2, 3, 4), (391, 7)), ((2, 2, 3), (33,))]
)


def assert_streams_are_those_of_the_plain_version(
    model: ContextModel, codes: Any, grid: tuple[int, ...]
) -> None:
    flat = codes.reshape(len(codes), -1)
    streams, lengths = Streams(model, grid).encode(flat)
    for sample, end, length in zip(flat, np.cumsum(lengths), lengths, strict=True):
        stream = streams[end - length : end]
        assert stream == plain_context.encoded(model, grid, sample.tolist())
        assert plain_context.decoded(model, grid, stream) == sample.tolist()


@STREAMED
def test_m25_hidden_lanes_are_those_of_the_plain_version(
    grid: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    """Contexts, mean and trace that matter much: a slip in one of them ends in other bytes."""
    for seed in range(4):
        model = random_model(sizes, len(grid), contexts=6, components=9, logit_shift=5, seed=seed)
        assert_streams_are_those_of_the_plain_version(model, codes_of(model, grid, 4, seed), grid)


def test_m26_frequencies_fall_by_half_for_256() -> None:
    expected = {0: 32768, 1: 32683, 128: 23168, 255: 16427, 256: 16384, 15 * 256: 1, 16 * 256: 1, 10**6: 1}
    assert {below: plain_context.frequency(below) for below in expected} == expected
    for seed in range(4):  # wide logits, and such as wrap
        model = random_model((391,), 2, extreme=True, seed=seed)
        assert_streams_are_those_of_the_plain_version(model, codes_of(model, (3, 3), 3, seed), (3, 3))


@STREAMED
def test_m27_streams_are_those_of_the_plain_version(grid: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    for seed in range(4):
        model = random_model(sizes, len(grid), seed=seed)
        assert_streams_are_those_of_the_plain_version(model, codes_of(model, grid, 9, seed), grid)


def test_m27_a_stream_with_a_number_in_no_interval_is_refused() -> None:
    stream = bytes.fromhex("ffffffff")
    with pytest.raises(plain_context.NoStreamError):
        plain_context.decoded(worked_model(), (1, 2), stream)
    payload = np.frombuffer(bytes.fromhex("01 01000000 04000000 00") + stream, np.uint8)
    with pytest.raises(CodecError, match="sample 0: expected a stream"):
        Context(3, worked_model()).decode(payload, np.empty((1, 1, 2), np.uint8))
