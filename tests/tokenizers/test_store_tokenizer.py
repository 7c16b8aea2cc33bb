"""The tokenizer of a store: named by its manifest or by the caller, and refused where it does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.brightness import BrightnessTokenizer
from helpers.brightness_stores import levels

from tokenstore.errors import TokenizerError
from tokenstore.format.manifest import Manifest, Preprocessing, TokenizerIdentity
from tokenstore.tokenizers import registry
from tokenstore.tokenizers.registry import load_tokenizer
from tokenstore.tokenizers.store_tokenizer import tokenizer_of

IDENTITY = TokenizerIdentity("brightness", "b" * 64)
OF_IMAGES = Manifest(
    IDENTITY,
    (2, 2),
    (256,),
    splits={},
    preprocessing=Preprocessing(16, 16, "squash"),
    source_kind="imagefolder",
)
READY = replace(OF_IMAGES, tokenizer=TokenizerIdentity("unknown"), preprocessing=None, source_kind="array")


def test_the_manifest_names_its_tokenizer(brightness_by_name: None) -> None:
    manifest = replace(OF_IMAGES, tokenizer=replace(IDENTITY, spec="brightness"))
    assert isinstance(tokenizer_of(manifest), BrightnessTokenizer)


def test_the_packaged_tokenizer_is_known_by_its_name() -> None:
    packaged = load_tokenizer("default")
    identity = TokenizerIdentity(packaged.name, packaged.fingerprint)
    manifest = replace(OF_IMAGES, tokenizer=identity, codebook_sizes=packaged.codebook_sizes)
    assert tokenizer_of(manifest).fingerprint == packaged.fingerprint
    with pytest.raises(TokenizerError, match=rf"fingerprint {'e' * 64}, but .* has {packaged.fingerprint}"):
        tokenizer_of(replace(manifest, tokenizer=replace(identity, fingerprint="e" * 64)))


@pytest.mark.parametrize("spec", [None, "default"])
def test_a_tokenizer_that_was_the_default_is_known_when_another_one_is(
    brightness_by_name: None, monkeypatch: pytest.MonkeyPatch, spec: str | None
) -> None:
    before = load_tokenizer("default")
    identity = TokenizerIdentity(before.name, before.fingerprint, spec=spec)
    manifest = replace(OF_IMAGES, tokenizer=identity, codebook_sizes=before.codebook_sizes)
    monkeypatch.setitem(registry.TOKENIZERS, "default", registry.TOKENIZERS["brightness"])
    assert load_tokenizer("default").fingerprint != before.fingerprint
    assert tokenizer_of(manifest).fingerprint == before.fingerprint


@pytest.mark.parametrize("spec", [None, "brightness:other"])
def test_a_tokenizer_with_another_fingerprint_is_refused_with_both(
    brightness_by_name: None, spec: str | None
) -> None:
    manifest = replace(OF_IMAGES, tokenizer=replace(IDENTITY, spec="brightness:other"))
    with pytest.raises(TokenizerError, match=rf"fingerprint {'b' * 64}, but .*{'c' * 64}.* tokenizer="):
        tokenizer_of(manifest, spec)
    assert isinstance(tokenizer_of(manifest, "brightness"), BrightnessTokenizer)


def test_a_tokenizer_that_cannot_be_loaded_any_more_asks_for_another_name() -> None:
    manifest = replace(OF_IMAGES, tokenizer=replace(IDENTITY, spec="conv-vq:/gone/w.safetensors"))
    with pytest.raises(
        TokenizerError, match=r"names its tokenizer 'conv-vq:/gone.*nothing there.* tokenizer="
    ):
        tokenizer_of(manifest)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (READY, "does not know it; name the tokenizer by tokenizer='NAME"),
        (OF_IMAGES, "names it 'brightness'; name"),
    ],
)
def test_a_tokenizer_that_is_not_known_has_to_be_named(manifest: Manifest, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer_of(manifest)


@pytest.mark.parametrize("fingerprint", [None, "d" * 64], ids=["without fingerprint", "of a bare codebook"])
def test_ready_codes_take_the_tokenizer_that_is_named_if_it_fits(
    brightness_by_name: None, fingerprint: str | None
) -> None:
    manifest = replace(READY, tokenizer=TokenizerIdentity("unknown", fingerprint))
    assert isinstance(tokenizer_of(manifest, "brightness"), BrightnessTokenizer)
    with pytest.raises(TokenizerError, match=r"with 200 codes .* with 256.* codebook_size=256"):
        tokenizer_of(replace(manifest, codebook_sizes=(200,)), "brightness")
    with pytest.raises(TokenizerError, match=r"grids like the store's \(2, 2, 2\), found .* with \(2, 2\)"):
        tokenizer_of(replace(manifest, grid=(2, 2, 2)), "brightness")


def test_only_a_tokenizer_that_is_named_is_taken_without_a_fingerprint(brightness_by_name: None) -> None:
    manifest = replace(READY, tokenizer=TokenizerIdentity("unknown", spec="brightness"))
    with pytest.raises(TokenizerError, match="with fingerprint None, but 'brightness' has b"):
        tokenizer_of(manifest)


def test_images_of_a_size_the_tokenizer_makes_another_grid_of_are_refused(brightness_by_name: None) -> None:
    with pytest.raises(TokenizerError, match=r"grids like the store's \(3, 3\), found .* with \(2, 2\)"):
        tokenizer_of(replace(OF_IMAGES, grid=(3, 3)), "brightness")


def test_kept_codes_make_a_pruned_tokenizer_of_it(brightness_by_name: None) -> None:
    manifest = replace(OF_IMAGES, tokenizer=replace(IDENTITY, kept_codes=((4, 9),)), codebook_sizes=(2,))
    tokenizer = tokenizer_of(manifest, "brightness")
    assert tokenizer.codebook_sizes == (2,)
    assert tokenizer.fingerprint == "b" * 64
    assert levels(tokenizer.decode(torch.tensor([[[0]], [[1]]])).permute(0, 2, 3, 1).numpy()) == [4, 9]
