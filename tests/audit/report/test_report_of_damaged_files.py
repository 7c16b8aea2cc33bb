"""A store with any one file damaged is shown as far as it can be read, and the damage is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.conformance import write_full
from helpers.stores import few_are_many, random_codes, write_store
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.audit.report import gathering
from tokenstore.errors import ManifestError, NotAStoreError

ARRAYS = {
    "train": ("labels", "masks", "tokens"),
    "val": ("labels", "tokens"),
}
OF_ARRAYS = [
    *(f"train/{name}/{file}" for name in ARRAYS["train"] for file in ("zarr.json", "shards.bin")),
    *(f"val/{name}/zarr.json" for name in ARRAYS["val"]),
]
"""The metadata of arrays, without which they cannot be read."""
SHARDS = [
    *(
        f"train/{name}/c/{shard}{rest}"
        for name, rest in (("labels", ""), ("tokens", "/0/0"))
        for shard in (0, 2)
    ),
    "train/masks/c/1/0/0",
    "val/labels/c/0",
    "val/tokens/c/0/0/0",
]
UNREAD = [
    *(f"{array}/{file}" for array in ("codebook", "synonyms") for file in ("zarr.json", "c/0/0")),
    *("train/zarr.json", "val/zarr.json", "val/samples.parquet"),
    *(f"train/samples.parquet/00000{part}.parquet" for part in (0, 1)),
]
"""The files that a page without pictures reads only to verify them."""
TABLES = ["train/skipped.parquet"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the store with everything, whose training split counts as one of many shards."""
    with few_are_many():
        return write_full(tmp_path_factory.mktemp("whole") / "store")


def damaged(whole: Path, path: Path, file: str, how: str) -> Path:
    """Copy a store, with one of its files missing, cut short, or with a changed byte."""
    shutil.copytree(whole, path)
    data = (path / file).read_bytes()
    (path / file).unlink()
    if how == "cut":
        (path / file).write_bytes(data[: len(data) // 2])
    elif how == "changed":
        middle = len(data) // 2
        (path / file).write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    return path


HOW = pytest.mark.parametrize("how", ["missing", "cut", "changed"])


def test_the_files_are_all_of_the_store_but_some_shards(whole: Path) -> None:
    files = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    rest = files - {"zarr.json", *OF_ARRAYS, *SHARDS, *UNREAD, *TABLES}
    assert {path.partition("/c/")[0] for path in rest} <= {f"train/{name}" for name in ARRAYS["train"]}
    assert len(files) - len(rest) == 1 + len(OF_ARRAYS) + len(SHARDS) + len(UNREAD) + len(TABLES)


@HOW
@pytest.mark.parametrize("file", [*OF_ARRAYS, *SHARDS, *UNREAD, *TABLES])
def test_a_damaged_file_is_named_and_the_rest_of_the_store_is_shown(
    whole: Path, tmp_path: Path, file: str, how: str
) -> None:
    store = damaged(whole, tmp_path / "store", file, how)
    made = tokenstore.report(store, near=None, shuffle=False, verify=True)
    assert any(file.partition("/c/")[0] in str(problem) for problem in made.problems)
    (shown,) = made.stores
    assert any(file.partition("/c/")[0] in problem for problem in shown.damage) == (file not in UNREAD)
    split, _, rest = file.partition("/")
    is_unread = file in OF_ARRAYS and rest.startswith("tokens/")
    assert set(shown.stats.splits) == ARRAYS.keys() - ({split} if is_unread else set())
    for name, of_split in shown.stats.splits.items():
        assert name == split or of_split.counted_samples == of_split.samples
    assert made.to_dict()["stores"][0]["damage"] == list(shown.damage)


@pytest.mark.parametrize("file", OF_ARRAYS)
def test_the_page_says_what_cannot_be_read(whole: Path, tmp_path: Path, file: str) -> None:
    store = damaged(whole, tmp_path / "store", file, "missing")
    page = tokenstore.report(store, near=None, shuffle=False).html()
    assert "This store is damaged" in page
    assert f"{file}: the file is missing" in page
    split, name, _ = file.split("/")
    assert (f"The labels of {split} cannot be read" in page) == (name == "labels")
    assert (f"The codes of {split} cannot be read at all" in page) == (name == "tokens")


@pytest.mark.parametrize(
    ("how", "error"), [("missing", NotAStoreError), ("cut", ManifestError), ("changed", ManifestError)]
)
def test_without_its_manifest_a_store_is_one_error(
    whole: Path, tmp_path: Path, how: str, error: type[Exception]
) -> None:
    store = damaged(whole, tmp_path / "store", "zarr.json", how)
    with pytest.raises(error, match=str(store)):
        tokenstore.report(store)
    assert list(tokenstore.report(store, whole, near=None, shuffle=False).unread) == [str(store)]


def test_a_store_whose_only_split_cannot_be_read_is_a_page_of_its_manifest(tmp_path: Path) -> None:
    write_store(tmp_path / "store", {"train": (random_codes(20, (4, 4), 16),)}, 16)
    (tmp_path / "store" / "train" / "tokens" / "zarr.json").unlink()
    words = ["report", str(tmp_path / "store"), "-o", str(tmp_path / "page.html")]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1
    assert "problem: " in result.stderr
    assert "train/tokens/zarr.json: the file is missing" in result.stderr
    page = (tmp_path / "page.html").read_text()
    assert "20 samples" in page
    assert "The codes of train cannot be read at all" in page


def test_the_page_says_which_part_of_a_huge_or_damaged_store_was_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = random_codes(1000, (4, 4), 16)
    write_store(tmp_path / "store", {"train": (codes,)}, 16, chunk_samples=10, shard_samples=100)

    def said() -> str:
        page = tokenstore.report(tmp_path / "store", near=None, shuffle=False).html()
        (line,) = [line for line in page.splitlines() if "Codes were counted in a part" in line]
        return line

    with monkeypatch.context() as patch:
        patch.setattr(gathering, "MOST_CODES", 16 * 500)
        assert "samples, chunks evenly spaced over each split: 500 of 1,000 in train." in said()
    (tmp_path / "store" / "train" / "tokens" / "c" / "0" / "0" / "0").unlink()
    assert "samples, chunks that can be read: 900 of 1,000 in train." in said()
    monkeypatch.setattr(gathering, "MOST_CODES", 16 * 500)
    spaced = "samples, those of chunks evenly spaced over each split that can be read: 450 of 1,000 in train."
    assert spaced in said()


def test_pictures_are_drawn_of_the_splits_that_can_be_read(tmp_path: Path) -> None:
    rows = random_codes(20, (8, 8), 2048)
    write_store(tmp_path / "store", {"train": (rows,), "val": (rows[:5], np.zeros(5, np.int32))}, 2048)
    (tmp_path / "store" / "train" / "tokens" / "zarr.json").unlink()
    made = tokenstore.report(tmp_path / "store", tokenizer="default", near=None, shuffle=False, samples=3)
    assert [picture.split for picture in made.stores[0].pictures.sheet] == ["val"] * 3
