"""VQModels of diffusers: the codes and images of the library, and the fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.diffusers_models import CODES, SIDE, WEIGHTS, as_pixels, build, noise
from helpers.model_folders import spoil_config
from PIL import Image
from safetensors.torch import load_file, save_file

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import TokenizerError
from tokenstore.sources import open_source
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.kinds.diffusers_vq import DiffusersVQTokenizer, image_size_of, load


def library_codes(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Return codes (B, h, w) of the model itself, image by image."""
    grids = []
    with torch.no_grad():
        for image in images.split(1):
            latents = model.encode(as_pixels(image)).latents
            grids.append(model.quantize(latents)[2][2].view(1, *latents.shape[2:]))
    return torch.cat(grids)


def library_images(model: Any, codes: torch.Tensor) -> torch.Tensor:
    """Return the images of the model's own decode, given codes or vectors as its config asks for."""
    table = model.quantize.embedding.weight
    rebuilt = []
    with torch.no_grad():
        for grid in codes.split(1):
            if model.config.lookup_from_codebook:
                shape = (*grid.shape, table.shape[1])
                sample = model.decode(grid.flatten(), force_not_quantize=True, shape=shape).sample
            else:
                sample = model.decode(table[grid].permute(0, 3, 1, 2), force_not_quantize=True).sample
            rebuilt.append(((sample.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(rebuilt)


# ---- codes and images


def test_the_tokenizer_says_what_its_config_says(tokenizer: DiffusersVQTokenizer, model: Any) -> None:
    assert tokenizer.name == "diffusers-vq"
    assert tokenizer.codebook_sizes == (CODES,)
    assert tokenizer.image_size == SIDE
    assert tokenizer.grid((3, SIDE, 2 * SIDE)) == (12, 24)
    assert tokenizer.codebook is not None
    assert tokenizer.codebook.dtype == np.float32
    assert np.array_equal(tokenizer.codebook, model.quantize.embedding.weight.detach().numpy())
    assert not tokenizer.network.training
    assert tokenizer.dtype == torch.float32


@pytest.mark.parametrize(("height", "width"), [(48, 48), (4, 4), (32, 56), (64, 16)])
def test_codes_are_those_of_the_library(
    tokenizer: DiffusersVQTokenizer, model: Any, height: int, width: int
) -> None:
    images = noise(3, height, width, seed=1)
    codes = tokenizer.encode(images)
    assert codes.dtype == torch.int64
    assert codes.shape == (3, *tokenizer.grid((3, height, width)))
    assert torch.equal(codes, library_codes(model, images))
    if height * width > 1000:
        assert codes.unique().numel() > 50


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lookup_from_codebook": True, "force_upcast": True, "scaling_factor": 0.5},
        {"norm_type": "spatial", "block_out_channels": (32, 32, 32), "vq_embed_dim": None},
        {"mid_block_add_attention": False, "vq_embed_dim": None, "act_fn": "relu"},
    ],
)
def test_every_kind_of_model_encodes_and_decodes_as_the_library(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = build(**changes)
    model.save_pretrained(tmp_path)
    tokenizer = load(str(tmp_path))
    images = noise(2, 16, 24, seed=2)
    codes = tokenizer.encode(images)
    assert torch.equal(codes, library_codes(model, images))
    rebuilt = tokenizer.decode(codes)
    assert rebuilt.dtype == torch.uint8
    assert rebuilt.shape == images.shape
    assert rebuilt.unique().numel() > 20
    # subtle: the last bit of a float may tip a level between two whole numbers
    difference = rebuilt.int() - library_images(model, codes).int()
    assert difference.abs().max() <= 1
    assert (difference == 0).float().mean() > 0.999


def test_codes_do_not_depend_on_the_batch_or_its_order(tokenizer: DiffusersVQTokenizer) -> None:
    images = noise(7, 24, 16, seed=3)
    alone = torch.cat([tokenizer.encode(image) for image in images.split(1)])
    assert torch.equal(tokenizer.encode(images), alone)
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    assert torch.equal(tokenizer.encode(images[order]), alone[order])
    assert torch.equal(tokenizer.decode(alone[order]), tokenizer.decode(alone)[order])


def test_codes_do_not_depend_on_the_number_of_threads(saved: Path, tokenizer: DiffusersVQTokenizer) -> None:
    images, before = noise(6, 16, 16, seed=4), torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        threaded = load(str(saved))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(threaded.encode(images), tokenizer.encode(images))


def test_a_config_of_pixels_gives_the_image_size_and_the_unset_one_does_not() -> None:
    assert image_size_of(256, 4) == image_size_of(32, 4) == image_size_of(None, 8) == 256
    assert image_size_of(50, 8) == 56


def test_images_of_other_sides_and_codes_outside_the_codebook_are_refused(
    tokenizer: DiffusersVQTokenizer,
) -> None:
    with pytest.raises(TokenizerError, match=r"multiples of 4, found \(50, 48\); resize to 48x48"):
        tokenizer.encode(noise(1, 50, 48))
    with pytest.raises(TokenizerError, match=r"0\.\.127, found 128\.\.128"):
        tokenizer.decode(torch.full((1, 2, 2), CODES))


def test_images_become_a_store_that_holds_their_codes(saved: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(f"diffusers:{saved}")
    images = noise(4, SIDE, SIDE, seed=5)
    for number, image in enumerate(images):
        path = tmp_path / "images" / f"class-{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    options = ConvertOptions(workers=0, chunk_samples=2, shard_samples=4, batch_size=3)
    convert_source(open_source(tmp_path / "images"), tmp_path / "out", tokenizer=tokenizer, options=options)
    store = tokenstore.open(tmp_path / "out")
    reader = store["train"]
    names = reader.samples_table()["source"].to_pylist()
    assert sorted(names) == ["class-0/0.png", "class-0/2.png", "class-1/1.png", "class-1/3.png"]
    expected = tokenizer.encode(images)[[int(Path(name).stem) for name in names]]
    assert np.array_equal(reader[:], expected.numpy())
    assert np.array_equal(store.codebook, tokenizer.codebook)
    assert store.manifest.tokenizer.fingerprint == tokenizer.fingerprint
    assert verify(str(tmp_path / "out")).problems == []


# ---- the fingerprint


def test_the_fingerprint_holds_the_weights_and_all_of_the_config_that_decides_codes(
    folder: Path, tokenizer: DiffusersVQTokenizer
) -> None:
    assert load(str(folder)).fingerprint == tokenizer.fingerprint
    weights = load_file(folder / WEIGHTS)
    seen = {tokenizer.fingerprint}
    for name in ("quantize.embedding.weight", "encoder.conv_in.bias", "decoder.conv_out.bias"):
        save_file(weights | {name: weights[name] + 0.125}, folder / WEIGHTS, metadata={"format": "pt"})
        seen.add(load(str(folder)).fingerprint)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    for change in ({"act_fn": "relu"}, {"norm_num_groups": 2}):
        spoil_config(folder, change)
        seen.add(load(str(folder)).fingerprint)
    assert len(seen) == 6


def test_the_fingerprint_does_not_hold_what_codes_do_not_depend_on(
    folder: Path, tokenizer: DiffusersVQTokenizer
) -> None:
    change = {"scaling_factor": 1.0, "force_upcast": True, "sample_size": 64, "_diffusers_version": "0.1.0"}
    spoil_config(folder, change)
    assert load(str(folder)).fingerprint == tokenizer.fingerprint
