"""The plan of a run: the strength of its noise, and the samples that it evaluates on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.network_commands import PRETRAIN, QUICK, seitpp
from helpers.network_stores import CODES, GRID, SAMPLES, codebook, write_labelled
from helpers.stores import random_codes, write_store

import tokenstore
from seitpp_models.training import TrainingPlan, finetune, pretrain, segment
from seitpp_models.training.augmentations import noise_identity
from seitpp_models.training.segmenting import names_of_masks
from tokenstore.errors import ArgumentError


class StoppedError(Exception):
    """The end of a run whose plan is known."""


def plan(train: Callable[..., Any], store: Path, out: Path, **settings: Any) -> TrainingPlan:
    """Return the plan of a run, which is stopped before its first step."""
    plans: list[TrainingPlan] = []

    def begin(plan: TrainingPlan) -> None:
        plans.append(plan)
        raise StoppedError

    settings = {"model": "tiny", "depth": 1, "adapter": "none", "batch_size": 32, "device": "cpu"} | settings
    with pytest.raises(StoppedError):
        train(store, out, warmup_epochs=0.5, on_begin=begin, **settings)
    return plans[0]


def written(path: Path, *splits: str) -> Path:
    """Write a store whose splits have four classes each."""
    rng = np.random.default_rng(0)
    labels = np.arange(SAMPLES, dtype=np.int32) % 4
    codes = {split: rng.integers(0, CODES, (SAMPLES, *GRID)).astype(np.uint8) for split in splits}
    samples = {split: (of_split, labels) for split, of_split in codes.items()}
    write_store(path, samples, CODES, codebook=codebook())  # type: ignore[arg-type]
    return path


def notes(plan: TrainingPlan, word: str) -> list[str]:
    return [note for note in plan.notes if word in note]


def test_held_out_samples_and_the_splits_that_are_not_used_are_named(tmp_path: Path) -> None:
    store = written(tmp_path / "store", "train", "test", "probe")
    of_run = plan(finetune, store, tmp_path / "run")
    [note] = notes(of_run, "held out")
    assert note.startswith(
        f"{SAMPLES - of_run.samples} samples of split train are held out to evaluate on, as the store has no "
        "split 'val'; other splits are "
    )
    assert "test" in note
    assert "probe" in note
    assert "evaluate_split=" in note
    assert not notes(plan(finetune, store, tmp_path / "run2", evaluate_split="test"), "held out")
    done = seitpp("finetune", store, "--out", tmp_path / "run3", *QUICK, "--epochs", 1)
    assert "held out to evaluate on, as the store has no split 'val'" in " ".join(done.output.split())
    assert "--evaluate-split " in done.output


def test_a_run_that_evaluates_nothing_names_the_other_splits(tmp_path: Path) -> None:
    store = written(tmp_path / "store", "train", "test")
    sizes = {"decoder_width": 32, "decoder_depth": 1}
    [note] = notes(plan(pretrain, store, tmp_path / "run", **sizes), "nothing is evaluated")
    assert note == (
        "nothing is evaluated, as the store has no split 'val'; other splits are test: evaluate_split='test' "
        "evaluates on test"
    )
    alone = plan(pretrain, written(tmp_path / "alone", "train"), tmp_path / "run2", **sizes)
    assert notes(alone, "evaluated") == ["nothing is evaluated, as the store has no split 'val'"]
    [note] = notes(plan(finetune, store, tmp_path / "run3", held_out=0.0), "nothing is evaluated")
    assert "other splits are test" in note
    own = {"split": "test", "evaluate_split": "test"}
    [note] = notes(plan(finetune, store, tmp_path / "run4", **own), "held out")
    assert note.endswith(
        "as the run trains on split 'test'; other splits are train: evaluate_split='train' evaluates on train"
    )


def test_a_run_says_how_strong_its_noise_is(tmp_path: Path) -> None:
    store = written(tmp_path / "store", "train", "val")
    deviation = f"{codebook().std(ddof=1):.4g}"
    expected = f"have a standard deviation of {deviation}"
    for settings, strength in (({}, deviation), ({"noise": "published"}, "1"), ({"noise": 0.25}, "0.25")):
        of_run = plan(finetune, store, tmp_path / f"run{strength}", **settings)  # type: ignore[arg-type]
        [note] = notes(of_run, "Emb-Noise")
        assert note.startswith(f"Emb-Noise of strength {strength}; ")
        assert note.endswith(expected)
    assert not notes(plan(finetune, store, tmp_path / "plain", augment="none"), "Emb-Noise")
    for wrong in ("loud", -1):
        with pytest.raises(ArgumentError, match=f"noise={wrong!r}: expected a number .* or 'published'"):
            plan(finetune, store, tmp_path / "wrong", noise=wrong)


def test_segmenters_take_the_strength_of_their_noise(tmp_path: Path) -> None:
    store = write_labelled(tmp_path / "store", 32)
    sizes = {"classes": 5, "head": "linear", "ignore_index": 255}
    deviation = f"{codebook().std(ddof=1):.4g}"
    for settings, strength in (({}, deviation), ({"noise": "published"}, "1"), ({"noise": 0.25}, "0.25")):
        of_run = plan(segment, store, tmp_path / f"run{strength}", **sizes, **settings)  # type: ignore[arg-type]
        [note] = notes(of_run, "Emb-Noise")
        assert note.startswith(f"Emb-Noise of strength {strength}; ")
    with pytest.raises(ArgumentError, match="noise"):
        plan(segment, store, tmp_path / "idle", **sizes, noise=0.5, augment="none")


@pytest.mark.parametrize("labelled", [False, True])
def test_a_segmenter_has_the_names_that_are_of_label_maps(tmp_path: Path, labelled: bool) -> None:
    codes, masks = random_codes(8, GRID, CODES), np.zeros((8, 12, 12), np.uint8)
    labels = np.zeros(8, np.int32) if labelled else None
    splits = {"train": (codes, labels, {"masks": masks})}
    names = ("sky", "road")
    write_store(tmp_path / "store", splits, CODES, codebook=codebook(), class_names=names, ignore_index=255)
    store = tokenstore.open(tmp_path / "store")
    assert names_of_masks(store, 3) == (None if labelled else ("sky", "road", "2"))
    assert names_of_masks(store, 1) == (None if labelled else ("sky",))


def test_the_command_takes_the_published_noise_by_its_name(tmp_path: Path) -> None:
    store = written(tmp_path / "store", "train", "val")
    run = ["pretrain", store, "--out", tmp_path / "run", *PRETRAIN, "--epochs", 1, "--emb-noise", 0.5]
    done = seitpp(*run, "--noise", "published")
    assert done.exit_code == 0, done.output
    assert "Emb-Noise of strength 1; " in done.output
    again = seitpp(*run, "--noise", "1.0", "--resume")
    assert again.exit_code == 0, again.output
    wrong = seitpp("pretrain", store, "--out", tmp_path / "run2", *PRETRAIN, "--noise", "publish")
    assert wrong.exit_code == 2
    assert "Did you mean 'published'?" in wrong.output


def test_a_runs_noise_is_compared_by_its_number() -> None:
    assert [noise_identity(noise) for noise in (None, "published", 0.5)] == [None, 1.0, 0.5]
