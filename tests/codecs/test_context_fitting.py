"""Fitting the context codec: what it is worth, that it follows from codes and seed alone."""

from __future__ import annotations

import gzip
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from helpers.context_models import entropy_nbytes, smooth_codes
from helpers.paths import SHARED, TESTS
from helpers.waiting import HANG

from tokenstore.codecs import bitpack
from tokenstore.codecs.context import Context, descent, fit_context, fitting
from tokenstore.codecs.context.contexts import context_offsets
from tokenstore.errors import CodecError
from tokenstore.sources import CodeSource, open_source

Codes = npt.NDArray[Any]
SEIT = SHARED / "data" / "seit-sample"


def payload_of(codec: Context, codes: Codes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(codec.encode(codes, len(codes), 0), np.uint8)


def decoded(codec: Context, payload: npt.NDArray[np.uint8], like: Codes) -> Codes:
    out = np.empty_like(like)
    codec.decode(payload, out)
    return out


def random_codes(sizes: tuple[int, ...], shape: tuple[int, ...], seed: int = 0) -> Codes:
    """Draw codes (n, *grid), or (n, codebooks, *grid) for several sizes."""
    random = np.random.default_rng(seed)
    dtype = bitpack.code_dtype(max(sizes))
    if len(sizes) == 1:
        return random.integers(0, sizes[0], shape).astype(dtype)
    planes = [random.integers(0, size, (shape[0], *shape[2:])) for size in sizes]
    return np.stack(planes, axis=1).astype(dtype)


def fitted(codes: Codes, size: int, **keywords: Any) -> Context:
    """Fit a codec for many codes like these few, for which a model pays."""
    return fit_context(codes, (size,), total_codes=10**6, **keywords)


def model_bytes(codec: Context) -> bytes:
    assert codec.model is not None
    return codec.model.to_bytes()


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
    payload = payload_of(codec, codes)
    packing = len(codes) * bitpack.sample_nbytes(codes[0].size, max(sizes))
    assert len(payload) + codec.table_nbytes <= 1.01 * packing + 64
    np.testing.assert_array_equal(decoded(codec, payload, codes), codes)


def test_codes_unlike_those_it_was_fitted_to_take_hardly_more_than_packing() -> None:
    """Pack the chunk that a model would make longer, at one byte more."""
    codec = fit_context(smooth_codes(80, (16, 16), 16), (16,))
    assert codec.model is not None
    other = random_codes((16,), (20, 16, 16))
    payload = payload_of(codec, other)
    assert len(payload) == 1 + 20 * bitpack.sample_nbytes(256, 16)
    np.testing.assert_array_equal(decoded(codec, payload, other), other)


# --- what it is worth


@pytest.mark.parametrize(
    ("size", "grid", "share"),
    [(16, (16, 16), 0.6), (40, (8, 8), 0.85), (16, (4, 8, 8), 0.75), (16, (64,), 0.8)],
)
def test_smooth_codes_take_clearly_fewer_bytes_than_their_entropy(
    size: int, grid: tuple[int, ...], share: float
) -> None:
    codec = fit_context(smooth_codes(150, grid, size), (size,))
    other = smooth_codes(50, grid, size, seed=1)
    payload = payload_of(codec, other)
    assert len(payload) < share * entropy_nbytes(other)
    np.testing.assert_array_equal(decoded(codec, payload, other), other)


def test_a_codebook_is_predicted_from_the_one_before() -> None:
    """Derive the second codebook's codes from the first's: they take at most three fifths of their bits."""
    first = random_codes((16,), (100, 1, 6, 6))
    codes = np.concatenate([first, 15 - first], axis=1)
    codec = fit_context(codes, (16, 16), total_codes=10**6)
    payload = payload_of(codec, codes)
    assert len(payload) < 0.8 * codes.size * 4 / 8
    np.testing.assert_array_equal(decoded(codec, payload, codes), codes)


def test_more_codes_to_come_buy_a_more_precise_model() -> None:
    codes = smooth_codes(40, (8, 8), 16)
    small, large = (fit_context(codes, (16,), total_codes=total) for total in (10**5, 10**9))
    assert 0 < small.table_nbytes < large.table_nbytes
    assert len(payload_of(large, codes)) < len(payload_of(small, codes))


def test_more_copies_of_the_model_make_it_smaller() -> None:
    codes = smooth_codes(40, (8, 8), 16)
    once, often = (fit_context(codes, (16,), total_codes=10**7, copies=copies) for copies in (1, 100))
    assert once.table_nbytes > often.table_nbytes > 0


@pytest.mark.parametrize(
    ("sizes", "codes"),
    [
        ((65537,), np.zeros((300, 16, 16), np.uint32)),
        ((3, 65537), np.zeros((300, 2, 16, 16), np.uint32)),
        ((257,), np.zeros((1, 16, 16), np.uint16)),
        ((391,), np.zeros((0, 16, 16), np.uint16)),
    ],
    ids=["too-large", "one-too-large", "fewer-codes-than-K", "none"],
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


def test_another_process_with_other_thread_settings_gives_the_same_bytes() -> None:
    codes = smooth_codes(20, (8, 8), 40)
    script = """
        import os, sys
        for name in ("OPENBLAS", "OMP", "MKL", "NUMBA"):
            os.environ[name + "_NUM_THREADS"] = "2"
        sys.path.insert(0, sys.argv[1])
        from helpers.context_models import smooth_codes
        from tokenstore.codecs.context import fit_context
        codes = smooth_codes(20, (8, 8), 40)
        print(fit_context(codes, (40,), total_codes=10**6).model.to_bytes().hex())
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(TESTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == model_bytes(fitted(codes, 40)).hex()


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
def test_the_memory_layout_of_the_codes_decides_nothing(layout: str) -> None:
    codes = smooth_codes(20, (8, 8), 16)
    other = layouts(codes)[layout]
    np.testing.assert_array_equal(other, codes)
    codec = fitted(codes, 16)
    assert model_bytes(fitted(other, 16)) == model_bytes(codec)
    assert codec.encode(other, 20, 255) == codec.encode(codes, 20, 255)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_the_unsigned_dtype_of_the_codes_decides_nothing(dtype: type) -> None:
    codes = smooth_codes(20, (8, 8), 16)
    assert model_bytes(fitted(codes.astype(dtype), 16)) == model_bytes(fitted(codes, 16))


@pytest.mark.parametrize("size", [16, 40])
def test_progress_rises_to_the_total(size: int) -> None:
    told: list[tuple[int, int]] = []
    fit_context(smooth_codes(20, (8, 8), size), (size,), on_progress=lambda *step: told.append(step))
    totals = {total for _, total in told}
    assert len(totals) == 1
    assert [done for done, _ in told] == list(range(1, totals.pop() + 1))


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
    payload = payload_of(codec, codes)
    np.testing.assert_array_equal(decoded(codec, payload, codes), codes)
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


@pytest.mark.parametrize("shape", [(50, 4), (50,)])
def test_samples_of_a_single_position_are_fitted_or_packed(shape: tuple[int, ...]) -> None:
    codes = np.random.default_rng(0).integers(0, 5, shape).astype(np.uint8)
    codec = fit_context(codes, (5,) * (shape[1] if len(shape) > 1 else 1))
    np.testing.assert_array_equal(decoded(codec, payload_of(codec, codes), codes), codes)


@pytest.mark.parametrize("value", [5, 255])
def test_codes_out_of_range_are_refused(value: int) -> None:
    codes = np.zeros((50, 4, 4), np.uint8)
    codes[7, 1, 1] = value
    with pytest.raises(CodecError, match=r"codebook 0: expected codes from 0 to 4 .*found"):
        fit_context(codes, (5,))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_signed_codes_are_fitted_as_unsigned_ones(dtype: type) -> None:
    codes = smooth_codes(20, (8, 8), 16)
    assert model_bytes(fitted(codes.astype(dtype), 16)) == model_bytes(fitted(codes, 16))
