"""Networks see images as they were in their training: of the same size, resized in the same way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks_to_evaluate import NAMES, VIT, run, said, saved, trained
from helpers.pictures import write_images
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import tokenstore
from seitpp_models.adapter.pairs import Pictures
from seitpp_models.evaluation import evaluate
from seitpp_models.weights import TrainedModel, load_model, save_model
from tokenstore.errors import ManifestError
from tokenstore.format import Preprocessing
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions, Resize, decode_image
from tokenstore.tokenizers import identity_of, load_tokenizer
from tokenstore.tokenizers.train.images import list_images

PREPARED = Preprocessing(64, 64, "crop")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "photos"
    rng = np.random.default_rng(3)
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
        coarse.resize((160, 96), Image.Resampling.BICUBIC).save(folder / name / "0.png")
    return folder


@pytest.fixture(scope="module")
def network() -> TrainedModel:
    """Return a network that was trained on images of 64x64 pixels, cropped; its tokenizer's have 256x256."""
    identity = identity_of(load_tokenizer("default"), "default")
    return replace(trained("vit", VIT | {"channels": 32}, tokenizer=identity), preprocessing=PREPARED)


def converted(photos: Path, store: Path, size: int, resize: Resize) -> Path:
    tokenstore.convert(photos, store, image_size=size, resize=resize, workers=0)
    return store


def test_images_are_measured_as_the_training_images_were_prepared(
    photos: Path, network: TrainedModel, tmp_path: Path
) -> None:
    file = saved(network, tmp_path / "model.safetensors")
    found = evaluate(file, images=photos, workers=0, threads=1)
    same = evaluate(file, store=converted(photos, tmp_path / "same", 64, "crop"), workers=0, threads=1)
    assert found.figures == pytest.approx(same.figures, rel=1e-5)
    assert found.images is not None
    assert (found.images.image_size, found.images.resize, found.notes) == ((64, 64), "crop", [])
    assert same.notes == []
    printed = said(run(file, "--images", photos))
    assert "64x64 pixels are 8x8 codes" in printed
    assert "resized by crop" in printed
    assert "note" not in printed


def test_another_size_or_resize_is_an_option_and_is_printed(
    photos: Path, network: TrainedModel, tmp_path: Path
) -> None:
    file = saved(network, tmp_path / "model.safetensors")
    trained_on = "note: the network was trained on images of 64x64 pixels (crop), and these are of "
    for words, found in (
        (("--image-size", 96), "96x96 pixels (crop)"),
        (("--resize", "squash"), "64x64 pixels (squash)"),
    ):
        assert trained_on + found in said(run(file, "--images", photos, *words))
    (document,) = (json.loads(run(file, "--images", photos, "--image-size", 96, "--json").stdout),)
    assert (document["image_size"], document["resize"]) == ([96, 96], "crop")
    assert len(document["notes"]) == 1


def test_a_store_of_images_that_were_prepared_otherwise_is_noted(
    photos: Path, network: TrainedModel, tmp_path: Path
) -> None:
    store = converted(photos, tmp_path / "store", 96, "squash")
    done = said(run(saved(network, tmp_path / "model.safetensors"), "--store", store, "--split", "train"))
    assert "trained on images of 64x64 pixels (crop), and these are of 96x96 pixels (squash)" in done


def test_a_file_that_does_not_say_how_images_were_prepared_keeps_working(
    photos: Path, network: TrainedModel, tmp_path: Path
) -> None:
    file, old = saved(network, tmp_path / "model.safetensors"), tmp_path / "old.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = {name: text for name, text in opened.metadata().items() if name != "preprocessing"}
        save_file({name: opened.get_tensor(name) for name in opened.keys()}, old, metadata)  # noqa: SIM118
    assert load_model(old).preprocessing is None
    for words, assumed in (((), "256x256 pixels (squash)"), (("--image-size", 64), "64x64 pixels (squash)")):
        assert (
            f"note: the network's file does not say how its training images were prepared; assumed: {assumed}"
            in said(run(old, "--images", photos, *words))
        )


def test_a_network_file_keeps_the_preparation_and_refuses_one_it_does_not_know(
    photos: Path, network: TrainedModel, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    for steps in (None, PREPARED, Preprocessing(96, 128, "pad")):
        save_model(replace(network, preprocessing=steps), file)
        assert load_model(file).preprocessing == steps
    for steps in (Preprocessing(64, 64, "fold"), Preprocessing(64, 64, "crop", "lanczos")):
        with pytest.raises(ManifestError, match=r"preprocessing.*(fold|lanczos)"):
            evaluate(replace(network, preprocessing=steps), images=photos, workers=0, threads=1)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_an_adapter_learns_from_the_pixels_of_a_conversion(tmp_path: Path, resize: Resize) -> None:
    folder = write_images(tmp_path / "images", 4, (90, 70))
    options = ImageOptions(64, resize)
    refs = list_images([open_source(folder)], 0.0).thumbnails
    expected = [torch.from_numpy(decode_image(ref.data(), options).pixels).permute(2, 0, 1) for ref in refs]
    drawn = Pictures(refs, options).draw(np.random.default_rng(0))
    assert any(torch.equal(drawn, image) for image in expected)
