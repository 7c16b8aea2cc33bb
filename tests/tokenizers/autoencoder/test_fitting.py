"""Codebooks learned over latents: k-means, levels, residual codebooks, and whole fits."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.autoencoder_models import SIZE, SMALL, fit, smooth_images

from tokenstore.errors import TokenizerError
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSplit
from tokenstore.sources.images import ImageOptions
from tokenstore.tokenizers.kinds.autoencoder import AutoencoderTokenizer, load_autoencoder
from tokenstore.tokenizers.quantisers import nearest
from tokenstore.tokenizers.train import fitting
from tokenstore.tokenizers.train import kmeans as kmeans_module
from tokenstore.tokenizers.train.fitting import (
    FitOptions,
    Images,
    Reservoir,
    code_use,
    fit_quantiser,
    kmeans,
    kmeans_start,
    learn_codebook,
    relative_error,
)


def mixture(count: int, seed: int) -> torch.Tensor:
    """Draw vectors (count, 4) in clusters of unequal size and width."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(24, 4, generator=generator)
    picks = (24 * torch.rand(count, generator=generator) ** 2).long()
    return centres[picks] + torch.rand(count, 1, generator=generator) * torch.randn(
        count, 4, generator=generator
    )


def lloyd(rows: torch.Tensor, table: torch.Tensor, rounds: int = 100) -> torch.Tensor:
    """Run full-batch k-means, plainly."""
    table = table.clone()
    for _ in range(rounds):
        codes = nearest(rows, table)
        for code in codes.unique():
            table[code] = rows[codes == code].mean(0)
    return table


def error(rows: torch.Tensor, table: torch.Tensor) -> float:
    return relative_error(rows, table[nearest(rows, table)])


@pytest.mark.parametrize("batch_size", [256, 10**6])
@pytest.mark.parametrize("seed", [0, 1])
def test_mini_batches_come_as_near_as_all_vectors_at_once(batch_size: int, seed: int) -> None:
    rows, generator = mixture(3000, seed), torch.Generator().manual_seed(seed)
    start = kmeans_start(rows, 32, generator)
    found = error(rows, kmeans(rows, start, 100, batch_size, generator))
    assert found < 1.1 * error(rows, lloyd(rows, start))
    assert found < 0.8 * error(rows, start)


def test_first_vectors_are_spread_better_than_random_ones() -> None:
    rows = mixture(3000, 0)
    chosen = kmeans_start(rows, 32, torch.Generator().manual_seed(0))
    assert len(chosen.unique(dim=0)) == 32
    assert (nearest(chosen, rows) >= 0).all()
    assert all((rows == vector).all(1).any() for vector in chosen)
    assert error(rows, chosen) < error(rows, rows[:32])


def test_dead_codes_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = mixture(3000, 0)
    start = torch.full((32, 4), 1000.0)
    start[0] = 0
    table = kmeans(rows, start, 60, 256, torch.Generator().manual_seed(0))
    assert len(nearest(rows, table).unique()) == 32
    good = kmeans_start(rows, 32, torch.Generator().manual_seed(0))
    assert error(rows, table) < 1.2 * error(rows, lloyd(rows, good))
    monkeypatch.setattr(kmeans_module, "DEAD_SHARE", 10**6)
    left_alone = kmeans(rows, start, 60, 256, torch.Generator().manual_seed(0))
    assert len(nearest(rows, left_alone).unique()) == 1


def test_fewer_distinct_vectors_than_codes_leave_codes_unused() -> None:
    rows = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(20, 1)
    quantiser = fit_quantiser(
        rows, FitOptions(codebook_size=8, iterations=5), torch.Generator().manual_seed(0)
    )
    table = torch.from_numpy(quantiser.codebook)
    assert table.isfinite().all()
    assert error(rows, table) == 0


def test_fewer_vectors_than_codes_are_refused() -> None:
    with pytest.raises(TokenizerError, match="at least 32 latent vectors for as many codes, found 31"):
        fit_quantiser(torch.zeros(31, 4), SMALL, torch.Generator())


def test_each_further_codebook_lowers_the_error() -> None:
    rows, errors = mixture(3000, 2), []
    for codebooks in (1, 2, 3, 4):
        quantiser = fit_quantiser(
            rows, replace(SMALL, codebook_size=16, codebooks=codebooks), torch.Generator().manual_seed(0)
        )
        assert quantiser.codebook_sizes == (16,) * codebooks
        latents = rows.T[None, :, :, None]
        found = quantiser.vectors(quantiser.codes(latents))
        errors.append(relative_error(latents[0, :, :, 0].T, found[0, :, :, 0].T))
    assert all(after < 0.6 * before for before, after in itertools.pairwise(errors))


def test_scales_of_levels_suit_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20000, 2, generator=generator) * torch.tensor([0.1, 30.0]) + torch.tensor([5.0, -70.0])
    quantiser = fitting.fit_levels(rows, (8, 5))
    torch.testing.assert_close(quantiser.mean, torch.tensor([5.0, -70.0]), rtol=0.01, atol=0)
    latents = rows.T[None, :, :, None]
    codes = quantiser.codes(latents)
    errors = (quantiser.vectors(codes) - latents).square().mean((0, 2, 3)) / rows.var(0)
    assert errors[0] < 0.045  # Max (1960): no quantiser of a normal variable gets below 0.0345 with 8 levels
    assert errors[1] < 0.1  # and 0.0799 with 5
    assert code_use(codes.flatten(), 40)[1] == 0


def test_levels_of_a_constant_channel_can_still_be_told_apart() -> None:
    rows = torch.tensor([[3.0, 0.0]]).repeat(10, 1)
    quantiser = fitting.fit_levels(rows, (256, 3))
    found = quantiser.vectors(quantiser.codes(rows.T[None, :, :, None]))[0, :, :, 0].T
    torch.testing.assert_close(found, rows, rtol=1e-3, atol=1e-3)


def test_the_use_of_codes_is_counted() -> None:
    perplexity, unused = code_use(torch.tensor([0, 0, 5, 5, 7, 7, 9, 9]), 12)
    assert (round(perplexity, 6), unused) == (4, 8)


def test_a_reservoir_keeps_a_uniform_sample() -> None:
    generator, counts = torch.Generator().manual_seed(0), np.zeros(600)
    for _ in range(200):
        reservoir = Reservoir(60, 1, generator)
        for part in torch.arange(600.0)[:, None].split([10, 100, 1, 289, 200]):
            reservoir.add(part)
        kept = reservoir.rows()[:, 0].numpy().astype(int)
        assert len(set(kept)) == 60
        assert reservoir.seen == 600
        counts[kept] += 1
    thirds = counts.reshape(6, 100).mean(1)  # 20 expected of each element, +- 0.42 for the mean of 100
    assert np.abs(thirds - 20).max() < 2


def test_a_reservoir_that_is_not_full_holds_everything_in_order() -> None:
    reservoir = Reservoir(50, 1, torch.Generator())
    for part in torch.arange(40.0)[:, None].split(7):
        reservoir.add(part)
    assert reservoir.rows()[:, 0].tolist() == list(range(40))


def test_images_are_spread_over_the_split_and_one_in_ten_is_held_out(split: ImageSplit) -> None:
    class Counted:
        def __len__(self) -> int:
            return 1000

    chosen = Images(Counted(), ImageOptions(SIZE), limit=100)  # type: ignore[arg-type]
    assert sorted(chosen._learned + chosen._held_out) == list(range(0, 1000, 10))
    assert chosen._held_out == list(range(50, 1000, 100))
    everything = Images(split, ImageOptions(SIZE))
    assert sum(len(batch) for batch in everything.learned()) == 10
    assert len(list(everything.held_out())) == 1
    assert [name for name, _ in everything.skipped] == ["03.png"]


@pytest.mark.parametrize("name", ["kl", "tiny", "dc"])
def test_a_fit_reports_what_it_learned(split: ImageSplit, models: dict[str, Path], name: str) -> None:
    told = []
    tokenizer, report = learn_codebook(
        split,
        load_autoencoder(str(models[name])),
        ImageOptions(SIZE),
        SMALL,
        on_progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    positions = (SIZE // tokenizer.stride) ** 2
    assert (report.images, report.vectors) == (10, 10 * positions)
    assert [name for name, _ in report.skipped] == ["03.png"]
    assert 0 < report.relative_error < 0.2
    assert 16 < report.perplexity[0] <= 32
    assert report.unused_codes == (0,)
    assert report.held_out is not None
    assert report.held_out.images == 1
    assert tokenizer.name == f"autoencoder-{name}-k32"
    codes = tokenizer.encode(smooth_images(12))
    assert codes.shape == (12, SIZE // tokenizer.stride, SIZE // tokenizer.stride)
    assert len(codes.unique()) > 16
    assert told[0] == ("encoding images", 11, 11)
    assert ("codebook, steps of k-means", 20, 20) in told
    assert told[-1] == ("evaluating images", 1, 1)


def test_a_seed_gives_one_codebook(
    split: ImageSplit, models: dict[str, Path], fitted: AutoencoderTokenizer
) -> None:
    torch.manual_seed(99)
    assert fit(split, models["kl"]).fingerprint == fitted.fingerprint
    assert fit(split, models["kl"], replace(SMALL, seed=1)).fingerprint != fitted.fingerprint


def test_memory_for_vectors_is_bounded(split: ImageSplit, models: dict[str, Path]) -> None:
    options = replace(SMALL, max_vectors=100)
    report = learn_codebook(split, load_autoencoder(str(models["kl"])), ImageOptions(SIZE), options)[1]
    assert report.vectors == 640
    assert sum(report.perplexity) <= 32
    with pytest.raises(TokenizerError, match=r"at least 32 latent vectors .* found 20"):
        fit(split, models["kl"], replace(SMALL, max_vectors=20))


def test_what_cannot_be_fitted_is_refused(split: ImageSplit, models: dict[str, Path], tmp_path: Path) -> None:
    autoencoder = load_autoencoder(str(models["kl"]))
    with pytest.raises(TokenizerError, match=r"multiple of 4 for .*, found 30x30"):
        learn_codebook(split, autoencoder, ImageOptions(30), SMALL)
    with pytest.raises(TokenizerError, match=r"each of 4 latent channels of .*, found 3"):
        learn_codebook(split, autoencoder, ImageOptions(SIZE), FitOptions(levels=(8, 8, 8)))
    with pytest.raises(TokenizerError, match="iterations: expected at least 1, found 0"):
        FitOptions(iterations=0)
    (tmp_path / "bad.png").write_bytes(b"bad")
    bad = next(iter(open_source(tmp_path).splits.values()))
    with pytest.raises(TokenizerError, match=r"none that can be read.*bad\.png"):
        learn_codebook(bad, autoencoder, ImageOptions(SIZE), SMALL)  # type: ignore[arg-type]
    autoencoder.model.encoder.conv_in.weight *= float("inf")
    with pytest.raises(TokenizerError, match="expected finite latents"):
        learn_codebook(split, autoencoder, ImageOptions(SIZE), SMALL)
