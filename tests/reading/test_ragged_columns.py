"""Texts, lists and soft labels through every way of reading: views, memory, pickles, copies of stores."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.ragged import objects, same, write_ragged
from helpers.stores import Samples, contents, few_are_many, random_codes, write_store

import tokenstore
from tokenstore import TokenDataset
from tokenstore.audit.verify import verify
from tokenstore.codecs import TEXT
from tokenstore.codecs.soft_labels import SoftLabels
from tokenstore.errors import DamageError, StoreError
from tokenstore.reading import Concatenated, Subset, TokenStore
from tokenstore.reading.marked_array import MarkedArrayReader
from tokenstore.reading.shards import Payloads

RAGGED = ("caption", "boxes", "tags")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Samples]:
    store = tmp_path_factory.mktemp("ragged") / "store"
    return store, write_ragged(store)


@pytest.fixture
def store(place: tuple[Path, Samples]) -> TokenStore:
    return tokenstore.open(place[0])


@pytest.fixture
def samples(place: tuple[Path, Samples]) -> Samples:
    return place[1]


@pytest.mark.parametrize("name", RAGGED)
def test_random_samples_are_read_in_their_order(store: TokenStore, samples: Samples, name: str) -> None:
    split, rows = store["train"], np.array([20, 3, 3, -21, 7, 0, 15])
    assert same(split.read(name, rows), samples.columns[name][rows])
    assert same(split.read(name, rows), samples.columns[name][rows])  # from marks that are known now
    assert same(split.array(name).read_range(2, 19), samples.columns[name][2:19])
    assert len(split.read(name, [])) == 0
    assert same(split.in_memory([name]).read(name, rows), samples.columns[name][rows])
    assert same(split.array(name).streamed().read_range(0, 21), samples.columns[name])
    assert same(pickle.loads(pickle.dumps(split)).read(name, rows), samples.columns[name][rows])


def test_marks_that_another_thread_makes_meanwhile_are_not_half_seen(
    store: TokenStore, samples: Samples
) -> None:
    reader = store["train"].array("caption")
    assert isinstance(reader, MarkedArrayReader)
    payloads = reader._shards.payloads(np.arange(reader.files.chunks))
    unkept = Payloads(payloads.chunks, payloads.payloads)  # as where no further shard can be mapped
    marks = reader._marks
    looks: list[object] = []

    class Watched:
        """Marks that the other thread makes between this thread's looks at them."""

        def __getitem__(self, key: object) -> Any:
            looks.append(key)
            value = marks[key]  # type: ignore[index]
            reader._marks = marks
            reader._keep(payloads)
            return value

    reader._marks = Watched()  # type: ignore[assignment]
    with mock.patch.object(reader._shards, "payloads", return_value=unkept):
        assert same(reader.read([3, 14]), samples.columns["caption"][[3, 14]])
    assert len(looks) == 1


@pytest.mark.parametrize("name", RAGGED)
def test_views_give_the_samples_of_their_rows(store: TokenStore, samples: Samples, name: str) -> None:
    split = store["train"]
    subset = Subset(split, [20, 4, 9])
    both = Concatenated([subset, store["val"], split])
    expected = np.concatenate(
        [
            samples.columns[name][[20, 4, 9]],
            store["val"].read(name, range(3)),
            samples.columns[name],
        ]
    )
    rows = np.array([26, 0, 5, 3, 2, 6])
    assert same(both.read(name, rows), expected[rows])
    assert str(both.column(name)) == str(split.column(name))


def test_columns_of_one_name_and_two_kinds_are_not_joined(store: TokenStore, tmp_path: Path) -> None:
    samples = write_ragged(tmp_path / "other")
    swapped = samples._replace(
        columns={"tags": samples.columns["caption"]}, kinds={"tags": samples.kinds["caption"]}
    )
    write_store(tmp_path / "swapped", {"train": swapped})
    other = tokenstore.open(tmp_path / "swapped")["train"]
    with pytest.raises(StoreError, match=r"tags: expected list of int16 as in .*, found text in"):
        Concatenated([store["train"], other]).column("tags")


def test_a_dataset_gives_texts_tensors_and_probabilities(place: tuple[Path, Samples]) -> None:
    path, samples = place
    dataset = TokenDataset(path, columns=("tokens", "labels", "caption", "boxes", "soft_labels"))
    tokens, label, caption, boxes, soft = dataset[4]
    np.testing.assert_array_equal(tokens, samples.codes[4])
    assert (label, caption) == (1, samples.columns["caption"][4])
    assert torch.equal(boxes, torch.from_numpy(samples.columns["boxes"][4]))
    expected = SoftLabels(5).values(samples.columns["soft_labels"])
    assert torch.equal(soft, torch.from_numpy(expected[4]))
    assert soft.sum().item() == pytest.approx(1)
    batch = dataset[3:9]
    assert batch[2] == samples.columns["caption"][3:9].tolist()
    assert same(batch[3], samples.columns["boxes"][3:9])
    assert batch[4].shape == (6, 5)
    assert TokenDataset(path, columns=["caption"])[2:4] == samples.columns["caption"][2:4].tolist()


def test_a_torch_data_loader_collates_texts_and_lists(place: tuple[Path, Samples]) -> None:
    path, samples = place
    texts = TokenDataset(path, columns=("tokens", "caption"))
    batches = list(torch.utils.data.DataLoader(texts, batch_size=8, num_workers=1))
    assert [text for _, batch in batches for text in batch] == samples.columns["caption"].tolist()
    lists = TokenDataset(path, columns=("tags", "soft_labels"))
    (batch,) = torch.utils.data.DataLoader(lists, batch_size=21, collate_fn=lists.collate)
    assert same(batch[0], samples.columns["tags"])
    assert batch[1].shape == (21, 5)


@pytest.mark.parametrize("codec", ["zstd", "context"])
def test_a_recoded_store_has_the_same_columns(
    place: tuple[Path, Samples], tmp_path: Path, codec: str
) -> None:
    path, samples = place
    tokenstore.recode(path, tmp_path / "out", codec=codec, min_decode_rate=0, shard_samples=12)
    assert verify(tmp_path / "out").problems == []
    split = tokenstore.open(tmp_path / "out")["train"]
    assert all(same(split.read(name, range(21)), values) for name, values in samples.columns.items())
    assert split.column("boxes") == samples.kinds["boxes"]
    tokenstore.copy(tmp_path / "out", tmp_path / "copy.zip")
    assert same(
        tokenstore.open(tmp_path / "copy.zip")["train"].read("tags", [3]), samples.columns["tags"][[3]]
    )


def test_a_recoded_store_has_the_same_bytes_for_any_number_of_jobs(
    place: tuple[Path, Samples], tmp_path: Path
) -> None:
    tokenstore.recode(place[0], tmp_path / "one", codec="bitpack", shard_samples=8, jobs=1)
    tokenstore.recode(place[0], tmp_path / "three", codec="bitpack", shard_samples=8, jobs=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    for name in RAGGED:
        shards = {path: data for path, data in contents(place[0]).items() if f"/{name}/c/" in path}
        assert shards == {path: contents(tmp_path / "one")[path] for path in shards}


def test_many_shards_of_texts_are_listed_in_a_file(tmp_path: Path) -> None:
    with few_are_many():
        samples = write_ragged(tmp_path / "large")
    assert (tmp_path / "large/train/caption/shards.bin").exists()
    assert verify(tmp_path / "large").problems == []
    assert same(
        tokenstore.open(tmp_path / "large")["train"].read("boxes", [19]), samples.columns["boxes"][[19]]
    )


def test_a_damaged_text_is_named_with_its_chunk_and_sample(tmp_path: Path) -> None:
    write_ragged(tmp_path / "store")
    shard = tmp_path / "store/train/caption/c/0"
    data = bytearray(shard.read_bytes())
    data[9] ^= 1
    shard.write_bytes(data)
    split = tokenstore.open(tmp_path / "store")["train"]
    with pytest.raises(DamageError, match=r"train/caption shard 0 chunk 0 \(samples 0 to 1\)"):
        split.read("caption", [1])
    assert (
        split.read("caption", [2]).tolist()
        == write_ragged(tmp_path / "again").columns["caption"][[2]].tolist()
    )


def test_info_says_what_a_column_holds(place: tuple[Path, Samples]) -> None:
    arrays = tokenstore.info(place[0]).arrays
    assert arrays["train/caption"].dtype == "text"
    assert arrays["train/boxes"].dtype == "list of float32[4]"
    assert arrays["train/soft_labels"].dtype == "soft labels of 5 classes"
    assert arrays["train/tokens"].dtype == "uint16"


def test_objects_that_are_no_texts_are_not_written(tmp_path: Path) -> None:
    samples = Samples(
        random_codes(2, (2,), 5), None, {"caption": objects(["a", None])}, (), {"caption": TEXT}
    )
    with pytest.raises(tokenstore.errors.CodecError, match="sample 1: expected a text, found None"):
        write_store(tmp_path / "store", {"train": samples}, 5)
