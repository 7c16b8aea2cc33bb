"""Conversions that cut views: one pass, codes as of each view alone, and the same bytes however it runs."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from helpers.brightness import BrightnessTokenizer
from helpers.grey_conversions import StoppedError
from helpers.label_maps import write_pairs
from helpers.stores import contents
from PIL import Image
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.audit.originals import open_images, read_originals
from tokenstore.audit.quality import measure_quality
from tokenstore.audit.retokenization import retokenize
from tokenstore.audit.verify import verify
from tokenstore.codecs.views import Views
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.images import LoadedTokenizer, plan_images
from tokenstore.conversion.options import ConvertOptions, Progress
from tokenstore.conversion.ranges import SampleRange
from tokenstore.errors import ArgumentError, ConversionError, StoreError, TokenizerError
from tokenstore.sources import open_source

pytestmark = pytest.mark.usefixtures("quick_fits")

OPTIONS = ConvertOptions(workers=0, chunk_samples=4, shard_samples=8, batch_size=3, on_error="skip")
RULES = ["flip", "ten-crop:1.25", "random:3"]
SAMPLES, BAD = 14, (2, 9)


class FollowsTheBatch(BrightnessTokenizer):
    """A tokenizer whose codes depend on the batch that an image is in."""

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        return (super().encode(inputs) + len(inputs)) % 256


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images of two classes, whose patches differ and two of which are broken."""
    folder = tmp_path_factory.mktemp("views") / "images"
    for number in range(SAMPLES):
        path = folder / f"class-{number // 8}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(small).resize((22 + number, 20)).save(path)
        if number in BAD:
            path.write_bytes(b"")
    return folder


@pytest.fixture(scope="module", params=RULES)
def rule(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def store(rule: str, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the images with the views of each rule, by a tokenizer whose codes depend on the batch."""
    out = tmp_path_factory.mktemp("store") / "out"
    convert(images, out, rule)
    return out


def convert(
    images: Path, out: Path, views: str | None, options: ConvertOptions = OPTIONS, **arguments: Any
) -> tokenstore.conversion.Conversion:
    return convert_source(
        open_source(images),
        out,
        tokenizer=FollowsTheBatch(),
        options=replace(options, views=views),
        **arguments,
    )


def tokens(path: Path) -> npt.NDArray[Any]:
    codes: npt.NDArray[Any] = tokenstore.open(path)["train"].read("tokens", None)
    return codes


def boxes(path: Path) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = tokenstore.open(path)["train"].read("view_boxes", None)
    return found


def written_views(store: Path, images: Path, folder: Path) -> list[Path]:
    """Write each view of every image, as its box says, into a folder of images of its own."""
    opened = tokenstore.open(store)
    reader = opened["train"]
    originals = read_originals(opened, "train", range(len(reader)), str(images), all_views=True)
    assert originals.missing == 0
    for name, views in zip(reader.samples_table()["source"].to_pylist(), originals.inputs, strict=True):
        assert views is not None
        for number, view in enumerate(views):
            path = folder / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(view).save(path)
    return sorted(folder.iterdir(), key=lambda each: int(each.name))


def test_the_codes_of_a_view_are_those_of_a_conversion_of_that_view_alone(
    rule: str, store: Path, images: Path, tmp_path: Path
) -> None:
    codes = tokens(store)
    folders = written_views(store, images, tmp_path / "views")
    assert codes.shape == (SAMPLES - len(BAD), len(folders), 2, 2)
    for number in BAD:  # batches are of the same samples
        for folder in folders:
            (folder / f"class-{number // 8}" / f"{number:02d}.png").write_bytes(b"")
    for view, folder in enumerate(folders):
        convert(folder, tmp_path / f"alone-{view}", None)
        np.testing.assert_array_equal(codes[:, view], tokens(tmp_path / f"alone-{view}"))


def test_the_manifest_or_a_column_says_where_the_views_are(rule: str, store: Path) -> None:
    opened = tokenstore.open(store)
    views, reader = opened.manifest.views, opened["train"]
    assert "views" in opened.manifest.features
    assert opened.manifest.grid == (2, 2)
    if rule == "random:3":
        assert views == Views(3)
        places = boxes(store)
        sizes = reader.samples_table()
        whole = np.stack([sizes["height"].to_numpy(), sizes["width"].to_numpy()], axis=1)
        np.testing.assert_array_equal(places[:, 0, 2:4], whole)
        assert (places[:, :, :2] + places[:, :, 2:4] <= whole[:, None]).all()
        return
    assert "view_boxes" not in reader.arrays
    assert views is not None
    assert views.boxes is not None
    assert views.boxes[0] == (0, 0, 16, 16, 0)
    assert len(views.boxes) == {"flip": 2}.get(rule, 10)


def test_the_first_view_of_a_flip_pair_has_the_codes_of_a_conversion_without_views(
    images: Path, tmp_path: Path
) -> None:
    convert(images, tmp_path / "plain", None)
    convert(images, tmp_path / "flip", "flip")
    np.testing.assert_array_equal(tokens(tmp_path / "flip")[:, 0], tokens(tmp_path / "plain"))


def test_codes_of_all_views_are_compared_with_those_encoded_again(
    rule: str, images: Path, tmp_path: Path
) -> None:
    source = open_source(images)
    options = replace(OPTIONS, views=rule)
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options)
    opened = tokenstore.open(tmp_path / "out")
    again = retokenize(opened, BrightnessTokenizer(), open_images(opened.manifest), 100).splits["train"]
    assert again.codes == tokens(tmp_path / "out").size
    assert again.equal_codes == again.codes
    (quality,) = measure_quality(opened, BrightnessTokenizer(), open_images(opened.manifest), 100).values()
    assert quality.samples == SAMPLES - len(BAD)
    assert quality.psnr is not None
    assert quality.psnr > 8
    sheet = tokenstore.preview(tmp_path / "out", tokenizer=BrightnessTokenizer())
    assert sheet.missing == 0


@pytest.mark.parametrize("codec", ["zstd", "context", "auto"])
def test_every_codec_keeps_the_codes_of_views(
    rule: str, store: Path, images: Path, tmp_path: Path, codec: str
) -> None:
    convert(images, tmp_path / "out", rule, replace(OPTIONS, codec=codec))
    np.testing.assert_array_equal(tokens(tmp_path / "out"), tokens(store))
    assert verify(str(tmp_path / "out")).problems == []


def test_decode_processes_parts_and_a_resumed_conversion_give_the_same_bytes(
    rule: str, store: Path, images: Path, tmp_path: Path
) -> None:
    convert(images, tmp_path / "processes", rule, replace(OPTIONS, workers=2))
    assert contents(tmp_path / "processes") == contents(store)

    def stop(state: Progress) -> None:
        if state.done >= 6:
            raise StoppedError

    with pytest.raises(StoppedError):
        convert(images, tmp_path / "stopped", rule, on_progress=stop)
    with pytest.raises(ConversionError, match=r"resume with other inputs: (views|boxes) was"):
        convert(images, tmp_path / "stopped", "random:7", resume=True)
    with pytest.raises(ConversionError, match=r"resume with other inputs: (views|boxes) was"):
        convert(images, tmp_path / "stopped", None, resume=True)
    convert(images, tmp_path / "stopped", rule, resume=True)
    assert contents(tmp_path / "stopped") == contents(store)
    parts = [tmp_path / f"part-{number}" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        convert(images, part, rule, replace(OPTIONS, part=(number, 2)))
    tokenstore.merge(tmp_path / "merged", parts)
    assert contents(tmp_path / "merged") == contents(store)


def test_parts_of_different_views_are_not_merged(images: Path, tmp_path: Path) -> None:
    for number, rule in ((1, "random:3"), (2, "random:3:1")):
        convert(images, tmp_path / str(number), rule, replace(OPTIONS, part=(number, 2)))
    with pytest.raises(StoreError, match="views"):
        tokenstore.merge(tmp_path / "out", [tmp_path / "1", tmp_path / "2"])


@pytest.mark.parametrize("other", [None, "flip", "ten-crop:1.25", "ten-crop:1.5", "random:3", "random:3:5"])
def test_a_complete_store_of_other_views_is_refused(
    rule: str, store: Path, images: Path, other: str | None
) -> None:
    if other == rule:
        assert convert(images, store, other, resume=True).already_complete
        return
    with pytest.raises(ConversionError, match="views"):
        convert(images, store, other, resume=True)


def test_a_worker_elsewhere_cuts_the_same_views(rule: str, store: Path, images: Path) -> None:
    source = open_source(images)
    options = replace(OPTIONS, views=rule)
    plan = plan_images(source, ("train",), options, str(images), LoadedTokenizer(FollowsTheBatch()))
    recipe = pickle.loads(pickle.dumps(plan.recipe))
    with recipe.begin(0) as worker:
        segment = worker.encode(plan.request(SampleRange("train", 3, 12)))
    codes = tokens(store)
    np.testing.assert_array_equal(segment.codes, codes[2:10])
    lost = plan.lost(SampleRange("train", 3, 4), RuntimeError())
    assert lost.codes.shape == (0, *codes.shape[1:])


def test_a_plan_counts_views(images: Path, tmp_path: Path) -> None:
    plans = {
        views: tokenstore.plan(
            images, tmp_path / "out", tokenizer=BrightnessTokenizer(), views=views, on_error="skip"
        )
        for views in (None, "flip", "random:9")
    }
    assert [plan.views for plan in plans.values()] == [None, 2, 9]
    assert plans["random:9"].nbytes > plans["flip"].nbytes > plans[None].nbytes
    line = ["convert", str(images), str(tmp_path / "out"), "--tokenizer", "default", "--dry-run"]
    result = CliRunner().invoke(cli, [*line, "--views", "flip", "--image-size", "32"])
    assert result.exit_code == 0, result.output
    assert "2 views of each" in result.output


def test_the_command_cuts_views_and_refuses_what_is_no_rule(images: Path, tmp_path: Path) -> None:
    line = [
        "convert",
        str(images),
        str(tmp_path / "out"),
        "--workers",
        "0",
        "--on-error",
        "skip",
        "--log-json",
    ]
    result = CliRunner().invoke(cli, [*line, "--image-size", "32", "--views", "flip"])
    assert result.exit_code == 0, result.output
    assert tokens(tmp_path / "out").shape[1] == 2
    wrong = CliRunner().invoke(cli, [*line, "--views", "ten-crops:1.1"])
    assert wrong.exit_code != 0
    assert "--views" in wrong.output
    assert "ten-crop:FACTOR" in wrong.output


def test_views_are_refused_where_there_are_no_pixels_to_cut(images: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="the tokenizer dct encodes files, which have no views"):
        tokenstore.convert(images, tmp_path / "out", tokenizer="dct", image_size=16, views="flip")
    np.save(tmp_path / "codes.npy", np.zeros((4, 2, 2), np.uint8))
    with pytest.raises(ArgumentError, match="views are cut from images, and these are ready codes"):
        tokenstore.convert(tmp_path / "codes.npy", tmp_path / "out", views="flip")
    write_pairs(tmp_path / "pairs", tmp_path / "masks", ["a", "b"])
    with pytest.raises(ArgumentError, match="views='flip' is for images without label maps"):
        tokenstore.convert(tmp_path / "pairs", tmp_path / "out", masks=tmp_path / "masks", views="flip")
    with pytest.raises(ArgumentError, match="no padding"):
        tokenstore.convert(images, tmp_path / "out", views="random:3", resize="pad")
    assert not (tmp_path / "out").exists()


def test_a_column_of_the_source_does_not_take_the_place_of_the_boxes(images: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    lines = ["path,view_boxes", *(f"{name},7" for name in names)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    arguments = {"tokenizer": BrightnessTokenizer(), "table": tmp_path / "table.csv", "on_error": "skip"}
    with pytest.raises(ArgumentError, match="which is a column of the source too; columns='NAME=view_boxes'"):
        tokenstore.convert(images, tmp_path / "out", views="random:3", columns=["view_boxes"], **arguments)
    renamed = ["mine=view_boxes"]
    tokenstore.convert(images, tmp_path / "out", views="random:3", columns=renamed, **arguments)
    reader = tokenstore.open(tmp_path / "out")["train"]
    assert reader.read("mine", [0]).tolist() == [7]
    assert reader.read("view_boxes", [0]).shape == (1, 3, 5)


def test_inputs_without_views_are_those_of_before(images: Path, tmp_path: Path) -> None:
    assert "views" not in OPTIONS.decisions()
    assert replace(OPTIONS, views="ten-crop:1.10").decisions()["views"] == "ten-crop:1.1"
    convert(images, tmp_path / "part", None, replace(OPTIONS, part=(1, 2)))
    root = json.loads((tmp_path / "part" / "zarr.json").read_text())
    assert "views" not in root["attributes"]["tokenstore"]["part"]["inputs"]
