"""Bit packing: literal bytes, the plain version it must equal, every width, hostile bytes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.codecs import bitpack, bitpack_kernels
from tokenstore.errors import CodecError

WIDTHS = range(1, 32)
DECODED_DTYPES = (np.uint8, np.uint16, np.uint32, np.int32, np.int64)
# Some hold whole groups of eight codes, some end inside one, some are shorter than one register.
LENGTHS = (1, 3, 7, 8, 9, 16, 31, 64, 197)


def plain_pack(codes: npt.NDArray[Any], width: int) -> npt.NDArray[np.uint8]:
    bits = (codes[:, :, None].astype(np.uint64) >> np.arange(width, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(bits.astype(np.uint8).reshape(len(codes), -1), axis=1, bitorder="little")


def plain_unpack(packed: npt.NDArray[np.uint8], length: int, width: int) -> npt.NDArray[np.uint64]:
    bits = np.unpackbits(packed, axis=1, count=length * width, bitorder="little")
    weights = np.uint64(1) << np.arange(width, dtype=np.uint64)
    return (bits.reshape(len(packed), length, width) * weights).sum(axis=2, dtype=np.uint64)


def random_codes(samples: int, length: int, codebook_size: int, seed: int = 0) -> npt.NDArray[Any]:
    codes = np.random.default_rng(seed).integers(0, codebook_size, (samples, length))
    codes[:, -1] = codebook_size - 1
    return codes.astype(bitpack.code_dtype(codebook_size))


def addresses_of(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    return (packed.ctypes.data + np.arange(len(packed)) * packed.strides[0]).astype(np.uint64)


def decode(packed: npt.NDArray[np.uint8], length: int, codebook_size: int) -> npt.NDArray[Any]:
    out = np.empty((len(packed), length), bitpack.code_dtype(codebook_size))
    bitpack.unpack(packed, length, codebook_size, out)
    return out


def test_the_bytes_are_those_of_the_worked_example() -> None:
    """Pack codes 1, 2, 3, 4 of three bits: 1 + 2 * 8 + 3 * 64 + 4 * 512 = 0x8D1, little-endian."""
    codes = np.array([[1, 2, 3, 4]], np.uint8)
    assert bitpack.pack(codes, 5).tobytes() == bytes([0xD1, 0x08])
    assert decode(np.array([[0xD1, 0x08]], np.uint8), 4, 5).tolist() == [[1, 2, 3, 4]]


def test_nine_bit_codes_lie_across_their_bytes() -> None:
    """Code 0 is 390 = 0b1_1000_0110: its ninth bit is bit 0 of byte 1, then code 1 = 1 begins at bit 1."""
    codes = np.array([[390, 1]], np.uint16)
    assert bitpack.pack(codes, 391).tobytes() == bytes([0b10000110, 0b00000011, 0])


@pytest.mark.parametrize(
    ("codebook_size", "width"),
    [(1, 1), (2, 1), (3, 2), (4, 2), (255, 8), (256, 8), (257, 9), (65536, 16), (65537, 17), (2**31, 31)],
)
def test_the_width_is_the_least_that_tells_the_codes_apart(codebook_size: int, width: int) -> None:
    assert bitpack.bit_width(codebook_size) == width


@pytest.mark.parametrize(
    ("codebook_size", "dtype"),
    [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)],
)
def test_the_dtype_always_has_a_value_left_that_is_no_code(codebook_size: int, dtype: type) -> None:
    assert bitpack.code_dtype(codebook_size) == dtype


@pytest.mark.parametrize("codebook_size", [-1, 0, 2**31 + 1])
def test_a_codebook_size_out_of_range_is_refused(codebook_size: int) -> None:
    with pytest.raises(CodecError, match=f"codebook size in 1..2147483648, found {codebook_size}"):
        bitpack.bit_width(codebook_size)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_equals_the_plain_version(width: int) -> None:
    for codebook_size in {2 ** (width - 1) + 1, 2**width} - {2**32}:
        for length in LENGTHS:
            codes = random_codes(3, length, codebook_size)
            packed = bitpack.pack(codes, codebook_size)
            assert packed.shape == (3, bitpack.sample_nbytes(length, codebook_size))
            np.testing.assert_array_equal(packed, plain_pack(codes, width))
            np.testing.assert_array_equal(plain_unpack(packed, length, width), codes)
            np.testing.assert_array_equal(decode(packed, length, codebook_size), codes)


@given(
    codebook_size=st.one_of(
        st.sampled_from([1, 2, 255, 256, 391, 1000, 65535, 65536, 2**31]), st.integers(1, 2**31)
    ),
    samples=st.integers(0, 5),
    length=st.integers(1, 80),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_any_codes_come_back(codebook_size: int, samples: int, length: int, seed: int) -> None:
    codes = random_codes(samples, length, codebook_size, seed)
    np.testing.assert_array_equal(decode(bitpack.pack(codes, codebook_size), length, codebook_size), codes)


@given(data=st.data(), width=st.sampled_from([1, 6, 9, 10, 17, 31]), length=st.integers(1, 40))
@settings(deadline=None)
def test_any_bytes_decode_as_the_plain_version_or_are_refused(data: Any, width: int, length: int) -> None:
    codebook_size = data.draw(st.integers(2 ** (width - 1) + (width > 1), 2**width))
    nbytes = bitpack.sample_nbytes(length, codebook_size)
    packed = np.frombuffer(data.draw(st.binary(min_size=2 * nbytes, max_size=2 * nbytes)), np.uint8)
    packed = packed.reshape(2, nbytes)
    codes = plain_unpack(packed, length, width)
    if codes.max() < codebook_size and np.array_equal(plain_pack(codes, width), packed):
        np.testing.assert_array_equal(decode(packed, length, codebook_size), codes)
    else:
        with pytest.raises(CodecError):
            decode(packed, length, codebook_size)


@pytest.mark.parametrize("dtype", DECODED_DTYPES)
@pytest.mark.parametrize("codebook_size", [200, 391, 70000])
def test_codes_decode_into_every_dtype_that_holds_them(dtype: type, codebook_size: int) -> None:
    codes = random_codes(4, 45, codebook_size)
    out = np.empty(codes.shape, dtype)
    packed = bitpack.pack(codes, codebook_size)
    if np.iinfo(dtype).max < codebook_size - 1:
        with pytest.raises(CodecError, match=f"holds codes up to {codebook_size - 1}, found {out.dtype}"):
            bitpack.unpack(packed, 45, codebook_size, out)
    else:
        bitpack.unpack(packed, 45, codebook_size, out)
        np.testing.assert_array_equal(out, codes)


def test_samples_at_addresses_come_in_the_order_asked_for() -> None:
    codes = random_codes(20, 30, 1000)
    packed = bitpack.pack(codes, 1000)
    chosen = np.array([7, 0, 19, 7])
    out = np.empty((4, 30), np.int64)
    bitpack.unpack_at(addresses_of(packed)[chosen], 30, 1000, out)
    np.testing.assert_array_equal(out, codes[chosen])


def test_nothing_but_the_given_rows_is_written() -> None:
    codes = random_codes(2, 13, 391)
    around = np.full((4, 13), 7, np.uint16)
    bitpack.unpack(bitpack.pack(codes, 391), 13, 391, around[1:3])
    np.testing.assert_array_equal(around[1:3], codes)
    assert (around[[0, 3]] == 7).all()


@pytest.mark.parametrize("position", [0, 5, 9])
def test_packing_names_the_first_code_out_of_range(position: int) -> None:
    codes = np.zeros((4, 10), np.uint16)
    codes[2, position:] = 391
    codes[3] = 400
    with pytest.raises(CodecError, match=rf"sample 2, position {position}: .* codebook size 391, found 391"):
        bitpack.pack(codes, 391)


@pytest.mark.parametrize("position", [0, 7, 8, 23, 24, 28])
def test_decoding_names_the_first_code_out_of_range(position: int) -> None:
    codes = np.zeros((3, 29), np.uint16)
    codes[1, position] = 391
    with pytest.raises(CodecError, match=rf"sample 1, position {position}: .* codebook size 391, found 391"):
        decode(bitpack.pack(codes, 512), 29, 391)


def test_a_single_code_takes_a_bit_that_must_be_zero() -> None:
    assert bitpack.pack(np.zeros((1, 9), np.uint8), 1).tobytes() == bytes(2)
    with pytest.raises(CodecError, match=r"sample 0, position 8: .* codebook size 1, found 1"):
        decode(np.array([[0, 1]], np.uint8), 9, 1)


def test_padding_that_is_not_zero_is_refused() -> None:
    with pytest.raises(CodecError, match="sample 1: expected zero bits as padding"):
        decode(np.array([[0xD1, 0x08], [0xD1, 0x18]], np.uint8), 4, 5)


@pytest.mark.parametrize("nbytes", [1, 3, 5, 8])
def test_a_payload_of_an_impossible_length_is_refused(nbytes: int) -> None:
    with pytest.raises(CodecError, match=f"up to 3 samples of 2 bytes, found {nbytes} bytes"):
        bitpack.sample_count(nbytes, 4, 5, at_most=3)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_payload_may_hold_fewer_samples_than_its_chunk(count: int) -> None:
    assert bitpack.sample_count(2 * count, 4, 5, at_most=3) == count


@pytest.mark.parametrize(
    "codes", [np.zeros(4, np.uint8), np.zeros((1, 4), np.int64), np.zeros((1, 4), ">u2")], ids=str
)
def test_codes_of_another_shape_or_dtype_are_not_packed(codes: npt.NDArray[Any]) -> None:
    with pytest.raises(CodecError, match=r"expected codes \(n, L\)"):
        bitpack.pack(codes, 5)


def test_samples_without_codes_are_refused() -> None:
    with pytest.raises(CodecError, match="at least one code a sample, found 0"):
        bitpack.pack(np.zeros((2, 0), np.uint8), 5)


@pytest.mark.parametrize(
    "out",
    [
        np.empty((2, 5), np.uint8),
        np.empty((1, 4), np.uint8),
        np.empty((2, 8), np.uint8)[:, ::2],
        np.empty((4, 2), np.uint8).T,
        np.empty((2, 4), np.float32),
        np.empty((2, 4), ">u2"),
        np.broadcast_to(np.uint8(0), (2, 4)),
    ],
    ids=lambda out: f"{out.shape}-{out.dtype.str}-{out.strides}",
)
def test_an_unsuitable_buffer_is_refused(out: npt.NDArray[Any]) -> None:
    packed = bitpack.pack(np.zeros((2, 4), np.uint8), 5)
    with pytest.raises(CodecError, match="expected"):
        bitpack.unpack_at(addresses_of(packed), 4, 5, out)


@pytest.mark.parametrize(
    "packed",
    [np.zeros((2, 3), np.uint8), np.zeros((2, 2), np.int8), np.zeros((2, 4), np.uint8)[:, ::2]],
    ids=str,
)
def test_unsuitable_bytes_are_refused(packed: npt.NDArray[Any]) -> None:
    with pytest.raises(CodecError, match="2 contiguous samples of 2 bytes"):
        bitpack.unpack(packed, 4, 5, np.empty((2, 4), np.uint8))


def test_addresses_are_contiguous_uint64() -> None:
    out = np.empty((2, 4), np.uint8)
    for addresses in (np.zeros(2, np.int64), np.zeros((2, 1), np.uint64), np.zeros(4, np.uint64)[::2]):
        with pytest.raises(CodecError, match=r"addresses \(m,\) of uint64"):
            bitpack.unpack_at(addresses, 4, 5, out)


def test_decoding_does_not_hold_the_gil() -> None:
    assert bitpack._decoder(9).targetoptions["nogil"]


def test_decoding_works_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def without_cache(cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", without_cache)
    decode = bitpack_kernels.decoder.__wrapped__(3)
    packed, out = np.array([[0xD1, 0x08]], np.uint8), np.empty(4, np.uint8)
    assert decode(addresses_of(packed).view(np.int64), 4, 5, out) == -1
    assert out.tolist() == [1, 2, 3, 4]
    assert decode.targetoptions["nogil"]


@pytest.mark.skipif(sys.platform != "linux", reason="maps a page that may not be read, by Linux's mmap")
def test_decoding_reads_no_byte_past_the_last_sample() -> None:
    """Put the sample's end at its page's end: reading the next, forbidden page kills the process."""
    script = f"""
        import ctypes, mmap
        import numpy as np
        from tokenstore.codecs import bitpack, bitpack_kernels

        page = mmap.PAGESIZE
        memory = mmap.mmap(-1, 2 * page)
        whole = np.frombuffer(memory, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        guard = ctypes.c_void_p(whole.ctypes.data + page)
        assert libc.mprotect(guard, ctypes.c_size_t(page), 0) == 0
        for width in {list(WIDTHS)}:
            for length in {[*LENGTHS, 256]}:
                codebook_size = 2**width
                codes = np.arange(length).astype(bitpack.code_dtype(codebook_size))[None] % codebook_size
                packed = bitpack.pack(codes.astype(bitpack.code_dtype(codebook_size)), codebook_size)
                sample = whole[page - packed.size : page]
                sample[:] = packed[0]
                out = np.empty_like(codes, bitpack.code_dtype(codebook_size))
                bitpack.unpack_at(np.array([sample.ctypes.data], np.uint64), length, codebook_size, out)
                assert (out == codes).all()
        print("all read", flush=True)
        whole[page]
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout == "all read\n", done.stderr
    assert done.returncode < 0, "the guard page could be read, so the test shows nothing"
