"""Implicit codebooks: vectors of codes by a rule, in stores that are written, pruned and copied."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.stores import write_store
from hypothesis import given
from hypothesis import strategies as st

import tokenstore
from tokenstore.errors import ManifestError
from tokenstore.format import ImplicitCodebook, TokenizerIdentity
from tokenstore.storage import open_storage
from tokenstore.writing import prune_codebook
from tokenstore.writing.recode import recode

LFQ = ImplicitCodebook("lfq", (2,) * 18)
"""The codebook of Open-MAGVIT2."""


@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_the_digits_of_a_vector_are_those_of_its_code(levels: list[int], seed: int) -> None:
    implicit = ImplicitCodebook("fsq", tuple(levels))
    codes = np.random.default_rng(seed).integers(0, implicit.size, (3, 5))
    vectors = implicit.vectors(codes)
    digits = [np.rint(vectors[..., c] * (n // 2)).astype(int) + n // 2 for c, n in enumerate(levels)]
    np.testing.assert_array_equal(sum(d * math.prod(levels[:c]) for c, d in enumerate(digits)), codes)
    assert np.abs(vectors).max() <= 1


def test_signs_are_the_bits_of_a_code_and_unit_vectors_where_spherical() -> None:
    codes = np.array([0, 1, 2, 2**17, 2**18 - 1], np.uint32)
    bits = (codes[:, None] >> np.arange(18)) & 1
    np.testing.assert_array_equal(LFQ.vectors(codes), 2.0 * bits - 1)
    spherical = ImplicitCodebook("bsq", (2,) * 18).vectors(codes)
    np.testing.assert_allclose(np.linalg.norm(spherical, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(spherical, LFQ.vectors(codes) / math.sqrt(18), rtol=1e-6)


def test_codes_outside_and_impossible_levels_are_refused() -> None:
    for outside in (-1, 2**18):
        with pytest.raises(ValueError, match=r"expected codes in 0\.\.262143"):
            LFQ.vectors([0, outside])
    for kind, levels in (("lfq", (3, 2)), ("fsq", ()), ("fsq", (1,)), ("fsq", (2,) * 32), ("pq", (2, 2))):
        with pytest.raises(ManifestError, match="implicit_codebook: expected"):
            ImplicitCodebook(kind, levels)


def test_tables_that_are_too_large_are_not_computed() -> None:
    assert LFQ.table().shape == (2**18, 18)
    large = ImplicitCodebook("lfq", (2,) * 30)
    assert large.table() is None
    assert large.table([5, 7]).shape == (2, 30)
    assert large.vectors(2**30 - 1).tolist() == [1.0] * 30


@pytest.mark.parametrize("codec", ["bitpack", "zstd", "context"])
def test_a_store_of_18_bit_codes_keeps_codes_and_vectors_through_every_codec(
    codec: str, tmp_path: Path
) -> None:
    identity = TokenizerIdentity("lfq", "ab" * 32, implicit_codebook=LFQ)
    codes = np.random.default_rng(0).integers(0, 2**18, (6, 4, 4), dtype=np.uint32)
    codes[0, 0, :2] = 0, 2**18 - 1
    write_store(tmp_path / "a", {"train": (codes,)}, 2**18, tokenizer=identity, codebook=LFQ.table())
    recode(tmp_path / "a", tmp_path / "b", codec=codec)
    store = tokenstore.open(tmp_path / "b")
    assert codec in store.manifest.codecs
    np.testing.assert_array_equal(store["train"][:], codes)
    np.testing.assert_array_equal(store.codebook[codes], LFQ.vectors(codes))
    prune_codebook(store, open_storage(tmp_path / "c"), codec="bitpack")
    pruned = tokenstore.open(tmp_path / "c")
    assert pruned.manifest.codebook_size == len(np.unique(codes))
    assert not (tmp_path / "c" / "codebook").exists()
    np.testing.assert_array_equal(pruned.codebook[pruned["train"][:]], LFQ.vectors(codes))
