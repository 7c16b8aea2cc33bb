"""Cosmos' TorchScript programs: never run unasked, and as tokenizers where the user allows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.cosmos_models import ScriptedDecoder, Sizeless, write_folder, write_script
from helpers.vqgan_models import images
from PIL import Image
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.errors import TokenizerError
from tokenstore.format import ImplicitCodebook
from tokenstore.tokenizers import TrustedSpec, load_tokenizer

REFUSED = r"loading them runs code of whoever made them.*say allow_torchscript=True"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("cosmos") / "model")


def test_nothing_is_loaded_unless_the_user_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("code was run"))
    with pytest.raises(TokenizerError, match=REFUSED):
        load_tokenizer(f"cosmos:{folder}")


def test_codes_are_the_digits_of_the_programs_vectors(folder: Path) -> None:
    tokenizer = load_tokenizer(f"cosmos:{folder}", allow_torchscript=True)
    assert tokenizer.name == "cosmos-di8x8"
    assert tokenizer.codebook_sizes == (64000,)
    assert tokenizer.implicit_codebook == ImplicitCodebook("fsq", (8, 8, 8, 5, 5, 5))
    batch = images(3, 16, 32)
    codes = tokenizer.encode(batch)
    assert codes.shape == (3, 2, 4)
    assert len(codes.unique()) > 20
    vectors = tokenizer.network.encoder(batch.float() / 127.5 - 1)[1]
    np.testing.assert_allclose(tokenizer.codebook[codes], vectors.permute(0, 2, 3, 1), atol=1e-6)
    assert tokenizer.decode(codes).shape == batch.shape
    assert load_tokenizer(TrustedSpec(f"cosmos:{folder}")).fingerprint == tokenizer.fingerprint


def test_programs_that_count_from_one_give_the_same_codes(folder: Path, tmp_path: Path) -> None:
    plain = load_tokenizer(f"cosmos:{folder}", allow_torchscript=True)
    shifted = load_tokenizer(f"cosmos:{write_folder(tmp_path / 'one', first=1)}", allow_torchscript=True)
    codes = plain.encode(images(2))
    assert torch.equal(shifted.encode(images(2)), codes)
    assert torch.equal(shifted.decode(codes), plain.decode(codes))
    assert shifted.fingerprint != plain.fingerprint


def test_the_command_line_asks_and_a_store_is_not_trusted_for_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(images(2, 64, 64)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "photos" / f"{number}.png")

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(cli, list(map(str, arguments)))
        return result.exit_code, " ".join(result.output.split())

    out, sheet = tmp_path / "out.zarr", ("-o", tmp_path / "sheet.png")
    named = ("--tokenizer", f"cosmos:{folder}")
    convert = ("convert", tmp_path / "photos", out, "--image-size", 64, "--workers", 0, *named)
    code, output = run(*convert)
    assert code != 0
    assert "say --allow-torchscript" in output
    assert run(*convert, "--allow-torchscript")[0] == 0
    root = json.loads((out / "zarr.json").read_bytes())["attributes"]["tokenstore"]["tokenizer"]
    assert root["spec"] == f"cosmos:{folder}"
    assert root["implicit_codebook"] == {"kind": "fsq", "levels": [8, 8, 8, 5, 5, 5]}
    assert tokenstore.open(out).codebook.shape == (64000, 6)
    code, output = run("preview", out, *sheet)
    assert code != 0
    assert "--allow-torchscript" in output
    code, output = run("preview", out, *sheet, "--allow-torchscript")
    assert code == 2
    assert "expected it with --tokenizer, found it alone" in output
    assert run("preview", out, *sheet, *named, "--allow-torchscript")[0] == 0
    code, output = run("verify", out, "--retokenize", 2, *named, "--allow-torchscript")
    assert code == 0, output


def without_decoder(folder: Path) -> None:
    (folder / "decoder.jit").unlink()


def cut_off(folder: Path) -> None:
    path = folder / "encoder.jit"
    path.write_bytes(path.read_bytes()[:500])


def plain_weights(folder: Path) -> None:
    torch.save({"a": torch.ones(2)}, folder / "encoder.jit")


def other_task(folder: Path) -> None:
    write_script(folder / "encoder.jit", Sizeless())


def decoder_twice(folder: Path) -> None:
    write_script(folder / "encoder.jit", ScriptedDecoder(0))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_decoder, r"decoder\.jit: expected a TorchScript file, found nothing there"),
        (cut_off, r"encoder\.jit: expected a TorchScript file, found a damaged one .*fetch it again"),
        (plain_weights, r"encoder\.jit: expected a TorchScript file, found a damaged one"),
        (
            other_task,
            r"expected an image encoder that gives indices \(B, h, w\) and .* found \[\(\(\)",
        ),
        (decoder_twice, r"expected programs of RGB images, found ones that cannot take them"),
    ],
)
def test_folders_of_other_programs_are_refused(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    spoil(write_folder(tmp_path / "model"))
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(f"cosmos:{tmp_path / 'model'}", allow_torchscript=True)


def test_indices_that_do_not_follow_from_vectors_and_missing_folders_are_refused(tmp_path: Path) -> None:
    lies = write_folder(tmp_path / "lies", lies=True)
    with pytest.raises(TokenizerError, match=r"expected indices that follow from vectors of .* found others"):
        load_tokenizer(f"cosmos:{lies}", allow_torchscript=True)
    with pytest.raises(TokenizerError, match=r"expected a local folder with encoder\.jit"):
        load_tokenizer("cosmos:nvidia/Cosmos-Tokenizer-DI8x8", allow_torchscript=True)
