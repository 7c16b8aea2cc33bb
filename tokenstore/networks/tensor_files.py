"""The safetensors files of networks: what they declare, compared before any memory is taken for it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

__all__ = ["Shapes", "check_shapes", "check_sizes", "declared_shapes", "metadata_value", "shapes_of"]

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shapes of tensors by name."""

_LONGEST = 1 << 22
"""The most characters of a JSON value in a file's metadata: class names and kept codes are far below."""
_LAYERS = frozenset({"depth", "decoder_depth"})
"""The names of sizes that count layers, each of which has tensors."""


def metadata_value(metadata: Mapping[str, str], name: str, default: str | None = None) -> Any:
    """Return the JSON value in a file's metadata; raise ValueError if it is missing, too long or too deep."""
    text = metadata.get(name, default)
    if text is None or len(text) > _LONGEST:
        actual = "none" if text is None else f"{len(text)} characters"
        raise ValueError(f"{name}: expected a JSON value of up to {_LONGEST} characters, found {actual}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: expected a JSON value, found {text[:80]!r} ({error})") from error


def declared_shapes(file: Any) -> Shapes:
    """Return the shapes of the tensors in an open safetensors file, without reading them."""
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def check_sizes(sizes: object, shapes: Shapes) -> None:
    """Raise ValueError for a size beyond all that tensors of these shapes can have: building would not end.

    `sizes` are values by name. Layers are no more than tensors, and every other whole number no more than the
    elements of all tensors.
    """
    if not isinstance(sizes, Mapping):
        raise ValueError(f"expected sizes by name, found a {type(sizes).__name__}")
    elements = sum(int(torch.Size(shape).numel()) for shape in shapes.values())
    for name, value in sizes.items():
        most = len(shapes) if name in _LAYERS else max(elements, 1)
        values = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, Mapping):
            check_sizes(value, shapes)
        elif any(isinstance(each, int) and abs(each) > most for each in values):
            raise ValueError(f"{name}: expected at most {most} for the tensors in the file, found more")


def shapes_of(build: Callable[[], nn.Module]) -> Shapes:
    """Return the shapes of the tensors of the network that `build` makes, without taking memory for them."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes of a file that may yet be refused
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}


def check_shapes(expected: Shapes, actual: Shapes) -> None:
    """Raise ValueError for the first tensor that is missing, unknown, or of another shape."""
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise ValueError(
                f"{name:.80}: expected shape {expected.get(name, 'none')}, found {actual.get(name, 'none')}"
            )
