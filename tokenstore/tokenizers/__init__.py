"""Tokenizers: images to codes and back."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import torch
from safetensors.torch import load_file

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.conv_vq import ConvVQTokenizer

__all__ = ["Tokenizer", "available_tokenizers", "load_codebook", "load_tokenizer"]

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "default.safetensors"

WEIGHTS = {"default": DEFAULT_WEIGHTS, "conv-vq-8x": DEFAULT_WEIGHTS}
"""The weights of each tokenizer that ships with the package."""


def available_tokenizers() -> list[str]:
    """The names that load_tokenizer knows."""
    return sorted(WEIGHTS)


def load_tokenizer(name: str = "default", device: str = "cpu") -> Tokenizer:
    """The tokenizer of that name, or that of a .safetensors file the trainer wrote.

    Raises TokenizerError where there is none of that name, or its weights cannot be used.
    """
    if name in WEIGHTS:
        return ConvVQTokenizer.load(WEIGHTS[name], device)
    if name.endswith(".safetensors"):
        return ConvVQTokenizer.load(name, device)
    raise TokenizerError(
        f"expected a tokenizer of {available_tokenizers()} or the path of a .safetensors file, found {name!r}"
    )


def load_codebook(path: str | Path) -> npt.NDArray[np.float32]:
    """A codebook's vectors (K, D) from a .ckpt, .pt, .pth, .npy or .safetensors file.

    The file holds one 2-D float array: alone, or as the only such entry of a dict. Nothing in it is
    ever executed. Raises TokenizerError on anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise TokenizerError(f"{path}: expected a codebook file, found nothing there")
    found = _read_arrays(path)
    tables = [array for array in found if array.ndim == 2 and array.is_floating_point()]
    if len(tables) != 1 or not tables[0].numel():
        shapes = [f"{tuple(array.shape)} {array.dtype}" for array in found]
        raise TokenizerError(f"{path}: expected one 2-D float array of vectors (K, D), found {shapes}")
    codebook = tables[0].detach().to(torch.float32)
    if not codebook.isfinite().all():
        raise TokenizerError(f"{path}: expected finite vectors, found NaN or infinity")
    return codebook.contiguous().numpy()


def _read_arrays(path: Path) -> list[torch.Tensor]:
    """Every array of a file."""
    suffix = path.suffix.lower()
    try:
        if suffix in (".ckpt", ".pt", ".pth"):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        elif suffix == ".npy":
            loaded = torch.from_numpy(np.load(path, allow_pickle=False))
        elif suffix == ".safetensors":
            loaded = load_file(path)
        else:
            raise TokenizerError(
                f"{path}: expected a .ckpt, .pt, .pth, .npy or .safetensors file, found {suffix!r}"
            )
    except TokenizerError:
        raise
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        safetensors.SafetensorError,
        OSError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        RuntimeError,
        AssertionError,
        MemoryError,
        OverflowError,
    ) as error:  # torch.load answers a damaged file with almost any of these
        reason = str(error).strip().split("\n")[0][:200]
        raise TokenizerError(
            f"{path}: expected arrays and nothing else, found a damaged file or other objects ({reason})"
        ) from error
    values = loaded.values() if isinstance(loaded, dict) else [loaded]
    return [value for value in values if isinstance(value, torch.Tensor)]
