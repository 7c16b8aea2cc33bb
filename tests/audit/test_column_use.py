"""The statistics of further columns are those that plain counting gives."""

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
from tokenstore.audit import column_use
from tokenstore.audit.column_use import Spread
from tokenstore.audit.report.tables import column_ranges


def spread(values: Any) -> Spread:
    numbers = np.asarray(values, np.float64)
    return Spread(numbers.min(), pytest.approx(numbers.mean()), numbers.max())


@pytest.mark.parametrize("block", [2**22, 300])
def test_texts_lists_and_soft_labels_are_counted(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(column_use, "_BLOCK_NBYTES", block)
    split = write_ragged(tmp_path / "a.zarr")
    captions, boxes = split.columns["caption"], split.columns["boxes"]
    audit = tokenstore.stats(tmp_path / "a.zarr", further=True).splits["train"]
    assert audit.further is not None
    assert set(audit.further) == set(split.columns)
    texts, lists, soft = (audit.further[name] for name in ("caption", "boxes", "soft_labels"))
    assert (texts.kind, texts.distinct, texts.values) == ("text", len(set(captions)), None)
    assert texts.empty == sum(not text for text in captions) > 0
    assert texts.lengths == spread([len(text) for text in captions])
    assert (lists.kind, lists.distinct) == ("list of float32[4]", None)
    assert lists.empty == sum(not len(each) for each in boxes) > 0
    assert lists.lengths == spread([len(each) for each in boxes])
    assert lists.values == spread(np.concatenate(list(boxes)))
    assert (soft.empty, soft.lengths) == (0, None)
    assert soft.values is not None
    assert soft.values.mean == pytest.approx(0.2), "probabilities of five classes"
    (shown,) = (
        each for each in column_ranges(tokenstore.open(tmp_path / "a.zarr")["train"]) if "soft" in each.name
    )
    assert (shown.least, shown.most) == (soft.values.least, soft.values.greatest), "of a report"
    files = (tmp_path / "a.zarr" / "train" / "caption").rglob("*")
    assert texts.nbytes == sum(file.stat().st_size for file in files if file.is_file())


def test_numbers_are_counted_without_those_that_are_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = np.array([0.5, np.nan, 2, 2, -np.inf, 0], np.float32)
    vectors = np.arange(12, dtype=np.int16).reshape(6, 2)
    empty = np.full((6, 1), np.nan)
    columns = {"weight": weights, "vector": vectors, "none": empty}
    write_store(tmp_path / "a.zarr", {"train": (random_codes(6, (2, 2), 9), None, columns)}, 9)
    found = tokenstore.stats(tmp_path / "a.zarr", further=True).splits["train"].further
    assert found is not None
    assert (found["weight"].empty, found["weight"].values) == (2, Spread(0, pytest.approx(4.5 / 4), 2))
    assert (found["vector"].empty, found["vector"].values) == (0, Spread(0, 5.5, 11))
    assert (found["vector"].distinct, found["none"].empty, found["none"].values) == (None, 6, None)
    assert found["weight"].distinct == 5
    monkeypatch.setattr(column_use, "MOST_DISTINCT", 3)
    found = tokenstore.stats(tmp_path / "a.zarr", further=True).splits["train"].further
    assert found is not None
    assert found["weight"].distinct is None


@pytest.mark.parametrize("block", [2**22, 8])
def test_nan_is_one_distinct_value(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_use, "_BLOCK_NBYTES", block)
    columns = {"weight": np.array([np.nan, 1, np.nan, 2, np.nan, 1], np.float32)}
    write_store(tmp_path / "a.zarr", {"train": (random_codes(6, (2, 2), 9), None, columns)}, 9)
    found = tokenstore.stats(tmp_path / "a.zarr", further=True).splits["train"].further
    assert found is not None
    assert found["weight"].distinct == 3


def test_columns_are_read_and_printed_only_if_asked_for(tmp_path: Path) -> None:
    write_ragged(tmp_path / "a.zarr")
    assert tokenstore.stats(tmp_path / "a.zarr").splits["train"].further is None
    result = CliRunner().invoke(cli, ["stats", str(tmp_path / "a.zarr"), "--further-columns"])
    assert result.exit_code == 0, result.output
    rows = [line.split()[:2] for line in result.output.splitlines()]
    assert rows.count(["caption", "text"]) == 2, "one a split"
    command = ["stats", str(tmp_path / "a.zarr"), "--further-columns", "--json"]
    said = json.loads(CliRunner().invoke(cli, command).output)
    assert said == json.loads(json.dumps(tokenstore.stats(tmp_path / "a.zarr", further=True).to_dict()))
    assert said["splits"]["train"]["further"]["caption"]["lengths"]["least"] == 0
