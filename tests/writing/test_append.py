"""Appends: a new edition with further samples, which shares all full shards with the one before."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import Samples, contents, few_are_many, random_codes, store_files, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs import TEXT
from tokenstore.errors import ConversionError, StoreChangedError, StoreError, StoreExistsError
from tokenstore.format import Skip, TokenizerIdentity
from tokenstore.locks import PlaceLock
from tokenstore.writing.editing import extended

CODES = random_codes(60, (2, 3), 391)
LABELS = (np.arange(60) % 3).astype(np.int32)
TEXTS = np.array([f"{'long ' * (row % 4)}text {row}" for row in range(60)], object)
CLASSES = ("ant", "bee", "cat")


def written(path: Path, start: int, stop: int, split: str = "train", **options: Any) -> Path:
    """Write a store of the samples from `start` to `stop`, in shards of 8 and chunks of 2."""
    rows = slice(start, stop)
    samples = Samples(
        CODES[rows], LABELS[rows], {"text": TEXTS[rows]}, options.pop("skipped", ()), {"text": TEXT}
    )
    values = {"class_names": CLASSES, "chunk_samples": 2, "shard_samples": 8, **options}
    write_store(path, {split: samples}, 391, **values)
    return path


def assert_rows(path: Path, rows: Any, split: str = "train") -> tokenstore.TokenStore:
    """Check that a store is whole, alone in its folder, and that a split has these samples."""
    found = verify(path)
    assert (found.problems, found.notes) == ([], [])
    opened = tokenstore.open(path)
    reader = opened[split]
    np.testing.assert_array_equal(reader[:], CODES[rows])
    assert reader.read("text").tolist() == TEXTS[rows].tolist()
    names = opened.class_names or ()
    expected = [CLASSES[label] for label in LABELS[rows]]
    assert [names[label] for label in reader.labels.tolist()] == expected  # type: ignore[union-attr]
    assert reader.samples_table()["label_name"].to_pylist() == expected
    assert not [other.name for other in path.parent.iterdir() if other.name.startswith(".")]
    return opened


def inodes(path: Path) -> dict[str, int]:
    return {name: (path / name).stat().st_ino for name in store_files(path)}


@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=4),
    st.sampled_from(["bitpack", "zstd"]),
    st.sampled_from([(2, 3), (4096, 3), (2, 2**16), (4096, 2**16)]),
)
@settings(max_examples=15, deadline=None)
def test_any_appends_are_one_store(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], codec: str, many: tuple[int, int]
) -> None:
    folder, stops = tmp_path_factory.mktemp("any"), np.cumsum([0, *sizes]).tolist()[:]
    stops = [min(stop, 60) for stop in stops]
    with few_are_many(MANY_SHARDS=many[0], GROUP_ROWS=many[1]):
        for number, (start, stop) in enumerate(itertools.pairwise(stops)):
            if start < stop:
                written(folder / "new" / f"{number}", start, stop, codec=codec)
                if number:
                    tokenstore.append(folder / "a", folder / "new" / f"{number}", jobs=1)
                    assert_rows(folder / "a", range(stop))
                else:
                    (folder / "new/0").rename(folder / "a")


@pytest.mark.parametrize("codec", ["bitpack", "context"])
def test_full_shards_are_shared_and_the_last_one_is_written_again(tmp_path: Path, codec: str) -> None:
    written(tmp_path / "plain", 0, 21)
    tokenstore.recode(tmp_path / "plain", tmp_path / "a", codec=codec, shard_samples=8)
    before, opened = inodes(tmp_path / "a"), tokenstore.open(tmp_path / "a")
    result = tokenstore.append(tmp_path / "a", written(tmp_path / "b", 21, 40))
    assert_rows(tmp_path / "a", range(40))
    after = inodes(tmp_path / "a")
    shards = {name for name in after if "/tokens/c/" in name}
    assert {name for name in shards if after[name] == before.get(name)} == {
        "train/tokens/c/0/0/0",
        "train/tokens/c/1/0/0",
    }
    assert len(shards) == 5
    with pytest.raises(StoreChangedError, match="Open it again"):
        opened["train"][:]
    (done,) = result.manifest.history
    assert done.operation == "append"
    assert done.inputs == (opened.files.root_digest, tokenstore.open(tmp_path / "b").files.root_digest)


def test_chunks_of_the_last_shard_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a", 0, 14)
    written(tmp_path / "b", 14, 16)
    read: list[tuple[str, int, int]] = []
    plain = extended.JoinedRows.read_range

    def noted(self: Any, array: str, start: int, stop: int) -> Any:
        read.append((array, start, stop))
        return plain(self, array, start, stop)

    monkeypatch.setattr(extended.JoinedRows, "read_range", noted)
    monkeypatch.setattr("tokenstore.writing.encoded._PIECE_NBYTES", 1)
    tokenstore.append(tmp_path / "a", tmp_path / "b")
    assert_rows(tmp_path / "a", range(16))
    assert [call for call in read if call[0] == "tokens"] == []


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize(
    ("appends", "samples", "codec"),
    [
        (14, 4, "bitpack"),
        (5, 12, "zstd"),
        pytest.param(1000, 64, "bitpack", marks=pytest.mark.slow),
        pytest.param(100, 64, "context", marks=pytest.mark.slow),
    ],
)
def test_many_appends_and_a_recoding_are_one_conversion_to_the_byte(
    tmp_path: Path, appends: int, samples: int, codec: str
) -> None:
    total = (appends + 1) * samples
    codes = random_codes(total, (4, 4), 391)
    labels = (np.arange(total) % 3).astype(np.int32)
    write_store(tmp_path / "plain", {"train": (codes, labels)}, 391, class_names=CLASSES)
    tokenstore.recode(tmp_path / "plain", tmp_path / "once", codec=codec)
    for number in range(appends + 1):
        rows = np.arange(number * samples, (number + 1) * samples)
        tokenstore.select(tmp_path / "once", tmp_path / "part", indices=rows, jobs=1)
        if number:
            tokenstore.append(tmp_path / "a", tmp_path / "part", jobs=1)
            shutil.rmtree(tmp_path / "part")
        else:
            (tmp_path / "part").rename(tmp_path / "a")
    assert verify(tmp_path / "a").problems == []
    opened = tokenstore.open(tmp_path / "a")
    np.testing.assert_array_equal(opened["train"][:], codes)
    assert opened["train"].arrays["tokens"].layout.shards == 1
    assert [done.operation for done in opened.manifest.history] == ["select", *["append"] * appends]
    tokenstore.recode(tmp_path / "a", codec=codec)
    compact, once = contents(tmp_path / "a"), contents(tmp_path / "once")
    assert {name for name in {**compact, **once} if compact.get(name) != once.get(name)} == {"zarr.json"}
    roots = [json.loads(files["zarr.json"]) for files in (compact, once)]
    facts = [root.pop("attributes")["tokenstore"] for root in roots]
    assert roots[0] == roots[1]
    assert {name for name in facts[0] if facts[0][name] != facts[1].get(name)} == {"history", "digest"}


def test_splits_and_classes_are_joined_by_name_and_skips_are_kept(tmp_path: Path) -> None:
    written(tmp_path / "a", 0, 13, skipped=[Skip(3, "x", "truncated")])
    labels = np.array([2, 0, 1], np.int32)[LABELS[:9]]
    samples = Samples(CODES[:9], labels, {"text": TEXTS[:9]}, [Skip(2, "y", "empty")], {"text": TEXT})
    write_store(tmp_path / "b", {"val": samples, "train": samples}, 391, class_names=("bee", "cat", "ant"))
    result = tokenstore.append(tmp_path / "a", tmp_path / "b")
    opened = assert_rows(tmp_path / "a", [*range(13), *range(9)])
    assert_rows(tmp_path / "a", range(9), "val")
    assert opened.class_names == ("ant", "bee", "cat")
    assert {name: split.skipped for name, split in result.manifest.splits.items()} == {"train": 2, "val": 1}
    tokenstore.append(tmp_path / "a", written(tmp_path / "c", 13, 20))
    assert tokenstore.open(tmp_path / "a").manifest.splits["train"].skipped == 2


def test_two_classes_of_one_name_stay_apart(tmp_path: Path) -> None:
    names = ("crane", "bee", "crane")
    for name, classes, labels in (
        ("a", names, [0, 1, 2]),
        ("b", ("ant", "crane", "crane"), [0, 1, 2]),
        ("c", ("ant", "crane"), [0, 1, 1]),
    ):
        write_store(tmp_path / name, {"train": (CODES[:3], np.int32(labels))}, 391, class_names=classes)
    with pytest.raises(StoreError, match=r"c: expected 2 classes of the name 'crane' as .*a has, found 1"):
        tokenstore.append(tmp_path / "a", tmp_path / "c")
    with pytest.raises(StoreError, match=r"c: expected 2 classes of the name 'crane' as .*a has, found 1"):
        tokenstore.merge(tmp_path / "out", [tmp_path / "a", tmp_path / "c"])
    tokenstore.merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    tokenstore.append(tmp_path / "a", tmp_path / "b")
    for path in (tmp_path / "out", tmp_path / "a"):
        assert verify(path).ok
        opened = tokenstore.open(path)
        assert opened.class_names == (*names, "ant")
        np.testing.assert_array_equal(opened["train"].labels, [0, 1, 2, 3, 0, 2])


def test_label_maps_never_become_those_of_other_classes(tmp_path: Path) -> None:
    samples = {"train": (CODES[:3], None, {"masks": np.zeros((3, 2, 2), np.uint8)})}
    for name, classes in (("a", ("road", "sky")), ("b", ("sky", "road")), ("c", ("road", "sky", "tree"))):
        write_store(tmp_path / name, samples, 391, class_names=classes)
    message = "its classes have other numbers than .*a's, and its label maps would keep the old numbers"
    with pytest.raises(StoreError, match=message):
        tokenstore.append(tmp_path / "a", tmp_path / "b")
    with pytest.raises(StoreError, match=message):
        tokenstore.merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(StoreError, match=r"classes become one, .*label maps would keep the old numbers"):
        tokenstore.relabel(tmp_path / "c", class_map={"sky": "road"})
    tokenstore.relabel(tmp_path / "c", class_map={"tree": "forest"})
    result = tokenstore.append(tmp_path / "a", tmp_path / "c")
    assert result.manifest.class_names == ("road", "sky", "forest")


def test_the_ignored_value_of_masks_comes_with_them(tmp_path: Path) -> None:
    masks = {"masks": np.full((3, 2, 2), 255, np.uint8)}
    write_store(tmp_path / "a", {"train": (CODES[:3], None)}, 391)
    write_store(tmp_path / "b", {"val": (CODES[:3], None, masks)}, 391, ignore_index=255)
    assert tokenstore.append(tmp_path / "a", tmp_path / "b").manifest.ignore_index == 255


def test_a_store_whose_name_looks_like_a_pattern_is_appended(tmp_path: Path) -> None:
    tokenstore.append(written(tmp_path / "a", 0, 13), written(tmp_path / "b [x]*", 13, 20))
    assert_rows(tmp_path / "a", range(20))


def test_a_zip_file_is_appended_to(tmp_path: Path) -> None:
    written(tmp_path / "a.zip", 0, 13)
    tokenstore.append(tmp_path / "a.zip", written(tmp_path / "b.zip", 13, 20))
    assert_rows(tmp_path / "a.zip", range(20))


def test_the_same_samples_are_refused_unless_they_are_wanted_twice(tmp_path: Path) -> None:
    written(tmp_path / "a", 0, 13)
    written(tmp_path / "b", 13, 20)
    with pytest.raises(StoreExistsError, match=r"a are in it already.*again=True"):
        tokenstore.append(tmp_path / "a", tmp_path / "a")
    tokenstore.append(tmp_path / "a", tmp_path / "b")
    before = contents(tmp_path / "a")
    with pytest.raises(StoreExistsError, match=r"b are in it already.*again=True"):
        tokenstore.append(tmp_path / "a", tmp_path / "b")
    assert contents(tmp_path / "a") == before
    tokenstore.append(tmp_path / "a", tmp_path / "b", again=True)
    assert_rows(tmp_path / "a", [*range(20), *range(13, 20)])
    tokenstore.append(tmp_path / "a", tmp_path / "a", again=True)
    assert_rows(tmp_path / "a", 2 * [*range(20), *range(13, 20)])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tokenizer": TokenizerIdentity("other", "ab" * 32)}, "expected stores of one tokenizer"),
    ({"class_names": None}, "expected names of classes"),
    ({"ignore_index": 5}, "ignore_index is 3 there, and 5 here"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_samples_that_cannot_follow_are_refused_and_the_store_stays(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    written(tmp_path / "a", 0, 13, ignore_index=3)
    written(tmp_path / "b", 13, 20, **options)
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=message):
        tokenstore.append(tmp_path / "a", tmp_path / "b")
    assert contents(tmp_path) == before


def test_other_columns_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a", 0, 13)
    write_store(tmp_path / "b", {"train": (CODES[:4], LABELS[:4])}, 391, class_names=CLASSES)
    with pytest.raises(StoreError, match=r"expected the same columns .* found other text$"):
        tokenstore.append(tmp_path / "a", tmp_path / "b")


def test_a_second_writer_and_a_remote_store_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a", 0, 13)
    written(tmp_path / "b", 13, 20)
    with PlaceLock(tmp_path / "a"), pytest.raises(ConversionError, match="another process is writing"):
        tokenstore.append(tmp_path / "a", tmp_path / "b")
    with pytest.raises(StoreError, match="expected a local store to append to"):
        tokenstore.append("memory://a", tmp_path / "b")
    assert_rows(tmp_path / "a", range(13))


def test_an_append_that_was_interrupted_is_done_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenstore.writing.editing.edition import Edition

    written(tmp_path / "a", 0, 13)
    written(tmp_path / "b", 13, 20)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Edition, "keep_rest", stop)
        with pytest.raises(KeyboardInterrupt):
            tokenstore.append(tmp_path / "a", tmp_path / "b")
    np.testing.assert_array_equal(tokenstore.open(tmp_path / "a")["train"][:], CODES[:13])
    tokenstore.append(tmp_path / "a", tmp_path / "b")
    assert_rows(tmp_path / "a", range(20))
