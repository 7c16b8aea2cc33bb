"""Pixels for the VQ models of transformers, as the library's image processors make them; the fingerprint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.model_folders import spoil_config
from helpers.transformers_models import FAMILIES, as_pixels, noise

transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from tokenstore.errors import TokenizerError  # noqa: E402
from tokenstore.tokenizers.kinds.transformers_vq import (  # noqa: E402
    Normalisation,
    TransformersVQTokenizer,
    load,
)

# ---- pixels


def processor_of(family: str, **options: Any) -> Any:
    """Return the library's own image processor, which neither resizes nor crops here."""
    if family == "emu3":
        return transformers.Emu3ImageProcessor(do_resize=False, **options)
    module = f"transformers.models.{family}.image_processing_pil_{family}"
    name = f"{family.capitalize()}ImageProcessorPil"
    processor = getattr(pytest.importorskip(module), name)
    return processor(do_resize=False, do_center_crop=False, do_pad=False, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 1 / 127},
        {"do_normalize": False},
    ],
)
def test_pixels_are_those_of_the_folders_image_processor(
    saved: Path, tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    folder = shutil.copytree(saved / family, tmp_path / "model")
    processor = processor_of(family, **options)
    processor.save_pretrained(folder)
    images = noise(1, 3, 16, 24, seed=7)
    picture = images[0].permute(1, 2, 0).numpy()
    expected = torch.as_tensor(np.asarray(processor(picture, return_tensors="np")["pixel_values"]))
    tokenizer = load(str(folder))
    torch.testing.assert_close(tokenizer.normalisation.to_pixels(images)[0], expected[0].float())
    assert torch.equal(tokenizer.normalisation.to_images(expected.float()), images)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_an_image_processor_pixels_are_those_of_the_published_models(
    tokenizers: dict[str, TransformersVQTokenizer], family: str
) -> None:
    levels = noise(1, 3, 16, 16, seed=8)
    assert torch.equal(tokenizers[family].normalisation.to_pixels(levels), as_pixels(family, levels))


def test_the_processor_of_a_whole_model_goes_before_that_of_images(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"image_mean": 0.25, "image_std": 0.5}')
    one = load(str(folder))
    assert one.normalisation == Normalisation(1 / 255, (0.25,) * 3, (0.5,) * 3)
    (folder / "processor_config.json").write_text('{"processor_class": "JanusProcessor"}')
    assert load(str(folder)).normalisation == one.normalisation
    (folder / "processor_config.json").write_text('{"image_processor": {"do_rescale": false}}')
    assert load(str(folder)).normalisation == Normalisation(1.0, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    "values",
    [
        {"image_std": 0},
        {"image_std": [0.5, 0.5]},
        {"image_mean": ["a", 0, 0]},
        {"image_mean": None},
        {"rescale_factor": -1},
        {"rescale_factor": [1, 1]},
        {"rescale_factor": float("nan")},
    ],
)
def test_processors_that_make_no_sense_are_refused(folder: Path, values: dict[str, Any]) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(TokenizerError, match=r"preprocessor_config\.json: expected rescale_factor over 0"):
        load(str(folder))


# ---- the fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fingerprint_holds_the_weights_and_the_pixels(
    saved: Path, tmp_path: Path, tokenizers: dict[str, TransformersVQTokenizer], family: str
) -> None:
    folder = shutil.copytree(saved / family, tmp_path / "model")
    seen = {tokenizers[family].fingerprint, load(str(folder)).fingerprint}
    assert len(seen) == 1
    weights = load_file(folder / "model.safetensors")
    for name in ("quantize.embedding.weight", "encoder.conv_in.bias", "post_quant_conv.weight"):
        name = name if name in weights else name.replace(".weight", ".conv.weight")
        save_file(weights | {name: weights[name] + 0.125}, folder / "model.safetensors", {"format": "pt"})
        seen.add(load(str(folder)).fingerprint)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.25]}')
    seen.add(load(str(folder)).fingerprint)
    assert len(seen) == 5


def test_the_fingerprint_holds_what_of_the_config_decides_codes(
    saved: Path, tmp_path: Path, tokenizers: dict[str, TransformersVQTokenizer]
) -> None:
    folder = shutil.copytree(saved / "emu3", tmp_path / "model")
    spoil_config(folder, {"transformers_version": "4.0.0", "attention_dropout": 0.5})
    assert load(str(folder)).fingerprint == tokenizers["emu3"].fingerprint
    spoil_config(folder, {"num_attention_heads": 2})
    assert load(str(folder)).fingerprint != tokenizers["emu3"].fingerprint
