"""TokenLoader's arguments as users of torch's DataLoader know them, and filters as they are first tried."""

from __future__ import annotations

import collections
import threading
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stores import random_codes, write_store
from torch.utils import data

from tokenstore import TokenDataset, TokenLoader, concat, mix
from tokenstore.errors import ArgumentError, ResumeError
from tokenstore.randomness import derived_seed

SAMPLES = 40
LABELS = np.arange(SAMPLES, dtype=np.int32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    """Write 40 samples whose labels are their row numbers."""
    path = tmp_path_factory.mktemp("arguments") / "store"
    write_store(path, {"train": (random_codes(SAMPLES, (4,), 16), LABELS)})
    return TokenDataset(path)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    path = tmp_path_factory.mktemp("named") / "store"
    names = ("cat", "dog", "horse")
    write_store(path, {"train": (random_codes(4, (4,), 16), LABELS[:4] % 2)}, class_names=names)
    return TokenDataset(path)


def rows(loader: TokenLoader) -> list[int]:
    return [label for _, labels in loader for label in labels.tolist()]


def weighted(*weights: float, generator: torch.Generator | None = None) -> data.WeightedRandomSampler:
    return data.WeightedRandomSampler(torch.tensor(weights), 200, generator=generator)  # type: ignore[arg-type]


def test_a_sampler_says_which_samples_come_how_often(dataset: TokenDataset) -> None:
    sampler = weighted(*[0.0] * 30, *[1.0] * 9, 9.0)
    loader = TokenLoader(dataset, 16, sampler=sampler)
    counts = collections.Counter(rows(loader))
    assert len(loader) == 13
    assert set(counts) <= set(range(30, 40))
    assert counts[39] > 60
    assert sum(counts.values()) == 200


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(7)])
def test_the_order_of_a_sampler_is_a_function_of_seed_and_epoch(
    dataset: TokenDataset, generator: torch.Generator | None
) -> None:
    def loader(seed: int = 3, **ranks: int) -> TokenLoader:
        torch.rand(1)  # what a program draws meanwhile changes nothing
        return TokenLoader(
            dataset, 10, seed=seed, sampler=weighted(*[1.0] * 40, generator=generator), **ranks
        )

    whole = loader()
    first, second = rows(whole), rows(whole)
    assert first != second
    assert rows(loader()) == first
    assert rows(loader(seed=4)) != first
    ranks = [rows(loader(rank=rank, world_size=2)) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == sorted(first)
    left = loader()
    batches = iter(left)
    begun = next(batches)[1].tolist()
    resumed = loader(seed=99)
    resumed.load_state_dict(left.state_dict())
    assert begun + rows(resumed) == first
    other = TokenLoader(dataset, 10, sampler=weighted(*[1.0] * 39, 9.0, generator=generator))
    with pytest.raises(ResumeError):
        other.load_state_dict(left.state_dict())


def test_a_sampler_reads_a_remote_store_by_the_same_order(dataset: TokenDataset, memory_url: str) -> None:
    write_store(memory_url, {"train": (random_codes(SAMPLES, (4,), 16), LABELS)}, chunk_samples=4)
    for seed in (0, 1):
        loaders = [
            TokenLoader(data, 7, seed=seed, sampler=weighted(*[1.0] * 40))
            for data in (dataset, TokenDataset(memory_url))
        ]
        for (tokens, labels), (remote_tokens, remote_labels) in zip(*loaders, strict=True):
            assert torch.equal(tokens, remote_tokens)
            assert torch.equal(labels, remote_labels)


def test_a_sampler_leaves_the_programs_random_numbers_alone(dataset: TokenDataset) -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    rows(TokenLoader(dataset, 10, sampler=data.RandomSampler(dataset)))
    assert torch.equal(torch.rand(2), expected)


class Pausing:
    """A sampler in whose middle another thread draws random numbers."""

    def __init__(self) -> None:
        self.drawn: list[torch.Tensor] = []

    def __iter__(self) -> Any:
        first = torch.randperm(SAMPLES // 2).tolist()
        thread = threading.Thread(target=lambda: self.drawn.append(torch.rand(3)))
        thread.start()
        thread.join()
        return iter(first + (torch.randperm(SAMPLES // 2) + SAMPLES // 2).tolist())


class OtherDraws:
    """A sampler that draws by a function of torch that takes no generator."""

    def __iter__(self) -> Any:
        return iter((torch.rand_like(torch.empty(30)) * SAMPLES).long().tolist())


class OtherNumbers:
    """A sampler that draws nothing of torch but the seed of its default generator."""

    def __iter__(self) -> Any:
        return iter(np.random.default_rng(torch.initial_seed()).permutation(SAMPLES).tolist())


def test_a_sampler_seeds_no_other_threads_random_numbers(dataset: TokenDataset) -> None:
    sampler = Pausing()
    torch.manual_seed(5)
    expected = [torch.rand(3) for _ in range(2)]
    torch.manual_seed(5)
    assert sorted(rows(TokenLoader(dataset, 10, sampler=sampler))) == LABELS.tolist()
    assert len(sampler.drawn) == 2, "once more, to see that the order is the same"
    assert all(map(torch.equal, sampler.drawn, expected))


@pytest.mark.parametrize(
    "make",
    [
        lambda d: data.RandomSampler(d, True, 50),
        data.RandomSampler,
        lambda d: data.SubsetRandomSampler(range(5, 30)),
        lambda d: weighted(*[1.0] * 40),
        lambda d: OtherDraws(),
        lambda d: OtherNumbers(),
    ],
)
def test_a_sampler_draws_what_it_would_from_the_seeded_default_generator(
    dataset: TokenDataset, make: Any
) -> None:
    loader = TokenLoader(dataset, 10, seed=3, sampler=make(dataset))
    found = [rows(loader) for _ in range(2)]
    with torch.random.fork_rng(devices=[]):
        for epoch in range(2):
            torch.manual_seed(derived_seed(3, epoch))
            assert found[epoch] == list(make(dataset))


class Unsteady:
    """A sampler that draws otherwise each time, whatever torch's random numbers are."""

    def __init__(self) -> None:
        self._drawn = [0]

    def __iter__(self) -> Any:
        self._drawn.append(1)
        return iter([len(self._drawn) % SAMPLES])


@pytest.mark.parametrize(
    ("sampler", "match"),
    [
        (lambda d: data.DistributedSampler(d, 2, 0), "leave it out, since TokenLoader gives each rank"),
        (lambda d: data.BatchSampler(data.SequentialSampler(d), 2, False), r"found \[0, 1\]"),
        (lambda d: data.SequentialSampler(range(41)), "from 0 to 39, found 40"),
        (lambda d: Unsteady(), "another one each time"),
    ],
)
def test_a_sampler_that_cannot_be_used_is_refused_with_the_way(
    dataset: TokenDataset, sampler: Any, match: str
) -> None:
    with pytest.raises(ArgumentError, match=f"sampler: .*{match}"):
        TokenLoader(dataset, 8, sampler=sampler(dataset))


def test_a_sampler_goes_with_no_other_order(dataset: TokenDataset) -> None:
    sampler = data.SequentialSampler(dataset)
    with pytest.raises(ArgumentError, match="sampler, shuffle"):
        TokenLoader(dataset, 8, True, sampler=sampler)
    with pytest.raises(ArgumentError, match="not mixed"):
        TokenLoader(mix([dataset, dataset], [1, 2]), 8, sampler=sampler)


def test_arguments_of_torchs_loader_stand_for_those_that_mean_the_same(dataset: TokenDataset) -> None:
    loader = TokenLoader(dataset, 8, True, num_workers=3, prefetch_factor=4, persistent_workers=False)
    assert (loader.num_threads, loader.prefetch) == (3, 4)
    assert sorted(rows(loader)) == LABELS.tolist()
    assert TokenLoader(dataset, num_workers=0, sampler=None, generator=None).num_threads == 0
    seeds = [TokenLoader(dataset, generator=torch.Generator().manual_seed(seed)).seed for seed in (1, 1, 2)]
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_workers": 2, "num_threads": 2}, "num_threads, num_workers: expected one at most"),
        ({"prefetch_factor": 2, "prefetch": 3}, "prefetch, prefetch_factor"),
        ({"generator": torch.Generator(), "seed": 4}, "seed, generator"),
        ({"num_workers": -1}, "num_threads: expected a whole number"),
        ({"batch_sampler": [[0]]}, "batch_sampler: .*give batch_size and shuffle"),
        ({"persistent_workers": True}, "persistent_workers: .*no worker processes"),
        ({"timeout": 3.0}, "timeout: .*no worker processes"),
        ({"pin_memory_device": "cuda"}, "pin_memory_device: .*give device"),
    ],
)
def test_arguments_without_a_use_are_refused_with_the_way(
    dataset: TokenDataset, arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        TokenLoader(dataset, 8, **arguments)


def test_a_misspelt_argument_gets_a_suggestion(dataset: TokenDataset) -> None:
    with pytest.raises(TypeError, match=r"'num_worker'\. Did you mean 'num_workers'"):
        TokenLoader(dataset, num_worker=2)  # type: ignore[call-arg]


def test_subsets_and_concatenations_of_torch_are_views(dataset: TokenDataset) -> None:
    subset = data.Subset(data.Subset(dataset, range(10, 20)), [3, 1])
    assert rows(TokenLoader(subset, 2)) == [13, 11]
    parts = data.random_split(dataset, [30, 10])
    assert sorted(rows(TokenLoader(parts[0], 8, True)) + rows(TokenLoader(parts[1], 8))) == LABELS.tolist()
    joined = data.ConcatDataset([subset, dataset])
    assert rows(TokenLoader(joined, 8)) == [13, 11, *LABELS.tolist()]
    assert rows(TokenLoader(concat([dataset, dataset.select([2])]), 8)) == [*LABELS.tolist(), 2]


def test_a_single_label_is_a_filter(dataset: TokenDataset, named: TokenDataset) -> None:
    for three in (3, [3], np.int32(3), np.array(3), torch.tensor(3), {3}, (label for label in [3])):
        assert rows(TokenLoader(dataset.filter(labels=three), 8)) == [3]
    assert len(named.filter(labels="dog")) == len(named.filter(labels=1)) == 2


def test_a_label_that_no_class_has_is_refused(dataset: TokenDataset, named: TokenDataset) -> None:
    for wrong in (99, [1, 99], -1):
        with pytest.raises(ValueError, match=r"found (99|-1); it has labels from 0 to 39"):
            dataset.filter(labels=wrong)
    for wrong, match in ((3, "from 0 to 2, found 3"), ("dgo", "Did you mean 'dog'"), (1.5, "found 1.5")):
        with pytest.raises(ValueError, match=match):
            named.filter(labels=wrong)  # type: ignore[arg-type]
    # a class without samples is one, and so is a class that a view has none of
    assert len(named.filter(labels="horse")) == len(dataset.filter(labels=[1, 2]).filter(labels=3)) == 0
