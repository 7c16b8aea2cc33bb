"""Conversion: what goes in comes out, in order, with its own label; options, zip files, ready codes."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.grey_conversions import OPTIONS, stored
from helpers.stores import contents

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import (
    ManifestError,
    SourceError,
    StoreError,
    TokenizerError,
)
from tokenstore.format import TokenizerIdentity
from tokenstore.sources import open_source
from tokenstore.writing.spec import StoreSpec

pytestmark = pytest.mark.usefixtures("quick_fits")


def test_every_image_becomes_its_codes_with_its_label_and_name(tmp_path: Path) -> None:
    expected = write_grey_folder(tmp_path / "images", 7)
    conversion = convert_source(
        open_source(tmp_path / "images"), tmp_path / "out", tokenizer=BrightnessTokenizer(), options=OPTIONS
    )
    assert stored(tmp_path / "out") == expected
    assert conversion.manifest.class_names == ("class-0", "class-1", "class-2")
    assert verify(str(tmp_path / "out")).problems == []
    table = tokenstore.open(tmp_path / "out")["train"].samples_table()
    assert table["label_name"].to_pylist()[::7] == ["class-0", "class-1", "class-2"]
    assert set(table["width"].to_pylist()) == {20}
    sizes = [(tmp_path / "images" / name).stat().st_size for name in table["source"].to_pylist()]
    assert table["source_bytes"].to_pylist() == sizes
    assert conversion.manifest.splits["train"].source_bytes == sum(sizes)


def test_decode_processes_and_this_process_give_the_same_bytes(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 15)
    source = open_source(tmp_path / "images")
    for workers, out in ((0, "alone"), (2, "workers")):
        options = ConvertOptions(workers=workers, chunk_samples=4, shard_samples=8)
        convert_source(source, tmp_path / out, tokenizer=BrightnessTokenizer(), options=options)
    assert contents(tmp_path / "alone") == contents(tmp_path / "workers")


def test_batches_are_of_the_same_samples_wherever_shards_end(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 7)
    (tmp_path / "images" / "class-1" / "000.png").write_bytes(b"")
    for shard_samples in (4, 8, 32):
        tokenizer = BrightnessTokenizer()
        options = replace(OPTIONS, shard_samples=shard_samples, on_error="skip")
        source, out = open_source(tmp_path / "images"), tmp_path / f"{shard_samples}"
        convert_source(source, out, tokenizer=tokenizer, options=options)
        assert tokenizer.batches == [3, 3, 2, 3, 3, 3, 3]


def test_splits_limit_and_image_size_are_honoured(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images" / "train", 4)
    write_grey_folder(tmp_path / "images" / "val", 2, classes=2)
    source = open_source(tmp_path / "images")
    convert_source(
        source,
        tmp_path / "both",
        tokenizer=BrightnessTokenizer(),
        options=ConvertOptions(workers=0, limit=5, image_size=32),
    )
    both = tokenstore.open(tmp_path / "both")
    assert {name: len(both[name]) for name in both.splits} == {"train": 5, "val": 4}
    assert both.manifest.grid == (4, 4)
    assert both.class_names == ("class-0", "class-1", "class-2")
    convert_source(
        source,
        tmp_path / "val",
        tokenizer=BrightnessTokenizer(),
        options=ConvertOptions(workers=0, splits=("val",)),
    )
    assert tokenstore.open(tmp_path / "val").splits == ("val",)
    with pytest.raises(SourceError, match=r"no split 'test'; it has train, val"):
        convert_source(
            source, tmp_path / "x", tokenizer=BrightnessTokenizer(), options=ConvertOptions(splits=("test",))
        )
    with pytest.raises(TokenizerError, match="multiples of 8"):
        convert_source(
            source, tmp_path / "x", tokenizer=BrightnessTokenizer(), options=ConvertOptions(image_size=30)
        )


def test_a_zip_file_is_local_and_may_be_named_by_a_url(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 2)
    source = open_source(tmp_path / "images")
    url = f"file://{tmp_path}/out.zip"
    convert_source(source, url, tokenizer=BrightnessTokenizer(), options=OPTIONS)
    assert zipfile.is_zipfile(tmp_path / "out.zip")
    assert len(tokenstore.open(url)["train"]) == 6
    with pytest.raises(StoreError, match="zip file can only be written to a local path"):
        convert_source(source, "memory://x/out.zip", tokenizer=BrightnessTokenizer(), options=OPTIONS)


def test_members_of_a_zip_file_may_be_larger_than_its_old_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    write_grey_folder(tmp_path / "images", 9)
    source = open_source(tmp_path / "images")
    convert_source(source, tmp_path / "out.zip", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    assert len(tokenstore.open(tmp_path / "out.zip")["train"][:]) == 27


@pytest.mark.parametrize("codec", ["bitpack", "zstd", "context", "auto"])
def test_ready_codes_are_stored_as_they_are(tmp_path: Path, codec: str) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 300, (50, 2, 3)).astype(np.uint16)
    masks = rng.integers(0, 5, (50, 4, 4)).astype(np.uint8)
    labels = rng.integers(0, 4, 50)
    np.savez(tmp_path / "a.npz", tokens=codes, labels=labels, masks=masks)
    options = ConvertOptions(codec=codec, chunk_samples=8, shard_samples=16)
    convert_source(open_source(tmp_path / "a.npz"), tmp_path / "out", options=options)
    reader = tokenstore.open(tmp_path / "out")["train"]
    assert np.array_equal(reader[:], codes)
    assert np.array_equal(reader.read("masks", np.arange(50)), masks)
    assert np.array_equal(reader.labels, labels)
    assert reader.store.manifest.codebook_sizes == (int(codes.max()) + 1,)
    assert verify(str(tmp_path / "out")).problems == []


@pytest.mark.parametrize("shape", [(8, 4), (1, 8, 4), (2, 9, 4), (8,), (3, 8, 4)])
def test_no_store_has_vectors_that_its_verification_refuses(shape: tuple[int, ...]) -> None:
    spec = StoreSpec(TokenizerIdentity("t"), (2, 3, 3), (8, 8), codebook=np.zeros((2, 8, 4), np.float32))
    with pytest.raises(ManifestError, match="codebook: expected vectors of 8 codes in each of 2"):
        replace(spec, codebook=np.zeros(shape, np.float32))


def test_a_codebook_file_decides_the_number_of_codebooks(tmp_path: Path) -> None:
    codes = np.arange(36, dtype=np.int16).reshape(2, 2, 3, 3) % 8
    np.savez(tmp_path / "codes.npz", tokens=codes, codebook=np.zeros((2, 8, 4), np.float32))
    np.save(tmp_path / "one.npy", np.zeros((8, 4), np.float32))
    for out, codebook, sizes in (("own", None, (8, 8)), ("one", tmp_path / "one.npy", (8,))):
        convert_source(open_source(tmp_path / "codes.npz"), tmp_path / out, codebook=codebook)
        assert tokenstore.open(tmp_path / out).manifest.codebook_sizes == sizes
        assert verify(tmp_path / out).problems == []


def test_a_codebook_file_goes_into_the_store_with_its_fingerprint(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.save(tmp_path / "codebook.npy", vectors)
    np.save(tmp_path / "codes.npy", np.arange(12, dtype=np.uint8).reshape(4, 3))
    convert_source(open_source(tmp_path / "codes.npy"), tmp_path / "out", codebook=tmp_path / "codebook.npy")
    store = tokenstore.open(tmp_path / "out")
    assert np.array_equal(store.codebook, vectors)
    assert store.manifest.codebook_sizes == (20,)
    assert store.manifest.tokenizer.fingerprint is not None


def test_the_store_names_the_tokenizer_and_how_images_were_prepared(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 1)
    options = ConvertOptions(workers=0, resize="pad")
    convert_source(
        open_source(tmp_path / "images"), tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options
    )
    attributes = json.loads((tmp_path / "out" / "zarr.json").read_bytes())["attributes"]["tokenstore"]
    assert attributes["tokenizer"] == {"name": "brightness", "fingerprint": "b" * 64}
    assert attributes["preprocessing"] == {"height": 16, "width": 16, "resize": "pad", "filter": "bicubic"}


def test_the_store_remembers_where_its_source_was_but_no_password(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 2)
    source = open_source(tmp_path / "images")
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    assert tokenstore.open(tmp_path / "out").manifest.source_location == str(tmp_path / "images")


def test_an_unknown_codec_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", np.zeros((4, 3), np.uint8))
    with pytest.raises(ManifestError, match=r"codec: expected one of .*found 'gzip'"):
        convert_source(
            open_source(tmp_path / "codes.npy"), tmp_path / "out", options=ConvertOptions(codec="gzip")
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("tokenizer_spec", "'tokenizer'"),
        ("code_book", "'codebook'"),
        ("image_sise", "'image_size'"),
        ("resum", "'resume'"),
    ],
)
def test_a_wrong_keyword_names_the_right_one(tmp_path: Path, wrong: str, right: str) -> None:
    with pytest.raises(TypeError, match=f"convert\\(\\) has no option '{wrong}'. Did you mean {right}"):
        tokenstore.convert(tmp_path, tmp_path / "out", **{wrong: "default"})
