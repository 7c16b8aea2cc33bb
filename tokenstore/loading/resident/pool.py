"""The check of a pool of bytes and of the places in it, which every decoder makes first."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenstore.errors import CodecError

__all__ = ["check_pool"]


def check_pool(pool: Tensor, *places: Tensor) -> None:
    """Raise CodecError unless `pool` is (nbytes,) uint8, and each of `places` (m,) int64 on its device."""
    if pool.dtype != torch.uint8 or pool.ndim != 1 or not pool.is_contiguous():
        raise CodecError(
            f"expected contiguous bytes (nbytes,) of uint8, found {tuple(pool.shape)} of {pool.dtype} "
            f"with strides {pool.stride()}"
        )
    for place in places:
        if place.dtype != torch.int64 or place.shape != (len(places[0]),) or place.device != pool.device:
            raise CodecError(
                f"expected offsets and lengths (m,) of int64 on {pool.device}, "
                f"found {tuple(place.shape)} of {place.dtype} on {place.device}"
            )
