"""Masks: pure functions of a generator, with the published numbers of patches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seitpp_models import MaskRatio, draw_mask, draw_ratio


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=100)
@given(
    batch=st.integers(0, 5),
    patches=st.integers(1, 60),
    shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    seed=st.integers(0, 2**32),
)
def test_visible_and_masked_patches_are_parts_of_one_order(
    batch: int, patches: int, shares: list[float], seed: int
) -> None:
    dropped, ratio = shares
    mask = draw_mask(batch, patches, ratio, dropped, seeded(seed))
    again = draw_mask(batch, patches, ratio, dropped, seeded(seed))
    assert torch.equal(mask.visible, again.visible)
    assert torch.equal(mask.masked, again.masked)
    assert mask.visible.shape == (batch, patches - math.ceil(patches * dropped))
    assert mask.masked.shape == (batch, math.ceil(patches * ratio))
    for visible, masked in zip(mask.visible.tolist(), mask.masked.tolist(), strict=True):
        assert set(visible) | set(masked) == set(range(patches))
        assert len(set(visible)) == len(visible)
        assert len(set(masked)) == len(masked)


def test_each_patch_is_as_likely_as_another() -> None:
    mask = draw_mask(20_000, 10, 0.5, 0.3, seeded(0))
    counts = torch.bincount(mask.masked.flatten(), minlength=10)
    assert (counts - 10_000).abs().max() < 400  # 5.7 standard deviations
    counts = torch.bincount(mask.visible.flatten(), minlength=10)
    assert (counts - 14_000).abs().max() < 400


def test_ratios_are_a_normal_distribution_cut_off() -> None:
    distribution = MaskRatio()
    generator = seeded(0)
    drawn = torch.tensor([draw_ratio(distribution, generator) for _ in range(4000)], dtype=torch.float64)
    assert distribution.low <= drawn.min() < 0.401
    assert 0.98 < drawn.max() <= distribution.high
    # The normal distribution's share below each bound, between the cuts.
    normal = torch.distributions.Normal(torch.tensor(0.45).double(), torch.tensor(0.25).double())
    low, high = normal.cdf(torch.tensor([0.4, 1.0]).double())
    for bound in (0.45, 0.55, 0.7, 0.9):
        expected = (normal.cdf(torch.tensor(bound).double()) - low) / (high - low)
        assert float((drawn < bound).double().mean()) == pytest.approx(float(expected), abs=0.03)


@pytest.mark.parametrize(
    "wrong", [{"low": 0.0}, {"low": 0.6, "high": 0.5}, {"high": 1.1}, {"deviation": 0.0}]
)
def test_distributions_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < low <= high <= 1"):
        MaskRatio(**wrong)


@pytest.mark.parametrize(("ratio", "dropped"), [(0.3, 0.4), (0.5, 0.0), (1.1, 0.4)])
def test_shares_that_cannot_be_are_refused(ratio: float, dropped: float) -> None:
    with pytest.raises(ValueError, match="expected 0 < dropped <= ratio <= 1"):
        draw_mask(2, 9, ratio, dropped, seeded(0))
