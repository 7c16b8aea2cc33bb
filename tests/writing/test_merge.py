"""The parts of a conversion, merged, are one conversion of the whole, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.grey_conversions import OPTIONS, StoppedError
from helpers.object_storage import S3Server
from helpers.stores import contents, edit_root
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.errors import (
    ArgumentError,
    ConversionError,
    ManifestError,
    StoreError,
    StoreExistsError,
)
from tokenstore.sources import open_source

BAD = (0, 7, 8, 9, 20, 26)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two splits of images in three classes, six of the first broken."""
    folder = tmp_path_factory.mktemp("merge") / "images"
    names = sorted(write_grey_folder(folder / "val", 9))
    write_grey_folder(folder / "train", 1)
    for number in BAD:
        (folder / "val" / names[number]).write_bytes(b"")
    return folder


def convert(images: Path, out: Path, **options: Any) -> None:
    settings = replace(OPTIONS, **{"on_error": "skip", "splits": ("val", "train"), **options})
    convert_source(open_source(images), out, tokenizer=BrightnessTokenizer(), options=settings)


def converted_parts(images: Path, folder: Path, count: int, **options: Any) -> list[Path]:
    """Convert a source in parts; return their places, the last first."""
    places = [folder / f"part-{number}" for number in range(count, 0, -1)]
    for place, number in zip(places, range(count, 0, -1), strict=True):
        convert(images, place, part=(number, count), **options)
    return places


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory, images: Path) -> list[Path]:
    return converted_parts(images, tmp_path_factory.mktemp("seven"), 7)


@pytest.mark.parametrize(
    ("options", "jobs"),
    [
        ({}, 1),
        ({"codec": "zstd", "limit": 20}, 3),
        ({"codec": "context"}, 3),
        ({"prune_codebook": True, "chunk_samples": 64, "shard_samples": None}, 3),
    ],
    ids=str,
)
def test_seven_parts_with_bad_images_are_one_conversion(
    tmp_path: Path, images: Path, options: dict[str, Any], jobs: int
) -> None:
    convert(images, tmp_path / "whole", **options)
    parts = converted_parts(images, tmp_path, 7, **options)
    steps: list[tuple[str, int, int]] = []
    merged = tokenstore.merge(
        tmp_path / "out", parts, jobs=jobs, on_progress=lambda *step: steps.append(step)
    )
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert merged.manifest.part is None
    assert merged.nbytes == sum(map(len, contents(tmp_path / "whole").values()))
    assert steps[-1][1] == steps[-1][2]


def test_codes_with_columns_are_merged_and_auto_chooses_for_the_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "codes.npz",
        codes=rng.integers(0, 16, (500, 6)).astype(np.uint8),
        labels=np.arange(500) % 5,
        captions=rng.random((500, 3)),
    )
    settings = {"codec": "auto", "min_decode_rate": 0, "chunk_samples": 8, "shard_samples": 64}
    tokenstore.convert(tmp_path / "codes.npz", tmp_path / "whole", **settings)
    places = []
    for number in range(1, 4):
        places.append(tmp_path / f"{number}.zip")
        tokenstore.convert(tmp_path / "codes.npz", places[-1], part=(number, 3), **settings)
    merged = tokenstore.merge(tmp_path / "out", places)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert merged.choice is not None
    assert "captions" in tokenstore.open(tmp_path / "out")["train"].columns


def test_recoded_parts_and_more_parts_than_samples_merge_to_the_same(tmp_path: Path, images: Path) -> None:
    convert(images, tmp_path / "whole", limit=3)
    parts = converted_parts(images, tmp_path, 11, limit=3)
    tokenstore.recode(parts[3], codec="zstd")
    tokenstore.merge(tmp_path / "out", parts)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert verify(str(tmp_path / "out")).problems == []


def test_a_merge_that_was_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, images: Path, seven: list[Path]
) -> None:
    convert(images, tmp_path / "whole")
    for stop in (1, 3):
        steps: list[int] = []

        def stop_there(step: str, done: int, total: int, steps: list[int] = steps, stop: int = stop) -> None:
            steps.append(done)
            if len(steps) == stop:
                raise StoppedError

        out = tmp_path / str(stop)
        with pytest.raises(StoppedError):
            tokenstore.merge(out, seven, on_progress=stop_there)
        with pytest.raises(StoreExistsError, match=r"unfinished.*resume=True"):
            tokenstore.merge(out, seven)
        tokenstore.merge(out, seven, resume=True)
        assert contents(out) == contents(tmp_path / "whole")
        assert tokenstore.merge(out, seven, resume=True).already_complete
    with pytest.raises(StoreExistsError, match="something is already there"):
        tokenstore.merge(tmp_path / "1", seven)


def test_an_unfinished_or_whole_store_of_others_is_never_taken_for_this_merge(
    tmp_path: Path, images: Path, seven: list[Path]
) -> None:
    def stop(*_: object) -> None:
        raise StoppedError

    others = converted_parts(images, tmp_path, 2)
    with pytest.raises(StoppedError):
        tokenstore.merge(tmp_path / "out", others, on_progress=stop)
    with pytest.raises(ConversionError, match="cannot resume with other inputs: merged"):
        tokenstore.merge(tmp_path / "out", seven, resume=True)
    convert(images, tmp_path / "other", limit=9)
    with pytest.raises(StoreExistsError, match="found another store"):
        tokenstore.merge(tmp_path / "other", seven, resume=True)


def _without(number: int) -> Callable[[list[Path], Path], list[Path]]:
    return lambda parts, images: [part for part in parts if part.name != f"part-{number}"]


def _with_other(**options: Any) -> Callable[[list[Path], Path], list[Path]]:
    def change(parts: list[Path], images: Path) -> list[Path]:
        other = parts[0].parent / f"other-{'-'.join(options)}"
        convert(images, other, **{"part": (7, 7), **options})
        return [*parts[1:], other]

    return change


def _whole(parts: list[Path], images: Path) -> list[Path]:
    convert(images, parts[0].parent / "whole")
    return [*parts, parts[0].parent / "whole"]


REFUSED: dict[str, tuple[Callable[[list[Path], Path], list[Path]], str]] = {
    "none": (lambda parts, images: [], "expected stores to merge, or the parts of a conversion, found none"),
    "a missing part": (_without(4), "expected all 7 parts of the conversion, found 6: missing are 4"),
    "a part twice": (lambda parts, images: [*parts, parts[3]], r"part-4: part 4/7 is .*part-4 already"),
    "a whole store": (_whole, r"whole: expected a part of a conversion, found a whole store.*part=\.\.\."),
    "another count": (_with_other(part=(2, 6)), r"number of parts is 7 there, and 6 here"),
    "other options": (_with_other(resize="crop"), r"resize is 'squash' there, and 'crop' here"),
    "other splits": (_with_other(splits=("val",)), r"source is .* there, and .* here"),
    "another limit": (_with_other(limit=26), r"limit is None there, and 26 here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parts_that_are_not_one_conversion_are_refused_by_the_difference(
    tmp_path: Path, images: Path, seven: list[Path], case: str
) -> None:
    change, message = REFUSED[case]
    with pytest.raises(StoreError, match=message):
        tokenstore.merge(tmp_path / "out", change(seven, images))
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_contradicts_its_part_is_refused(tmp_path: Path, images: Path) -> None:
    places = converted_parts(images, tmp_path, 2)
    for field, value, message in (
        ("source", {"kind": "a", "splits": {"val": [30, "x"], "train": [3, "y"]}}, "expected 15 samples"),
        ("source", {"splits": {"val": [], "train": [3]}}, r"splits\.val\[0\]: expected an integer"),
        ("chunk_samples", "4", "chunk_samples: expected an integer"),
        ("codec", "rot13", "codec: expected one of"),
    ):
        for place in places:
            before = (place / "zarr.json").read_bytes()

            def change(root: dict[str, Any], field: str = field, value: Any = value) -> None:
                root["attributes"]["tokenstore"]["part"]["inputs"][field] = value

            edit_root(place, change)
            (place / "zarr.before").write_bytes(before)
        with pytest.raises(ManifestError, match=message):
            tokenstore.merge(tmp_path / "out", places)
        for place in places:
            (place / "zarr.before").replace(place / "zarr.json")


def test_as_many_samples_may_be_bad_as_in_one_conversion(tmp_path: Path) -> None:
    names = sorted(write_grey_folder(tmp_path / "images", 34))
    for number in (0, 60):
        (tmp_path / "images" / names[number]).write_bytes(b"")
    options = {"on_error": "limit", "splits": None}
    parts = converted_parts(tmp_path / "images", tmp_path, 2, **options)
    with pytest.raises(ConversionError, match=r"2 samples.*allowed are 1 \(1 % of 102\).*on_error='skip'"):
        tokenstore.merge(tmp_path / "a", parts)
    result = CliRunner().invoke(cli, ["merge", str(tmp_path / "a"), *map(str, parts)])
    assert result.exit_code == 1
    assert "--on-error skip" in result.output
    with pytest.raises(ArgumentError, match="on_error: expected None or 'skip', found 'fail'"):
        tokenstore.merge(tmp_path / "a", parts, on_error="fail")
    tokenstore.merge(tmp_path / "a", parts, on_error="skip")
    convert(tmp_path / "images", tmp_path / "whole", splits=None)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


def test_parts_without_a_good_sample_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "1.png").write_bytes(b"")
    parts = converted_parts(tmp_path / "images", tmp_path, 2, splits=None)
    with pytest.raises(ConversionError, match="no sample of any of the 2 parts"):
        tokenstore.merge(tmp_path / "out", parts)


def test_options_that_no_place_has_a_use_for_are_refused(tmp_path: Path, seven: list[Path]) -> None:
    for options in ({"storage_options": {"a": 1}}, {"target_storage_options": {"a": 1}}, {"jobs": 0}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            tokenstore.merge(tmp_path / "out", seven, **options)


def _merge_remotely(tmp_path: Path, images: Path, url: str, options: dict[str, Any] | None) -> None:
    convert(images, tmp_path / "whole", limit=5, splits=("train",))
    parts = converted_parts(images, tmp_path, 2, limit=5, splits=("train",))
    for place in parts:
        tokenstore.copy(place, f"{url}/{place.name}", storage_options=options)
    urls = [f"{url}/{place.name}" for place in parts]
    tokenstore.merge(tmp_path / "out", urls, storage_options=options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    tokenstore.merge(f"{url}/out", parts, storage_options=options)
    tokenstore.copy(f"{url}/out", tmp_path / "back", storage_options=options)
    assert contents(tmp_path / "back") == contents(tmp_path / "whole")


def test_parts_and_the_merged_store_may_be_at_urls(tmp_path: Path, images: Path) -> None:
    _merge_remotely(tmp_path, images, f"memory://{tmp_path.name}", None)


@pytest.mark.thorough
def test_parts_and_the_merged_store_may_be_on_object_storage(
    tmp_path: Path, images: Path, s3_server: S3Server
) -> None:
    _merge_remotely(tmp_path, images, f"s3://{s3_server.new_bucket()}", s3_server.storage_options())
