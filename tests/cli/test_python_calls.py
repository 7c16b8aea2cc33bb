"""Every command on a store gives what the one Python call behind it gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from helpers.brightness import write_grey_image
from helpers.stores import contents
from PIL import Image
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.errors import ArgumentError
from tokenstore.sources import open_source
from tokenstore.tokenizers import load_tokenizer

SIZE = 32


def output(*words: object) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def plain(values: Any) -> Any:
    """Return values as JSON gives them back."""
    return json.loads(json.dumps(values))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images in two classes, and the store that the command makes of them."""
    path = tmp_path_factory.mktemp("calls")
    for number in range(4):
        write_grey_image(path / "photos" / f"class-{number % 2}" / f"{number}.png", 40 * number)
    output("convert", path / "photos", path / "store", "--image-size", SIZE, "--workers", 0)
    return path


def test_convert(folder: Path, tmp_path: Path) -> None:
    tokenstore.convert(folder / "photos", tmp_path / "store", image_size=SIZE, workers=0)
    assert contents(tmp_path / "store") == contents(folder / "store")


def test_copy(folder: Path, tmp_path: Path) -> None:
    output("copy", folder / "store", tmp_path / "a")
    copied = tokenstore.copy(folder / "store", tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(folder / "store")
    assert copied.files == len(contents(tmp_path / "b"))
    assert copied.nbytes == sum(map(len, contents(tmp_path / "b").values()))


def test_export(folder: Path, tmp_path: Path) -> None:
    settings = ("--to", "parquet", "--pictures", "--picture-size", 8, "--rows-per-file", 3)
    text = output("export", folder / "store", tmp_path / "a", *settings, "--column", "labels")
    assert "4 samples in 2 files as parquet" in text
    assert "left out, not asked for: train/source" in text
    chosen: dict[str, Any] = {"pictures": True, "picture_size": 8, "rows_per_file": 3}
    tokenstore.export(folder / "store", tmp_path / "b", to="parquet", columns=["labels"], **chosen)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    again = output("export", folder / "store", tmp_path / "a", *settings, "--column", "labels", "--resume")
    assert "already complete" in again


def test_merge(folder: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"part-{number}" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        settings = ("--image-size", SIZE, "--workers", 0, "--part", f"{number}/2")
        output("convert", folder / "photos", part, *settings)
    assert "2 parts, 4 samples" in output("merge", tmp_path / "a", *parts, "--jobs", 2)
    tokenstore.merge(tmp_path / "b", parts)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(folder / "store")
    assert "already complete" in output("merge", tmp_path / "a", *parts, "--resume")


@pytest.mark.parametrize("in_place", [False, True])
def test_recode(folder: Path, tmp_path: Path, in_place: bool) -> None:
    for name in ("a", "b"):
        tokenstore.copy(folder / "store", tmp_path / name)
    targets = (tmp_path / "a", tmp_path / "b") if in_place else (tmp_path / "c", tmp_path / "d")
    output("recode", tmp_path / "a", *([] if in_place else [targets[0]]), "--codec", "zstd")
    recoded = tokenstore.recode(tmp_path / "b", None if in_place else targets[1], codec="zstd")
    assert contents(targets[0]) == contents(targets[1])
    assert recoded.manifest.features == ("zstd",)


def test_select_and_split(folder: Path, tmp_path: Path) -> None:
    said = output("select", folder / "store", tmp_path / "a", "--where", "label == 1", "--share", 0.5)
    assert "selected, holds 1 sample (train 1)" in said
    tokenstore.select(folder / "store", tmp_path / "b", where="label == 1", share=0.5)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    output("select", folder / "store", tmp_path / "c", "--indices", "0,3", "--split", "train")
    (tmp_path / "rows.txt").write_text("3\n0\n")
    output("select", folder / "store", tmp_path / "d", "--indices", tmp_path / "rows.txt", "--split", "train")
    assert contents(tmp_path / "c") == contents(tmp_path / "d")
    assert "history " in output("info", tmp_path / "a")
    assert "select: where 'label == 1', share 0.5" in output("info", tmp_path / "a")
    said = output("split", folder / "store", tmp_path / "e", "--val", 0.5, "--stratified", "--seed", 3)
    assert "divided, holds 4 samples (train 2, val 2)" in said
    tokenstore.split(folder / "store", tmp_path / "f", shares={"val": 0.5}, stratified=True, seed=3)
    assert contents(tmp_path / "e") == contents(tmp_path / "f")
    assert "already divided" in output(
        *("split", folder / "store", tmp_path / "e", "--val", 0.5, "--stratified", "--seed", 3, "--resume")
    )


def test_report(folder: Path, tmp_path: Path) -> None:
    said = json.loads(output("report", folder / "store", "--json", "--verify"))
    assert said == json.loads(json.dumps(tokenstore.report(folder / "store", verify=True).to_dict()))
    output("report", folder / "store", "--out", tmp_path / "a.html")
    tokenstore.report(folder / "store", out=tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_dedupe(folder: Path, tmp_path: Path) -> None:
    tokenstore.copy(folder / "store", tmp_path / "twice")
    tokenstore.append(tmp_path / "twice", folder / "store", again=True)
    said = output("dedupe", tmp_path / "twice", tmp_path / "a", "--report", tmp_path / "r.csv", "--near", 0.9)
    assert "exact: 4 samples in train\n" in said
    assert "removed: 4 samples (train 4)\n" in said
    found = tokenstore.dedupe(tmp_path / "twice", tmp_path / "b", near=0.9, report=tmp_path / "s.csv")
    assert (tmp_path / "r.csv").read_bytes() == (tmp_path / "s.csv").read_bytes()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert found.removed == {"train": 4}
    assert "to remove: 4 samples (train 4)" in output("dedupe", tmp_path / "twice")
    output("dedupe", tmp_path / "twice", tmp_path / "c", "--near", 0.01, "--remove-near")
    tokenstore.dedupe(tmp_path / "twice", tmp_path / "d", near=0.01, remove_near=True)
    assert contents(tmp_path / "c") == contents(tmp_path / "d")
    assert tokenstore.diff(folder / "store", tmp_path / "a").same


def test_append(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        tokenstore.copy(folder / "store", tmp_path / name)
    write_grey_image(tmp_path / "more" / "class-1" / "9.png", 33)
    said = output("append", tmp_path / "a", tmp_path / "more", "--tokenizer", "default")
    assert "appended, holds 5 samples (train 5)" in said
    tokenstore.append(tmp_path / "b", tmp_path / "more", tokenizer="default")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    result = CliRunner().invoke(cli, ["append", str(tmp_path / "a"), str(tmp_path / "more")])
    assert (result.exit_code, "append them by --again" in result.output) == (1, True)


def test_relabel_and_rename_class(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("class-0,even\n")
    output("relabel", folder / "store", tmp_path / "a", "--map", tmp_path / "map.csv")
    tokenstore.relabel(folder / "store", tmp_path / "b", class_map={"class-0": "even"})
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    output("rename-class", tmp_path / "a", "even", "zero")
    tokenstore.rename_class(tmp_path / "b", "even", "zero")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert tokenstore.open(tmp_path / "a").class_names == ("zero", "class-1")
    result = CliRunner().invoke(cli, ["relabel", str(tmp_path / "a")])
    assert (result.exit_code, "expected either --map or --labels" in result.output) == (2, True)


def test_relate(tmp_path: Path) -> None:
    vectors = load_tokenizer("default").codebook[:5]
    codes = np.arange(16, dtype=np.uint8).reshape(4, 2, 2) % 5
    np.savez(tmp_path / "codes.npz", tokens=codes, codebook=vectors)
    tokenstore.convert(tmp_path / "codes.npz", tmp_path / "store")
    said = output("relate", tmp_path / "store", "default", tmp_path / "a")
    assert "related, holds 4 samples (train 4)" in said
    tokenstore.relate(tmp_path / "store", "default", tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.fixture(scope="module")
def of_columns(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """Write a store of one of a table's two columns of images, which are paths out of its folder.

    Return it, the arguments that find its images again, and the same as options.
    """
    folder = tmp_path_factory.mktemp("columns")
    for number in range(4):
        for side, grey in (("left", 40), ("right", 60)):
            write_grey_image(folder / side / f"{number}.png", grey * number)
    (folder / "table").mkdir()
    paths = {side: [f"../{side}/{number}.png" for number in range(4)] for side in ("left", "right")}
    pq.write_table(pa.table({**paths, "fine": [0, 1, 0, 1]}), folder / "table/x.parquet")
    options = ["--image-column", "right", "--allow-outside-paths"]
    settings = ("--image-size", SIZE, "--workers", 0, "--label-column", "fine", *options)
    output("convert", folder / "table/x.parquet", folder / "store", *settings)
    return folder / "store", {"image_column": "right", "allow_outside_paths": True}, options


def test_originals_are_found_by_the_options_of_the_conversion(
    of_columns: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    store, arguments, options = of_columns
    verified = tokenstore.verify(store, retokenize=4, **arguments)
    assert verified.ok
    assert json.loads(output("verify", store, "--retokenize", 4, "--json", *options)) == plain(
        verified.to_dict()
    )
    audit = tokenstore.stats(store, quality=4, **arguments)
    assert json.loads(output("stats", store, "--quality", 4, "--json", *options)) == plain(audit.to_dict())
    sheet = tokenstore.preview(store, tmp_path / "a.png", **arguments)
    assert (sheet.originals, sheet.reason) == (4, None)
    assert "4 with their originals" in output("preview", store, "--out", tmp_path / "b.png", *options)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_options_of_originals_are_refused_without_use_and_by_wrong_names(
    of_columns: tuple[Path, dict[str, Any], list[str]],
) -> None:
    store, arguments, options = of_columns
    for command, needed in (("verify", "--retokenize N"), ("stats", "--quality N")):
        result = CliRunner().invoke(cli, [command, str(store), *options])
        assert (result.exit_code, f"--image-column goes with {needed}" in result.output) == (2, True)
    for call in (tokenstore.verify, tokenstore.stats):
        with pytest.raises(ArgumentError, match=r"image_column=\.\.\. goes with"):
            call(store, **arguments)
    with pytest.raises(ArgumentError, match=r"image_column=\.\.\. goes with a sheet without augment"):
        tokenstore.preview(store, augment="seitpp", **arguments)
    wrong: dict[str, Any] = {"image_colum": "right"}
    for call in (tokenstore.verify, tokenstore.stats, tokenstore.preview):
        with pytest.raises(TypeError, match=r"'image_colum'\. Did you mean 'image_column'"):
            call(store, **wrong)
    with pytest.raises(TypeError, match="image_colum"):
        open_source("x.parquet", **wrong)


def test_info(folder: Path) -> None:
    said = json.loads(output("info", folder / "store", "--json"))
    assert plain(tokenstore.info(folder / "store").to_dict()) == said


def test_stats(folder: Path) -> None:
    said = json.loads(output("stats", folder / "store", "--json", "--quality", 2, "--shuffle"))
    assert plain(tokenstore.stats(folder / "store", quality=2, shuffle=True).to_dict()) == said


@pytest.mark.parametrize("samples", [None, 2])
def test_verify(folder: Path, samples: int | None) -> None:
    words = [] if samples is None else ["--retokenize", samples]
    said = json.loads(output("verify", folder / "store", "--json", *words))
    assert plain(tokenstore.verify(folder / "store", retokenize=samples).to_dict()) == said


def test_preview(folder: Path, tmp_path: Path) -> None:
    output("preview", folder / "store", "--out", tmp_path / "a.png", "--indices", "0,3")
    sheet = tokenstore.preview(folder / "store", tmp_path / "b.png", indices=[0, 3])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    np.testing.assert_array_equal(np.asarray(sheet.image), np.asarray(Image.open(tmp_path / "b.png")))
    assert (sheet.originals, sheet.missing) == (2, 0)


def test_reconstruct(folder: Path, tmp_path: Path) -> None:
    output("reconstruct", folder / "store", 0, -1, "--out", tmp_path / "a")
    written = tokenstore.reconstruct(folder / "store", [0, -1], tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert [path.name for path in written.files] == ["0.png", "3.png"]
