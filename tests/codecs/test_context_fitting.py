"""Whole fits of the context codec: how much smaller codes get, in this process and in others.

`test_context_fits.py` has what fits in few steps show.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import textwrap
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from helpers.context_models import chunk_of, decoded_like, entropy_nbytes, random_codes, smooth_codes
from helpers.paths import SHARED, TESTS
from helpers.waiting import HANG

from tokenstore.codecs.context import Context, fit_context, fitting
from tokenstore.codecs.context.contexts import context_offsets
from tokenstore.sources import CodeSource, open_source

Codes = npt.NDArray[Any]
SEIT = SHARED / "data" / "seit-sample"


# --- what it is worth


@pytest.mark.parametrize(
    ("size", "grid", "share"),
    [(16, (16, 16), 0.6), (40, (8, 8), 0.85), (16, (4, 8, 8), 0.75), (16, (64,), 0.8)],
)
def test_smooth_codes_take_clearly_fewer_bytes_than_their_entropy(
    size: int, grid: tuple[int, ...], share: float
) -> None:
    codec = fit_context(smooth_codes(150, grid, size), (size,), total_codes=10**6)  # a model's bytes are none
    other = smooth_codes(50, grid, size, seed=1)
    payload = chunk_of(codec, other)
    assert len(payload) < share * entropy_nbytes(other)
    np.testing.assert_array_equal(decoded_like(codec, payload, other), other)


def test_a_codebook_is_predicted_from_the_one_before() -> None:
    """Derive the second codebook's codes from the first's: they take at most three fifths of their bits."""
    first = random_codes((16,), (100, 1, 6, 6))
    codes = np.concatenate([first, 15 - first], axis=1)
    codec = fit_context(codes, (16, 16), total_codes=10**6)
    payload = chunk_of(codec, codes)
    assert len(payload) < 0.8 * codes.size * 4 / 8
    np.testing.assert_array_equal(decoded_like(codec, payload, codes), codes)


def test_more_codes_to_come_buy_a_more_precise_model() -> None:
    codes = smooth_codes(40, (8, 8), 16)
    small, large = (fit_context(codes, (16,), total_codes=total) for total in (10**5, 10**9))
    assert 0 < small.table_nbytes < large.table_nbytes
    assert len(chunk_of(large, codes)) < len(chunk_of(small, codes))


def test_more_copies_of_the_model_make_it_smaller() -> None:
    codes = smooth_codes(40, (8, 8), 16)
    once, often = (fit_context(codes, (16,), total_codes=10**7, copies=copies) for copies in (1, 100))
    assert once.table_nbytes > often.table_nbytes > 0


# --- what decides it


def test_another_process_with_other_thread_settings_gives_the_same_bytes() -> None:
    """Fit to so many codes that BLAS would share products of matrices among threads."""
    codes = random_codes((600,), (20, 8, 8))
    script = """
        import os, sys
        for name in ("OPENBLAS", "OMP", "MKL", "NUMBA"):
            os.environ[name + "_NUM_THREADS"] = "2"
        sys.path.insert(0, sys.argv[1])
        from helpers.context_models import random_codes
        from tokenstore.codecs.context import fit_context
        codes = random_codes((600,), (20, 8, 8))
        print(fit_context(codes, (600,), total_codes=10**7).model.to_bytes().hex())
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(TESTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    model = fit_context(codes, (600,), total_codes=10**7).model
    assert model is not None
    assert done.stdout.strip() == model.to_bytes().hex()


def test_large_sets_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "MAX_FIT_CODES", 1000)
    codes = np.arange(100 * 64).reshape(100, 8, 8)
    chosen = fitting.sampled(codes, 0)
    assert len(chosen) == 1000 // 64
    assert (np.diff(chosen[:, 0, 0]) > 0).all()
    assert np.isin(chosen, codes).all()
    np.testing.assert_array_equal(fitting.sampled(codes, 0), chosen)
    assert not np.array_equal(fitting.sampled(codes, 1), chosen)
    np.testing.assert_array_equal(fitting.sampled(codes[:15], 0), codes[:15])


@pytest.mark.parametrize("grid", [(9,), (1,), (2, 2), (5, 7), (1, 1), (3, 4, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("planes", [1, 2, 6])
def test_contexts_are_earlier_distinct_and_within_the_grid(grid: tuple[int, ...], planes: int) -> None:
    whole = (planes, *grid) if planes > 1 else grid
    for plane in range(planes):
        offsets = context_offsets(whole, plane, planes)
        assert offsets.shape[1] == len(whole)
        assert 1 <= len(offsets) <= 16
        assert len({tuple(offset) for offset in offsets.tolist()}) == len(offsets)
        for offset in offsets.tolist():
            assert next(step for step in offset if step) < 0
            assert planes == 1 or 0 <= plane + offset[0] <= plane


# --- real codes


def seit_codes(split: str) -> Codes:
    if not SEIT.is_dir():
        pytest.skip("the real data is not beside the repository")
    source = cast(CodeSource, open_source(SEIT))
    return source.splits[split].codes(0, len(source.splits[split]))


def bits_a_code(codec: Context, codes: Codes) -> float:
    payload = chunk_of(codec, codes)
    np.testing.assert_array_equal(decoded_like(codec, payload, codes), codes)
    return 8 * len(payload) / codes.size


@pytest.mark.thorough
def test_real_codes_take_fewer_than_six_and_a_third_bits() -> None:
    train, val = seit_codes("train")[:300], seit_codes("val")
    assert bits_a_code(fit_context(train, (391,)), val) < 6.3


@pytest.mark.slow
def test_real_codes_take_seven_tenths_of_gzip() -> None:
    train, val = seit_codes("train"), seit_codes("val")
    bits = bits_a_code(fit_context(train, (391,)), val)
    assert bits <= 5.40
    stored = gzip.decompress((SEIT / "imagenet1k-val-token.data.bin.gz").read_bytes())
    assert bits * val.size / 8 <= 0.70 * len(gzip.compress(stored, 9))
