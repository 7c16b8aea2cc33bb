"""The check of ready codes, the same for every source: whole numbers of at most 31 bits, none below 0."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tokenstore.errors import SourceError

__all__ = ["LARGEST_CODE", "MOST_CODES", "check_shape", "unsigned_codes"]

LARGEST_CODE = int(np.iinfo(np.int32).max)
MOST_CODES = 2**24
"""The codes of a sample, and the values of a column's row, above which a file is no file of samples."""


def unsigned_codes(codes: npt.NDArray[np.generic], start: int, where: str) -> npt.NDArray[np.unsignedinteger]:
    """Return codes (n, ...) of samples from `start` on, unsigned.

    Unsigned ones stay as they are stored; others are of the smallest type that fits. Raises SourceError,
    naming the sample, for codes below 0 or of more than 31 bits.
    """
    assert np.issubdtype(codes.dtype, np.integer)
    low, high = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
    if low < 0 or high > LARGEST_CODE:
        wrong = ((codes < 0) | (codes > LARGEST_CODE)).reshape(len(codes), -1)  # type: ignore[operator]
        row = int(np.argmax(wrong.any(axis=1)))
        outlier = low if low < 0 else high
        raise SourceError(f"{where}: sample {start + row}: expected codes 0..{LARGEST_CODE}, found {outlier}")
    is_unsigned = codes.dtype.kind == "u" and codes.dtype.itemsize <= np.dtype(np.uint32).itemsize
    return codes.astype(codes.dtype if is_unsigned else np.min_scalar_type(high), copy=False)


def check_shape(dtype: np.dtype[np.generic], shape: tuple[int, ...], where: str) -> None:
    """Raise SourceError unless an array is one of codes (N, *grid) with samples, of an integer type.

    Floats are said to be latents, which are no codes.
    """
    if dtype.kind == "f":
        raise SourceError(
            f"{where}: expected codes (N, *grid) of an integer type, found {dtype} {shape}: latents, "
            "which are no codes. Convert the images by a tokenizer that has a codebook"
        )
    if dtype.kind not in "iu" or len(shape) < 2:
        raise SourceError(f"{where}: expected codes (N, *grid) of an integer type, found {dtype} {shape}")
    if not all(shape):
        raise SourceError(f"{where}: expected at least one sample of one code, found {shape}")
    if math.prod(shape[1:]) > MOST_CODES:
        raise SourceError(f"{where}: expected up to {MOST_CODES} codes a sample, found {shape[1:]}")
