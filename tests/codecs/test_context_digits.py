"""Codes of large codebooks as digits: their arithmetic, streams, and stores by the codec `context`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers.context_models import random_model
from helpers.stores import edit_root, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs.context.codec import Context
from tokenstore.codecs.context.digits import digits_of, join_digits, sound_digits, split_digits
from tokenstore.codecs.context.model import ContextModel
from tokenstore.errors import CodecError, ManifestError
from tokenstore.format import ImplicitCodebook, TokenizerIdentity
from tokenstore.loading.resident import ResidentTokens
from tokenstore.writing.recode import recode

SIZE = 2**18


def skewed_codes(samples: int, grid: tuple[int, int] = (6, 6), seed: int = 0) -> npt.NDArray[np.uint32]:
    """Draw codes (n, H, W) of which each half of a digit of 64 is k with the share 2^-k, about."""
    rng = np.random.default_rng(seed)
    halves = np.minimum(rng.geometric(0.5, (6, samples, *grid)) - 1, 7).astype(np.uint32)
    return np.bitwise_or.reduce([half << np.uint32(3 * place) for place, half in enumerate(halves)])


@pytest.fixture(scope="module")
def skewed() -> Context:
    """Return the codec of a model that expects such codes, whatever is before them."""
    model = random_model((64, 64, 64), 3, components=1, logit_shift=0)
    ranks = np.arange(64, dtype=np.uint32)
    biases = np.concatenate([np.arange(8), np.tile(np.arange(8), 8)]) * -256
    planes = [
        replace(plane, order=ranks, weights=np.zeros_like(plane.weights), biases=biases.astype(np.int16))
        for plane in model.planes
    ]
    codec = Context(SIZE, ContextModel(3, tuple(planes)))
    assert codec.digits == (64, 64, 64)
    return codec


@settings(deadline=None)
@given(st.integers(2**16 + 1, 2**31), st.integers(0, 2**32))
def test_codes_are_those_of_their_digits(size: int, seed: int) -> None:
    digits = digits_of(size)
    assert sound_digits(digits, size)
    assert max(digits) <= 64
    codes = np.random.default_rng(seed).integers(0, size, (3, 4), dtype=np.uint32)
    codes[0, :2] = 0, size - 1
    planes = split_digits(codes, digits)
    assert planes.shape == (3, 4 * len(digits))
    by_hand = sum(
        planes[:, 4 * place : 4 * place + 4].astype(np.int64) * math.prod(digits[:place])
        for place in range(len(digits))
    )
    np.testing.assert_array_equal(by_hand, codes)
    out = np.empty_like(codes)
    assert join_digits(planes, digits, size, out) == -1
    np.testing.assert_array_equal(out, codes)


def test_digits_of_no_code_are_found() -> None:
    digits = digits_of(70_000)
    planes = split_digits(np.array([[1, 2], [3, 69_999]]), digits)
    out = np.empty((2, 2), np.uint32)
    assert join_digits(planes, digits, 69_999, out) == 1
    assert out.tolist() == [[1, 2], [3, 0]]


def test_chunks_come_back_and_take_less_than_packed(skewed: Context) -> None:
    codes = skewed_codes(50, seed=1)
    payload = np.frombuffer(skewed.encode(codes, 64, 2**32 - 1), np.uint8)
    packed = 50 * math.ceil(36 * 18 / 8)
    assert len(payload) < 0.75 * packed
    out = np.empty_like(codes)
    skewed.decode(payload, out)
    np.testing.assert_array_equal(out, codes)
    rows = np.array([7, 0, 49, 7])
    some = np.empty((4, 6, 6), np.int64)
    skewed.decode_rows(payload, rows, some)
    np.testing.assert_array_equal(some, codes[rows])
    noise = np.random.default_rng(0).integers(0, SIZE, (8, 6, 6), dtype=np.uint32)
    assert len(skewed.encode(noise, 8, 2**32 - 1)) <= 1 + 8 * math.ceil(36 * 18 / 8)


def test_codes_outside_and_models_of_other_digits_are_refused(skewed: Context) -> None:
    with pytest.raises(CodecError):
        skewed.encode(np.full((1, 6, 6), SIZE, np.uint32), 1, 2**32 - 1)
    for size in (2**18 + 1, 2**17, 2**12 + 2**16):
        if not sound_digits((64, 64, 64), size):
            with pytest.raises(CodecError, match=f"digits of {size} codes, found one of"):
                Context(size, skewed.model)
    skewed.check_codes((6, 6), (SIZE,))
    for grid, sizes in (
        ((6,), (SIZE,)),
        ((3, 6, 6), (SIZE,)),
        ((6, 6), (SIZE, SIZE)),
        ((6, 6), (64, 64, 64)),
    ):
        with pytest.raises(CodecError):
            skewed.check_codes(grid, sizes)


def test_a_store_of_digits_reads_everywhere_and_says_that_it_needs_them(
    tmp_path: Path, skewed: Context
) -> None:
    codes = skewed_codes(70, seed=2)
    settings = {"codec": "context", "model": skewed.model, "chunk_samples": 16, "shard_samples": 32}
    write_store(tmp_path / "a", {"train": (codes,)}, SIZE, **settings)
    store = tokenstore.open(tmp_path / "a")
    assert store.manifest.features == ("context", "digits")
    np.testing.assert_array_equal(store["train"][:], codes)
    order = np.random.default_rng(0).permutation(70)
    np.testing.assert_array_equal(store["train"].read("tokens", order), codes[order])
    assert verify(tmp_path / "a").problems == []
    resident = ResidentTokens(store["train"].arrays["tokens"], "cpu")
    np.testing.assert_array_equal(resident.read(np.arange(70)), codes)
    recode(tmp_path / "a", tmp_path / "b", codec="bitpack")
    np.testing.assert_array_equal(tokenstore.open(tmp_path / "b")["train"][:], codes)
    coded, packed = (
        sum(f.stat().st_size for f in (tmp_path / name / "train/tokens/c").rglob("*") if f.is_file())
        for name in "ab"
    )
    assert coded < 0.8 * packed
    edit_root(tmp_path / "a", lambda root: root["attributes"]["tokenstore"].update(features=["context"]))
    with pytest.raises(ManifestError, match="expected a model of digits only with the feature 'digits'"):
        tokenstore.open(tmp_path / "a")["train"][:]


@pytest.mark.thorough
def test_the_codec_is_fitted_to_digits_where_a_store_is_written_anew(tmp_path: Path) -> None:
    implicit = ImplicitCodebook("lfq", (2,) * 18)
    identity = TokenizerIdentity("lfq", "ab" * 32, implicit_codebook=implicit)
    codes = skewed_codes(300, seed=3)
    write_store(tmp_path / "a", {"train": (codes,)}, SIZE, tokenizer=identity)
    recode(tmp_path / "a", tmp_path / "b", codec="context")
    store = tokenstore.open(tmp_path / "b")
    np.testing.assert_array_equal(store["train"][:], codes)
    assert store.manifest.tokenizer.implicit_codebook == implicit
    assert "digits" in store.manifest.features
