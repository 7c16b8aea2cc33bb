"""Geometry: against loops over samples and places, and the same on maps, images and label maps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tokenstore.augment import (
    DrawnGeometry,
    Geometry,
    HorizontalFlip,
    RandomAffine,
    RandomResizedCrop,
    adapter_geometry,
)
from tokenstore.augment.crops import nearest_crop
from tokenstore.augment.geometry import affine, affine_maps


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def moved_by_hand(image: Tensor, turn: float, across: float, down: float, sx: float, sy: float) -> Tensor:
    """Trace each place of the result back through the shears, the move and the turn, one by one."""
    rows, columns = image.shape[1:]
    result = torch.zeros_like(image)
    for row in range(rows):
        for column in range(columns):
            x, y = column + 0.5 - columns / 2, row + 0.5 - rows / 2
            y -= sy * x
            x -= sx * y
            x, y = x - across * columns, y - down * rows
            x, y = math.cos(turn) * x + math.sin(turn) * y, -math.sin(turn) * x + math.cos(turn) * y
            x, y = x + columns / 2 - 0.5, y + rows / 2 - 0.5
            left, top = math.floor(x), math.floor(y)
            for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                if 0 <= r < rows and 0 <= c < columns:
                    result[:, row, column] += (1 - abs(x - c)) * (1 - abs(y - r)) * image[:, r, c]
    return result


@settings(max_examples=40)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    parts=st.tuples(*[st.floats(-0.5, 0.5) for _ in range(5)]),
    seed=st.integers(0, 2**32),
)
def test_affine_is_bilinear_with_zeros_around(
    grid: tuple[int, int], parts: tuple[float, ...], seed: int
) -> None:
    image = drawn(seed, 2, *grid).double()
    maps = affine_maps(*(torch.tensor([part], dtype=torch.float64) for part in parts), grid)
    torch.testing.assert_close(affine(image[None], maps)[0], moved_by_hand(image, *parts), atol=1e-9, rtol=0)


def test_turns_of_a_quarter_and_moves_of_whole_places_are_exact() -> None:
    image = drawn(0, 1, 3, 5, 5)
    zero = torch.zeros(1)
    quarter = affine_maps(zero + math.pi / 2, zero, zero, zero, zero, (5, 5))
    torch.testing.assert_close(affine(image, quarter), image.rot90(-1, (2, 3)), atol=1e-5, rtol=0)
    right = affine_maps(zero, zero + 0.2, zero, zero, zero, (5, 5))
    torch.testing.assert_close(affine(image, right), F.pad(image, (1, 0))[..., :5], atol=1e-5, rtol=0)
    down = affine_maps(zero, zero, zero + 0.4, zero, zero, (5, 5))
    torch.testing.assert_close(affine(image, down), F.pad(image, (0, 0, 2, 0))[:, :, :5], atol=1e-5, rtol=0)


def test_parts_are_drawn_as_often_and_as_large_as_asked() -> None:
    count = 20_000
    maps = RandomAffine(degrees=30, translate=0, shear=0).draw(count, (8, 8), seeded(0))
    turns = torch.atan2(maps[:, 0, 1], maps[:, 0, 0]).rad2deg()
    turned = turns.abs() > 1e-4
    assert abs(float(turned.float().mean()) - 0.25) < 0.01
    assert turns.abs().max() <= 30.01
    assert abs(float(turns[turned].std()) - 60 / math.sqrt(12)) < 0.5
    maps = RandomAffine(degrees=0, translate=0.2, shear=0, p=1, group_p=1).draw(count, (8, 8), seeded(1))
    moves = -maps[:, :, 2] / 2
    assert moves.abs().max() <= 0.2001
    assert moves.abs().amin() < 0.001
    assert abs(float((moves[:, 0] * moves[:, 1]).mean())) < 1e-3, "both ways are drawn apart"
    maps = RandomAffine(degrees=0, translate=0, shear=15, p=1, group_p=1).draw(count, (8, 8), seeded(2))
    assert maps[:, 1, 0].abs().max() <= math.tan(math.radians(15)) + 1e-4
    changed = RandomAffine().draw(count, (8, 8), seeded(3))
    identity = torch.eye(3)[:2]
    still = (changed - identity).abs().amax((1, 2)) < 1e-6
    assert abs(float(still.float().mean()) - (0.5 + 0.5 * 0.5**5)) < 0.015


def test_what_is_drawn_as_nothing_changes_nothing() -> None:
    samples = drawn(0, 4, 3, 6, 7)
    after = RandomAffine(group_p=0)(samples, generator=seeded(0))
    torch.testing.assert_close(after, samples, atol=1e-5, rtol=0)
    assert Geometry()(samples, generator=seeded(0)) is samples


def whole_geometry(size: int = 6) -> Geometry:
    return Geometry(HorizontalFlip(), RandomAffine(p=1, group_p=1), RandomResizedCrop(size, (0.2, 1)))


def test_a_geometry_is_flip_then_affine_then_crop() -> None:
    samples = drawn(0, 5, 3, 8, 10)
    kept = samples.clone()
    drawn_once = whole_geometry().draw(5, (8, 10), seeded(1))
    assert drawn_once.flip is not None
    assert drawn_once.maps is not None
    assert drawn_once.boxes is not None
    after = drawn_once.apply(samples)
    assert torch.equal(samples, kept)
    for number in range(5):
        sample = samples[number : number + 1]
        if drawn_once.flip[number]:
            sample = sample.flip(3)
        sample = affine(sample, drawn_once.maps[number : number + 1])
        top, left, rows, columns = drawn_once.boxes[number].tolist()
        part = sample[:, :, top : top + rows, left : left + columns]
        expected = F.interpolate(part, (6, 6), mode="bicubic", align_corners=False)
        torch.testing.assert_close(after[number : number + 1], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole_geometry()(samples, generator=seeded(1)), after)


@settings(max_examples=60)
@given(
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    parts=st.sets(st.sampled_from(["flip", "affine", "crop"])),
    size=st.sampled_from([(3, 4), (12, 12)]),
    seed=st.integers(0, 2**32),
)
def test_what_is_needed_is_what_results_depend_on(
    grid: tuple[int, int], parts: set[str], size: tuple[int, int], seed: int
) -> None:
    whole = Geometry(HorizontalFlip(), RandomAffine(), RandomResizedCrop(size, (0.1, 1)))
    for name in {"flip", "affine", "crop"} - parts:
        setattr(whole, name, None)
    drawn_once = whole.draw(3, grid, seeded(seed))
    samples = drawn(seed + 1, 3, 1, *grid).requires_grad_()
    (drawn_once.apply(samples) * drawn(seed + 2, 3, 1, *drawn_once.size)).sum().backward()
    assert samples.grad is not None
    depends = samples.grad[:, 0].abs() > 1e-4
    needed = drawn_once.needed()
    if needed is None:
        assert not parts & {"affine", "crop"}
        return
    assert not (depends & ~needed).any()
    if size == (12, 12) or "crop" not in parts:  # a crop that shrinks reads between its taps too
        near = F.max_pool2d((samples.grad != 0).float(), 3, stride=1, padding=1)[:, 0].bool()
        assert not (needed & ~near).any()
    assert torch.equal(drawn_once[1:].needed(), needed[1:])  # type: ignore[arg-type]


def smooth(rows: int, columns: int) -> Tensor:
    """Return a picture (1, 1, rows, columns) that is the same at any resolution, but for its sampling."""
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    return (torch.sin(4 * y)[:, None] + torch.cos(5 * x) + 2)[None, None]


def test_the_same_draw_does_the_same_to_maps_and_to_images() -> None:
    """Compare a smooth picture at one and at four times the resolution, away from the borders."""
    geometry = Geometry(HorizontalFlip(), RandomAffine(p=1, group_p=1), RandomResizedCrop(28, (0.3, 1)))
    drawn_once = geometry.draw(12, (32, 32), seeded(0))
    small = drawn_once.apply(smooth(32, 32).expand(12, -1, -1, -1))
    large = drawn_once.apply(smooth(128, 128).expand(12, -1, -1, -1))
    assert large.shape == (12, 1, 112, 112)
    inside = drawn_once.apply(torch.ones(12, 1, 32, 32)) > 0.999
    means = F.avg_pool2d(large, 4)
    error = (small - means).abs()[inside]
    assert error.median() < 0.01
    assert error.quantile(0.98) < 0.06


def test_label_maps_go_where_their_embeddings_go() -> None:
    """Labels are the nearest: of a map of labels, each as a channel, the largest after interpolation."""
    labels = (
        torch.randint(0, 3, (6, 4, 4), generator=seeded(0)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    )
    drawn_once = whole_geometry(28).draw(6, (32, 32), seeded(1))
    moved = drawn_once.apply_to_labels(labels.to(torch.uint8), fill=255)
    assert moved.dtype == torch.uint8
    assert moved.shape == (6, 28, 28)
    shares = drawn_once.apply(F.one_hot(labels, 3).permute(0, 3, 1, 2).float())
    sure = shares.amax(1) > 0.9
    assert sure.float().mean() > 0.3
    agreement = (shares.argmax(1) == moved)[sure].float().mean()
    assert agreement > 0.98
    outside = shares.abs().sum(1) < 0.01
    assert (moved[outside] == 255).float().mean() > 0.95
    # At eight times the resolution, every eighth label is much the same.
    large = drawn_once.apply_to_labels(labels.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert large.shape == (6, 56, 56)
    assert (large[:, 1::2, 1::2] == moved).float().mean() > 0.85


@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
)
def test_nearest_crops_are_those_of_torch(grid: tuple[int, int], size: tuple[int, int], data: Any) -> None:
    labels = torch.randint(0, 200, (1, 1, *grid), generator=seeded(data.draw(st.integers(0, 2**32))))
    rows, columns = data.draw(st.integers(1, grid[0])), data.draw(st.integers(1, grid[1]))
    top, left = data.draw(st.integers(0, grid[0] - rows)), data.draw(st.integers(0, grid[1] - columns))
    part = labels[:, :, top : top + rows, left : left + columns].double()
    expected = F.interpolate(part, size, mode="nearest-exact").long()
    found = nearest_crop(labels, torch.tensor([[top, left, rows, columns]]), size)
    assert torch.equal(found, expected)


def test_grids_that_do_not_fit_and_numbers_that_cannot_be_are_refused() -> None:
    drawn_once = whole_geometry().draw(2, (8, 8), seeded(0))
    for shape in ((2, 1, 12, 8), (2, 1, 8, 16), (2, 1, 4, 4)):
        with pytest.raises(ValueError, match=r"whole multiples of the grid \(8, 8\)"):
            drawn_once.apply(torch.zeros(shape))
    for arguments in ({"degrees": 200}, {"translate": -0.1}, {"shear": 90}, {"p": 2}, {"group_p": -1}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            RandomAffine(**arguments)
    with pytest.raises(ValueError, match="p: expected a probability"):
        HorizontalFlip(1.1)


def test_gradients_flow_through_a_geometry() -> None:
    samples = drawn(0, 2, 1, 8, 8).requires_grad_()
    whole_geometry()(samples, generator=seeded(0)).sum().backward()  # type: ignore[no-untyped-call]
    assert samples.grad is not None
    assert samples.grad.abs().sum() > 0


def test_a_draw_can_be_written_by_hand() -> None:
    drawn_once = DrawnGeometry((2, 2), torch.tensor([True, False]), None, None, (2, 2))
    grids = torch.arange(8.0).view(2, 1, 2, 2)
    assert drawn_once.apply(grids).flatten(1).tolist() == [[1, 0, 3, 2], [4, 5, 6, 7]]


def test_shared_draws_are_one_flip_and_one_map_for_a_batch_and_a_crop_for_each_sample() -> None:
    geometry = adapter_geometry((28, 28), shared=True)
    grid, whole, flips, shears = (64, 64), [], [], []
    for seed in range(200):
        drawn = geometry.draw(6, grid, seeded(seed))
        assert drawn.flip is not None
        assert drawn.maps is not None
        assert drawn.boxes is not None
        assert len(drawn.flip) == len(drawn.maps) == len(drawn.boxes) == 6
        assert len(drawn.flip.unique()) == 1
        assert len(drawn.maps.unique(dim=0)) == 1
        whole.append(len(drawn.boxes.unique(dim=0)) > 1)
        flips.append(bool(drawn.flip[0]))
        shears.append(drawn.maps[0])
    assert all(whole)
    assert 70 < sum(flips) < 130
    # of one that is neither turned nor sheared, the translation is of whole positions
    moved = [found for found in shears if torch.equal(found[:, :2], torch.eye(2)) and found[:, 2].any()]
    assert len(moved) > 5
    for found in moved:
        positions = found[:, 2] * 32  # torch's unit is half a side
        torch.testing.assert_close(positions, positions.round(), atol=1e-4, rtol=0)
        assert positions.abs().max() <= 0.2 * 64


def test_shared_shears_are_from_zero_degrees() -> None:
    apart, shared = (
        RandomAffine(degrees=0, translate=0, p=1, group_p=1, shared=shared) for shared in (False, True)
    )
    signs = {False: set[int](), True: set[int]()}
    for seed in range(40):
        for module in (apart, shared):
            [[_, along_x, _], _] = module.draw(1, (64, 64), seeded(seed))[0].tolist()
            signs[module.shared].add(int(along_x > 0))
    assert signs == {
        False: {0, 1},
        True: {0},
    }  # the map goes from the result to the source: -tan(15 degrees) to 0
    single, several = (HorizontalFlip(shared=True).draw(count, seeded(5)) for count in (1, 7))
    assert torch.equal(single.repeat(7), several)
