"""The trainer of TokenAdapt: its pairs, what it learns, and that a run can be interrupted anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.pictures import write_images
from tokenstore_cli.seitpp import cli
from torch import Tensor

from seitpp_models.adapter.evaluation import evaluate_adapter
from seitpp_models.adapter.pairs import Pictures, augmented_images
from seitpp_models.adapter.run import EVALUATION, run_training
from seitpp_models.adapter.start import start_from_vectors
from seitpp_models.adapter.trainer import WEIGHTS, AdapterTrainer, AdapterTrainingConfig, StepResult
from tokenstore.augment import (
    AdapterConfig,
    CodebookEmbedding,
    Geometry,
    HorizontalFlip,
    RandomResizedCrop,
    TokenAdapt,
)
from tokenstore.augment.adapters import load_adapter
from tokenstore.augment.examples import transformed_codes
from tokenstore.errors import AdapterError
from tokenstore.networks.runs import LOG, STATE, RunOptions
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer
from tokenstore.tokenizers.train.images import ImageSet, list_images

SIZE = ImageOptions(64)
CONFIG = AdapterTrainingConfig(steps=6, batch_size=3, width=64, warmup_steps=2, uncropped_every=3)


class Brightness(ImageTokenizer):
    """Codes are the brightness of 8x8 patches in 16 steps: 64x64 pixels, grids of 8x8."""

    name, fingerprint = "brightness", "cd" * 32
    codebook_sizes, image_size, stride = (16,), 64, 8

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(1, 1))
        steps = (torch.arange(16) + 0.5) / 16
        self.codebook = torch.stack([steps.mul(angle).cos() for angle in (1, 2, 3, 6)], 1).numpy()

    def encode_pass(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images.float().mean(1), 8).div(16).long().clamp(max=15)

    def decode_pass(self, codes: Tensor) -> Tensor:
        grey = (codes * 16 + 8).to(torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)
        return grey[:, None].expand(-1, 3, -1, -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images", 16, (64, 64))


@pytest.fixture(scope="module")
def images(folder: Path) -> ImageSet:
    return list_images([open_source(folder)], 0.4)


def trainer_of(images: ImageSet, out: Path, workers: int = 0, **changes: object) -> AdapterTrainer:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    return AdapterTrainer(config, images, Brightness(), out, workers=workers)


def weights(trainer: AdapterTrainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.average.tensors().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(
    trainer: AdapterTrainer,
    images: ImageSet,
    resume: bool = False,
    on_step: Callable[[StepResult], None] | None = None,
) -> dict[str, object]:
    seen: list[StepResult] = []
    return dict(
        run_training(
            trainer,
            images,
            RunOptions(resume, 1000, 0),
            evaluate_images=4,
            on_step=on_step or seen.append,
            on_evaluation=lambda *_: None,
        )
    )


def test_pairs_are_tokens_before_and_after_the_same_geometry(images: ImageSet, tmp_path: Path) -> None:
    trainer = trainer_of(images, tmp_path)
    for step in range(4):
        batch = trainer.pairs[step]
        again = trainer.pairs[step]
        assert torch.equal(batch.codes, again.codes)
        assert torch.equal(batch.targets, again.targets)
        assert batch.codes.shape == (3, 8, 8)
        assert batch.targets.shape == ((3, 8, 8) if step % 3 == 0 else (3, 7, 7))
        # Brightness is linear, so that augmenting the codes' pictures comes near the tokens of the images'.
        pictures = (batch.codes[:, None] * 16 + 8).float().repeat_interleave(8, 2).repeat_interleave(8, 3)
        moved = torch.nn.functional.avg_pool2d(batch.geometry.apply(pictures), 8)[:, 0] / 16
        assert (moved - 0.5 - batch.targets).abs().median() < 1.5
    assert not torch.equal(trainer.pairs[1].codes, trainer.pairs[2].codes)


def test_small_images_are_laid_side_by_side(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    from PIL import Image

    for number in range(6):
        Image.fromarray(np.full((16, 16, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    refs = list_images([open_source(folder)], 0.0).thumbnails
    rng = np.random.default_rng(0)
    tiles = set()
    for _ in range(20):
        picture = Pictures(refs, SIZE).draw(rng)
        assert (picture.shape, picture.dtype) == ((3, 64, 64), torch.uint8)
        assert set(picture.unique().tolist()) <= {0, 40, 80, 120, 160, 200}
        blocks = picture[0].unfold(0, 16, 16).unfold(1, 16, 16).flatten(2)
        assert (blocks == blocks[..., :1]).all()
        halves = picture[0].unfold(0, 32, 32).unfold(1, 32, 32).flatten(2)
        tiles.add(2 if bool((halves == halves[..., :1]).all()) else 4)
    assert tiles == {2, 4}
    large = Pictures(
        list_images([open_source(write_images(tmp_path / "l", 3, (90, 70)))], 0).thumbnails, SIZE
    )
    assert large.draw(rng).shape == (3, 64, 64)


def test_it_begins_as_the_nearest_codes_of_resampled_vectors() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codebook = 3 * torch.randn(50, 16)
        adapter = TokenAdapt(AdapterConfig(50, 16, (8, 8), (7, 7), width=128, heads=2, mlp=256))
        start_from_vectors(adapter, CodebookEmbedding(codebook))
        codes = torch.randint(0, 50, (4, 8, 8))
    adapted = adapter.to_map(CodebookEmbedding(codebook)(codes))
    assert torch.equal(adapter.to_logits(adapted).argmax(1), codes)
    assert torch.equal(adapter.to_logits(adapted.flip(3)).argmax(1), codes.flip(2))
    assert torch.equal(adapter.to_logits(adapted[:, :, 2:, :8]).argmax(1), codes[:, 1:, :4])


class Edges(ImageTokenizer):
    """Codes are where the light is in a patch: left or right, above or below, by how much."""

    name, fingerprint = "edges", "ef" * 32
    codebook_sizes, image_size, stride = (81,), 64, 8

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(1, 1))
        steps = torch.arange(-4, 5) / 4
        vectors = torch.cartesian_prod(steps, steps)
        self.codebook = torch.cat((vectors, torch.ones(81, 2)), 1).numpy()

    def encode_pass(self, images: Tensor) -> Tensor:
        quarters = torch.nn.functional.avg_pool2d(images.float().mean(1), 4).unfold(1, 2, 2).unfold(2, 2, 2)
        across = (quarters[..., 1] - quarters[..., 0]).mean(-1)
        down = (quarters[..., 1, :] - quarters[..., 0, :]).mean(-1)
        across, down = (side.div(16).round().clamp(-4, 4).long() + 4 for side in (across, down))
        return 9 * across + down

    def decode_pass(self, codes: Tensor) -> Tensor:
        across, down = (codes // 9 - 4) * 8, (codes % 9 - 4) * 8
        sides = torch.tensor([-1, 1])
        quarters = across[..., None, None] * sides + down[..., None, None] * sides[:, None] + 128
        grey = quarters.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2).to(torch.uint8)
        return grey.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1)


def test_linear_maps_already_know_what_a_flip_changes(images: ImageSet, tmp_path: Path) -> None:
    """Moved as they are, codes of edges keep the side that is light; f shows it in the colours of 2x2."""
    tokenizer = Edges()
    trainer = AdapterTrainer(replace(CONFIG, batch_size=8, scale=(0.3, 1.0)), images, tokenizer, tmp_path)
    pictures = torch.stack(
        [Pictures(images.thumbnails, SIZE).draw(np.random.default_rng(n)) for n in range(8)]
    )
    trainer.batches()
    after = evaluate_adapter(trainer.average, tokenizer, pictures)["flip"]
    assert after.share > after.naive_share + 0.2
    assert all(tensor.isfinite().all() for tensor in weights(trainer).values())


@pytest.mark.thorough
def test_it_learns_and_writes_what_it_learned(images: ImageSet, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=90, batch_size=4, learning_rate=2e-3, warmup_steps=5)
    trainer = AdapterTrainer(config, images, Edges(), tmp_path)
    seen: list[StepResult] = []
    quality = run(trainer, images, on_step=seen.append)
    first, last = (np.mean([result.loss for result in part]) for part in (seen[:10], seen[-10:]))
    assert last < 0.8 * first
    assert set(quality) == {"flip", "crop-resize", "rotation", "translation", "shear"}
    adapter = load_adapter(tmp_path / WEIGHTS)
    assert same(adapter.tensors(), weights(trainer))
    assert adapter.tokenizer == trainer.identity
    assert (adapter.config.grid, adapter.config.size, adapter.config.codebook_size) == ((8, 8), (7, 7), 81)
    report = json.loads((tmp_path / EVALUATION).read_text())
    assert report["step"] == 90
    assert 0 <= report["flip"]["share"] <= 1
    assert len((tmp_path / LOG).read_text().splitlines()) == 9


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_goes_on_to_the_same_weights(images: ImageSet, tmp_path: Path, workers: int) -> None:
    whole = trainer_of(images, tmp_path / "whole")
    run(whole, images)
    stopped = trainer_of(images, tmp_path / "run", workers=workers)
    for result in stopped.run():
        if result.step == 4:
            stopped.save()
        if result.step == 5:
            break
    resumed = trainer_of(images, tmp_path / "run", workers=workers)
    run(resumed, images, resume=True)
    assert resumed.step == CONFIG.steps
    assert same(weights(resumed), weights(whole))


def test_an_interrupt_keeps_the_step(images: ImageSet, tmp_path: Path) -> None:
    import os
    import signal

    trainer = trainer_of(images, tmp_path)

    def stop(result: StepResult) -> None:
        if result.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(trainer, images, on_step=stop)
    again = trainer_of(images, tmp_path)
    again.restore()
    assert again.step == 3


def test_other_inputs_and_damaged_states_are_refused(images: ImageSet, tmp_path: Path) -> None:
    trainer = trainer_of(images, tmp_path / "run")
    with pytest.raises(AdapterError, match="found nothing there"):
        trainer.restore()
    trainer.save()
    with pytest.raises(AdapterError, match="a run is there"):
        run(trainer_of(images, tmp_path / "run"), images)
    with pytest.raises(AdapterError, match="batch_size 3 -> 2"):
        trainer_of(images, tmp_path / "run", batch_size=2).restore()
    state = tmp_path / "run" / STATE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(AdapterError, match="found damage"):
        trainer_of(images, tmp_path / "run").restore()
    with pytest.raises(AdapterError, match="width"):
        AdapterTrainingConfig(width=100)


def test_naive_augmentation_moves_codes_as_they_are() -> None:
    codes = torch.arange(64).view(1, 8, 8)
    flip = Geometry(flip=HorizontalFlip(1)).draw(1, (16, 16), torch.Generator())
    assert torch.equal(transformed_codes(codes, flip, 0), codes.flip(2))
    boxes = RandomResizedCrop((16, 16)).boxes(1, (16, 16), torch.Generator())
    boxes[0] = torch.tensor([0, 8, 8, 8])
    crop = replace(flip, flip=None, boxes=boxes, size=(16, 16))
    expected = codes[:, :4, 4:].repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(transformed_codes(codes, crop, 0), expected)


def test_evaluation_tells_exact_codes_from_others(images: ImageSet, tmp_path: Path) -> None:
    """Flip codes of brightness with their images: the naive way is exact, and a random adapter is not."""
    tokenizer = Brightness()
    pictures = torch.stack(
        [Pictures(images.thumbnails, SIZE).draw(np.random.default_rng(n)) for n in range(5)]
    )
    trainer = trainer_of(images, tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        quality = evaluate_adapter(TokenAdapt(trainer.adapter_config), tokenizer, pictures)
    assert quality["flip"].naive_share == 1
    assert quality["flip"].naive_psnr == pytest.approx(quality["flip"].exact_psnr)
    assert quality["flip"].share < 0.5
    assert quality["crop-resize"].naive_share < 1
    flipped = augmented_images(
        pictures, Geometry(flip=HorizontalFlip(1)).draw(5, (16, 16), torch.Generator())
    )
    assert torch.equal(flipped, pictures.flip(3))


@pytest.mark.thorough
def test_the_command_trains_resumes_and_tells_of_mistakes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter.safetensors"
    arguments = [
        *("train-tokenadapt", "--images", str(folder), "--out", str(out), "--width", "64", "--workers", "0"),
        *("--steps", "2", "--batch-size", "1", "--evaluate-images", "1", "--held-out", "0.4"),
    ]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "images of 256x256 pixels; held out: " in done.output
    assert "flip" in done.output
    adapter = load_adapter(out)
    tokenizer = load_tokenizer("default")
    assert isinstance(adapter, TokenAdapt)
    assert adapter.tokenizer is not None
    assert adapter.tokenizer.fingerprint == tokenizer.fingerprint
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 1
    assert "a run is there" in again.output
    assert CliRunner().invoke(cli, [*arguments, "--resume"]).exit_code == 0
    wrong = CliRunner().invoke(cli, [*arguments[:-1], "0.999", "--out", str(tmp_path / "other")])
    assert wrong.exit_code == 1
    assert "expected images to train on" in wrong.output
