"""Latent vectors to codes and back: nearest, residual, finite scalar."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers import quantisers
from tokenstore.tokenizers.quantisers import (
    FiniteScalar,
    NearestCodebook,
    Quantiser,
    ResidualCodebooks,
    nearest,
    nearest_plainly,
    restore,
)

GENERATOR = torch.Generator().manual_seed(0)


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def some_quantisers() -> list[Quantiser]:
    """Return a quantiser of each kind over 3 channels."""
    return [
        NearestCodebook(latents(50, 3)),
        ResidualCodebooks(torch.stack([latents(20, 3), latents(20, 3) / 4])),
        FiniteScalar((4, 3, 5), torch.tensor([1.0, -2.0, 0.0]), torch.tensor([1.0, 2.0, 0.5])),
    ]


@st.composite
def tables(draw: st.DrawFn, unit: float = 1 / 1024, largest: int = 2**17) -> torch.Tensor:
    """Draw distinct vectors (K, D), some of them close neighbours far from zero."""
    dimensions = draw(st.integers(1, 5))
    row = st.tuples(*[st.integers(-largest, largest)] * dimensions)
    rows = draw(st.lists(row, min_size=1, max_size=40, unique=True))
    table = torch.tensor(rows, dtype=torch.float32) * unit
    neighbour = draw(st.integers(0, len(rows) - 1))
    return torch.cat([table, table[neighbour : neighbour + 1] + unit]).unique(dim=0)


# ---- the interface


@pytest.mark.parametrize("quantiser", some_quantisers(), ids=lambda quantiser: quantiser.kind)
def test_every_kind_has_the_same_interface(quantiser: Quantiser) -> None:
    planes = len(quantiser.codebook_sizes)
    shape = (2, 4, 6) if planes == 1 else (2, planes, 4, 6)
    codes = quantiser.codes(latents(2, 3, 4, 6))
    assert codes.dtype == torch.int64
    assert codes.shape == shape
    assert int(codes.min()) >= 0
    assert int(codes.max()) < min(quantiser.codebook_sizes)
    assert len(codes.unique()) > 5
    vectors = quantiser.vectors(codes)
    assert vectors.shape == (2, 3, 4, 6)
    assert vectors.dtype == torch.float32
    sizes = quantiser.codebook_sizes
    expected = (sizes[0], 3) if planes == 1 else (planes, sizes[0], 3)
    assert quantiser.codebook is not None
    assert quantiser.codebook.shape == expected
    assert quantiser.codebook.dtype == np.float32


@pytest.mark.parametrize("quantiser", some_quantisers(), ids=lambda quantiser: quantiser.kind)
def test_vectors_are_those_of_the_codebook(quantiser: Quantiser) -> None:
    codes = quantiser.codes(latents(1, 3, 5, 5))
    assert quantiser.codebook is not None
    planes = codes[0] if codes.ndim == 4 else codes
    tables = quantiser.codebook if codes.ndim == 4 else quantiser.codebook[None]
    expected = sum(table[plane.numpy()] for table, plane in zip(tables, planes, strict=True))
    np.testing.assert_allclose(quantiser.vectors(codes)[0].permute(1, 2, 0), expected, rtol=1e-6)


@pytest.mark.parametrize("quantiser", some_quantisers(), ids=lambda quantiser: quantiser.kind)
def test_a_position_is_coded_by_its_own_vector_alone(quantiser: Quantiser) -> None:
    whole = latents(2, 3, 4, 6)
    codes = quantiser.codes(whole)
    turned = quantiser.codes(whole.flip(0).transpose(2, 3))
    assert torch.equal(turned, codes.flip(0).transpose(-1, -2))
    assert torch.equal(quantiser.codes(whole[1:, :, 3:, 5:])[0].flatten(), codes[1, ..., 3, 5].flatten())


@pytest.mark.parametrize("quantiser", some_quantisers(), ids=lambda quantiser: quantiser.kind)
def test_a_quantiser_is_restored_from_its_tensors(quantiser: Quantiser) -> None:
    levels = quantiser.levels if isinstance(quantiser, FiniteScalar) else None
    restored = restore(quantiser.kind, levels, quantiser.state_dict())
    assert restored.label == quantiser.label
    assert torch.equal(restored.codes(latents(2, 3, 8, 8)), quantiser.codes(latents(2, 3, 8, 8)))
    np.testing.assert_array_equal(restored.codebook, quantiser.codebook)


# ---- nearest


@settings(deadline=None, max_examples=60)
@given(tables())
def test_a_codebook_gives_its_own_vectors_their_own_codes(table: torch.Tensor) -> None:
    quantiser = NearestCodebook(table)
    codes = torch.arange(len(table)).view(1, -1, 1)
    assert torch.equal(quantiser.codes(quantiser.vectors(codes)), codes)


@settings(deadline=None, max_examples=60)
@given(tables(), st.integers(0, 2**32), st.sampled_from([1e-3, 1.0, 100.0]))
def test_the_fast_search_finds_what_the_plain_one_finds(table: torch.Tensor, seed: int, step: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(table), (64,), generator=generator)
    rows = table[picks] + step * torch.randn(64, table.shape[1], generator=generator)
    assert torch.equal(nearest(rows, table), nearest_plainly(rows, table))


def test_the_nearest_vector_is_that_of_least_distance() -> None:
    rows, table = latents(500, 4), latents(100, 4)
    distances = (rows[:, None].double() - table[None].double()).square().sum(2)
    assert torch.equal(nearest(rows, table), distances.argmin(1))


def test_of_equal_vectors_and_equal_distances_the_lowest_code_is_taken() -> None:
    table = torch.tensor([[5.0, 0], [1.0, 0], [-1.0, 0], [5.0, 0], [1.0, 0]])
    rows = torch.tensor([[5.0, 0], [0.0, 0], [0.0, 7], [1.0, 0], [-3.0, 0]])
    assert nearest(rows, table).tolist() == [0, 1, 1, 1, 2]


def test_the_largest_codebooks_are_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    addmm = torch.addmm

    def watched(*args: torch.Tensor, **options: int) -> torch.Tensor:
        held.append(addmm(*args, **options))
        return held[-1]

    monkeypatch.setattr(torch, "addmm", watched)
    rows, table = latents(300, 4), latents(16384, 4)
    codes = nearest(rows, table)
    assert len(held) > 1
    assert max(scores.numel() for scores in held) <= quantisers._PAIRS_ON_CPU
    monkeypatch.setattr(quantisers, "_PAIRS_ON_CPU", 1)
    assert torch.equal(nearest(rows[:20], table), codes[:20])


def test_no_rows_have_no_codes() -> None:
    assert nearest(torch.empty(0, 4), latents(7, 4)).shape == (0,)


# ---- residual


@st.composite
def nested_tables(draw: st.DrawFn) -> torch.Tensor:
    """Draw tables (n, K, D), each within the cells of the one before, in numbers that floats hold exactly."""
    dimensions, size = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    row = st.tuples(*[st.integers(-2, 2)] * dimensions)
    stages = draw(st.lists(st.lists(row, min_size=size, max_size=size, unique=True), min_size=1, max_size=4))
    return torch.stack([torch.tensor(rows) * 16.0**-stage for stage, rows in enumerate(stages)])


@settings(deadline=None, max_examples=60)
@given(nested_tables())
def test_nested_residual_codebooks_give_every_code_back(tables: torch.Tensor) -> None:
    quantiser = ResidualCodebooks(tables)
    every = torch.tensor(list(itertools.product(range(tables.shape[1]), repeat=len(tables))))
    codes = every.T[None, :, :, None]
    assert torch.equal(quantiser.codes(quantiser.vectors(codes)), codes)


def test_each_residual_codebook_codes_what_those_before_it_left() -> None:
    tables = torch.stack([latents(30, 3), latents(30, 3).flip(0) / 2, latents(30, 3) / 8])
    rows = latents(1, 3, 10, 10)
    codes = ResidualCodebooks(tables).codes(rows)
    rest = rows[0].flatten(1).T.double()
    for plane, table in zip(codes[0], tables.double(), strict=True):
        expected = (rest[:, None] - table[None]).square().sum(2).argmin(1)
        assert torch.equal(plane.flatten(), expected)
        rest = rest - table[expected]


# ---- finite scalar


@st.composite
def finite_scalars(draw: st.DrawFn) -> FiniteScalar:
    levels = draw(st.lists(st.integers(2, 9), min_size=1, max_size=4))
    number = st.floats(-100, 100, width=32)
    scale = st.floats(2**-6, 100, width=32)
    mean = draw(st.lists(number, min_size=len(levels), max_size=len(levels)))
    scales = draw(st.lists(scale, min_size=len(levels), max_size=len(levels)))
    return FiniteScalar(levels, torch.tensor(mean), torch.tensor(scales))


@settings(deadline=None, max_examples=60)
@given(finite_scalars())
def test_finite_scalars_give_every_code_back(quantiser: FiniteScalar) -> None:
    codes = torch.arange(quantiser.codebook_sizes[0]).view(1, -1, 1)
    vectors = quantiser.vectors(codes)
    assert torch.equal(quantiser.codes(vectors), codes)
    assert quantiser.codebook is not None
    np.testing.assert_array_equal(quantiser.codebook, vectors[0, :, :, 0].T)


@settings(deadline=None, max_examples=60)
@given(finite_scalars(), st.floats(-3, 3))
def test_a_level_is_the_part_of_the_bounded_interval_a_value_is_in(
    quantiser: FiniteScalar, standard: float
) -> None:
    channel = len(quantiser.levels) - 1
    levels = quantiser.levels[channel]
    part = (math.tanh(standard) + 1) / 2 * levels
    assume(abs(part - round(part)) > 1e-2)
    values = quantiser.mean.clone()
    values[channel] += standard * quantiser.scale[channel]
    code = quantiser.codes(values[None, :, None, None]).item()
    assert code // math.prod(quantiser.levels[:channel]) == math.floor(part)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [(2, [-0.5493, 0.5493]), (3, [-0.8047, 0.0, 0.8047]), (4, [-0.9730, -0.2554, 0.2554, 0.9730])],
)
def test_even_and_odd_levels_lie_evenly_about_the_mean(levels: int, expected: list[float]) -> None:
    quantiser = FiniteScalar([levels], torch.tensor([10.0]), torch.tensor([2.0]))
    np.testing.assert_allclose(quantiser.codebook[:, 0], 10 + 2 * np.array(expected), atol=1e-3)
    far = quantiser.codes(torch.tensor([-1e9, 1e9]).view(2, 1, 1, 1))
    assert far.flatten().tolist() == [0, levels - 1]


def test_levels_become_one_code_by_mixed_radix() -> None:
    quantiser = FiniteScalar((2, 3, 4), torch.zeros(3), torch.ones(3))
    low, high = -9.0, 9.0
    rows = torch.tensor([[low, low, low], [high, low, low], [low, high, low], [low, low, high], [high] * 3])
    assert quantiser.codes(rows[:, :, None, None]).flatten().tolist() == [0, 1, 4, 18, 23]


def test_codes_too_many_for_a_codebook_still_come_back() -> None:
    quantiser = FiniteScalar((256, 256, 255), torch.tensor([3.0, 0.0, -1.0]), torch.tensor([4.0, 1.0, 0.1]))
    assert quantiser.codebook is None
    size = quantiser.codebook_sizes[0]
    codes = torch.randint(size, (1, 40, 40), generator=GENERATOR)
    codes[0, 0, :2] = torch.tensor([0, size - 1])
    assert torch.equal(quantiser.codes(quantiser.vectors(codes)), codes)


@pytest.mark.parametrize(
    ("levels", "mean", "scale", "message"),
    [
        ((), [], [], "2 to 256 levels"),
        ((1, 2), [0, 0], [1, 1], "2 to 256 levels"),
        ((257,), [0], [1], "2 to 256 levels"),
        ((256, 256, 257 - 1, 2), [0] * 4, [1] * 4, "at most 16,777,216 codes"),
        ((2, 2), [0], [1], "mean for each of 2 channels"),
        ((2,), [0], [1, 1], "scale for each of 1 channels"),
        ((2,), [0], [0], "scales above 0"),
        ((2,), [0], [-1], "scales above 0"),
        ((2,), [math.nan], [1], "finite"),
        ((9,), [1e6], [1e-3], "channel 0: 9 levels around 1e.06 cannot be told apart"),
        ((9,), [0], [3e38], "channel 0: 9 levels"),
    ],
)
def test_levels_that_cannot_work_are_refused(
    levels: tuple[int, ...], mean: list[float], scale: list[float], message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        FiniteScalar(levels, torch.tensor(mean, dtype=torch.float32), torch.tensor(scale).float())


# ---- what is refused


@pytest.mark.parametrize("kind", [NearestCodebook, ResidualCodebooks])
@pytest.mark.parametrize("shape", [(3,), (3, 0), (2, 3, 0), (1, 2, 3, 4)])
def test_tables_of_another_shape_are_refused(kind: type[Quantiser], shape: tuple[int, ...]) -> None:
    with pytest.raises(TokenizerError, match="expected finite vectors"):
        kind(torch.zeros(shape))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("kind", "levels", "tensors", "message"),
    [
        ("nearest", None, {}, r"expected the tensors \['table'\], found \[\]"),
        ("nearest", None, {"table": torch.ones(2, 2), "more": torch.ones(1)}, "expected the tensors"),
        (
            "nearest",
            None,
            {"table": torch.ones(2, 2).half()},
            "'table': expected float32, found torch.float16",
        ),
        ("nearest", [2], {"table": torch.ones(2, 2)}, "expected levels with fsq only"),
        ("fsq", None, {"mean": torch.ones(2), "scale": torch.ones(2)}, "expected levels with fsq only"),
        ("residual", None, {"tables": torch.full((1, 1, 1), math.inf)}, "expected finite vectors"),
    ],
)
def test_tensors_that_are_no_quantiser_are_refused(
    kind: str, levels: list[int] | None, tensors: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        restore(kind, levels, tensors)
