"""Orders in tests: all row numbers of an epoch, and statistics of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tokenstore.loading.sampling import (
    Order,
)


def whole(order: Order) -> npt.NDArray[np.int64]:
    return order(np.arange(len(order)))


def starts_of(sizes: list[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *sizes])


@st.composite
def epochs(draw: st.DrawFn) -> tuple[int, int]:
    """Draw a number of samples, and how many of them are consumed."""
    samples = draw(st.integers(0, 400))
    return samples, draw(st.integers(0, samples))
