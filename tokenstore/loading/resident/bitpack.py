"""The unpacking of bit-packed codes by torch, on the device that the bytes are on (FORMAT.md, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenstore.codecs import bitpack
from tokenstore.errors import CodecError
from tokenstore.loading.resident.pool import check_pool

__all__ = ["unpack"]


def unpack(packed: Tensor, offsets: Tensor, codes_per_sample: int, codebook_size: int) -> Tensor:
    """Unpack samples anywhere in `packed` (nbytes,) uint8 to codes (m, L) int64, on the same device.

    `offsets` (m,) int64 are the samples' first bytes. Raises CodecError, as `codecs.bitpack.unpack` does,
    where a sample has a code that is not below codebook_size, or padding that is not zero; and where a
    sample is not inside `packed`.
    """
    nbytes = bitpack.sample_nbytes(codes_per_sample, codebook_size)
    width = bitpack.bit_width(codebook_size)
    check_pool(packed, offsets)
    if not len(offsets):
        return torch.empty((0, codes_per_sample), dtype=torch.int64, device=packed.device)
    last = packed.numel() - nbytes
    if last < 0:
        raise CodecError(f"expected samples of {nbytes} bytes, found {packed.numel()} bytes")
    # subtle: an index out of range would end a CUDA context, so offsets are clamped until they are judged
    inside = offsets.clamp(0, last)
    samples = packed.unfold(0, nbytes, 1).index_select(0, inside)
    codes = _codes(samples, codes_per_sample, width)
    padding = samples[:, -1] >> (codes_per_sample * width % 8 or 8)
    outside = (inside != offsets).any()
    # One transfer to the host for all verdicts.
    verdicts = torch.stack((outside, codes.amax() >= codebook_size, padding.any()))
    if any(verdicts.tolist()):
        raise _refusal(offsets, last, codes, padding, codebook_size)
    return codes


def _codes(samples: Tensor, length: int, width: int) -> Tensor:
    """Return the codes (m, length) int64 of samples' bytes (m, nbytes)."""
    bits = torch.arange(0, length * width, width, device=samples.device)
    first, shift = bits >> 3, bits & 7
    # The most bytes that a code reaches into. Four fit an int32, whose sign is masked away.
    reach = (max(lane * width % 8 for lane in range(8)) + width + 7) // 8
    word = torch.int32 if reach <= 4 else torch.int64
    words = torch.zeros((len(samples), length), dtype=word, device=samples.device)
    for byte in range(reach):
        # Bytes beyond a code's own are masked away, so any byte will do in their place.
        places = (first + byte).clamp_(max=samples.shape[1] - 1)
        words |= samples.gather(1, places.expand(len(samples), -1)).to(word) << (8 * byte)
    words >>= shift.to(word)
    words &= 2**width - 1
    return words.long()


def _refusal(offsets: Tensor, last: int, codes: Tensor, padding: Tensor, codebook_size: int) -> CodecError:
    outside = (offsets < 0) | (offsets > last)
    if outside.any():
        sample = int(outside.int().argmax())
        return CodecError(f"expected an offset in 0..{last}, found {int(offsets[sample])}", sample=sample)
    too_high = codes >= codebook_size
    sample = int((too_high.any(1) | (padding != 0)).int().argmax())
    if not too_high[sample].any():
        return CodecError("expected zero bits as padding after the last code, found ones", sample=sample)
    position = int(too_high[sample].int().argmax())
    return CodecError(
        f"expected a code below the codebook size {codebook_size}, found {int(codes[sample, position])}",
        sample=sample,
        place=f"position {position}",
    )
