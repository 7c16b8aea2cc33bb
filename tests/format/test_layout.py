"""The layout of an array, as its metadata tells it."""

from __future__ import annotations

import numpy as np

from tokenstore.codecs.bitpack import Bitpack
from tokenstore.format.layout import ArrayLayout


def test_a_layout_comes_back_from_its_metadata() -> None:
    for name in ("tokens", "labels"):
        layout = ArrayLayout((7, 2, 3), np.dtype(np.uint16), 2, 4, Bitpack(391))
        again = ArrayLayout.from_zarr(layout.to_zarr(name), f"store/train/{name}")
        assert again.to_zarr(name) == layout.to_zarr(name)
