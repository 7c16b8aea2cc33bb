"""Row numbers in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.errors import ArgumentError, Parameter

__all__ = ["read_rows"]


def read_rows(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Return the integers (n,) in a `.npy` file, or in a text file of one a line.

    Raises ArgumentError for another file; what they are row numbers of is not checked.
    """
    try:
        if Path(path).suffix == ".npy":
            rows = np.load(path, allow_pickle=False)
        else:
            words = Path(path).read_text(encoding="utf-8-sig").split()
            rows = np.array([int(word) for word in words], np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "ui":
            raise ValueError(f"found {rows.dtype} of shape {rows.shape}")
    except (OSError, ValueError, OverflowError, EOFError) as error:
        raise ArgumentError(
            f"indices: expected a .npy file of integers, or a text file of one a line, at {os.fspath(path)} "
            f"({error})",
            parameters=[Parameter("indices")],
        ) from error
    return rows  # type: ignore[no-any-return]
