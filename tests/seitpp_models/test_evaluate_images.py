"""The evaluation of classifiers on images, as they are and corrupted."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.networks_to_evaluate import (
    CODES,
    GRID,
    MASKED,
    NAMES,
    VIT,
    run,
    said,
    saved,
    trained,
)
from PIL import Image
from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.evaluation import evaluate
from seitpp_models.evaluation.on_images import (
    CLEAN,
    Condition,
    Decoding,
    ImageEvaluation,
    evaluate_images,
    tokenizer_for,
)
from seitpp_models.evaluation.on_stores import evaluate_store
from seitpp_models.weights.files import TrainedModel
from tokenstore.augment import CodebookEmbedding
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import ArgumentError
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.reading import open_store
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions
from tokenstore.tokenizers import Tokenizer, load_tokenizer
from tokenstore.tokenizers.encoder import Encoder, identity_of


def write_photos(folder: Path, names: tuple[str, ...], count: int = 2) -> Path:
    rng = np.random.default_rng(3)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
            coarse.resize((80, 70), Image.Resampling.BICUBIC).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write six images of three of the six classes."""
    return write_photos(tmp_path_factory.mktemp("images") / "photos", NAMES[1:4])


@pytest.fixture(scope="module")
def photo_model() -> TrainedModel:
    """Return a network of the default tokenizer's codes."""
    return trained("vit", VIT | {"channels": 32}, tokenizer=identity_of(default_tokenizer(), "default"))


@functools.cache
def default_tokenizer() -> Tokenizer:
    return load_tokenizer("default")


def evaluated(
    network: TrainedModel, folder: Path, *conditions: Condition, all_classes: bool = False, **decoding: Any
) -> ImageEvaluation:
    encoder = Encoder(default_tokenizer(), ImageOptions(64))
    return evaluate_images(
        network,
        open_source(folder),
        "train",
        encoder,
        [CLEAN, *conditions],
        all_classes=all_classes,
        decoding=Decoding(**decoding),
    )


def test_images_are_classified_by_the_tokens_they_become(photos: Path, photo_model: TrainedModel) -> None:
    tokenizer = default_tokenizer()
    images = []
    for name in NAMES[1:4]:
        for number in range(2):
            with Image.open(photos / name / f"{number}.png") as image:
                images.append(np.array(image.resize((64, 64), Image.Resampling.BICUBIC)))
    codes = tokenizer.encode(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    labels = torch.tensor([1, 1, 2, 2, 3, 3])
    with torch.no_grad():
        logits = photo_model.model(CodebookEmbedding(tokenizer.codebook)(codes))
    found = evaluated(photo_model, photos).figures[CLEAN]
    assert found["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(logits[:, 1:4], labels - 1)), rel=1e-4
    )
    assert found["top1"] == pytest.approx(float((logits[:, 1:4].argmax(1) + 1 == labels).float().mean()))
    assert "top5" not in found
    of_all = evaluated(photo_model, photos, all_classes=True)
    assert of_all.figures[CLEAN]["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(logits, labels)), rel=1e-4
    )
    assert (of_all.samples, of_all.skipped, of_all.crop) == (6, [], GRID)


def test_images_give_the_figures_of_the_store_that_they_become(
    photos: Path, photo_model: TrainedModel, tmp_path: Path
) -> None:
    options = ConvertOptions(image_size=64, workers=0)
    convert_source(
        open_source(photos), tmp_path / "photos.zarr", tokenizer=default_tokenizer(), options=options
    )
    figures = evaluate_store(photo_model, open_store(tmp_path / "photos.zarr"), "train")
    assert figures == pytest.approx(evaluated(photo_model, photos).figures[CLEAN], rel=1e-5)


def test_images_of_a_table_are_found_by_the_options_of_a_conversion(
    photos: Path, photo_model: TrainedModel, tmp_path: Path
) -> None:
    files = sorted(photos.glob("*/*.png"))
    (tmp_path / "table").mkdir()
    (tmp_path / "photos").symlink_to(photos)
    columns = {
        "left": [file.read_bytes() for file in reversed(files)],
        "right": [f"../photos/{file.parent.name}/{file.name}" for file in files],
        "fine": [int(file.parent.name == NAMES[2]) + 2 * int(file.parent.name == NAMES[3]) for file in files],
        "coarse": [0] * len(files),
    }
    pq.write_table(pa.table(columns), tmp_path / "table/x.parquet")
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in NAMES[1:4]))
    settings: dict[str, Any] = {"image_size": 64, "workers": 0, "threads": 1, "split": "train"}
    expected = evaluate(photo_model, images=photos, **settings)
    options: dict[str, Any] = {
        "image_column": "right",
        "label_column": "fine",
        "allow_outside_paths": True,
        "class_names": str(tmp_path / "names.txt"),
    }
    measured = evaluate(photo_model, images=tmp_path / "table/x.parquet", **options, **settings)
    assert measured.figures == pytest.approx(expected.figures)
    words = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in options.items()
    ]
    words += ["--images", str(tmp_path / "table/x.parquet"), "--json", "--image-size", "64"]
    model = saved(photo_model, tmp_path / "model.safetensors")
    printed = json.loads(run(model, *words).output)
    assert printed["results"][0]["loss"] == pytest.approx(measured.figures["loss"])
    with pytest.raises(ArgumentError, match="allow_outside_paths"):
        evaluate(photo_model, store=tmp_path, allow_outside_paths=True)


def test_corruptions_do_not_depend_on_batches_and_threads(photos: Path, photo_model: TrainedModel) -> None:
    noise = [Condition("gaussian_noise", severity) for severity in (1, 5)]
    whole = evaluated(photo_model, photos, *noise, batch_size=6, threads=2).figures
    parts = evaluated(photo_model, photos, *noise, batch_size=4).figures
    assert list(whole) == [CLEAN, *noise]
    for condition in whole:
        assert parts[condition] == pytest.approx(whole[condition], rel=1e-5)
    assert len({figures["loss"] for figures in whole.values()}) == 3
    other = evaluated(photo_model, photos, *noise, seed=1).figures
    assert other[CLEAN] == pytest.approx(whole[CLEAN])
    assert other[noise[0]]["loss"] != pytest.approx(whole[noise[0]]["loss"])


def test_images_that_cannot_be_read_are_told_and_count_nowhere(
    photos: Path, photo_model: TrainedModel, tmp_path: Path
) -> None:
    folder = write_photos(tmp_path / "photos", NAMES[1:4])
    (folder / NAMES[2] / "0.png").write_bytes(b"no image")
    noise = Condition("gaussian_noise", 3)
    found = evaluated(photo_model, folder, noise)
    assert found.samples == 5
    assert [name for name, _ in found.skipped] == [f"{NAMES[2]}/0.png"]
    (folder / NAMES[2] / "0.png").write_bytes((photos / NAMES[2] / "0.png").read_bytes())
    assert evaluated(photo_model, folder, noise).samples == 6
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(ModelError, match="none of its images can be read"):
        evaluated(photo_model, folder)


def test_the_command_measures_a_classifier_on_images(
    photos: Path, photo_model: TrainedModel, tmp_path: Path
) -> None:
    file = saved(photo_model, tmp_path / "model.safetensors")
    words = ["--image-size", 64, "--workers", 0, "--threads", 1]
    noise = ["--corruption", "contrast", "--corruption", "pixelate", "--severity", 5, "--severity", 2]
    done = run(file, "--images", photos, *words, *noise)
    assert done.exit_code == 0, done.output
    assert "6 images of split train; 64x64 pixels are 8x8 codes of conv-vq-symmetric-8x-2k" in said(done)
    found = json.loads(run(file, "--images", photos, *words, *noise, "--json").stdout)
    rows = [(row["corruption"], row["severity"]) for row in found["results"]]
    assert rows == [(None, 0), ("contrast", 2), ("contrast", 5), ("pixelate", 2), ("pixelate", 5)]
    for word in ("corruption", "severity", "none", "contrast", "pixelate", "top-1"):
        assert word in done.output
    expected = evaluated(photo_model, photos, Condition("pixelate", 5))
    for row, figures in zip(found["results"][::4], expected.figures.values(), strict=True):
        assert {name: row[name] for name in figures} == pytest.approx(figures, rel=1e-4)
    assert (found["samples"], found["classes"], found["grid"], found["crop"]) == (6, 3, [8, 8], [8, 8])


def test_every_corruption_can_be_asked_for_at_once() -> None:
    from seitpp_models.evaluation.evaluating import _conditions

    assert len(_conditions(["all"], [])) == 1 + 13 * 5
    assert len(_conditions(["contrast", "contrast"], [3, 3])) == 2
    assert _conditions([], []) == [CLEAN]


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda folder: write_photos(folder, ("n02", "cat")), "found cat. Give the class folders"),
        (lambda folder: write_photos(folder, (".",)), "found images without labels"),
        (
            lambda folder: write_photos(folder, ("test/n02", "train/n02")),
            "no split 'val'; it has train, test",
        ),
        (lambda folder: np.save(folder.with_suffix(".npy"), CODES), "expected images, found ready codes"),
    ],
)
def test_images_whose_classes_are_not_known_are_refused(
    prepare: Callable[[Path], object], expected: str, photo_model: TrainedModel, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    prepare(folder)
    place = folder if folder.exists() else folder.with_suffix(".npy")
    file = saved(photo_model, tmp_path / "model.safetensors")
    refused = run(file, "--images", place, "--image-size", 64, "--workers", 0)
    assert refused.exit_code == 1
    assert expected in said(refused)


def test_another_tokenizer_and_another_kind_of_network_are_refused(
    photos: Path, photo_model: TrainedModel, tmp_path: Path
) -> None:
    file = saved(photo_model, tmp_path / "model.safetensors")
    jpeg = run(file, "--images", photos, "--tokenizer", "dct")
    assert jpeg.exit_code == 1
    assert "the tokenizer dct: expected codes of conv-vq-symmetric-8x-2k" in said(jpeg)
    identity = photo_model.tokenizer
    with pytest.raises(ModelError, match=r"expected codes of conv-vq-symmetric-8x-2k \(bbbbbbbbbbbb\)"):
        tokenizer_for(replace(photo_model, tokenizer=replace(identity, fingerprint="b" * 64)))
    unknown = replace(photo_model, tokenizer=TokenizerIdentity("mine", "b" * 64))
    with pytest.raises(Exception, match="The network's file names it 'mine'; name the tokenizer by tok"):
        tokenizer_for(unknown)
    pruned = replace(photo_model, tokenizer=replace(identity, kept_codes=((3, 5, 8),)))
    assert tokenizer_for(pruned).codebook_sizes == (3,)
    masked = saved(trained("masked", MASKED, tokenizer=identity), tmp_path / "masked.safetensors")
    refused = run(masked, "--images", photos)
    assert "expected a classifier for images, found a network of kind 'masked'" in said(refused)
