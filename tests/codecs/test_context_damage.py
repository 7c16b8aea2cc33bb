"""The context codec and payloads that no encoder wrote, buffers that do not fit, and hostile bytes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import numpy as np
import pytest
from helpers.context_models import (
    HEAD,
    coded_payload,
    codes_of,
    decoded,
    in_range,
    mutated,
    payload_of,
    random_model,
    tiny_model,
)
from helpers.paths import TESTS
from helpers.waiting import HANG

from tokenstore.codecs.chunks import SampleSpans
from tokenstore.codecs.context import Context
from tokenstore.errors import CodecError


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "found no bytes"),
        (b"\2", "form 0 or 1, found 2"),
        (b"\1\0\0", "a head of 10 bytes, found 3"),
        (HEAD.pack(1, 0, 0, 0), "the lengths of 0 streams"),
        (HEAD.pack(1, 1, 0, 32) + bytes(8), "the lengths of 1 streams"),
        (HEAD.pack(1, 1, 2, 0) + bytes(1), "of at least 2 bytes, found 11 bytes"),
        (HEAD.pack(1, 1, 0, 0) + bytes(1), "expected streams of 0 bytes, found 1"),
        (HEAD.pack(1, 1, 0, 1) + bytes([1]), "expected streams of 1 bytes, found 0"),
        (HEAD.pack(1, 1, 0, 1) + bytes([2]), "sample 0: expected zero bits as padding"),
        (HEAD.pack(1, 2, 0, 0), "expected at most 1 samples, found 2"),
        (HEAD.pack(1, 1, 4, 0) + b"\xff" * 4, "sample 0: expected a stream of the context codec"),
        (b"\0\0\0", "expected at most 1 samples, found 2"),
        (b"\0\3", "sample 0, position 0: .* codebook size 3, found 3"),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else "",
)
def test_a_payload_that_no_encoder_wrote_is_refused(payload: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decoded(Context(3, tiny_model()), payload, 1, (2, 2))


def hostile_payloads(valid: list[bytes], count: int, random: np.random.Generator) -> Iterator[bytes]:
    for attempt in range(count):
        payload = valid[attempt % len(valid)]
        match attempt % 4:
            case 0:
                yield bytes([attempt // 4 % 3]) * (attempt % 8 > 0) + random.bytes(
                    int(random.integers(0, 200))
                )
            case 1:
                count_, shortest, width = random.choice([0, 1, 2, 3, 5, 31, 40, 255, 1000, 65535], 3)
                yield HEAD.pack(1, count_, shortest, width % 256) + payload[HEAD.size :]
            case 2:
                yield payload[: HEAD.size] + random.bytes(max(0, len(payload) - HEAD.size))
            case _:
                yield mutated(payload, random)


@pytest.mark.parametrize(
    ("sizes", "grid", "attempts", "seed"),
    [
        ((391,), (8, 8), 9000, 0),
        ((3,), (8, 8), 5000, 1),
        ((40, 1, 3), (3, 5, 5), 5000, 2),
        ((391,), (32, 32), 1000, 3),
    ],
)
def test_any_bytes_are_refused_or_decode_in_range(
    sizes: tuple[int, ...], grid: tuple[int, ...], attempts: int, seed: int
) -> None:
    """Decode hostile bytes: nothing outside the buffer is written, and no payload takes long to compute."""
    random = np.random.default_rng(seed)
    codec = Context(max(sizes), random_model(sizes, len(grid)))
    assert codec.model is not None
    codes = codes_of(codec.model, grid, 3)
    valid = [coded_payload(codec, codes), Context(codec.codebook_size, None).encode(codes, 3, 0)]
    around = np.full((5, *grid), 61680, np.uint16)
    refused = 0
    for payload in hostile_payloads(valid, attempts, random):
        data = payload_of(payload)
        for _ in range(4):  # again where it took long, for something may have been compiled meanwhile
            out = around[1:4]
            out[:] = 0
            start = time.thread_time()
            try:
                codec.decode(data, out)
            except CodecError:
                wrong = True
            else:
                wrong = False
            taken = time.thread_time() - start
            if taken < 0.01:
                break
        assert taken < 0.01, f"{payload.hex()} took {taken:.3f} s"
        refused += wrong
        assert (around[[0, 4]] == 61680).all()
        assert wrong or in_range(codec.model, out) or payload[0] == 0
        assert wrong or out.max() < codec.codebook_size
    assert 0 < refused < attempts


@pytest.mark.skipif(sys.platform != "linux", reason="maps a page that may not be read, by Linux's mmap")
def test_decoding_reads_no_byte_past_the_last_stream() -> None:
    """Put the stream's end at its page's end: reading the next, forbidden page kills the process."""
    script = """
        import ctypes, mmap, sys
        import numpy as np
        sys.path.insert(0, sys.argv[1])
        from helpers.context_models import codes_of, random_model
        from tokenstore.codecs.context.streams import Streams

        page = mmap.PAGESIZE
        memory = mmap.mmap(-1, 2 * page)
        whole = np.frombuffer(memory, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        guard = ctypes.c_void_p(whole.ctypes.data + page)
        assert libc.mprotect(guard, ctypes.c_size_t(page), 0) == 0
        end = whole.ctypes.data + page
        random = np.random.default_rng(0)
        for sizes, grid in (((391,), (8, 8)), ((3,), (4, 4)), ((40, 1, 3), (3, 4, 4)), ((2,), (1,))):
            model = random_model(sizes, len(grid))
            streams = Streams(model, grid)
            codes = codes_of(model, grid, 9).reshape(9, -1)
            out = np.empty(codes.shape, np.uint16)
            for sample in codes:
                stream, _ = streams.encode(sample[None])
                whole[page - len(stream) : page] = np.frombuffer(stream, np.uint8)
                one = np.empty((1, len(sample)), np.uint16)
                assert streams.decode(np.array([end - len(stream)]), np.array([len(stream)]), one) == -1
                assert (one == sample).all()
            for length in range(40):  # also streams that end long before their codes do
                whole[page - length : page] = np.frombuffer(random.bytes(length), np.uint8)
                lengths = np.minimum(np.arange(9), length)
                streams.decode(end - lengths, lengths, out)
        print("all read", flush=True)
        whole[page]
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(TESTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    assert done.stdout == "all read\n", done.stderr
    assert done.returncode < 0, "the guard page could be read, so the test shows nothing"


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process, by Linux's setrlimit")
def test_a_head_that_promises_billions_of_samples_takes_no_memory() -> None:
    script = """
        import resource, struct, sys
        import numpy as np
        sys.path.insert(0, sys.argv[1])
        from helpers.context_models import tiny_model
        from tokenstore.codecs.context import Context
        from tokenstore.errors import CodecError

        codec, out = Context(3, tiny_model()), np.empty((1, 2, 2), np.uint8)
        resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
        try:
            codec.decode(np.frombuffer(struct.pack("<BIIB", 1, 2**32 - 1, 0, 0), np.uint8), out)
        except CodecError:
            print("refused")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(TESTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    assert done.stdout == "refused\n", done.stderr[-300:]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32])
def test_a_buffer_that_does_not_hold_the_codes_is_refused(dtype: type) -> None:
    codec = Context(391, random_model())
    payload = coded_payload(codec, np.full((2, 2, 2), 390, np.uint16))
    with pytest.raises(CodecError, match="expected"):
        codec.decode(payload_of(payload), np.empty((2, 2, 2), dtype))


@pytest.mark.parametrize("form", ["packed", "coded"])
def test_a_buffer_that_is_not_contiguous_is_refused_or_filled(form: str) -> None:
    codec = Context(3, tiny_model())
    codes = np.full((2, 2, 2), 2, np.uint8)
    payload = coded_payload(codec, codes) if form == "coded" else Context(3, None).encode(codes, 2, 255)
    out = np.zeros((2, 2, 2), np.uint8).T
    try:
        codec.decode(payload_of(payload), out)
    except CodecError:
        return
    np.testing.assert_array_equal(out, codes)


@pytest.mark.parametrize("which", ["read-only", "big-endian"])
def test_a_buffer_that_cannot_be_written_is_refused(which: str) -> None:
    codec = Context(3, tiny_model())
    out = np.zeros((2, 2, 2), ">u2" if which == "big-endian" else np.uint8)
    out.flags.writeable = which != "read-only"
    with pytest.raises(CodecError, match="expected"):
        codec.decode(payload_of(coded_payload(codec, np.zeros((2, 2, 2), np.uint8))), out)


def test_damage_is_named_by_its_place_among_all_samples() -> None:
    codec = Context(3, tiny_model())
    codes = np.zeros((3, 2, 2), np.uint8)
    damaged = HEAD.pack(1, 1, 4, 0) + b"\xff" * 4
    chunks: list[SampleSpans] = [
        codec.spans(payload_of(data), (2, 2)) for data in (Context(3, None).encode(codes, 3, 255), damaged)
    ]
    with pytest.raises(CodecError, match="sample 3: expected a stream"):
        codec.decode_spans(
            chunks, np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0]), np.empty((4, 2, 2), np.uint8)
        )


@pytest.mark.parametrize("form", ["packed", "coded"])
def test_fewer_samples_than_the_buffer_has_room_for_are_refused(form: str) -> None:
    codec, codes = Context(3, tiny_model()), np.zeros((2, 2, 2), np.uint8)
    payload = coded_payload(codec, codes) if form == "coded" else Context(3, None).encode(codes, 2, 255)
    with pytest.raises(CodecError, match="expected 3 samples, found 2"):
        decoded(codec, payload, 3, (2, 2))


def test_mixed_chunks_are_refused_where_there_is_no_model() -> None:
    codes = np.zeros((2, 2, 2), np.uint8)
    payloads = Context(3, None).encode(codes, 2, 255), coded_payload(Context(3, tiny_model()), codes)
    codec = Context(3, None)
    chunks = [codec.spans(payload_of(payload), (2, 2)) for payload in payloads]
    with pytest.raises(CodecError, match="coded by a context model, and the codec has none"):
        codec.decode_spans(chunks, np.array([0, 1]), np.array([0, 0]), np.empty((2, 2, 2), np.uint8))
