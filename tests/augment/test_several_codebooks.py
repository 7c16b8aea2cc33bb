"""Vectors and augmentation of several codes a position, of lists of codes, and of numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.adapters import seeded
from torch import Tensor

from tokenstore.augment import (
    AdapterConfig,
    CodebookEmbedding,
    ColorAdapt,
    CutMix,
    NumberVectors,
    Requantise,
    SeveralCodebooks,
    TokenAdapt,
    load_adapter,
    noise_strength,
    recipes,
    save_adapter,
    soft_targets,
)
from tokenstore.augment.several_codebooks import Combination
from tokenstore.errors import AdapterError, CodecError

COUNT, SIZE, LENGTH, CLASSES = 3, 11, 4, 5
SIZES = (11, 7, 5)
TABLES = torch.randn(COUNT, SIZE, LENGTH, generator=seeded(1))


def codes_of(sizes: tuple[int, ...] = SIZES, grid: tuple[int, ...] = (6, 5), count: int = 4) -> Tensor:
    planes = [torch.randint(size, (count, *grid), generator=seeded(size)) for size in sizes]
    return torch.stack(planes, 1)


def adapter_config(codebook_size: int | tuple[int, ...], channels: int) -> AdapterConfig:
    return AdapterConfig(codebook_size, channels, (6, 6), (6, 6), width=64, heads=1, mlp=64)


@pytest.mark.parametrize("grid", [(6, 5), (7,)])
@pytest.mark.parametrize("combination", ["sum", "concatenate"])
def test_vectors_of_several_codebooks_are_those_of_each_looked_up_alone(
    combination: Combination, grid: tuple[int, ...]
) -> None:
    codes = codes_of(grid=grid)
    vectors = SeveralCodebooks(TABLES, SIZES, combination)
    alone = [CodebookEmbedding(table)(plane) for table, plane in zip(TABLES, codes.unbind(1), strict=True)]
    expected = torch.cat(alone, 1) if combination == "concatenate" else alone[0] + alone[1] + alone[2]
    assert torch.allclose(vectors(codes.to(torch.uint8)), expected, atol=1e-6)
    assert vectors.channels == expected.shape[1]


def test_concatenated_vectors_give_their_codes_back() -> None:
    vectors = SeveralCodebooks(TABLES, SIZES, "concatenate")
    assert torch.equal(vectors.requantiser()(vectors(codes_of())), codes_of())


def test_added_vectors_are_requantised_as_residuals() -> None:
    scales = torch.tensor([1.0, 0.05, 0.002])[:, None, None]  # as residuals shrink, so that greedy is right
    vectors = SeveralCodebooks(TABLES * scales, SIZES)
    assert torch.equal(vectors.requantiser()(vectors(codes_of())), codes_of())
    noisy = vectors(codes_of()) + 0.01 * torch.randn(4, LENGTH, 6, 5, generator=seeded(4))
    found = vectors.requantiser()(noisy)
    first = Requantise(TABLES[0] * scales[0], "euclidean")(noisy)
    rest = noisy - CodebookEmbedding(TABLES[0] * scales[0])(first)
    assert torch.equal(found[:, 0], first)
    assert torch.equal(found[:, 1], Requantise(TABLES[1, :7] * scales[1], "euclidean")(rest))


def test_codes_beyond_their_own_codebook_are_refused() -> None:
    codes = codes_of()
    codes[1, 2, 3, 4] = SIZES[2]
    with pytest.raises(CodecError, match=r"sample 1 of the batch, position \(3, 4\).*from 0 to 4, found 5"):
        SeveralCodebooks(TABLES, SIZES)(codes)
    with pytest.raises(ValueError, match="of 3 codebooks, found"):
        SeveralCodebooks(TABLES, SIZES)(codes[:, :2])


def test_what_cannot_be_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="vectors \\(n, K, D\\), found shape"):
        SeveralCodebooks(TABLES[0])
    with pytest.raises(ValueError, match="3 numbers of codes up to 11"):
        SeveralCodebooks(TABLES, (11, 12, 3))
    with pytest.raises(ValueError, match="Did you mean 'sum'"):
        SeveralCodebooks(TABLES, SIZES, "sun")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected floats \\(B, 3, \\*grid\\)"):
        NumberVectors(3)(torch.zeros(2, 3, 4, 4, dtype=torch.int64))


def test_the_deviation_is_that_of_the_vectors() -> None:
    drawn = torch.stack([torch.randint(SIZE, (50_000,), generator=seeded(seed)) for seed in range(COUNT)], 1)
    for combination in ("sum", "concatenate"):
        vectors = SeveralCodebooks(TABLES, combination=combination)  # type: ignore[arg-type]
        found = float(vectors(drawn[..., None]).std())
        assert noise_strength(vectors) == pytest.approx(found, rel=0.1)
    assert noise_strength(NumberVectors(7)) == 1


@pytest.mark.parametrize("name", ["seit", "finetune", "mtm"])
@pytest.mark.parametrize("kind", ["sum", "concatenate", "numbers"])
def test_recipes_take_other_tokens(name: str, kind: str) -> None:
    numbers = torch.randn(8, 6, 6, 6, generator=seeded(3))
    vectors = NumberVectors(6) if kind == "numbers" else SeveralCodebooks(TABLES, SIZES, kind)  # type: ignore[arg-type]
    tokens = numbers if kind == "numbers" else codes_of(grid=(6, 6), count=8)
    config = adapter_config(vectors.codebook_sizes, vectors.channels)
    adapter = TokenAdapt(config)
    labels = torch.arange(8) % CLASSES
    recipe = {
        "seit": lambda: recipes.seit(vectors, CLASSES),
        "finetune": lambda: recipes.finetune(vectors, adapter, CLASSES),
        "mtm": lambda: recipes.mtm_pretrain(vectors, adapter),
    }[name]()
    inputs, targets = recipe(tokens, labels, generator=seeded(5))
    if name == "seit" or kind == "numbers":
        assert inputs.shape == (8, vectors.channels, 6, 6)
        assert inputs.is_floating_point()
    else:
        assert inputs.shape == (8, COUNT, 6, 6)
        assert all(int(plane.max()) < size for plane, size in zip(inputs.unbind(1), SIZES, strict=True))
    assert targets is not None
    assert targets.shape == ((8,) if name == "mtm" else (8, CLASSES))
    again, _ = recipe(tokens, labels, generator=seeded(5))
    assert torch.equal(inputs, again)


def test_an_adapter_for_others_than_the_vectors_is_refused() -> None:
    adapter = TokenAdapt(adapter_config((11, 7), LENGTH))
    with pytest.raises(ValueError, match=r"3 codebooks of \(11, 7, 5\) codes.*found one for 2 codebooks"):
        recipes.finetune(SeveralCodebooks(TABLES, SIZES), adapter, CLASSES)


@pytest.mark.parametrize("codebook_size", [9, (11, 7, 5), ()])
def test_an_adapter_of_any_outputs_comes_back_from_its_file(
    codebook_size: int | tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(2)
    adapter = TokenAdapt(adapter_config(codebook_size, LENGTH))
    adapter.precision = "fp32"
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    loaded = load_adapter(tmp_path / "adapter.safetensors")
    loaded.precision = "fp32"
    assert loaded.config == adapter.config
    embeddings = torch.randn(2, LENGTH, 6, 6, generator=seeded(6))
    found = loaded(embeddings, generator=seeded(7))
    assert torch.equal(found, adapter(embeddings, generator=seeded(7)))
    assert found.is_floating_point() == (codebook_size == ())
    if codebook_size == (11, 7, 5):  # codes are the likeliest of each codebook's own logits
        adapted = adapter.to_map(embeddings)
        logits = adapter.to_logits(adapted)
        likeliest = [part.argmax(1) for part in logits.split(SIZES, 1)]
        assert torch.equal(adapter.to_codes(adapted), torch.stack(likeliest, 1))


def test_a_file_with_sizes_that_are_none_is_refused(tmp_path: Path) -> None:
    adapter = TokenAdapt(adapter_config((11, 7), LENGTH))
    broken = tmp_path / "adapter.safetensors"
    object.__setattr__(adapter, "config", replace(adapter.config, codebook_size=(11, 8)))
    save_adapter(adapter, broken)
    with pytest.raises(AdapterError, match=r"reverse_transform.1.*expected shape"):
        load_adapter(broken)


def test_a_list_is_cut_as_large_a_share_as_its_targets_say() -> None:
    samples = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 1, 64)
    targets = soft_targets(torch.arange(8), 8)
    shares = []
    for seed in range(40):
        mixed, blended = CutMix()(samples, targets, generator=seeded(seed))
        kept = (mixed == samples).float().mean((1, 2, 3))
        assert torch.allclose(blended.gather(1, torch.arange(8)[:, None])[:, 0], kept)
        shares.append(float(kept[0]))
    assert 0.3 < sum(shares) / len(shares) < 0.7  # nothing changed before
    changed = ColorAdapt(1)(torch.randn(4, 3, 1, 9, generator=seeded(1)), generator=seeded(2))
    assert bool(changed.isfinite().all())
