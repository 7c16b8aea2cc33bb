"""Which of a network's classes the labels of some data are, found by the names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seitpp_models.errors import ModelError

__all__ = ["ClassMap", "match_classes"]

_SHOWN = 5


@dataclass(frozen=True)
class ClassMap:
    """The classes of some data among a network's K."""

    labels: Tensor
    """(n,) int64: the network's label for each label of the data."""
    kept: Tensor
    """(K,) bool: the classes whose logits count."""


def match_classes(
    names: Sequence[str] | None,
    known: Sequence[str] | None,
    classes: int,
    where: str,
    *,
    all_classes: bool = False,
) -> ClassMap | None:
    """How the classes `names` of the data `where` lie among a network's `classes`, whose names are `known`.

    Classes that the data does not have are left out of the logits, as is usual for ImageNet-R and its
    200 of 1,000 classes, unless `all_classes`. None where labels mean the same already: names are equal, or
    the data has none. Where the network has none, the data must have as many classes, in the same order.

    Raises ModelError for names that the network does not know.
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
    found = torch.tensor([labels[name] for name in names])
    kept = torch.full((classes,), all_classes)
    kept[found] = True
    return ClassMap(found, kept)
