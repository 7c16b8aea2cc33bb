"""Codebook lookup and crops: equal to cropping one-hot maps sample by sample, on every path."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tokenstore.augment import (
    CenterCrop,
    CodebookEmbedding,
    CroppedEmbedding,
    RandomResizedCrop,
    random_boxes,
    resized_crop,
)
from tokenstore.augment.crops import Interpolation
from tokenstore.augment.crops_cpu import embed_resized_crop
from tokenstore.errors import CodecError

INTERPOLATIONS: tuple[Interpolation, ...] = ("bicubic", "bilinear")
INTEGERS = (torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, count: int, grid: tuple[int, int], size: int, channels: int) -> tuple[Tensor, Tensor]:
    """Draw codes (count, *grid) int64 and a codebook (size, channels)."""
    generator = seeded(seed)
    codes = torch.randint(0, size, (count, *grid), generator=generator)
    return codes, torch.randn(size, channels, generator=generator)


def one_hot_crops(
    codes: Tensor,
    codebook: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    mode: str,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Crop one-hot maps one by one, then multiply by the codebook: the published order of operations."""
    crops = []
    for grid, (top, left, height, width) in zip(codes, boxes.tolist(), strict=True):
        one_hot = F.one_hot(grid, len(codebook)).permute(2, 0, 1).to(dtype)
        box = one_hot[:, top : top + height, left : left + width]
        crops.append(F.interpolate(box[None], size, mode=mode, align_corners=False)[0])
    return torch.einsum("bkhw,kc->bchw", torch.stack(crops), codebook.to(dtype))


def fused(
    codes: Tensor, codebook: Tensor, boxes: Tensor, size: tuple[int, int], mode: Interpolation
) -> Tensor:
    out = torch.full((len(codes), codebook.shape[1], *size), math.nan)
    embed_resized_crop(codes, codebook, boxes, size, mode, out)
    return out


def in_two_steps(
    codes: Tensor, codebook: Tensor, boxes: Tensor, size: tuple[int, int], mode: Interpolation
) -> Tensor:
    return resized_crop(CodebookEmbedding(codebook)(codes), boxes, size, mode)


both_paths = pytest.mark.parametrize("crop", [fused, in_two_steps])


@both_paths
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_crop_is_that_of_one_hot_maps_for_any_grid_box_and_size(
    crop: Callable[..., Tensor], data: st.DataObject
) -> None:
    side = st.integers(1, 14)
    grid = data.draw(st.tuples(side, side))
    count, channels = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 40))
    boxes = []
    for _ in range(count):
        height, width = (data.draw(st.integers(1, extent)) for extent in grid)
        top, left = data.draw(st.integers(0, grid[0] - height)), data.draw(st.integers(0, grid[1] - width))
        boxes.append((top, left, height, width))
    size = data.draw(st.tuples(side, side))
    mode = data.draw(st.sampled_from(INTERPOLATIONS))
    codes, codebook = drawn(data.draw(st.integers(0, 2**32)), count, grid, 11, channels)
    expected = one_hot_crops(codes, codebook, torch.tensor(boxes), size, mode)
    torch.testing.assert_close(
        crop(codes, codebook, torch.tensor(boxes), size, mode).double(), expected, atol=1e-5, rtol=0
    )


@both_paths
@pytest.mark.parametrize("mode", INTERPOLATIONS)
def test_at_the_size_of_a_training_run_the_crop_is_that_of_one_hot_maps_in_float32(
    crop: Callable[..., Tensor], mode: Interpolation
) -> None:
    codes, codebook = drawn(0, 24, (32, 32), 391, 32)
    codebook = F.normalize(codebook)
    boxes = random_boxes(24, (32, 32), (0.08, 1), (3 / 4, 4 / 3), seeded(1))
    expected = one_hot_crops(codes, codebook, boxes, (28, 28), mode, torch.float32)
    found = crop(codes, codebook, boxes, (28, 28), mode)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_whole_grid_at_its_own_size_is_the_embeddings_themselves() -> None:
    codes, codebook = drawn(0, 3, (7, 9), 20, 5)
    boxes = torch.tensor([[0, 0, 7, 9]] * 3)
    expected = codebook[codes].permute(0, 3, 1, 2)
    assert torch.equal(CodebookEmbedding(codebook)(codes), expected)
    assert torch.equal(fused(codes, codebook, boxes, (7, 9), "bicubic"), expected)


def test_the_module_is_its_crop_of_its_embedding_and_its_boxes_can_be_had() -> None:
    codes, codebook = drawn(0, 16, (12, 10), 50, 6)
    cropped = CroppedEmbedding(codebook, RandomResizedCrop((9, 7), scale=(0.2, 0.8)))
    found = cropped(codes, generator=seeded(3))
    in_steps = cropped.crop(cropped.embedding(codes), generator=seeded(3))
    boxes = cropped.crop.boxes(16, (12, 10), seeded(3))
    assert found.shape == (16, 6, 9, 7)
    torch.testing.assert_close(found, in_steps, atol=1e-5, rtol=0)
    expected = one_hot_crops(codes, codebook, boxes, (9, 7), "bicubic")
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_codes_of_every_integer_dtype_give_the_same(dtype: torch.dtype) -> None:
    codes, codebook = drawn(0, 4, (8, 8), 200, 3)
    cropped = CroppedEmbedding(codebook, RandomResizedCrop(5))
    expected = cropped(codes, generator=seeded(1))
    assert torch.equal(cropped(codes.to(dtype), generator=seeded(1)), expected)
    assert torch.equal(cropped.embedding(codes.to(dtype)), cropped.embedding(codes))


def test_codes_are_read_through_their_strides() -> None:
    codes, codebook = drawn(0, 8, (9, 6), 30, 4)
    cropped = CroppedEmbedding(codebook, RandomResizedCrop(5))
    turned = codes.mT[::2]
    expected = cropped(turned.contiguous(), generator=seeded(1))
    assert torch.equal(cropped(turned, generator=seeded(1)), expected)


def test_a_generators_state_decides_the_result_and_nothing_else_does() -> None:
    codes, codebook = drawn(0, 8, (16, 16), 30, 4)
    cropped = CroppedEmbedding(codebook, RandomResizedCrop(9))
    state = torch.get_rng_state()
    generator = seeded(5)
    first, second = cropped(codes, generator=generator), cropped(codes, generator=generator)
    assert not torch.equal(first, second)
    torch.rand(3)
    again = seeded(5)
    assert torch.equal(cropped(codes, generator=again), first)
    assert torch.equal(cropped(codes, generator=again), second)
    torch.set_rng_state(state)
    cropped(codes, generator=generator)
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_side_by_side_give_what_one_gives() -> None:
    codes, codebook = drawn(0, 64, (16, 16), 30, 8)
    cropped = CroppedEmbedding(codebook, RandomResizedCrop(12))

    def batch(seed: int) -> Tensor:
        found: Tensor = cropped(codes, generator=seeded(seed))
        return found

    with ThreadPoolExecutor(4) as threads:
        for seed, found in enumerate(threads.map(batch, range(24))):
            assert torch.equal(found, batch(seed))


def test_the_inputs_stay_as_they_are() -> None:
    codes, codebook = drawn(0, 8, (16, 16), 30, 4)
    table = codebook.numpy().copy()
    table.flags.writeable = False
    cropped = CroppedEmbedding(table, RandomResizedCrop(9))
    before = codes.clone()
    cropped(codes, generator=seeded(0))
    embeddings = cropped.embedding(codes)
    kept = embeddings.clone()
    cropped.crop(embeddings, generator=seeded(0))
    assert torch.equal(codes, before)
    assert torch.equal(embeddings, kept)
    assert torch.equal(cropped.embedding.codebook, codebook)


def test_a_codebook_changed_later_changes_no_embedding() -> None:
    _, codebook = drawn(0, 1, (1, 1), 5, 4)
    for table in (codebook.clone(), codebook.numpy().copy()):
        embedding = CodebookEmbedding(table)
        table *= 2
        assert torch.equal(embedding.codebook, codebook)


def test_a_buffer_takes_the_whole_result_and_is_returned() -> None:
    codes, codebook = drawn(0, 8, (16, 16), 30, 4)
    cropped = CroppedEmbedding(codebook, RandomResizedCrop(9))
    out = torch.full((8, 4, 9, 9), math.nan)
    assert cropped(codes, generator=seeded(2), out=out) is out
    assert torch.equal(out, cropped(codes, generator=seeded(2)))


@pytest.mark.parametrize(
    "out",
    [
        torch.empty(7, 4, 9, 9),
        torch.empty(8, 5, 9, 9),
        torch.empty(8, 9, 9),
        torch.empty(8, 4, 9, 8),
        torch.empty(8, 4, 9, 9, dtype=torch.float64),
        torch.empty(8, 4, 9, 18)[..., ::2],
    ],
    ids=["batch", "channels", "rank", "size", "dtype", "strides"],
)
def test_a_buffer_that_does_not_fit_is_refused(out: Tensor) -> None:
    codes, codebook = drawn(0, 8, (16, 16), 30, 4)
    with pytest.raises(ValueError, match=re.escape("out: expected a contiguous float32 buffer (8, 4, 9, 9)")):
        CroppedEmbedding(codebook, RandomResizedCrop(9))(codes, generator=seeded(0), out=out)


def test_a_batch_of_nothing_gives_nothing() -> None:
    codes, codebook = drawn(0, 0, (16, 16), 30, 4)
    cropped = CroppedEmbedding(codebook, RandomResizedCrop(9))
    assert cropped(codes, generator=seeded(0)).shape == (0, 4, 9, 9)
    assert cropped.crop(cropped.embedding(codes), generator=seeded(0)).shape == (0, 4, 9, 9)


@pytest.mark.parametrize("code", [30, -1, 2**40])
def test_a_code_out_of_range_is_named_wherever_it_lies(code: int) -> None:
    codes, codebook = drawn(0, 4, (6, 5), 30, 4)
    codes[2, 5, 4] = code
    message = re.escape(
        f"sample 2 of the batch, position (5, 4): expected a code from 0 to 29, found {code};"
    )
    with pytest.raises(CodecError, match=message):
        CodebookEmbedding(codebook)(codes)
    with pytest.raises(CodecError, match=message):  # outside the box, so that the draw decides nothing
        fused(codes, codebook, torch.tensor([[0, 0, 2, 2]] * 4), (3, 3), "bicubic")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_codes_that_are_no_integers_are_refused(dtype: torch.dtype) -> None:
    codes, codebook = torch.zeros(2, 4, 4, dtype=dtype), torch.zeros(3, 2)
    with pytest.raises(CodecError, match=f"an integer dtype, found {dtype}"):
        CodebookEmbedding(codebook)(codes)
    with pytest.raises(CodecError, match=f"an integer dtype, found {dtype}"):
        CroppedEmbedding(codebook, RandomResizedCrop(2))(codes, generator=seeded(0))


@pytest.mark.parametrize("box", [(-1, 0, 3, 3), (0, 3, 3, 3), (4, 0, 3, 3), (0, 0, 0, 3), (0, 0, 7, 1)])
def test_the_compiled_crop_reads_no_box_outside_the_grid(box: tuple[int, ...]) -> None:
    codes, codebook = drawn(0, 2, (6, 5), 30, 4)
    with pytest.raises(ValueError, match=re.escape(f"inside the grid (6, 5), found {box} for sample 1")):
        fused(codes, codebook, torch.tensor([(0, 0, 6, 5), box]), (3, 3), "bicubic")


@pytest.mark.parametrize("boxes", [torch.zeros(3, 4, dtype=torch.int64), torch.ones(2, 4)])
def test_the_compiled_crop_wants_a_box_of_integers_for_each_sample(boxes: Tensor) -> None:
    codes, codebook = drawn(0, 2, (6, 5), 30, 4)
    with pytest.raises(ValueError, match=re.escape("boxes: expected (2, 4) of int64")):
        fused(codes, codebook, boxes, (3, 3), "bicubic")


def test_wrong_shapes_and_settings_are_refused() -> None:
    bad: list[tuple[str, Callable[[], Any]]] = [
        ("codebook: expected vectors", lambda: CodebookEmbedding(torch.zeros(3))),
        ("size: expected", lambda: RandomResizedCrop(0)),
        ("size: expected", lambda: CenterCrop((3, -1))),
        ("scale: expected", lambda: RandomResizedCrop(3, scale=(0, 1))),
        ("ratio: expected", lambda: RandomResizedCrop(3, ratio=(2, 1))),
        ("interpolation: expected", lambda: RandomResizedCrop(3, interpolation="nearest")),  # type: ignore[arg-type]
        ("expected a grid", lambda: random_boxes(1, (0, 3), (1, 1), (1, 1), seeded(0))),
        ("expected a grid of at least", lambda: CenterCrop(4)(torch.zeros(2, 5, 3))),
        ("expected embeddings", lambda: RandomResizedCrop(3)(torch.zeros(2, 3, 3), generator=seeded(0))),
        (
            "expected codes",
            lambda: CroppedEmbedding(torch.zeros(3, 2), RandomResizedCrop(3))(
                torch.zeros(3, 3, dtype=torch.int64), generator=seeded(0)
            ),
        ),
    ]
    for message, call in bad:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_central_crop_takes_codes_embeddings_and_masks_alike() -> None:
    grid = torch.arange(7 * 8).reshape(7, 8)
    expected = grid[2:5, 2:6]
    assert torch.equal(CenterCrop((3, 4))(grid.expand(2, 7, 8))[1], expected)
    assert torch.equal(CenterCrop((3, 4))(grid.expand(2, 5, 7, 8))[1, 4], expected)
    assert torch.equal(CenterCrop((7, 8))(grid), grid)


def test_gradients_pass_through_the_crop() -> None:
    embeddings = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=seeded(0), requires_grad=True)
    boxes = torch.tensor([[1, 0, 3, 2], [0, 0, 5, 4]])
    assert torch.autograd.gradcheck(lambda x: resized_crop(x, boxes, (4, 3)), embeddings)


def test_autocast_leaves_the_crop_in_its_precision() -> None:
    codes, codebook = drawn(0, 4, (8, 8), 30, 4)
    crop, embeddings = RandomResizedCrop(6), CodebookEmbedding(codebook)(codes)
    expected = crop(embeddings, generator=seeded(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crop(embeddings, generator=seeded(0)), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("drawn_on", ["cpu", "cuda"])
def test_on_a_gpu_the_crop_is_the_same_and_the_host_never_waits(drawn_on: str) -> None:
    codes, codebook = drawn(0, 16, (32, 32), 391, 32)
    here = CroppedEmbedding(codebook, RandomResizedCrop(28))
    there = CroppedEmbedding(codebook, RandomResizedCrop(28)).cuda()
    on_device = codes.cuda()
    there(on_device, generator=torch.Generator(drawn_on).manual_seed(1))
    generator = torch.Generator(drawn_on).manual_seed(1)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = there(on_device, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    boxes = here.crop.boxes(16, (32, 32), torch.Generator(drawn_on).manual_seed(1)).cpu()
    expected = fused(codes, codebook, boxes, (28, 28), "bicubic")
    torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=0)
