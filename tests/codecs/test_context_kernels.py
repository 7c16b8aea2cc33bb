"""The compiled loops of the context codec: each is compiled once, whatever the type of the codes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from helpers.context_models import payload_of, tiny_model

from tokenstore.codecs.context import kernels
from tokenstore.codecs.context.streams import Streams

CODES = np.array([[0, 2, 1, 1], [1, 0, 0, 1], [1, 1, 2, 0]] * 5)  # more than are decoded side by side
DTYPES = (np.uint8, np.uint16, np.uint32, np.int32, np.int64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_of_any_type_are_coded_alike_by_one_kernel(dtype: npt.DTypeLike) -> None:
    streams = Streams(tiny_model(), (2, 2))
    data, lengths = streams.encode(CODES.astype(dtype))
    assert data == streams.encode(CODES)[0]
    payload = payload_of(data)
    room = np.full((len(CODES) + 2, 4), 77, dtype)
    addresses = payload.ctypes.data + np.cumsum(lengths) - lengths
    assert streams.decode(addresses, lengths, room[1:-1]) == -1
    np.testing.assert_array_equal(room[1:-1], CODES)
    assert (room[[0, -1]] == 77).all()
    lanes = streams.model.lanes
    assert [len(kernel(lanes).signatures) for kernel in (kernels.encoder, kernels.decoder)] == [1, 1]
