"""The figures that only a report has are those that plain counting gives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer
from helpers.stores import Samples, random_codes, write_store
from helpers.view_stores import write_kind

import tokenstore
from tokenstore.audit.codes import sampled_spans
from tokenstore.audit.report.charts import Line, heat_map, line_chart
from tokenstore.audit.report.observing import CodeCurve, SplitCodes
from tokenstore.audit.report.pictures import code_patches, sheet_rows
from tokenstore.audit.report.predictability import neighbour_bits, predictabilities
from tokenstore.audit.report.tables import column_ranges, skipped_samples
from tokenstore.codecs.columns import TEXT
from tokenstore.errors import TokenizerError
from tokenstore.format.tables import Skip


def plain_bits(codes: np.ndarray, weight: float) -> list[float]:
    """Return the bits of each sample of codes (m, H, W), counted place by place."""
    places = [(sample, row, column, int(code)) for (sample, row, column), code in np.ndenumerate(codes)]

    def neighbour(sample: int, row: int, column: int, axis: int) -> int:
        row, column = (row, column - 1) if axis else (row - 1, column)
        return -1 if min(row, column) < 0 else int(codes[sample, row, column])

    def chance(place: tuple[int, int, int, int], axis: int) -> float:
        *where, code = place
        before = neighbour(*where, axis)
        others = [other[3] for other in places if other != place and neighbour(*other[:3], axis) == before]
        share = sum(other[3] == code for other in places) / len(places)
        return (others.count(code) + weight * share) / (len(others) + weight)

    bits = [0.0] * len(codes)
    for place in places:
        bits[place[0]] -= math.log2((chance(place, 0) + chance(place, 1)) / 2)
    return bits


def test_bits_by_neighbours_are_those_of_plain_counting() -> None:
    codes = np.random.default_rng(0).integers(0, 4, (3, 4, 5))
    codes[0] = 2
    candidates = [plain_bits(codes, weight) for weight in (4.0, 32.0, 256.0)]
    assert neighbour_bits(codes) == pytest.approx(min(candidates, key=sum))


def test_repeated_codes_take_fewer_bits_than_random_ones() -> None:
    codes = np.random.default_rng(0).integers(0, 50, (60, 8, 8))
    codes[::2] = codes[::2, :1, :1]
    bits = neighbour_bits(codes)
    assert bits[::2].max() < bits[1::2].min()
    assert neighbour_bits(codes[:, 0]).shape == (60,)


def test_bits_of_a_context_store_are_its_streams(tmp_path: Path) -> None:
    for kind in ("context", "bitpack"):
        write_kind(tmp_path / kind, kind)
    store = tokenstore.open(tmp_path / "context")
    found = predictabilities(store)
    assert not isinstance(found, str)
    for name, split in found.items():
        assert split.model == "stored"
        assert len(split.rows) == len(store[name])
        assert split.bits.sum() / 8 <= tokenstore.stats(store).splits[name].tokens_nbytes
    other = predictabilities(tokenstore.open(tmp_path / "bitpack"))
    assert not isinstance(other, str)
    assert {split.model for split in other.values()} == {"neighbours"}


def test_the_curve_and_the_entropy_of_positions_are_counted(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 12, (90, 3, 4)).astype(np.uint8)
    codes[:, 1, 2] = 5
    codes[:45, 0, 0], codes[45:, 0, 0] = 1, 2
    write_store(tmp_path / "store", {"train": (codes,)}, 16)
    store = tokenstore.open(tmp_path / "store")
    seen = SplitCodes(store.manifest, 90)
    for start in range(0, 90, 40):
        seen.block(start, codes[start : start + 40])
    entropy = seen.entropy()
    assert entropy is not None
    assert entropy.samples == 90
    assert entropy.bits[1, 2] == 0
    assert entropy.bits[0, 0] == 1
    counts = np.bincount(codes.ravel(), minlength=16)
    used = np.flatnonzero(counts)
    curve = CodeCurve.of(used, counts[used])
    ordered = np.sort(counts[used])[::-1]
    assert curve.ranks == list(range(1, len(used) + 1))
    assert curve.shares == pytest.approx(ordered / counts.sum())
    assert curve.top_codes[0] == (int(counts.argmax()), pytest.approx(counts.max() / counts.sum()))


def test_charts_take_names_as_they_are() -> None:
    names = ["$a_^$", "中文"]
    drawn = heat_map(np.eye(2), "two classes", bar="share", names=names)
    assert all(name in drawn.svg for name in names)
    lines = [Line([1, 2], [1, 2], "$5 to $6"), Line([1, 2], [2, 1], "other")]
    assert "$5 to $6" in line_chart(lines, "two runs", x="step", y="loss").svg


def test_a_contact_sheet_has_samples_of_many_classes(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(5), [50, 1, 30, 2, 17]).astype(np.int32)
    write_store(tmp_path / "store", {"train": (random_codes(100, (4,), 16), labels)}, 16)
    store = tokenstore.open(tmp_path / "store")
    audit = tokenstore.stats(store)
    rows = sheet_rows(store["train"], audit, 10)
    assert labels[rows].tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 4]
    assert labels[sheet_rows(store["train"], audit, 3)].tolist() == [0, 1, 3]
    write_store(tmp_path / "bare", {"train": (random_codes(100, (4,), 16),)}, 16)
    bare = tokenstore.open(tmp_path / "bare")
    assert sheet_rows(bare["train"], tokenstore.stats(bare), 4).tolist() == [0, 25, 50, 75]


def test_a_codes_patch_is_cut_from_a_square_of_it(tmp_path: Path) -> None:
    write_store(tmp_path / "store", {"train": (random_codes(3, (9, 8), 256),)}, 256)
    manifest = tokenstore.open(tmp_path / "store").manifest
    patches = code_patches(manifest, BrightnessTokenizer(), [7, 0, 255, 90, 12])
    assert [patch.shape for patch in patches] == [(16, 16, 3)] * 5
    assert [np.unique(patch).tolist() for patch in patches] == [[7], [0], [255], [90], [12]]
    write_store(tmp_path / "list", {"train": (random_codes(3, (9,), 256),)}, 256)
    with pytest.raises(TokenizerError, match="9"):
        code_patches(tokenstore.open(tmp_path / "list").manifest, BrightnessTokenizer(), [7])


def test_ranges_of_columns_and_reasons_of_skipped_samples(tmp_path: Path) -> None:
    texts = np.array(["", "four", "sixsix"], object)
    numbers = np.array([[1.0, np.nan], [-3.0, 5.0], [0.0, 1.0]], np.float32)
    skipped = [Skip(n, f"train/{n}.png", f"no image: {n} bytes") for n in (3, 4, 5)] + [Skip(6, "x", "else")]
    samples = Samples(
        random_codes(3, (4,), 16), None, {"text": texts, "pair": numbers}, skipped, {"text": TEXT}
    )
    write_store(tmp_path / "store", {"train": samples}, 16)
    store = tokenstore.open(tmp_path / "store")
    ranges = {column.name: column for column in column_ranges(store["train"])}
    assert (ranges["pair"].least, ranges["pair"].most, ranges["pair"].mean) == (-3.0, 5.0, pytest.approx(0.8))
    assert (ranges["text"].least, ranges["text"].most, ranges["text"].of_lengths) == (0, 6, True)
    found = skipped_samples(store, "train")
    assert found.samples == 4
    assert found.reasons == [("no image: 3 bytes", 3, "train/3.png"), ("else", 1, "x")]


def test_sampled_spans_are_whole_chunks_over_the_split(tmp_path: Path) -> None:
    write_store(tmp_path / "store", {"train": (random_codes(1000, (4,), 16),)}, 16)
    split = tokenstore.open(tmp_path / "store")["train"]
    assert sampled_spans(split, 1000) == [(0, 1000)]
    assert sampled_spans(split, 200) == [(0, 64), (320, 384), (640, 704)]
