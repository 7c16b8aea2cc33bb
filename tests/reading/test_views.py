"""Views and mixtures of datasets: the right samples, and never codes of two tokenizers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stores import random_codes, write_store
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.errors import StoreError
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.loading.mixing import MixedDataset

SIZES = {"a": 30, "b": 50, "c": 7}
CODES = {name: random_codes(size, (4, 6), 391, seed=size) for name, size in SIZES.items()}
LABELS = {name: (np.arange(size) % 5).astype(np.int32) for name, size in SIZES.items()}
CLASSES = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write stores a, b, c of one tokenizer, in different codecs and chunks."""
    folder = tmp_path_factory.mktemp("views")
    for name, codec, chunk in (("a", "bitpack", 4), ("b", "context", 8), ("c", "zstd", 2)):
        write_store(
            folder / name,
            {"train": (CODES[name], LABELS[name])},
            codec=codec,
            chunk_samples=chunk,
            shard_samples=16,
            class_names=CLASSES,
        )
    return folder


@pytest.fixture
def datasets(folder: Path) -> dict[str, TokenDataset]:
    return {name: TokenDataset(folder / name) for name in SIZES}


def codes_of(dataset: TokenDataset) -> Any:
    return np.stack([tokens.numpy() for tokens, _ in (dataset[i] for i in range(len(dataset)))])


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_selections_of_selections_are_selections(folder: Path, data: st.DataObject) -> None:
    dataset, expected = TokenDataset(folder / "a"), np.arange(30)
    for _ in range(data.draw(st.integers(1, 3))):
        chosen = data.draw(st.lists(st.integers(-len(expected), len(expected) - 1), min_size=1, max_size=40))
        dataset, expected = dataset.select(chosen), expected[chosen]
        assert len(dataset) == len(expected)
    assert dataset.indices is not None
    np.testing.assert_array_equal(dataset.indices, expected)
    tokens, labels = dataset[:]
    np.testing.assert_array_equal(tokens, CODES["a"][expected])
    np.testing.assert_array_equal(labels, LABELS["a"][expected])
    starts = dataset.rows.starts
    assert starts[0] == 0
    assert starts[-1] == len(expected)
    assert (np.diff(starts) > 0).all()


def test_a_selection_out_of_range_is_refused(datasets: dict[str, TokenDataset]) -> None:
    with pytest.raises(IndexError, match="30"):
        datasets["a"].select([30])
    with pytest.raises(IndexError, match="2"):
        datasets["a"].select([5, 6]).select([2])


def test_filtering_keeps_the_asked_for_classes_in_their_order(datasets: dict[str, TokenDataset]) -> None:
    for labels in ([1, 3], ["bee", "dog"], (label for label in (3, "bee"))):
        kept = datasets["b"].filter(labels=labels)
        expected = np.flatnonzero(np.isin(LABELS["b"], [1, 3]))
        assert kept.indices is not None
        np.testing.assert_array_equal(kept.indices, expected)
    again = datasets["b"].filter(labels=[1, 3]).filter(labels=["dog"])
    np.testing.assert_array_equal(codes_of(again), CODES["b"][LABELS["b"] == 3])


@pytest.mark.parametrize("wrong", [["wolf"], [5], [-1], "wolf"])
def test_a_label_that_no_class_has_is_refused(datasets: dict[str, TokenDataset], wrong: Any) -> None:
    with pytest.raises(ValueError, match="labels: expected"):
        datasets["a"].filter(labels=wrong)


def test_a_split_shares_no_sample_and_is_the_same_again(datasets: dict[str, TokenDataset]) -> None:
    rest, held_out = datasets["b"].split(0.1, seed=3)
    assert (len(rest), len(held_out)) == (45, 5)
    assert rest.indices is not None
    assert held_out.indices is not None
    assert sorted([*rest.indices, *held_out.indices]) == list(range(50))
    assert (np.diff(rest.indices) > 0).all()
    again = datasets["b"].split(0.1, seed=3)[1]
    other = datasets["b"].split(0.1, seed=4)[1]
    assert again.indices is not None
    assert other.indices is not None
    np.testing.assert_array_equal(again.indices, held_out.indices)
    assert not np.array_equal(other.indices, held_out.indices)
    nested = rest.split(0.5)[0]
    assert nested.indices is not None
    assert set(nested.indices) < set(rest.indices)
    for wrong in (0, 1, 1.5, -0.1):
        with pytest.raises(ValueError, match="fraction"):
            datasets["b"].split(wrong)


def test_concatenated_samples_stand_one_after_another(datasets: dict[str, TokenDataset]) -> None:
    joined = tokenstore.concat(list(datasets.values()))
    assert len(joined) == sum(SIZES.values())
    everything = np.concatenate(list(CODES.values()))
    np.testing.assert_array_equal(codes_of(joined), everything)
    wanted = np.random.default_rng(0).permutation(len(joined))
    tokens = torch.stack([tokens for tokens, _ in joined.__getitems__(wanted.tolist())])
    np.testing.assert_array_equal(tokens, everything[wanted])
    selected = joined.filter(labels=["elk"]).select([3, 0])
    every_label = np.concatenate(list(LABELS.values()))
    np.testing.assert_array_equal(codes_of(selected), everything[every_label == 4][[3, 0]])
    with pytest.raises(StoreError, match="expected a dataset of one split"):
        _ = joined.reader


@pytest.mark.parametrize("shuffle", [True, "block", False])
@pytest.mark.parametrize("resident", [None, "ram"])
def test_a_loader_reads_views_of_several_stores(
    datasets: dict[str, TokenDataset], shuffle: Any, resident: Any
) -> None:
    joined = tokenstore.concat([datasets["b"], datasets["a"].split(0.5)[0], datasets["c"]])
    expected = sorted(codes.tobytes() for codes in codes_of(joined))
    loader = TokenLoader(joined, 9, shuffle, resident=resident, shuffle_window=20)
    found = [codes.numpy() for tokens, _ in loader for codes in tokens]
    assert sorted(codes.tobytes() for codes in found) == expected


def test_what_is_concatenated_has_to_fit(
    datasets: dict[str, TokenDataset], folder: Path, tmp_path: Path
) -> None:
    def refused(match: str, *others: TokenDataset, error: type[Exception] = StoreError) -> None:
        for combine in (tokenstore.concat, tokenstore.mix):
            with pytest.raises(error, match=match):
                combine([datasets["a"], *others])

    codes, labels = CODES["c"], LABELS["c"]
    write_store(tmp_path / "t", {"train": (codes, labels)}, tokenizer=TokenizerIdentity("other"))
    refused(r"one tokenizer, found test \(no fingerprint\) .* and other", TokenDataset(tmp_path / "t"))
    write_store(tmp_path / "g", {"train": (codes[:, :2], labels)}, class_names=CLASSES)
    refused(r"grids \(4, 6\)", TokenDataset(tmp_path / "g"))
    write_store(tmp_path / "k", {"train": (codes, labels)}, 400, class_names=CLASSES)
    refused(r"found \(4, 6\) of \(400,\)", TokenDataset(tmp_path / "k"))
    write_store(tmp_path / "n", {"train": (codes, labels)}, class_names=("x", *CLASSES[1:]))
    refused("labels mean different classes", TokenDataset(tmp_path / "n"))
    refused("expected the columns", TokenDataset(folder / "b", columns=["tokens"]))
    refused("the same transforms", TokenDataset(folder / "b", transform=len), error=ValueError)
    for combine in (tokenstore.concat, tokenstore.mix):
        with pytest.raises(ValueError, match="expected at least one"):
            combine([])
    without = [
        TokenDataset(tmp_path / "n", columns=["tokens"]),
        TokenDataset(folder / "a", columns=["tokens"]),
    ]
    assert len(tokenstore.concat(without)) == 37


def parts_of(mixed: MixedDataset, tokens: Any) -> list[int]:
    known = {codes.astype(np.int64).tobytes(): n for n, name in enumerate(SIZES) for codes in CODES[name]}
    return [known[codes.numpy().tobytes()] for codes in tokens]


@pytest.mark.parametrize("shuffle", [True, "block", False])
def test_every_stretch_of_a_mixture_has_its_proportion(
    datasets: dict[str, TokenDataset], shuffle: Any
) -> None:
    mixed = tokenstore.mix([datasets["a"], datasets["b"]], weights=[3, 1])
    loader = TokenLoader(mixed, 8, shuffle)
    seen: list[int] = []
    for tokens, _ in loader:
        seen += parts_of(mixed, tokens)
        assert abs(seen.count(0) - 0.75 * len(seen)) <= 1
    assert seen.count(1) >= 50, "all samples of the one that is rare have come"
    assert len(seen) == len(mixed)


def test_the_first_exhausted_ends_the_epoch_and_the_others_go_on_in_the_next(
    datasets: dict[str, TokenDataset],
) -> None:
    mixed = tokenstore.mix([datasets["a"], datasets["c"]], weights=[1, 1], stopping="first_exhausted")
    loader = TokenLoader(mixed, 4, True)
    counts: dict[bytes, int] = {}
    for _ in range(30):
        for tokens, _labels in loader:
            for codes, part in zip(tokens, parts_of(mixed, tokens), strict=True):
                if part == 0:
                    counts[codes.numpy().tobytes()] = counts.get(codes.numpy().tobytes(), 0) + 1
    assert len(mixed) in (14, 15)
    assert len(counts) == 30
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_mixture_is_the_same_for_any_ranks_and_goes_on_where_it_was(
    datasets: dict[str, TokenDataset],
) -> None:
    def loader(**arguments: Any) -> TokenLoader:
        mixed = tokenstore.mix(list(datasets.values()), weights=[1, 2, 1])
        return TokenLoader(mixed, arguments.pop("batch_size", 6), True, **arguments)

    def given(loader: TokenLoader) -> list[bytes]:
        return [codes.numpy().tobytes() for tokens, _ in loader for codes in tokens]

    whole = given(loader())
    ranks = [list(loader(batch_size=5, rank=rank, world_size=3)) for rank in range(3)]
    together = [
        c.numpy().tobytes() for step in zip(*ranks, strict=True) for tokens, _ in step for c in tokens
    ]
    assert together == whole
    first = loader()
    for _ in zip(first, range(4), strict=False):
        state = first.state_dict()
    again = loader(batch_size=11)
    again.load_state_dict(state)
    assert given(again) == whole[24:]


def test_a_mixture_is_a_map_style_dataset(datasets: dict[str, TokenDataset]) -> None:
    mixed = tokenstore.mix(list(datasets.values()))
    assert len(mixed) == sum(SIZES.values())
    seen = [part for tokens, _ in DataLoader(mixed, batch_size=10) for part in parts_of(mixed, tokens)]
    assert [seen.count(part) for part in range(3)] == list(SIZES.values())
    mixed = tokenstore.mix([datasets["a"], datasets["b"]], weights=[1, 1], stopping="first_exhausted")
    first = codes_of(mixed)
    mixed.set_epoch(1)
    assert not np.array_equal(codes_of(mixed), first)
    with pytest.raises(StoreError, match="before mixing"):
        mixed.select([0])
    with pytest.raises(StoreError, match="before mixing"):
        tokenstore.mix([mixed, datasets["a"]])


@pytest.mark.parametrize("weights", [[1, 0], [1, -1], [1, float("nan")], [1], [1, 2, 3]])
def test_weights_that_cannot_be_are_refused(datasets: dict[str, TokenDataset], weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        tokenstore.mix([datasets["a"], datasets["b"]], weights=weights)


def test_views_pickle_without_their_samples(datasets: dict[str, TokenDataset]) -> None:
    joined = tokenstore.concat(list(datasets.values()))
    for view in (datasets["a"].select([3, 1]), joined, tokenstore.mix(list(datasets.values()))):
        pickled = pickle.dumps(view)
        assert CODES["a"][3].tobytes() not in pickled
        assert len(pickled) < 20_000
        np.testing.assert_array_equal(codes_of(pickle.loads(pickled)), codes_of(view))
