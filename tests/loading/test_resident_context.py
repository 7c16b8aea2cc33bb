"""Streams of the context codec decoded on a device: the same codes and refusals as on the processor."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from helpers.resident_models import (
    CASES,
    Case,
    any_streams,
    check_alike,
    codes_of,
    decoded_here,
    decoded_there,
    decoder_of,
    encoded,
    model_of,
    needs_cuda,
    needs_triton,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokenstore.errors import CodecError
from tokenstore.loading.resident import ContextDecoder


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


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kernel", ["torch", pytest.param("triton", marks=needs_triton)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_gpu_decodes_and_refuses_as_the_processor_does(
    case: Case, kernel: Literal["torch", "triton"]
) -> None:
    check_alike(case, any_streams(case, 300), kernel, torch.device("cuda", 0))
