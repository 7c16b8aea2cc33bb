"""The view that a dataset gives of each sample: drawn by seed, epoch and row, asked for, or all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stores import Samples, write_store
from helpers.view_stores import GRID, SAMPLES, SIZES, VIEWS, codes_of_views, write_kind
from torch.utils.data import DataLoader

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.errors import StoreError
from tokenstore.loading.resident import ResidentTokens
from tokenstore.loading.views import drawn_views, hashed_rows
from tokenstore.randomness import hashed_key

CODES = codes_of_views()
PLAIN = CODES[:9, 0]
"""The codes of the store without views."""
TOKENS = ("tokens", "labels", "view_boxes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store of views in each codec, and one without views."""
    folder = tmp_path_factory.mktemp("views")
    for kind in ("bitpack", "zstd", "given"):
        write_kind(folder / kind, kind)
    labels = np.arange(100, 100 + len(PLAIN), dtype=np.int32)
    write_store(folder / "plain", {"train": Samples(PLAIN, labels)}, SIZES, chunk_samples=4)
    return folder


def views_drawn(dataset: TokenDataset, seed: int, epoch: int) -> Any:
    return drawn_views(dataset.rows, np.arange(len(dataset.rows)), seed, epoch)


def epoch_of(loader: TokenLoader, epoch: int) -> dict[int, list[list[int]]]:
    """Return the codes that come in an epoch, by their label."""
    loader.set_epoch(epoch)
    given: dict[int, list[list[int]]] = {}
    for tokens, labels, *_ in loader:
        for codes, label in zip(tokens.tolist(), labels.tolist(), strict=True):
            given.setdefault(label, []).append(codes)
    return given


def test_views_are_drawn_by_the_hash_of_seed_epoch_and_row(folder: Path) -> None:
    rows = np.array([0, 5, 2**40, 3])
    key = (7, 3, 0x7669657773)
    assert hashed_rows(key, rows).tolist() == [hashed_key(*key, row) for row in rows.tolist()]
    dataset = TokenDataset(folder / "bitpack")
    drawn = views_drawn(dataset, 7, 3).tolist()
    assert drawn == [(hashed_key(*key, row) >> 32) * VIEWS >> 32 for row in range(SAMPLES)]
    assert drawn[:12] == [0, 2, 0, 2, 1, 2, 0, 0, 2, 2, 2, 2]  # for ever


def test_every_view_is_drawn_about_as_often(folder: Path) -> None:
    dataset = TokenDataset(folder / "bitpack")
    drawn = np.array([views_drawn(dataset, 1, epoch) for epoch in range(300)])
    shares = [(drawn == view).mean() for view in range(VIEWS)]
    np.testing.assert_allclose(shares, 1 / VIEWS, atol=0.02)
    of_samples = [(drawn == view).mean(axis=0) for view in range(VIEWS)]
    np.testing.assert_allclose(of_samples, 1 / VIEWS, atol=0.12)


@pytest.mark.parametrize("kind", ["bitpack", "zstd", "given"])
@pytest.mark.parametrize(
    "settings", [{}, {"resident": "ram"}, {"num_threads": 2}, {"shuffle": "lanes"}], ids=str
)
def test_a_loader_draws_a_view_for_each_sample_and_epoch(
    folder: Path, kind: str, settings: dict[str, Any]
) -> None:
    dataset = TokenDataset(folder / kind)
    loader = TokenLoader(dataset, 6, **{"shuffle": True, "num_threads": 0, "seed": 9, **settings})
    for epoch in (0, 1):
        views = views_drawn(dataset, 9, epoch)
        expected = {row: [CODES[row, view].tolist()] for row, view in enumerate(views)}
        assert epoch_of(loader, epoch) == expected


def test_the_view_does_not_depend_on_ranks_batches_or_where_a_run_was_resumed(folder: Path) -> None:
    dataset = TokenDataset(folder / "bitpack")
    settings: dict[str, Any] = {"shuffle": True, "seed": 2, "num_threads": 0}
    whole = epoch_of(TokenLoader(dataset, 41, **settings), 1)
    ranks = [epoch_of(TokenLoader(dataset, 3, rank=rank, world_size=3, **settings), 1) for rank in range(3)]
    assert {label: codes for each in ranks for label, codes in each.items()} == whole
    begun = TokenLoader(dataset, 4, **settings)
    begun.set_epoch(1)
    batches = iter(begun)
    next(batches)
    after = TokenLoader(dataset, 2, **{**settings, "seed": 0})
    after.load_state_dict(begun.state_dict())
    rest = [(tokens, labels) for tokens, labels in after]
    assert sum(len(labels) for _, labels in rest) == SAMPLES - 4
    for tokens, labels in rest:
        for codes, label in zip(tokens.tolist(), labels.tolist(), strict=True):
            assert [codes] == whole[label]


def test_one_view_or_all_views_are_given_on_request(folder: Path) -> None:
    for kind in ("bitpack", "zstd", "given"):
        for view in (0, np.int64(2)):
            tokens = TokenDataset(folder / kind, view=view)[:][0]
            np.testing.assert_array_equal(tokens, CODES[:, view])
            loader = TokenLoader(TokenDataset(folder / kind, view=view), 5, num_threads=0)
            np.testing.assert_array_equal(torch.cat([batch[0] for batch in loader]), CODES[:, view])
        every = TokenDataset(folder / kind, view="all")
        np.testing.assert_array_equal(every[3][0], CODES[3])
        np.testing.assert_array_equal(torch.cat([batch[0] for batch in TokenLoader(every, 5)]), CODES)
        assert every.with_view(1)[[4]][0].tolist() == CODES[[4], 1].tolist()


def test_boxes_are_those_of_the_view(folder: Path) -> None:
    boxes = tokenstore.open(folder / "bitpack")["train"].read("view_boxes")
    dataset = TokenDataset(folder / "bitpack", columns=TOKENS)
    views = views_drawn(dataset, 3, 0)
    loader = TokenLoader(dataset, 8, seed=3, num_threads=0)
    for _, labels, _ in loader:
        np.testing.assert_array_equal(dataset.views_of(loader.last_rows, (3, 0)), views[labels])
    loader.set_epoch(0)
    found = torch.cat([batch[2] for batch in loader])
    np.testing.assert_array_equal(found, boxes[np.arange(SAMPLES), views])
    np.testing.assert_array_equal(dataset.with_view("all")[5][2], boxes[5])
    assert dataset.with_view(1)[5][2].tolist() == boxes[5, 1].tolist()


def test_indexing_gives_the_views_of_the_chosen_epoch(folder: Path) -> None:
    dataset = TokenDataset(folder / "given")
    assert dataset.view == "random"
    for seed, epoch in ((0, 0), (0, 3), (2**64 - 1, 1)):
        if (seed, epoch) != (0, 0):
            dataset.set_epoch(epoch, seed)
        views = views_drawn(dataset, seed, epoch)
        np.testing.assert_array_equal(dataset[:][0], CODES[np.arange(SAMPLES), views])
        subset = dataset.select([7, 2])
        np.testing.assert_array_equal(subset[:][0], CODES[[7, 2], views[[7, 2]]])
    with pytest.raises(ValueError, match="seed: expected whole numbers"):
        dataset.set_epoch(2**64)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_that_were_started_before_see_the_epoch(folder: Path, method: str) -> None:
    dataset = TokenDataset(folder / "bitpack")
    workers = DataLoader(dataset, 7, num_workers=1, persistent_workers=True, multiprocessing_context=method)
    for epoch in (0, 4):
        dataset.set_epoch(epoch)
        views = views_drawn(dataset, 0, epoch)
        tokens = torch.cat([batch[0] for batch in workers])
        np.testing.assert_array_equal(tokens, CODES[np.arange(SAMPLES), views])


def test_a_subset_and_a_pickle_draw_the_same_views(folder: Path) -> None:
    dataset = TokenDataset(folder / "bitpack")
    expected = epoch_of(TokenLoader(dataset, 8, seed=1), 2)
    part = dataset.select(np.arange(SAMPLES)[::-3])
    first, second = dataset.split(0.3)
    for each in (part, first, second, pickle.loads(pickle.dumps(dataset))):
        given = epoch_of(TokenLoader(each, 5, seed=1), 2)
        assert given == {label: expected[label] for label in given}


def test_stores_with_and_without_views_are_joined_and_mixed(folder: Path) -> None:
    crops, plain = (TokenDataset(folder / kind) for kind in ("bitpack", "plain"))
    expected = epoch_of(TokenLoader(crops, 8, seed=4), 0)
    expected |= {100 + row: [codes.tolist()] for row, codes in enumerate(PLAIN)}
    for parts in ([crops, plain], [plain, crops]):
        joined = tokenstore.concat(parts)
        assert joined.view == "random"
        assert epoch_of(TokenLoader(joined, 7, shuffle=True, seed=4), 0) == expected
        given = epoch_of(TokenLoader(tokenstore.mix(parts, [1, 1]), 7, shuffle=True, seed=4), 0)
        assert all(codes[0] == expected[label][0] for label, codes in given.items())
        mixed = tokenstore.mix(parts)
        mixed.set_epoch(0, 4)
        for tokens, label in mixed:
            assert tokens.tolist() == expected[label][0]
    only = tokenstore.concat([crops.with_view(0), plain.with_view(0)])
    np.testing.assert_array_equal(only[:][0], np.concatenate([CODES[:, 0], PLAIN]))


def test_what_no_sample_has_is_refused(folder: Path) -> None:
    crops, plain = (TokenDataset(folder / kind) for kind in ("bitpack", "plain"))
    for view in (3, -1, True, 1.0, "first"):
        with pytest.raises(ValueError, match="view: expected 'random', 'all', None, or a number from 0 to 2"):
            crops.with_view(view)  # type: ignore[arg-type]
    assert plain.view is None
    assert plain.with_view("random").view is None
    with pytest.raises(ValueError, match="expected equally many views of all samples, found 1 to 1"):
        plain.with_view("all")
    with pytest.raises(ValueError, match="number from 0 to 0"):
        plain.with_view(1)
    with pytest.raises(ValueError, match="view: expected the same in all datasets, found 'random' and 1"):
        tokenstore.concat([crops, crops.with_view(1)])
    with pytest.raises(ValueError, match=r"found 1 to 3 in .* Give view='random'"):
        tokenstore.mix([crops.with_view("all"), plain])
    with pytest.raises(ValueError, match="number from 0 to 0"):
        tokenstore.concat([plain, crops.with_view(2)])
    other = np.zeros((4, 3, 3), np.uint8)
    write_store(folder / "other grid", {"train": Samples(other, np.zeros(4, np.int32))}, SIZES[0])
    with pytest.raises(StoreError, match="expected grids"):
        tokenstore.concat([crops, TokenDataset(folder / "other grid")])


def test_samplers_transforms_and_batch_transforms_get_the_view(folder: Path) -> None:
    dataset = TokenDataset(folder / "bitpack", transform=lambda tokens: tokens + 1)
    loader = TokenLoader(dataset, 8, seed=6, num_threads=0)
    views = views_drawn(dataset, 6, 0)
    tokens = torch.cat([batch[0] for batch in loader])
    np.testing.assert_array_equal(tokens, CODES[np.arange(SAMPLES), views] + 1)
    rows = [5, 5, 17]
    sampler = TokenLoader(TokenDataset(folder / "bitpack"), 3, sampler=rows, seed=6)
    ((tokens, labels),) = sampler
    assert labels.tolist() == rows
    np.testing.assert_array_equal(tokens, CODES[rows, views[rows]])


@pytest.mark.parametrize("kind", ["bitpack", "given"])
def test_a_device_decodes_the_same_views(folder: Path, kind: str) -> None:
    tokens = tokenstore.open(folder / kind)["train"].arrays["tokens"]
    resident = ResidentTokens(tokens, "cpu")
    rows, views = np.array([0, 40, 7, 7]), np.array([2, 1, 0, 2])
    assert len(resident) == SAMPLES
    np.testing.assert_array_equal(resident.read(rows, views), CODES[rows, views])
    np.testing.assert_array_equal(resident.read(rows, 1), CODES[rows, 1])
    np.testing.assert_array_equal(resident.read(rows), CODES[rows])
    assert resident.read([], np.empty(0, np.int64)).shape == (0, *GRID)


def test_a_dataset_says_which_view_it_gives(folder: Path) -> None:
    assert "view 'random', grid 2 x 3 x 4" in repr(TokenDataset(folder / "bitpack"))
    assert "view" not in repr(TokenDataset(folder / "plain")).split("SplitReader")[0]
