"""The layout of a place is found out from what is there, and what was recognised before still is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.code_sources import opened
from helpers.layout_files import (
    put_json_lines,
    put_modality,
    put_tree,
    put_zarr_v3,
    random_codes,
    safetensors_bytes,
)
from PIL import Image

from tokenstore.errors import SourceError
from tokenstore.sources import KINDS, open_source

CODES = random_codes(5, 2, 16)


def put_image(folder: Path) -> None:
    (folder / "cat").mkdir(parents=True)
    Image.new("L", (2, 2)).save(folder / "cat/1.png")


def test_files_of_codes_beside_images_leave_them_images(tmp_path: Path) -> None:
    put_image(tmp_path)
    put_json_lines(tmp_path / "metadata.jsonl", CODES[:, 0])
    (tmp_path / "weights.safetensors").write_bytes(safetensors_bytes({"x": CODES}))
    (tmp_path / "index.json").write_text('{"shards": [], "format": "mds"}')
    assert open_source(tmp_path).kind == "imagefolder"
    assert open_source(tmp_path, "jsonl", token_column="tokens").kind == "jsonl"


def test_two_layouts_in_one_folder_are_told_apart_by_the_user(tmp_path: Path) -> None:
    put_json_lines(tmp_path / "a.jsonl", CODES[:, 0])
    (tmp_path / "b.safetensors").write_bytes(safetensors_bytes({"tokens": CODES}))
    with pytest.raises(SourceError, match=r"could be of kind safetensors or jsonl; say which"):
        open_source(tmp_path)


def test_arrays_named_after_splits_are_arrays_whatever_else_is_there(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", CODES)
    put_json_lines(tmp_path / "train.jsonl", CODES[:, 0])
    assert opened(tmp_path, "array").grid == (2, 16)


def test_a_zarr_array_is_one_though_a_chunk_looks_like_something_else(tmp_path: Path) -> None:
    path = put_zarr_v3(tmp_path / "x", CODES, 3)
    put_image(path / "c")
    assert opened(path, "zarr").grid == (2, 16)


def test_folders_that_are_almost_a_layout_are_none(tmp_path: Path) -> None:
    put_tree(tmp_path / "tree", CODES, None)
    (tmp_path / "tree/imagenet64_labels").rmdir()
    put_modality(tmp_path / "depth/depth", CODES, list("abcde"))
    (tmp_path / "index").mkdir()
    (tmp_path / "index/index.json").write_text('{"shards": []}')
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/video.bin").write_bytes(bytes(64))
    for name in ("tree", "depth", "index", "videos"):
        with pytest.raises(
            SourceError, match=r"nothing known found; looked for|Codes are read from one file"
        ):
            open_source(tmp_path / name)
    assert opened(tmp_path / "tree/imagenet64_codes", "llamagen").grid == (4, 4)
    assert open_source(tmp_path / "depth", "4m").kind == "4m"


def test_options_of_other_kinds_are_refused_with_what_they_go_with(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", CODES)
    put_image(tmp_path / "images")
    for options, message in (
        ({"token_column": "a"}, "goes with ready codes that are found by a name, not with kind array"),
        ({"stride": 2}, "goes with videos of ready codes, not with kind array"),
    ):
        with pytest.raises(SourceError, match=message):
            open_source(tmp_path / "x.npy", **options)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"goes with ready codes, not with kind imagefolder"):
        open_source(tmp_path / "images", grid=(4, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_refuses_a_folder_of_other_files(tmp_path: Path, kind: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "sub").mkdir()
    with pytest.raises(SourceError):
        open_source(tmp_path, kind)


def test_latents_of_other_projects_are_said_to_be_no_codes(tmp_path: Path) -> None:
    for name, array in (("edm/00000", "img-mean-std-00000000.npy"), ("loose", "a.npy")):
        (tmp_path / name).mkdir(parents=True)
        np.save(tmp_path / name / array, np.zeros((8, 4, 4), np.float32))
    (tmp_path / "mar/cat").mkdir(parents=True)
    np.savez(tmp_path / "mar/cat/1.npz", moments=np.zeros((4, 2, 2)), moments_flip=np.zeros((4, 2, 2)))
    tensors = {
        "latents": np.zeros((3, 4, 2), "f4"),
        "latents_flip": np.zeros((3, 4, 2), "f4"),
        "labels": np.arange(3),
    }
    (tmp_path / "latents_rank00_shard000.safetensors").write_bytes(safetensors_bytes(tensors))
    for place in ("edm", "loose", "mar", "mar/cat/1.npz", "latents_rank00_shard000.safetensors"):
        with pytest.raises(SourceError, match=r"float(32|64) .*latents, which are no codes"):
            open_source(tmp_path / place)


def test_files_of_codes_in_folders_of_other_names_are_told_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    np.save(tmp_path / "cat/1.npy", CODES[0])
    with pytest.raises(
        SourceError, match=r"arrays such as cat/1.npy, int64 \(2, 16\). Codes are read from one file"
    ):
        open_source(tmp_path)
