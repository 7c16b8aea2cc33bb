"""Boxes of random crops: inside the grid, and distributed as the published rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.augment import (
    random_boxes,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(
    grid=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    scale=st.tuples(st.floats(0.01, 2), st.floats(0.01, 2)).map(sorted),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
    seed=st.integers(0, 2**32),
)
def test_every_box_lies_inside_the_grid(
    grid: tuple[int, int], scale: list[float], ratio: list[float], seed: int
) -> None:
    boxes = random_boxes(50, grid, (scale[0], scale[1]), (ratio[0], ratio[1]), seeded(seed))
    assert boxes.shape == (50, 4)
    assert boxes.dtype == torch.int64
    corners, sides = boxes[:, :2], boxes[:, 2:]
    assert bool((corners >= 0).all() and (sides >= 1).all())
    assert bool((corners + sides <= torch.tensor(grid)).all())


def plain_box(
    random: np.random.Generator,
    grid: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Draw boxes by the published rule, a sample at a time.

    Usable only for grids in which a draw fits sooner or later.
    """
    height, width = grid
    while True:
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            top, left = random.integers(0, height - rows + 1), random.integers(0, width - columns + 1)
            return int(top), int(left), rows, columns


@pytest.mark.parametrize("grid", [(32, 32), (14, 24)])
def test_boxes_are_distributed_like_those_of_the_published_rule(grid: tuple[int, int]) -> None:
    count = 20_000
    scale, ratio = (0.08, 0.7), (3 / 4, 4 / 3)
    random = np.random.default_rng(0)
    expected = np.array([plain_box(random, grid, scale, ratio) for _ in range(count)])
    found = random_boxes(count, grid, scale, ratio, seeded(0)).numpy()
    for column in range(4):
        shares = [np.bincount(boxes[:, column], minlength=33).cumsum() / count for boxes in (expected, found)]
        # Kolmogorov-Smirnov: a distance of 0.02 is a chance of 1 in 1,000 at this size
        assert np.abs(shares[0] - shares[1]).max() < 0.02


@pytest.mark.parametrize(
    ("grid", "box"),
    [((40, 4), (17, 0, 5, 4)), ((4, 40), (0, 17, 4, 5)), ((40, 40), (0, 0, 40, 40)), ((9, 1), (4, 0, 1, 1))],
)
def test_where_no_draw_fits_the_box_is_the_largest_central_one(
    grid: tuple[int, int], box: tuple[int, ...]
) -> None:
    # The areas asked for are larger than the grid.
    boxes = random_boxes(20, grid, (1.5, 2), (3 / 4, 4 / 3), seeded(0))
    assert boxes.tolist() == [list(box)] * 20


def test_a_full_scale_and_square_ratio_take_the_whole_grid() -> None:
    boxes = random_boxes(20, (12, 12), (1, 1), (1, 1), seeded(0))
    assert boxes.tolist() == [[0, 0, 12, 12]] * 20
