"""TokenAdapt learns the tokens of tokenizers of several codebooks, of digits, and of DCT coefficients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.network_commands import PRETRAIN, QUICK, refused, seitpp
from helpers.pictures import write_images
from helpers.token_kinds import DCT, RESIDUAL, write_dct
from torch import Tensor

from seitpp_models.adapter import AdapterTrainer, AdapterTrainingConfig, evaluate_adapter
from seitpp_models.adapter.pairs import Pictures
from seitpp_models.adapter.tokens import tokens_of
from tokenstore.augment import Geometry, TokenAdapt, load_adapter
from tokenstore.errors import AdapterError
from tokenstore.format import ImplicitCodebook
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer
from tokenstore.tokenizers.quantisers import ResidualCodebooks
from tokenstore.tokenizers.train.images import ImageSet, list_images

CONFIG = AdapterTrainingConfig(steps=6, batch_size=4, width=128, warmup_steps=2, uncropped_every=2)


class Residual(ImageTokenizer):
    """Codes are three codebooks over eight means of a patch of 8x8 pixels."""

    name, fingerprint = "residual", "ab" * 32
    codebook_sizes, image_size, stride = (12, 12, 12), 64, 8

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(1, 1))
        self.codebook = RESIDUAL
        self.quantiser = ResidualCodebooks(torch.from_numpy(RESIDUAL))

    def encode_pass(self, images: Tensor) -> Tensor:
        parts = torch.nn.functional.avg_pool2d(images.float().mean(1, keepdim=True), (2, 4)).div(64).sub(2)
        return self.quantiser.codes(
            parts.unflatten(2, (-1, 4)).unflatten(4, (-1, 2)).permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
        )

    def decode_pass(self, codes: Tensor) -> Tensor:
        grey = self.quantiser.vectors(codes).mean(1).add(2).mul(64).clamp(0, 255).to(torch.uint8)
        return grey.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand(-1, 3, -1, -1)


class Digits(ImageTokenizer):
    """Codes are the mean colour of a patch of 8x8 pixels, in 8, 6 and 5 levels."""

    name, fingerprint = "digits", "ac" * 32
    codebook, image_size, stride = None, 64, 8
    implicit_codebook = ImplicitCodebook("fsq", (8, 6, 5))
    codebook_sizes = (240,)

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(1, 1))

    def encode_pass(self, images: Tensor) -> Tensor:
        means = torch.nn.functional.avg_pool2d(images.float(), 8).div(256)
        digits = [(means[:, channel] * levels).long() for channel, levels in enumerate((8, 6, 5))]
        return digits[0] + 8 * digits[1] + 48 * digits[2]

    def decode_pass(self, codes: Tensor) -> Tensor:
        digits = codes % 8, codes // 8 % 6, codes // 48
        colours = [(part * 256 + 128) // levels for part, levels in zip(digits, (8, 6, 5), strict=True)]
        return torch.stack(colours, 1).to(torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)


TOKENIZERS: dict[str, Any] = {
    "residual": Residual,
    "digits": Digits,
    "dct": lambda: load_tokenizer(f"{DCT},size=128,sampling=420"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return list_images(
        [open_source(write_images(tmp_path_factory.mktemp("i") / "images", 12, (128, 128)))], 0.4
    )


def trainer_of(kind: str, images: ImageSet, out: Path, **changes: object) -> AdapterTrainer:
    config = AdapterTrainingConfig(**{**vars(CONFIG), **changes})  # type: ignore[arg-type]
    return AdapterTrainer(config, images, TOKENIZERS[kind](), out)


def pictures(images: ImageSet, side: int) -> Tensor:
    options = ImageOptions(side)
    refs = [*images.photographs, *images.thumbnails]
    return torch.stack([Pictures(refs, options).draw(np.random.default_rng(n)) for n in range(6)])


@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_it_begins_as_tokens_that_stay_themselves(kind: str, images: ImageSet, tmp_path: Path) -> None:
    trainer = trainer_of(kind, images, tmp_path)
    model = trainer.average.eval()
    model.precision = "fp32"
    codes = trainer.tokenizer.encode(pictures(images, trainer.options.height))
    tokens = trainer.tokens.tokens(codes)
    identity = Geometry().draw(len(codes), (16, 16), torch.Generator())
    with torch.no_grad():
        found = model.drawn_codes(trainer.tokens.embeddings(codes), identity)
    if kind == "dct":
        assert trainer.adapter_config.codebook_size == ()
        assert float((found - tokens).square().mean()) < 0.2 * float(tokens.square().mean())
        assert torch.equal(trainer.tokens.codes(tokens), codes)
    else:
        first = (found == tokens)[:, 0].float().mean()
        assert first > 0.9
        assert torch.equal(trainer.tokens.codes(tokens), codes)
    quality = evaluate_adapter(model, trainer.tokenizer, pictures(images, trainer.options.height))
    assert all(0 <= figures.share <= 1 and figures.psnr > 5 for figures in quality.values())


@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_it_learns_and_its_file_says_for_what(kind: str, images: ImageSet, tmp_path: Path) -> None:
    trainer = trainer_of(kind, images, tmp_path, steps=24, learning_rate=2e-3)
    seen = list(trainer.run())
    first, last = (np.mean([step.loss for step in part]) for part in (seen[:6], seen[-6:]))
    assert last < first
    trainer.save_weights()
    loaded = load_adapter(tmp_path / "adapter.safetensors", tokenizer=trainer.identity)
    assert loaded.config == trainer.adapter_config
    assert len(loaded.config.scales) == (14 if kind == "dct" else 0)


def test_an_adapter_of_numbers_takes_other_scales(images: ImageSet, tmp_path: Path) -> None:
    trainer = trainer_of("dct", images, tmp_path)
    adapter = trainer.average.eval()
    adapter.precision = "fp32"
    own = torch.tensor(adapter.config.scales)
    other = own * torch.linspace(0.5, 2, len(own))
    tokens = trainer.tokens.tokens(trainer.tokenizer.encode(pictures(images, 128)))
    factors = (other / own)[:, None, None]
    whole = Geometry().draw(len(tokens), (16, 16), torch.Generator())
    found = adapter.scaled_to(other.tolist()).drawn_codes(tokens / factors, whole)
    assert torch.allclose(found * factors, adapter.drawn_codes(tokens, whole), rtol=1e-3, atol=1e-4)
    with pytest.raises(AdapterError, match="expected an adapter for numbers"):
        TokenAdapt(trainer_of("digits", images, tmp_path / "b").adapter_config).scaled_to([1.0])


def test_tokens_that_cannot_be_adapted_are_refused(images: ImageSet, tmp_path: Path) -> None:
    tokenizer = Residual()
    with pytest.raises(
        AdapterError, match=r"grids \(H, W\), which move as images do, found one of lists of 5"
    ):
        tokens_of(tokenizer, (3, 5))
    tokenizer.codebook = None  # type: ignore[assignment]
    with pytest.raises(AdapterError, match="residual: expected a tokenizer with vectors of its codes"):
        tokens_of(tokenizer, (3, 8, 8))


def test_networks_are_trained_with_an_adapter_of_dct_coefficients(images: ImageSet, tmp_path: Path) -> None:
    store = write_dct(tmp_path / "store.zarr")
    trainer = AdapterTrainer(CONFIG, images, load_tokenizer(DCT), tmp_path / "run")
    trainer.out.mkdir()
    trainer.save_weights()
    file = trainer.out / "adapter.safetensors"
    done = seitpp("pretrain", store, "--out", tmp_path / "a", *PRETRAIN, "--epochs", 1, "--adapter", file)
    assert done.exit_code == 0, done.output
    done = seitpp("finetune", store, "--out", tmp_path / "b", *QUICK, "--epochs", 1, "--adapter", file)
    assert done.exit_code == 0, done.output
    assert "expected an adapter for" in refused(
        "finetune", store, "--out", tmp_path / "c", *QUICK, "--adapter", "default"
    )
