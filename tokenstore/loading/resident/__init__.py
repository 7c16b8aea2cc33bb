"""Resident tokens: they stay compressed in a device's memory and are decoded there, a batch at a time.

`ResidentView` has the tokens of a split or a view, `ResidentTokens` those of one split's array. They read
with `unpack` (codes of `bitpack`) and `ContextDecoder` (streams of `context`). The context decoder has two
kernels: plain torch operations for any device (`context_torch.py`), and one Triton kernel for CUDA
(`context_triton.py`, imported on first use). Both give the codes of the processor's decoder, bit for bit.

May import: torch, triton, and tokenstore's `errors`, `codecs`, `format` and `reading`.
"""

from tokenstore.loading.resident.bitpack import unpack
from tokenstore.loading.resident.context import ContextDecoder
from tokenstore.loading.resident.tokens import ResidentTokens
from tokenstore.loading.resident.view import ResidentView

__all__ = ["ContextDecoder", "ResidentTokens", "ResidentView", "unpack"]
