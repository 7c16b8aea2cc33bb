"""The libraries that exports are for read them: datasets and webdataset, which do not know tokenstore."""

from __future__ import annotations

import gc
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer
from helpers.exported_stores import CLASSES, GRID, exported_store
from PIL import Image

import tokenstore

SHADES = np.arange(0, 250, 10, dtype=np.uint8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the store of all exports."""
    return exported_store(tmp_path_factory.mktemp("libraries") / "store")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Import Hugging Face's library, with its cache in a temporary folder and without a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield pytest.importorskip("datasets", reason="needs the package datasets, of the extra dev")


def check(store: Path, rows: Any, split: str) -> None:
    reader = tokenstore.open(store)[split]
    assert len(rows) == len(reader)
    assert np.array_equal(np.array(rows["tokens"][:]), reader[:])
    assert rows.features["label"].names == list(CLASSES)
    assert reader.labels is not None
    assert list(rows["label"][:]) == reader.labels.tolist()
    if split == "train":
        assert list(rows["caption"][:]) == reader.read("caption").tolist()
        for mine, theirs in zip(reader.read("boxes"), rows["boxes"][:], strict=True):
            assert np.array_equal(np.array(theirs, np.float32).reshape(mine.shape), mine)
        masks = np.array(rows["masks"][:])
        assert np.array_equal(masks, reader.read("masks"))


def test_datasets_loads_parquet_files_and_the_folder_with_its_card(
    store: Path, tmp_path: Path, datasets: Any
) -> None:
    tokenstore.export(store, tmp_path / "out", to="parquet", rows_per_file=10)
    files = {split: str(tmp_path / "out" / "data" / f"{split}-*") for split in ("train", "val")}
    for split, pattern in files.items():
        loaded = datasets.load_dataset(
            "parquet", data_files={split: pattern}, cache_dir=str(tmp_path / "cache")
        )
        check(store, loaded[split], split)
    whole = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in whole.items()} == {"train": 23, "val": 5}
    assert np.array(whole["train"].with_format("numpy")[2]["tokens"]).shape == GRID


def test_datasets_loads_a_folder_as_its_own_library_saves_it(
    store: Path, tmp_path: Path, datasets: Any
) -> None:
    tokenstore.export(store, tmp_path / "out", to="hf", rows_per_file=10)
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    assert list(loaded) == ["train", "val"]
    for split in loaded:
        check(store, loaded[split], split)
    alone = datasets.load_from_disk(str(tmp_path / "out" / "val"))
    assert alone.features == loaded["val"].features
    shuffled = loaded["train"].shuffle(seed=0).filter(lambda row: row["label"] == 1)
    assert set(shuffled["label"][:]) == {1}


def grey_store(path: Path) -> Path:
    codes = np.repeat(SHADES, 4).reshape(-1, 2, 2)
    tokenizer = BrightnessTokenizer()
    tokenstore.write(
        path, codes, labels=np.arange(len(SHADES)) % 2, tokenizer=tokenizer, class_names=("a", "b")
    )
    return path


@pytest.mark.parametrize(("layout", "format"), [("parquet", "png"), ("hf", "jpeg")])
def test_pictures_are_those_of_the_codes_and_datasets_knows_them_as_images(
    tmp_path: Path, datasets: Any, layout: str, format: str
) -> None:
    store = grey_store(tmp_path / "store")
    settings: dict[str, Any] = {"pictures": True, "picture_format": format, "picture_size": 4}
    tokenstore.export(store, tmp_path / "out", to=layout, tokenizer=BrightnessTokenizer(), **settings)
    if layout == "parquet":
        rows = datasets.load_dataset(
            "parquet", data_files=str(tmp_path / "out" / "data" / "*"), cache_dir=str(tmp_path / "cache")
        )["train"]
    else:
        rows = datasets.load_from_disk(str(tmp_path / "out"))["train"]
    assert isinstance(rows.features["image"], datasets.Image)
    for row, shade in enumerate(SHADES):
        image = rows[row]["image"]
        assert max(image.size) == 4
        assert np.abs(np.asarray(image.convert("L")).astype(int) - int(shade)).max() <= 4
    assert "decoded from the codes" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_decodes_its_shards(store: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs the package webdataset, of the extra dev")
    tokenstore.export(store, tmp_path / "out", to="webdataset", rows_per_file=10)
    pattern = str(tmp_path / "out" / "train-{000000..000002}.tar")
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False).decode())
    gc.collect()  # which closes the files that the library leaves open
    reader = tokenstore.open(store)["train"]
    assert np.array_equal(np.stack([sample["tokens.npy"] for sample in samples]), reader[:])
    assert reader.labels is not None
    assert [sample["cls"] for sample in samples] == reader.labels.tolist()
    assert [sample["json"]["caption"] for sample in samples] == reader.read("caption").tolist()
    for sample, boxes in zip(samples, reader.read("boxes"), strict=True):
        assert np.array_equal(sample["boxes.npy"], boxes)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_decodes_pictures(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs the package webdataset, of the extra dev")
    store = grey_store(tmp_path / "store")
    settings: dict[str, Any] = {"pictures": True, "picture_format": "png"}
    tokenstore.export(store, tmp_path / "out", to="webdataset", tokenizer=BrightnessTokenizer(), **settings)
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "train-000000.tar"), shardshuffle=False))
    gc.collect()
    for sample, shade in zip(samples, SHADES, strict=True):
        assert abs(int(np.asarray(Image.open(io.BytesIO(sample["png"])))[0, 0, 0]) - int(shade)) <= 4
    assert json.loads(samples[0]["json"])["class_name"] == "a"
