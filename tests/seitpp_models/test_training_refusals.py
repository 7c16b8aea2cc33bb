"""The settings, stores and weights that training refuses, and the recipes and shares that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.network_commands import PRETRAIN, QUICK, lines, losses, refused, seitpp
from helpers.network_stores import CLASSES, CODES, GRID, write_labelled
from helpers.stores import write_store

import tokenstore
from seitpp_models.recipes import RECIPES
from seitpp_models.training.inputs import code_entropy, share_of, training_samples
from seitpp_models.training.network_run import WEIGHTS
from tokenstore.format.manifest import TokenizerIdentity


@pytest.fixture
def store(labelled: Path) -> Path:
    return labelled


def test_weights_of_another_tokenizer_are_refused(pretrained: Path, tmp_path: Path) -> None:
    other = TokenizerIdentity("other", "ab" * 32)
    store = write_labelled(tmp_path / "store", tokenizer=TokenizerIdentity("test", "cd" * 32))
    begun = seitpp("pretrain", store, "--out", tmp_path / "a", *PRETRAIN, "--epochs", 1)
    assert begun.exit_code == 0, begun.output
    theirs = write_labelled(tmp_path / "theirs", tokenizer=other)
    weights = tmp_path / "a" / WEIGHTS
    told = refused("finetune", theirs, "--out", tmp_path / "b", "--from", weights, *QUICK[4:])
    assert "which the network was trained on" in told


def test_weights_for_fewer_codes_are_refused(pretrained: Path, tmp_path: Path) -> None:
    codes = np.zeros((8, *GRID), np.uint8)
    vectors = np.eye(CODES + 1, 8, dtype=np.float32)
    labels = np.zeros(8, np.int32)
    write_store(tmp_path / "store", {"train": (codes, labels)}, CODES + 1, codebook=vectors)
    weights = pretrained / WEIGHTS
    told = refused("finetune", tmp_path / "store", "--out", tmp_path / "b", "--from", weights, *QUICK[4:])
    assert f"expected a store of {CODES} codes" in told


def test_labels_out_of_range_are_refused(store: Path, tmp_path: Path) -> None:
    told = refused("finetune", store, "--out", tmp_path / "run", *QUICK, "--classes", 3)
    assert "expected labels from 0 to 2, found 3 at row 3 and 23 more" in told
    told = refused("segment", store, "--out", tmp_path / "run", "--classes", 4, *QUICK[:6])
    assert "expected labels from 0 to 3 or 255, which is ignored, found 4 in the map of row 0" in told


def test_labels_that_number_no_classes_are_refused_before_a_network_is_made(tmp_path: Path) -> None:
    codes = np.zeros((40, *GRID), np.uint8)
    vectors = np.eye(CODES, 8, dtype=np.float32)
    labels = np.array([1, 5, 2_000_000_000, 2_000_000_001] * 10, np.int32)
    write_store(tmp_path / "store", {"train": (codes, labels)}, CODES, codebook=vectors)
    told = refused("finetune", tmp_path / "store", "--out", tmp_path / "run", *QUICK)
    assert "labels up to 2,000,000,001, but only 4 distinct" in told
    assert "or give --classes" in told


def test_columns_that_are_missing_or_of_another_size_are_refused(tmp_path: Path) -> None:
    codes = np.zeros((8, *GRID), np.uint8)
    vectors = np.eye(CODES, 8, dtype=np.float32)
    write_store(tmp_path / "bare", {"train": (codes,)}, CODES, codebook=vectors)
    told = refused("finetune", tmp_path / "bare", "--out", tmp_path / "run", *QUICK)
    assert "expected labels, found tokens" in told
    columns = {"masks": np.zeros((8, 13, 12), np.uint8)}
    write_store(tmp_path / "odd", {"train": (codes, None, columns)}, CODES, codebook=vectors)
    told = refused("segment", tmp_path / "odd", "--out", tmp_path / "run", "--classes", 2, *QUICK[:6])
    assert "expected label maps of whole multiples of the grid (6, 6), found (13, 12)" in told


def test_sizes_and_options_that_cannot_be_are_refused(store: Path, tmp_path: Path) -> None:
    def told(*arguments: object) -> str:
        return refused(*arguments[:1], store, "--out", tmp_path / "run", *arguments[1:])

    assert "found (7, 7) in patches of 1" in told("finetune", *QUICK, "--grid-size", 7)
    assert "expected whole patches" in told("pretrain", *PRETRAIN, "--patch", 4)
    assert "decoder_heads: expected a divisor" in told("pretrain", *QUICK, "--decoder-width", 100)
    assert "0 < low <= high" in told("pretrain", *PRETRAIN, "--mask-low", 0.9, "--mask-high", 0.5)
    assert "a warm-up shorter than the 3 steps of 1 epoch, found 3 steps" in told(
        "finetune", *QUICK, "--epochs", 1, "--warmup-epochs", 1
    )
    assert "--learning-rate inf: expected a finite number above 0" in told(
        "finetune", *QUICK, "--learning-rate", "inf"
    )
    assert "--evaluate-split vla: expected one of" in told("pretrain", *PRETRAIN, "--evaluate-split", "vla")
    assert "--adapter default: expected none with --augment none" in told(
        "finetune", *QUICK, "--augment", "none", "--adapter", "default"
    )
    assert "give --depth 4 or more" in told("segment", *QUICK, "--classes", 5)
    assert "two samples or more" in told("segment", *QUICK, "--classes", 5, "--batch-size", 1)
    assert "expected a model of timm, found 'resnet5'" in told("finetune", *QUICK[4:], "--model", "resnet5")


def test_held_out_samples_are_the_same_for_every_share_and_seed(tmp_path: Path) -> None:
    store = write_labelled(tmp_path / "store")
    figures = []
    for share, seed in ((1, 0), (0.5, 1)):
        out = tmp_path / f"run{seed}"
        options = [*QUICK, "--epochs", 1, "--learning-rate", 1e-30, "--held-out", 0.25, "--augment", "none"]
        options += ["--evaluate-split", "train", "--share", share, "--share-seed", seed]
        result = seitpp("finetune", store, "--out", out, *options)
        assert result.exit_code == 0, result.output
        assert f"{round(72 * share)} samples" in result.output or share < 1
        figures.append(lines(out / "evaluations.jsonl")[0]["loss"])
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_packaged_recipe_has_options_of_its_command(recipe: Path, tmp_path: Path) -> None:
    name = {"pretrain": "pretrain", "segment": "segment"}.get(recipe.stem.split("-")[0], "finetune")
    result = seitpp(
        name, tmp_path / "none", "--config", recipe.stem, "--out", tmp_path, "--classes", 3
    ) if name == "segment" else seitpp(
        name, tmp_path / "none", "--config", recipe.stem, "--out", tmp_path, "--device", "cpu"
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "no store" in result.output or "expected" in result.output
    assert "option" not in result.output


def test_a_recipe_file_gives_defaults_that_the_command_line_overrides(store: Path, tmp_path: Path) -> None:
    options = zip(QUICK[::2], QUICK[1::2], strict=True)
    named = "".join(f"{name.removeprefix('--')}: {value}\n" for name, value in options)
    (tmp_path / "recipe.yaml").write_text(f"{named}epochs: 7\naugment: none\n")
    recipe = ["--config", tmp_path / "recipe.yaml", "--epochs", 1]
    result = seitpp("finetune", store, "--out", tmp_path / "run", *recipe)
    assert result.exit_code == 0, result.output
    assert len(losses(tmp_path / "run")) == 3
    (tmp_path / "recipe.yaml").write_text("epoch: 7\n")
    result = seitpp("finetune", store, "--out", tmp_path / "run2", *recipe)
    assert result.exit_code == 2
    assert "finetune has no setting epoch" in result.output


def test_the_entropy_of_codes_is_that_of_their_shares(tmp_path: Path) -> None:
    codes = np.repeat(np.array([0, 0, 1, 2], np.uint8), 9).reshape(4, 3, 3)
    write_store(tmp_path / "store", {"train": (codes,)}, CODES, codebook=np.eye(CODES, 8, dtype=np.float32))
    samples = training_samples(tokenstore.open(tmp_path / "store"), "train", ("tokens",))
    assert code_entropy(samples) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(4))


def test_a_share_of_the_samples_is_one_of_each_class(store: Path) -> None:
    opened = tokenstore.open(store)

    def rows(share: float, seed: int) -> Sequence[int]:
        samples = share_of(training_samples(opened, "train", ("tokens", "labels")), share, seed)
        found = samples.rows.labels
        assert np.bincount(found).tolist() == [round(share * 24)] * CLASSES
        return samples.indices.tolist()  # type: ignore[union-attr]

    assert rows(0.25, 0) == rows(0.25, 0) != rows(0.25, 1)
