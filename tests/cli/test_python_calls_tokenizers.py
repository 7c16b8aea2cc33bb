"""Each command about tokenizers gives the result of its Python call."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from tokenstore_cli.main import cli

from tokenstore.tokenizers import load_tokenizer, tokenizer_kinds
from tokenstore.tokenizers.train import fit_codebook, train_tokenizer


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Write a folder of twelve images of noise."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def run(*arguments: object) -> str:
    """Run a command that succeeds, and return its output."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_tokenizers_lists_what_tokenizer_kinds_returns() -> None:
    listed = json.loads(run("tokenizers", "--json"))
    assert list(listed) == list(tokenizer_kinds())
    assert {name: kind.grid for name, kind in tokenizer_kinds().items()} == {
        name: facts["grid"] for name, facts in listed.items()
    }


@pytest.mark.thorough
def test_train_tokenizer_gives_the_weights_of_its_call(photos: Path, tmp_path: Path) -> None:
    settings = {"steps": 8, "codebook_size": 16, "photographs": 0, "thumbnails": 2, "held_out": 0.2}
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)]
    run("train-tokenizer", photos, "--out", tmp_path / "command", *options, "--threads", 1)
    steps: list[int] = []
    trained = train_tokenizer(
        photos,
        tmp_path / "call",
        **settings,  # type: ignore[arg-type]
        threads=1,
        on_step=lambda result: steps.append(result.step),
    )
    assert steps == list(range(1, 9))
    assert trained.steps == 8
    by_command = load_tokenizer(f"conv-vq-symmetric:{tmp_path / 'command' / 'weights.safetensors'}")
    assert load_tokenizer(f"conv-vq-symmetric:{trained.weights}").fingerprint == by_command.fingerprint


def test_fit_codebook_writes_the_file_of_its_call(photos: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )
    model.save_pretrained(tmp_path / "model")
    command, call = tmp_path / "command.safetensors", tmp_path / "call.safetensors"
    common = [
        "--autoencoder",
        tmp_path / "model",
        "--codebook-size",
        8,
        "--iterations",
        3,
        "--image-size",
        32,
    ]
    run("fit-codebook", photos, "--out", command, *common)
    stages: set[str] = set()
    fitted = fit_codebook(
        photos,
        call,
        autoencoder=str(tmp_path / "model"),
        codebook_size=8,
        iterations=3,
        image_size=32,
        on_progress=lambda stage, done, total: stages.add(stage),
    )
    assert fitted.tokenizer.fingerprint == load_tokenizer(f"autoencoder:{command}").fingerprint
    assert "encoding images" in stages
    for path in (command, call):
        record = yaml.safe_load(path.with_suffix(".yaml").read_text())
        assert (record["codebook_size"], record["image_size"], record["autoencoder"]) == (
            8,
            32,
            str(tmp_path / "model"),
        )
        assert record["run"]["images"] == str(photos)
    assert fitted.tokenizer.fingerprint == load_tokenizer(f"autoencoder:{call}").fingerprint
