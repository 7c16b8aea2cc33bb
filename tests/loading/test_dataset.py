"""TokenDataset: samples, batches, workers."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stores import random_codes, write_store
from torch.utils.data import DataLoader

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import ArgumentError, NotAStoreError, StoreError
from tokenstore.sources import open_source

SAMPLES = 50
RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 300, (SAMPLES, 4, 4)).astype(np.uint16)
LABELS = RNG.integers(0, 7, SAMPLES)
MASKS = RNG.integers(0, 9, (SAMPLES, 8, 8)).astype(np.uint8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    np.savez(folder / "codes.npz", tokens=CODES, labels=LABELS, masks=MASKS)
    options = ConvertOptions(chunk_samples=4, shard_samples=16, codebook_size=300)
    convert_source(open_source(folder / "codes.npz"), folder / "store", options=options)
    return folder / "store"


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    np.save(folder / "codes.npy", CODES)
    convert_source(open_source(folder / "codes.npy"), folder / "store")
    return folder / "store"


def check_sample(sample: Any, position: int) -> None:
    tokens, label = sample
    assert tokens.dtype == torch.int64
    assert np.array_equal(tokens.numpy(), CODES[position])
    assert type(label) is int
    assert label == LABELS[position]


def test_a_sample_is_its_tokens_and_label(store: Path) -> None:
    dataset = TokenDataset(store)
    assert len(dataset) == SAMPLES
    for position in range(-SAMPLES, SAMPLES):
        check_sample(dataset[position], position)
    check_sample(dataset[np.int64(3)], 3)  # type: ignore[index]


@pytest.mark.parametrize("wrong", [SAMPLES, -SAMPLES - 1, 10**12])
def test_an_index_out_of_range_is_an_index_error(store: Path, wrong: int) -> None:
    with pytest.raises(IndexError, match=str(wrong)):
        TokenDataset(store)[wrong]


def test_iteration_ends(store: Path) -> None:
    assert len(list(TokenDataset(store))) == SAMPLES  # type: ignore[call-overload]


@pytest.mark.parametrize("part", [slice(None), slice(3, 9), slice(-4, None), slice(40, 2, -3)])
def test_a_slice_is_a_batch(store: Path, part: slice) -> None:
    tokens, labels = TokenDataset(store)[part]
    assert np.array_equal(tokens.numpy(), CODES[part])
    assert labels.dtype == torch.int64
    assert np.array_equal(labels.numpy(), LABELS[part])


def test_a_list_of_indices_is_decoded_in_one_call(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = TokenDataset(store, columns=["tokens"])
    calls = []
    read = dataset.reader.read
    monkeypatch.setattr(
        dataset.reader, "read", lambda name, *a, **k: calls.append(name) or read(name, *a, **k)
    )
    batch = dataset.__getitems__([4, 4, -1, 0])
    assert np.array_equal(torch.stack(batch).numpy(), CODES[[4, 4, -1, 0]])
    assert calls == ["tokens"]


def test_columns_are_given_in_the_order_asked_for(store: Path) -> None:
    labels, masks, tokens = TokenDataset(store, columns=["labels", "masks", "tokens"])[7]
    assert labels == LABELS[7]
    assert np.array_equal(masks.numpy(), MASKS[7])
    assert np.array_equal(tokens.numpy(), CODES[7])
    assert np.array_equal(TokenDataset(store, columns=["masks"])[7].numpy(), MASKS[7])


def test_a_split_without_labels_gives_tokens_alone(unlabelled: Path) -> None:
    dataset = TokenDataset(unlabelled)
    assert np.array_equal(dataset[5].numpy(), CODES[5])
    (batch,) = DataLoader(dataset, batch_size=SAMPLES)
    assert np.array_equal(batch.numpy(), CODES)


def test_transforms_see_tokens_and_the_second_column(store: Path) -> None:
    dataset = TokenDataset(store, transform=lambda t: t[:2] + 1, target_transform=lambda label: label * 10)
    tokens, label = dataset[9]
    assert np.array_equal(tokens.numpy(), CODES[9][:2] + 1)
    assert label == LABELS[9] * 10
    tokens, labels = dataset[2:5]
    assert np.array_equal(tokens.numpy(), CODES[2:5, :2] + 1)
    assert labels.tolist() == (LABELS[2:5] * 10).tolist()


def test_transforms_find_their_column_wherever_it_stands(store: Path) -> None:
    options = {"transform": lambda tokens: tokens + 1, "target_transform": lambda target: target * 2}
    label, tokens = TokenDataset(store, columns=["labels", "tokens"], **options)[4]
    assert np.array_equal(tokens.numpy(), CODES[4] + 1)
    assert label == LABELS[4] * 2
    tokens, masks = TokenDataset(store, columns=["tokens", "masks"], **options)[4]
    assert np.array_equal(masks.numpy(), MASKS[4] * 2)


@pytest.mark.parametrize("columns", ["tokens", [], ()])
def test_columns_that_are_no_list_of_names_are_refused(store: Path, columns: Any) -> None:
    with pytest.raises(ValueError, match="expected a list of names"):
        TokenDataset(store, columns=columns)


READ_MANY_SHARDS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
import tokenstore
dataset = tokenstore.TokenDataset(sys.argv[1], columns=["tokens", "labels", "masks"])
order = [i * 7 % len(dataset) for i in range(len(dataset))]
for start in range(0, len(order), 50):
    for tokens, label, mask in dataset.__getitems__(order[start : start + 50]):
        assert int(tokens[0]) == label == int(mask[0])
"""


@pytest.mark.thorough
def test_a_store_of_more_shards_than_file_descriptors_is_read(tmp_path: Path) -> None:
    values = np.arange(300)
    tokens, masks = values[:, None].astype(np.uint16), np.repeat(values[:, None], 20, 1).astype(np.uint16)
    np.savez(tmp_path / "codes.npz", tokens=tokens, labels=values, masks=masks)
    convert_source(
        open_source(tmp_path / "codes.npz"),
        tmp_path / "out",
        options=ConvertOptions(chunk_samples=1, shard_samples=1),
    )
    subprocess.run([sys.executable, "-c", READ_MANY_SHARDS, str(tmp_path / "out")], check=True)


def test_a_transform_cannot_change_what_is_read_next(store: Path) -> None:
    dataset = TokenDataset(store, transform=lambda tokens: tokens.zero_())
    assert not dataset[3][0].any()
    check_sample(TokenDataset(store)[3], 3)


def test_indices_restrict_and_order_the_dataset(store: Path) -> None:
    dataset = TokenDataset(store, indices=[5, -1, 5])
    assert len(dataset) == 3
    for position, sample in enumerate([5, SAMPLES - 1, 5]):
        check_sample(dataset[position], sample)
    check_sample(dataset[-1], 5)
    with pytest.raises(IndexError):
        dataset[3]
    with pytest.raises(IndexError, match="50"):
        TokenDataset(store, indices=[50])
    assert len(TokenDataset(store, indices=[])) == 0


def test_what_is_not_there_is_named(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no split 'val'; it has train"):
        TokenDataset(store, split="val")
    with pytest.raises(StoreError, match="no array 'depth'; it has tokens, labels, masks"):
        TokenDataset(store, columns=["tokens", "depth"])
    with pytest.raises(NotAStoreError, match="no such file or folder"):
        TokenDataset(tmp_path / "nothing")


def test_a_store_lists_its_splits(store: Path) -> None:
    opened = tokenstore.open(store)
    assert list(opened) == ["train"]
    assert len(opened) == 1
    assert "train" in opened
    assert "val" not in opened
    assert 0 not in opened


def test_a_dataset_says_what_its_samples_are(store: Path, tmp_path: Path) -> None:
    shown = repr(TokenDataset(store).select([1, 2]))
    assert "2 samples of tokens, labels, grid 4 x 4, codebook of 300, no class names, 2 samples of" in shown
    codes = random_codes(4, (2, 3), (7, 7))
    names = ("cat", "dog")
    write_store(
        tmp_path / "store", {"train": (codes, LABELS[:4].astype(np.int32) % 2)}, (7, 7), class_names=names
    )
    assert "grid 2 x 3, 2 codebooks of 7, 2 classes" in repr(TokenDataset(tmp_path / "store"))


def test_the_origins_of_samples_are_in_the_order_of_the_dataset(store: Path) -> None:
    dataset = TokenDataset(store)
    assert dataset.samples_table()["source"].to_pylist() == [f"codes.npz[{row}]" for row in range(SAMPLES)]
    view = dataset.select([7, -1, 7]).select([2, 1])
    assert view.samples_table()["source_index"].to_pylist() == [7, SAMPLES - 1]
    joined = tokenstore.concat([view, dataset.select([3])])
    assert joined.samples_table()["source_index"].to_pylist() == [7, SAMPLES - 1, 3]
    mixed = tokenstore.mix([view, dataset.select([3, 4])])
    assert sorted(mixed.samples_table()["source_index"].to_pylist()) == [3, 4, 7, SAMPLES - 1]
    for position, row in enumerate(mixed.samples_table()["source_index"].to_pylist()):
        check_sample(mixed[position], row)


@pytest.mark.parametrize(
    "subset",
    [
        lambda dataset: dataset.select([0]),
        lambda dataset: dataset.filter(labels=[int(LABELS[0])]),
        lambda dataset: dataset.split(0.5),
    ],
)
def test_a_dataset_with_an_order_of_its_own_has_no_subsets(store: Path, subset: Callable[[Any], Any]) -> None:
    dataset = TokenDataset(store)
    with pytest.raises(StoreError, match="not mixed: select, filter or split before mixing"):
        subset(tokenstore.mix([dataset, dataset], [3, 1]))
    drawn = TokenLoader(dataset, 8, sampler=torch.utils.data.SequentialSampler(dataset)).dataset
    with pytest.raises(ArgumentError, match="select, filter or split before loading"):
        subset(drawn)


def test_an_open_store_can_be_given(store: Path) -> None:
    opened = tokenstore.open(store)
    check_sample(TokenDataset(opened)[1], 1)
    assert TokenDataset(opened).class_names is None


def test_a_dataset_pickles_to_its_location(store: Path) -> None:
    dataset = TokenDataset(store, indices=[3, 4])
    check_sample(dataset[0], 3)
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 20_000
    check_sample(pickle.loads(pickled)[1], 4)


def _epoch(dataset: TokenDataset, **options: Any) -> list[tuple[bytes, int]]:
    samples = []
    for tokens, labels in DataLoader(dataset, batch_size=7, **options):
        samples += [
            (t.numpy().astype(np.uint16).tobytes(), int(v)) for t, v in zip(tokens, labels, strict=True)
        ]
    return samples


EXPECTED = [(codes.tobytes(), int(label)) for codes, label in zip(CODES, LABELS, strict=True)]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.thorough), "forkserver"])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_workers_of_every_kind_read_every_sample_once(store: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    dataset = TokenDataset(store)
    check_sample(dataset[0], 0)  # opened and used in the parent before it forks
    options = {"num_workers": 2, "multiprocessing_context": method, "persistent_workers": True}
    loader = DataLoader(dataset, batch_size=7, **options)
    for _ in range(2):
        epoch = [
            (t.numpy().astype(np.uint16).tobytes(), int(v))
            for tokens, labels in loader
            for t, v in zip(tokens, labels, strict=True)
        ]
        assert epoch == EXPECTED
    del loader


def test_a_shuffled_epoch_holds_every_sample_once(store: Path) -> None:
    shuffled = _epoch(TokenDataset(store), shuffle=True, generator=torch.Generator().manual_seed(0))
    assert shuffled != EXPECTED
    assert sorted(shuffled) == sorted(EXPECTED)


@pytest.mark.parametrize("way", [pickle.dumps, lambda dataset: dataset.__dict__], ids=["pickle", "dict"])
def test_reading_does_not_hang_on_files_that_are_gone(store: Path, way: Callable[[Any], Any]) -> None:
    dataset = TokenDataset(store)
    assert way(dataset)
    assert len(dataset.__getitems__([])) == 0
