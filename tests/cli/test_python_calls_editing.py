"""Every command that makes stores of stores writes what the one Python call behind it writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.stores import contents, random_codes, write_store
from tokenstore_cli.main import cli

import tokenstore

CLASSES = ("cat", "dog", "lynx")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store of twelve samples in three classes, of which two are equal."""
    path = tmp_path_factory.mktemp("editing") / "store"
    codes = random_codes(12, (2, 3), 50)
    codes[7] = codes[2]
    settings: dict[str, Any] = {"codebook_size": 50, "class_names": CLASSES, "chunk_samples": 2}
    tokenstore.write(path, codes, labels=np.arange(12) % 3, shard_samples=4, **settings)
    return path


def output(*words: object) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def class_map(folder: Path) -> Path:
    (folder / "map.csv").write_text("lynx,cat\n")
    return folder / "map.csv"


Call = Callable[[Path, Path, Path], object]
"""A call of a store, a place, and a folder for further files."""

EDITS: dict[str, tuple[Callable[[Path, Path, Path], list[object]], Call]] = {
    "select": (
        lambda store, out, _: ["select", store, out, "--where", "label_name == 'cat'"],
        lambda store, out, _: tokenstore.select(store, out, where="label_name == 'cat'"),
    ),
    "split": (
        lambda store, out, _: ["split", store, out, "--val", 0.25, "--seed", 1],
        lambda store, out, _: tokenstore.split(store, out, shares={"val": 0.25}, seed=1),
    ),
    "relabel": (
        lambda store, out, folder: ["relabel", store, out, "--map", class_map(folder)],
        lambda store, out, folder: tokenstore.relabel(store, out, class_map=class_map(folder)),
    ),
    "rename-class": (
        lambda store, out, _: ["rename-class", store, "dog", "wolf", out],
        lambda store, out, _: tokenstore.rename_class(store, "dog", "wolf", out),
    ),
    "dedupe": (
        lambda store, out, _: ["dedupe", store, out],
        lambda store, out, _: tokenstore.dedupe(store, out),
    ),
}


@pytest.mark.parametrize("command", EDITS)
def test_a_command_writes_the_store_of_its_call(store: Path, tmp_path: Path, command: str) -> None:
    words, call = EDITS[command]
    output(*words(store, tmp_path / "a", tmp_path))
    call(store, tmp_path / "b", tmp_path)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_append_writes_the_store_of_its_call(store: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(store, tmp_path / name)
    output("append", tmp_path / "a", store, "--again")
    tokenstore.append(tmp_path / "b", store, again=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(tokenstore.open(tmp_path / "a")["train"]) == 24


@pytest.mark.filterwarnings("ignore:nothing says whether one tokenizer made the codes of an unknown source")
def test_append_takes_the_names_of_the_classes_of_arrays(store: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(store, tmp_path / name)
    np.save(tmp_path / "more.npy", random_codes(2, (2, 3), 50, 1))
    np.save(tmp_path / "more-labels.npy", np.array([0, 1]))
    (tmp_path / "names.txt").write_text("dog\nwolf\n")
    refused = CliRunner().invoke(cli, ["append", str(tmp_path / "a"), str(tmp_path / "more.npy")])
    assert refused.exit_code == 1
    assert "found labels without. Convert it with --class-names, or" in " ".join(refused.output.split())
    output("append", tmp_path / "a", tmp_path / "more.npy", "--class-names", tmp_path / "names.txt")
    tokenstore.append(tmp_path / "b", tmp_path / "more.npy", class_names=["dog", "wolf"])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert tokenstore.open(tmp_path / "a").class_names == (*CLASSES, "wolf")
    assert tokenstore.open(tmp_path / "a")["train"].labels[-2:].tolist() == [1, 3]  # type: ignore[index]


@pytest.mark.parametrize("place", ["new", None])
def test_files_that_are_kept_are_counted(store: Path, tmp_path: Path, place: str | None) -> None:
    shutil.copytree(store, tmp_path / "store")
    seen: list[tuple[str, int, int]] = []
    out = None if place is None else tmp_path / place
    tokenstore.rename_class(
        tmp_path / "store", "dog", "wolf", out, on_progress=lambda *step: seen.append(step)
    )
    total = seen[0][2]
    assert seen == [("keeping files", done, total) for done in range(1, total + 1)]
    assert total > 3


def test_duplicates_are_said_to_be_of_the_later_split(tmp_path: Path) -> None:
    codes = random_codes(6, (4, 4), 50)
    nearly = codes[3:4].copy()
    nearly[0, 0, 0] ^= 1
    write_store(tmp_path / "store", {"train": (codes,), "val": (np.concatenate([codes[:2], nearly]),)}, 52)
    said = output("dedupe", tmp_path / "store", "--near", 0.9).splitlines()
    assert said[:3] == [
        "exact: 2 samples of val also in train",
        "near: 1 pair of val and train",
        "to remove: 0 samples (train 0, val 0)",
    ]
