"""A misspelt name is answered with the name that is meant, in commands and in Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.stores import random_codes, write_store
from tokenstore_cli.main import cli
from tokenstore_cli.seitpp import cli as seitpp

import tokenstore
from seitpp_models.networks import TokenClassifier
from seitpp_models.training import finetune
from tokenstore.augment import Requantise
from tokenstore.codecs import codec_class
from tokenstore.errors import did_you_mean
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions
from tokenstore.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suggestions")
    codes, labels = random_codes(4, (4, 4), 16), np.arange(4, dtype=np.int32)
    columns = {"captions_length": labels}
    vectors = np.eye(16, 8, dtype=np.float32)
    splits = dict.fromkeys(("train", "val"), (codes, labels, columns))
    write_store(folder / "store", splits, 16, class_names=("cat", "dog", "cow", "hen"), codebook=vectors)
    np.save(folder / "train.npy", codes)
    return folder / "store"


Call = Callable[[Path], Any]
CALLS: dict[str, tuple[Call, str]] = {
    "a split": (lambda store: tokenstore.open(store)["tarin"], "train"),
    "a split to train on": (lambda store: finetune(store, store.parent / "run", split="trian"), "train"),
    "a split to evaluate on": (
        lambda store: finetune(store, store.parent / "run", evaluate_split="vall"),
        "val",
    ),
    "a split to convert": (
        lambda store: tokenstore.convert(store.with_name("train.npy"), store.parent / "b", splits=["trian"]),
        "train",
    ),
    "a column": (lambda store: tokenstore.TokenDataset(store, columns=["token"]), "tokens"),
    "a class": (lambda store: tokenstore.TokenDataset(store).filter(labels="Cat"), "cat"),
    "a codec": (lambda store: tokenstore.recode(store, store.parent / "out", codec="bitpak"), "bitpack"),
    "a codec of codecs": (lambda _: codec_class("contxt"), "context"),
    "a codec of a conversion": (
        lambda store: tokenstore.convert(store.with_name("train.npy"), store.parent / "c", codec="ztsd"),
        "zstd",
    ),
    "a tokenizer": (lambda _: load_tokenizer("vit-vqgam:weights.ckpt"), "vit-vqgan"),
    "an option of a conversion": (
        lambda store: tokenstore.convert(store.parent, store.parent / "d", image_sise=64),
        "image_size",
    ),
    "a way to resize": (lambda _: ImageOptions(8, "corp"), "crop"),  # type: ignore[arg-type]
    "a metric": (lambda _: Requantise(torch.eye(4), metric="cosin"), "cosine"),  # type: ignore[arg-type]
    "an end of mixing": (
        lambda store: tokenstore.mix([tokenstore.TokenDataset(store)], stopping="all-exhausted"),  # type: ignore[arg-type]
        "all_exhausted",
    ),
    "a kind of source": (lambda store: open_source(store, "image-folder"), "imagefolder"),
    "an image format": (lambda store: tokenstore.reconstruct(store, [0], store.parent, format="pgn"), ".png"),
    "a model": (lambda _: TokenClassifier("convnext_tinny"), "convnext_tiny"),
    "a model of this package": (lambda store: finetune(store, store.parent / "run", model="smal"), "small"),
    "a recipe": (
        lambda store: finetune(store, store.parent / "run", config="finetune-one-gup"),
        "finetune-one-gpu",
    ),
    "a setting": (
        lambda store: finetune(store, store.parent / "run", batchsize=3),  # type: ignore[call-arg]
        "batch_size",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_misspelt_name_gets_a_suggestion(store: Path, name: str) -> None:
    call, meant = CALLS[name]
    with pytest.raises(Exception, match=rf"\. Did you mean .*'{meant}'"):
        call(store)


@pytest.mark.parametrize(
    ("program", "words", "meant"),
    [
        (cli, "stast STORE", "stats"),
        (seitpp, "evalute STORE", "evaluate"),
        (cli, "recode STORE --codec bitpak", "bitpack"),
        (cli, "preview STORE -o sheet.png --split trian", "train"),
        (seitpp, "finetune STORE --out run --model smal", "small"),
    ],
)
def test_a_misspelt_word_of_a_command_gets_a_suggestion(
    store: Path, program: Any, words: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(program, words.replace("STORE", str(store)).split())
    assert result.exit_code in (1, 2)
    assert f"Did you mean '{meant}'" in result.output


def test_what_is_like_nothing_gets_no_suggestion() -> None:
    assert did_you_mean("imagenet", ["train", "val"]) == ""
    assert did_you_mean("x" * 10**6, ["train", "val"]) == ""
    assert did_you_mean(5, []) == ""
