"""A dataset whose samples come in the order that a sampler of torch draws for each epoch."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Any, Self

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from tokenstore.errors import ArgumentError
from tokenstore.loading.dataset import Shuffle, TokenDataset
from tokenstore.loading.sampling import Indices, Listed, Order
from tokenstore.randomness import derived_seed
from tokenstore.reading import Rows, Subset

__all__ = ["sampled"]

_DRAWING = frozenset(("multinomial", "normal", "poisson", "rand", "randint", "randn", "randperm"))
"""The functions of torch that draw random numbers from a generator that they are given.

Besides them, the methods that fill a tensor do, such as `random_`.
"""
_FILLING = re.compile("bernoulli_?|(cauchy|exponential|geometric|log_normal|normal|random|uniform)_")

_INSTEAD = (
    "torch.utils.data.DataLoader(dataset, sampler=...) takes any sampler, and decodes a batch in one call"
)


def sampled(dataset: TokenDataset, sampler: Iterable[int] | None, shuffle: object) -> TokenDataset:
    """Return a dataset with the order of a sampler, or as it is without one.

    Raises ArgumentError for a sampler besides `shuffle`, and as `SampledDataset` does.
    """
    if sampler is None:
        return dataset
    if shuffle:
        raise ArgumentError("sampler, shuffle: expected one at most, found both; each says the order")
    return SampledDataset(dataset, sampler)


class SampledDataset(TokenDataset):
    """The samples of a dataset that a sampler draws, which TokenLoader's `sampler` makes.

    The sampler draws from its own `generator` or, where it has none, from one in the place of torch's default
    generator. Both are seeded by (seed, epoch): the order of an epoch is the same on every rank, and after
    resuming. As a map-style dataset, its samples are those of epoch 0 with seed 0.

    Raises ArgumentError for a mixed dataset, for a sampler that does its own division among ranks, gives
    anything but as many indices of samples as its length says, or draws otherwise the second time.
    """

    def __init__(self, dataset: TokenDataset, sampler: Iterable[int]) -> None:
        if len(dataset.rows) != len(dataset):
            raise ArgumentError("sampler: expected a dataset that is not mixed; a mixture has its own order")
        if hasattr(sampler, "num_replicas"):
            raise ArgumentError(
                "sampler: leave it out, since TokenLoader gives each rank its part; give shuffle, seed, "
                "drop_last or pad, and rank and world_size where torch.distributed does not know them"
            )
        self._set_up(dataset.rows, dataset.columns, dataset.transform, dataset.target_transform, dataset.view)
        self._sampler = sampler
        for seeds_default in (False, True):
            self._seeds_default = seeds_default
            self._last: tuple[tuple[int, int], Indices] | None = None
            self._first = self._drawn(0, 0)
            if np.array_equal(self._draw(0, 0), self._first) and not self._reads_seed():
                break
        else:
            raise ArgumentError(
                "sampler: expected an order that depends on torch's random numbers alone, which can be "
                f"resumed; {type(sampler).__name__} draws another one each time. {_INSTEAD}"
            )

    def __len__(self) -> int:
        return len(self._first)

    @property
    @override
    def fingerprint(self) -> str:
        digest = sha256(self._first.astype("<i8").tobytes()).hexdigest()
        return f"{self.rows.fingerprint} {type(self._sampler).__name__}[{digest[:16]}]"

    @override
    def _subset(self, rows: Callable[[], Rows]) -> Self:
        """Raise ArgumentError: samples are selected before a sampler draws of them."""
        raise ArgumentError("expected a dataset without a sampler: select, filter or split before loading")

    @override
    def order(self, seed: int, epoch: int, shuffle: Shuffle, window: int) -> Order:
        return Listed(self._drawn(seed, epoch))

    def _row_numbers(self, positions: Indices) -> Indices:
        return self._first[positions]

    @override
    def _ordered_rows(self) -> Rows:
        return Subset(self.rows, self._row_numbers(np.arange(len(self))))

    def _reads_seed(self) -> bool:
        """Return True if nothing was drawn here, but torch's default generator gives another order."""
        if self._seeds_default or self._draws_here:
            return False
        self._seeds_default = True
        by_default = self._draw(0, 0)
        self._seeds_default = False
        return not np.array_equal(by_default, self._first)

    def _drawn(self, seed: int, epoch: int) -> Indices:
        """Return the row numbers of an epoch; those of the last one asked for are kept."""
        if self._last is None or self._last[0] != (seed, epoch):
            self._last = (seed, epoch), self._draw(seed, epoch)
        return self._last[1]

    def _draw(self, seed: int, epoch: int) -> Indices:
        sampler: Any = copy.copy(self._sampler)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        own = getattr(sampler, "generator", None)
        if isinstance(own, torch.Generator):
            sampler.generator = torch.Generator().manual_seed(derived_seed(own.initial_seed(), seed, epoch))
        draws = _default_seeded if self._seeds_default else _Drawing
        with draws(derived_seed(seed, epoch)) as drawing:
            drawn = list(sampler)
        self._draws_here = drawing is not None and drawing.is_used
        return self._checked(drawn, sampler)

    def _checked(self, drawn: list[Any], sampler: Any) -> Indices:
        expected = len(sampler) if hasattr(sampler, "__len__") else len(drawn)
        rows = np.array(drawn) if drawn else np.empty(0, np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ArgumentError(f"sampler: expected indices of samples, found {drawn[0]!r:.100}. {_INSTEAD}")
        wrong = rows[(rows < 0) | (rows >= len(self.rows))]
        if len(wrong):
            raise ArgumentError(
                f"sampler: expected indices from 0 to {len(self.rows) - 1}, found {wrong[0]}; make the "
                "sampler of the dataset that is loaded"
            )
        if len(rows) != expected:
            raise ArgumentError(f"sampler: expected {expected} indices as its length is, found {len(rows)}")
        return rows.astype(np.int64)


class _Drawing(TorchFunctionMode):
    """A context whose thread draws from a generator of its own in the place of torch's default generator."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)
        self.is_used = False
        """True after a number was drawn."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if (name in _DRAWING or _FILLING.fullmatch(name)) and kwargs.get("generator") is None:
            kwargs["generator"], self.is_used = self._generator, True
        return func(*args, **kwargs)


@contextlib.contextmanager
def _default_seeded(seed: int) -> Iterator[None]:
    """Seed torch's default generator meanwhile, of all threads, for samplers that draw in other ways."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
