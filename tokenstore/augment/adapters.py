"""The files with the weights of a TokenAdapt: our own, and the published checkpoints of SeiT++."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from tokenstore.augment.adapter_config import AdapterConfig, described_sizes
from tokenstore.augment.token_adapt import TokenAdapt
from tokenstore.errors import AdapterError, TokenizerError
from tokenstore.files import write_file
from tokenstore.format import TokenizerIdentity
from tokenstore.format.fields import FieldError, Reader, fields_of, integer, list_of
from tokenstore.networks.checkpoints import read_dense_tensors
from tokenstore.networks.tensor_files import check_shapes, check_sizes, declared_shapes, metadata_value

__all__ = ["has_packaged_adapter", "load_adapter", "save_adapter"]

_WEIGHTS = Path(__file__).parent / "weights"
PACKAGED_ADAPTERS = {
    name: _WEIGHTS / f"{name}.safetensors" for name in ("conv-vq-symmetric-8x-2k", "conv-vq-8x-2k")
}
"""The packaged adapters by the names of their tokenizers; the first one is the default tokenizer's."""

_FORMAT = "tokenstore.token_adapt.1"


def save_adapter(adapter: TokenAdapt, path: Path | str, dtype: torch.dtype | None = None) -> None:
    """Write f and g, with their sizes and tokenizer, as a safetensors file, whole or not at all.

    `dtype` is the dtype in the file, such as torch.float16 for half its size; `load_adapter` gives float32
    again. Raises OSError where the file cannot be written.
    """
    config = {name: value for name, value in asdict(adapter.config).items() if name != "scales" or value}
    metadata = {"format": _FORMAT, "config": json.dumps(config)}
    if adapter.tokenizer is not None:
        metadata["tokenizer"] = json.dumps(adapter.tokenizer.to_dict())
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in adapter.tensors().items()
    }
    write_file(path, save(tensors, metadata))


def load_adapter(
    path: Path | str = "default",
    augmentation: nn.Module | None = None,
    *,
    tokenizer: TokenizerIdentity | None = None,
) -> TokenAdapt:
    """Load an adapter from a file of `save_adapter`, or from a checkpoint of SeiT++.

    A checkpoint is a .pth, .ckpt or .safetensors file: only f and g are read, and nothing in it is executed.
    "default" is the packaged adapter of `tokenizer`, or without it of the default tokenizer. `tokenizer`
    identifies the tokenizer of the codes to augment, such as a dataset's. The adapter must be made for that
    tokenizer, as far as both are known; where the codes were pruned, the adapter returned gives the pruned
    codes. Raises AdapterError where the file has no adapter, or one for another tokenizer.
    """
    adapter = _loaded(_packaged(tokenizer) if path == "default" else Path(path), augmentation)
    return adapter if tokenizer is None else _fitted(adapter, tokenizer, path)


def has_packaged_adapter(tokenizer: TokenizerIdentity) -> bool:
    """Return True if the package has an adapter for the codes of a tokenizer."""
    return tokenizer.name in PACKAGED_ADAPTERS


def _packaged(tokenizer: TokenizerIdentity | None) -> Path:
    """Return the packaged adapter of a tokenizer; that of the default one where there is none."""
    default = next(iter(PACKAGED_ADAPTERS.values()))
    return default if tokenizer is None else PACKAGED_ADAPTERS.get(tokenizer.name, default)


def _fitted(adapter: TokenAdapt, tokenizer: TokenizerIdentity, path: Path | str) -> TokenAdapt:
    """Return the adapter for the codes of a store, which may have been pruned. Raises AdapterError."""
    own = adapter.tokenizer or TokenizerIdentity("an unknown tokenizer")
    other = None not in (own.fingerprint, tokenizer.fingerprint) and own.fingerprint != tokenizer.fingerprint
    if other or own.kept_codes not in (None, tokenizer.kept_codes):
        raise AdapterError(
            f"{path}: expected an adapter for the codes of {_described(tokenizer)}, found one for those of "
            f"{_described(own)}; seitpp_models.adapter.train_tokenadapt trains one"
        )
    pruned, sizes = tokenizer.kept_codes, adapter.config.codebook_sizes
    if pruned == own.kept_codes or pruned is None:
        return adapter
    if own.fingerprint is None and tuple(map(len, pruned)) == sizes:
        return adapter  # a published adapter, made for the same number of codes
    if own.fingerprint is None or not len(pruned) == len(sizes) == 1 or max(pruned[0]) >= sizes[0]:
        raise AdapterError(
            f"{path}: expected an adapter for codes of {_described(tokenizer)}, found one for "
            f"{described_sizes(sizes)} of {own}; seitpp_models.adapter.train_tokenadapt trains one"
        )
    rows = torch.tensor(pruned[0])
    head = "reverse_transform.1."
    tensors = {
        name: tensor[rows] if name.startswith(head) else tensor for name, tensor in adapter.tensors().items()
    }
    config = replace(adapter.config, codebook_size=len(rows))
    return TokenAdapt.from_tensors(tensors, config, adapter.augmentation, tokenizer)


def _described(tokenizer: TokenizerIdentity) -> str:
    if tokenizer.kept_codes is None:
        return str(tokenizer)
    return f"{tokenizer}, pruned to {sum(map(len, tokenizer.kept_codes))}"


def _loaded(path: Path, augmentation: nn.Module | None) -> TokenAdapt:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("format") == _FORMAT:
                    return _read_adapter(file, augmentation)
        return TokenAdapt.from_tensors(read_dense_tensors(path), augmentation=augmentation)
    except (
        AdapterError,
        TokenizerError,
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        raise AdapterError(f"{path}: expected the weights of a TokenAdapt: {error!s:.500}") from error


def _read_adapter(file: Any, augmentation: nn.Module | None) -> TokenAdapt:
    metadata, shapes = file.metadata(), declared_shapes(file)
    sizes = fields_of(metadata_value(metadata, "config"), "config", {}, _SIZES | _SCALES, others=False)
    check_sizes(sizes, shapes)
    config = AdapterConfig(**sizes)
    made_for = metadata_value(metadata, "tokenizer", "null")
    tokenizer = None if made_for is None else TokenizerIdentity.from_dict(made_for, "tokenizer")
    check_shapes(TokenAdapt.shapes(config), shapes)
    tensors = {name: file.get_tensor(name) for name in shapes}
    return TokenAdapt.from_tensors(tensors, config, augmentation, tokenizer)


def _codes(value: object, where: str) -> int | tuple[int, ...]:
    """Return a number of codes, or one for each of several codebooks; raises FieldError for others."""
    return tuple(_several_sizes(value, where)) if isinstance(value, list) else _one_size(value, where)


def _number(value: object, where: str) -> float:
    """Return a number; raises FieldError for another value."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FieldError(where, "a number", f"{value!r:.80}")
    return float(value)


_one_size, _several_sizes = integer(1), list_of(integer(1))
_SIZES: dict[str, Reader[Any]] = {
    "codebook_size": _codes,
    **dict.fromkeys(("channels", "width", "heads", "mlp", "depth"), integer(1)),
    **dict.fromkeys(("grid", "size"), list_of(integer(1))),
}
_SCALES: dict[str, Reader[Any]] = {"scales": list_of(_number)}
