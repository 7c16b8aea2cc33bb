"""The trainer of tokenizers: what it sees, what it learns, and that a run can be interrupted anywhere."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from click.testing import CliRunner
from helpers.pictures import write_images
from helpers.tiny_tokenizer import TINY
from PIL import Image
from safetensors.torch import load_file
from tokenstore_cli.main import cli

from tokenstore.errors import TokenizerError
from tokenstore.networks.records import RECORD
from tokenstore.networks.runs import LOG, STATE, RunOptions
from tokenstore.sources import open_source
from tokenstore.tokenizers.kinds.conv_vq import ConvVQTokenizer
from tokenstore.tokenizers.kinds.symmetric_vq import SymmetricVQTokenizer
from tokenstore.tokenizers.train import images as train_images
from tokenstore.tokenizers.train.images import Crops, ImageSet, is_held_out, list_images
from tokenstore.tokenizers.train.losses import assignment_entropy, pixel_loss, rotate
from tokenstore.tokenizers.train.moving_codebook import MovingCodebook
from tokenstore.tokenizers.train.run import EVALUATION, SAMPLES, held_out_views, run_training
from tokenstore.tokenizers.train.trainer import (
    WEIGHTS,
    Trainer,
    TrainingConfig,
)

CONFIG = TrainingConfig(
    model=TINY,
    steps=8,
    held_out=0.5,
    photographs=2,
    photograph_crop=48,
    thumbnails=3,
    thumbnail_crop=40,
    warmup_steps=2,
    unquantised_steps=3,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("images")
    return [
        write_images(root / "photographs", 12, (160, 144)),
        write_images(root / "thumbnails", 12, (40, 48)),
    ]


@pytest.fixture(scope="module")
def images(folders: list[Path]) -> ImageSet:
    return list_images([open_source(folder) for folder in folders], CONFIG.held_out)


def crops_of(images: ImageSet, seed: int = 0, **changes: object) -> Crops:
    wanted = {
        "photographs": 2,
        "photograph_crop": 48,
        "thumbnails": 3,
        "thumbnail_crop": 40,
        "enlarged_share": 0.5,
    }
    return Crops(images, image_size=64, seed=seed, **{**wanted, **changes})


def finish(trainer: Trainer, images: ImageSet, *, resume: bool = False, evaluate_steps: int = 0) -> None:
    run_training(
        trainer,
        images,
        RunOptions(resume, 0, evaluate_steps),
        evaluate_images=4,
        on_step=lambda result: None,
    )


# ---- images


def test_photographs_and_thumbnails_are_told_apart_and_half_of_each_is_held_out(images: ImageSet) -> None:
    held_out = sum(is_held_out(f"{number}.png", 0.5) for number in range(12))
    assert 0 < held_out < 12
    assert len(images.photographs) == len(images.thumbnails) == 12 - held_out
    assert len(images.held_out_photographs) == len(images.held_out_thumbnails) == held_out


def test_what_is_held_out_hangs_on_the_file_name_alone() -> None:
    assert is_held_out("a/0001.jpg", 0.5) == is_held_out("b/c/0001.jpg", 0.5)
    assert 450 < sum(is_held_out(f"{index}.jpg", 0.5) for index in range(1000)) < 550
    assert 60 < sum(is_held_out(f"{index}.jpg", 0.1) for index in range(1000)) < 140
    assert not any(is_held_out(f"{index}.jpg", 0.0) for index in range(100))


def test_splits_named_val_are_held_out_whole(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / split / "a", 5, (40, 40))
    listed = list_images([open_source(tmp_path)], 0.0)
    assert len(listed.thumbnails) == len(listed.held_out_thumbnails) == 5


def test_a_batch_is_a_function_of_seed_and_step_whatever_is_cached(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = crops_of(images)
    batches = list(crops.batches(0, 4))
    monkeypatch.setattr(train_images, "CACHE_NBYTES", 0)
    for step, batch in enumerate(batches):
        again = crops_of(images).batch(step)
        assert [tuple(part.shape) for part in batch] == [(2, 3, 48, 48), (3, 3, 40, 40)]
        assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))
    assert not torch.equal(batches[0][0], batches[1][0])
    assert not torch.equal(batches[0][0], crops_of(images, seed=1).batch(0)[0])


def test_a_kind_of_image_that_there_is_none_of_is_left_out(folders: list[Path]) -> None:
    only = list_images([open_source(folders[1])], 0.0)
    assert [part.shape[0] for part in crops_of(only).batch(0)] == [3]
    with pytest.raises(TokenizerError, match="found 0 of each"):
        crops_of(only, thumbnails=0)


def test_images_that_cannot_be_read_are_drawn_around_until_there_are_too_many(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 4, (40, 40))
    for number in (0, 2):
        (folder / f"{number}.png").write_bytes(b"broken")
    listed = list_images([open_source(folder)], 0.0)
    assert crops_of(listed).batch(0)[0].shape == (3, 3, 40, 40)
    for number in (1, 3):
        (folder / f"{number}.png").write_bytes(b"broken")
    with pytest.raises(TokenizerError, match="cannot be read"):
        crops_of(listed).batch(0)


def test_held_out_views_fit_the_tokenizer(images: ImageSet) -> None:
    tokenizer = ConvVQTokenizer(Trainer(CONFIG, images, Path("unused")).average)
    sizes = {tuple(view.shape) for view in held_out_views(images.held_out_photographs, tokenizer, 3)}
    assert sizes == {(3, 64, 64)}
    assert {tuple(view.shape) for view in held_out_views(images.held_out_thumbnails, tokenizer, 3)} == {
        (3, 48, 40)
    }


# ---- the parts


def test_rotation_gives_the_embeddings_and_rotates_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    unit = F.normalize(torch.randn(2, 1, 5, 1, 1, generator=generator), dim=2)
    latents, embeddings = unit[0].requires_grad_(), unit[1]
    out = rotate(latents, embeddings)
    torch.testing.assert_close(out, embeddings)
    torch.autograd.backward(out, embeddings)
    torch.testing.assert_close(latents.grad, latents.detach())  # the rotation takes latents to embeddings


def test_the_pixel_loss_weighs_images_by_their_own_error() -> None:
    error = torch.tensor([0.2, 0.02]).view(2, 1, 1, 1).expand(2, 3, 4, 4).clone().requires_grad_()
    torch.autograd.backward(pixel_loss(error))
    assert error.grad is not None
    squared = error.detach()[:, 0, 0, 0].square()
    expected = 0.04 / (squared + 1e-4) * 2 * error.detach()[:, 0, 0, 0] / (2 * 48)
    torch.testing.assert_close(error.grad[:, 0, 0, 0], expected)


def test_the_entropy_of_assignments_is_largest_where_all_codes_are_used_alike() -> None:
    codebook = torch.eye(4)
    alike = codebook.T.reshape(1, 4, 2, 2)
    alone = codebook[0].reshape(1, 4, 1, 1).expand(1, 4, 2, 2)
    assert assignment_entropy(alike, codebook, 0.01).item() == pytest.approx(math.log(4), abs=1e-3)
    assert assignment_entropy(alone, codebook, 0.01).item() == pytest.approx(0, abs=1e-3)


def test_a_codebook_finds_clusters_and_gives_dead_codes_another_start() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(4, 8, generator=generator), dim=1)
    rows = F.normalize(centres.repeat(50, 1) + 0.02 * torch.randn(200, 8, generator=generator), dim=1)
    codebook = torch.zeros(4, 8)
    moving = MovingCodebook(codebook, decay=0.5, restart_share=0.05)
    moving.start_from(rows, generator)
    assert (centres @ codebook.T).amax(1).min() > 0.99
    codebook[0] = moving.sums[0] = -centres.mean(0)
    for _ in range(8):
        moving.update(rows, (rows @ codebook.T).argmax(1), generator, restart=True)
    assert len(torch.unique((rows @ codebook.T).argmax(1))) == 4


# ---- runs


def test_training_learns_and_writes_what_it_promises(images: ImageSet, tmp_path: Path) -> None:
    trainer = Trainer(replace(CONFIG, steps=60), images, tmp_path / "run")
    results = []
    run_training(
        trainer,
        images,
        RunOptions(False, 1e9, 0),
        evaluate_images=4,
        on_step=results.append,
    )
    assert [result.step for result in results] == list(range(1, 61))
    assert np.mean([r.psnr for r in results[-5:]]) > np.mean([r.psnr for r in results[:5]]) + 1
    tokenizer = ConvVQTokenizer.load(tmp_path / "run" / WEIGHTS)
    assert tokenizer.name == "tiny"
    report = json.loads((tmp_path / "run" / EVALUATION).read_text())
    assert report["step"] == 60
    assert set(report) == {"step", "seconds", "photographs", "thumbnails"}
    assert report["photographs"]["images"] == 4
    with Image.open(tmp_path / "run" / SAMPLES) as picture:
        assert picture.size == (4 * 68 + 4, 2 * 68 + 4)
    logged = [json.loads(line)["step"] for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert logged == [10, 20, 30, 40, 50, 60]
    record = yaml.safe_load((tmp_path / "run" / RECORD).read_text())
    assert (record["steps"], record["seed"], record["model"]["name"]) == (60, CONFIG.seed, "tiny")
    assert record["run"]["images"] == list(images.locations)
    assert record["run"]["inputs"] == {"images": images.digest}
    assert record["run"]["versions"]["torch"] == torch.__version__


class _StopError(Exception):
    pass


@pytest.mark.parametrize("part", ["_start_codebook", "_forward", "_update_average"])
def test_an_interrupt_in_the_middle_of_a_step_waits_for_its_end(
    images: ImageSet, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(Trainer(CONFIG, images, tmp_path / "whole"), images)
    interrupted = Trainer(CONFIG, images, tmp_path / "parts")
    whole_part = getattr(interrupted, part)
    signalled: list[bool] = []

    def interrupted_part(*arguments: object) -> object:
        result = whole_part(*arguments)
        if interrupted.step == CONFIG.unquantised_steps and not signalled:
            signalled.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(interrupted, part, interrupted_part)
    with pytest.raises(KeyboardInterrupt):
        finish(interrupted, images)
    assert interrupted.step == CONFIG.unquantised_steps + 1
    finish(Trainer(CONFIG, images, tmp_path / "parts"), images, resume=True)
    whole, parts = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_short_runs_still_get_a_codebook() -> None:
    with pytest.raises(TokenizerError, match="more steps than the 3 without a codebook, found 3"):
        replace(CONFIG, steps=3)
    for steps in (1, 2, 100, 10**6):
        assert TrainingConfig().shortened(steps).unquantised_steps < steps
    assert TrainingConfig().shortened(11_000) == TrainingConfig()


@pytest.mark.parametrize("stop", [2, 3, 5, 7])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    images: ImageSet, tmp_path: Path, stop: int
) -> None:
    finish(Trainer(CONFIG, images, tmp_path / "whole"), images)
    interrupted = Trainer(CONFIG, images, tmp_path / "parts")

    def on_step(result: object) -> None:
        if interrupted.step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_training(
            interrupted,
            images,
            RunOptions(False, 1e9, 0),
            evaluate_images=4,
            on_step=on_step,
            on_evaluation=lambda step, quality: None,
        )
    resumed = Trainer(CONFIG, images, tmp_path / "parts")
    finish(resumed, images, resume=True)
    assert resumed.step == CONFIG.steps
    whole, parts = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_resuming_after_a_crash_drops_the_log_of_steps_done_again(images: ImageSet, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40)
    trainer = Trainer(config, images, tmp_path)
    with pytest.raises(_StopError):
        run_training(
            trainer,
            images,
            RunOptions(False, 1e9, 0),
            evaluate_images=1,
            on_step=lambda result: trainer.save() if result.step == 15 else _raise_at(result.step, 35),
            on_evaluation=lambda step, quality: None,
        )
    with (tmp_path / LOG).open("a") as log:
        log.write('{"step": 3')
    resumed = Trainer(config, images, tmp_path)
    finish(resumed, images, resume=True)
    assert [json.loads(line)["step"] for line in (tmp_path / LOG).read_text().splitlines()] == [
        10,
        20,
        30,
        40,
    ]


def _raise_at(step: int, last: int) -> None:
    if step == last:
        raise _StopError


def test_a_run_is_not_begun_over_another_nor_gone_on_with_otherwise(images: ImageSet, tmp_path: Path) -> None:
    finish(Trainer(CONFIG, images, tmp_path), images)
    with pytest.raises(TokenizerError, match=r"a run is there\. Go on with it by resume=True"):
        finish(Trainer(CONFIG, images, tmp_path), images)
    with pytest.raises(TokenizerError, match=r"other inputs \(seed 0 -> 1; steps 8 -> 9\)"):
        finish(Trainer(replace(CONFIG, steps=9, seed=1), images, tmp_path), images, resume=True)
    with pytest.raises(TokenizerError, match="the list of images"):
        finish(Trainer(CONFIG, replace(images, digest="other"), tmp_path), images, resume=True)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:1000])
    with pytest.raises(TokenizerError, match="found damage"):
        finish(Trainer(CONFIG, images, tmp_path), images, resume=True)
    with pytest.raises(TokenizerError, match="found nothing there"):
        Trainer(CONFIG, images, tmp_path / "elsewhere").restore()


def test_an_error_that_is_not_finite_stops_the_run(images: ImageSet, tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, images, tmp_path)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.nan)
    with pytest.raises(TokenizerError, match="error of step 0 is nan"):
        finish(trainer, images)


# ---- the command


def test_the_command_trains_resumes_and_refuses(folders: list[Path], tmp_path: Path) -> None:
    arguments = ["train-tokenizer", *map(str, folders), "--out", str(tmp_path / "run"), "--steps", "2"]
    arguments += ["--photographs", "1", "--thumbnails", "1", "--held-out", "0.5", "--evaluate-images", "1"]
    arguments += ["--threads", str(torch.get_num_threads()), "--codebook-size", "64", "--name", "mine"]
    trained = CliRunner().invoke(cli, arguments)
    assert trained.exit_code == 0, trained.output
    assert "step 2, held-out photographs: 1 images: PSNR" in trained.output
    tokenizer = SymmetricVQTokenizer.load(tmp_path / "run" / WEIGHTS)
    assert (tokenizer.name, tokenizer.codebook_sizes, tokenizer.image_size) == ("mine", (64,), 256)
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 1
    assert "--resume" in again.output
    assert CliRunner().invoke(cli, [*arguments, "--resume"]).exit_code == 0


def test_the_command_refuses_sources_without_images_to_train_on(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.zeros((2, 4, 4), np.uint8))
    ready = CliRunner().invoke(
        cli, ["train-tokenizer", str(tmp_path / "tokens.npy"), "--out", str(tmp_path / "run")]
    )
    assert ready.exit_code == 1
    assert "expected images to train on, found ready codes" in ready.output
    write_images(tmp_path / "images" / "val", 2, (40, 40))
    write_images(tmp_path / "images" / "train", 1, (40, 40))
    held_out = CliRunner().invoke(
        cli,
        ["train-tokenizer", str(tmp_path / "images"), "--out", str(tmp_path / "run"), "--held-out", "0.99"],
    )
    assert held_out.exit_code == 1
    assert "none that is not held out" in held_out.output
