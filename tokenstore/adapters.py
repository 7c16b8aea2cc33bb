"""Files with the weights of a TokenAdapt: our own, and the published checkpoints of SeiT++."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tokenstore.augment.token_adapt import AdapterConfig, TokenAdapt
from tokenstore.checkpoints import read_checkpoint
from tokenstore.errors import AdapterError, TokenizerError
from tokenstore.manifest import TokenizerIdentity

__all__ = ["load_adapter", "save_adapter"]

_FORMAT = "tokenstore.token_adapt.1"


def save_adapter(adapter: TokenAdapt, path: Path | str) -> None:
    """Write f and g, with their sizes and tokenizer, as a safetensors file, whole or not at all."""
    metadata = {"format": _FORMAT, "config": json.dumps(asdict(adapter.config))}
    if adapter.tokenizer is not None:
        metadata["tokenizer"] = json.dumps(asdict(adapter.tokenizer))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.tensors().items()}
    partial = Path(f"{path}.partial")
    save_file(tensors, partial, metadata)
    partial.replace(path)


def load_adapter(path: Path | str, augmentation: nn.Module | None = None) -> TokenAdapt:
    """The adapter in a file of `save_adapter`, or in a checkpoint of SeiT++ (.pth, .ckpt or .safetensors).

    Of a checkpoint only f and g are taken; nothing in it is executed. Raises AdapterError where the file is
    none of these.
    """
    path = Path(path)
    try:
        metadata, tensors = _read(path)
        if "config" not in metadata:
            return TokenAdapt.from_tensors(tensors, augmentation=augmentation)
        config = AdapterConfig(**json.loads(metadata["config"]))
        identity = metadata.get("tokenizer")
        tokenizer = None if identity is None else TokenizerIdentity(**json.loads(identity))
        return TokenAdapt.from_tensors(tensors, config, augmentation, tokenizer)
    except (AdapterError, TokenizerError, SafetensorError, OSError, ValueError, TypeError) as error:
        raise AdapterError(f"{path}: expected the weights of a TokenAdapt: {error}") from error


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata, where it is a file of ours, and tensors by name."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") == _FORMAT:
                return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = read_checkpoint(path)
    return {}, {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
