"""FORMAT.md's MUSTs on texts, lists and soft labels (M30 to M34), against literal bytes and Zarr's reader."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from helpers.broken_columns import attributes
from helpers.broken_stores import manifest
from helpers.conformance import FORMAT, manifest_of, read_json, shard_of
from helpers.ragged import objects, ragged_samples, same, write_ragged
from helpers.stores import Samples, edit_root, random_codes, write_store

import tokenstore
from tokenstore.codecs import TEXT
from tokenstore.codecs.soft_labels import SoftLabels
from tokenstore.errors import CodecError, ManifestError


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("ragged") / "store"
    write_ragged(store)
    return store


def example(section: str) -> list[bytes]:
    """Return the lines of bytes that FORMAT.md shows behind some words."""
    shown = re.search(rf"{section}.*?```\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    assert shown
    return [bytes.fromhex(line) for line in shown[1].splitlines()]


def test_m30_the_metadata_of_texts_and_lists_is_that_of_zarr(ragged: Path) -> None:
    assert manifest_of(ragged)["features"] == ["bitpack", "ragged", "soft_labels"]
    for array, data_type, codec in (
        ("caption", "string", "vlen-utf8"),
        ("boxes", "variable_length_bytes", "vlen-bytes"),
    ):
        document = read_json(ragged / f"train/{array}/zarr.json")
        assert (document["data_type"], document["fill_value"]) == (data_type, "")
        assert document["shape"] == [21]
        inner = document["codecs"][0]["configuration"]["codecs"]
        assert inner == [{"name": codec, "configuration": {}}, {"name": "crc32c"}]


def test_m30_without_the_feature_no_array_may_be_ragged(ragged: Path, tmp_path: Path) -> None:
    write_ragged(tmp_path / "store")
    edit_root(tmp_path / "store", lambda root: root["attributes"]["tokenstore"]["features"].remove("ragged"))
    with pytest.raises(ManifestError, match="expected the feature 'ragged' for a column of list of float32"):
        tokenstore.open(tmp_path / "store")["train"]


def test_m31_the_worked_example_s_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    texts = objects(["ab", "", "é"])
    samples = Samples(random_codes(3, (2,), 5), None, {"caption": texts}, (), {"caption": TEXT})
    write_store(tmp_path / "store", {"train": samples}, 5, chunk_samples=2, shard_samples=4)
    payloads = example("Worked example: the texts")
    assert (tmp_path / "store/train/caption/c/0").read_bytes() == shard_of(*payloads, chunks_per_shard=2)


def test_m31_to_m33_zarr_reads_texts_and_lists(ragged: Path) -> None:
    expected = ragged_samples(21).columns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr's warning of data types that its core does not specify yet
        split = zarr.open_group(ragged, mode="r")["train"]
        assert split["caption"][:].tolist() == expected["caption"].tolist()
        boxes = [np.frombuffer(data, "<f4").reshape(-1, 4) for data in split["boxes"][:]]
    assert same(boxes, expected["boxes"])


def test_m32_a_text_of_half_a_character_is_not_written(tmp_path: Path) -> None:
    samples = Samples(random_codes(1, (2,), 5), None, {"caption": objects(["\ud800"])}, (), {"caption": TEXT})
    with pytest.raises(tokenstore.errors.CodecError, match="sample 0: expected a text of whole characters"):
        write_store(tmp_path / "store", {"train": samples}, 5)


def test_m33_an_array_of_lists_says_what_its_bytes_are(ragged: Path) -> None:
    attributes = [read_json(ragged / f"train/{name}/zarr.json")["attributes"] for name in ("boxes", "tags")]
    assert attributes == [
        {"tokenstore": {"list": {"data_type": "float32", "shape": [4]}}},
        {"tokenstore": {"list": {"data_type": "int16", "shape": []}}},
    ]


def test_m34_the_worked_example_is_read_back_as_probabilities(ragged: Path) -> None:
    form = SoftLabels(5)
    assert re.search(r"`03 00 8c 05  00 00 17 0b`", FORMAT.read_text())
    stored = np.frombuffer(bytes.fromhex("03 00 8c 05  00 00 17 0b"), "<u2").reshape(1, 2, 2)
    probabilities = np.array([[1 / 4, 1 / 12, 1 / 12, 1 / 2, 1 / 12]])
    assert form.quantised(probabilities, 2).tobytes() == stored.tobytes()
    np.testing.assert_allclose(form.values(stored), probabilities, rtol=1e-3)
    document = read_json(ragged / "train/soft_labels/zarr.json")
    assert document["attributes"] == {"tokenstore": {"soft_labels": {"classes": 5}}}
    assert (document["data_type"], document["shape"]) == ("uint16", [21, 2, 2])


def test_m34_pairs_of_no_class_leave_all_classes_alike() -> None:
    stored = np.array([[[0, 65535], [0, 65535]], [[2, 0], [0, 65535]]], np.uint16)
    assert SoftLabels(4).problem(stored) is None
    np.testing.assert_array_equal(
        SoftLabels(4).values(stored), np.array([[0.25] * 4, [0, 0, 1, 0]], np.float32)
    )


def test_m34_a_class_that_is_not_there_is_named_when_it_is_read() -> None:
    with pytest.raises(CodecError, match="soft labels of 5 classes: expected classes from 0 to 4, found 7"):
        SoftLabels(5).values(np.array([[[7, 10]]], np.uint16))


def test_m34_codes_and_labels_are_no_soft_labels(tmp_path: Path) -> None:
    samples = Samples(random_codes(3, (2, 2), 391), np.zeros(3, np.int32))
    write_store(tmp_path / "store", {"train": samples}, 391)
    manifest(features=["bitpack", "soft_labels"])(tmp_path / "store")
    attributes("train/tokens/zarr.json", soft_labels={"classes": 391})(tmp_path / "store")
    with pytest.raises(ManifestError, match="expected numbers, found a column of soft labels of 391 classes"):
        tokenstore.open(tmp_path / "store")["train"]


def test_m12_a_chunk_of_texts_has_no_more_bytes_than_any_other() -> None:
    payload = np.zeros(2**31 + 5, np.uint8)  # of which the system gives no page that is not read
    with pytest.raises(CodecError, match="expected at most 2147483648 bytes of samples, found 2147483653"):
        TEXT.codec.check_payload(payload, 0, ())


def test_soft_labels_of_all_classes_are_right_to_a_quarter_of_a_thousandth() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.full(7, 0.3), 500)
    form = SoftLabels(7)
    stored = form.quantised(probabilities, 7)
    assert form.problem(stored) is None
    np.testing.assert_allclose(form.values(stored), probabilities, rtol=6e-4, atol=1e-12)
