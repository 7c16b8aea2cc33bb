"""The values of columns as samples and batches have them: Python values, tensors, and lists of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from tokenstore.format import LABELS, TOKENS, Column

__all__ = ["batch_values", "collated", "fetched_columns", "sample_values"]


def sample_values(column: Column, values: npt.NDArray[Any]) -> Sequence[Any]:
    """Return stored values (m, *shape) of a column as one value a sample: numbers, texts, or tensors."""
    values = column.values(values)
    if column.is_ragged:
        return _objects(values)
    if values.ndim == 1:
        scalars: list[Any] = values.tolist()
        return scalars
    return torch.from_numpy(values).unbind(0)


def batch_values(name: str, column: Column, values: npt.NDArray[Any]) -> Tensor | list[Any]:
    """Return stored values (m, *shape) of the column `name` as a batch has them.

    Numbers are a tensor (m, *shape), labels int64. Texts are a list of m, and so are lists, each a tensor.
    """
    values = column.values(values)
    if column.is_ragged:
        return _objects(values)
    tensor = torch.from_numpy(values)
    return tensor.long() if name == LABELS else tensor


def _objects(values: npt.NDArray[Any]) -> list[Any]:
    objects: list[Any] = values.tolist()
    if objects and isinstance(objects[0], np.ndarray):  # not texts
        return [torch.from_numpy(each) for each in objects]
    return objects


def collated(names: Sequence[str], is_ragged: Callable[[str], bool], samples: Sequence[Any]) -> Any:
    """Return the batch of some samples, as torch's `default_collate` does; a ragged column is a list.

    `is_ragged` tells a column by its name. A single column is not wrapped in a tuple.
    """
    if not any(map(is_ragged, names)):
        return default_collate(list(samples))
    if len(names) == 1:
        return list(samples)
    by_column = zip(names, zip(*samples, strict=True), strict=True)
    return [list(values) if is_ragged(name) else default_collate(list(values)) for name, values in by_column]


def fetched_columns(names: Sequence[str], column: Callable[[str], Column]) -> tuple[str, ...]:
    """Return those of some columns that are fetched ahead of use: tokens, and what is ragged."""
    return tuple(dict.fromkeys(name for name in names if name == TOKENS or column(name).is_ragged))
