"""Codes in JSON lines: every line is a sample, and a line that is none is one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from helpers.code_sources import converted, opened, read_everywhere
from helpers.growth import peak_nbytes
from helpers.layout_files import put_json_lines, random_codes
from hypothesis import given
from hypothesis import strategies as st

from tokenstore.errors import SourceError
from tokenstore.sources import open_source
from tokenstore.sources.layouts import json_lines

CODES = random_codes(23, 16, size=1024)
LABELS = np.arange(23) % 7


def test_lines_become_a_store_of_rows_or_of_squares(tmp_path: Path) -> None:
    path = put_json_lines(tmp_path / "rar.jsonl", CODES, LABELS)
    read_everywhere(opened(path, "jsonl").splits["train"], CODES)
    store = converted(path, tmp_path / "out", grid=(4, 4), codebook_size=1024)
    assert np.array_equal(store["train"].read("tokens", range(23)), CODES.reshape(23, 4, 4))
    assert np.array_equal(store["train"].read("labels", range(23)), LABELS)


@given(
    lines=st.lists(
        st.tuples(st.integers(0, 2**31 - 1), st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3)),
        min_size=1,
        max_size=40,
    ),
    block=st.integers(1, 200),
    blank=st.booleans(),
)
def test_any_lines_cut_into_any_blocks_come_back(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[int, list[int]]], block: int, blank: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    ending = "\r\n\n" if blank else "\n"
    texts = [f'{{"class_id": {label}, "tokens": {tokens}, "x": "\\n"}}' for label, tokens in lines]
    path.write_text(ending.join(texts), newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "_BLOCK_NBYTES", block)
        split = opened(path, "jsonl").splits["train"]
        read_everywhere(split, np.array([tokens for _, tokens in lines]))
        assert split.labels(0, len(lines)).tolist() == [label for label, _ in lines]


def test_fields_that_are_not_used_are_named_in_whichever_split_they_are(tmp_path: Path) -> None:
    put_json_lines(tmp_path / "train.jsonl", CODES, None, label=["cat"] * 23)
    put_json_lines(tmp_path / "val.jsonl", CODES, LABELS)
    why = "split train has no labels: its lines have no 'class_id'"
    assert opened(tmp_path, "jsonl").notes == (
        "fields not used: 1 (label); columns='NAME' stores one as a further column",
        why,
    )


@pytest.mark.parametrize("block", [30, 10**6])
@pytest.mark.parametrize("lists", [False, True])
def test_whole_numbers_above_those_of_int64_are_exact(
    tmp_path: Path, block: int, lists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "_BLOCK_NBYTES", block)
    numbers = [3, 2**63 + 1, 2**53 + 1, 2**64 - 1, 0]
    values = [[number, 1] if lists else number for number in numbers]
    put_json_lines(tmp_path / "x.jsonl", CODES[:5], None, hash=values)
    store = converted(tmp_path / "x.jsonl", tmp_path / "out", codebook_size=1024, columns=["hash"])
    assert store["train"].read("hash", range(5)).dtype == np.uint64
    assert store["train"].read("hash", range(5)).tolist() == values
    put_json_lines(tmp_path / "x.jsonl", CODES[:2], None, hash=[2.0**64, 0.5])
    floats = converted(tmp_path / "x.jsonl", tmp_path / "floats", codebook_size=1024, columns=["hash"])
    assert floats["train"].read("hash", range(2)).tolist() == [2.0**64, 0.5]


def test_whole_numbers_that_no_type_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "_BLOCK_NBYTES", 30)
    put_json_lines(tmp_path / "x.jsonl", CODES[:3], None, hash=[-1, 2, 2**63])
    with pytest.raises(SourceError, match="numbers below 0 and above 9223372036854775807"):
        opened(tmp_path / "x.jsonl", "jsonl", columns=["hash"])


@pytest.mark.parametrize("labels", [[0, None, 1], [None, None, 1]])
def test_labels_of_only_some_lines_are_refused(tmp_path: Path, labels: list[int | None]) -> None:
    put_json_lines(tmp_path / "train-0.jsonl", CODES, LABELS)
    put_json_lines(tmp_path / "train-1.jsonl", CODES[:3], None, class_id=labels)
    with pytest.raises(SourceError, match=r"train-1.jsonl: \d lines have no 'class_id' \(first: line"):
        opened(tmp_path, "jsonl")
    put_json_lines(tmp_path / "train-1.jsonl", CODES[:3], None)
    with pytest.raises(SourceError, match=r"train-1.jsonl: its lines have no 'class_id', unlike other files"):
        opened(tmp_path, "jsonl")


def test_lists_of_lists_splits_other_names_and_further_fields(tmp_path: Path) -> None:
    codes = CODES.reshape(23, 4, 4)
    captions = [f"é{row}" for row in range(23)]
    for split in ("train", "val"):
        put_json_lines(tmp_path / f"{split}.jsonl", codes, None, kind=LABELS.tolist(), caption=captions)
    source = opened(tmp_path, "jsonl", label_column="kind", columns=["caption"])
    assert list(source.splits) == ["train", "val"]
    read_everywhere(source.splits["val"], codes)
    assert source.splits["val"].labels(0, 23).tolist() == LABELS.tolist()
    assert source.further["val"]["caption"].read(5, 9).tolist() == captions[5:9]


def test_lines_at_a_url_give_what_the_local_file_gives(tmp_path: Path) -> None:
    data = put_json_lines(tmp_path / "x.jsonl", CODES).read_bytes()
    fsspec.filesystem("memory").pipe_file("memory://layouts/x.jsonl", data)
    source = opened("memory://layouts/x.jsonl", "jsonl")
    read_everywhere(source.splits["train"], CODES)
    assert source.splits["train"].labels(0, 23) is None


LINE = '{"class_id": 1, "tokens": [1, 2]}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a JSON object in the first line"),
        ("[1, 2]\n", "expected a JSON object in the first line: a list"),
        ("{" * 5000, "expected a JSON object in the first line"),
        ('{"class_id": 1}\n', "expected one field of codes"),
        ('{"tokens": []}\n', "at least one sample of one code"),
        ('{"tokens": [0.5, 1.5]}\n', "float64 .* latents, which are no codes"),
        (
            LINE + '{"class_id": 1, "tokens": [1, 2, 3]}\n',
            "expected 2 codes a line as in the first line, found 3 in",
        ),
        (LINE + '{"class_id": 1, "tokens": [1, 2.5]}\n', "x.jsonl: lines from 0 on: expected JSON objects"),
        (LINE + '{"class_id": 1, "tokens": [1, "2"]}\n', "expected JSON objects with 'tokens'"),
        (
            LINE + '{"class_id": 1, "tokens": [1, 99999999999999999999]}\n',
            "expected JSON objects with 'tokens'",
        ),
        (LINE + '{"class_id": 1}\n', "1 have no 'tokens' .first: the 2. of them"),
        (LINE + '{"tokens": [1, 2]}\n', "1 lines have no 'class_id' .first: line 2"),
        (
            LINE + '{"class_id": -4, "tokens": [1, 2]}\n',
            "expected labels 0..2147483647, found -4 at sample 1",
        ),
        (LINE + LINE[:-9], "expected JSON objects with 'tokens'"),
        (LINE + LINE.strip() + LINE, "expected an object a line, found 3 in 2 lines"),
        (
            LINE + '{"class_id": 1, "tokens": [1, 2], "tokens": [3, 4]}\n',
            "expected JSON objects with 'tokens'",
        ),
        (LINE + "\0\0\0\0", "expected JSON objects with 'tokens'"),
    ],
)
def test_a_line_that_is_no_sample_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("tokens", "message"), [("[1, -2]", "sample 1: expected codes 0.*found -2"), ("[1, null]", "null")]
)
def test_codes_that_are_none_end_the_conversion(tmp_path: Path, tokens: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(LINE + f'{{"class_id": 1, "tokens": {tokens}}}\n')
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x.jsonl").splits["train"].codes(0, 2)


def test_a_file_that_changes_after_it_was_listed_is_an_error(tmp_path: Path) -> None:
    path = put_json_lines(tmp_path / "x.jsonl", CODES)
    source: Any = open_source(path)
    put_json_lines(path, CODES[:9])
    with pytest.raises(SourceError):
        source.splits["train"].codes(0, 23)


def test_memory_does_not_grow_with_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "_BLOCK_NBYTES", 2**17)
    codes = random_codes(20_000, 64, size=1024)
    path = put_json_lines(tmp_path / "x.jsonl", codes, np.arange(20_000) % 7)
    assert path.stat().st_size > 2**22

    def read() -> None:
        split: Any = open_source(path, "jsonl").splits["train"]
        for start in range(0, 20_000, 500):
            assert np.array_equal(split.codes(start, start + 500), codes[start : start + 500])

    read()  # imports and caches
    assert peak_nbytes(read) < 2**22
