"""The record of a run in its folder: it repeats the run, and a resumed run is compared with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.network_commands import PRETRAIN, losses, refused, seitpp
from helpers.stores import random_codes, write_store

import tokenstore
from seitpp_models.training import finetune, pretrain
from tokenstore.errors import ArgumentError
from tokenstore.networks import has_bfloat16
from tokenstore.version import __version__


def write(path: Path, seed: int) -> Path:
    codebook = np.random.default_rng(0).standard_normal((32, 4), np.float32)
    write_store(path, {"train": (random_codes(64, (8, 8), 32, seed),)}, 32, codebook=codebook)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "store"
    return write(path, 0)


def test_a_run_repeated_from_its_record_gives_the_same_losses(store: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 2\nseed: 3\nmask-low: 0.5\n")
    done = seitpp(
        "pretrain",
        store,
        "--out",
        tmp_path / "run",
        "--config",
        recipe,
        *PRETRAIN,
        "--emb-noise",
        0.5,
        "--noise",
        0.25,
    )
    assert done.exit_code == 0, done.output
    record = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    run = record.pop("run")
    assert (record["epochs"], record["seed"], record["mask_low"], record["noise"]) == (2, 3, 0.5, 0.25)
    precision = "bf16" if has_bfloat16(torch.device("cpu")) else "fp32"
    assert (record["beta2"], record["precision"], record["adapter"]) == (0.95, precision, "none")
    assert run["command"] == "pretrain"
    assert run["versions"]["tokenstore"] == __version__
    assert run["versions"]["torch"]
    assert run["fingerprint"] == tokenstore.TokenDataset(store).fingerprint
    assert run["store"] == str(store)
    assert "seed" in run["given"]
    assert "beta2" not in run["given"]
    again = pretrain(store, tmp_path / "again", config=tmp_path / "run" / "config.yaml")
    assert again.steps == 4
    assert losses(tmp_path / "again") == losses(tmp_path / "run")
    repeated = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert repeated == {**record, "run": run}


def test_a_record_is_of_one_command_and_a_resumed_run_is_compared_with_it(
    store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    once = ("pretrain", store, "--out", out, *PRETRAIN, "--epochs", 1)
    assert seitpp(*once).exit_code == 0
    with pytest.raises(ArgumentError, match="expected the record of finetune, found one of pretrain"):
        finetune(store, tmp_path / "other", config=out / "config.yaml")
    assert seitpp(*once, "--resume", "--checkpoint-minutes", 9).exit_code == 0
    text = refused(*once, "--resume", "--seed", 5)
    assert "the run was begun with other inputs (seed 0 -> 5)" in text
    write(tmp_path / "moved", 1)
    text = refused("pretrain", tmp_path / "moved", *once[2:], "--resume")
    assert "of other samples" in text
    record = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(record.replace("command: pretrain", "command: segment"))
    assert "command segment -> pretrain" in refused(*once, "--resume")
    (out / "config.yaml").write_text("[")
    assert "expected the record of a run" in refused(*once, "--resume")
    (out / "config.yaml").unlink()  # of a run of an older version
    assert seitpp(*once, "--resume").exit_code == 0


def test_a_record_asks_for_nothing_that_nobody_asked_for(store: Path, tmp_path: Path) -> None:
    """Defaults such as an evaluation split that the store lacks are no error the second time."""
    options = (*PRETRAIN, "--epochs", 1)
    assert seitpp("pretrain", store, "--out", tmp_path / "a", *options).exit_code == 0
    words = ("pretrain", store, "--out", tmp_path / "b", "--config", tmp_path / "a" / "config.yaml")
    done = seitpp(*words, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "--evaluate-split" in refused(*words[:3], tmp_path / "c", *words[4:], "--evaluate-split", "val")
