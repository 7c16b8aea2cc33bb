"""The merging of whole stores: samples one after another, classes by name, whole shards linked."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.context_models import random_model
from helpers.ragged import KINDS, ragged_columns, same
from helpers.stores import Samples, contents, random_codes, store_files, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs import Views
from tokenstore.errors import ArgumentError, ManifestError, StoreError, StoreExistsError
from tokenstore.format import Skip, TokenizerIdentity

CODES = random_codes(40, (2, 2), 391)
LABELS = (np.arange(40) % 3).astype(np.int32)
TOKENIZER = TokenizerIdentity("conv", "ab" * 32)


def written(
    path: Path, rows: slice, names: tuple[str, ...] | None = ("ant", "bee", "cat"), **options: Any
) -> Path:
    """Write a store of some of the samples, in shards of 8; with `labels=False` without labels."""
    labels = LABELS[rows] if options.pop("labels", True) else None
    columns = options.pop("columns", {"score": np.arange(40.0)[rows]})
    values = {"chunk_samples": 2, "shard_samples": 8, "tokenizer": TOKENIZER, **options}
    write_store(path, {"train": (CODES[rows], labels, columns)}, 391, class_names=names, **values)
    return path


def assert_whole(path: Path, codes: Any = CODES, split: str = "train") -> tokenstore.TokenStore:
    found = verify(path)
    assert (found.problems, found.notes) == ([], [])
    opened = tokenstore.open(path)
    np.testing.assert_array_equal(opened[split][:], codes)
    return opened


def shared(path: Path, *others: Path) -> list[str]:
    """Return the shards of tokens of a store that are files of others too."""
    inodes = {(other / name).stat().st_ino for other in others for name in store_files(other)}
    shards = [name for name in store_files(path) if "/tokens/c/" in name]
    return [name for name in shards if (path / name).stat().st_ino in inodes]


@pytest.mark.parametrize("compiled", [(False, True), (True, False), (False, False)])
@pytest.mark.parametrize("way", ["merge", "append"])
def test_a_store_says_compiled_if_any_of_its_codes_are(
    tmp_path: Path, compiled: tuple[bool, bool], way: str
) -> None:
    """Else `verify --retokenize` would take codes that a compiler rounded otherwise for damage."""
    one, two = (
        written(
            tmp_path / name,
            rows,
            tokenizer=replace(TOKENIZER, device="cpu", dtype="float32", compiled=is_compiled),
        )
        for name, rows, is_compiled in zip(
            ("one", "two"), (slice(0, 17), slice(17, 40)), compiled, strict=True
        )
    )
    if way == "append":
        tokenstore.append(one, two)
    else:
        tokenstore.merge(tmp_path / "out", [one, two])
    opened = assert_whole(one if way == "append" else tmp_path / "out")
    assert opened.manifest.tokenizer.compiled == any(compiled)
    assert opened.manifest.tokenizer.device == "cpu"


@pytest.mark.parametrize("way", ["merge", "append"])
def test_a_store_names_all_devices_and_types_that_computed_its_codes(tmp_path: Path, way: str) -> None:
    """Else `verify --retokenize` would take codes that another device rounded otherwise for damage."""
    places = [("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16"), (None, None)]
    stores = [
        written(
            tmp_path / f"{number}",
            slice(10 * number, 10 * number + 10),
            tokenizer=replace(TOKENIZER, device=device, dtype=dtype),
        )
        for number, (device, dtype) in enumerate(places)
    ]
    if way == "append":
        for store in stores[1:]:
            tokenstore.append(stores[0], store)
    else:
        tokenstore.merge(tmp_path / "out", stores)
    opened = assert_whole(stores[0] if way == "append" else tmp_path / "out")
    assert opened.manifest.tokenizer.arithmetic == "cpu, cuda float32, bfloat16"


def test_classes_are_unified_by_name_and_rows_follow_each_other(tmp_path: Path) -> None:
    one = written(tmp_path / "one", slice(0, 17))
    two = written(tmp_path / "two", slice(17, 40), ("cat", "dog", "ant"))
    before = contents(one), contents(two)
    merged = tokenstore.merge(tmp_path / "out", [one, two])
    assert (contents(one), contents(two)) == before
    opened = assert_whole(tmp_path / "out")
    assert opened.class_names == ("ant", "bee", "cat", "dog")
    words = [*np.array(["ant", "bee", "cat"])[LABELS[:17]], *np.array(["cat", "dog", "ant"])[LABELS[17:]]]
    train = opened["train"]
    assert [opened.class_names[label] for label in train.labels.tolist()] == words  # type: ignore[union-attr]
    table = train.samples_table()
    assert table["label_name"].to_pylist() == words
    assert table["source_index"].to_pylist() == [*range(17), *range(23)]
    np.testing.assert_array_equal(train.read("score"), np.arange(40.0))
    (done,) = merged.manifest.history
    assert done.inputs == tuple(tokenstore.open(path).files.root_digest for path in (one, two))
    assert shared(tmp_path / "out", one, two) == ["train/tokens/c/0/0/0", "train/tokens/c/1/0/0"]


def test_where_the_first_ends_with_a_whole_shard_all_of_the_second_s_are_linked(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one", slice(0, 24)), written(tmp_path / "two", slice(24, 40))
    tokenstore.merge(tmp_path / "out", [one, two])
    assert_whole(tmp_path / "out")
    assert len(shared(tmp_path / "out", one, two)) == 5
    write_store(
        tmp_path / "once",
        {"train": (CODES, LABELS, {"score": np.arange(40.0)})},
        391,
        class_names=("ant", "bee", "cat"),
        chunk_samples=2,
        shard_samples=8,
        tokenizer=TOKENIZER,
    )
    merged, once = contents(tmp_path / "out"), contents(tmp_path / "once")
    assert [path for path in once if merged[path] != once[path]] == ["train/samples.parquet", "zarr.json"]


@given(st.lists(st.integers(1, 15), min_size=1, max_size=4), st.sampled_from(["bitpack", "zstd"]))
@settings(max_examples=15, deadline=None)
def test_any_stores_are_joined(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], codec: str
) -> None:
    folder, stops = tmp_path_factory.mktemp("any"), np.cumsum([0, *sizes]).tolist()
    parts = []
    for number, (start, stop) in enumerate(itertools.pairwise(stops)):
        columns = {name: values[start:stop] for name, values in ragged_columns(60).items()}
        samples = Samples(random_codes(60, (3,), 16)[start:stop], None, columns, (), KINDS)
        parts.append(folder / f"{number}")
        write_store(parts[-1], {"x": samples}, 16, chunk_samples=2, shard_samples=4, codec=codec)
    tokenstore.merge(folder / "out", parts, jobs=1)
    opened = assert_whole(folder / "out", random_codes(60, (3,), 16)[: stops[-1]], "x")
    for name, values in ragged_columns(60).items():
        assert same(opened["x"].read(name), values[: stops[-1]])


def test_stores_of_other_models_and_codecs_are_coded_by_the_first_one_s(tmp_path: Path) -> None:
    models = [random_model(seed=seed) for seed in (1, 2)]
    one = written(tmp_path / "one", slice(0, 16), codec="context", model=models[0])
    two = written(tmp_path / "two", slice(16, 40), codec="context", model=models[1])
    tokenstore.merge(tmp_path / "out", [one, two])
    tokenstore.merge(tmp_path / "other", [two, written(tmp_path / "three", slice(0, 16))])
    assert assert_whole(tmp_path / "out").manifest.features == ("context",)
    assert_whole(tmp_path / "other", CODES[[*range(16, 40), *range(16)]])
    codecs = [
        tokenstore.open(path)["train"].array("tokens").layout.codec.zarr for path in (tmp_path / "out", one)
    ]
    assert codecs[0] == codecs[1]
    assert len(shared(tmp_path / "out", one, two)) == 2
    assert len(shared(tmp_path / "other", two)) == 3


def test_splits_are_renamed_by_a_pattern(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one.zarr", slice(0, 17)), written(tmp_path / "two v2.zip", slice(17, 40))
    tokenstore.merge(tmp_path / "a", [one, two], split_names="{split}-{store}")
    assert tokenstore.open(tmp_path / "a").splits == ("train-one", "train-two-v2")
    assert_whole(tmp_path / "a", CODES[17:], "train-two-v2")
    tokenstore.merge(tmp_path / "b", [one, two], split_names="part{number}")
    assert_whole(tmp_path / "b", CODES[:17], "part1")
    with pytest.raises(ManifestError, match="'a/b' cannot name a split"):
        tokenstore.merge(tmp_path / "c", [one, two], split_names="a/b")
    with pytest.raises(ArgumentError, match="expected a name for each of part1, part2, found 'all'"):
        tokenstore.merge(tmp_path / "c", [tmp_path / "b"], split_names="all")
    tokenstore.merge(tmp_path / "d", [one, two], split_names="all")
    assert_whole(tmp_path / "d", CODES, "all")


def test_columns_have_to_agree_or_are_left_out(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one", slice(0, 17)), written(tmp_path / "two", slice(17, 40), columns={})
    three = written(tmp_path / "three", slice(17, 40), columns={"score": np.arange(23, dtype=np.int8)})
    for other in (two, three):
        with pytest.raises(
            StoreError,
            match=r"columns in \S+/train and \S+/train, found other score.*common_columns=True",
        ):
            tokenstore.merge(tmp_path / "out", [one, other])
    assert not (tmp_path / "out").exists()
    for number, other in enumerate((two, three)):
        tokenstore.merge(tmp_path / f"{number}", [one, other], common_columns=True)
        assert assert_whole(tmp_path / f"{number}")["train"].columns == ("tokens", "labels")


def test_labels_that_are_left_out_leave_no_names_of_classes_behind(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one", slice(0, 17)), written(tmp_path / "two", slice(17, 40), labels=False)
    tokenstore.merge(tmp_path / "out", [one, two], common_columns=True)
    split = assert_whole(tmp_path / "out")["train"]
    assert split.columns == ("tokens", "score")
    table, parts = (
        split.samples_table(),
        [tokenstore.open(path)["train"].samples_table() for path in (one, two)],
    )
    assert parts[0]["label_name"].null_count == 0
    assert table["label_name"].null_count == 40
    rest = [name for name in table.column_names if name != "label_name"]
    assert table.select(rest).to_pylist() == [row for part in parts for row in part.select(rest).to_pylist()]


def test_skipped_samples_and_histories_of_all_stores_are_kept(tmp_path: Path) -> None:
    skips = [Skip(3, "x/3.png", "truncated")]
    write_store(tmp_path / "one", {"train": Samples(CODES[:5], skipped=skips)}, 391)
    write_store(tmp_path / "two", {"train": Samples(CODES[:9], skipped=skips)}, 391)
    tokenstore.select(tmp_path / "two", tmp_path / "three", where="row < 4")
    merged = tokenstore.merge(tmp_path / "out", [tmp_path / "one", tmp_path / "three"])
    assert merged.manifest.splits["train"].skipped == 2
    assert_whole(tmp_path / "out", CODES[[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    (done,) = merged.manifest.history
    assert [[each["operation"] for each in history] for history in done.arguments["histories"]] == [
        [],
        ["select"],
    ]


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"tokenizer": TokenizerIdentity("conv", "cd" * 32)},
        r"in \S+/train and .* in \S+/train\.",
    ),
    ({"tokenizer": TokenizerIdentity("vq", "ab" * 32)}, "expected stores of one tokenizer"),
    ({"codebook": np.ones((391, 2), np.float32)}, "codebook is .* there, and .* here"),
    ({"ignore_index": 7}, "ignore_index is 3 there, and 7 here"),
    ({"names": None}, "expected names of classes as .* has, found labels without"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_stores_that_mean_other_things_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    codebook = np.zeros((391, 2), np.float32)
    one = written(tmp_path / "one", slice(0, 17), codebook=codebook, ignore_index=3)
    two = written(tmp_path / "two", slice(17, 40), **{"codebook": codebook, **options})
    with pytest.raises(StoreError, match=message):
        tokenstore.merge(tmp_path / "out", [one, two])
    assert not (tmp_path / "out").exists()


def test_another_grid_other_views_and_no_store_are_refused(tmp_path: Path) -> None:
    codes = random_codes(6, (2, 2), 391)
    write_store(tmp_path / "one", {"train": (codes,)}, 391)
    write_store(tmp_path / "two", {"train": (codes[:, :1],)}, 391)
    write_store(tmp_path / "three", {"train": (codes,)}, 391, views=Views(2))
    write_store(tmp_path / "four", {"train": (codes[:, :, None],)}, 391, views=Views(2))
    with pytest.raises(StoreError, match="expected grids"):
        tokenstore.merge(tmp_path / "out", [tmp_path / "one", tmp_path / "two"])
    with pytest.raises(StoreError):
        tokenstore.merge(tmp_path / "out", [tmp_path / "one", tmp_path / "three"])
    with pytest.raises(StoreError, match="found none"):
        tokenstore.merge(tmp_path / "out", [])
    with pytest.raises(ArgumentError, match=r"on_error=\.\.\. is for parts"):
        tokenstore.merge(tmp_path / "out", [tmp_path / "one"], on_error="skip")


def test_what_only_one_store_knows_is_kept_and_what_two_say_otherwise_is_not(tmp_path: Path) -> None:
    codebook = np.arange(782, dtype=np.float32).reshape(391, 2)
    one = written(tmp_path / "one", slice(0, 17), ignore_index=3, source_location="a", source_kind="folder")
    two = written(
        tmp_path / "two", slice(17, 40), codebook=codebook, source_location="b", source_kind="folder"
    )
    manifest = tokenstore.merge(tmp_path / "out", [one, two]).manifest
    assert (manifest.ignore_index, manifest.source_location, manifest.source_kind) == (3, None, "folder")
    np.testing.assert_array_equal(assert_whole(tmp_path / "out").codebook, codebook)


def test_a_second_merge_is_done_already_and_another_is_refused(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one", slice(0, 17)), written(tmp_path / "two", slice(17, 40))
    tokenstore.merge(tmp_path / "out", [one, two])
    assert tokenstore.merge(tmp_path / "out", [one, two], resume=True).already_complete
    with pytest.raises(StoreExistsError, match=r"the store of the same operation \(merge\)"):
        tokenstore.merge(tmp_path / "out", [two, one], resume=True)
    with pytest.raises(StoreExistsError, match="something is already there"):
        tokenstore.merge(tmp_path / "out", [one, two])
