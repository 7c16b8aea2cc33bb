"""Colour, mixing and re-quantisation of embeddings, against the textbook written out."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenstore.augment import (
    CodebookEmbedding,
    ColorAdapt,
    CutMix,
    CutMixOrMixup,
    EmbNoise,
    Mixup,
    OneOf,
    Requantise,
    soft_targets,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def adain(sample: Tensor, partner: Tensor) -> Tensor:
    """Compute equation 8 of Huang and Belongie 2017, channel by channel."""
    result = torch.empty_like(sample)
    for channel, (own, other) in enumerate(zip(sample, partner, strict=True)):
        result[channel] = (own - own.mean()) / own.std() * other.std() + other.mean()
    return result


@given(batch=st.integers(2, 9), seed=st.integers(0, 2**32))
def test_color_adapt_gives_half_the_samples_their_partners_moments(batch: int, seed: int) -> None:
    before = 3 * drawn(seed, batch, 4, 5, 6) + drawn(seed + 1, batch, 4, 1, 1)
    kept = before.clone()
    after = ColorAdapt()(before, generator=seeded(seed))
    assert torch.equal(before, kept)
    changed = [number for number in range(batch) if not torch.equal(after[number], before[number])]
    middle = {batch // 2} if batch % 2 else set()
    assert batch // 2 - 1 <= len(set(changed) | middle) <= batch // 2 + 1
    for number in set(changed) - middle:
        partner = before[batch - 1 - number]
        torch.testing.assert_close(after[number], adain(before[number], partner), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(after[number].mean((1, 2)), partner.mean((1, 2)), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            after[number].flatten(1).std(1), partner.flatten(1).std(1), atol=1e-4, rtol=0
        )


def test_every_sample_is_changed_as_often() -> None:
    before = drawn(0, 8, 2, 4, 4)
    generator = seeded(1)
    for module in (ColorAdapt(), EmbNoise(1.0)):
        changed = torch.zeros(8)
        for _ in range(800):
            here = (module(before, generator=generator) != before).flatten(1).any(1)
            assert here.sum() == 4
            changed += here
        assert (changed - 400).abs().max() < 60


def test_a_bank_gives_partners_to_batches_of_one() -> None:
    module = ColorAdapt(share=1, bank=3, channels=2)
    samples = drawn(0, 6, 2, 4, 4) * torch.arange(1, 7).view(-1, 1, 1, 1)
    generator = seeded(1)
    for number, sample in enumerate(samples):
        after = module(sample[None], generator=generator)[0]
        candidates = [adain(sample, other) for other in samples[max(0, number - 2) : number + 1]]
        assert any(torch.allclose(after, candidate, atol=1e-4) for candidate in candidates)
    module.eval()
    before = module.means.clone()
    found = {
        next(
            index
            for index, other in enumerate(samples[3:])
            if torch.allclose(
                module(samples[:1], generator=seeded(seed))[0], adain(samples[0], other), atol=1e-4
            )
        )
        for seed in range(40)
    }
    assert found == {0, 1, 2}
    assert torch.equal(module.means, before), "in eval mode nothing is remembered"
    with pytest.raises(ValueError, match="channels"):
        ColorAdapt(bank=3)


def test_a_constant_channel_stays_finite() -> None:
    before = torch.cat((torch.ones(1, 3, 4, 4), drawn(0, 1, 3, 4, 4)))
    after = ColorAdapt(share=1)(before, generator=seeded(0))
    assert after.isfinite().all()
    torch.testing.assert_close(after[0], before[1].mean((1, 2), keepdim=True).expand(3, 4, 4))


def test_noise_is_normal_by_channel_and_by_element() -> None:
    before = drawn(0, 400, 6, 8, 8)
    noise = EmbNoise(1.0, share=1)(before, generator=seeded(1)) - before
    by_channel = noise.mean((2, 3))
    assert abs(float(by_channel.std()) - math.sqrt(1 + 1 / 64)) < 0.04
    by_element = noise - by_channel[..., None, None]
    assert abs(float(by_element.std()) - math.sqrt(63 / 64)) < 0.01
    assert abs(float(noise.mean())) < 0.05
    half = EmbNoise(2.0)(before[:2], generator=seeded(1))
    assert (half != before[:2]).flatten(1).any(1).sum() == 1


def test_one_of_takes_each_as_often_as_asked() -> None:
    class Plus(torch.nn.Module):
        def __init__(self, number: float) -> None:
            super().__init__()
            self.number = number

        def forward(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
            return x + self.number

    module = OneOf([Plus(1.0), Plus(2.0)], [0.2, 0.5])
    generator = seeded(0)
    seen = [float(module(torch.zeros(1, 1, 1, 1), generator=generator)) for _ in range(4000)]
    for value, share in ((0.0, 0.3), (1.0, 0.2), (2.0, 0.5)):
        assert abs(seen.count(value) / 4000 - share) < 0.03
    for p in ([0.7, 0.7], [0.5], [-0.1, 0.2]):
        with pytest.raises(ValueError, match="probabilities"):
            OneOf([Plus(1), Plus(2)], p)


@settings(max_examples=40)
@given(
    size=st.integers(1, 40),
    channels=st.integers(1, 5),
    chunk=st.sampled_from([1, 50, 10**6]),
    seed=st.integers(0, 2**32),
)
def test_requantised_is_the_nearest_by_definition(size: int, channels: int, chunk: int, seed: int) -> None:
    codebook, embeddings = drawn(seed, size, channels), drawn(seed + 1, 2, channels, 3, 4)
    rows = embeddings.movedim(1, -1).reshape(-1, 1, channels).double()
    distance = (rows - codebook.double()).norm(dim=2)
    cosine = torch.cosine_similarity(rows, codebook.double()[None], dim=2)
    for metric, score in (("cosine", cosine), ("euclidean", -distance)):
        found = Requantise(codebook, metric, chunk)(embeddings)  # type: ignore[arg-type]
        assert (found.shape, found.dtype) == ((2, 3, 4), torch.int64)
        chosen = score.gather(1, found.reshape(-1, 1))[:, 0]
        torch.testing.assert_close(chosen, score.amax(1), atol=1e-5, rtol=0)


def test_codes_come_back_from_their_vectors() -> None:
    codebook = drawn(0, 300, 32).numpy()
    codes = torch.randint(0, 300, (3, 7, 5), generator=seeded(1))
    vectors = CodebookEmbedding(codebook)(codes)
    for metric in ("cosine", "euclidean"):
        assert torch.equal(Requantise(codebook, metric, chunk=1000)(vectors), codes)  # type: ignore[arg-type]
    lengths = np.linspace(0.5, 4, 300, dtype=np.float32)[:, None]
    assert torch.equal(Requantise(codebook * lengths)(vectors), codes), "cosine ignores length"
    with pytest.raises(ValueError, match="metric"):
        Requantise(codebook, "manhattan")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"embeddings \(B, 32"):
        Requantise(codebook)(vectors[:, :5])


def test_soft_targets() -> None:
    expected = [[0.025, 0.925, 0.025, 0.025], [0.025, 0.025, 0.025, 0.925]]
    torch.testing.assert_close(soft_targets(torch.tensor([1, 3]), 4, 0.1), torch.tensor(expected))
    assert soft_targets(torch.tensor([2]), 3).tolist() == [[0, 0, 1]]


@given(
    batch=st.integers(1, 6), grid=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 2**32)
)
def test_cutmix_takes_one_box_and_targets_by_its_area(batch: int, grid: tuple[int, int], seed: int) -> None:
    samples = torch.arange(batch).float().view(-1, 1, 1, 1).expand(batch, 2, *grid).clone()
    targets = torch.eye(batch)
    mixed, blended = CutMix()(samples, targets, generator=seeded(seed))
    assert torch.equal(samples[:, 0, 0, 0], torch.arange(batch).float())
    for number in range(batch):
        partner = batch - 1 - number
        if partner == number:
            assert torch.equal(mixed[number], samples[number])
            continue
        taken = mixed[number, 0] == partner
        assert torch.equal(mixed[number, 0] == number, ~taken)
        rows, columns = taken.any(1).nonzero(), taken.any(0).nonzero()
        if len(rows):
            box = taken[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all()
        share = float(taken.float().mean())
        assert blended[number, partner] == pytest.approx(share, abs=1e-6)
        assert blended[number, number] == pytest.approx(1 - share, abs=1e-6)


def test_cutmix_boxes_have_the_area_that_beta_gives_where_they_are_whole() -> None:
    generator = seeded(0)
    samples = torch.stack((torch.zeros(1, 64, 64), torch.ones(1, 64, 64)))
    areas = []
    for _ in range(3000):
        mixed, _ = CutMix()(samples, torch.eye(2), generator=generator)
        areas.append(float(mixed[0].mean()))
    # Uniform share s, sides sqrt(s), centre anywhere: the mean area inside is E[(E[side inside])^2].
    share = (np.arange(4000) + 0.5) / 4000
    side = np.sqrt(share)
    inside = side * (1 - side / 4)  # the mean of what of a stretch of `side` lies in 0..1
    assert abs(np.mean(areas) - np.mean(inside**2)) < 0.02


@given(batch=st.integers(1, 6), seed=st.integers(0, 2**32))
def test_mixup_blends_samples_and_targets_alike(batch: int, seed: int) -> None:
    samples = drawn(seed, batch, 3, 2, 2)
    mixed, blended = Mixup()(samples, torch.eye(batch), generator=seeded(seed))
    for number in range(batch):
        share = float(blended[number, number]) if batch - 1 - number != number else 1.0
        expected = share * samples[number] + (1 - share) * samples[batch - 1 - number]
        torch.testing.assert_close(mixed[number], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(blended.sum(1), torch.ones(batch))


def test_shares_of_mixup_are_betas() -> None:
    generator = seeded(0)
    shares = np.array(
        [
            float(Mixup(0.8)(torch.zeros(2, 1), torch.eye(2), generator=generator)[1][0, 0])
            for _ in range(4000)
        ]
    )
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.005


def test_one_of_both_mixes() -> None:
    module = CutMixOrMixup(CutMix(), Mixup(), switch=0.5)
    samples = torch.stack((torch.zeros(1, 8, 8), torch.ones(1, 8, 8)))
    generator = seeded(0)
    cut = 0
    for _ in range(600):
        mixed, blended = module(samples, torch.eye(2), generator=generator)
        is_cut = set(mixed.unique().tolist()) <= {0.0, 1.0}
        cut += is_cut
        torch.testing.assert_close(blended[0, 1], mixed[0].mean())
    assert 250 < cut < 350
    with pytest.raises(ValueError, match="alpha"):
        Mixup(0)
    with pytest.raises(ValueError, match="switch"):
        CutMixOrMixup(CutMix(), Mixup(), 2)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_probability(share: float) -> None:
    for made in (ColorAdapt, partial(EmbNoise, 1.0)):
        with pytest.raises(ValueError, match="share: expected a probability from 0 to 1, found"):
            made(share=share)


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_a_strength_is_a_number_from_zero(strength: float) -> None:
    with pytest.raises(ValueError, match="strength: expected a number from 0, found"):
        EmbNoise(strength)
