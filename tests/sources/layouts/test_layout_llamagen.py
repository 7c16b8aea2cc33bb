"""LlamaGen's code trees: files in the order of their numbers, with views and their boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.code_sources import converted, opened, read_everywhere
from helpers.layout_files import put_tree, random_codes

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs import Views
from tokenstore.errors import SourceError
from tokenstore.sources import open_source
from tokenstore.sources.layouts.llamagen import ten_crops

LABELS = np.arange(13) % 4


@pytest.mark.parametrize("views", [1, 2, 3, 10])
def test_a_tree_becomes_a_store_in_the_order_of_numbers(tmp_path: Path, views: int) -> None:
    codes = random_codes(13, views, 16)
    source = opened(put_tree(tmp_path / "tree", codes, LABELS), "llamagen")
    expected = codes.reshape(13, views, 4, 4) if views > 1 else codes.reshape(13, 4, 4)
    read_everywhere(source.splits["train"], expected)
    assert source.splits["train"].names(9, 11).to_pylist() == ["9.npy", "10.npy"]
    assert source.grid == (4, 4)
    store = converted(tmp_path / "tree/imagenet64_codes", tmp_path / "out", codec="zstd")
    assert np.array_equal(store["train"].read("tokens", range(13)), expected)
    assert np.array_equal(store["train"].read("labels", range(13)), LABELS)
    assert not verify(tmp_path / "out").problems


def test_a_flip_pair_and_crops_have_the_boxes_of_the_description(tmp_path: Path) -> None:
    published = "imagenet_code_c2i_flip_ten_crop"  # the names of LlamaGen's own instructions
    for name, views, size in (("a", 2, 384), (published, 10, 384), (f"{published}_105", 10, 256)):
        put_tree(tmp_path / name, random_codes(1, views, 16), LABELS, f"imagenet{size}")
    flips = opened(tmp_path / "a", "llamagen").views
    assert flips == Views(2, ((0, 0, 384, 384, 0), (0, 0, 384, 384, 1)))
    wide, slight = (opened(tmp_path / name, "llamagen").views for name in (published, f"{published}_105"))
    assert wide is not None
    assert wide.boxes is not None
    corners = [(0, 0), (0, 38), (38, 0), (38, 38), (19, 19)]
    assert wide.boxes[:5] == tuple((*place, 384, 384, 0) for place in corners)
    assert wide.boxes[5:] == tuple((top, 38 - left, 384, 384, 1) for top, left in corners)
    assert slight == Views(10, ten_crops(256, 268))


@pytest.mark.parametrize(("size", "enlarged"), [(4, 5), (4, 7), (6, 10)])
def test_ten_crops_are_those_of_torchvision(size: int, enlarged: int) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional", reason="needs torchvision")
    torch = pytest.importorskip("torch")
    image = torch.arange(enlarged**2).reshape(1, enlarged, enlarged)
    for crop, (top, left, height, width, mirrored) in zip(
        functional.ten_crop(image, [size]), ten_crops(size, enlarged), strict=True
    ):
        box = image[:, top : top + height, left : left + width]
        assert torch.equal(crop, box.flip(-1) if mirrored else box)


def test_the_grid_is_that_of_each_view(tmp_path: Path) -> None:
    codes = random_codes(5, 2, 12)
    put_tree(tmp_path, codes, LABELS)
    assert opened(tmp_path, "llamagen").grid == (12,)
    source = opened(tmp_path, "llamagen", grid=(3, 4))
    read_everywhere(source.splits["train"], codes.reshape(5, 2, 3, 4))


def test_a_plan_of_a_tree_counts_all_views(tmp_path: Path) -> None:
    put_tree(tmp_path / "tree", random_codes(13, 2, 16), LABELS)
    planned = tokenstore.plan(tmp_path / "tree", tmp_path / "out")
    assert (planned.grid, planned.samples) == ((4, 4), 13)


def test_numbers_without_a_file_are_noted_and_shift_no_label(tmp_path: Path) -> None:
    codes = random_codes(13, 1, 16)
    put_tree(tmp_path, codes, LABELS)
    (tmp_path / "imagenet64_codes/5.npy").unlink()
    source = opened(tmp_path, "llamagen")
    assert source.splits["train"].labels(0, 12).tolist() == np.delete(LABELS, 5).tolist()
    assert "numbers without a file: 1 (first: 5.npy)" in source.notes
    assert "labels without codes are not used: 1" in source.notes


def replaced(folder: str, name: str, content: Any) -> Any:
    def replace(root: Path) -> None:
        path = root / f"imagenet64_{folder}/{name}"
        if content is None:
            path.unlink()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content, allow_pickle=True)

    return replace


GOOD = np.zeros((1, 1, 16), np.int64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("codes", "07.npy", GOOD), "expected files 0.npy, 1.npy ..., found '07.npy'"),
        (replaced("codes", "x.npy", GOOD), "expected files 0.npy, 1.npy ..., found 'x.npy'"),
        (replaced("codes", "0.npy", GOOD[0]), r"0.npy: expected codes \(1, V, L\), found int64 \(1, 16\)"),
        (replaced("codes", "0.npy", GOOD.astype("f4")), "latents, which are no codes"),
        (replaced("codes", "0.npy", np.array([None])), "0.npy: holds Python objects"),
        (replaced("codes", "0.npy", b"\x80\x04K\x01."), "0.npy: expected the .npy format"),
        (
            replaced("codes", "3.npy", GOOD[..., :9]),
            r"3.npy: expected int64 \(1, 1, 16\) as in the first file",
        ),
        (replaced("codes", "3.npy", GOOD.astype("f8")), "3.npy: expected int64 .* found float64"),
        (replaced("codes", "3.npy", np.array([None])), "3.npy: holds Python objects"),
        (replaced("codes", "3.npy", b""), "3.npy: expected the .npy format"),
        (replaced("codes", "3.npy", -1 - GOOD), "imagenet64_codes: sample 3: expected codes 0.*, found -1"),
        (replaced("labels", "3.npy", None), "codes without a label: 1 .first: 3.npy.; add the labels"),
        (replaced("labels", "3.npy", np.arange(2)), r"3.npy: expected int64 \(1,\) as in the first file"),
        (replaced("labels", "0.npy", np.zeros(1)), r"expected one label \(1,\), found float64"),
        (replaced("labels", "2.npy", np.array([-7])), "expected labels 0.*found -7 at sample 2"),
    ],
)
def test_files_that_do_not_fit_leave_no_store(tmp_path: Path, change: Any, message: str) -> None:
    change(put_tree(tmp_path / "tree", random_codes(5, 1, 16), LABELS))
    with pytest.raises(SourceError, match=message):
        tokenstore.convert(tmp_path / "tree", tmp_path / "out", workers=0)
    assert not (tmp_path / "out/zarr.json").exists()


def test_one_of_several_trees_has_to_be_given(tmp_path: Path) -> None:
    for name in ("imagenet256", "imagenet384"):
        put_tree(tmp_path, random_codes(3, 1, 16), LABELS, name)
    with pytest.raises(SourceError, match=r"found imagenet256_codes, imagenet384_codes; give one of these"):
        open_source(tmp_path)
    assert len(opened(tmp_path / "imagenet384_codes", "llamagen").splits["train"]) == 3
