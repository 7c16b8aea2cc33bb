"""Windows of frames never cross a segment, and are those that a plain loop over frames gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstore.errors import SourceError
from tokenstore.sources.layouts.windows import Windows


def plain(lengths: list[int], window: int, stride: int) -> list[list[int]]:
    """Return the frames of each window, counted one by one."""
    found, begin = [], 0
    for length in lengths:
        for first in range(0, length - window + 1, stride):
            found.append([begin + first + frame for frame in range(window)])
        begin += length
    return found


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    window=st.integers(1, 6),
    stride=st.integers(1, 9),
    data=st.data(),
)
def test_windows_are_those_of_a_plain_loop(
    lengths: list[int], window: int, stride: int, data: st.DataObject
) -> None:
    expected = plain(lengths, window, stride)
    if not expected:
        with pytest.raises(SourceError, match=rf"x: window={window}: expected segments of {window} frames"):
            Windows.of(np.array(lengths), window, stride, "x")
        return
    windows = Windows.of(np.array(lengths), window, stride, "x")
    assert len(windows) == len(expected)
    start = data.draw(st.integers(0, len(expected)))
    stop = data.draw(st.integers(start, len(expected)))
    frames = windows.take(lambda first, last: np.arange(first, last)[:, None], start, stop)
    assert frames.shape == (stop - start, window, 1)
    assert frames[..., 0].tolist() == expected[start:stop]
    if stride <= window:
        assert windows.unused == sum(lengths) - len({frame for each in expected for frame in each})


def test_no_read_is_longer_than_what_lies_between_windows_side_by_side() -> None:
    reads = []

    def read(first: int, last: int) -> np.ndarray:
        reads.append(last - first)
        return np.arange(first, last)[:, None]

    Windows.of(np.array([10**6]), 2, 10**5, "x").take(read, 0, 10)
    assert reads == [2] * 10


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        (0, None, "window=0: expected 1 or more"),
        (2, 0, "stride=0: expected 1 or more"),
        (None, 3, "a window"),
    ],
)
def test_lengths_below_one_and_a_stride_alone_are_refused(
    window: int | None, stride: int | None, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        Windows.of(np.array([9]), window, stride, "x")
