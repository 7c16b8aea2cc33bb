"""TokenAdapt against its published definition, stated plainly."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.adapters import SMALL, official_shapes, official_tensors, seeded, small_adapter
from helpers.paths import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tokenstore.augment import (
    AdapterConfig,
    Geometry,
    TokenAdapt,
    adapter_geometry,
    recipes,
)
from tokenstore.errors import AdapterError
from tokenstore.networks.precision import has_bfloat16
from tokenstore.networks.transformer import attention, sin_cos_table


def block_by_hand(x: Tensor, tensors: dict[str, Tensor], part: str) -> Tensor:
    """Return x + attention(norm(x)), then x + mlp(norm(x)), then the last norm, for one sample (N, 384)."""

    def of(name: str) -> Tensor:
        return tensors[f"{part}.transformer.{name}"].double()

    def norm(values: Tensor, name: str) -> Tensor:
        return F.layer_norm(values, (384,), of(f"{name}.weight"), of(f"{name}.bias"), 1e-5)

    layer = "layers.0"
    qkv = norm(x, f"{layer}.0.norm") @ of(f"{layer}.0.fn.to_qkv.weight").T
    queries, keys, values = qkv.chunk(3, 1)
    heads = []
    for head in range(6):
        own = slice(64 * head, 64 * head + 64)
        weights = (queries[:, own] @ keys[:, own].T / math.sqrt(64)).softmax(1)
        heads.append(weights @ values[:, own])
    x = x + torch.cat(heads, 1) @ of(f"{layer}.0.fn.to_out.weight").T + of(f"{layer}.0.fn.to_out.bias")
    hidden = norm(x, f"{layer}.1.norm") @ of(f"{layer}.1.fn.net.0.weight").T + of(f"{layer}.1.fn.net.0.bias")
    x = x + hidden.tanh() @ of(f"{layer}.1.fn.net.2.weight").T + of(f"{layer}.1.fn.net.2.bias")
    return norm(x, "norm")


def f_by_hand(vectors: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Map (32, 32, 32) to (32, 64, 64)."""
    x = vectors.double().flatten(1).T @ tensors["conversion_function.0.weight"].double().T
    x = x + tensors["conversion_function.0.bias"] + tensors["conversion_function.1.de_pos_embedding"][0]
    x = block_by_hand(x, tensors, "conversion_function.1")
    weight = tensors["conversion_function.1.to_pixel.1.weight"].double()
    result = torch.empty(32, 64, 64, dtype=torch.float64)
    for row in range(2):
        for column in range(2):
            patch = x @ weight[:, :, row, column] + tensors["conversion_function.1.to_pixel.1.bias"]
            result[:, row::2, column::2] = patch.T.reshape(32, 32, 32)
    return result


def g_by_hand(adapted: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Map (32, 56, 56) to logits (391, 28, 28)."""
    weight = tensors["reverse_transform.0.to_patch_embedding.0.weight"].double()
    x = torch.zeros(784, 384, dtype=torch.float64)
    for row in range(2):
        for column in range(2):
            x += adapted[:, row::2, column::2].double().flatten(1).T @ weight[:, :, row, column].T
    x = x + tensors["reverse_transform.0.to_patch_embedding.0.bias"]
    x = block_by_hand(x + tensors["reverse_transform.0.en_pos_embedding"][0], tensors, "reverse_transform.0")
    logits = x @ tensors["reverse_transform.1.weight"].double().T + tensors["reverse_transform.1.bias"]
    return logits.T.reshape(391, 28, 28)


def test_official_weights_give_the_published_definition() -> None:
    tensors = official_tensors()
    adapter = TokenAdapt.from_tensors({**tensors, "encoder.of.the.model": torch.zeros(3)})
    assert adapter.config == AdapterConfig()
    vectors = torch.randn(2, 32, 32, 32, generator=seeded(1))
    adapted = adapter.to_map(vectors)
    for mine, sample in zip(adapted, vectors, strict=True):
        torch.testing.assert_close(mine.double(), f_by_hand(sample, tensors), atol=1e-5, rtol=0)
    cropped = adapted[:, :, 4:60, 4:60]
    logits = adapter.to_logits(cropped)
    assert logits.shape == (2, 391, 28, 28)
    for mine, sample in zip(logits, cropped, strict=True):
        torch.testing.assert_close(mine.double(), g_by_hand(sample, tensors), atol=1e-5, rtol=0)
    # The whole: f, A with its own draws, g and the largest logit.
    adapter.precision = "fp32"
    drawn = adapter_geometry((28, 28)).draw(2, (64, 64), seeded(2))
    expected = adapter.to_logits(drawn.apply(adapted)).argmax(1)
    assert torch.equal(adapter(vectors, generator=seeded(2)), expected)


def test_the_names_are_those_of_the_published_checkpoints() -> None:
    path = SHARED / "reference/checkpoint-keys.json"
    if not path.is_file():
        pytest.skip("the list of published names and shapes is not beside the repository")
    published = json.loads(path.read_text())["mtm_pretrain_vit_base"]
    named = {name: tuple(shape) for name, shape in published.items() if name in official_shapes()}
    assert named == official_shapes()
    assert not [name for name in published if name.startswith("conv") and name not in named]


def test_positions_are_the_published_table() -> None:
    adapter = TokenAdapt(AdapterConfig())
    table = adapter.tensors()["conversion_function.1.de_pos_embedding"]
    row, column, pair = 5, 17, 31
    angle = 1 / 10000 ** (2 * pair / 192)
    place = table[0, 32 * row + column]
    for start, index in ((0, column), (192, row)):
        assert place[start + pair] == pytest.approx(math.sin(index * angle), abs=1e-6)
        assert place[start + 96 + pair] == pytest.approx(math.cos(index * angle), abs=1e-6)


def test_sizes_come_from_the_config_and_g_takes_other_sizes() -> None:
    adapter = small_adapter()
    vectors = torch.randn(3, 8, 4, 6, generator=seeded(0))
    assert adapter.to_map(vectors).shape == (3, 8, 8, 12)
    assert adapter(vectors, generator=seeded(0)).shape == (3, 3, 5)
    assert adapter.to_logits(adapter.to_map(vectors)).shape == (3, 20, 4, 6)
    adapter.augmentation = Geometry()
    assert adapter(vectors, generator=seeded(0)).shape == (3, 4, 6)
    assert not any(weight.requires_grad for weight in adapter.parameters())
    with pytest.raises(ValueError, match=r"embeddings \(B, 8, H, W\), found \(3, 6, 4, 8\)"):
        adapter.to_map(vectors.transpose(1, 3))
    with pytest.raises(ValueError, match=r"a map \(B, 8, 2h, 2w\)"):
        adapter.to_logits(torch.zeros(1, 8, 3, 4))
    for wrong in ({"width": 6}, {"grid": (0, 3)}, {"codebook_size": 0}):
        with pytest.raises(AdapterError, match="positive sizes"):
            AdapterConfig(**wrong)  # type: ignore[arg-type]


def test_any_grid_has_positions_of_its_own() -> None:
    adapter = small_adapter()
    adapter.augmentation = Geometry()
    larger = TokenAdapt.from_tensors(
        {
            **adapter.tensors(),
            "conversion_function.1.de_pos_embedding": sin_cos_table((7, 3), 64),
            "reverse_transform.0.en_pos_embedding": sin_cos_table((7, 3), 64),
        },
        replace(SMALL, grid=(7, 3), size=(7, 3)),
        adapter.augmentation,
    )
    vectors = torch.randn(2, 8, 7, 3, generator=seeded(0))
    assert torch.equal(adapter(vectors, generator=seeded(0)), larger(vectors, generator=seeded(0)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), depth=st.integers(1, 2), count=st.integers(1, 9))
def test_f_only_where_the_geometry_looks_is_f(seed: int, depth: int, count: int) -> None:
    torch.manual_seed(seed)
    adapter = TokenAdapt(replace(SMALL, depth=depth))
    vectors = torch.randn(count, 8, 4, 6, generator=seeded(seed))
    geometry = adapter_geometry((3, 5)).draw(count, (8, 12), seeded(seed))
    expected = geometry.apply(adapter.to_map(vectors))
    torch.testing.assert_close(adapter.drawn(vectors, geometry), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [400, 784])
@pytest.mark.parametrize("sharpness", [1, 5])
def test_attention_a_head_at_a_time_is_attention(length: int, sharpness: int) -> None:
    queries, keys, values = torch.randn(3, 2, 3, length, 64, generator=seeded(0)).bfloat16()
    parts = (sharpness * queries, keys, values)
    exact = F.scaled_dot_product_attention(*(part.double() for part in parts))
    found, fused = attention(*parts), F.scaled_dot_product_attention(*parts)
    error, usual = ((each.double() - exact).square().mean().sqrt() for each in (found, fused))
    assert error < 0.02 * exact.square().mean().sqrt()
    assert error < 8 * usual


def test_bfloat16_changes_few_codes_and_only_where_it_is_asked_for() -> None:
    torch.manual_seed(0)
    adapter = TokenAdapt(AdapterConfig())
    vectors = torch.randn(2, 32, 32, 32, generator=seeded(0))
    found = {}
    for precision in ("bf16", "fp32"):
        adapter.precision = precision  # type: ignore[assignment]
        found[precision] = adapter(vectors, generator=seeded(1))
        assert adapter.to_map(vectors).dtype == torch.float32
    assert 0.9 < (found["bf16"] == found["fp32"]).double().mean() < 1
    adapter.precision = "auto"
    native = "bf16" if has_bfloat16(torch.device("cpu")) else "fp32"
    assert torch.equal(adapter(vectors, generator=seeded(1)), found[native])
    adapter.precision = "bfloat16"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="precision='bfloat16': expected one of auto, bf16, fp32"):
        adapter(vectors, generator=seeded(1))


def test_geometry_is_the_same_whatever_the_precision_of_the_networks() -> None:
    whole = adapter_geometry((28, 28))
    exact = whole.draw(9, (64, 64), seeded(3))
    with torch.autocast("cpu", torch.bfloat16):
        other = whole.draw(9, (64, 64), seeded(3))
        assert torch.equal(other.maps, exact.maps)  # type: ignore[arg-type]
        needed = exact.needed()
    assert torch.equal(needed, exact.needed())  # type: ignore[arg-type]


def test_other_augmentations_get_and_give_float32() -> None:
    class Convolved(nn.Module):
        def forward(self, adapted: Tensor, *, generator: torch.Generator) -> Tensor:
            assert adapted.dtype == torch.float32
            return F.conv2d(adapted, torch.eye(8)[..., None, None])

    adapter = small_adapter()
    adapter.precision = "bf16"
    vectors = torch.randn(2, 8, 4, 6, generator=seeded(0))
    assert adapter.augmented(vectors, Convolved(), generator=seeded(0)).dtype == torch.float32


def test_batches_of_none_give_none() -> None:
    adapter = small_adapter()
    assert adapter(torch.zeros(0, 8, 4, 6), generator=seeded(0)).shape == (0, 3, 5)


def test_threads_change_nothing() -> None:
    torch.manual_seed(0)
    adapter = TokenAdapt(AdapterConfig())
    codebook = torch.randn(391, 32, generator=seeded(1))
    transform = recipes.mtm_pretrain(codebook, adapter).per_sample(0)
    codes = list(torch.randint(0, 391, (4, 32, 32), generator=seeded(2)))
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, threads):
            torch.set_num_threads(count)
            found.append(torch.stack(transform.of_rows(np.arange(4), codes)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
