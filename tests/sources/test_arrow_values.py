"""The values of Arrow's lists are those that Python sees, whatever part of an array they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstore.sources.arrow_values import Extent, column_values

INNER = [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 3)]
OUTER = [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)]


@pytest.mark.parametrize("outer", range(3))
@pytest.mark.parametrize("inner", range(3))
@given(missing=st.sets(st.integers(0, 6)), start=st.integers(0, 7), stop=st.integers(0, 7))
def test_a_slice_of_nested_lists_gives_its_own_values(
    outer: int, inner: int, missing: set[int], start: int, stop: int
) -> None:
    values = np.arange(42, dtype=np.float32).reshape(7, 2, 3)
    rows = [None if row in missing else values[row].tolist() for row in range(7)]
    cells = pa.array(rows, OUTER[outer](INNER[inner]))
    extent = Extent("x")
    extent.add(cells)
    column = extent.column()
    if not column.is_ragged and column.shape != (2, 3):
        return  # all rows are null
    found = column_values(cells.slice(start, max(stop - start, 0)), column, "x")
    for row, value in zip(range(start, stop), found, strict=True):
        if row in missing:
            assert np.isnan(value).all() if not column.is_ragged else not len(value)
        else:
            assert np.array_equal(value, values[row])
