"""The reader of codebooks in files of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from tokenstore.errors import TokenizerError

CODEBOOK_SUFFIXES = (".ckpt", ".pt", ".pth", ".npy", ".safetensors")


def load_codebook(path: str | Path) -> npt.NDArray[np.float32]:
    """Read a codebook's vectors (K, D) from a .ckpt, .pt, .pth, .npy or .safetensors file.

    The file holds one 2-D float array: alone, or as the only such entry of a dict. Nothing in the file is
    ever executed. Raises TokenizerError for any other file.
    """
    path = Path(path)
    if path.suffix.lower() not in CODEBOOK_SUFFIXES:
        raise TokenizerError(f"{path}: expected a file ending in one of {CODEBOOK_SUFFIXES}")
    if not path.is_file():
        raise TokenizerError(f"{path}: expected a codebook file, found nothing there")
    try:
        arrays = _read_arrays(path)
    except Exception as error:  # torch.load answers a damaged file with nearly any exception
        content = f"damage or other objects ({type(error).__name__})"
        raise TokenizerError(f"{path}: expected arrays and nothing else, found {content}") from error
    tables = [array for array in arrays if array.ndim == 2 and array.is_floating_point()]
    if len(tables) != 1 or not tables[0].numel():
        shapes = [f"{tuple(array.shape)} {array.dtype}" for array in arrays]
        raise TokenizerError(f"{path}: expected one 2-D float array of vectors (K, D), found {shapes}")
    table = tables[0].detach()
    if table.layout != torch.strided or table.nbytes > table.untyped_storage().nbytes():
        # subtle: a few stored bytes can claim to be an array of any size, by strides of zero
        raise TokenizerError(
            f"{path}: expected a dense array, found one of fewer stored bytes than its shape"
        )
    codebook = table.to(torch.float32)
    if not codebook.isfinite().all():
        raise TokenizerError(f"{path}: expected finite vectors, found NaN or infinity")
    return codebook.contiguous().numpy()


def _read_arrays(path: Path) -> list[torch.Tensor]:
    """Read every array at the top level of a file."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        return [torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))]
    if suffix == ".safetensors":
        return list(load_file(path).values())
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    values = loaded.values() if isinstance(loaded, dict) else [loaded]
    return [value for value in values if isinstance(value, torch.Tensor)]
