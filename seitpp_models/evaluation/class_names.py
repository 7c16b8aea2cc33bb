"""The map from the labels of some data to a network's classes, by the names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seitpp_models.errors import ModelError

__all__ = ["ClassMap", "match_classes"]

_SHOWN = 5
"""The most names that a message lists."""


@dataclass(frozen=True)
class ClassMap:
    """The map from the n classes of some data to the K classes of a network."""

    labels: Tensor
    """The network's label for each label of the data, (n,) int64."""
    counted: Tensor
    """True for the classes whose logits count, (K,) bool."""


def match_classes(
    names: Sequence[str] | None,
    known: Sequence[str] | None,
    classes: int,
    where: str,
    *,
    all_classes: bool = False,
) -> ClassMap | None:
    """Match the class `names` of some data with the names `known` of a network's classes.

    `classes` is the number of the network's classes, and `where` names the data in messages. The logits of
    classes that the data does not have do not count, as is usual for ImageNet-R with 200 of 1,000 classes;
    with `all_classes`, all logits count. Returns None if labels mean the same in both: the names are equal,
    or the data has no names, or the network has none and as many classes.

    Raises ModelError for names that the network does not know, and for numbers of classes that differ.
    """
    if names is None or (known is not None and tuple(names) == tuple(known)):
        return None
    if known is None:
        if len(names) == classes:
            return None
        raise ModelError(
            f"{where}: expected {classes} classes in the network's order, for its file has no names of them, "
            f"found {len(names)}"
        )
    if len(known) != classes:
        raise ModelError(f"expected names of the network's {classes} classes in its file, found {len(known)}")
    labels = {name: label for label, name in enumerate(known)}
    strangers = [name for name in names if name not in labels]
    if strangers:
        more = f" and {len(strangers) - _SHOWN} more" if len(strangers) > _SHOWN else ""
        raise ModelError(
            f"{where}: expected classes of the network's {classes}, such as {', '.join(known[:_SHOWN])}; "
            f"found {', '.join(strangers[:_SHOWN])}{more}. Give the class folders the network's names, and "
            "move others away"
        )
    matched = torch.tensor([labels[name] for name in names])
    counted = torch.full((classes,), all_classes)
    counted[matched] = True
    return ClassMap(matched, counted)
