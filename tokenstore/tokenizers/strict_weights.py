"""The tensors of a checkpoint as the weights of a network: all of them, of the right shapes, no others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from tokenstore.errors import TokenizerError
from tokenstore.networks.checkpoints import listed, read_checkpoint

__all__ = [
    "Shapes",
    "averaged_names",
    "fill",
    "load_network",
    "most_frequent",
    "numbers_in",
    "shape_at",
    "shapes_of",
]

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of tensors by name."""
Module = TypeVar("Module", bound=nn.Module)

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_AVERAGED = "model_ema."
"""The beginning of the names of averaged weights, in Lightning's checkpoints of several programs."""
_AVERAGING = ("model_ema.decay", "model_ema.num_updates", "model_ema.loss")
"""The beginnings of the names of averaged values that no code depends on."""
_MOST_NUMBERS = 1 << 33
"""The most numbers of a network: more than any image tokenizer that is published has."""


def load_network(
    path: Path, build: Callable[[Mapping[str, object], int], Module], *, of_runs: bool = True
) -> Module:
    """Return the network that `build` makes of a checkpoint's values by name and the file's size in bytes.

    The file is a safetensors file or one of torch.save, of tensors alone or, with `of_runs`, of a whole run.
    Nothing in it is ever executed. Raises TokenizerError, with the path, where the file is absent or damaged,
    and for what `build` refuses.
    """
    try:
        return build(read_checkpoint(path, of_runs=of_runs), path.stat().st_size)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
    except OSError as error:
        raise TokenizerError(f"{path}: expected a checkpoint file, found {error}") from error


def fill(
    make: Callable[[], Module],
    values: Mapping[str, object],
    file_nbytes: int,
    label: str,
    name_in_file: Callable[[str], str] = str,
) -> Module:
    """Return a network in float32 and eval mode with weights that are exactly the values of a checkpoint.

    `make` builds the network, `name_in_file` gives the checkpoint's name of each of its tensors. Raises
    TokenizerError, with lists of names, for tensors that are missing, unexpected, of another shape, no dense
    floats, or not finite.
    """
    with torch.device("meta"):  # subtle: shapes are compared before any memory is taken
        network = make()
    own = network.state_dict()
    assert own.keys() >= dict(network.named_buffers()).keys(), "no file holds these buffers"
    expected = {name_in_file(name): tuple(tensor.shape) for name, tensor in own.items()}
    if sum(tensor.numel() for tensor in own.values()) > _MOST_NUMBERS:
        raise TokenizerError(f"expected a network of at most {_MOST_NUMBERS:,} numbers, found a larger one")
    check_values(values, expected, label)
    tensors = {name: values[name_in_file(name)] for name in own}
    if sum(tensor.nbytes for tensor in tensors.values() if isinstance(tensor, Tensor)) > 2 * file_nbytes:
        # subtle: a few stored bytes can claim to be tensors of any size, by strides of zero
        raise TokenizerError("expected dense tensors, found ones of fewer stored bytes than their shapes")
    network.to_empty(device="cpu").load_state_dict(tensors)
    wrong = [name_in_file(name) for name, tensor in network.state_dict().items() if not _is_finite(tensor)]
    if wrong:
        raise TokenizerError(
            f"expected finite numbers, found NaN or infinity in {len(wrong)}: {listed(wrong)}"
        )
    return network.float().eval().requires_grad_(False)


def check_values(values: Mapping[str, object], expected: Shapes, label: str) -> None:
    """Raise TokenizerError, with lists of names, unless values are dense float tensors of expected shapes."""
    problems = {
        "missing": [name for name in expected if name not in values],
        "unexpected": [name for name in values if name not in expected],
        "not a dense tensor of floats": [
            f"{name} ({getattr(values[name], 'dtype', type(values[name]).__name__)})"
            for name in expected
            if name in values and not _is_weight(values[name])
        ],
        "of another shape": [
            f"{name} (expected {shape}, found {tuple(value.shape)})"
            for name, shape in expected.items()
            if _is_weight(value := values.get(name)) and tuple(value.shape) != shape
        ],
    }
    if any(problems.values()):
        lines = [f"  {len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names]
        raise TokenizerError("\n".join([f"expected the {len(expected)} tensors of {label}, found", *lines]))


def averaged_names(values: Mapping[str, object]) -> tuple[dict[str, object], Callable[[str], str]]:
    """Return those values of a run that are a network's weights, and the function from its names to theirs.

    Where a run has averaged weights (`model_ema.`, with names without dots) beside those of its last step,
    the averaged ones are taken.
    """
    averaged = any(name.startswith(_AVERAGED) for name in values)
    weights = {
        name: value
        for name, value in values.items()
        if name.startswith(_AVERAGED) == averaged and not name.startswith(_AVERAGING)
    }
    return weights, (lambda name: _AVERAGED + name.replace(".", "")) if averaged else str


def shapes_of(values: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of those values that are dense tensors of floats."""
    return {name: tuple(value.shape) for name, value in values.items() if _is_weight(value)}


def shape_at(shapes: Shapes, name: str, axes: int, label: str) -> tuple[int, ...]:
    """Return the shape of a tensor that sizes follow from; raise TokenizerError unless it has those axes."""
    shape = shapes.get(name)
    if shape is None or len(shape) != axes or not all(shape):
        actual = "none" if shape is None else f"the shape {shape}"
        raise TokenizerError(
            f"expected {label}, whose sizes follow from {name} of {axes} axes; found {actual}, among the "
            f"tensors {listed(shapes) or 'none'}"
        )
    return shape


def numbers_in(names: Iterable[str], pattern: str) -> list[int]:
    """Return the distinct numbers, sorted, that a pattern's only group has in names that begin with it."""
    finder = re.compile(pattern)
    return sorted({int(match[1]) for name in names if (match := finder.match(name)) and len(match[1]) < 5})


def most_frequent(counts: Collection[int]) -> int:
    """Return the most frequent of some numbers, the largest of equally frequent ones; 0 for none."""
    ranked = Counter(counts).items()
    return max(ranked, key=lambda item: (item[1], item[0]), default=(0, 0))[0]


def _is_weight(value: object) -> TypeGuard[Tensor]:
    return (
        isinstance(value, Tensor)
        and value.dtype in _FLOATS
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
    )


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
