"""The weights files of the models that are trained here: safetensors, with the model's config as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import safetensors
import torch
from safetensors.torch import save
from torch import nn

from tokenstore.errors import TokenizerError
from tokenstore.files import write_file
from tokenstore.tokenizers.configs import LARGEST_FIELD

__all__ = ["ModelConfig", "load_model", "save_model"]


class ModelConfig(Protocol):
    """A model's config, as its weights file holds it."""

    @property
    def blocks(self) -> int:
        """The number of blocks, of several tensors each."""

    def to_json(self) -> str:
        """Return the config as JSON."""


KINDS = {"tokenstore.conv_vq.1": "conv-vq", "tokenstore.symmetric_vq.1": "conv-vq-symmetric"}
"""The kind of tokenizer that reads files of each form."""

C = TypeVar("C", bound=ModelConfig)
M = TypeVar("M", bound=nn.Module)


def save_model(path: Path, model: nn.Module, form: str, config: ModelConfig) -> None:
    """Write a model as safetensors of a form: networks in float16, the codebook in float32."""
    tensors = {
        name: (tensor if name == "codebook" else tensor.half()).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_file(path, save(tensors, {"format": form, "config": config.to_json()}))


def load_model(path: Path, form: str, parse: Callable[[str], C], make: Callable[[C], M]) -> M:
    """Load the model of a form that `save_model` wrote, in float32 and eval mode.

    `parse` reads the config, `make` makes the model. Raises TokenizerError where the file is absent, damaged,
    or has other tensors than its config asks for.
    """
    if path.is_dir():
        raise TokenizerError(
            f"{path}: expected a weights file, found a folder; name weights.safetensors in it"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return _read_model(file, form, parse, make)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise TokenizerError(f"{path}: expected a weights file, found nothing there") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise TokenizerError(f"{path}: expected a safetensors file, found a damaged one ({error})") from error


def _read_model(file: Any, form: str, parse: Callable[[str], C], make: Callable[[C], M]) -> M:
    metadata = file.metadata() or {}
    found = metadata.get("format")
    if found != form:
        reader = f", which the tokenizer {KINDS[found]!r} reads" if found in KINDS else ""
        raise TokenizerError(f"expected weights of format {form!r}, found {found!r}{reader}")
    config = parse(metadata.get("config", ""))
    actual = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if len(actual) > LARGEST_FIELD or config.blocks > len(actual):
        raise TokenizerError(f"the config asks for more blocks than the file's {len(actual)} tensors")
    with torch.device("meta"):  # subtle: shapes are compared before any memory is taken
        model = make(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise TokenizerError(
                f"tensor {name!r}: expected shape {expected.get(name, 'absent')}, "
                f"found {actual.get(name, 'absent')}"
            )
    tensors = {}
    for name in expected:
        tensor = file.get_tensor(name)
        if tensor.dtype not in (torch.float16, torch.float32):
            raise TokenizerError(f"tensor {name!r}: expected float16 or float32, found {tensor.dtype}")
        if not tensor.isfinite().all():
            raise TokenizerError(f"tensor {name!r}: expected finite numbers, found NaN or infinity")
        tensors[name] = tensor.float()
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)
