"""The training of symmetric tokenizers: the codebook stays closed, and runs can be resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.pictures import write_images
from helpers.symmetric_models import SMALL
from safetensors.torch import load_file

from tokenstore.networks.runs import RunOptions
from tokenstore.sources import open_source
from tokenstore.tokenizers.kinds.symmetric_vq import exchanged
from tokenstore.tokenizers.train.images import ImageSet, list_images
from tokenstore.tokenizers.train.losses import gradient_loss
from tokenstore.tokenizers.train.moving_codebook import ClosedMovingCodebook
from tokenstore.tokenizers.train.run import run_training
from tokenstore.tokenizers.train.trainer import WEIGHTS, Trainer, TrainingConfig

SYMMETRIC = TrainingConfig(
    model=SMALL,
    steps=8,
    photographs=2,
    photograph_crop=48,
    thumbnails=0,
    warmup_steps=2,
    unquantised_steps=3,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = write_images(tmp_path_factory.mktemp("images") / "photographs", 6, (160, 144))
    return list_images([open_source(folder)], 0.3)


def finish(trainer: Trainer, images: ImageSet, *, resume: bool = False) -> None:
    run_training(trainer, images, RunOptions(resume, 0, 0), evaluate_images=1)


def test_each_step_keeps_the_codebook_closed_and_codes_of_mirror_images_permuted(images: ImageSet) -> None:
    trainer = Trainer(replace(SYMMETRIC, restart_share=0.5), images, Path("unused"))
    for batch in trainer.crops.batches(0, 6):
        trainer.train_on(batch)
        trainer.step += 1
        for model in (trainer.model, trainer.average):
            assert torch.equal(exchanged(model.codebook), model.codebook[model.partners])
            torch.testing.assert_close(model.codebook.norm(dim=1), torch.ones(SMALL.codebook_size))
    tokenizer = trainer.average.eval().tokenizer()
    crops = trainer.crops.batch(7)[0]
    partners = torch.from_numpy(tokenizer.symmetries["flip"]).long()
    assert torch.equal(tokenizer.encode(crops.flip(3)), partners[tokenizer.encode(crops)].flip(2))


def test_a_symmetric_run_goes_on_where_it_was_interrupted(images: ImageSet, tmp_path: Path) -> None:
    config = replace(SYMMETRIC, steps=5, gradient=0.1, scale_equivariance=0.2)
    finish(Trainer(config, images, tmp_path / "whole"), images)
    first = Trainer(config, images, tmp_path / "parts")
    for batch in first.crops.batches(0, 4):
        first.train_on(batch)
        first.step += 1
    first.save()
    finish(Trainer(config, images, tmp_path / "parts"), images, resume=True)
    whole, parts = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def closed_codebook(seed: int = 0) -> ClosedMovingCodebook:
    model = SMALL.build()
    return ClosedMovingCodebook(model.codebook, 0.9, 0.2, model.partners, model.closed)


def test_a_closed_codebook_starts_closed_with_its_symmetric_latents_among_codes_alone() -> None:
    rows = F.normalize(torch.randn(400, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    symmetric = F.normalize(rows[:100] + exchanged(rows[:100]), dim=1)
    moving = closed_codebook()
    moving.start_from(torch.cat((rows, symmetric)), torch.Generator().manual_seed(1))
    assert torch.equal(exchanged(moving.codebook), moving.codebook[moving.partners])
    nearest = (symmetric @ moving.codebook.T).argmax(1)
    assert (nearest < SMALL.self_paired).float().mean() > 0.9


def test_a_latent_counts_for_its_code_and_exchanged_for_the_partner() -> None:
    moving = closed_codebook()
    rows = F.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    codes = torch.full((30,), 20)
    sums, counts = moving.sums.clone(), moving.counts.clone()
    moving.update(rows, codes, torch.Generator().manual_seed(0), restart=False)
    per_code = len(moving.codebook) / 30
    expected = 0.9 * sums[20] + 0.1 * per_code * rows.sum(0) / 2
    torch.testing.assert_close(moving.sums[20], expected)
    assert torch.equal(moving.sums[21], exchanged(moving.sums[20]))
    assert moving.counts[20] == moving.counts[21]
    assert moving.counts[30] < counts[30]


def test_partners_that_are_unused_start_again_together() -> None:
    moving = closed_codebook()
    rows = F.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    moving.counts[[3, 40, 41]] = 0.0
    moving.update(rows, torch.full((30,), 20), torch.Generator().manual_seed(0), restart=True)
    assert moving.counts[[3, 40, 41]].tolist() == [1, 1, 1]
    assert any(torch.allclose(moving.sums[40], row) for row in rows)
    assert torch.equal(moving.sums[41], exchanged(moving.sums[40]))
    assert torch.equal(moving.sums[3], exchanged(moving.sums[3]))


def test_the_gradient_loss_is_that_of_differences_at_three_scales() -> None:
    assert float(gradient_loss(torch.full((1, 3, 8, 8), 0.3))) == pytest.approx(0, abs=1e-6)
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    assert float(gradient_loss(ramp)) == pytest.approx((1 + 2 + 4) / 6)
