"""4M's modalities, as files and as tar files: one becomes tokens, the crops views, and others columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.code_sources import converted, opened, read_everywhere
from helpers.layout_files import npy_bytes, put_modality, random_codes, tar_bytes

from tokenstore.audit.verify import verify
from tokenstore.errors import SourceError
from tokenstore.sources import open_source

KEYS = [f"{label}/{number:03}" for label in ("cat", "dog") for number in range(4)]
RGB, DEPTH = (random_codes(8, 3, 16, seed=seed).astype(np.int16) for seed in (1, 2))
CROPS = np.random.default_rng(3).integers(1, 90, (8, 3, 5))
CROPS[..., 4] %= 2


@pytest.fixture(params=[0, 3], ids=["files", "tars"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the path of a folder of three modalities."""
    for name, arrays in (("tok_rgb", RGB), ("tok_depth", DEPTH), ("crop_settings", CROPS)):
        put_modality(tmp_path / "4m" / name, arrays, KEYS, request.param)
    return tmp_path / "4m"


def test_modalities_become_views_boxes_labels_and_columns(root: Path) -> None:
    source = opened(root, "4m")
    read_everywhere(source.splits["train"], RGB.reshape(8, 3, 4, 4))
    assert source.class_names == ("cat", "dog")
    assert source.notes == (
        "modalities not used: 1 (tok_depth); columns='NAME' stores one as a further column",
    )
    store = converted(root, root.with_name("out"), columns=["depth=tok_depth"], codec="zstd")
    split = store["train"]
    assert np.array_equal(split.read("tokens", range(8)), RGB.reshape(8, 3, 4, 4))
    assert np.array_equal(split.read("depth", range(8)), DEPTH)
    assert np.array_equal(split.read("view_boxes", range(8)), CROPS)
    assert split.read("labels", range(8)).tolist() == [0] * 4 + [1] * 4
    assert not verify(root.with_name("out")).problems


def test_members_of_a_packed_folder_have_the_classes_below_its_dot(tmp_path: Path) -> None:
    dotted = [f"./{key}" for key in KEYS]  # as `tar cf shard.tar .` names them
    put_modality(tmp_path / "4m/tok_rgb", RGB, dotted, tars=2)
    put_modality(tmp_path / "4m/crop_settings", CROPS, KEYS)
    source = opened(tmp_path / "4m", "4m")
    assert source.class_names == ("cat", "dog")
    assert source.splits["train"].labels(0, 8).tolist() == [0] * 4 + [1] * 4
    assert source.splits["train"].names(0, 1).to_pylist() == KEYS[:1]


def test_another_modality_is_taken_by_its_name_and_one_crop_is_no_view(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name, arrays in (("tok_rgb", RGB), ("tok_depth", DEPTH)):
            put_modality(tmp_path / split / name, arrays[:, :1], [str(row) for row in range(8)])
    source = opened(tmp_path, "4m", token_column="tok_depth")
    assert (list(source.splits), source.views, source.class_names) == (["train", "val"], None, None)
    read_everywhere(source.splits["val"], DEPTH[:, 0].reshape(8, 4, 4))
    assert source.splits["val"].labels(0, 8) is None


def test_modalities_of_other_samples_are_refused(root: Path) -> None:
    put_modality(root / "tok_seg", RGB[:7], KEYS[:7])
    with pytest.raises(SourceError, match=r"tok_seg: has no sample 'dog/003'; expected those of .*tok_rgb"):
        open_source(root, columns=["tok_seg"])
    with pytest.raises(SourceError, match=r"tok_rgb: has other samples"):
        open_source(root, token_column="tok_seg", columns=["tok_rgb"])
    for name in ("../4m/tok_rgb", "/etc", ".", "nothing"):
        with pytest.raises(SourceError, match=r"no such column; found crop_settings, tok_depth, tok_rgb"):
            open_source(root, columns=[f"x={name}"])
    with pytest.raises(SourceError, match=r"expected one folder of a modality's tokens, found"):
        open_source(root, token_column="rgb")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy_bytes(np.zeros((2, 16), np.int16)), "expected"),
        (npy_bytes(np.zeros((3, 16), np.float32)), "expected"),
        (npy_bytes(np.array([None])), "holds Python objects"),
        (b"\x80\x04K\x01.", "expected the .npy format"),
        (npy_bytes(RGB[0])[:-3], "cut off or damaged"),
        (npy_bytes(RGB[0] - 2000), "sample 5: expected codes 0.*found -"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(root: Path, content: bytes, message: str) -> None:
    files = root / "tok_rgb"
    if (files / "dog").is_dir():
        (files / "dog/001.npy").write_bytes(content)
    else:
        members = {f"{key}.npy": npy_bytes(array) for key, array in zip(KEYS, RGB, strict=True)}
        for tar in files.iterdir():
            tar.unlink()
        (files / "shard-00000.tar").write_bytes(tar_bytes(members | {"dog/001.npy": content}))
    with pytest.raises(SourceError, match=message):
        open_source(root).splits["train"].codes(0, 8)  # type: ignore[union-attr]


def test_crops_that_are_no_boxes_are_refused(tmp_path: Path) -> None:
    put_modality(tmp_path / "4m/tok_rgb", RGB, KEYS)
    boxes = CROPS.astype(np.float32)
    boxes[6, 1, 2] = 0.5
    put_modality(tmp_path / "4m/crop_settings", boxes, KEYS)
    with pytest.raises(SourceError, match=r"crop_settings: samples 0 to 7: expected whole pixels"):
        converted(tmp_path / "4m", tmp_path / "out")
    put_modality(tmp_path / "x/tok_rgb", RGB, KEYS)
    put_modality(tmp_path / "x/crop_settings", CROPS[..., :4], KEYS)
    with pytest.raises(SourceError, match=r"expected top, left, height, width and flip of each crop"):
        open_source(tmp_path / "x")


def test_boxes_whose_sums_overflow_are_refused(tmp_path: Path) -> None:
    put_modality(tmp_path / "4m/tok_rgb", RGB, KEYS)
    boxes = CROPS.copy()
    boxes[6, 1, :4] = 2**62
    put_modality(tmp_path / "4m/crop_settings", boxes, KEYS)
    with pytest.raises(SourceError, match=r"expected the top, left, height and width .*4611686018427387904"):
        converted(tmp_path / "4m", tmp_path / "out")
