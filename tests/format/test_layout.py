"""The layout of an array, as its metadata tells it."""

from __future__ import annotations

import numpy as np
import pytest

from tokenstore.codecs.bitpack import Bitpack
from tokenstore.errors import ManifestError
from tokenstore.format.agreement import check_layout
from tokenstore.format.layout import ArrayLayout
from tokenstore.format.manifest import Manifest, SplitSummary, TokenizerIdentity


def test_a_layout_comes_back_from_its_metadata() -> None:
    for name in ("tokens", "labels"):
        layout = ArrayLayout((7, 2, 3), np.dtype(np.uint16), 2, 4, Bitpack(391))
        again = ArrayLayout.from_zarr(layout.to_zarr(name), f"store/train/{name}")
        assert again.to_zarr(name) == layout.to_zarr(name)


def test_tokens_packed_by_view_are_refused_as_this_store_has_none() -> None:
    grid = (2, 3, 3)
    manifest = Manifest(
        TokenizerIdentity("test"), grid, (5,), {"train": SplitSummary(4)}, features=("bitpack",)
    )
    layout = ArrayLayout((4, *grid), np.dtype(np.uint8), 2, 4, Bitpack(5, views=2))
    with pytest.raises(
        ManifestError, match="expected a codec of samples without views, found one of 2 views"
    ):
        check_layout(layout, manifest, "train/tokens", "x")
