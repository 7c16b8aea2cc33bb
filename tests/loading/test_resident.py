"""Tokens decoded on a device: the same codes as on the processor, the same refusals, for every kernel.

Triton's kernel runs in its interpreter, which has to be asked for before Triton is imported: so in a process
of its own, which is this file run as a script.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.stores import random_codes, replace_files, write_store
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokenstore.codecs import bitpack
from tokenstore.codecs.bitpack import Bitpack
from tokenstore.codecs.context.model import CodeTree, ContextModel, Plane, lanes_for
from tokenstore.codecs.context.streams import Streams
from tokenstore.errors import CodecError, DamageError, StoreError
from tokenstore.format.layout import ArrayLayout
from tokenstore.loading.resident import ContextDecoder, ResidentTokens, unpack
from tokenstore.reading import SplitReader, open_store

Codes = npt.NDArray[Any]
CPU = torch.device("cpu")
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@dataclass(frozen=True)
class Case:
    """A random model of codebooks of these sizes, over a grid. Extreme ones overflow wherever they can."""

    sizes: tuple[int, ...]
    grid: tuple[int, ...]
    contexts: int = 4
    logit_shift: int = 8
    extreme: bool = False

    def __str__(self) -> str:
        shape = "x".join(map(str, self.grid))
        shift = f", extreme at shift {self.logit_shift}" if self.extreme else ""
        return f"{'+'.join(map(str, self.sizes))} codes, {shape}{shift}"


CASES = [
    Case((1,), (5,)),
    Case((2,), (3, 4)),
    Case((5,), (2, 2, 3)),
    Case((32,), (9,)),
    Case((33,), (3, 4)),
    Case((391,), (4, 5)),
    Case((391,), (4, 5), logit_shift=0, extreme=True),
    Case((391,), (4, 5), logit_shift=24, extreme=True),
    Case((5000,), (2, 3, 2)),
    Case((65536,), (2, 3), contexts=1),
    Case((32, 7), (2, 5)),
    Case((5, 391, 1, 33), (4, 2, 3)),
    Case((5, 391, 1, 33), (4, 2, 3), logit_shift=16, extreme=True),
]
# For Triton's interpreter, which takes some 20 ms a position.
SMALL_CASES = [
    Case((1,), (5,)),
    Case((2,), (6,), contexts=2),
    Case((5,), (2, 2, 2), contexts=3),
    Case((32,), (2, 2), contexts=2),
    Case((391,), (2, 3), contexts=2),
    Case((391,), (2, 3), contexts=2, logit_shift=0, extreme=True),
    Case((5000,), (1, 1, 2), contexts=2),
    Case((5, 391, 1, 33), (4, 1, 2), contexts=1),
]


@functools.cache
def model_of(case: Case) -> ContextModel:
    rng = np.random.default_rng(len(case.grid))
    lanes, rank, planes = lanes_for(list(case.sizes)), len(case.grid), len(case.sizes)

    def int8(*shape: int) -> npt.NDArray[np.int8]:
        return np.clip(rng.normal(0, 127 if case.extreme else 40, shape), -127, 127).astype(np.int8)

    def earlier(plane: int) -> npt.NDArray[np.int8]:
        offsets = rng.integers(-2, 3, (case.contexts + plane, rank))
        if planes > 1:
            offsets[:, 0] = -rng.integers(0, plane + 1, len(offsets))
        axis = (offsets != 0).argmax(axis=1)
        first = np.take_along_axis(offsets, axis[:, None], 1)[:, 0]
        offsets[np.arange(len(offsets)), axis] = -np.abs(first)
        offsets[first == 0, -1] = -1
        return offsets.astype(np.int8)

    offsets = [earlier(plane) for plane in range(planes)]
    looked_at = [plane + int(o[0]) if planes > 1 else 0 for plane in range(planes) for o in offsets[plane]]
    made = []
    for plane, size in enumerate(case.sizes):
        tree, readers = CodeTree.of(size), looked_at.count(plane) + 2
        bias = 2**15 - 1 if case.extreme else 300
        furthest = rng.choice([-bias, bias], lanes)
        made.append(
            Plane(
                size,
                order=rng.permutation(size).astype(np.uint32),
                contexts=offsets[plane],
                gains=rng.integers(1, 100, 5).astype(np.uint16),
                components=int8(5, 1 + size),
                readers=int8(5, readers, lanes),
                bias=(furthest if case.extreme else rng.integers(-bias, bias + 1, lanes)).astype(np.int16),
                weights=int8(tree.children, 32),
                biases=rng.integers(-bias, bias + 1, tree.children).astype(np.int16),
                row_shift=10,
                logit_shift=case.logit_shift,
                fade=16 if case.extreme else 3,
            )
        )
    return ContextModel(rank, tuple(made))


@functools.cache
def streams_of(case: Case) -> Streams:
    return Streams(model_of(case), case.grid)


@functools.cache
def decoder_of(case: Case, kernel: Literal["torch", "triton"], device: torch.device = CPU) -> ContextDecoder:
    return ContextDecoder(model_of(case), case.grid, device, kernel=kernel)


def codes_of(case: Case, samples: int) -> Codes:
    codes = random_codes(samples, case.grid, case.sizes)
    return codes.reshape(samples, -1).astype(np.uint32)


def encoded(case: Case, samples: int) -> list[bytes]:
    data, lengths = streams_of(case).encode(codes_of(case, samples))
    stops = np.cumsum(lengths).tolist()
    return [data[stop - length : stop] for stop, length in zip(stops, lengths.tolist(), strict=True)]


def decoded_here(case: Case, stream: bytes) -> Codes | None:
    """Decode a stream by the processor's decoder; None for a stream that it refuses."""
    data = np.frombuffer(stream + b"\0", np.uint8)
    out = np.empty((1, streams_of(case).codes_per_sample), np.uint32)
    wrong = streams_of(case).decode(np.array([data.ctypes.data]), np.array([len(stream)]), out)
    return None if wrong >= 0 else out[0]


def decoded_there(
    case: Case, streams: list[bytes], kernel: Literal["torch", "triton"], device: torch.device = CPU
) -> Codes:
    # Other bytes around and between the streams, and the streams in another order than they lie.
    pool = b"\xee" + b"\xee\xee".join(reversed(streams)) + b"\xee"
    lengths = torch.tensor([len(stream) for stream in streams], dtype=torch.int64)
    stops = (lengths.flip(0) + 2).cumsum(0).flip(0) - 1
    decoder = decoder_of(case, kernel, device)
    held = torch.frombuffer(bytearray(pool), dtype=torch.uint8).to(device)
    codes = decoder.decode(held, (stops - lengths).to(device), lengths.to(device))
    assert codes.dtype == torch.int64
    assert codes.shape == (len(streams), *case.grid)
    return codes.cpu().flatten(1).numpy()


def check_alike(
    case: Case, streams: list[bytes], kernel: Literal["torch", "triton"], device: torch.device = CPU
) -> int:
    """Asserts that a kernel decodes and refuses as the processor does; returns how many are refused."""
    expected = [decoded_here(case, stream) for stream in streams]
    refused = [at for at, codes in enumerate(expected) if codes is None]
    taken = [at for at in range(len(streams)) if at not in refused]
    if refused:
        some = [streams[at] for at in taken[:1] + refused]
        first = len(taken[:1])
        with pytest.raises(CodecError, match=f"^sample {first}: expected a stream of the context codec"):
            decoded_there(case, some, kernel, device)
    codes = decoded_there(case, [streams[at] for at in taken], kernel, device)
    for at, row in zip(taken, codes, strict=True):
        np.testing.assert_array_equal(row, expected[at], err_msg=f"stream {at}")
    return len(refused)


def any_streams(case: Case, samples: int) -> list[bytes]:
    """Valid ones, cut short, of no bytes, of any bytes, and one that no encoder writes."""
    rng = np.random.default_rng(1)
    valid = encoded(case, samples)
    longest = max(map(len, valid)) + 4
    anything = [rng.bytes(int(length)) for length in rng.integers(1, longest + 1, samples)]
    return [*valid, valid[0][: len(valid[0]) // 2], b"", *anything, b"\xff" * longest]


# --- bit packing


@pytest.mark.parametrize("width", range(1, 32))
def test_every_width_unpacks_as_on_the_processor(width: int) -> None:
    for size in {2 ** (width - 1) + 1, 2**width}:
        for length in (1, 3, 7, 8, 9, 31, 64, 197):
            codes = np.random.default_rng(width).integers(0, size, (6, length))
            codes[:, -1] = size - 1
            packed = bitpack.pack(codes.astype(bitpack.code_dtype(size)), size)
            pool = torch.from_numpy(np.concatenate([np.full(3, 255, np.uint8), packed.ravel()]))
            chosen = torch.tensor([5, 0, 5, 2])
            unpacked = unpack(pool, 3 + chosen * packed.shape[1], length, size)
            assert unpacked.dtype == torch.int64
            np.testing.assert_array_equal(unpacked, codes[chosen])


@given(data=st.data(), width=st.sampled_from([1, 6, 9, 10, 17, 25, 26, 31]), length=st.integers(1, 40))
@settings(deadline=None)
def test_any_bytes_unpack_or_are_refused_as_on_the_processor(data: Any, width: int, length: int) -> None:
    size = data.draw(st.integers(2 ** (width - 1) + (width > 1), 2**width))
    nbytes = bitpack.sample_nbytes(length, size)
    packed = np.frombuffer(data.draw(st.binary(min_size=2 * nbytes, max_size=2 * nbytes)), np.uint8).copy()
    here = np.empty((2, length), np.int64)

    def outcome(unpacking: Callable[[], Any]) -> list[list[int]] | str:
        try:
            found = unpacking()
        except CodecError as error:
            return str(error)
        return (here if found is None else found).tolist()

    expected = outcome(lambda: bitpack.unpack(packed, length, size, here))
    offsets = torch.tensor([0, nbytes])
    assert outcome(lambda: unpack(torch.from_numpy(packed), offsets, length, size)) == expected


def test_no_samples_unpack_to_none() -> None:
    none = unpack(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), 7, 391)
    assert none.shape == (0, 7)


@pytest.mark.parametrize("offset", [-1, 7, 2**62])
def test_a_packed_sample_outside_the_bytes_is_refused(offset: int) -> None:
    """Ten bytes hold a sample of four from 0 to 6."""
    pool = torch.zeros(10, dtype=torch.uint8)
    assert unpack(pool, torch.tensor([6]), 3, 391).tolist() == [[0, 0, 0]]
    with pytest.raises(CodecError, match=f"sample 1: expected an offset in 0..6, found {offset}"):
        unpack(pool, torch.tensor([0, offset]), 3, 391)
    with pytest.raises(CodecError, match="samples of 4 bytes, found 3 bytes"):
        unpack(pool[:3], torch.tensor([0]), 3, 391)


@pytest.mark.parametrize(
    ("pool", "offsets"),
    [
        (torch.zeros(8, dtype=torch.int8), torch.tensor([0])),
        (torch.zeros(2, 4, dtype=torch.uint8), torch.tensor([0])),
        (torch.zeros(16, dtype=torch.uint8)[::2], torch.tensor([0])),
        (torch.zeros(8, dtype=torch.uint8), torch.tensor([0], dtype=torch.int32)),
        (torch.zeros(8, dtype=torch.uint8), torch.tensor([[0]])),
        (torch.zeros(8, dtype=torch.uint8), torch.tensor([0], device="meta")),
    ],
    ids=["int8", "2-D", "strided", "int32 offsets", "2-D offsets", "another device"],
)
def test_unsuitable_tensors_are_refused(pool: torch.Tensor, offsets: torch.Tensor) -> None:
    with pytest.raises(CodecError, match=r"expected (contiguous bytes|offsets and lengths)"):
        unpack(pool, offsets, 3, 391)
    with pytest.raises(CodecError, match=r"expected (contiguous bytes|offsets and lengths)"):
        decoder_of(CASES[1], "torch").decode(pool, offsets, offsets)


# --- streams of the context codec


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torch_decodes_and_refuses_as_the_processor_does(case: Case) -> None:
    np.testing.assert_array_equal(decoded_there(case, encoded(case, 5), "torch"), codes_of(case, 5))
    refused = check_alike(case, any_streams(case, 5), "torch")
    assert refused or case.sizes == (1,)


@pytest.mark.parametrize("case", [CASES[5], CASES[7], CASES[11]], ids=str)
def test_torch_refuses_streams_that_turn_wrong_midway(case: Case) -> None:
    rng = np.random.default_rng(2)
    tried = [rng.bytes(30) for _ in range(4000)]
    refused = [stream for stream in tried if decoded_here(case, stream) is None][:8]
    assert refused
    for stream in refused:
        check_alike(case, [encoded(case, 1)[0], stream], "torch")


@given(streams=st.lists(st.binary(max_size=40), min_size=1, max_size=8))
@example(streams=[b""])
@example(streams=[b"\xff" * 4])
@settings(deadline=None, max_examples=50)
def test_torch_makes_of_any_bytes_what_the_processor_does(streams: list[bytes]) -> None:
    check_alike(CASES[4], streams, "torch")


def test_torch_decodes_codes_as_unlikely_as_they_come() -> None:
    """Some have the least frequency in an interval that is already small: three bytes for one decision."""
    case = Case((5000,), (4, 5), logit_shift=5)
    np.testing.assert_array_equal(decoded_there(case, encoded(case, 300), "torch"), codes_of(case, 300))


def test_more_samples_than_one_pass_takes_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenstore.loading.resident.context_torch.PASS_SAMPLES", {"cpu": 3})
    check_alike(CASES[1], any_streams(CASES[1], 5), "torch")


def test_no_streams_decode_to_no_codes() -> None:
    none = torch.empty(0, dtype=torch.int64)
    codes = decoder_of(CASES[4], "torch").decode(torch.empty(0, dtype=torch.uint8), none, none)
    assert codes.shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 2), (0, -1), (0, 9), (8, 1), (9, 0), (2**63 - 1, 2), (4, 2**63 - 1)]
)
def test_a_stream_outside_the_bytes_is_refused(offset: int, length: int) -> None:
    pool = torch.zeros(8, dtype=torch.uint8)
    with pytest.raises(CodecError, match=rf"sample 1: .* inside 8 bytes, found {length} from {offset}$"):
        decoder_of(CASES[1], "torch").decode(pool, torch.tensor([8, offset]), torch.tensor([0, length]))


def test_streams_on_another_device_are_refused() -> None:
    there = torch.zeros(8, dtype=torch.uint8, device="meta")
    with pytest.raises(CodecError, match="expected streams on cpu, found them on meta"):
        decoder_of(CASES[1], "torch").decode(there, torch.tensor([0]), torch.tensor([8]))


@pytest.mark.parametrize(
    ("case", "grid"), [(CASES[1], (3, 4, 1)), (CASES[10], (3, 5))], ids=["rank", "books"]
)
def test_a_grid_that_is_none_of_the_models_is_refused(case: Case, grid: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match="expected a grid of 2 axes"):
        ContextDecoder(model_of(case), grid, "cpu")


def test_a_processor_decodes_by_torch() -> None:
    assert ContextDecoder(model_of(CASES[1]), (3, 4), "cpu").kernel == "torch"


# --- Triton


def in_interpreter() -> None:
    """Compares Triton's kernel with the processor's decoder; prints for each case what is wrong, or null."""
    for case in SMALL_CASES:
        try:
            valid, _, _, *others = any_streams(case, 1)
            refused = check_alike(case, [valid, *others], "triton")
            wrong = None if refused or case.sizes == (1,) else "nothing was refused"
        except (AssertionError, CodecError) as error:
            wrong = str(error)
        print(json.dumps({str(case): wrong}), flush=True)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str | None]:
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    return found


@needs_triton
@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_triton_decodes_and_refuses_as_the_processor_does(
    case: Case, interpreted: dict[str, str | None]
) -> None:
    assert interpreted[str(case)] is None


@needs_triton
def test_the_kernel_compiles_and_no_code_is_loaded_before_its_store_is_seen(tmp_path: Path) -> None:
    """Find the first of two stores to global memory, a code's; then a barrier; then the next position."""
    script = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from tokenstore.loading.resident.context_triton import _decode

wide = {"offsets": "*i64", "lengths": "*i64", "planes": "i32", "plane_length": "i32"}
bytes_ = {"pool": "*u8", "rows": "*i8", "past": "*i8", "weights": "*i8"}
fixed = {"contexts": 10, "halves": 2}
constants = dict.fromkeys(fixed, "constexpr")
types = {name: (wide | bytes_ | constants).get(name, "*i32") for name in _decode.arg_names}
options = {"num_warps": 1, "enable_fp_fusion": False}
for architecture in (80, 90):
    compiled = compile(ASTSource(_decode, types, fixed), GPUTarget("cuda", architecture, 32), options)
    print(compiled.asm["ptx"], "ENDS")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *compiled, _ = done.stdout.split("ENDS")
    assert len(compiled) == 2
    for text in compiled:
        after = text.split("st.global.b32")[1]
        assert re.search(r"^\s*bar\.", re.split(r"\bbra\b", after)[0], re.MULTILINE)


# --- a GPU


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kernel", ["torch", pytest.param("triton", marks=needs_triton)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_gpu_decodes_and_refuses_as_the_processor_does(
    case: Case, kernel: Literal["torch", "triton"]
) -> None:
    check_alike(case, any_streams(case, 300), kernel, torch.device("cuda", 0))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("width", range(1, 32))
def test_a_gpu_unpacks_every_width(width: int) -> None:
    codes = np.random.default_rng(width).integers(0, 2**width, (300, 197))
    packed = bitpack.pack(codes.astype(bitpack.code_dtype(2**width)), 2**width)
    pool = torch.from_numpy(packed.ravel()).to("cuda")
    offsets = torch.arange(0, packed.size, packed.shape[1], device="cuda")
    np.testing.assert_array_equal(unpack(pool, offsets, 197, 2**width).cpu(), codes)


# --- a split


def open_split(folder: Path, case: Case, codes: Codes, **spec: Any) -> SplitReader:
    store = folder / "tokens.zarr"
    write_store(store, {"train": (codes,)}, case.sizes, chunk_samples=4, shard_samples=12, **spec)
    return open_store(store)["train"]


@pytest.mark.parametrize("codec", ["bitpack", "context"])
@pytest.mark.parametrize("case", [Case((391,), (4, 5)), Case((5, 391, 1, 33), (4, 2, 3))], ids=str)
def test_a_split_reads_the_same_from_a_device(case: Case, codec: str, tmp_path: Path) -> None:
    codes = random_codes(30, case.grid, case.sizes)
    spec = {"model": model_of(case)} if codec == "context" else {}
    reader = open_split(tmp_path, case, codes, codec=codec, **spec)
    resident = ResidentTokens(reader.arrays["tokens"], "cpu")
    assert len(resident) == 30
    wanted = [7, -1, 0, 29, 7, 13]
    for indices in (wanted, np.array(wanted), torch.tensor(wanted), slice(None)):
        indices = np.arange(30) if isinstance(indices, slice) else indices
        read = resident.read(indices)
        assert read.dtype == torch.int64
        np.testing.assert_array_equal(read, codes[np.asarray(indices)])
    assert resident.read([]).shape == (0, *case.grid)
    with pytest.raises(IndexError, match="index 30 is out of range for 30 samples"):
        resident.read([30])


def test_context_chunks_that_are_packed_read_beside_those_that_are_not(tmp_path: Path) -> None:
    """Chunks whose codes the model codes well, and one of codes that it does not."""
    case = Case((391,), (4, 5), contexts=2)
    model = model_of(case)
    rng = np.random.default_rng(0)
    likely = [decoded_here(case, rng.bytes(9)) for _ in range(20)]
    codes = np.stack([row for row in likely if row is not None][:12])
    codes = np.concatenate([codes[:8], rng.integers(0, 391, (4, 20)), codes[8:]]).reshape(-1, 4, 5)
    reader = open_split(tmp_path, case, codes, codec="context", model=model)
    tokens = reader.arrays["tokens"]
    assert {tokens.samples.spans(chunk).packed for chunk in range(4)} == {True, False}
    order = rng.permutation(16)
    np.testing.assert_array_equal(ResidentTokens(tokens, "cpu").read(order), codes[order])


def test_tokens_take_no_more_than_their_shards(tmp_path: Path) -> None:
    codes = random_codes(30, (4, 5), 391)
    reader = open_split(tmp_path, Case((391,), (4, 5)), codes)
    shards = sum(file.stat().st_size for file in (tmp_path / "tokens.zarr/train/tokens/c").rglob("0"))
    assert (
        30 * bitpack.sample_nbytes(20, 391) <= ResidentTokens(reader.arrays["tokens"], "cpu").nbytes <= shards
    )


@pytest.mark.parametrize("codec", ["bitpack", "context"])
def test_a_damaged_chunk_is_found_on_loading(codec: str, tmp_path: Path) -> None:
    case = Case((391,), (4, 5))
    spec = {"model": model_of(case)} if codec == "context" else {}
    reader = open_split(tmp_path, case, random_codes(30, case.grid, case.sizes), codec=codec, **spec)
    shard = tmp_path / "tokens.zarr/train/tokens/c/1/0/0"
    damaged = bytearray(shard.read_bytes())
    damaged[9] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(DamageError, match=r"train/tokens shard 1 chunk 0 \(samples 12 to 15\)"):
        ResidentTokens(reader.arrays["tokens"], "cpu")


def test_a_code_that_no_encoder_packs_is_damage(tmp_path: Path) -> None:
    """Write a chunk of whole samples with a true checksum and one code that is not below 391."""
    case = Case((391,), (4, 5))
    open_split(tmp_path, case, random_codes(30, case.grid, case.sizes))
    store = tmp_path / "tokens.zarr"
    layout = open_store(store)["train"].arrays["tokens"].layout
    codes = random_codes(12, case.grid, case.sizes)
    codes[5, 0, 1] = 391
    wide = ArrayLayout(layout.shape, layout.dtype, layout.chunk_samples, layout.shard_samples, Bitpack(512))
    replace_files(store, {"train/tokens/c/0/0/0": wide.encode_shard(codes)})
    resident = ResidentTokens(open_store(store)["train"].arrays["tokens"], "cpu")
    resident.read([4])
    with pytest.raises(DamageError, match=r"train/tokens: sample 1, position 1: .* found 391"):
        resident.read([4, 5])


def test_tokens_of_another_codec_are_refused(tmp_path: Path) -> None:
    case = Case((391,), (4, 5))
    reader = open_split(tmp_path, case, random_codes(30, case.grid, case.sizes), codec="zstd")
    with pytest.raises(StoreError, match="expected tokens of the codec bitpack or context, found zstd"):
        ResidentTokens(reader.arrays["tokens"], "cpu")


if __name__ == "__main__":
    in_interpreter()
