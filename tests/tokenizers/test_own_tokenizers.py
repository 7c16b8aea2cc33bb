"""A tokenizer of one's own: a base with defaults, and an error that names what an object lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from tokenstore_cli.main import cli
from torch import nn

import tokenstore
from tokenstore.errors import TokenizerError
from tokenstore.format import ImplicitCodebook
from tokenstore.tokenizers import Tokenizer, TokenizerBase, check_tokenizer, tokenizer_of

SMALL: Any = {"image_size": 16, "workers": 0}
ENTRY_POINTS = "[tokenstore.tokenizers]\nlevels = own_tokenizer:Levels\n"


class Levels(TokenizerBase):
    """The grey level of each square of 8 x 8 pixels.

    It has no weights.
    """

    name = "levels"
    codebook = np.arange(256, dtype=np.float32)[:, None]
    fingerprint = "ab" * 32
    dtype = None

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(inputs.float().mean(1), 8).round().long()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        grey = codes.to(torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)
        return grey[:, None].expand(-1, 3, -1, -1)


class OneWay(TokenizerBase, nn.Module):
    """A network that only encodes."""

    name = "one-way"
    codebook_sizes = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Conv2d(3, 4, 8, stride=8)

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.network(inputs.float() / 255).argmax(1)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_grey_folder(tmp_path / "images", 2)
    return tmp_path / "images"


def test_a_class_with_a_name_an_encoder_and_a_codebook_is_a_tokenizer(images: Path, tmp_path: Path) -> None:
    tokenizer: Tokenizer = Levels()
    check_tokenizer(tokenizer)
    assert tokenizer.codebook_sizes == (256,)
    assert tokenizer.grid((3, 16, 24)) == (2, 3)
    assert tokenizer.to("cpu") is tokenizer
    tokenstore.convert(images, tmp_path / "store", tokenizer=tokenizer, **SMALL)
    sheet = tokenstore.preview(tmp_path / "store", tmp_path / "sheet.png", tokenizer=tokenizer)
    assert (sheet.originals, len(sheet.indices)) == (6, 6)
    assert tokenstore.verify(tmp_path / "store", retokenize=2, tokenizer=tokenizer).ok


def test_a_torch_module_has_its_fingerprint_device_and_dtype_from_its_weights(
    images: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tokenizer, other = OneWay(), OneWay()
    assert tokenizer.fingerprint != other.fingerprint
    other.load_state_dict(tokenizer.state_dict())
    moved = tokenizer.to("meta")
    assert (tokenizer.device.type, moved.device.type, tokenizer.dtype) == ("cpu", "meta", torch.float32)
    assert len(OneWay().bfloat16().fingerprint) == 64
    assert other.fingerprint == tokenizer.fingerprint == tokenizer.to("cpu").fingerprint
    tokenstore.convert(images, tmp_path / "store", tokenizer=tokenizer, **SMALL)
    assert tokenstore.open(tmp_path / "store").manifest.tokenizer.dtype == "float32"
    with pytest.raises(TokenizerError, match=r"OneWay: expected a method decode\(codes\), found none"):
        tokenstore.preview(tmp_path / "store", tmp_path / "sheet.png", tokenizer=tokenizer)


class Signs(TokenizerBase):
    """Codes that are the signs of three channels, against grey."""

    name, fingerprint = "signs", "ab" * 32
    implicit_codebook = ImplicitCodebook("lfq", (2, 2, 2))

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        bits = (inputs[:, :, ::8, ::8] > 127).long()
        return bits[:, 0] + 2 * bits[:, 1] + 4 * bits[:, 2]


def test_a_tokenizer_with_an_implicit_codebook_needs_no_table(images: Path, tmp_path: Path) -> None:
    tokenizer = Signs()
    check_tokenizer(tokenizer)
    assert tokenizer.codebook_sizes == (8,)
    tokenstore.convert(images, tmp_path / "store", tokenizer=tokenizer, **SMALL)
    store = tokenstore.open(tmp_path / "store")
    assert not (tmp_path / "store" / "codebook").exists()
    np.testing.assert_array_equal(store.codebook[[0, 6]], [[-1, -1, -1], [-1, 1, 1]])
    told = CliRunner().invoke(cli, ["info", str(tmp_path / "store")]).output
    assert "8 codes, vectors by the rule lfq of 2 x 2 x 2 levels" in " ".join(told.split())


class Bare:
    """An object with a few of a tokenizer's members."""

    name = "bare"
    image_size = 16
    codebook_sizes = (256,)

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


class HalfOfFiles(BrightnessTokenizer):
    """A tokenizer that reads files, but for two members."""

    def decoder(self, options: Any) -> Any:
        return options


class NoFingerprint(TokenizerBase):
    """A class without weights and without a fingerprint."""

    name = "bare"
    codebook_sizes = (256,)

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


def changed(**members: Any) -> Any:
    return type("Changed", (BrightnessTokenizer,), members)()


WRONG: dict[str, tuple[Any, str]] = {
    "members": (
        Bare(),
        "Bare: .*has fingerprint, codebook, device, dtype, grid, to, decode too.*TokenizerBase",
    ),
    "nothing": (object(), "object: .*name, fingerprint, .*encode, decode"),
    "files": (HalfOfFiles(), "a tokenizer that reads files, which has columns, column_values too"),
    "no fingerprint": (NoFingerprint(), "NoFingerprint: expected a fingerprint, a SHA-256"),
    "a list of sizes": (changed(codebook_sizes=[256]), r"codebook_sizes to be a tuple .*found \[256\]"),
    "a tensor": (changed(codebook=torch.zeros(4, 4)), "codebook to be an array"),
    "no method": (changed(decode=None), "decode to be a method, found None"),
    "an image size": (changed(image_size=(16, 16)), "image_size to be a positive whole number"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("call", ["convert", "preview"])
def test_a_tokenizer_that_lacks_something_is_told_what(
    images: Path, tmp_path: Path, wrong: str, call: str
) -> None:
    tokenizer, match = WRONG[wrong]
    np.save(tmp_path / "codes.npy", np.zeros((1, 2, 2), np.uint8))
    tokenstore.convert(tmp_path / "codes.npy", tmp_path / "ready", codebook_size=256)
    calls = {
        "convert": lambda: tokenstore.convert(images, tmp_path / "store", tokenizer=tokenizer, **SMALL),
        "preview": lambda: tokenstore.preview(tmp_path / "ready", tmp_path / "a.png", tokenizer=tokenizer),
    }
    with pytest.raises(TokenizerError, match=match):
        calls[call]()


@pytest.mark.parametrize(
    ("members", "match"),
    [
        (
            {"encode": lambda *_: np.zeros((2, 2, 2))},
            "brightness: expected codes as a torch.Tensor, found ndarray",
        ),
        ({"encode": lambda *_: torch.zeros(2, 2, 2)}, "brightness: expected codes of an integer dtype"),
    ],
)
def test_codes_of_another_type_are_refused(
    images: Path, tmp_path: Path, members: dict[str, Any], match: str
) -> None:
    with pytest.raises(TokenizerError, match=match):
        tokenstore.convert(images, tmp_path / "store", tokenizer=changed(**members), **SMALL)


def test_a_class_is_an_entry_point_that_commands_know(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    info = site / "own_tokenizer-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-tokenizer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "own_tokenizer.py").write_text(f"from {__name__} import Levels\n")
    store, sheet = tmp_path / "store", tmp_path / "sheet.png"
    tokenstore.convert(images, store, tokenizer=Levels(), **SMALL)
    before = CliRunner().invoke(cli, ["preview", str(store), "-o", str(sheet)])
    assert "names it 'levels'; name the tokenizer by --tokenizer" in before.output
    monkeypatch.syspath_prepend(str(site))
    listed = CliRunner().invoke(cli, ["tokenizers", "--json"])
    assert '"summary": "The grey level of each square of 8 x 8 pixels"' in listed.output
    assert isinstance(tokenizer_of(tokenstore.open(store).manifest), Levels)
    after = CliRunner().invoke(cli, ["preview", str(store), "-o", str(sheet)])
    assert "6 with their originals" in after.output
    options = ["--tokenizer", "levels", "--image-size", "16", "--workers", "0"]
    again = CliRunner().invoke(cli, ["convert", str(images), str(tmp_path / "again"), *options])
    assert again.exit_code == 0, again.output


def test_a_fingerprint_is_of_the_weights_as_they_are_or_as_it_was_set() -> None:
    tokenizer = OneWay()
    check_tokenizer(tokenizer)
    before = tokenizer.fingerprint
    with torch.no_grad():
        tokenizer.network.bias.add_(1)
    assert tokenizer.fingerprint != before
    tokenizer.fingerprint = "cd" * 32
    assert tokenizer.fingerprint == "cd" * 32
