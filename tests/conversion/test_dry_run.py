"""The plan of a conversion: it counts, estimates and checks, and writes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.conversion import dry_run
from tokenstore.errors import ArgumentError, SampleError, StorageError, StoreExistsError
from tokenstore.sources import open_source

OPTIONS = {"workers": 0, "chunk_samples": 4, "shard_samples": 8}


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_plan_counts_and_estimates_what_the_conversion_makes_and_writes_nothing(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images" / "train", 12)
    write_grey_folder(tmp_path / "images" / "val", 2)
    (tmp_path / "images" / "train" / "class-1" / "003.png").write_bytes(b"")
    before = everything(tmp_path)
    out, tokenizer = tmp_path / "new" / "out", BrightnessTokenizer()
    arguments = {"tokenizer": tokenizer, "on_error": "skip", "workers": 0, "chunk_samples": 32}
    plan = tokenstore.plan(tmp_path / "images", out, **arguments)
    assert everything(tmp_path) == before
    assert {name: (split.samples, split.classes) for name, split in plan.splits.items()} == {
        "train": (36, 3),
        "val": (6, 3),
    }
    assert plan.splits["train"].columns == ("labels",)
    assert (plan.splits["train"].shards, plan.splits["val"].shards) == (1, 1)
    assert (plan.samples, plan.measured, plan.grid, plan.image_size) == (42, 42, (2, 2), (16, 16))
    assert plan.bad == (("train/class-1/003.png", "the file is empty"),)
    assert plan.seconds > 0
    assert plan.free_nbytes is not None
    assert not plan.resumes
    json.dumps(plan.to_dict())
    conversion = tokenstore.convert(tmp_path / "images", out, **arguments)
    files = conversion.manifest.files
    written = sum(record.size for path, record in files.items() if "/c/" in path or "samples" in path)
    assert written / 3 < plan.nbytes < written
    assert plan.source_nbytes == pytest.approx(conversion.manifest.splits["train"].source_bytes, rel=0.3)


def test_a_limit_and_a_part_are_counted_and_a_source_may_be_larger_than_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "SAMPLES", 5)
    source = open_source(write_grey_folder(tmp_path / "images", 4) and tmp_path / "images")
    some = {"tokenizer": BrightnessTokenizer(), **OPTIONS}
    assert tokenstore.plan(source, tmp_path / "out", **some).measured == 5
    plan = tokenstore.plan(source, tmp_path / "out", limit=10, part=(1, 2), **some)
    assert plan.samples == 5
    with pytest.raises(ArgumentError, match="expected a path to open"):
        tokenstore.plan(source, tmp_path / "out", labels="labels.csv", **some)


def test_the_plan_of_ready_codes_reads_some_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "codes.npz", codes=rng.integers(0, 256, (300, 4, 4)), labels=np.arange(300) % 7)
    plan = tokenstore.plan(tmp_path / "codes.npz", tmp_path / "out", codebook_size=256)
    assert (plan.samples, plan.measured, plan.image_size, plan.source_nbytes) == (300, 200, None, None)
    (split,) = plan.splits.values()
    assert split.classes == 7
    assert 300 * 16 < plan.nbytes < 300 * 60
    assert not (tmp_path / "out").exists()


def test_a_target_that_convert_would_refuse_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_grey_folder(tmp_path / "images", 4)
    arguments = {"tokenizer": BrightnessTokenizer(), **OPTIONS}
    tokenstore.convert(tmp_path / "images", tmp_path / "out", **arguments)
    with pytest.raises(StoreExistsError, match="already there"):
        tokenstore.plan(tmp_path / "images", tmp_path / "out", **arguments)
    with pytest.raises(ArgumentError, match="inside the source"):
        tokenstore.plan(tmp_path / "images", tmp_path / "images" / "out", **arguments)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StorageError, match="cannot be written"):
        tokenstore.plan(tmp_path / "images", tmp_path / "none" / "other", **arguments)


def test_a_source_of_bad_images_only_has_no_plan(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.png").write_bytes(b"")
    with pytest.raises(SampleError, match=r"no sample can be read; the first is bad\.png: the file is empty"):
        tokenstore.plan(tmp_path / "images", tmp_path / "out", tokenizer=BrightnessTokenizer(), **OPTIONS)


def test_the_command_prints_the_plan(tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", np.zeros((30, 2, 2), np.uint8))
    command = ["convert", str(tmp_path / "codes.npy"), str(tmp_path / "out"), "--dry-run"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0
    assert "train: 30 samples, no labels, 1 shard of tokens" in result.output
    assert "nothing is there yet" in result.output
    assert "estimated from 30 samples" in result.output
    printed = CliRunner().invoke(cli, [*command, "--log-json"]).output
    plan = json.loads(printed.splitlines()[-1])
    assert (plan["event"], plan["samples"]) == ("plan", 30)
    assert not (tmp_path / "out").exists()
