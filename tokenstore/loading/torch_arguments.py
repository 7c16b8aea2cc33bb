"""The arguments of torch's DataLoader that TokenLoader takes besides its own, and the refusal of others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch.utils.data import ConcatDataset, Subset

from tokenstore.errors import ArgumentError, did_you_mean
from tokenstore.loading.dataset import TokenDataset
from tokenstore.loading.mixing import concat

__all__ = ["Taken", "TorchArguments", "drawn_seed", "own_dataset"]


class TorchArguments(TypedDict, total=False):
    """The arguments of torch's DataLoader that have another name in TokenLoader, or no use there."""

    sampler: Iterable[int] | None
    generator: torch.Generator | None
    num_workers: int
    prefetch_factor: int | None
    batch_sampler: None
    timeout: float
    worker_init_fn: None
    multiprocessing_context: None
    persistent_workers: bool
    pin_memory_device: str
    in_order: bool


_NO_WORKERS = "leave it out: threads of this process decode, and there are no worker processes"
_INSTEAD = {
    "batch_sampler": (
        None,
        "give batch_size and shuffle, or let torch's DataLoader read the dataset with it",
    ),
    "timeout": (0, _NO_WORKERS),
    "worker_init_fn": (None, _NO_WORKERS),
    "multiprocessing_context": (None, _NO_WORKERS),
    "persistent_workers": (False, _NO_WORKERS),
    "pin_memory_device": ("", "give device, which batches are copied to"),
    "in_order": (True, "leave it out: batches always come in order"),
}
"""The arguments without a use: the default, which means nothing, and what to do instead."""


@dataclass(frozen=True)
class Taken:
    """The arguments of a TokenLoader that torch's may stand for."""

    seed: int | None
    num_threads: int | None
    prefetch: int
    sampler: Iterable[int] | None = None

    def updated(self, arguments: TorchArguments, own_names: Iterable[str]) -> Taken:
        """Return the arguments with those that torch's stand for; `own_names` are the loader's own names.

        `num_workers` is the number of threads, `prefetch_factor` is `prefetch`, and `generator` draws the
        seed. Raises ArgumentError for two arguments of one meaning and for an argument without a use,
        TypeError for an unknown one.
        """
        others: dict[str, Any] = dict(arguments)
        _refuse_strangers(others, own_names)
        taken = replace(self, sampler=others.get("sampler"))
        if (generator := others.get("generator")) is not None:
            _refuse_both("seed", self.seed, 0, "generator")
            taken = replace(taken, seed=int(torch.randint(2**63 - 1, (), generator=generator)))
        if (workers := others.get("num_workers")) is not None:
            _refuse_both("num_threads", self.num_threads, None, "num_workers")
            taken = replace(taken, num_threads=workers)
        if (factor := others.get("prefetch_factor")) is not None:
            _refuse_both("prefetch", self.prefetch, 2, "prefetch_factor")
            taken = replace(taken, prefetch=factor)
        return taken


def drawn_seed(world_size: int) -> int:
    """Draw a seed by torch's default generator. Raises ValueError if there are ranks, which have to agree."""
    if world_size > 1:
        raise ValueError(f"seed: expected a number, the same on all {world_size} ranks, found None")
    return int(torch.randint(2**63 - 1, ()))


def own_dataset(dataset: Any) -> TokenDataset:
    """Return a TokenDataset as it is, and torch's Subset or ConcatDataset of such as a view.

    Raises ValueError for another dataset, and as `select` and `concat` do.
    """
    if isinstance(dataset, Subset):
        return own_dataset(dataset.dataset).select(list(dataset.indices))
    if isinstance(dataset, ConcatDataset):
        return concat([own_dataset(part) for part in dataset.datasets])
    if isinstance(dataset, TokenDataset):
        return dataset
    raise ValueError(
        f"dataset: expected a TokenDataset, found {type(dataset).__name__}. Open a store by "
        "tokenstore.TokenDataset(path); torch's DataLoader reads other datasets"
    )


def _refuse_strangers(arguments: Mapping[str, Any], own_names: Iterable[str]) -> None:
    for name, value in arguments.items():
        if name not in TorchArguments.__annotations__:
            known = [*own_names, *TorchArguments.__annotations__]
            raise TypeError(f"TokenLoader has no argument {name!r}{did_you_mean(name, known)}")
        if name in _INSTEAD and value != _INSTEAD[name][0]:
            raise ArgumentError(f"{name}: TokenLoader has no use for it; {_INSTEAD[name][1]}")


def _refuse_both(own: str, value: object, default: object, other: str) -> None:
    if value != default:
        raise ArgumentError(f"{own}, {other}: expected one at most, found both; they mean the same here")
