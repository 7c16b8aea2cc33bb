"""TokenLoader: batches for a training loop, decoded by threads, in an exact order that can be resumed."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Literal, Unpack, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from tokenstore.errors import ResumeError
from tokenstore.format import TOKENS
from tokenstore.loading.columns import batch_values, fetched_columns
from tokenstore.loading.dataset import TokenDataset
from tokenstore.loading.display import LoaderDisplay
from tokenstore.loading.orders import Shuffle, default_window
from tokenstore.loading.pipeline import (
    Buffers,
    DeviceCopies,
    in_order,
    no_end,
    numbered,
    pass_to_caller,
)
from tokenstore.loading.prefetching import Prefetcher
from tokenstore.loading.resident import ResidentView
from tokenstore.loading.sampled import sampled
from tokenstore.loading.sampling import Order, Steps, load_kernels, whole_number
from tokenstore.loading.torch_arguments import Taken, TorchArguments, drawn_seed, own_dataset
from tokenstore.loading.views import HAVE_VIEWS
from tokenstore.machine import available_cores
from tokenstore.randomness import check_key, derived_seed
from tokenstore.reading import Indices, Rows

__all__ = ["TokenLoader"]

_MOST_THREADS = 16
"""The most threads by default."""
_CACHED_WINDOWS = 3
"""The number of a block shuffle's windows that the cache has room for: the last, the present, the next."""
_SPAN_BATCHES = 16
"""The number of steps whose tokens are fetched at once, in orders without windows."""
_STATE_VERSION = 1


class TokenLoader(LoaderDisplay):
    """Batches of a dataset, each `(tokens, labels)`: tokens (B, *grid) int64, labels (B,) int64, on `device`.

    Each `for` loop is the next epoch, also where the last one was left early; only a loaded state is gone on
    with. Every run has the same order, as `seed` is 0 by default; `seed=None` draws one by torch's generator.

    The arguments are those of torch's DataLoader where they mean the same. A dataset of one column gives that
    column's tensor alone; columns other than tokens and labels have their stored dtype, texts are a list of
    `str` and lists a list of tensors. There are no worker processes. `num_threads` threads (by default one
    a core; 0: the caller's) decode up to `prefetch` batches each ahead of use, into buffers that are reused
    once no tensor made of them is used. `dataset` may be torch's Subset or ConcatDataset of TokenDatasets.

    **From torch.** `sampler` draws the indices of each epoch's samples, as torch's WeightedRandomSampler and
    others do (ranks need no DistributedSampler); its random numbers are seeded by seed and epoch.
    `num_workers` stands for `num_threads`, `prefetch_factor` for `prefetch`, and `generator` draws the seed.

    **Order.** With `shuffle`, the order of an epoch is a function of seed, epoch and the dataset alone: the
    same for every number of ranks, threads and batch size. `shuffle=True` is "full" where the store is on
    this machine or resident: a permutation of all samples. Elsewhere it is "lanes": runs of neighbouring
    samples are permuted, and then the samples within windows of about `shuffle_window` samples, so that each
    run is fetched once an epoch. Samples come from 384 lanes in turn (fewer in a small window), and a rank
    reads lanes of its own, so that each run is fetched by one rank. "block" is the same without lanes: every
    rank reads from every run.

    **Ranks.** Each step takes the next batch_size * world_size samples, and each rank gets an equal part. In
    the order "lanes", ranks fetch each run once in all where their number divides 384, and some runs more
    often where it does not; the batch of one of W ranks is from a W-th of a window's runs. By
    default `rank` and `world_size` are those of torch.distributed, or those that torchrun sets. All ranks
    have equally many batches. At the end of an epoch, samples that do not fill a step are left out
    (`drop_last`), filled up with the epoch's first samples (`pad`), or by default shared out: each sample
    comes once and the last batches are smaller. (First samples come again by default only where fewer samples
    than ranks are left and no batch can give one away, as with a batch size of 1.)

    **Resuming.** `state_dict()` is the position of the training loop: after the last batch it got. A loader
    that loads the state gives the rest of that epoch and nothing else, with any number of ranks and threads,
    from any place where the same store is. An epoch counts as begun with the first batch that is given out:
    the next loop is the next epoch, and `set_epoch` with the same number begins it again. The state of a loop
    that was left early is in the epoch that it left. Where one rank looks at a batch before training, all of
    them call `set_epoch`.

    `resident="ram"` first reads the compressed split into memory. `resident="gpu"` reads it into the memory
    of the device (by default "cuda"), where batches are then decoded.

    `batch_transform(*columns, generator=...)` gets a batch's tensors and returns the batch to give out. The
    threads call it with a torch.Generator that depends on seed, epoch and the position in the epoch.
    `collate_fn` makes a batch of a list of samples, as for torch's DataLoader. `collate_fn` and the dataset's
    transforms work sample by sample, which is slower.

    Raises ValueError for arguments that are out of range or exclude each other, and StoreError for
    `resident="gpu"` of tokens that no device decodes. Iterating raises DamageError, and StorageError where
    remote storage does not answer.
    """

    def __init__(
        self,
        dataset: TokenDataset | Subset[Any] | ConcatDataset[Any],
        batch_size: int = 1,
        shuffle: bool | Literal["full", "block", "lanes"] = False,
        seed: int | None = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        num_threads: int | None = None,
        prefetch: int = 2,
        device: torch.device | str | None = None,
        pin_memory: bool | None = None,
        resident: Literal["ram", "gpu"] | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        batch_transform: Callable[..., Any] | None = None,
        pad: bool = False,
        shuffle_window: int | None = None,
        **of_torch: Unpack[TorchArguments],
    ) -> None:
        own_names = TokenLoader.__init__.__annotations__
        taken = Taken(seed, num_threads, prefetch).updated(of_torch, own_names)
        self.dataset = sampled(own_dataset(dataset), taken.sampler, shuffle)
        self.batch_size = batch_size
        self._rank, self._world_size = rank, world_size
        self.seed = drawn_seed(self.world_size) if taken.seed is None else taken.seed
        self.drop_last = drop_last
        self.pad = pad
        self.num_threads = (
            min(available_cores(), _MOST_THREADS) if taken.num_threads is None else taken.num_threads
        )
        self.prefetch = taken.prefetch
        self.device = numbered(device if device is not None else "cuda" if resident == "gpu" else "cpu")
        self.pin_memory = torch.cuda.is_available() and (
            self.device.type == "cuda" if pin_memory is None else pin_memory
        )
        self.resident = resident
        self.collate_fn = collate_fn
        self.batch_transform = batch_transform
        self.epoch = 0
        self._consumed = self._resume_at = self._turn = 0
        self._is_begun = False
        self._last: tuple[int, int, int] | None = None
        self.shuffle_window = shuffle_window or 0
        self._check()
        self._resident = ResidentView(self.dataset.rows, self.device) if resident == "gpu" else None
        self._rows = self._source()
        self.shuffle: Shuffle = self._kind_of_shuffle(shuffle)
        if shuffle_window is None:
            self.shuffle_window = default_window(self.dataset.rows.manifests[0])
        self._view = copy.copy(self.dataset)
        self._view.rows = self._rows
        self._copies = DeviceCopies(self.device)
        most = self.batch_size if pad else min(self.batch_size, max(1, len(self.dataset)))
        spare = self.num_threads * self.prefetch + 2
        shape = (most, *self.dataset.column(TOKENS).shape)
        self._buffers = Buffers(shape, torch.int64, self.pin_memory, spare)
        self._reserve_cache()
        self._order(0)
        load_kernels()  # so that the first batch does not wait for them

    def _check(self) -> None:
        if (self._rank is None) != (self._world_size is None):
            raise ValueError("rank, world_size: expected both or neither")
        if self._rank is not None and not 0 <= self._rank < (self._world_size or 0):
            raise ValueError(f"rank: expected 0 to world_size - 1, found {self._rank} of {self._world_size}")
        for name, least in (("batch_size", 1), ("num_threads", 0), ("prefetch", 1), ("shuffle_window", 0)):
            setattr(self, name, whole_number(name, getattr(self, name), least))
        check_key(self.seed)
        self.seed = int(self.seed)
        if self.drop_last and self.pad:
            raise ValueError("drop_last, pad: expected one at most, found both; leave out the other")
        if self.resident not in (None, "ram", "gpu"):
            raise ValueError(f"resident: expected None, 'ram' or 'gpu', found {self.resident!r}")
        if self.collate_fn is not None and self.batch_transform is not None:
            raise ValueError("collate_fn, batch_transform: expected one at most, found both")
        if self.resident == "gpu" and self._by_sample:
            raise ValueError("resident='gpu': samples are not read one by one; use batch_transform")

    def _source(self) -> Rows:
        """Return the rows that columns are read from, the tokens among them where they are not on a GPU."""
        if self.resident is None:
            return self.dataset.rows
        on_gpu = (TOKENS,) if self.resident == "gpu" else ()
        return self.dataset.rows.in_memory([name for name in self.dataset.columns if name not in on_gpu])

    def _kind_of_shuffle(self, shuffle: bool | Literal["full", "block", "lanes"]) -> Shuffle:
        if shuffle in (False, None):
            return "none"
        if shuffle is True:
            return "full" if self._is_local else "lanes"
        if shuffle in ("full", "block", "lanes"):
            return shuffle
        raise ValueError(f"shuffle: expected True, False, 'full', 'block' or 'lanes', found {shuffle!r}")

    @property
    def _is_local(self) -> bool:
        return self._resident is not None or self._rows.is_local

    @property
    def rank(self) -> int:
        """The number of this process among the ranks, from 0."""
        return self._rank_of_world()[0]

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self._rank_of_world()[1]

    def _rank_of_world(self) -> tuple[int, int]:
        if self._rank is not None and self._world_size is not None:
            return self._rank, self._world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, the same on every rank."""
        return len(self._steps(0))

    def __repr__(self) -> str:
        return (
            f"TokenLoader({self.dataset!r}, batch_size={self.batch_size}, shuffle={self.shuffle!r}, "
            f"seed={self.seed}, rank {self.rank} of {self.world_size})"
        )

    def _reserve_cache(self) -> None:
        if self.shuffle in ("block", "lanes") and self._resident is None:
            order = self._order(0)
            samples = order.samples_in_memory(self._span) // math.gcd(order.lanes, self.world_size)
            samples = samples or _CACHED_WINDOWS * self.shuffle_window
            self._rows.reserve_cache(samples, fetched_columns(self.dataset.columns, self.dataset.column))

    @property
    def _span(self) -> int:
        """The number of positions whose tokens are fetched at once, in orders without windows."""
        return _SPAN_BATCHES * self.batch_size * self.world_size

    @property
    def last_rows(self) -> Indices:
        """The row numbers (B,) int64 in the dataset of the last batch given out; (0,) before the first."""
        if self._last is None:
            return np.zeros(0, np.int64)
        epoch, consumed, step = self._last
        order = self._order(epoch)
        return _row_numbers(order, self._steps(consumed, order).positions(step, self.rank))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next loop. The epoch of a loaded state is continued, not begun again."""
        if epoch != self.epoch:
            self._turn += 1
            self.epoch, self._resume_at = int(epoch), 0
        self._consumed, self._is_begun = self._resume_at, False

    @property
    def sampler(self) -> TokenLoader:
        """The loader itself: Lightning calls `set_epoch` of a loader's sampler."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training loop as JSON values, the same on every rank."""
        return {
            "version": _STATE_VERSION,
            "seed": self.seed,
            "epoch": self.epoch,
            "consumed": self._consumed,
            "samples": len(self.dataset),
            "shuffle": self.shuffle,
            "shuffle_window": self.shuffle_window,
            "fingerprint": self.dataset.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken: with its seed, order, epoch and position.

        Raises ResumeError where it is not a loader's state, or the state of other samples.
        """
        expected = self.state_dict()
        if not _is_state(state, expected):
            raise ResumeError(f"expected a TokenLoader's state such as {expected}, found {state!r:.300}")
        if state["fingerprint"] != expected["fingerprint"]:
            raise ResumeError(
                f"cannot go on with other samples: the state is of {state['fingerprint']}, the dataset is "
                f"{expected['fingerprint']} ({self.dataset!r}). Load the store that the state was taken with"
            )
        self.seed, self.epoch = state["seed"], state["epoch"]
        self.shuffle, self.shuffle_window = state["shuffle"], state["shuffle_window"]
        self._consumed = self._resume_at = state["consumed"]
        self._is_begun = False
        self._turn += 1
        self._reserve_cache()

    def __iter__(self) -> Iterator[Any]:
        if self._is_begun:  # by a loop that was left, or that never asked for the end
            self.epoch, self._is_begun = self.epoch + 1, False
        epoch, consumed = self.epoch, self._resume_at
        self._consumed = consumed
        self._turn += 1
        turn = self._turn
        order, rank = self._order(epoch), self.rank
        steps = self._steps(consumed, order)
        prefetcher = None
        fetched = fetched_columns(self.dataset.columns, self.dataset.column)
        if fetched and not self._is_local:
            prefetcher = Prefetcher(self._rows, order, steps, rank, self._span, fetched)

        def prefetching() -> Iterator[tuple[int, list[Future[Any]]]]:
            for step in range(len(steps)):
                yield step, [] if prefetcher is None else prefetcher.prefetch(step)

        def batch(item: tuple[int, list[Future[Any]]]) -> Any:
            step, fetches = item
            fetched = [future.result() for future in fetches]
            positions = steps.positions(step, rank)
            prefetched = fetched[0] if len(fetched) == 1 else None
            return self._batch(_row_numbers(order, positions), prefetched, epoch, int(positions[0]))

        try:
            depth = self.num_threads * self.prefetch
            for step, result in enumerate(in_order(batch, prefetching(), self.num_threads, depth)):
                if turn == self._turn:
                    self._consumed, self._resume_at = steps.consumed_after(step), 0
                    self._is_begun = True
                    self._last = epoch, consumed, step
                yield pass_to_caller(result, self.device)
        finally:
            if prefetcher is not None:
                prefetcher.close()
        if turn == self._turn:
            self.epoch, self._consumed, self._resume_at, self._is_begun = epoch + 1, 0, 0, False

    def _order(self, epoch: int) -> Order:
        return self.dataset.order(self.seed, epoch, self.shuffle, self.shuffle_window)

    def _steps(self, consumed: int, order: Order | None = None) -> Steps:
        samples, world_size, step = len(self.dataset), self.world_size, (self.drop_last, self.pad, consumed)
        if order is None or self.shuffle != "lanes":
            return Steps(samples, self.batch_size, world_size, *step)
        return Steps(samples, self.batch_size, world_size, *step, order.lanes, order.lane_keys)

    def _batch(self, row_numbers: Indices, prefetched: Any, epoch: int, start: int) -> Any:
        """Return the batch of some row numbers, whose first sample is at position `start` of the epoch."""
        if self._by_sample:
            samples = self._view.samples(row_numbers, prefetched, (self.seed, epoch))
            try:
                batch = (self.collate_fn or self._view.collate)(samples)
            except StopIteration as error:
                raise no_end("collate_fn") from error
            return self._copies.copied(batch)
        views = self.dataset.views_of(row_numbers, (self.seed, epoch))
        columns = self._copies.copied(
            tuple(self._column(name, row_numbers, prefetched, views) for name in self.dataset.columns)
        )
        if self.batch_transform is None:
            return columns if len(columns) > 1 else columns[0]
        with self._copies.stream():
            generator = torch.Generator(self.device).manual_seed(derived_seed(self.seed, epoch, start))
            try:
                return self.batch_transform(*columns, generator=generator)
            except StopIteration as error:
                raise no_end("batch_transform") from error

    @property
    def _by_sample(self) -> bool:
        dataset = self.dataset
        return bool(self.collate_fn or dataset.transform or dataset.target_transform)

    def _column(self, name: str, row_numbers: Indices, prefetched: Any, views: Any) -> Tensor | list[Any]:
        if name == TOKENS and self._resident is not None:
            with self._copies.stream():
                return self._resident.read(row_numbers, views)
        if name == TOKENS:
            tokens = self._buffers.take(len(row_numbers))
            self._rows.read(name, row_numbers, tokens.numpy(), prefetched, views)
            return tokens
        view = views if name in HAVE_VIEWS else None
        values = self._rows.read(name, row_numbers, None, prefetched, view)
        return batch_values(name, self.dataset.column(name), values)


def _row_numbers(order: Order, positions: Indices) -> Indices:
    return order(positions % len(order) if positions[-1] >= len(order) else positions)


def _is_state(state: Any, expected: Mapping[str, Any]) -> bool:
    """Check the keys, types and ranges of a state dict (not whose samples it is of)."""
    if not isinstance(state, Mapping) or state.keys() != expected.keys():
        return False
    if any(type(state[key]) is not type(value) for key, value in expected.items()):
        return False
    return (
        state["version"] == _STATE_VERSION
        and state["shuffle"] in get_args(Shuffle)
        and 0 <= state["consumed"] <= state["samples"]
        and state["shuffle_window"] > 0
    )
