"""Conversions by a compiled network: the store says so, and a conversion goes on only as it began."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.grey_conversions import StoppedError
from helpers.symmetric_models import random_model, random_tokenizer

import tokenstore
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.images import LoadedTokenizer, plan_images
from tokenstore.conversion.options import ConvertOptions, Progress
from tokenstore.errors import ConversionError, TokenizerError
from tokenstore.sources import open_source
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.kinds.symmetric_vq import save_weights

OPTIONS: dict[str, Any] = {
    "image_size": 64,
    "workers": 0,
    "shard_samples": 2,
    "chunk_samples": 2,
    "batch_size": 2,
}


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let torch.compile trace networks, and run the graphs as they are: machine code takes a minute."""
    compiled = torch.compile

    def traced(function: Any, *, backend: str, dynamic: bool) -> Any:
        assert backend == "inductor"
        return compiled(function, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", traced)
    yield
    torch.compiler.reset()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_grey_folder(tmp_path / "images", 5)
    return tmp_path / "images"


def test_a_store_of_a_compiled_network_says_so_and_has_the_same_codes(images: Path, tmp_path: Path) -> None:
    tokenizer = random_tokenizer()
    tokenstore.convert(images, tmp_path / "plain", tokenizer=tokenizer, **OPTIONS)
    tokenstore.convert(images, tmp_path / "compiled", tokenizer=tokenizer, compile=True, **OPTIONS)
    plain, compiled = (tokenstore.open(tmp_path / name) for name in ("plain", "compiled"))
    np.testing.assert_array_equal(compiled["train"][:], plain["train"][:])
    assert compiled.manifest.tokenizer.arithmetic == "cpu float32, compiled"
    assert plain.manifest.tokenizer.arithmetic == "cpu float32"
    fields = [json.loads((tmp_path / name / "zarr.json").read_text()) for name in ("plain", "compiled")]
    found = [each["attributes"]["tokenstore"]["tokenizer"].get("compiled") for each in fields]
    assert found == [None, True]


def test_a_conversion_goes_on_only_as_it_began(images: Path, tmp_path: Path) -> None:
    source, tokenizer = open_source(images), random_tokenizer()
    plain, compiled = (ConvertOptions(**OPTIONS, compile=how) for how in (False, True))

    def stop(state: Progress) -> None:
        if state.done >= 2:
            raise StoppedError

    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        convert_source(source, out, tokenizer=tokenizer, options=compiled, on_progress=stop)
    with pytest.raises(ConversionError, match=r"computed was .*compiled"):
        convert_source(source, out, tokenizer=tokenizer, options=plain, resume=True)
    convert_source(source, out, tokenizer=tokenizer, options=compiled, resume=True)
    assert convert_source(source, out, tokenizer=tokenizer, options=compiled, resume=True).already_complete
    with pytest.raises(ConversionError, match="codes computed on cpu float32, compiled, found cpu float32"):
        convert_source(source, out, tokenizer=tokenizer, options=plain, resume=True)


def test_workers_elsewhere_compile_the_network_themselves(images: Path, tmp_path: Path) -> None:
    """Send the recipe as other machines get it, with the plain tokenizer or its name."""
    save_weights(random_model(), tmp_path / "mine.safetensors")
    name = f"conv-vq-symmetric:{tmp_path / 'mine.safetensors'}"
    for loaded in (LoadedTokenizer(random_tokenizer()), LoadedTokenizer(load_tokenizer(name), name)):
        plan = plan_images(
            open_source(images), ("train",), ConvertOptions(**OPTIONS, compile=True), "here", loaded
        )
        recipe = pickle.loads(pickle.dumps(plan.recipe))
        encoder = recipe.load()
        assert encoder.tokenizer.is_compiled
        pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
        np.testing.assert_array_equal(encoder(pixels), plan.encoder(pixels))


def test_what_cannot_be_compiled_is_refused_before_anything_is_written(images: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="compile=True: the tokenizer brightness has no network"):
        tokenstore.convert(images, tmp_path / "out", tokenizer=BrightnessTokenizer(), compile=True, workers=0)
    assert not (tmp_path / "out").exists()


def test_a_network_that_cannot_be_compiled_here_is_refused_before_anything_is_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    with pytest.raises(TokenizerError, match=r"cannot compile .* here: no compiler\. Leave out compile=True"):
        tokenstore.convert(images, tmp_path / "out", tokenizer=random_tokenizer(), compile=True, **OPTIONS)
    assert not (tmp_path / "out").exists()
