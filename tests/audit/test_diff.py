"""The differences of two stores: facts, columns, and samples by their content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.ragged import write_ragged
from helpers.stores import random_codes, write_store
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.format import TokenizerIdentity

CODES = random_codes(20, (2, 2), 391)
LABELS = (np.arange(20) % 3).astype(np.int32)


def written(path: Path, rows: Any = slice(None), **options: Any) -> Path:
    labels, columns = options.pop("labels", LABELS), options.pop("columns", {})
    codes = options.pop("codes", CODES)
    values = {"class_names": ("ant", "bee", "cat"), "chunk_samples": 2, "shard_samples": 8, **options}
    write_store(path, {"train": (codes[rows], labels[rows], columns)}, 391, **values)
    return path


def rows(found: Any) -> dict[str, tuple[str, str]]:
    return {each.what: (each.first, each.second) for each in found.differences}


def test_stores_of_the_same_samples_are_the_same_whatever_their_bytes(tmp_path: Path) -> None:
    one = written(tmp_path / "one")
    tokenstore.recode(one, tmp_path / "two", codec="bitpack", shard_samples=2)
    names = ("bee", "cat", "ant")
    written(tmp_path / "three", labels=np.array([2, 0, 1], np.int32)[LABELS], class_names=names)
    assert tokenstore.diff(one, one).same
    assert tokenstore.diff(one, tmp_path / "two").same
    assert rows(tokenstore.diff(one, tmp_path / "three")) == {
        "classes": ("3, in another order", "3, in another order")
    }


def test_samples_that_only_one_store_has_are_named_and_counted(tmp_path: Path) -> None:
    one = written(tmp_path / "one")
    two = written(tmp_path / "two", np.array([*range(3, 20), 7]))
    assert rows(tokenstore.diff(one, two)) == {
        "train: samples": ("20", "18"),
        "train: samples only here": (
            "3: rows 0 (train/0.png), 1 (train/1.png), 2 (train/2.png)",
            "1: rows 17 (train/17.png)",
        ),
    }
    assert rows(tokenstore.diff(one, two, samples=False)) == {"train: samples": ("20", "18")}
    three = written(tmp_path / "three", np.array([0, 2, 1, *range(3, 20)]))
    assert rows(tokenstore.diff(one, three)) == {"train: order": ("as there are", "another from row 1 on")}


def test_one_code_or_one_label_is_a_difference(tmp_path: Path) -> None:
    one = written(tmp_path / "one")
    codes, labels = CODES.copy(), LABELS.copy()
    codes[5, 1, 1] = (codes[5, 1, 1] + 1) % 391
    labels[6] = (labels[6] + 1) % 3
    for name, options, row in (("two", {"codes": codes}, 5), ("three", {"labels": labels}, 6)):
        other = written(tmp_path / name, **options)
        text = f"1: rows {row} (train/{row}.png)"
        assert rows(tokenstore.diff(one, other, jobs=1)) == {"train: samples only here": (text, text)}


def test_a_label_of_another_class_of_the_same_name_is_a_difference(tmp_path: Path) -> None:
    names, labels = ("crane", "bee", "crane"), LABELS.copy()
    labels[0] = 2
    one = written(tmp_path / "one", class_names=names)
    two = written(tmp_path / "two", class_names=names, labels=labels)
    text = "1: rows 0 (train/0.png)"
    assert rows(tokenstore.diff(one, two)) == {"train: samples only here": (text, text)}


def test_symmetries_are_compared(tmp_path: Path) -> None:
    partners = np.arange(391, dtype=np.int32)
    one = written(tmp_path / "one", symmetries=("flip",), permutations=partners[None])
    assert rows(tokenstore.diff(one, written(tmp_path / "two")))["symmetries"][1] == "none"
    other = partners.copy()
    other[:2] = 1, 0
    three = written(tmp_path / "three", symmetries=("flip",), permutations=other[None])
    assert list(rows(tokenstore.diff(one, three))) == ["symmetries"]


def test_facts_and_columns_are_compared(tmp_path: Path) -> None:
    one = written(tmp_path / "one", tokenizer=TokenizerIdentity("a", "ab" * 32), ignore_index=3)
    scores = np.arange(20, dtype=np.float32)
    two = written(
        tmp_path / "two",
        tokenizer=TokenizerIdentity("b", "cd" * 32),
        columns={"score": scores},
        codec="zstd",
        class_names=("ant", "bee", "cat", "dog"),
        codebook=np.zeros((391, 2), np.float32),
    )
    found = rows(tokenstore.diff(one, two))
    assert found["tokenizer"] == ("a (abababababab)", "b (cdcdcdcdcdcd)")
    assert found["ignore_index"] == ("3", "none")
    assert found["classes"] == ("3", "4, of which only here dog")
    assert found["train: score"] == ("not there", "float32")
    assert found["train: tokens"] == ("uint16[2, 2], bitpack", "uint16[2, 2], zstd")
    assert found["codebook"][0] == "none"
    assert set(found) == {"tokenizer", "ignore_index", "classes", "codebook", "train: score", "train: tokens"}


def test_other_grids_and_splits_are_compared_without_samples(tmp_path: Path) -> None:
    write_store(tmp_path / "one", {"train": (CODES,), "val": (CODES[:2],)}, 391)
    write_store(tmp_path / "two", {"train": (CODES[:, :1],)}, 391)
    found = rows(tokenstore.diff(tmp_path / "one", tmp_path / "two"))
    assert found["grid"] == ("(2, 2)", "(1, 2)")
    assert found["split val"] == ("there", "not there")


@pytest.mark.parametrize("changed", [False, True])
def test_texts_and_lists_are_compared(tmp_path: Path, changed: bool) -> None:
    write_ragged(tmp_path / "one")
    write_ragged(tmp_path / "two", seed=int(changed))
    assert tokenstore.diff(tmp_path / "one", tmp_path / "two").same != changed


def test_the_command_prints_rows_and_ends_with_1(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one"), written(tmp_path / "two", slice(1, None))
    result = CliRunner().invoke(cli, ["info", str(one), "--diff", str(two)])
    assert result.exit_code == 1
    assert [" ".join(line.split()) for line in result.output.splitlines()] == [
        f"store < {tokenstore.open(one).files.storage.url}",
        f"> {tokenstore.open(two).files.storage.url}",
        "train: samples < 20",
        "> 19",
        "train: samples only here < 1: rows 0 (train/0.png)",
        "> none",
    ]
    said = json.loads(CliRunner().invoke(cli, ["info", str(one), "--diff", str(two), "--json"]).output)
    assert said == json.loads(json.dumps(tokenstore.diff(one, two).to_dict()))
    result = CliRunner().invoke(cli, ["info", str(one), "--diff", str(one)])
    assert (result.exit_code, result.output) == (0, "the same facts and samples\n")
