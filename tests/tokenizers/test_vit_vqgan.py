"""ViT-VQGAN: published names and shapes, its arithmetic against a slow restatement, its checkpoints."""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.paths import SHARED
from safetensors.torch import save_file
from torch import Tensor

from tokenstore.errors import TokenizerError
from tokenstore.networks.transformer import sin_cos_table
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.kinds.vit_vqgan import (
    BASE,
    SMALL,
    ViTVQGAN,
    ViTVQGANConfig,
    ViTVQGANTokenizer,
    load,
    random_model,
)

PUBLISHED = SHARED / "reference" / "checkpoint-keys.json"
TINY = ViTVQGANConfig(width=48, depth=2, heads=2, mlp=80, grid=4)
Tensors = dict[str, Tensor]
Array = npt.NDArray[np.float64]


def random_tensors(config: ViTVQGANConfig = TINY, seed: int = 0) -> Tensors:
    """Weights of which none is 0 or 1 all over, so that none can be forgotten unnoticed."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator)

    tensors = {}
    for name, tensor in random_model(config, seed).state_dict().items():
        if tensor.ndim == 1:
            tensors[name] = float(name.endswith("norm.weight")) + 0.2 * drawn(tuple(tensor.shape))
        elif "pos_embedding" in name or "quantizer" in name:
            tensors[name] = drawn(tuple(tensor.shape))
        else:
            tensors[name] = tensor + 0.05 * drawn(tuple(tensor.shape))
    return tensors


def saved(path: Path, tensors: object) -> Path:
    torch.save(tensors, path)
    return path


def loaded(path: Path, tensors: object) -> ViTVQGANTokenizer:
    return load(str(saved(path, tensors)))


def images(count: int, size: int = TINY.image_size, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


@pytest.fixture
def tokenizer(tmp_path: Path) -> ViTVQGANTokenizer:
    return loaded(tmp_path / "tiny.pt", random_tensors())


# ---- names, shapes, sizes


def shapes_of(config: ViTVQGANConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in ViTVQGAN(config).state_dict().items()}


@pytest.mark.parametrize(("config", "entry"), [(SMALL, "vit_vqgan_small"), (BASE, "vit_vqgan_base")])
def test_names_and_shapes_are_those_of_the_published_checkpoints(config: ViTVQGANConfig, entry: str) -> None:
    if not PUBLISHED.is_file():
        pytest.skip("the list of published names and shapes is not beside the repository")
    published = json.loads(PUBLISHED.read_text())[entry]
    assert shapes_of(config) == {
        name: tuple(shape) for name, shape in published.items() if not name.startswith("loss.")
    }


def test_a_model_of_one_layer_has_these_names_and_shapes() -> None:
    side: dict[str, tuple[int, ...]] = {
        "transformer.layers.0.0.norm.weight": (512,),
        "transformer.layers.0.0.norm.bias": (512,),
        "transformer.layers.0.0.fn.to_qkv.weight": (1536, 512),
        "transformer.layers.0.0.fn.to_out.weight": (512, 512),
        "transformer.layers.0.0.fn.to_out.bias": (512,),
        "transformer.layers.0.1.norm.weight": (512,),
        "transformer.layers.0.1.norm.bias": (512,),
        "transformer.layers.0.1.fn.net.0.weight": (2048, 512),
        "transformer.layers.0.1.fn.net.0.bias": (2048,),
        "transformer.layers.0.1.fn.net.2.weight": (512, 2048),
        "transformer.layers.0.1.fn.net.2.bias": (512,),
        "transformer.norm.weight": (512,),
        "transformer.norm.bias": (512,),
    }
    assert shapes_of(replace(SMALL, depth=1)) == {
        **{f"{half}.{name}": shape for half in ("encoder", "decoder") for name, shape in side.items()},
        "encoder.en_pos_embedding": (1, 1024, 512),
        "encoder.to_patch_embedding.0.weight": (512, 3, 8, 8),
        "encoder.to_patch_embedding.0.bias": (512,),
        "decoder.de_pos_embedding": (1, 1024, 512),
        "decoder.to_pixel.1.weight": (512, 3, 8, 8),
        "decoder.to_pixel.1.bias": (3,),
        "pre_quant.weight": (32, 512),
        "pre_quant.bias": (32,),
        "post_quant.weight": (512, 32),
        "post_quant.bias": (512,),
        "quantizer.embedding.weight": (8192, 32),
    }


def test_the_published_sizes_have_191_and_279_tensors() -> None:
    assert len(shapes_of(SMALL)) == 191
    assert len(shapes_of(BASE)) == 279


@pytest.mark.parametrize(("config", "label"), [(SMALL, "vit-vqgan-small"), (BASE, "vit-vqgan-base")])
def test_the_published_sizes_are_recognised_by_their_shapes(
    tmp_path: Path, config: ViTVQGANConfig, label: str
) -> None:
    """Read the size from the error about a missing tensor; tensors without data keep the file small."""
    tensors = {name: torch.zeros(1).expand(shape) for name, shape in shapes_of(config).items()}
    del tensors["encoder.en_pos_embedding"]
    message = (
        rf"{label} \(width {config.width}, {config.depth} layers(?s:.*)1 missing: encoder.en_pos_embedding"
    )
    with pytest.raises(TokenizerError, match=message):
        loaded(tmp_path / "a.pt", tensors)


def test_the_small_model_encodes_and_decodes() -> None:
    tokenizer = ViTVQGANTokenizer(random_model(SMALL, seed=0))
    assert tokenizer.name == "vit-vqgan-small"
    assert tokenizer.image_size == 256
    codes = tokenizer.encode(images(1, 256))
    assert codes.shape == (1, 32, 32)
    assert len(codes.unique()) > 20
    assert tokenizer.decode(codes).shape == (1, 3, 256, 256)


def test_random_models_of_a_seed_are_equal_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (random_model(TINY, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["pre_quant.weight"], other["pre_quant.weight"])
    assert torch.equal(state, torch.get_rng_state())


def test_positions_are_sines_and_cosines_of_the_column_and_then_of_the_row() -> None:
    zero = [0.0, 0.0, 1.0, 1.0]
    one = [0.84147098, 0.00999983, 0.54030231, 0.99995000]
    two = [0.90929743, 0.01999867, -0.41614684, 0.99980001]
    expected = [column + row for row in (zero, one, two) for column in (zero, one, two)]
    table = sin_cos_table((3, 3), 8)
    assert table.dtype == torch.float32
    assert table.shape == (1, 9, 8)
    np.testing.assert_allclose(table[0].numpy(), expected, atol=1e-7)


def test_untrained_models_have_the_fixed_positions() -> None:
    model = random_model(TINY, seed=0)
    assert torch.equal(model.encoder.en_pos_embedding, sin_cos_table((4, 4), 48))
    assert torch.equal(model.decoder.de_pos_embedding, sin_cos_table((4, 4), 48))


# ---- the arithmetic, once more and slowly


def layer_norm(x: Array, weights: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Array, weights: dict[str, Array], name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", np.zeros(1))


def attention(x: Array, weights: dict[str, Array], name: str, heads: int) -> Array:
    mixed = []
    for head in range(heads):
        queries, keys, values = (
            linear(x, {"a.weight": rows[64 * head : 64 * (head + 1)]}, "a")
            for rows in np.split(weights[f"{name}.to_qkv.weight"], 3)
        )
        scores = np.exp(np.einsum("id,jd->ij", queries, keys) / np.sqrt(64))
        mixed.append(np.einsum("ij,jd->id", scores / scores.sum(axis=1, keepdims=True), values))
    return linear(np.concatenate(mixed, axis=1), weights, f"{name}.to_out")


def transformer(x: Array, weights: dict[str, Array], name: str, config: ViTVQGANConfig) -> Array:
    for layer in range(config.depth):
        first, second = f"{name}.layers.{layer}.0", f"{name}.layers.{layer}.1"
        x = x + attention(layer_norm(x, weights, f"{first}.norm"), weights, f"{first}.fn", config.heads)
        hidden = np.tanh(linear(layer_norm(x, weights, f"{second}.norm"), weights, f"{second}.fn.net.0"))
        x = x + linear(hidden, weights, f"{second}.fn.net.2")
    return layer_norm(x, weights, f"{name}.norm")


def slow_latents(image: Array, weights: dict[str, Array], config: ViTVQGANConfig) -> Array:
    """Vectors (h * w, 32), not normalised, of an image (3, H, W) in 0..1."""
    rows = []
    for top in range(0, config.image_size, 8):
        for left in range(0, config.image_size, 8):
            patch = image[:, top : top + 8, left : left + 8]
            rows.append(np.einsum("chw,ochw->o", patch, weights["encoder.to_patch_embedding.0.weight"]))
    x = np.stack(rows) + weights["encoder.to_patch_embedding.0.bias"] + weights["encoder.en_pos_embedding"][0]
    return linear(transformer(x, weights, "encoder.transformer", config), weights, "pre_quant")


def slow_image(codes: npt.NDArray[np.int64], weights: dict[str, Array], config: ViTVQGANConfig) -> Array:
    """Return the image (3, H, W) of codes (h, w)."""
    table = weights["quantizer.embedding.weight"]
    vectors = np.stack([table[code] / np.sqrt((table[code] ** 2).sum()) for code in codes.ravel()])
    x = linear(vectors, weights, "post_quant") + weights["decoder.de_pos_embedding"][0]
    x = transformer(x, weights, "decoder.transformer", config)
    image = np.empty((3, config.image_size, config.image_size))
    for position, features in enumerate(x):
        top, left = 8 * (position // config.grid), 8 * (position % config.grid)
        patch = np.einsum("i,iohw->ohw", features, weights["decoder.to_pixel.1.weight"])
        image[:, top : top + 8, left : left + 8] = patch + weights["decoder.to_pixel.1.bias"][:, None, None]
    return image


def cosine_codes(latents: Array, table: Array) -> npt.NDArray[np.int64]:
    similarity = np.empty((len(latents), len(table)))
    for index, latent in enumerate(latents):
        similarity[index] = (table @ latent) / (np.linalg.norm(table, axis=1) * np.linalg.norm(latent))
    return similarity.argmax(axis=1)


@pytest.fixture(scope="module")
def weights() -> dict[str, Array]:
    return {name: tensor.double().numpy() for name, tensor in random_tensors().items()}


def test_latents_equal_a_slow_restatement(tokenizer: ViTVQGANTokenizer, weights: dict[str, Array]) -> None:
    batch = images(3)
    found = tokenizer.network.latents(batch.float() / 255).numpy()
    for image, latents in zip(batch, found, strict=True):
        expected = slow_latents(image.numpy() / 255, weights, TINY)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(latents, expected, atol=1e-5)


def test_codes_are_the_nearest_by_cosine_similarity(
    tokenizer: ViTVQGANTokenizer, weights: dict[str, Array]
) -> None:
    batch = images(5)
    codes = tokenizer.encode(batch)
    assert len(codes.unique()) > 20
    for image, found in zip(batch, codes, strict=True):
        latents = slow_latents(image.numpy() / 255, weights, TINY)
        expected = cosine_codes(latents, weights["quantizer.embedding.weight"])
        assert np.array_equal(found.numpy(), expected.reshape(4, 4))


def test_rebuilt_images_equal_a_slow_restatement(
    tokenizer: ViTVQGANTokenizer, weights: dict[str, Array]
) -> None:
    codes = torch.randint(0, 8192, (3, 4, 4), generator=torch.Generator().manual_seed(0))
    found = tokenizer.network.rebuild(codes).numpy()
    decoded = tokenizer.decode(codes).numpy()
    for index, sample in enumerate(codes.numpy()):
        expected = slow_image(sample, weights, TINY)
        np.testing.assert_allclose(found[index], expected, atol=1e-5)
        levels = np.clip(expected * 255, 0, 255)
        np.testing.assert_allclose(decoded[index], levels, atol=0.502)
        assert (expected < 0).any()
        assert (expected > 1).any()


def test_only_the_direction_of_the_codebooks_rows_counts(tmp_path: Path) -> None:
    tensors = random_tensors()
    plain = loaded(tmp_path / "a.pt", tensors)
    lengths = 0.1 + 5 * torch.rand(8192, 1, generator=torch.Generator().manual_seed(0))
    scaled = tensors | {"quantizer.embedding.weight": tensors["quantizer.embedding.weight"] * lengths}
    other = loaded(tmp_path / "b.pt", scaled)
    codes = plain.encode(images(3))
    assert torch.equal(other.encode(images(3)), codes)
    np.testing.assert_allclose(other.codebook, plain.codebook, atol=1e-6)


# ---- the tokenizer


def test_it_says_what_it_is(tokenizer: ViTVQGANTokenizer) -> None:
    assert tokenizer.name == "vit-vqgan"
    assert tokenizer.codebook_sizes == (8192,)
    assert tokenizer.image_size == 32
    assert tokenizer.dtype == torch.float32
    assert tokenizer.device == torch.device("cpu")
    assert tokenizer.grid((3, 32, 32)) == (4, 4)
    table = random_tensors()["quantizer.embedding.weight"].numpy()
    assert tokenizer.codebook is not None
    assert tokenizer.codebook.shape == (8192, 32)
    assert tokenizer.codebook.dtype == np.float32
    np.testing.assert_allclose(tokenizer.codebook, table / np.linalg.norm(table, axis=1)[:, None], atol=1e-6)


def test_images_of_256_pixels_become_codes_of_32_by_32_and_images_again(tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path / "a.ckpt", random_tensors(replace(TINY, grid=32)))
    assert tokenizer.image_size == 256
    codes = tokenizer.encode(images(2, 256))
    assert codes.shape == (2, *tokenizer.grid((3, 256, 256))) == (2, 32, 32)
    assert codes.dtype == torch.int64
    assert len(codes.unique()) > 100
    rebuilt = tokenizer.decode(codes.to(torch.int16))
    assert rebuilt.shape == (2, 3, 256, 256)
    assert rebuilt.dtype == torch.uint8


def test_codes_do_not_depend_on_the_batch_or_its_order(tokenizer: ViTVQGANTokenizer) -> None:
    batch = images(21)
    expected = torch.cat([tokenizer.encode(image[None]) for image in batch])
    assert torch.equal(torch.cat([tokenizer.encode(part) for part in batch.split(7)]), expected)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokenizer.encode(batch[order]), expected[order])


def test_codes_do_not_depend_on_memory_layout(tokenizer: ViTVQGANTokenizer) -> None:
    batch = images(3)
    channels_last = batch.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(tokenizer.encode(channels_last), tokenizer.encode(batch))


def test_empty_batches_have_their_shapes(tokenizer: ViTVQGANTokenizer) -> None:
    codes = tokenizer.encode(images(0))
    assert codes.shape == (0, 4, 4)
    assert tokenizer.decode(codes).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(("bias", "level"), [(-3.0, 0), (0.0, 0), (0.25, 64), (1.0, 255), (7.0, 255)])
def test_rebuilt_images_are_scaled_from_0_to_1_and_clipped(tmp_path: Path, bias: float, level: int) -> None:
    tensors = random_tensors()
    tensors["decoder.to_pixel.1.weight"].zero_()
    tensors["decoder.to_pixel.1.bias"].fill_(bias)
    rebuilt = loaded(tmp_path / "a.pt", tensors).decode(torch.zeros(1, 4, 4, dtype=torch.int64))
    assert rebuilt.unique().tolist() == [level]


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 32, 40), (3, 33, 32), (1, 32, 32), (32, 32)])
def test_images_of_another_size_are_refused(tokenizer: ViTVQGANTokenizer, shape: tuple[int, ...]) -> None:
    message = r"vit-vqgan: expected an image \(3, 32, 32\), .* resize to 32x32"
    with pytest.raises(TokenizerError, match=message) as raised:
        tokenizer.grid(shape)
    assert f"found {shape}" in str(raised.value)
    if len(shape) == 3:
        with pytest.raises(TokenizerError, match=message):
            tokenizer.encode(torch.zeros(2, *shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 4, 5, dtype=torch.int64), r"expected codes \(B, 4, 4\), found \(2, 4, 5\)"),
        (torch.zeros(0, 8, 8, dtype=torch.int64), r"expected codes \(B, 4, 4\), found \(0, 8, 8\)"),
        (torch.zeros(4, 4, dtype=torch.int64), r"expected codes \(B, 4, 4\), found \(4, 4\)"),
        (torch.zeros(2, 4, 4), "of an integer dtype, found .* torch.float32"),
        (torch.full((1, 4, 4), 8192), r"expected codes in 0\.\.8191, found 8192\.\.8192"),
    ],
)
def test_codes_that_do_not_fit_are_refused(tokenizer: ViTVQGANTokenizer, codes: Tensor, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer.decode(codes)


def test_every_weight_counts_for_the_fingerprint(tmp_path: Path) -> None:
    tensors = random_tensors()
    seen = {loaded(tmp_path / "a.pt", tensors).fingerprint}
    for name in tensors:
        changed = tensors | {name: tensors[name] * 1.5}
        seen.add(loaded(tmp_path / "a.pt", changed).fingerprint)
    assert len(seen) == len(tensors) + 1


# ---- checkpoints


def test_every_layout_and_kind_of_file_gives_the_same_tokenizer(tmp_path: Path) -> None:
    tensors = random_tensors()
    lightning = {
        "epoch": 7,
        "global_step": 100,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": tensors | {"loss.discriminator.weight": torch.zeros(3), "loss.steps": torch.tensor(3)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
        "hyper_parameters": {"image_size": 256, "path": "x"},
    }
    save_file(tensors, tmp_path / "a.safetensors")
    save_file(tensors | {"loss.discriminator.weight": torch.zeros(3)}, tmp_path / "b.safetensors")
    torch.save(tensors, tmp_path / "c.pt")
    torch.save(tensors | {"loss.discriminator.weight": torch.zeros(3)}, tmp_path / "d.pth")
    torch.save(lightning, tmp_path / "e.ckpt")
    torch.save(lightning, tmp_path / "f.CKPT", _use_new_zipfile_serialization=False)
    torch.save({k: torch.nn.Parameter(v.double()) for k, v in tensors.items()}, tmp_path / "g.pt")
    torch.save({k: v.mT.contiguous().mT if v.ndim > 1 else v for k, v in tensors.items()}, tmp_path / "h.pt")
    found = [load_tokenizer(f"vit-vqgan:{path}") for path in sorted(tmp_path.iterdir())]
    assert len(found) == 8
    codes = found[0].encode(images(2))
    rebuilt = found[0].decode(codes)
    for tokenizer in found:
        assert torch.equal(tokenizer.encode(images(2)), codes)
        assert torch.equal(tokenizer.decode(codes), rebuilt)
        assert tokenizer.fingerprint == found[0].fingerprint


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_half_weights_are_read_as_float32(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in random_tensors().items()}
    path = tmp_path / f"half.{suffix}"
    if suffix == "pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    state = load(str(path)).network.state_dict()
    for name, tensor in tensors.items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor.float())


def test_weights_do_not_hang_on_their_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    tokenizer = loaded(path, random_tensors())
    codes = tokenizer.encode(images(1))
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(tokenizer.encode(images(1)), codes)


def test_positions_come_from_the_checkpoint(tmp_path: Path) -> None:
    tensors = random_tensors()
    codes = loaded(tmp_path / "a.pt", tensors).encode(images(1))
    tensors["encoder.en_pos_embedding"] = sin_cos_table((4, 4), 48)
    assert not torch.equal(loaded(tmp_path / "b.pt", tensors).encode(images(1)), codes)


class MakeFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.target),))


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    for legacy in (False, True):
        path = tmp_path / "hostile.ckpt"
        content = {"state_dict": random_tensors(), "callbacks": MakeFolder(tmp_path / "ran")}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(TokenizerError, match=r"hostile\.ckpt: .*found a pickled object \(\w+\.mkdir\)"):
            load(str(path))
    assert not (tmp_path / "ran").exists()


def with_changes(**changes: Tensor | list[int] | None) -> dict[str, object]:
    """Return the tiny checkpoint with tensors exchanged, added, or (None) left out; `__` stands for a dot."""
    renamed = {name.replace("__", "."): value for name, value in changes.items()}
    tensors: dict[str, object] = {**random_tensors(), **renamed}
    return {name: value for name, value in tensors.items() if value is not None}


def with_layers(depth: int) -> Tensors:
    return {
        name: torch.zeros(1).expand(shape) for name, shape in shapes_of(replace(TINY, depth=depth)).items()
    }


def small_without_its_last_layers() -> Tensors:
    return {
        name: torch.zeros(1).expand(shape)
        for name, shape in shapes_of(SMALL).items()
        if ".layers.7." not in name
    }


def of_width(width: int) -> Tensors:
    return {
        name: torch.zeros(1).expand(shape) for name, shape in shapes_of(replace(TINY, width=width)).items()
    }


def with_two_names_of_width_6() -> Tensors:
    return {
        "encoder.transformer.norm.weight": torch.zeros(6),
        "encoder.transformer.norm.bias": torch.zeros(6),
    }


THE_TINY_ONE = r"expected the 59 tensors of vit-vqgan \(width 48, 2 layers, 2 heads, MLP 80, grid 4\)"
THE_SMALL_ONE = (
    r"expected the 191 tensors of vit-vqgan-small \(width 512, 8 layers, 8 heads, MLP 2048, grid 32\)"
)
PICKLED = r"expected tensors by name, found a pickled object \({}\).*torch\.save\(\{{k: v for k, v in "
NO_DICT = "expected a dict of tensors by name, or a Lightning checkpoint .*; found "

WRONG_CONTENTS: dict[str, tuple[Callable[[], object], str]] = {
    "a list": (lambda: list(random_tensors().values()), NO_DICT + "a list$"),
    "a tensor": (lambda: torch.zeros(3), NO_DICT + "a Tensor$"),
    "no tensors": (lambda: {"epoch": 3, "lr": 0.1}, NO_DICT + "a dict without tensors .* keys epoch, lr$"),
    "another wrapper": (
        lambda: {"model": random_tensors()},
        NO_DICT + "a dict without tensors .* keys model$",
    ),
    "a list inside": (lambda: {"state_dict": [torch.zeros(1)]}, NO_DICT + "a list as its 'state_dict'$"),
    "nothing inside": (lambda: {"state_dict": {}}, NO_DICT + "a dict as its 'state_dict' without tensors"),
    "a pickled module": (
        lambda: torch.nn.Linear(2, 2),
        PICKLED.format(r"torch\.nn\.modules\.linear\.Linear"),
    ),
    "a namespace": (
        lambda: {"state_dict": random_tensors(), "hyper_parameters": argparse.Namespace(lr=1)},
        PICKLED.format(r"argparse\.Namespace"),
    ),
    "numpy numbers": (
        lambda: {"state_dict": random_tensors(), "hyper_parameters": {"lr": np.float64(0.1)}},
        PICKLED.format(r"numpy\S+scalar"),
    ),
    "a missing tensor": (
        lambda: with_changes(pre_quant__bias=None),
        THE_TINY_ONE + r", [^:]*\n  1 missing: pre_quant\.bias$",
    ),
    "an unexpected tensor": (
        lambda: with_changes(pre_quant__scale=torch.zeros(2)),
        THE_TINY_ONE + r", [^:]*\n  1 unexpected: pre_quant\.scale$",
    ),
    "two kinds of problem": (
        lambda: with_changes(pre_quant__bias=None, post_quant__bias=torch.zeros(47), lossy=torch.zeros(1)),
        THE_TINY_ONE + r", [^:]*\n  1 missing: pre_quant\.bias\n  1 unexpected: lossy\n"
        r"  1 of another shape: post_quant\.bias \(expected \(48,\), found \(47,\)\)$",
    ),
    "another network": (
        lambda: {f"block.{index}.weight": torch.zeros(2) for index in range(12)},
        THE_SMALL_ONE
        + r", [^:]*\n  191 missing: (\S+, ){8}\.\.\.\n  12 unexpected: block\.0\.weight, (\S+, ){7}\.\.\.$",
    ),
    "a prefix": (
        lambda: {f"module.{name}": tensor for name, tensor in random_tensors().items()},
        THE_TINY_ONE + r", [^:]*\n  59 missing: (\S+, ){8}\.\.\.\n  59 unexpected: module\.encoder\.en_pos",
    ),
    "another patch": (
        lambda: with_changes(encoder__to_patch_embedding__0__weight=torch.zeros(48, 3, 16, 16)),
        r"of another shape: encoder\.to_patch_embedding\.0\.weight "
        r"\(expected \(48, 3, 8, 8\), found \(48, 3, 16, 16\)\)$",
    ),
    "another codebook": (
        lambda: with_changes(quantizer__embedding__weight=torch.zeros(391, 32)),
        r"quantizer\.embedding\.weight \(expected \(8192, 32\), found \(391, 32\)\)$",
    ),
    "positions of no square": (
        lambda: with_changes(encoder__en_pos_embedding=torch.zeros(1, 17, 48)),
        r"encoder\.en_pos_embedding \(expected \(1, 16, 48\), found \(1, 17, 48\)\)$",
    ),
    "two grids": (
        lambda: with_changes(decoder__de_pos_embedding=torch.zeros(1, 25, 48)),
        r"decoder\.de_pos_embedding \(expected \(1, 16, 48\), found \(1, 25, 48\)\)$",
    ),
    "a layer of another width": (
        lambda: with_changes(encoder__transformer__layers__1__0__norm__weight=torch.zeros(32)),
        THE_TINY_ONE + r", [^:]*\n  1 of another shape: encoder\.transformer\.layers\.1\.0\.norm\.weight ",
    ),
    "heads of another width": (
        lambda: with_changes(
            **{
                f"{half}__transformer__layers__{layer}__0__fn__to_qkv__weight": torch.zeros(96, 48)
                for half in ("encoder", "decoder")
                for layer in range(2)
            }
        ),
        r"1 heads.*\n  8 of another shape: .*to_qkv\.weight \(expected \(192, 48\), found \(96, 48\)\)",
    ),
    "whole numbers": (
        lambda: with_changes(pre_quant__weight=torch.zeros(32, 48, dtype=torch.int32)),
        r"1 not a dense tensor of floats: pre_quant\.weight \(torch\.int32\)$",
    ),
    "numbers in a list": (
        lambda: with_changes(pre_quant__bias=[0] * 32),
        r"1 not a dense tensor of floats: pre_quant\.bias \(list\)$",
    ),
    "a sparse tensor": (
        lambda: with_changes(pre_quant__weight=torch.zeros(32, 48).to_sparse()),
        r"1 not a dense tensor of floats: pre_quant\.weight ",
    ),
    "a tensor without values": (
        lambda: with_changes(pre_quant__weight=torch.zeros(32, 48, device="meta")),
        r"1 not a dense tensor of floats: pre_quant\.weight ",
    ),
    "NaN": (
        lambda: with_changes(pre_quant__bias=torch.full((32,), torch.nan)),
        r"expected finite numbers, found NaN or infinity in 1: pre_quant\.bias$",
    ),
    "infinity": (
        lambda: with_changes(post_quant__bias=torch.full((48,), torch.inf).half()),
        r"expected finite numbers, found NaN or infinity in 1: post_quant\.bias$",
    ),
    "too large for float32": (
        lambda: with_changes(post_quant__bias=torch.full((48,), 1e300, dtype=torch.float64)),
        r"expected finite numbers, found NaN or infinity in 1: post_quant\.bias$",
    ),
    "a lost layer": (
        small_without_its_last_layers,
        r"vit-vqgan-small (?s:.*)22 missing: encoder\.transformer\.layers\.7\.",
    ),
    "too many layers": (lambda: with_layers(65), "expected a depth of at most 64, found 65$"),
    "too wide": (lambda: of_width(4100), "expected a width of at most 4096, found 4100$"),
    "an odd width": (with_two_names_of_width_6, "expected a width that is a multiple of 4, found 6$"),
    "more than is stored": (
        lambda: of_width(4096),
        "expected dense tensors, found ones of fewer stored bytes",
    ),
}


@pytest.mark.parametrize(("content", "message"), WRONG_CONTENTS.values(), ids=WRONG_CONTENTS.keys())
def test_files_with_other_contents_are_refused(
    tmp_path: Path, content: Callable[[], object], message: str
) -> None:
    with pytest.raises(TokenizerError, match=rf"wrong\.ckpt: (?s:.*?){message}"):
        loaded(tmp_path / "wrong.ckpt", content())


def write_cut_off(path: Path, kept: int) -> None:
    if path.suffix == ".safetensors":
        save_file(random_tensors(), path)
    else:
        torch.save(random_tensors(), path)
    path.write_bytes(path.read_bytes()[:kept])


def write_compressed(path: Path) -> None:
    plain = saved(path.with_name("plain.pt"), random_tensors())
    with zipfile.ZipFile(plain) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in archive.infolist():
            packed.writestr(entry.filename, archive.read(entry))


WRONG_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "absent": ("wrong.pt", lambda path: None, "expected a checkpoint file, found nothing there"),
    "a folder": ("wrong.pt", Path.mkdir, "expected a checkpoint file, found a folder; name the file in it"),
    "a name without end": ("x" * 5000, lambda path: None, "expected a checkpoint file, found .*too long"),
    "empty": ("wrong.pt", Path.touch, "expected a checkpoint, found an empty file"),
    "another suffix": (
        "wrong.bin",
        Path.touch,
        r"expected .*\.ckpt, \.pt, .*\.safetensors, found 'wrong\.bin'",
    ),
    "text": ("wrong.pt", lambda path: path.write_text("a page\n"), "file of torch.save, found a damaged one"),
    "a page": (
        "wrong.ckpt",
        lambda path: path.write_text("<!DOCTYPE html>"),
        "found a damaged .*fetch it again",
    ),
    "zeros": ("wrong.pth", lambda path: path.write_bytes(bytes(999)), "file of torch.save, found a damaged"),
    "safetensors text": (
        "wrong.safetensors",
        lambda path: path.write_text("a page"),
        "safetensors file, found a",
    ),
    "cut off at once": (
        "wrong.pt",
        lambda path: write_cut_off(path, 30),
        "file of torch.save, found a damaged",
    ),
    "cut off": ("wrong.ckpt", lambda path: write_cut_off(path, -20), "file of torch.save, found a damaged"),
    "cut-off safetensors": (
        "wrong.safetensors",
        lambda path: write_cut_off(path, -20),
        "safetensors file, found a damaged one or another kind of file .*; fetch it again",
    ),
    "a PyTorch file by another name": (
        "wrong.safetensors",
        lambda path: saved(path, random_tensors()),
        "expected a safetensors file, found a damaged one or another kind",
    ),
    "compressed": (
        "wrong.pt",
        write_compressed,
        "expected a file as torch.save writes it, found a compressed",
    ),
}


@pytest.mark.parametrize(("name", "write", "message"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_files_of_another_kind_are_refused(
    tmp_path: Path, name: str, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(TokenizerError, match=message) as raised:
        load(str(path))
    assert str(raised.value).startswith(f"{path}: ")


def test_a_checkpoint_has_to_be_named() -> None:
    with pytest.raises(TokenizerError, match="expected vit-vqgan:CHECKPOINT, found no path"):
        load(None)
