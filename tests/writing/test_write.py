"""`tokenstore.write`: codes in memory or in a loop become the store that a conversion writes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.ragged import same
from helpers.stores import contents, few_are_many, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs import Column, Views, list_column
from tokenstore.codecs.soft_labels import SoftLabels
from tokenstore.errors import ArgumentError, CodecError, ConversionError, StoreExistsError, TokenizerError
from tokenstore.format import TokenizerIdentity
from tokenstore.storage import open_storage
from tokenstore.writing.codes_writer import CodesWriter

GRID, SIZE, SAMPLES = (2, 3), 50, 37
CODES = random_codes(SAMPLES, GRID, SIZE)
LABELS = (np.arange(SAMPLES) % 4).astype(np.int64)
CAPTIONS = [f"größte {row}" if row % 3 else "" for row in range(SAMPLES)]
BOXES = [np.full((row % 3, 4), row, np.float32) for row in range(SAMPLES)]
SCORES = np.arange(SAMPLES * 2, dtype=np.float32).reshape(SAMPLES, 2)
COLUMNS: dict[str, Any] = {"caption": CAPTIONS, "boxes": BOXES, "scores": SCORES}
SMALL: dict[str, Any] = {"codebook_size": SIZE, "chunk_samples": 4, "shard_samples": 8}


def part(start: int, stop: int) -> dict[str, Any]:
    return {name: values[start:stop] for name, values in COLUMNS.items()}


def add(writer: CodesWriter, start: int, stop: int) -> None:
    writer.add(CODES[start:stop], LABELS[start:stop], columns=part(start, stop))


def check(path: Any, samples: int = SAMPLES) -> None:
    split = tokenstore.open(path)["train"]
    assert np.array_equal(split[:], CODES[:samples])
    assert split.labels is not None
    assert split.labels.tolist() == LABELS[:samples].tolist()
    assert split.read("caption").tolist() == CAPTIONS[:samples]
    assert same(split.read("boxes"), BOXES[:samples])
    assert np.array_equal(split.read("scores"), SCORES[:samples])
    assert verify(path).problems == []


def test_an_array_in_one_call_is_the_store_that_converting_its_file_gives(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", tokens=CODES, labels=LABELS, scores=SCORES)
    tokenstore.convert(tmp_path / "train.npz", tmp_path / "converted", codebook_size=SIZE, chunk_samples=4)
    written = tokenstore.write(
        tmp_path / "written",
        CODES,
        labels=LABELS,
        columns={"scores": SCORES},
        names=[f"train.npz[{row}]" for row in range(SAMPLES)],
        codebook_size=SIZE,
        chunk_samples=4,
    )
    ours, theirs = contents(tmp_path / "written"), contents(tmp_path / "converted")
    assert {path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)} == {
        "zarr.json"
    }
    assert written.manifest.splits["train"].samples == SAMPLES


@settings(max_examples=12)
@given(cuts=st.lists(st.integers(0, SAMPLES), max_size=9).map(sorted))
def test_batches_of_any_size_give_the_same_store(
    cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with tokenstore.write(folder / "batches", grid=GRID, **SMALL) as writer:
        for start, stop in itertools.pairwise([0, *cuts, SAMPLES]):
            add(writer, start, stop)
            assert writer.samples.get("train", 0) == stop
    tokenstore.write(folder / "whole", CODES, labels=LABELS, columns=COLUMNS, **SMALL)
    assert contents(folder / "batches") == contents(folder / "whole")
    check(folder / "batches")


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize(("codec", "place"), [("auto", "memory"), ("context", "out.zip"), ("zstd", "out")])
def test_a_codec_and_a_place_are_those_of_convert(
    tmp_path: Path, memory_url: str, codec: str, place: str
) -> None:
    target = memory_url if place == "memory" else str(tmp_path / place)
    with tokenstore.write(target, grid=GRID, codec=codec, **SMALL) as writer:
        for start in range(0, SAMPLES, 5):
            add(writer, start, min(start + 5, SAMPLES))
    check(target)
    assert (writer.result.choice is None) == (codec == "zstd")
    if codec != "auto":
        assert writer.result.manifest.features[0] == codec


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize("codec", ["bitpack", pytest.param("context", marks=pytest.mark.thorough)])
def test_a_loop_that_failed_goes_on_where_the_writer_says(tmp_path: Path, codec: str) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    tokenstore.write(whole, CODES, labels=LABELS, columns=COLUMNS, codec=codec, **SMALL)
    stops, start = [7, 8, 20, SAMPLES], 0
    for attempt in range(100):
        try:
            with tokenstore.write(out, grid=GRID, codec=codec, resume=attempt > 0, **SMALL) as writer:
                start = writer.samples.get("train", 0)
                for stop in [stop for stop in stops if stop > start]:
                    add(writer, start, stop)
                    start = stop
                    if attempt < len(stops) - 1:
                        raise KeyboardInterrupt
            break
        except KeyboardInterrupt:
            with pytest.raises(tokenstore.TokenstoreError):
                tokenstore.open(out)
    assert attempt == len(stops) - 1
    assert contents(out) == contents(whole)
    with tokenstore.write(out, grid=GRID, codec=codec, resume=True, **SMALL) as writer:
        assert writer.samples == {"train": SAMPLES}
        with pytest.raises(ArgumentError, match="all samples are written already"):
            add(writer, 0, 1)
    assert writer.result.already_complete


def test_a_split_each_and_what_each_has(tmp_path: Path) -> None:
    with tokenstore.write(tmp_path / "out", grid=GRID, class_names=("a", "b", "c", "d"), **SMALL) as writer:
        for start in range(0, 20, 4):
            writer.add(CODES[start : start + 4].tolist(), torch.from_numpy(LABELS[start : start + 4]))
            writer.add(
                torch.from_numpy(CODES[start : start + 4].astype(np.int64)), split="val", names=list("wxyz")
            )
        assert writer.samples == {"train": 20, "val": 20}
    store = tokenstore.open(tmp_path / "out")
    assert store.splits == ("train", "val")
    assert store["val"].labels is None
    assert np.array_equal(store["val"][:], CODES[:20])
    assert store["train"].samples_table()["label_name"].to_pylist() == list("abcd" * 5)
    assert store["train"].samples_table()["source"].to_pylist()[19] == "train[19]"
    assert store["val"].samples_table()["source"].to_pylist() == list("wxyz" * 5)
    assert store.manifest.source_kind == "written"


def test_a_batch_may_be_reused_by_its_caller(tmp_path: Path) -> None:
    buffer = np.empty((5, *GRID), np.int32)
    with tokenstore.write(tmp_path / "out", grid=GRID, **SMALL) as writer:
        for start in range(0, 35, 5):
            buffer[...] = CODES[start : start + 5]
            writer.add(buffer)
    assert np.array_equal(tokenstore.open(tmp_path / "out")["train"][:], CODES[:35])


BAD: dict[str, tuple[Any, str]] = {
    "shape": (CODES[:, :1], r"expected integer codes of grid \(2, 3\), found uint8 \(1, 3\)"),
    "dtype": (CODES.astype(np.float32), "expected integer codes of grid"),
    "bool": (CODES > 3, "expected integer codes of grid"),
    "large": (
        np.where(np.arange(SAMPLES)[:, None, None] == 7, 50, 0) + CODES * 0,
        "sample 12: expected codes from 0 to 49, found 50",
    ),
    "negative": (CODES.astype(np.int64) * 0 - 1, "expected codes from 0 to 49, found -1"),
    "ragged": ([[1], [2, 3]], "expected an array of numbers"),
    "objects": (np.array([None]), "expected an array of numbers"),
}


@pytest.mark.parametrize("bad", BAD)
def test_wrong_codes_are_one_clear_error_and_nothing_of_the_batch_is_taken(tmp_path: Path, bad: str) -> None:
    codes, message = BAD[bad]
    with tokenstore.write(tmp_path / "out", grid=GRID, **SMALL) as writer:
        writer.add(CODES[:5])
        with pytest.raises((ArgumentError, CodecError), match=message):
            writer.add(codes)
        assert writer.samples == {"train": 5}
    assert np.array_equal(tokenstore.open(tmp_path / "out")["train"][:], CODES[:5])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "too few labels": ({"labels": LABELS[:4]}, "one for each of 5 samples, found int64 .4,."),
    "floats": ({"labels": LABELS[:5] * 0.5}, "expected integer labels"),
    "negative": (
        {"labels": LABELS[:5] - 1},
        "from 0 to 3, as 4 class names were given, found -1",
    ),
    "too large": ({"labels": LABELS[:5] + 2}, "found 4 at place 2 of the batch"),
    "no labels": ({"labels": None}, "expected labels, found none, which all before have"),
    "names": ({"names": list("abcde")}, "expected no names, found names, which no sample before has"),
    "no columns": ({"columns": {}}, "expected the columns caption, boxes, scores, found none"),
    "texts": (
        {"columns": {**part(0, 5), "caption": [1, 2, 3, 4, 5]}},
        "at place 0 of the batch: expected a text",
    ),
    "a text": ({"columns": {**part(0, 5), "caption": "abcde"}}, "expected 5 texts, one a sample"),
    "boxes": (
        {"columns": {**part(0, 5), "boxes": [np.zeros((2, 3))] * 5}},
        "expected a list of float32.4., found float64 .2, 3.",
    ),
    "scores": (
        {"columns": {**part(0, 5), "scores": SCORES[:5].astype(np.float64)}},
        "expected float32 .5, 2., found float64",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_companions_of_codes_are_one_clear_error(tmp_path: Path, wrong: str) -> None:
    arguments, message = WRONG[wrong]
    with tokenstore.write(tmp_path / "out", grid=GRID, class_names=("a", "b", "c", "d"), **SMALL) as writer:
        add(writer, 0, 9)
        with pytest.raises(ArgumentError, match=message):
            writer.add(CODES[:5], **{"labels": LABELS[:5], "columns": part(0, 5), **arguments})
        add(writer, 9, SAMPLES)
    check(tmp_path / "out")


def test_declared_columns_hold_what_they_say(tmp_path: Path) -> None:
    probabilities = np.full((SAMPLES, 10), 0.02)
    probabilities[np.arange(SAMPLES), LABELS] = 0.82
    kinds = {
        "soft": Column(np.dtype(np.uint16), (3, 2), SoftLabels(10)),
        "tags": list_column(np.dtype(np.int32)),
        "id": np.int64,
        "box": (np.float32, (4,)),
        "note": str,
    }
    columns = {
        "soft": probabilities,
        "tags": [list(range(row % 3)) for row in range(SAMPLES)],
        "id": np.arange(SAMPLES, dtype=np.int32),
        "box": np.ones((SAMPLES, 4), np.float16),
        "note": CAPTIONS,
    }
    with tokenstore.write(tmp_path / "out", grid=GRID, columns=kinds, **SMALL) as writer:
        with pytest.raises(ArgumentError, match="expected a list of int32, found float64"):
            writer.add(
                CODES[:1], columns={name: values[:1] for name, values in columns.items()} | {"tags": [[0.5]]}
            )
        with pytest.raises(ArgumentError, match="expected the columns soft, tags, id, box, note, found none"):
            writer.add(CODES)
        with pytest.raises(ArgumentError, match="probabilities that sum to 1, found others at place 0"):
            writer.add(CODES, columns={**columns, "soft": probabilities * 2})
        writer.add(CODES, columns=columns)
    split = tokenstore.open(tmp_path / "out")["train"]
    assert split.column("id").dtype == np.int64
    assert split.read("box").dtype == np.float32
    assert [each.tolist() for each in split.read("tags", [0, 1, 2])] == [[], [0], [0, 1]]
    soft = split.column("soft").values(split.read("soft"))
    assert np.abs(soft - probabilities).max() < 1e-3


def test_what_is_given_has_to_fit(tmp_path: Path) -> None:
    def refused(message: str, *codes: Any, kind: type[Exception] = ArgumentError, **arguments: Any) -> None:
        with pytest.raises(kind, match=message):
            tokenstore.write(tmp_path / "out", *codes, **arguments)
        assert not list(tmp_path.iterdir())

    refused("grid: expected the shape of a sample's codes", codebook_size=3)
    refused("codebook_size=...: expected the number of codes, a tokenizer or a codebook", CODES)
    refused("labels=...: expected with codes", labels=LABELS, grid=GRID, codebook_size=3)
    refused("'scores': expected a dtype", grid=GRID, codebook_size=3, columns={"scores": object()})
    refused("found 'none-such'", CODES, tokenizer="none-such", kind=TokenizerError)
    refused("codebook: expected vectors", CODES, codebook=np.zeros(3))
    for names in ("abc", ["a", 3], ["a", "\ud800"]):
        refused("class_names: expected a list of texts", CODES, codebook_size=391, class_names=names)


def test_two_writers_and_other_settings_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    writer = tokenstore.write(out, grid=GRID, **SMALL)
    add(writer, 0, 10)
    with pytest.raises(ConversionError, match="another process is writing this store"):
        tokenstore.write(out, grid=GRID, resume=True, **SMALL)
    writer.save()
    writer.close()
    with pytest.raises(StoreExistsError, match="an unfinished conversion is there"):
        tokenstore.write(out, grid=GRID, **SMALL)
    with pytest.raises(ConversionError, match="cannot resume with other inputs"):
        tokenstore.write(out, grid=(3, 2), resume=True, **SMALL)
    with tokenstore.write(out, grid=GRID, resume=True, **SMALL) as writer:
        assert writer.samples == {"train": 10}
        add(writer, 10, SAMPLES)
    check(out)
    with pytest.raises(ConversionError, match="a complete store is there, of other settings: expected grid"):
        tokenstore.write(out, grid=(3, 2), resume=True, **SMALL)


def test_a_store_without_samples_is_refused(tmp_path: Path) -> None:
    writer = tokenstore.write(tmp_path / "out", grid=GRID, **SMALL)
    writer.add(CODES[:0])
    with pytest.raises(ConversionError, match="no sample was added"), writer:
        pass


def test_a_name_that_no_column_or_split_can_have_is_refused(tmp_path: Path) -> None:
    taken: list[dict[str, Any]] = [{"columns": {name: SCORES}} for name in ("tokens", "labels")]
    with tokenstore.write(tmp_path / "out", grid=GRID, **SMALL) as writer:
        for arguments in ({"split": "a b"}, *taken):
            with pytest.raises(ArgumentError, match="cannot name a split or column"):
                writer.add(CODES, **arguments)
        writer.add(CODES)


def test_a_killed_commit_is_finished_and_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    tokenstore.write(whole, CODES, labels=LABELS, columns=COLUMNS, **SMALL)
    writer = tokenstore.write(out, grid=GRID, **SMALL)
    add(writer, 0, SAMPLES)
    with monkeypatch.context() as patch:
        patch.setattr("tokenstore.writing.writer.StoreWriter.commit", lambda writer: 1 / 0)
        with pytest.raises(ZeroDivisionError), writer:
            pass
    writer = tokenstore.write(out, grid=GRID, resume=True, **SMALL)
    with pytest.raises(ArgumentError, match="no more can be added"):
        add(writer, 0, 1)
    writer.close()
    with tokenstore.write(out, grid=GRID, resume=True, **SMALL) as writer:
        assert writer.samples == {"train": SAMPLES}
    assert contents(out) == contents(whole)


def test_a_split_that_turns_out_to_have_many_shards_is_a_large_one(tmp_path: Path) -> None:
    many = few_are_many(MANY_SHARDS=3, PART_ROWS=9)
    with many, tokenstore.write(tmp_path / "out", grid=GRID, **SMALL) as writer:
        add(writer, 0, SAMPLES)
    check(tmp_path / "out")
    assert {"manifests", "tables"} <= set(tokenstore.open(tmp_path / "out").manifest.features)
    table = tokenstore.open(tmp_path / "out")["train"].samples_table()
    assert table["source_index"].to_pylist() == list(range(SAMPLES))


def test_the_tokenizer_is_named_or_described(tmp_path: Path) -> None:
    identity = TokenizerIdentity("llamagen-vq16")
    written = tokenstore.write(tmp_path / "a", CODES, tokenizer=identity, codebook_size=SIZE)
    assert written.manifest.tokenizer == identity
    codes = random_codes(3, (14, 14), 2048)
    store = tokenstore.write(tmp_path / "b", codes, tokenizer="default").manifest
    assert store.codebook_sizes == (2048,)
    opened = tokenstore.open(tmp_path / "b")
    assert opened.codebook is not None
    tokenstore.reconstruct(tmp_path / "b", [0], tmp_path / "images")
    vectors: npt.NDArray[np.float32] = opened.codebook
    same_vectors = tokenstore.write(tmp_path / "c", codes, codebook=vectors, tokenizer="default").manifest
    assert same_vectors.tokenizer.fingerprint == store.tokenizer.fingerprint


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize("codec", ["bitpack", pytest.param("context", marks=pytest.mark.thorough)])
def test_samples_of_several_views_are_written(tmp_path: Path, codec: str) -> None:
    codes = random_codes(2 * SAMPLES, GRID, SIZE).reshape(SAMPLES, 2, *GRID)
    boxes = [(0, 0, 16, 24, 0), (0, 0, 16, 24, 1)]
    with tokenstore.write(tmp_path / "out", grid=GRID, views=boxes, codec=codec, **SMALL) as writer:
        writer.add(codes[:9])
        with pytest.raises(CodecError, match="expected integer codes of 2 views of grid"):
            writer.add(CODES)
        writer.add(codes[9:])
    store = tokenstore.open(tmp_path / "out")
    assert store.manifest.views == Views(2, ((0, 0, 16, 24, 0), (0, 0, 16, 24, 1)))
    assert np.array_equal(store["train"].read("tokens"), codes)
    assert verify(tmp_path / "out").problems == []


def test_boxes_of_views_have_to_fit_the_views(tmp_path: Path) -> None:
    codes = CODES[:10].reshape(5, 2, *GRID)
    boxes = np.tile(np.array([0, 0, 4, 4, 0], np.int32), (5, 2, 1))
    tokenstore.write(tmp_path / "a", codes, views=2, columns={"view_boxes": boxes}, codebook_size=SIZE)
    assert np.array_equal(tokenstore.open(tmp_path / "a")["train"].read("view_boxes"), boxes)
    for columns in ({"view_boxes": boxes[:, :1]}, {"view_boxes": boxes.astype(np.int64)}):
        with pytest.raises(ArgumentError, match="column 'view_boxes'"):
            tokenstore.write(tmp_path / "b", codes, views=2, columns=columns, codebook_size=SIZE)
    for views in (1, [(0, 0, 4)], [(0, 0, 4, 4, 2)] * 2, "ab"):
        with pytest.raises(ArgumentError, match="views: "):
            tokenstore.write(tmp_path / "c", codes, views=views, codebook_size=SIZE)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_waiting")
def test_an_interrupted_writer_of_a_remote_place_goes_on(tmp_path: Path, memory_url: str) -> None:
    tokenstore.write(tmp_path / "whole", CODES, labels=LABELS, columns=COLUMNS, **SMALL)
    with pytest.raises(KeyboardInterrupt), tokenstore.write(memory_url, grid=GRID, **SMALL) as writer:
        add_and_interrupt(writer)
    with tokenstore.write(memory_url, grid=GRID, resume=True, **SMALL) as writer:
        assert writer.samples == {"train": 19}
        add(writer, 19, SAMPLES)
    remote = open_storage(memory_url)
    assert {path: remote.read(path) for path in remote.files()} == contents(tmp_path / "whole")


def add_and_interrupt(writer: CodesWriter) -> None:
    add(writer, 0, 19)
    raise KeyboardInterrupt
