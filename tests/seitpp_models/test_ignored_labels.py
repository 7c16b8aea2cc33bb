"""Segmentation where the ignored label stands among those of the classes, as 0 does in ADE20K."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.network_commands import QUICK, refused, seitpp
from helpers.network_stores import CODES, GRID
from helpers.stores import write_store

import tokenstore
from seitpp_models.training.inputs import check_masks
from seitpp_models.training.network_run import WEIGHTS
from seitpp_models.weights.files import load_model

WORDS = (*QUICK, "--epochs", 1, "--head", "linear", "--augment", "none")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write label maps in which 0 is no class and 1, 2 and 3 are classes."""
    path, rng = tmp_path_factory.mktemp("scenes") / "store", np.random.default_rng(0)
    codes = rng.integers(0, CODES, (32, *GRID)).astype(np.uint8)
    columns = {"masks": rng.integers(0, 4, (32, 12, 12)).astype(np.uint8)}
    vectors = np.eye(CODES, 8, dtype=np.float32)
    write_store(path, {"train": (codes, None, columns)}, CODES, codebook=vectors, ignore_index=0)
    return path


@pytest.mark.parametrize("classes", [3, 4])
def test_the_number_of_classes_is_that_without_the_ignored_one(
    scenes: Path, tmp_path: Path, classes: int
) -> None:
    done = seitpp("segment", scenes, "--out", tmp_path / "run", "--classes", classes, *WORDS)
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "run" / WEIGHTS).shape.classes == 4
    again = seitpp("evaluate", tmp_path / "run" / WEIGHTS, "--store", scenes, "--split", "train")
    assert again.exit_code == 0, again.output


def test_a_label_beyond_the_last_class_is_refused(scenes: Path, tmp_path: Path) -> None:
    told = refused("segment", scenes, "--out", tmp_path / "run", "--classes", 2, *WORDS)
    assert "expected labels from 0 to 2 or 0, which is ignored, found 3 in the map of row" in told


@pytest.mark.parametrize(("ignored", "labels"), [(0, 4), (3, 3), (255, 4)])
def test_labels_are_counted_up_to_the_largest_that_is_not_ignored(
    scenes: Path, ignored: int, labels: int
) -> None:
    samples = tokenstore.TokenDataset(scenes, "train", columns=("tokens", "masks"))
    assert check_masks(samples, 4, ignored) == labels
