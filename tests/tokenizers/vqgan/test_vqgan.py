"""VQGANs of every published layout: loaded strictly, with the codes and images of a slow re-statement."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.vqgan_models import (
    IBQ,
    TINY,
    VARIANTS,
    images,
    random_checkpoint,
    random_weights,
    slow_codes,
    slow_latents,
    slow_pixels,
    write_checkpoint,
)
from safetensors.torch import save_file

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.convolutional import Half, Shape
from tokenstore.tokenizers.kinds.conv_vq import to_pixels
from tokenstore.tokenizers.kinds.vqgan import VQGAN, VQGANConfig, load, namer, recognise
from tokenstore.tokenizers.strict_weights import shapes_of


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layout_encodes_and_decodes_as_a_slow_restatement(variant: str, tmp_path: Path) -> None:
    config = VARIANTS[variant]
    tokenizer = load(str(write_checkpoint(tmp_path / "model.ckpt", config)))
    assert tokenizer.network.config == config
    weights = {name: tensor.double().numpy() for name, tensor in random_weights(VQGAN(config)).items()}
    (image,) = images(1, config.shape.stride * 2, config.shape.stride * (1 if config is IBQ else 3))
    latents = slow_latents(image.numpy(), weights, config.shape)
    exact = copy.deepcopy(tokenizer.network).double()
    np.testing.assert_allclose(exact.latents(image[None].double() / 127.5 - 1)[0], latents, atol=1e-8)
    np.testing.assert_allclose(tokenizer.network.latents(to_pixels(image[None]))[0], latents, atol=1e-4)
    codes = tokenizer.encode(image[None])
    np.testing.assert_array_equal(codes[0], slow_codes(latents, weights, config.lookup))
    table = tokenizer.codebook
    assert table is not None
    vectors = np.moveaxis(table[codes[0].numpy()].astype(np.float64), 2, 0)
    pixels = slow_pixels(vectors, weights, config.shape)
    np.testing.assert_allclose(exact.rebuild(codes)[0], pixels, atol=1e-6)
    # subtle: of two positions a group of one channel may vary by nearly nothing, which rounding then doubles
    np.testing.assert_allclose(
        tokenizer.network.rebuild(codes)[0], pixels, atol=5e-3 if config is IBQ else 1e-4
    )
    levels = np.clip((pixels + 1) * 127.5, 0, 255)
    np.testing.assert_allclose(
        tokenizer.decode(codes)[0].numpy(), levels, atol=0.9 if config is IBQ else 0.52
    )


def test_a_cosine_table_counts_and_is_stored_by_direction(tmp_path: Path) -> None:
    tokenizer = load(str(write_checkpoint(tmp_path / "model.pt", VARIANTS["llamagen"])))
    np.testing.assert_allclose(np.linalg.norm(tokenizer.codebook, axis=1), 1, atol=1e-6)


def test_codes_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    tokenizer = load(str(write_checkpoint(tmp_path / "model.ckpt")))
    batch = images(4)
    codes = tokenizer.encode(batch)
    assert codes.shape == (4, 8, 12)
    assert len(codes.unique()) > 15
    assert torch.equal(torch.cat([tokenizer.encode(image) for image in batch.split(1)]), codes)


def test_averaged_weights_are_taken_where_a_file_has_them(tmp_path: Path) -> None:
    torch.save({"state_dict": random_checkpoint(averaged=True)}, tmp_path / "both.ckpt")
    torch.save({"state_dict": random_checkpoint(seed=1)}, tmp_path / "averaged.ckpt")
    both, averaged = (load(str(tmp_path / f"{name}.ckpt")) for name in ("both", "averaged"))
    assert torch.equal(both.encode(images(2)), averaged.encode(images(2)))
    assert both.fingerprint == averaged.fingerprint


def test_the_look_up_can_be_named_and_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "at@work.ckpt")
    kinds = {look: load(f"{path}@{look}") for look in ("euclidean", "cosine", "dot")}
    assert load(str(path)).fingerprint == kinds["euclidean"].fingerprint
    assert len({tokenizer.fingerprint for tokenizer in kinds.values()}) == 3
    weights = {name: tensor.double().numpy() for name, tensor in random_weights(VQGAN(TINY)).items()}
    (image,) = images(1)
    latents = slow_latents(image.numpy(), weights, TINY.shape)
    for look, tokenizer in kinds.items():
        np.testing.assert_array_equal(
            tokenizer.encode(image[None])[0], slow_codes(latents, weights, look), err_msg=look
        )
    with pytest.raises(TokenizerError, match="expected the look-up euclidean of this file, found 'gumbel'"):
        load(f"{path}@gumbel")


def test_a_folder_of_one_checkpoint_and_a_file_in_a_folder_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "emu"
    folder.mkdir()
    (folder / "config.yaml").write_text("a: 1\n")
    with pytest.raises(TokenizerError, match=r"a folder with one, found none; name the file in it"):
        load(str(folder))
    save_file(random_checkpoint(IBQ), folder / "model.safetensors")
    assert load(str(folder)).fingerprint == load(f"{folder}#model.safetensors").fingerprint
    write_checkpoint(folder / "other.ckpt")
    with pytest.raises(TokenizerError, match=r"found model\.safetensors, other\.ckpt; name the file in it"):
        load(str(folder))
    with pytest.raises(TokenizerError, match=r"emu#absent\.pt: expected a file 'absent\.pt' there, found"):
        load(f"{folder}#absent.pt")


def published(codes: int, dim: int, stride: int, lookup: str, layout: str = "taming") -> VQGANConfig:
    """Return the config of a published model by its sizes."""
    multipliers = {16: (1, 1, 2, 2, 4), 8: (1, 2, 2, 4) if dim != 256 else (1, 1, 2, 4), 4: (1, 2, 4)}[stride]
    blocks = 4 if lookup == "dot" else 2
    latents = dim if stride < 16 and layout == "taming" and lookup == "euclidean" else 256
    attention = () if stride == 4 else (len(multipliers) - 1,)
    halves = Half(blocks, attention, True), Half(blocks + 1, attention, True)
    shape = Shape(128, tuple(128 * times for times in multipliers), latents, *halves)
    return VQGANConfig(shape, dim, codes, lookup, layout)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("vqgan-f16-1024", published(1024, 256, 16, "euclidean")),
        ("vqgan-f16-16384", published(16384, 256, 16, "euclidean")),
        ("vqgan-gumbel-f8", published(8192, 256, 8, "gumbel")),
        ("ldm-vq-f4", published(8192, 3, 4, "euclidean")),
        ("ldm-vq-f8", published(16384, 4, 8, "euclidean")),
        ("ldm-vq-f8-n256", published(256, 4, 8, "euclidean")),
        ("ldm-vq-f16", published(16384, 8, 16, "euclidean")),
        ("llamagen-vq-16", published(16384, 8, 16, "cosine", "llamagen")),
        ("llamagen-vq-8", published(16384, 8, 8, "cosine", "llamagen")),
        ("ibq-262144", published(262144, 256, 16, "dot")),
        ("emu3.5-vq", published(131072, 256, 16, "dot")),
        ("vqgan-f8-300", published(300, 7, 8, "euclidean")),
    ],
)
def test_published_models_are_recognised_by_names_and_shapes(name: str, config: VQGANConfig) -> None:
    with torch.device("meta"):
        own = VQGAN(config).state_dict()
    values = {namer(config)(key): torch.zeros(1).expand(tensor.shape) for key, tensor in own.items()}
    assert recognise(shapes_of(values)) == config
    assert config.name == name


def test_llamagens_names_are_those_of_its_files() -> None:
    names = set(random_checkpoint(VARIANTS["llamagen"]))
    assert {
        "encoder.conv_in.weight",
        "encoder.conv_blocks.0.res.0.norm1.weight",
        "encoder.conv_blocks.0.downsample.conv.bias",
        "encoder.conv_blocks.1.res.0.nin_shortcut.weight",
        "encoder.conv_blocks.1.attn.0.proj_out.weight",
        "encoder.mid.0.conv1.weight",
        "encoder.mid.1.q.weight",
        "encoder.mid.2.conv2.bias",
        "decoder.conv_blocks.0.attn.1.norm.bias",  # the smallest resolution is first
        "decoder.conv_blocks.0.upsample.conv.weight",
        "decoder.conv_blocks.1.res.0.nin_shortcut.bias",
        "quantize.embedding.weight",
        "post_quant_conv.weight",
    } <= names
    assert not {name for name in names if ".block" in name or ".down." in name or "mid.block" in name}


def test_the_fingerprint_holds_every_weight_and_no_name(tmp_path: Path) -> None:
    plain = load(str(write_checkpoint(tmp_path / "a.ckpt", VARIANTS["llamagen"])))
    renamed = load(f"{write_checkpoint(tmp_path / 'b.ckpt')}@cosine")
    assert plain.fingerprint == renamed.fingerprint
    tensors = random_checkpoint()
    tensors["decoder.conv_out.bias"] = tensors["decoder.conv_out.bias"] + 0.5
    torch.save({"state_dict": tensors}, tmp_path / "c.ckpt")
    assert load(f"{tmp_path / 'c.ckpt'}@cosine").fingerprint != plain.fingerprint
