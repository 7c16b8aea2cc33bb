"""Selections and divisions of stores: the samples that are asked for, aligned, with shards linked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from helpers.stores import contents, few_are_many, random_codes, store_files, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs import Views
from tokenstore.errors import ArgumentError, ConversionError, DamageError, StoreError, StoreExistsError
from tokenstore.writing.editing.expressions import Condition
from tokenstore.writing.writer import StoreWriter

N = 60
CODES = random_codes(N, (2, 2), 391)
LABELS = (np.arange(N) % 5).astype(np.int32)
SCORES = np.arange(N, dtype=np.float32)
CLASSES = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store of two splits, in shards of 8 samples and chunks of 4."""
    path = tmp_path_factory.mktemp("select") / "a.zarr"
    columns = {"score": SCORES}
    splits = {"train": (CODES, LABELS, columns), "val": (CODES[:6], LABELS[:6], {"score": SCORES[:6]})}
    write_store(path, splits, chunk_samples=4, shard_samples=8, class_names=CLASSES)
    return path


def assert_rows(path: Path, rows: Any, split: str = "train") -> None:
    """Check that a store is whole, and that a split has these rows of the fixture, with all columns."""
    found = verify(path)
    assert (found.problems, found.notes) == ([], [])
    reader = tokenstore.open(path)[split]
    rows = np.asarray(rows, np.int64)
    np.testing.assert_array_equal(reader[:], CODES[rows])
    np.testing.assert_array_equal(reader.labels, LABELS[rows])
    np.testing.assert_array_equal(reader.read("score"), SCORES[rows])
    table = reader.samples_table()
    assert table["source_index"].to_pylist() == rows.tolist()
    assert table["label_name"].to_pylist() == [CLASSES[label] for label in LABELS[rows]]


def shared(path: Path, other: Path) -> list[str]:
    """Return the files of a store that are files of another one too."""
    inodes = {(other / name).stat().st_ino for name in store_files(other)}
    return [name for name in store_files(path) if (path / name).stat().st_ino in inodes]


@pytest.mark.parametrize(
    ("where", "member"),
    [
        ("label in (1, 3) and score > 20", lambda row: row % 5 in (1, 3) and row > 20),
        ("label_name == 'bee' or row < 3", lambda row: row % 5 == 1 or row < 3),
        ("not 10 <= row < 40", lambda row: not 10 <= row < 40),
        ("source.endswith('7.png')", lambda row: row % 10 == 7),
        ("'1' in source", lambda row: "1" in str(row)),
        ("(score + 1) / 2 <= 5 and label_name not in ['ant']", lambda row: (row + 1) / 2 <= 5 and row % 5),
        ("width is None and -score > -3", lambda row: row < 3),
    ],
)
def test_a_condition_selects_the_samples_that_python_would(
    store: Path, tmp_path: Path, where: str, member: Callable[[int], bool]
) -> None:
    written = tokenstore.select(store, tmp_path / "b", where=where, splits=["train"])
    assert_rows(tmp_path / "b", [row for row in range(N) if member(row)])
    assert [(each.operation, each.arguments["where"]) for each in written.manifest.history] == [
        ("select", where)
    ]
    assert written.manifest.history[0].inputs == (tokenstore.open(store).files.root_digest,)


def test_a_missing_value_makes_no_comparison_true(store: Path, tmp_path: Path) -> None:
    for where in ("width > 0", "not width > 0", "width != 1", "width not in (1,)"):
        with pytest.raises(ArgumentError, match="found none that are asked for"):
            tokenstore.select(store, tmp_path / "b", where=where)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("__import__('os').system('true')", "cannot stand there"),
        ("label.upper() == 1", "cannot stand there"),
        ("[x for x in source]", "cannot stand there"),
        ("(lambda: label)()", "cannot stand there"),
        ("label if label else 1", "cannot stand there"),
        ("label == 1 if", "invalid syntax"),
        ("labels == 1", r": \S+/train has no column 'labels' to compare; it has .*Did you mean 'label'"),
        ("label_name < 3", "no kernel matching"),
        ("label", "expected true or false for each sample, found int32"),
        ("label in 3", r"expected a list such as \(1, 2\)"),
        ("label in ('x',)", "expected values of int32"),
        ("label < " + "9" * 40, "too large|too big"),
        ("(" * 4000 + "1" + ")" * 4000, "A condition has"),
        ("", "A condition has"),
    ],
)
def test_a_text_that_is_no_condition_is_refused_and_nothing_is_run(
    store: Path, tmp_path: Path, where: str, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        tokenstore.select(store, tmp_path / "b", where=where)
    assert list(tmp_path.iterdir()) == []


numbers = st.integers(-3, 3)
atoms = st.one_of(
    st.builds("a {} {}".format, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), numbers),
    st.builds("{} < b".format, numbers),
    st.builds("a in ({}, {})".format, numbers, numbers),
    st.just("a + b > 1"),
)
conditions = st.recursive(
    atoms,
    lambda inner: (
        st.builds("({}) {} ({})".format, inner, st.sampled_from(["and", "or"]), inner)
        | st.builds("not ({})".format, inner)
    ),
    max_leaves=6,
)


@given(conditions, st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_any_condition_says_what_python_says(text: str, rows: list[tuple[int, int]]) -> None:
    columns = {
        name: pa.array(values, pa.int32()) for name, values in zip("ab", np.array(rows).T, strict=True)
    }
    expected = [bool(eval(text, {}, {"a": a, "b": b})) for a, b in rows]
    assert Condition(text).holds(columns, len(rows)).tolist() == expected


@pytest.mark.parametrize("name", ["b.zarr", "b.zip"])
@pytest.mark.parametrize("codec", ["bitpack", "zstd", "context"])
def test_listed_rows_are_selected_whatever_the_codec_and_whole_shards_are_linked(
    store: Path, tmp_path: Path, codec: str, name: str
) -> None:
    source = tmp_path / "source"
    tokenstore.recode(store, source, codec=codec, shard_samples=8)
    rows = [*range(24), *range(28, 44), 50, 59]
    np.save(tmp_path / "rows.npy", np.array(rows[::-1]))
    tokenstore.select(source, tmp_path / name, indices=tmp_path / "rows.npy", splits=["train"])
    assert_rows(tmp_path / name, rows)
    manifest = tokenstore.open(tmp_path / name).manifest
    assert manifest.features == (codec,)
    if name == "b.zarr":
        linked = shared(tmp_path / name, source)
        assert [path for path in linked if "/tokens/c/" in path] == [
            f"train/tokens/c/{shard}/0/0" for shard in range(3)
        ]


def test_chunks_of_the_same_samples_are_copied_without_being_decoded(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenstore.writing.editing import rows as picked

    read: list[tuple[str, int, int]] = []
    plain = picked.JoinedRows.read_range

    def noted(self: Any, array: str, start: int, stop: int) -> Any:
        read.append((array, start, stop))
        return plain(self, array, start, stop)

    monkeypatch.setattr(picked.JoinedRows, "read_range", noted)
    tokenstore.select(store, tmp_path / "b", where="row >= 4", splits=["train"])
    assert_rows(tmp_path / "b", range(4, N))
    assert {array for array, _, _ in read} == {"labels", "score"}  # one chunk a shard, cut anew


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_any_rows_are_selected_in_order(
    store: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, N - 1), min_size=1, unique=True))
    out = tmp_path_factory.mktemp("any") / "b"
    tokenstore.select(store, out, indices={"train": rows}, jobs=1)
    assert_rows(out, sorted(rows))
    assert len(tokenstore.open(out)["val"]) == 0
    shutil.rmtree(out.parent)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([60], "expected row numbers from 0 to 59 of the split train, found 60"),
        ([-1], "found -1"),
        ([3, 3], "expected each row number once, found 3 again"),
        ([0.5], "expected a list of integers"),
        ({"test": [1]}, "expected the splits train, found 'test'"),
    ],
)
def test_wrong_row_numbers_are_refused(store: Path, tmp_path: Path, indices: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        tokenstore.select(store, tmp_path / "b", indices=indices, splits=["train"])
    with pytest.raises(ArgumentError, match=r"found the splits train, val\. Name one by splits="):
        tokenstore.select(store, tmp_path / "b", indices=[1])


@pytest.mark.parametrize("content", [b"1\nx\n", b"0.5", b"\xff\xfe", None])
def test_a_file_that_has_no_row_numbers_is_refused(
    store: Path, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "rows.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArgumentError, match=r"expected a \.npy file of integers, or a text file"):
        tokenstore.select(store, tmp_path / "b", indices=path, splits=["train"])


def test_a_share_is_a_pure_function_of_the_seed(store: Path, tmp_path: Path) -> None:
    drawn = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tokenstore.select(store, tmp_path / name, share=0.2, seed=seed, splits=["train"])
        drawn[name] = tokenstore.open(tmp_path / name)["train"].samples_table()["source_index"].to_pylist()
        assert_rows(tmp_path / name, drawn[name])
        assert len(drawn[name]) == 12
    assert drawn["a"] == drawn["b"] != drawn["c"]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    tokenstore.select(store, tmp_path / "d", where="label == 2", share=0.5, splits=["train"])
    assert tokenstore.open(tmp_path / "d")["train"].labels.tolist() == [2] * 6  # type: ignore[union-attr]
    for share, seed in ((0.0, 0), (1.5, 0), (0.5, -1)):
        with pytest.raises(ArgumentError, match="expected"):
            tokenstore.select(store, tmp_path / "e", share=share, seed=seed)


def test_an_unknown_split_and_no_condition_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no split 'trian'.*Did you mean 'train'"):
        tokenstore.select(store, tmp_path / "b", share=0.5, splits=["trian"])
    with pytest.raises(ArgumentError, match=r"expected one of where=\.\.\., indices=\.\.\., share=\.\.\."):
        tokenstore.select(store, tmp_path / "b")


def test_an_interrupted_selection_goes_on_and_a_second_one_is_done(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenstore.select(store, tmp_path / "whole", where="row > 2")

    def stop(self: StoreWriter) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            tokenstore.select(store, tmp_path / "b", where="row > 2")
    with pytest.raises(StoreExistsError, match="resume=True"):
        tokenstore.select(store, tmp_path / "b", where="row > 2")
    with pytest.raises(ConversionError, match="cannot resume with other inputs: operation was"):
        tokenstore.select(store, tmp_path / "b", where="row > 3", resume=True)
    assert not tokenstore.select(store, tmp_path / "b", where="row > 2", resume=True).already_complete
    assert contents(tmp_path / "b") == contents(tmp_path / "whole")
    assert tokenstore.select(store, tmp_path / "b", where="row > 2", resume=True).already_complete
    with pytest.raises(StoreExistsError, match=r"the store of the same operation \(select\)"):
        tokenstore.select(store, tmp_path / "b", where="row > 3", resume=True)


def test_a_store_of_many_shards_is_selected_from(tmp_path: Path) -> None:
    with few_are_many():
        write_store(
            tmp_path / "a",
            {"train": (CODES, LABELS, {"score": SCORES})},
            chunk_samples=2,
            shard_samples=4,
            class_names=CLASSES,
        )
        tokenstore.select(tmp_path / "a", tmp_path / "b", where="row < 40 or row > 50")
        assert_rows(tmp_path / "b", [*range(40), *range(51, N)])
    assert sum("/tokens/c/" in path for path in shared(tmp_path / "b", tmp_path / "a")) == 10


@pytest.mark.parametrize("codec", ["bitpack", "context"])
def test_samples_of_several_views_are_selected(tmp_path: Path, codec: str) -> None:
    codes = random_codes(40, (2, 3, 3), 16)
    write_store(tmp_path / "one", {"train": (codes,)}, 16, chunk_samples=4, shard_samples=8, views=Views(2))
    tokenstore.recode(tmp_path / "one", tmp_path / "a", codec=codec, shard_samples=8)
    tokenstore.select(tmp_path / "a", tmp_path / "b", where="row < 16 or row > 20")
    assert verify(tmp_path / "b").problems == []
    np.testing.assert_array_equal(
        tokenstore.open(tmp_path / "b")["train"][:], codes[[*range(16), *range(21, 40)]]
    )
    assert "train/tokens/c/1/0/0/0" in shared(tmp_path / "b", tmp_path / "a")


def test_damage_of_a_shard_that_is_copied_is_found(store: Path, tmp_path: Path) -> None:
    copied = tmp_path / "a"
    shutil.copytree(store, copied)
    shard = copied / "train/tokens/c/1/0/0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamageError, match="train/tokens"):
        tokenstore.select(copied, tmp_path / "b.zarr", where="row != 9")


@pytest.mark.parametrize("stratified", [False, True])
def test_a_split_is_divided_into_all_of_its_samples(store: Path, tmp_path: Path, stratified: bool) -> None:
    shares = {"dev": 0.1, "test": 0.25}
    tokenstore.split(store, tmp_path / "b", shares=shares, of="train", stratified=stratified, seed=4)
    tokenstore.split(store, tmp_path / "c", shares=shares, of="train", stratified=stratified, seed=4)
    assert contents(tmp_path / "b") == contents(tmp_path / "c")
    opened = tokenstore.open(tmp_path / "b")
    rows: dict[str, list[int]] = {}
    for name in ("train", "dev", "test"):
        rows[name] = opened[name].samples_table()["source_index"].to_pylist()
        assert_rows(tmp_path / "b", rows[name], name)
    assert {name: len(found) for name, found in rows.items()} == {"train": 39, "dev": 6, "test": 15}
    assert sorted([row for found in rows.values() for row in found]) == list(range(N))
    assert opened.splits == ("train", "dev", "test", "val")
    assert any(path.startswith("val/tokens/c/") for path in shared(tmp_path / "b", store))
    if stratified:
        assert np.bincount(LABELS[rows["test"]]).tolist() == [3] * 5
        assert sorted(np.bincount(LABELS[rows["dev"]], minlength=5).tolist()) == [1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": {"val": 0.1}}, r"found train, val\. Name the one to divide by of="),
        ({"shares": {"val": 0.1}, "of": "train"}, "expected names of new splits, found 'val'"),
        ({"shares": {"dev": 0.5, "x": 0.5}, "of": "train"}, "below 1 in all"),
        ({"shares": {}, "of": "train"}, r"shares=\.\.\.: .*below 1 in all, found none"),
        ({"shares": {"dev": float("nan")}, "of": "train"}, "below 1 in all"),
        ({"shares": {"dev": 0.001}, "of": "train"}, "of 60 for dev, found 0"),
        ({"shares": {"dev": 0.5}, "of": "trial"}, "no split 'trial'"),
        ({"shares": {"d/v": 0.5}, "of": "train"}, "cannot name a split"),
    ],
)
def test_a_division_that_cannot_be_is_refused(
    store: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(tokenstore.TokenstoreError, match=message):
        tokenstore.split(store, tmp_path / "b", **options)


def divided_rows(folder: Path, seed: int) -> npt.NDArray[np.int64]:
    codes = random_codes(40, (2,), 16)
    write_store(folder / "a", {"train": (codes,)}, 16)
    tokenstore.split(folder / "a", folder / "b", shares={"val": 0.3}, seed=seed)
    rows = tokenstore.open(folder / "b")["val"].samples_table()["source_index"]
    return rows.to_numpy()  # type: ignore[no-any-return]


def test_a_division_is_the_one_that_numpy_draws(tmp_path: Path) -> None:
    expected = np.sort(np.random.default_rng((7, 0)).permutation(40)[:12])
    np.testing.assert_array_equal(divided_rows(tmp_path, 7), expected)
    with pytest.raises(StoreError, match="expected labels to take a share of each class"):
        tokenstore.split(tmp_path / "a", tmp_path / "c", shares={"val": 0.3}, stratified=True)
