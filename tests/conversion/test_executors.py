"""Executors of a conversion: segments are cut and made anywhere, and the store's bytes stay the same."""

from __future__ import annotations

import contextlib
import pickle
import tracemalloc
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.deadly_sources import DeadlySplit
from helpers.grey_conversions import OPTIONS, StoppedError
from helpers.growth import start_tracing, stop_tracing
from helpers.stores import contents
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore.conversion.codes import plan_codes
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.encoding import EncoderRecipe, RangeEncoder
from tokenstore.conversion.executors import LocalExecutor, encode_surely
from tokenstore.conversion.images import ConversionPlan, LoadedTokenizer, plan_images
from tokenstore.conversion.options import Progress
from tokenstore.conversion.plans import RangePlan
from tokenstore.conversion.ranges import DEADLY, MOST_DEATHS, SampleRange, Segment
from tokenstore.errors import ArgumentError, TokenizerError, WorkerError
from tokenstore.sources import open_source
from tokenstore.sources.arrays import ArraySplit
from tokenstore.sources.images import ImageOptions

SKIPPING = replace(OPTIONS, on_error="skip")


class MixesTheBatch(BrightnessTokenizer):
    """A tokenizer whose codes depend on all samples of the batch, as those of careless arithmetic do."""

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        codes = super().encode(inputs)
        return (codes + codes.sum() + len(inputs)) % 256


class InPieces:
    """An executor that makes each range anew, cut at multiples of the batch size as `cuts` say."""

    def __init__(self, cuts: list[int]) -> None:
        self.cuts = cuts

    def segments(self, plan: ConversionPlan, starts: Mapping[str, int]) -> Generator[Segment, None, None]:
        with RangeEncoder(plan.recipe.load(), plan.batch_size, 0) as encoder:
            for split, start in starts.items():
                number, first = 0, start - start % plan.batch_size
                while first < plan.listed(split):
                    step = self.cuts[number % len(self.cuts)] * plan.batch_size
                    samples = SampleRange(split, first, min(first + step, plan.listed(split)))
                    request = pickle.loads(pickle.dumps(plan.request(samples, task_samples=1 + number % 3)))
                    yield pickle.loads(pickle.dumps(encoder.encode(request)))
                    number, first = number + 1, samples.stop


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_grey_folder(folder / "train", 9)
    write_grey_folder(folder / "val", 2)
    for name in ("train/class-0/000.png", "train/class-1/006.png", "train/class-2/008.png"):
        (folder / name).write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of the store that one conversion writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    convert_source(open_source(images), out, tokenizer=MixesTheBatch(), options=SKIPPING)
    return contents(out)


@given(cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4), stop=st.integers(0, 40))
@settings(max_examples=8, deadline=None)
def test_a_store_is_the_same_to_the_byte_however_ranges_are_cut(
    images: Path,
    whole: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    stop: int,
) -> None:
    out = tmp_path_factory.mktemp("cut") / "out"
    done = 0

    def stop_here(state: Progress) -> None:
        nonlocal done
        done += 1
        if done >= stop:
            raise StoppedError

    arguments: dict[str, Any] = {"tokenizer": MixesTheBatch(), "options": SKIPPING}
    source = open_source(images)
    if stop:
        with contextlib.suppress(StoppedError):
            convert_source(source, out, **arguments, executor=InPieces(cuts), on_progress=stop_here)
    convert_source(source, out, **arguments, executor=InPieces(cuts[::-1]), resume=True)
    assert contents(out) == whole


def test_a_conversion_begun_by_one_executor_is_finished_by_another(
    images: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    def stop_at_12(state: Progress) -> None:
        if state.done >= 12:
            raise StoppedError

    arguments: dict[str, Any] = {"tokenizer": MixesTheBatch(), "options": SKIPPING}
    with pytest.raises(StoppedError):
        convert_source(
            open_source(images), tmp_path / "out", **arguments, executor=InPieces([2]), on_progress=stop_at_12
        )
    convert_source(open_source(images), tmp_path / "out", **arguments, resume=True)
    assert contents(tmp_path / "out") == whole


class BadExecutor:
    """An executor that changes what another one yields."""

    def __init__(self, change: str) -> None:
        self.change = change

    def segments(self, plan: ConversionPlan, starts: Mapping[str, int]) -> Generator[Segment, None, None]:
        segments = list(LocalExecutor(0).segments(plan, starts))
        yield from segments[:-1] if self.change == "an end too early" else segments[1:]


@pytest.mark.parametrize("change", ["an end too early", "a gap"])
def test_segments_that_do_not_follow_each_other_are_refused(
    images: Path, tmp_path: Path, change: str
) -> None:
    with pytest.raises(ValueError, match="expected samples of"):
        convert_source(
            open_source(images),
            tmp_path / "out",
            tokenizer=MixesTheBatch(),
            options=SKIPPING,
            executor=BadExecutor(change),
        )


def test_workers_beside_an_executor_which_has_its_own_are_refused(tmp_path: Path, images: Path) -> None:
    with pytest.raises(ArgumentError, match=r"workers: expected none .* found 3\. Leave out workers=\.\.\."):
        tokenstore.convert(images, tmp_path / "out", workers=3, executor=LocalExecutor())
    assert not (tmp_path / "out").exists()


class CodesInPieces(InPieces):
    """The same for ready codes, read by what a recipe gives elsewhere."""

    def segments(self, plan: RangePlan, starts: Mapping[str, int]) -> Generator[Segment, None, None]:
        with pickle.loads(pickle.dumps(plan.recipe)).begin(0) as reader:
            for number, samples in enumerate(plan.ranges(starts, self.cuts[0])):
                segment = reader.encode(pickle.loads(pickle.dumps(plan.request(samples))))
                for part in samples.halves() if len(samples) > 1 else (samples,):
                    yield Segment.from_bytes(segment.between(part.start, part.stop).to_bytes())
                assert number < 100


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("codes"), np.random.default_rng(0)
    for name, samples in (("train", 61), ("val", 9)):
        arrays = {"codes": rng.integers(0, 90, (samples, 2, 3)), "labels": np.arange(samples) % 4}
        np.savez(folder / f"{name}.npz", **arrays, scores=rng.random((samples, 2), np.float32))
    return folder


SMALL: dict[str, Any] = {"chunk_samples": 4, "shard_samples": 8, "codebook_size": 90}


@pytest.mark.parametrize("settings", [{}, {"prune_codebook": True}])
def test_ready_codes_are_the_same_to_the_byte_by_every_executor_in_parts_and_resumed(
    tmp_path: Path, codes: Path, settings: dict[str, Any]
) -> None:
    settings = {**SMALL, **settings}
    tokenstore.convert(codes, tmp_path / "whole", **settings)
    whole = contents(tmp_path / "whole")
    tokenstore.convert(codes, tmp_path / "pieces", executor=CodesInPieces([5]), **settings)
    assert contents(tmp_path / "pieces") == whole
    parts = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        tokenstore.convert(codes, part, part=(number, 3), executor=CodesInPieces([7]), **settings)
    tokenstore.merge(tmp_path / "merged", parts)
    assert contents(tmp_path / "merged") == whole

    def stop(progress: Progress) -> None:
        if progress.done >= 30:
            raise StoppedError

    for first, second in ((CodesInPieces([3]), None), (None, CodesInPieces([4]))):
        out = tmp_path / f"resumed-{first is None}"
        with pytest.raises(StoppedError):
            tokenstore.convert(codes, out, executor=first, on_progress=stop, **settings)
        resumed = tokenstore.convert(codes, out, executor=second, resume=True, **settings)
        assert resumed.resumed_at["train"] >= 24
        assert contents(out) == whole


def test_ready_codes_with_wide_columns_are_read_no_more_than_a_shard_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenstore.writing.spec.SHARD_NBYTES", 2**12)
    features = np.arange(1200 * 16, dtype=np.float32).reshape(1200, 16)
    np.savez(tmp_path / "codes.npz", codes=np.arange(1200).reshape(-1, 1) % 9, features=features)
    read: list[int] = []
    plain = ArraySplit.column

    def counted(self: ArraySplit, name: str, start: int, stop: int) -> Any:
        read.append(stop - start)
        return plain(self, name, start, stop)

    monkeypatch.setattr(ArraySplit, "column", counted)
    tokenstore.convert(tmp_path / "codes.npz", tmp_path / "out", chunk_samples=8)
    split = tokenstore.open(tmp_path / "out")["train"]
    assert max(read) == split.array("features").layout.shard_samples == 64
    np.testing.assert_array_equal(split.read("features", None), features)


def test_ready_codes_that_kill_their_reader_end_the_conversion(codes: Path) -> None:
    source = open_source(codes)
    plan = plan_codes(source, ("train",), replace(OPTIONS, codebook_size=90), "", None)  # type: ignore[arg-type]

    def attempt(samples: SampleRange) -> Segment:
        raise WorkerError("it died")

    with pytest.raises(WorkerError, match="train, samples 0 to 0: 3 processes that read it died"):
        list(encode_surely(plan, SampleRange("train", 0, 8), attempt))


def test_a_worker_with_other_weights_is_refused() -> None:
    recipe = EncoderRecipe(BrightnessTokenizer(), "c" * 64, "cpu", ImageOptions(16), None, 3)
    with pytest.raises(TokenizerError, match=r"expected the tokenizer of fingerprint cccc.*same weights"):
        recipe.load()


def plan_of(images: Path) -> ConversionPlan:
    source = open_source(images)
    return plan_images(source, tuple(source.splits), SKIPPING, str(images), LoadedTokenizer(MixesTheBatch()))


def test_a_segment_saved_and_cut_is_the_same_segment(images: Path) -> None:
    plan = plan_of(images)
    with RangeEncoder(plan.encoder, plan.batch_size, 0) as encoder:
        segment = encoder.encode(plan.request(SampleRange("train", 12, 18)))
    again = Segment.from_bytes(segment.to_bytes())
    assert again.samples == segment.samples == SampleRange("train", 12, 18)
    assert np.array_equal(again.codes, segment.codes)
    assert [bad.position for bad in again.bad] == [15]
    later = again.between(16, 18)
    assert later.positions.tolist() == [16, 17]
    assert np.array_equal(later.codes, segment.codes[3:])
    assert later.bad == ()


@given(deadly=st.sets(st.integers(0, 15)), first=st.integers(0, 5), count=st.integers(1, 10))
@settings(max_examples=20, deadline=None)
def test_a_range_that_kills_its_workers_is_cut_down_to_the_samples_that_do(
    images: Path, deadly: set[int], first: int, count: int
) -> None:
    plan = plan_of(images)
    attempts: dict[SampleRange, int] = {}

    def attempt(samples: SampleRange) -> Segment:
        attempts[samples] = attempts.get(samples, 0) + 1
        if deadly & set(range(samples.start, samples.stop)):
            raise WorkerError("it died")
        empty = np.empty((len(samples), 0), np.int64)
        return Segment(samples, empty, {}, np.arange(samples.start, samples.stop), empty)

    whole_range = SampleRange("train", first, first + count)
    segments = list(encode_surely(plan, whole_range, attempt))
    good = [int(position) for segment in segments for position in segment.positions]
    bad = [sample.position for segment in segments for sample in segment.bad]
    assert sorted(good + bad) == list(range(first, first + count))
    assert set(bad) == deadly & set(range(first, first + count))
    assert {sample.reason for segment in segments for sample in segment.bad} <= {DEADLY}
    assert [segment.samples.start for segment in segments[1:]] == [
        segment.samples.stop for segment in segments[:-1]
    ]
    assert all(attempts[SampleRange("train", position, position + 1)] == MOST_DEATHS for position in bad)


def test_a_sample_that_kills_its_process_counts_as_bad_and_the_others_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenstore.sources.decoding.TASK_SAMPLES", 1)
    expected = write_grey_folder(tmp_path / "images", 2)
    source = open_source(tmp_path / "images")
    deadly = replace(source, splits={"train": DeadlySplit(source.splits["train"], 3)})
    options = replace(SKIPPING, workers=1, batch_size=1, image_size=16)
    conversion = convert_source(deadly, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options)
    (skip,) = conversion.skipped["train"]
    assert (skip.source_index, skip.reason) == (3, DEADLY)
    names = tokenstore.open(tmp_path / "out")["train"].samples_table()["source"].to_pylist()
    assert names == [name for name in expected if name != skip.source]


class Billion:
    """A split of a billion samples, which says their number and no more."""

    def __len__(self) -> int:
        return 10**9


def test_the_plan_of_a_billion_samples_has_no_object_for_each(images: Path) -> None:
    source: Any = replace(open_source(images), splits={"train": Billion()})
    options = replace(OPTIONS, image_size=16)
    start_tracing()
    plan = plan_images(source, ("train",), options, "", LoadedTokenizer(BrightnessTokenizer()))
    first = next(plan.ranges({"train": 0}, batches=10))
    rest = list(plan.ranges({"train": 10**9 - 4}))
    _, peak = tracemalloc.get_traced_memory()
    stop_tracing()
    assert first == SampleRange("train", 0, 30)
    assert [(samples.start, samples.stop) for samples in rest] == [
        (999_999_996, 999_999_999),
        (999_999_999, 10**9),
    ]
    assert peak < 2**20
