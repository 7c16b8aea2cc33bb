"""Networks learn from a drawn view of each sample, and are measured on the central one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.network_commands import PRETRAIN, QUICK, losses, refused, seitpp
from helpers.network_stores import CLASSES, CODES, GRID, codebook
from helpers.stores import Samples, write_store

import tokenstore
from seitpp_models.evaluation import evaluate
from seitpp_models.training.network_run import WEIGHTS
from tokenstore import TokenDataset, TokenLoader
from tokenstore.codecs import Views

FLIP = ((0, 0, 48, 48, 0), (0, 0, 48, 48, 1))


def write_flips(path: Path, samples: int = 64, *, views: bool = True, first: bool = True) -> Path:
    """Write grids whose left halves repeat the class's code, and their mirror images, `first` or last.

    Without `views`, the grids are written alone.
    """
    rng = np.random.default_rng(3)
    splits = {}
    for name, count in (("train", samples), ("val", 24)):
        labels = (np.arange(count) % CLASSES).astype(np.int32)
        codes = rng.integers(CLASSES, CODES, (count, 2, *GRID)).astype(np.uint8)
        codes[:, 0, :, :3] = labels[:, None, None]
        codes[:, 1] = codes[:, 0, :, ::-1]
        splits[name] = Samples(codes[:, :: 1 if first else -1] if views else codes[:, 0], labels)
    fields = {"views": Views(2, FLIP if first else FLIP[::-1])} if views else {}
    write_store(path, splits, CODES, codebook=codebook(), class_names=tuple("abcd"), **fields)
    return path


@pytest.fixture(scope="module")
def flips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flips(tmp_path_factory.mktemp("flips") / "store")


def test_a_network_learns_from_drawn_views_and_is_measured_on_the_upright_one(
    flips: Path, tmp_path: Path
) -> None:
    done = seitpp("finetune", flips, "--out", tmp_path / "run", *QUICK, "--epochs", 1)
    assert done.exit_code == 0, done.output
    single = write_flips(tmp_path / "single", views=False)
    last = write_flips(tmp_path / "last", first=False)
    stores = (flips, single, last)
    views, one, other = (evaluate(tmp_path / "run" / WEIGHTS, store=store).figures for store in stores)
    assert views == one == other
    again = seitpp("finetune", flips, "--out", tmp_path / "again", *QUICK, "--epochs", 1)
    assert again.exit_code == 0, again.output
    assert losses(tmp_path / "again") == losses(tmp_path / "run")


def test_masked_codes_of_drawn_views_are_predicted(flips: Path, tmp_path: Path) -> None:
    done = seitpp("pretrain", flips, "--out", tmp_path / "run", *PRETRAIN, "--epochs", 1)
    assert done.exit_code == 0, done.output


def test_label_maps_do_not_follow_views(tmp_path: Path) -> None:
    codes = np.zeros((8, 2, *GRID), np.uint8)
    masks = {"masks": np.zeros((8, 12, 12), np.uint8)}
    write_store(
        tmp_path / "store", {"train": Samples(codes, None, masks)}, CODES, codebook=codebook(), views=Views(2)
    )
    told = refused("segment", tmp_path / "store", "--out", tmp_path / "run", "--classes", 4, *QUICK[:6])
    assert "expected one view of each image, found 2: label maps show the image" in told


def test_a_recipe_sees_both_views_in_turn(flips: Path) -> None:
    dataset = TokenDataset(flips)
    codes = tokenstore.open(flips)["train"][:]
    seen = np.zeros((len(dataset), 2), np.bool_)
    loader = TokenLoader(dataset, 64, num_threads=0)
    for _ in range(8):
        ((tokens, _),) = loader
        seen |= (tokens.numpy()[:, None] == codes).all(axis=(2, 3))
    assert seen.mean() > 0.9
