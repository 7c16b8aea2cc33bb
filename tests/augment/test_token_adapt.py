"""TokenAdapt against section 3 of the facts, stated plainly; its files; and the recipes it is used in."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.paths import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tokenstore.augment import (
    AdapterConfig,
    CodebookEmbedding,
    ColorAdapt,
    Geometry,
    Recipe,
    TokenAdapt,
    adapter_geometry,
    recipes,
)
from tokenstore.augment.adapters import load_adapter, save_adapter
from tokenstore.augment.devices import has_bfloat16
from tokenstore.errors import AdapterError
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.networks.transformer import attention, sin_cos_table

SMALL = AdapterConfig(20, 8, (4, 6), (3, 5), width=64, heads=1, mlp=96)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def official_shapes(codes: int = 391) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of f and g in the published checkpoints."""
    shapes: dict[str, tuple[int, ...]] = {
        "conversion_function.0.weight": (384, 32),
        "conversion_function.0.bias": (384,),
        "conversion_function.1.de_pos_embedding": (1, 1024, 384),
        "conversion_function.1.to_pixel.1.weight": (384, 32, 2, 2),
        "conversion_function.1.to_pixel.1.bias": (32,),
        "reverse_transform.0.en_pos_embedding": (1, 784, 384),
        "reverse_transform.0.to_patch_embedding.0.weight": (384, 32, 2, 2),
        "reverse_transform.0.to_patch_embedding.0.bias": (384,),
        "reverse_transform.1.weight": (codes, 384),
        "reverse_transform.1.bias": (codes,),
    }
    for part in ("conversion_function.1", "reverse_transform.0"):
        block = f"{part}.transformer.layers.0"
        shapes |= {
            f"{block}.0.norm.weight": (384,),
            f"{block}.0.norm.bias": (384,),
            f"{block}.0.fn.to_qkv.weight": (1152, 384),
            f"{block}.0.fn.to_out.weight": (384, 384),
            f"{block}.0.fn.to_out.bias": (384,),
            f"{block}.1.norm.weight": (384,),
            f"{block}.1.norm.bias": (384,),
            f"{block}.1.fn.net.0.weight": (1536, 384),
            f"{block}.1.fn.net.0.bias": (1536,),
            f"{block}.1.fn.net.2.weight": (384, 1536),
            f"{block}.1.fn.net.2.bias": (384,),
            f"{part}.transformer.norm.weight": (384,),
            f"{part}.transformer.norm.bias": (384,),
        }
    return shapes


def official_tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = seeded(seed)
    return {name: torch.randn(shape, generator=generator) / 16 for name, shape in official_shapes().items()}


def block_by_hand(x: Tensor, tensors: dict[str, Tensor], part: str) -> Tensor:
    """x + attention(norm(x)), then x + mlp(norm(x)), then the last norm, for one sample (N, 384)."""

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
    """(32, 32, 32) to (32, 64, 64)."""
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
    """(32, 56, 56) to logits (391, 28, 28)."""
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


def small_adapter(seed: int = 0) -> TokenAdapt:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TokenAdapt(SMALL, tokenizer=TokenizerIdentity("some tokenizer", "ab" * 32))


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
    with pytest.raises(ValueError, match=r"precision: expected one of .*'bf16'.* found 'bfloat16'"):
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


def test_a_file_gives_back_weights_sizes_and_tokenizer(tmp_path: Path) -> None:
    adapter = small_adapter()
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    loaded = load_adapter(tmp_path / "adapter.safetensors")
    assert (loaded.config, loaded.tokenizer) == (adapter.config, adapter.tokenizer)
    assert loaded.tensors().keys() == adapter.tensors().keys()
    assert all(torch.equal(tensor, adapter.tensors()[name]) for name, tensor in loaded.tensors().items())
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path: Path) -> None:
    adapter = small_adapter()
    for name, dtype in (("whole", None), ("half", torch.float16)):
        save_adapter(adapter, tmp_path / f"{name}.safetensors", dtype)
    whole, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half"))
    assert half < 0.6 * whole
    for name, tensor in load_adapter(tmp_path / "half.safetensors").tensors().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, adapter.tensors()[name], atol=1e-3, rtol=1e-3)


def test_an_adapter_is_for_the_codes_of_its_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    adapter = small_adapter()
    save_adapter(adapter, path)
    assert adapter.tokenizer is not None
    same, unknown = adapter.tokenizer, TokenizerIdentity("codes from somewhere")
    for tokenizer in (None, same, unknown):
        loaded = load_adapter(path, tokenizer=tokenizer)
        assert torch.equal(loaded.reverse_transform[1].weight, adapter.reverse_transform[1].weight)
    other = TokenizerIdentity("another", "cd" * 32)
    with pytest.raises(AdapterError, match=r"of another \(cdcd.*found one .* some tokenizer \(abab.*trains"):
        load_adapter(path, tokenizer=other)
    adapter.tokenizer = None
    save_adapter(adapter, path)
    assert load_adapter(path, tokenizer=other).tokenizer is None


def test_an_adapter_follows_codes_that_were_pruned(tmp_path: Path) -> None:
    path, pruned_path = tmp_path / "adapter.safetensors", tmp_path / "pruned.safetensors"
    adapter = small_adapter()
    assert adapter.tokenizer is not None
    save_adapter(adapter, path)
    pruned = replace(adapter.tokenizer, kept_codes=((0, 3, 17),))
    loaded = load_adapter(path, tokenizer=pruned)
    assert (loaded.config.codebook_size, loaded.tokenizer) == (3, pruned)
    vectors = torch.randn(2, 8, 4, 6, generator=seeded(0))
    whole, part = (each.to_logits(each.to_map(vectors)) for each in (adapter, loaded))
    torch.testing.assert_close(part, whole[:, [0, 3, 17]])
    save_adapter(loaded, pruned_path)
    assert load_adapter(pruned_path, tokenizer=pruned).tokenizer == pruned
    for tokenizer in (adapter.tokenizer, replace(pruned, kept_codes=((0, 3, 16),))):
        with pytest.raises(AdapterError, match="pruned to 3; "):
            load_adapter(pruned_path, tokenizer=tokenizer)
    for kept in (((3,), (4,)), ((3, 20),)):
        with pytest.raises(AdapterError, match=r"pruned to \d, found one for 20 codes"):
            load_adapter(path, tokenizer=replace(pruned, kept_codes=kept))
    # One of unknown origin may be for the store's own numbers, if it has so many, and for no others.
    adapter.tokenizer = None
    save_adapter(adapter, path)
    with pytest.raises(AdapterError, match="found one for 20 codes of an unknown tokenizer"):
        load_adapter(path, tokenizer=pruned)
    twenty = replace(pruned, kept_codes=(tuple(range(100, 120)),))
    assert load_adapter(path, tokenizer=twenty).config.codebook_size == 20


@pytest.mark.parametrize("name", ["model.pth", "model.ckpt", "model.safetensors"])
def test_published_checkpoints_are_loaded_in_every_form(tmp_path: Path, name: str) -> None:
    tensors = official_tensors() | {"blocks.0.weight": torch.zeros(2)}
    if name.endswith("safetensors"):
        save_file(tensors, tmp_path / name)
    else:
        torch.save({"state_dict": tensors} if name.endswith("ckpt") else tensors, tmp_path / name)
    adapter = load_adapter(tmp_path / name)
    assert torch.equal(adapter.reverse_transform[1].weight, tensors["reverse_transform.1.weight"])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def test_files_that_are_no_adapters_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(200)))
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    save_adapter(small_adapter(), tmp_path / "cut.safetensors")
    data = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    for name in (
        "empty.safetensors",
        "noise.safetensors",
        "evil.pth",
        "other.safetensors",
        "cut.safetensors",
        "absent.safetensors",
        "absent.pth",
    ):
        with pytest.raises(AdapterError, match=f"{name}: expected the weights of a TokenAdapt"):
            load_adapter(tmp_path / name)
    assert "run" not in capsys.readouterr().out
    tensors = official_tensors()
    for change, message in (
        ({"reverse_transform.1.bias": torch.zeros(5)}, r"reverse_transform.1.bias: expected shape \(391,\)"),
        (
            {"conversion_function.2.weight": torch.zeros(5)},
            "conversion_function.2.weight: expected shape none",
        ),
    ):
        with pytest.raises(AdapterError, match=message):
            TokenAdapt.from_tensors({**tensors, **change})
    del tensors["reverse_transform.0.transformer.norm.bias"]
    with pytest.raises(AdapterError, match=r"norm.bias: expected shape \(384,\), found none"):
        TokenAdapt.from_tensors(tensors)


CODEBOOK = torch.randn(20, 8, generator=seeded(9))


def made(name: str) -> nn.Module:
    arguments = {
        "seit": lambda: recipes.seit(CODEBOOK, 7, (3, 5)),
        "mtm_pretrain": lambda: recipes.mtm_pretrain(CODEBOOK, small_adapter(), (3, 5)),
        "finetune": lambda: recipes.finetune(CODEBOOK, small_adapter(), 7, (3, 5)),
        "none": lambda: recipes.none((3, 5)),
    }
    return arguments[name]()


NAMES = ("seit", "mtm_pretrain", "finetune", "none")


@pytest.mark.parametrize("count", [1, 2, 7, 8])
@pytest.mark.parametrize("name", NAMES)
def test_recipes_give_what_their_networks_take(name: str, count: int) -> None:
    codes = torch.randint(0, 20, (count, 4, 6), generator=seeded(0))
    labels = torch.arange(count) % 7
    kept = codes.clone()
    for seed in range(6):
        inputs, targets = made(name)(codes, labels, generator=seeded(seed))
        again = made(name)(codes, labels, generator=seeded(seed))
        assert torch.equal(inputs, again[0])
        assert torch.equal(targets, again[1])
        assert torch.equal(codes, kept)
        if name == "seit":
            assert (inputs.shape, inputs.dtype) == ((count, 8, 3, 5), torch.float32)
        else:
            assert (inputs.shape, inputs.dtype) == ((count, 3, 5), torch.int64)
            assert 0 <= inputs.min() <= inputs.max() < 20
        if name in ("seit", "finetune"):
            assert targets.shape == (count, 7)
            torch.testing.assert_close(targets.sum(1), torch.ones(count))
        else:
            assert torch.equal(targets, labels)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_can_be_read(name: str) -> None:
    text = str(made(name))
    expected = {
        "seit": ("SynonymReplacement", "rate=0.25", "PatchSwap", "EmbNoise", "scale=(0.08, 1.0)", "CutMix"),
        "mtm_pretrain": (
            "ColorAdapt",
            "EmbNoise",
            "scale=(0.2, 1.0)",
            "TokenAdapt",
            "degrees=30",
            "Requantise",
        ),
        "finetune": ("p=[0.25, 0.75]", "Mixup", "alpha=0.8", "smoothing=0.1", "scale=(0.08, 1.0)"),
        "none": ("CenterCrop",),
    }
    assert all(part in text for part in expected[name]), text


def test_half_of_a_batch_takes_each_path() -> None:
    adapter = small_adapter()
    adapter.precision = "fp32"
    recipe = Recipe(CODEBOOK, nn.Identity(), adapter=adapter, requantise=True)
    recipe.crop = _Same()
    adapter.augmentation = _Same()
    codes = torch.randint(0, 20, (5, 4, 6), generator=seeded(0))
    inputs, _ = recipe(codes, None, generator=seeded(0))
    assert torch.equal(inputs[:3], codes[:3])
    vectors = CodebookEmbedding(CODEBOOK)(codes[3:])
    assert torch.equal(inputs[3:], adapter.to_logits(adapter.to_map(vectors)).argmax(1))


def test_recipes_leave_the_adapter_as_it_is() -> None:
    adapter = small_adapter()
    before = str(adapter)
    pretraining = recipes.mtm_pretrain(CODEBOOK, adapter, (3, 5))
    finetuning = recipes.finetune(CODEBOOK, adapter, 7, (3, 5))
    assert str(adapter) == before
    assert "scale=(0.2, 1.0)" in str(pretraining.adapter_geometry)
    assert "scale=(0.08, 1.0)" in str(finetuning.adapter_geometry)


class _Same(nn.Module):
    def forward(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        return x


def test_targets_that_are_probabilities_need_labels_and_classes() -> None:
    codes = torch.zeros(2, 4, 6, dtype=torch.long)
    with pytest.raises(ValueError, match="labels: expected labels"):
        made("finetune")(codes, None, generator=seeded(0))
    with pytest.raises(ValueError, match="classes"):
        Recipe(CODEBOOK, nn.Identity(), smoothing=0.1)
    with pytest.raises(ValueError, match="20 codes, found one for 391"):
        Recipe(CODEBOOK, nn.Identity(), adapter=TokenAdapt(AdapterConfig()))
    inputs, targets = made("mtm_pretrain")(codes, None, generator=seeded(0))
    assert targets is None
    assert len(inputs) == 2


def test_no_augmentation_sample_by_sample_is_the_central_crop() -> None:
    codes = torch.randint(0, 20, (4, 6), generator=seeded(0))
    assert torch.equal(recipes.none((2, 4)).per_sample()(codes), codes[1:3, 1:5])


@pytest.mark.parametrize("name", ["seit", "mtm_pretrain", "finetune"])
def test_per_sample_depends_on_seed_epoch_and_place_alone(name: str) -> None:
    codes = torch.randint(0, 20, (40, 4, 6), generator=seeded(0))
    partners = torch.randint(0, 20, (9, 4, 6), generator=seeded(1))
    recipe = made(name)
    assert isinstance(recipe, Recipe)
    transform = recipe.per_sample(3, partners)
    rows = np.arange(100, 140)
    whole = transform.of_rows(rows, list(codes))
    order = torch.randperm(40, generator=seeded(2)).tolist()
    for places in (order[:7], order[7:]):
        for place, found in zip(
            places, transform.of_rows(rows[places], [codes[place] for place in places]), strict=True
        ):
            assert torch.equal(found, whole[place])
    assert all(
        torch.equal(a, b)
        for a, b in zip(made(name).per_sample(3, partners).of_rows(rows, list(codes)), whole, strict=True)
    )
    transform.set_epoch(1)
    other = transform.of_rows(rows, list(codes))
    assert sum(not torch.equal(a, b) for a, b in zip(other, whole, strict=True)) > 20
    others = made(name).per_sample(4, partners).of_rows(rows, list(codes))
    assert sum(not torch.equal(a, b) for a, b in zip(others, whole, strict=True)) > 20


def test_per_sample_leaves_the_recipe_alone_and_gives_colours_of_partners() -> None:
    recipe = recipes.mtm_pretrain(CODEBOOK, small_adapter(), (3, 5))
    before = str(recipe)
    transform = recipe.per_sample(0, torch.randint(0, 20, (9, 4, 6), generator=seeded(1)))
    assert str(recipe) == before
    banks = [module for module in transform.module.modules() if isinstance(module, ColorAdapt)]
    assert [module.bank for module in banks] == [9]
    assert not any(module.training for module in transform.module.modules())
