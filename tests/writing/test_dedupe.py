"""Duplicates by codes: exact ones are removed but for the first, near ones and leaks are reported."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.stores import contents, random_codes, write_store
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs import Views
from tokenstore.errors import ArgumentError, DamageError, StoreError
from tokenstore.writing.editing import duplicates
from tokenstore.writing.editing.duplicates import CodeHashes, exact_pairs, near_pairs

K = 64


def written(path: Path, splits: dict[str, Any], **spec: Any) -> Path:
    write_store(
        path, {name: (codes,) for name, codes in splits.items()}, K, chunk_samples=4, shard_samples=8, **spec
    )
    return path


def with_copies(rows: list[int], seed: int = 0) -> Any:
    """Return codes (m, 5, 5) of random samples by their numbers, so that equal numbers are equal samples."""
    return random_codes(100, (5, 5), K, seed)[rows]


@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
def test_of_samples_with_the_same_codes_the_first_stays(tmp_path: Path, codec: str) -> None:
    rows = [0, 1, 2, 1, 3, 0, 0, 4, 5, 6, 7, 8, 9, 9]
    store = written(tmp_path / "a", {"train": with_copies(rows)}, codec=codec)
    before = contents(store)
    found = tokenstore.dedupe(store, tmp_path / "b")
    assert contents(store) == before
    assert found.removed == {"train": 4}
    pairs = found.duplicates.exact
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [
        (1, 3),
        (0, 5),
        (0, 6),
        (12, 13),
    ]
    assert verify(tmp_path / "b").problems == []
    opened = tokenstore.open(tmp_path / "b")
    np.testing.assert_array_equal(opened["train"][:], with_copies([*range(10)]))
    assert opened["train"].samples_table()["source_index"].to_pylist() == [0, 1, 2, 4, 7, 8, 9, 10, 11, 12]
    (done,) = opened.manifest.history
    assert (done.operation, done.arguments["removed"]) == ("dedupe", {"train": 4})
    assert tokenstore.dedupe(tmp_path / "b").removed == {"train": 0}


def test_leaks_from_one_split_into_another_are_reported_and_removed_only_if_asked_for(tmp_path: Path) -> None:
    splits = {"train": with_copies([0, 1, 2, 3, 2]), "val": with_copies([4, 1, 5, 3, 3])}
    store = written(tmp_path / "a", splits)
    found = tokenstore.dedupe(store, tmp_path / "b", report=tmp_path / "r.csv")
    assert found.removed == {"train": 1, "val": 1}
    assert found.duplicates.counts(found.duplicates.exact) == {("train", "train"): 1, ("train", "val"): 3}
    np.testing.assert_array_equal(tokenstore.open(tmp_path / "b")["val"][:], with_copies([4, 1, 5, 3]))
    with (tmp_path / "r.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["split"], line["row"], line["of_split"], line["of_row"]) for line in lines] == [
        ("train", "4", "train", "2"),
        ("val", "1", "train", "1"),
        ("val", "3", "train", "3"),
        ("val", "4", "train", "3"),
    ]
    assert lines[1]["source"] == "val/1.png"
    assert (lines[1]["of_source"], lines[1]["kind"], float(lines[1]["share"])) == (
        "train/1.png",
        "exact",
        1.0,
    )
    tokenstore.dedupe(store, tmp_path / "c", across_splits=True, splits=["val", "train"])
    opened = tokenstore.open(tmp_path / "c")
    np.testing.assert_array_equal(opened["val"][:], with_copies([4, 1, 5, 3]))
    np.testing.assert_array_equal(opened["train"][:], with_copies([0, 2]))
    assert tokenstore.dedupe(store, splits=["val"]).removed == {"val": 1}


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_any_duplicates_are_found(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], stop: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    parts = {"a": rows[:stop], "b": rows[stop:]}
    parts = {name: part for name, part in parts.items() if part}
    store = written(folder / "a", {name: with_copies(part) for name, part in parts.items()})
    for across in (False, True):
        out = folder / f"{across}"
        tokenstore.dedupe(store, out, across_splits=across, jobs=1)
        seen: set[int] = set()
        for name, part in parts.items():
            left = [row for row in dict.fromkeys(part) if row not in seen]
            np.testing.assert_array_equal(tokenstore.open(out)[name][:], with_copies(left))
            seen |= set(part) if across else set()


def changed(codes: Any, count: int, rng: np.random.Generator) -> Any:
    """Return a sample's codes with `count` of them changed."""
    flat = codes.reshape(-1).copy()
    places = rng.permutation(flat.size)[:count]
    flat[places] = (flat[places] + 1) % K
    return flat.reshape(codes.shape)


def test_near_samples_are_found_by_their_share_of_equal_codes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    codes = random_codes(400, (8, 8), K)
    for row in range(100):  # 64 codes: 3 changed are 0.95 equal, 10 changed are 0.84
        codes[200 + row] = changed(codes[row], 3 if row % 2 else 10, rng)
    store = written(tmp_path / "a", {"train": codes[:250], "val": codes[250:]})
    found = tokenstore.dedupe(store, near=0.9, report=tmp_path / "r.parquet")
    near = found.duplicates.near
    expected = {(row, 200 + row) for row in range(1, 100, 2)}
    pairs = set(zip(near.first.tolist(), near.second.tolist(), strict=True))
    assert pairs <= expected
    assert len(pairs) >= 49
    np.testing.assert_allclose(near.shares, 61 / 64)
    assert near.is_complete
    assert found.removed == {"train": 0, "val": 0}
    assert len(found.duplicates.exact) == 0
    assert pq.read_table(tmp_path / "r.parquet").num_rows == len(pairs)


@pytest.mark.parametrize(("grid", "near", "others"), [((4, 4), 0.9, 1), ((3, 3), 0.75, 2), ((8, 8), 0.9, 6)])
def test_of_pairs_with_just_the_least_share_99_of_100_are_found(
    tmp_path: Path, grid: tuple[int, int], near: float, others: int
) -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 390, (1000, *grid))
    changed = codes.reshape(1000, -1).copy()
    for row in changed:
        row[rng.permutation(row.size)[:others]] ^= 1
    write_store(tmp_path / "s", {"train": (np.concatenate([codes, changed.reshape(codes.shape)]),)}, 391)
    found = tokenstore.dedupe(tmp_path / "s", near=near).duplicates.near
    assert set(found.shares.tolist()) == {1 - others / codes[0].size}
    np.testing.assert_array_equal(found.second - found.first, 1000)
    assert len(found) >= 980


def test_near_samples_are_removed_if_an_earlier_one_that_stays_is_near(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    chain = [random_codes(1, (8, 8), K)[0]]
    for start in (0, 4, 8):  # each is 60/64 equal to the one before, and 56/64 to that before this one
        flat = chain[-1].reshape(-1).copy()
        flat[start : start + 4] = (flat[start : start + 4] + 1) % K
        chain.append(flat.reshape(8, 8))
    other = random_codes(1, (8, 8), K, 9)[0]
    store = written(tmp_path / "a", {"train": np.stack([*chain, other, changed(other, 10, rng)])})
    found = tokenstore.dedupe(store, tmp_path / "b", near=0.9, remove_near=True)
    assert found.removed == {"train": 2}
    opened = tokenstore.open(tmp_path / "b")
    assert opened["train"].samples_table()["source_index"].to_pylist() == [0, 2, 4, 5]
    (done,) = opened.manifest.history
    assert (done.arguments["near"], done.arguments["removed"]) == (0.9, {"train": 2})
    assert verify(tmp_path / "b").problems == []
    assert tokenstore.dedupe(store, near=0.9).removed == {"train": 0}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=30), st.integers(0, 30))
@example([(0, 0), (0, 1), (0, 1), (0, 0), (1, 2), (0, 2)], 2)  # those near in b have their codes in a
@settings(max_examples=25, deadline=None)
def test_of_any_near_and_equal_samples_the_first_stays(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]], stop: int
) -> None:
    folder = tmp_path_factory.mktemp("near")
    parts = {name: part for name, part in {"a": rows[:stop], "b": rows[stop:]}.items() if part}

    def codes_of(part: list[tuple[int, int]]) -> Any:
        codes = with_copies([base for base, _ in part])
        for row, (_, variant) in enumerate(part):
            codes[row].reshape(-1)[0] = variant
        return codes

    store = written(folder / "a", {name: codes_of(part) for name, part in parts.items()})
    for across in (False, True):
        out = folder / f"{across}"
        tokenstore.dedupe(store, out, near=0.9, remove_near=True, across_splits=across, jobs=1)
        seen: set[int] = set()
        for name, part in parts.items():
            left = []
            for base, variant in part:
                if base not in seen:
                    left.append((base, variant))
                    seen.add(base)
            np.testing.assert_array_equal(tokenstore.open(out)[name][:], codes_of(left))
            seen = seen if across else set()


def test_all_pairs_of_a_hash_that_many_samples_have_are_compared_with_their_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = np.zeros((40, 5, 5), np.uint8)
    codes.reshape(40, -1)[:, 0] = np.arange(40)  # all near each other
    store = written(tmp_path / "a", {"train": codes})
    near = tokenstore.dedupe(store, near=0.9).duplicates.near
    found = set(zip(near.first.tolist(), near.second.tolist(), strict=True))
    assert {(row, row + 1) for row in range(39)} <= found
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 5)
    near = tokenstore.dedupe(store, near=0.9).duplicates.near
    assert (len(near), near.is_complete) == (5, False)


def test_equal_hashes_of_other_codes_are_no_duplicates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tokenstore.open(written(tmp_path / "a", {"train": with_copies([0, 1, 2, 0, 1])}))
    monkeypatch.setattr(duplicates, "_mixed", lambda sums: sums & np.uint64(1))
    hashes = CodeHashes((store["train"],), 0.9, 1, lambda done, total: None)
    pairs = exact_pairs(hashes)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 3), (1, 4)]
    assert len(near_pairs(hashes, 0.9, pairs.second, lambda done, total: None)) == 0
    hashes.close()


def test_samples_of_several_views_are_compared_in_all_of_them(tmp_path: Path) -> None:
    codes = random_codes(10, (2, 3, 3), K)
    codes[7] = codes[2]
    codes[8, 0] = codes[2, 0]
    store = written(tmp_path / "a", {"train": codes}, views=Views(2))
    assert tokenstore.dedupe(store).duplicates.exact.second.tolist() == [7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"near": 1.0}, "expected a share of equal codes above 0 and below 1, found 1.0"),
        ({"near": 0.0}, "found 0.0"),
        ({"report": "no/x.csv"}, r"expected a file in a folder that is there, found 'no/x\.csv'"),
        ({"report": "x.txt"}, r"expected a name that ends in .csv or .parquet, found 'x.txt'"),
        ({"jobs": 0}, "jobs: expected 1 or more"),
        ({"remove_near": True}, "remove_near=True: expected the share of equal codes from which"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    store = written(tmp_path / "a", {"train": with_copies([0, 1])})
    with pytest.raises(ArgumentError, match=message):
        tokenstore.dedupe(store, **options)
    with pytest.raises(StoreError, match="no split 'x'"):
        tokenstore.dedupe(store, splits=["x"])


def test_a_split_without_samples_has_no_duplicates(tmp_path: Path) -> None:
    store = written(tmp_path / "a", {"train": with_copies([]), "val": with_copies([1, 1])})
    found = tokenstore.dedupe(store, tmp_path / "b", near=0.5)
    assert found.removed == {"train": 0, "val": 1}
    assert tokenstore.dedupe(store, splits=["train"], near=0.5).removed == {"train": 0}
    with pytest.raises(ArgumentError, match="expected splits to look at, found none"):
        tokenstore.dedupe(store, splits=[])


def test_damage_ends_the_search(tmp_path: Path) -> None:
    store = written(tmp_path / "a", {"train": with_copies([*range(20)])})
    shard = store / "train/tokens/c/1/0/0"
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamageError, match="train/tokens"):
        tokenstore.dedupe(store)
