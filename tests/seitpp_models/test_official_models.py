"""Published checkpoints in our networks: random weights in their names, against a plain definition."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import SHARED
from torch import Tensor
from torch.nn import functional as F

from seitpp_models import MaskedTokenModel, ModelError, PatchMask, TokenViT, draw_mask, load_official
from seitpp_models.weights.official import from_official, to_official

GRID, PATCHES, CODES, CHANNELS = 28, 196, 391, 32

Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit_shapes(width: int, kernel: int, depth: int = 12) -> Shapes:
    return {
        "cls_token": (1, 1, width),
        "pos_embed": (1, PATCHES + 1, width),
        "patch_embed.proj.weight": (width, CHANNELS, kernel, kernel),
        "patch_embed.proj.bias": (width,),
        **block_shapes("blocks", width, depth),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }


def block_shapes(name: str, width: int, depth: int) -> Shapes:
    parts = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (4 * width, width),
        "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width),
        "mlp.fc2.bias": (width,),
    }
    return {f"{name}.{number}.{part}": shape for number in range(depth) for part, shape in parts.items()}


TOKEN_EMBEDDING = {
    "token_emb.word_embeddings.weight": (CODES, CHANNELS),
    "token_emb.LayerNorm.weight": (CHANNELS,),
    "token_emb.LayerNorm.bias": (CHANNELS,),
}


def head_shapes(width: int) -> Shapes:
    return {"head.weight": (1000, width), "head.bias": (1000,)}


def decoder_shapes(width: int, encoder_width: int, depth: int) -> Shapes:
    return {
        "mask_token_label": (1, 1, encoder_width),
        "decoder_pos_embed": (1, PATCHES + 1, width),
        "decoder_pos_embed_learned": (1, PATCHES + 1, width),
        "decoder_embed.weight": (width, encoder_width),
        "decoder_embed.bias": (width,),
        **block_shapes("decoder_blocks", width, depth),
        "decoder_norm.weight": (width,),
        "decoder_norm.bias": (width,),
        "mlm_layer.bias": (1, 1, CODES),
        "mlm_layer.fc.weight": (4 * CHANNELS, width),
        "mlm_layer.fc.bias": (4 * CHANNELS,),
        "mlm_layer.ln.weight": (CHANNELS,),
        "mlm_layer.ln.bias": (CHANNELS,),
    }


PUBLISHED: dict[str, Shapes] = {
    "seit_vit_small_dim32": vit_shapes(384, 4) | head_shapes(384),
    "seit_vit_base_dim32": vit_shapes(768, 4) | head_shapes(768),
    "mtm_finetune_vit_base": vit_shapes(768, 2) | TOKEN_EMBEDDING | head_shapes(768),
    "mtm_pretrain_vit_base": vit_shapes(768, 2) | TOKEN_EMBEDDING | decoder_shapes(512, 768, 4),
}
SMALL: dict[str, Shapes] = {
    "seit": vit_shapes(128, 4, 2) | head_shapes(128),
    "seit_wide": vit_shapes(192, 4, 3) | head_shapes(192),
    "mtm_finetune": vit_shapes(128, 2, 2) | TOKEN_EMBEDDING | head_shapes(128),
    "mtm_pretrain": vit_shapes(128, 2, 2) | TOKEN_EMBEDDING | decoder_shapes(64, 128, 2),
}
"""The same kinds of networks in other sizes: what they compute does not depend on the size."""


def small_tensors(name: str) -> Tensors:
    """Draw random tensors of a small network."""
    generator = seeded(0)
    tensors = {}
    for parameter, shape in SMALL[name].items():
        scale = (
            1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 and "embeddings" not in parameter else 0.5
        )
        tensors[parameter] = torch.randn(shape, generator=generator) * scale
    return tensors


# ---- the definition, one sample at a time in float64


def norm(x: Tensor, tensors: Tensors, name: str, epsilon: float = 1e-6) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    scaled = (x - mean) / (variance + epsilon).sqrt()
    return scaled * tensors[f"{name}.weight"].double() + tensors[f"{name}.bias"].double()


def linear(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    return x @ tensors[f"{name}.weight"].double().T + tensors[f"{name}.bias"].double()


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def blocks(x: Tensor, tensors: Tensors, name: str, heads: int) -> Tensor:
    """Apply transformer blocks to x (N, width)."""
    depth = sum(key.startswith(f"{name}.") and key.endswith("norm1.bias") for key in tensors)
    for number in range(depth):
        block = f"{name}.{number}"
        queries, keys, values = linear(
            norm(x, tensors, f"{block}.norm1"), tensors, f"{block}.attn.qkv"
        ).chunk(3, 1)
        side = x.shape[1] // heads
        parts = []
        for head in range(heads):
            own = slice(head * side, (head + 1) * side)
            weights = (queries[:, own] @ keys[:, own].T / math.sqrt(side)).softmax(1)
            parts.append(weights @ values[:, own])
        x = x + linear(torch.cat(parts, 1), tensors, f"{block}.attn.proj")
        hidden = gelu(linear(norm(x, tensors, f"{block}.norm2"), tensors, f"{block}.mlp.fc1"))
        x = x + linear(hidden, tensors, f"{block}.mlp.fc2")
    return x


def patches_by_hand(vectors: Tensor, tensors: Tensors, padding: int) -> Tensor:
    """Embed vectors (C, 28, 28) as patches (196, width), a place at a time."""
    weight = tensors["patch_embed.proj.weight"].double()
    kernel = weight.shape[2]
    padded = F.pad(vectors.double(), (padding,) * 4)
    rows = []
    for row in range(GRID // 2):
        for column in range(GRID // 2):
            part = padded[:, 2 * row : 2 * row + kernel, 2 * column : 2 * column + kernel]
            rows.append((weight * part).sum((1, 2, 3)))
    return torch.stack(rows) + tensors["patch_embed.proj.bias"].double()


def vectors_of(codes: Tensor, tensors: Tensors) -> Tensor:
    """Return the learned vectors (C, 28, 28) of codes (28, 28), normalised."""
    table = tensors["token_emb.word_embeddings.weight"].double()
    return norm(table[codes], tensors, "token_emb.LayerNorm").movedim(-1, 0)


def classified(vectors: Tensor, tensors: Tensors, padding: int) -> Tensor:
    """Return the logits (1000,) of vectors (C, 28, 28)."""
    x = patches_by_hand(vectors, tensors, padding)
    positions = tensors["pos_embed"][0].double()
    x = torch.cat((tensors["cls_token"][0].double(), x)) + positions
    x = blocks(x, tensors, "blocks", x.shape[1] // 64)
    return linear(norm(x[1:].mean(0), tensors, "norm"), tensors, "head")


def masked_by_hand(
    codes: Tensor, kept: list[int], masked: list[int], tensors: Tensors
) -> tuple[Tensor, Tensor]:
    """Return logits (196, 4, 391) of every patch of codes (28, 28), and the loss of the masked patches."""
    x = patches_by_hand(vectors_of(codes, tensors), tensors, 0)
    for place in masked:
        x[place] = tensors["mask_token_label"][0, 0].double()
    positions = tensors["pos_embed"][0].double()
    x = x + positions[1:]
    token = tensors["cls_token"][0].double() + positions[:1]
    x = blocks(torch.cat((token, x[kept])), tensors, "blocks", x.shape[1] // 64)
    x = linear(norm(x, tensors, "norm"), tensors, "decoder_embed")
    filled = x[:1].repeat(PATCHES, 1)
    for row, place in enumerate(kept):
        filled[place] = x[1 + row]
    for place in masked:
        filled[place] = x[0]
    x = torch.cat((x[:1], filled)) + tensors["decoder_pos_embed_learned"][0].double()
    x = norm(blocks(x, tensors, "decoder_blocks", 16), tensors, "decoder_norm")[1:]
    tokens = linear(x, tensors, "mlm_layer.fc").view(14, 14, 2, 2, CHANNELS)
    raster = torch.empty(GRID, GRID, CHANNELS, dtype=torch.float64)
    for row in range(2):
        for column in range(2):
            raster[row::2, column::2] = tokens[:, :, row, column]
    raster = norm(gelu(raster), tensors, "mlm_layer.ln", 1e-5)
    logits = raster @ tensors["token_emb.word_embeddings.weight"].double().T + tensors["mlm_layer.bias"][0]
    losses = -logits.log_softmax(-1).gather(2, codes[..., None])[..., 0]
    by_patch = losses.view(14, 2, 14, 2).mean((1, 3)).flatten()
    by_patch_logits = logits.view(14, 2, 14, 2, CODES).transpose(1, 2).reshape(PATCHES, 4, CODES)
    return by_patch_logits, by_patch[masked].mean()


def test_the_shapes_here_are_those_of_the_published_checkpoints() -> None:
    path = SHARED / "reference/checkpoint-keys.json"
    if not path.is_file():
        pytest.skip("the list of published names and shapes is not beside the repository")
    published = json.loads(path.read_text())
    for name, shapes in PUBLISHED.items():
        parts = ("conversion_function.", "reverse_transform.")
        named = {key: tuple(shape) for key, shape in published[name].items() if not key.startswith(parts)}
        assert named == shapes


@pytest.mark.parametrize("name", ["seit", "seit_wide"])
def test_supervised_seit_gives_the_published_definition(name: str, tmp_path: Path) -> None:
    tensors = small_tensors(name)
    torch.save({"state_dict": tensors}, tmp_path / "seit.ckpt")
    model = load_official(tmp_path / "seit.ckpt")
    assert isinstance(model, TokenViT)
    assert not model.training
    vectors = torch.randn(2, CHANNELS, GRID, GRID, generator=seeded(1))
    with torch.no_grad():
        found = model(vectors)
    for mine, sample in zip(found, vectors, strict=True):
        torch.testing.assert_close(mine.double(), classified(sample, tensors, 1), atol=1e-4, rtol=0)


def test_mtm_fine_tuning_gives_the_published_definition() -> None:
    tensors = small_tensors("mtm_finetune")
    model = from_official(tensors)
    codes = torch.randint(0, CODES, (2, GRID, GRID), generator=seeded(1))
    with torch.no_grad():
        found = model(codes)
    for mine, sample in zip(found, codes, strict=True):
        expected = classified(vectors_of(sample, tensors), tensors, 0)
        torch.testing.assert_close(mine.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("ratio", [0.4, 0.63, 1.0])
def test_mtm_pre_training_gives_the_published_definition(ratio: float) -> None:
    tensors = small_tensors("mtm_pretrain")
    model = from_official(tensors)
    assert isinstance(model, MaskedTokenModel)
    codes = torch.randint(0, CODES, (2, GRID, GRID), generator=seeded(1))
    mask = draw_mask(2, PATCHES, ratio, 0.4, seeded(2))
    with torch.no_grad():
        found = model(codes, mask)
    losses = []
    for number in range(2):
        masked = mask.masked[number].tolist()
        logits, loss = masked_by_hand(codes[number], mask.visible[number].tolist(), masked, tensors)
        losses.append(loss)
        torch.testing.assert_close(found.logits[number].double(), logits[masked], atol=1e-4, rtol=0)
    assert float(found.loss) == pytest.approx(float(torch.stack(losses).mean()), abs=1e-4)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_names_and_values_come_back_as_they_were(name: str) -> None:
    tensors = {
        key: torch.arange(number, number + math.prod(shape), dtype=torch.float32).reshape(shape)
        for number, (key, shape) in enumerate(PUBLISHED[name].items())
    }
    back = to_official(from_official(tensors))
    assert {key: tuple(tensor.shape) for key, tensor in back.items()} == PUBLISHED[name]
    assert all(torch.equal(back[key], tensors[key]) for key in tensors if key != "decoder_pos_embed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.mlp.fc1.bias": None}, "blocks.1.mlp.fc1.bias: expected shape .512,., found none"),
        ({"blocks.1.gamma": torch.zeros(2)}, "blocks.1.gamma: expected shape none, found .2,."),
        ({"head.bias": torch.zeros(9)}, "head.bias: expected shape .1000,., found .9,."),
        ({"norm.bias": torch.full((128,), math.nan)}, "norm.bias: expected finite numbers"),
        ({"pos_embed": None}, "no tensor 'pos_embed'"),
    ],
)
def test_other_tensors_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    tensors = small_tensors("seit") | change
    torch.save({key: tensor for key, tensor in tensors.items() if tensor is not None}, tmp_path / "wrong.pth")
    with pytest.raises(ModelError, match=f"wrong.pth: expected a checkpoint of SeiT.*{message}"):
        load_official(tmp_path / "wrong.pth")


def test_checkpoints_of_whole_runs_are_read(tmp_path: Path) -> None:
    tensors = small_tensors("seit")
    run = {"model": tensors, "args": argparse.Namespace(lr=1e-3, epochs=300), "epoch": 299}
    torch.save(run, tmp_path / "run.pth")
    model = load_official(tmp_path / "run.pth")
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in to_official(model).items())


def test_a_mask_by_hand_hides_what_it_says() -> None:
    """Change codes of masked patches, which changes only the targets, and then codes of kept ones."""
    model = from_official(small_tensors("mtm_pretrain"))
    assert isinstance(model, MaskedTokenModel)
    codes = torch.randint(0, CODES, (1, GRID, GRID), generator=seeded(1))
    places = torch.arange(PATCHES)
    mask = PatchMask(visible=places[None, 90:], masked=places[None, :120])
    other, seen = codes.clone(), codes.clone()
    other[:, :16] = (other[:, :16] + 1) % CODES  # rows of patches 0 to 7: 112 patches
    seen[:, 27, 27] = (seen[:, 27, 27] + 1) % CODES
    with torch.no_grad():
        first, second, third = (model(each, mask) for each in (codes, other, seen))
    assert torch.equal(first.logits, second.logits)
    assert not torch.equal(first.targets, second.targets)
    assert not torch.equal(first.logits, third.logits)
    assert first.targets[0, 15].tolist() == codes[0, 2:4, 2:4].flatten().tolist()
