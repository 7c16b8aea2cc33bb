"""MaskGIT's VQGAN against a slow re-statement; its names and sizes are those of the published file."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from helpers.maskgit_models import (
    CODES,
    SHAPE,
    random_checkpoint,
    slow_latents,
    slow_pixels,
    write_checkpoint,
)
from helpers.vqgan_models import images

from tokenstore.tokenizers.kinds.maskgit_vqgan import (
    MaskgitShape,
    MaskgitVQGAN,
    load,
    recognise_decoder,
    recognise_encoder,
)
from tokenstore.tokenizers.strict_weights import shapes_of


def test_codes_and_images_are_those_of_a_slow_restatement(tmp_path: Path) -> None:
    tokenizer = load(str(write_checkpoint(tmp_path / "model.bin")))
    weights = {name: tensor.double().numpy() for name, tensor in random_checkpoint().items()}
    (image,) = images(1, 8, 12)
    latents = slow_latents(image.numpy(), weights)
    exact = copy.deepcopy(tokenizer.network).double()
    np.testing.assert_allclose(exact.encoder(image[None].double() / 255)[0], latents, atol=1e-8)
    np.testing.assert_allclose(tokenizer.network.encoder(image[None].float() / 255)[0], latents, atol=1e-4)
    codes = tokenizer.encode(image[None])
    table = weights["quantize.embedding.weight"]
    distances = ((table[:, :, None, None] - latents) ** 2).sum(1)
    np.testing.assert_array_equal(codes[0], distances.argmin(0))
    pixels = slow_pixels(np.moveaxis(table[codes[0]], 2, 0), weights)
    np.testing.assert_allclose(exact.rebuild(codes)[0], pixels, atol=1e-6)
    np.testing.assert_allclose(tokenizer.network.rebuild(codes)[0], pixels, atol=1e-4)
    np.testing.assert_allclose(tokenizer.decode(codes)[0], np.clip(255 * pixels, 0, 255), atol=0.52)
    assert tokenizer.codebook_sizes == (CODES,)
    assert tokenizer.name == f"maskgit-vqgan-f2-{CODES}"


def test_sizes_follow_from_the_tensors_and_names_are_those_of_the_published_file() -> None:
    published = MaskgitShape(128, (128, 128, 256, 256, 512), 2, 256)
    with torch.device("meta"):
        own = MaskgitVQGAN(published, published, 1024).state_dict()
    shapes = shapes_of({name: torch.zeros(1).expand(tensor.shape) for name, tensor in own.items()})
    assert recognise_encoder(shapes, "") == recognise_decoder(shapes, "") == published
    assert shapes["encoder.down.2.block.0.nin_shortcut.weight"] == (256, 256, 1, 1)
    assert shapes["decoder.up.1.upsample_conv.bias"] == (128,)
    assert shapes["encoder.mid.1.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["encoder.conv_out.weight"] == (256, 512, 1, 1)
    absent = "encoder.conv_in.bias", "decoder.up.0.block.0.conv1.bias", "decoder.up.0.upsample_conv.bias"
    assert not shapes.keys() & set(absent)
    assert SHAPE.stride == 2
