"""The command that learns a codebook."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.autoencoder_models import SIZE, smooth_images
from tokenstore_cli.tokenizers.fit_codebook import fit_codebook as command

from tokenstore.errors import SourceError, TokenizerError
from tokenstore.tokenizers import load_tokenizer


def run(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


@pytest.fixture
def words(folder: Path, models: dict[str, Path], tmp_path: Path) -> list[object]:
    out = tmp_path / "new" / "book.safetensors"
    small = ("--image-size", SIZE, "--iterations", 3)
    return [folder, "--autoencoder", models["tiny"], "--out", out, *small]


def test_the_command_learns_a_codebook_and_does_not_overwrite(words: list[object], tmp_path: Path) -> None:
    out = tmp_path / "new" / "book.safetensors"
    done = run(*words, "--codebook-size", 16)
    assert done.exit_code == 0, done.output
    assert "12 of 12 images" in done.output
    assert f"{out}: autoencoder-tiny-k16" in done.output
    assert "learned from 10 images, 640 latent vectors" in done.output
    assert "skipped 03.png: not an image" in done.output
    assert "of 16, unused: 0 codes" in done.output
    assert "held out: 1 images: PSNR" in done.output
    assert load_tokenizer(f"autoencoder:{out}").encode(smooth_images(2)).shape == (2, 8, 8)
    before = out.read_bytes()
    refused = run(*words, "--codebook-size", 16)
    assert refused.exit_code == 1
    assert isinstance(refused.exception, TokenizerError)
    assert "is there already; name another file, or replace it with overwrite=True" in str(refused.exception)
    assert out.read_bytes() == before
    again = run(*words, "--codebook-size", 8, "--overwrite")
    assert again.exit_code == 0, again.output
    assert load_tokenizer(f"autoencoder:{out}").codebook_sizes == (8,)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--codebooks", 2, "--codebook-size", 8], "autoencoder-tiny-2xk8"),
        (["--levels", "3,2,4,2"], "autoencoder-tiny-fsq3x2x4x2"),
    ],
)
def test_the_command_learns_the_other_kinds(words: list[object], options: list[object], name: str) -> None:
    done = run(*words, *options, "--limit", 5)
    assert done.exit_code == 0, done.output
    assert name in done.output
    assert "5 of 12 images" in done.output
    assert "held out: nothing to measure with" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--levels", "2,2,2,2", "--codebook-size", 8],
            "--levels is instead of codebooks: it cannot go with --codebook-size",
        ),
        (["--levels", "2,2,2,2", "--codebooks", 1], "cannot go with --codebooks"),
        (["--levels", "8;8"], "expected numbers such as 8,8,8,8, found '8;8'"),
        (["--out", "book.pt"], "expected --out to end in .safetensors"),
    ],
)
def test_a_wrong_command_line_exits_with_2(words: list[object], options: list[object], message: str) -> None:
    refused = run(*words, *options)
    assert refused.exit_code == 2
    assert message in " ".join(refused.output.split())


def test_what_is_no_source_of_images_is_refused(words: list[object], tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", np.zeros((3, 4, 4), np.uint16))
    refused = run(tmp_path / "train.npy", *words[1:])
    assert isinstance(refused.exception, SourceError)
    assert "expected images to train on, found ready codes" in str(refused.exception)
    refused = run(*words, "--split", "val")
    assert isinstance(refused.exception, SourceError)
    assert "expected a split of train, found 'val'" in str(refused.exception)
    refused = run(*words, "--device", "nothing")
    assert isinstance(refused.exception, TokenizerError)
    assert "device 'nothing' cannot be used here" in str(refused.exception)


def test_without_diffusers_the_command_says_what_to_install(
    words: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tokenstore.tokenizers.kinds.autoencoder")
    monkeypatch.delattr("tokenstore.tokenizers.kinds.autoencoder")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused = run(*words)
    assert isinstance(refused.exception, TokenizerError)
    assert r"pip install 'tokenstore[diffusers]'" in str(refused.exception)
