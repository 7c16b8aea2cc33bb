"""Fits of the context codec in few steps: codes and seed alone decide the model, and no codes grow by it.

How far a descent goes matters to none of these tests; `test_context_fitting.py` has those of whole fits.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.context_models import chunk_of, decoded_like, random_codes, smooth_codes

from tokenstore.codecs import bitpack
from tokenstore.codecs.context import Context, descent, fit_context
from tokenstore.errors import CodecError

Codes = npt.NDArray[Any]

pytestmark = pytest.mark.usefixtures("quick_fits")


def fitted(codes: Codes, size: int, **keywords: Any) -> Context:
    """Fit a codec for many codes like these few, for which a model pays."""
    return fit_context(codes, (size,), total_codes=10**6, **keywords)


def model_bytes(codec: Context) -> bytes:
    assert codec.model is not None
    return codec.model.to_bytes()


@pytest.fixture(scope="module")
def plain_fit(quick_fits: None) -> Context:
    """Fit to codes of the least dtype, in C order."""
    return fitted(smooth_codes(20, (8, 8), 16), 16)


# --- never much more than packing


@pytest.mark.parametrize(
    ("sizes", "codes"),
    [
        ((391,), random_codes((391,), (40, 8, 8))),
        ((16,), np.full((60, 8, 8), 7, np.uint8)),
        ((16,), random_codes((16,), (1, 16, 16))),
        ((16,), random_codes((16,), (1, 1, 1))),
        ((1,), np.zeros((60, 8, 8), np.uint8)),
        ((2,), random_codes((2,), (60, 8, 8))),
        ((65536,), random_codes((65536,), (20, 8, 8))),
        ((100,), random_codes((100,), (200, 20))),
        ((50,), random_codes((50,), (20, 3, 4, 4))),
        ((20,) * 4, random_codes((20,) * 4, (40, 4, 4, 4))),
        ((20, 3, 1, 40), random_codes((20, 3, 1, 40), (40, 4, 4, 4))),
        ((16,), smooth_codes(60, (8, 8), 16)),
    ],
    ids=[
        "random", "constant", "one-sample", "one-code", "K-1", "K-2", "K-65536", "1-D", "video",
        "4-codebooks", "4-different-codebooks", "smooth",
    ],
)  # fmt: skip
def test_codes_and_tables_take_hardly_more_than_packing(sizes: tuple[int, ...], codes: Codes) -> None:
    codec = fit_context(codes, sizes)
    payload = chunk_of(codec, codes)
    packing = len(codes) * bitpack.sample_nbytes(codes[0].size, max(sizes))
    assert len(payload) + codec.table_nbytes <= 1.01 * packing + 64
    np.testing.assert_array_equal(decoded_like(codec, payload, codes), codes)


def test_codes_unlike_those_it_was_fitted_to_take_hardly_more_than_packing() -> None:
    """Pack the chunk that a model would make longer, at one byte more."""
    codec = fit_context(smooth_codes(80, (16, 16), 16), (16,))
    assert codec.model is not None
    other = random_codes((16,), (20, 16, 16))
    payload = chunk_of(codec, other)
    assert len(payload) == 1 + 20 * bitpack.sample_nbytes(256, 16)
    np.testing.assert_array_equal(decoded_like(codec, payload, other), other)


@pytest.mark.parametrize(
    ("sizes", "codes"),
    [
        ((65537,), np.zeros((1, 8, 8), np.uint32)),
        ((3, 65537), np.zeros((300, 2, 16, 16), np.uint32)),
        ((257,), np.zeros((1, 16, 16), np.uint16)),
        ((391,), np.zeros((0, 16, 16), np.uint16)),
    ],
    ids=["few-and-too-large", "one-too-large", "fewer-codes-than-K", "none"],
)
def test_where_no_model_can_be_fitted_the_codec_packs(sizes: tuple[int, ...], codes: Codes) -> None:
    codec = fit_context(codes, sizes)
    assert codec.model is None
    assert codec.codebook_size == max(sizes)


def test_as_many_codes_as_the_codebook_has_are_enough() -> None:
    assert fit_context(np.zeros((1, 16, 16), np.uint16), (256,), total_codes=10**6).model is not None


# --- what decides it


def test_the_same_codes_and_seed_give_the_same_bytes() -> None:
    codes = smooth_codes(20, (8, 8), 40)
    first, again = fitted(codes, 40, seed=3), fitted(codes, 40, seed=3)
    assert model_bytes(first) == model_bytes(again)
    assert model_bytes(first) != model_bytes(fitted(codes, 40, seed=4))


def test_fitting_leaves_the_codes_as_they_are() -> None:
    codes = smooth_codes(20, (8, 8), 16)
    kept = codes.copy()
    fitted(codes, 16)
    np.testing.assert_array_equal(codes, kept)


def test_another_number_of_threads_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = smooth_codes(20, (8, 8), 40)
    expected = model_bytes(fitted(codes, 40))
    for threads in (1, 5):
        monkeypatch.setattr(descent, "ThreadPoolExecutor", lambda _, n=threads: ThreadPoolExecutor(n))
        assert model_bytes(fitted(codes, 40)) == expected


def layouts(codes: Codes) -> dict[str, Codes]:
    wide = np.zeros((*codes.shape[:-1], 2 * codes.shape[-1]), codes.dtype)
    wide[..., ::2] = codes
    return {
        "fortran": np.asfortranarray(codes),
        "slices": wide[..., ::2],
        "reversed": codes[::-1].copy()[::-1],
        "read-only": np.frombuffer(codes.tobytes(), codes.dtype).reshape(codes.shape),
    }


@pytest.mark.parametrize("layout", ["fortran", "slices", "reversed", "read-only"])
def test_the_memory_layout_of_the_codes_decides_nothing(plain_fit: Context, layout: str) -> None:
    codes = smooth_codes(20, (8, 8), 16)
    other = layouts(codes)[layout]
    np.testing.assert_array_equal(other, codes)
    assert model_bytes(fitted(other, 16)) == model_bytes(plain_fit)
    assert plain_fit.encode(other, 20, 255) == plain_fit.encode(codes, 20, 255)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.int64])
def test_the_dtype_of_the_codes_decides_nothing(plain_fit: Context, dtype: type) -> None:
    codes = smooth_codes(20, (8, 8), 16).astype(dtype)
    assert model_bytes(fitted(codes, 16)) == model_bytes(plain_fit)


@pytest.mark.parametrize("size", [16, 40])
def test_progress_rises_to_the_total(size: int) -> None:
    told: list[tuple[int, int]] = []
    fit_context(smooth_codes(20, (8, 8), size), (size,), on_progress=lambda *step: told.append(step))
    totals = {total for _, total in told}
    assert len(totals) == 1
    assert [done for done, _ in told] == list(range(1, totals.pop() + 1))


@pytest.mark.parametrize("shape", [(50, 4), (50,)])
def test_samples_of_a_single_position_are_fitted_or_packed(shape: tuple[int, ...]) -> None:
    codes = np.random.default_rng(0).integers(0, 5, shape).astype(np.uint8)
    codec = fit_context(codes, (5,) * (shape[1] if len(shape) > 1 else 1))
    np.testing.assert_array_equal(decoded_like(codec, chunk_of(codec, codes), codes), codes)


@pytest.mark.parametrize("value", [5, 255])
def test_codes_out_of_range_are_refused(value: int) -> None:
    codes = np.zeros((50, 4, 4), np.uint8)
    codes[7, 1, 1] = value
    with pytest.raises(CodecError, match=r"codebook 0: expected codes from 0 to 4 .*found"):
        fit_context(codes, (5,))
