"""Names that a user gives to classes and to the tokenizer of ready codes, and what mixing then says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.errors import SourceError, StoreError
from tokenstore.sources import open_source

CODES = np.arange(24, dtype=np.uint8).reshape(6, 4)
VECTORS = np.eye(24, 8, dtype=np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def written(folder: Path, name: str, **arrays: Any) -> Path:
    np.savez(folder / f"{name}.npz", **{"tokens": CODES, "labels": LABELS, **arrays})
    return folder / f"{name}.npz"


def test_the_command_names_classes_and_the_tokenizer_of_ready_codes(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\nsea lion\r\nhen\n")
    np.save(tmp_path / "vectors.npy", VECTORS)
    words = [
        "convert",
        str(written(tmp_path, "a")),
        str(tmp_path / "store"),
        "--tokenizer-name",
        "llamagen-vq",
    ]
    words += ["--class-names", str(tmp_path / "classes.txt"), "--codebook", str(tmp_path / "vectors.npy")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    store = tokenstore.open(tmp_path / "store")
    assert store.class_names == ("cat", "sea lion", "hen")
    assert store.manifest.tokenizer.name == "llamagen-vq"
    assert store["train"].samples_table()["label_name"].to_pylist()[:2] == ["cat", "sea lion"]
    assert tokenstore.verify(tmp_path / "store").ok


def test_the_python_call_takes_a_list_of_names(tmp_path: Path) -> None:
    source = written(tmp_path, "a")
    one = tokenstore.convert(source, tmp_path / "one", class_names=["a", "b", "c"], tokenizer_name="vq")
    assert one.manifest.class_names == ("a", "b", "c")
    assert one.manifest.tokenizer.name == "vq"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"class_names": ["a", "b"]}, "class_names=.*label 2, but there are only 2 class names"),
        ({"class_names": ["a", "b", "a"]}, "class_names=.*a class once, found 'a' again"),
        ({"class_names": ["a", "", "c"]}, "found an empty one"),
        ({"class_names": "nowhere.txt"}, r"nowhere.txt: a file of class names cannot be read: No such file"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(SourceError, match=match):
        tokenstore.convert(written(tmp_path, "a"), tmp_path / "store", **options)


def test_names_that_a_source_has_itself_or_has_no_use_for_are_refused(tmp_path: Path) -> None:
    own = written(tmp_path, "own", class_names=np.array(["x", "y", "z"]))
    with pytest.raises(SourceError, match="the source names its classes itself"):
        tokenstore.convert(own, tmp_path / "store", class_names=["a", "b", "c"])
    np.save(tmp_path / "bare.npy", CODES)
    with pytest.raises(SourceError, match="the source has neither labels nor label maps"):
        tokenstore.convert(tmp_path / "bare.npy", tmp_path / "store", class_names=["a"])
    write_grey_folder(tmp_path / "images", 1)
    with pytest.raises(
        SourceError, match=r"tokenizer_name=\.\.\. goes with ready codes, not with kind imagefolder"
    ):
        tokenstore.convert(tmp_path / "images", tmp_path / "store", tokenizer_name="vq")


def test_stores_of_ready_codes_that_cannot_be_joined_say_how_they_could(tmp_path: Path) -> None:
    for name, options in {"a": {}, "b": {"tokenizer_name": "vq"}, "c": {"tokenizer_name": "vq"}}.items():
        tokenstore.convert(written(tmp_path, name), tmp_path / f"{name}.zarr", **options)
    unknown, one, other = (tokenstore.TokenDataset(tmp_path / f"{name}.zarr") for name in "abc")
    with pytest.raises(
        StoreError, match=r"again with its name and vectors, by tokenizer_name=\.\.\. and codebook="
    ):
        tokenstore.concat([unknown, one])
    assert len(tokenstore.concat([one, other])) == 12
    tokenstore.convert(written(tmp_path, "d"), tmp_path / "d.zarr")
    for joined in (tokenstore.concat, tokenstore.mix):
        with pytest.warns(
            UserWarning, match=r"whether one tokenizer made the codes of .*a.* and .*d.*tokenizer_name"
        ):
            joined([unknown, tokenstore.TokenDataset(tmp_path / "d.zarr")])
    assert len(tokenstore.concat([unknown, unknown])) == 12
    write_grey_folder(tmp_path / "images", 1)
    tokenstore.convert(
        tmp_path / "images", tmp_path / "i.zarr", tokenizer=BrightnessTokenizer(), image_size=16, workers=0
    )
    with pytest.raises(StoreError, match="convert the images of both"):
        tokenstore.concat([one, tokenstore.TokenDataset(tmp_path / "i.zarr")])


def test_class_names_may_be_an_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", tokens=np.zeros((2, 4), np.uint8), labels=np.arange(2))
    source = open_source(tmp_path / "a.npz", class_names=np.array(["cat", "dog"]))  # type: ignore[arg-type]
    assert source.class_names == ("cat", "dog")
