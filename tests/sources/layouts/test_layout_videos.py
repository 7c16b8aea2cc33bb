"""Videos of codes: commaVQ's packed tar files and 1X's arrays, as frames and as windows of frames."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from helpers.code_sources import converted, opened, read_everywhere
from helpers.layout_files import commavq_members, npy_bytes, put_world_model, random_codes, tar_bytes

from tokenstore.errors import SourceError
from tokenstore.sources import open_source

VIDEOS = {
    key: random_codes(length, 8, 16, seed=length) for key, length in (("a", 12), ("x/b", 5), ("c.d", 3))
}
FRAMES = np.concatenate(list(VIDEOS.values()))


def windows_of(length: int, stride: int) -> np.ndarray:
    return np.array(
        [
            codes[at : at + length]
            for codes in VIDEOS.values()
            for at in range(0, len(codes) - length + 1, stride)
        ]
    )


def put_commavq(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members, "w:gz"))
    return path


def test_frames_of_all_files_are_samples(tmp_path: Path) -> None:
    for number, key in enumerate(VIDEOS):
        put_commavq(tmp_path / f"data-000{number}.tar.gz", commavq_members({key: VIDEOS[key]}))
    source = opened(tmp_path, "commavq")
    read_everywhere(source.splits["train"], FRAMES)
    assert source.splits["train"].names(11, 13).to_pylist() == [
        "data-0000.tar.gz/a[11]",
        "data-0001.tar.gz/x/b[0]",
    ]
    store = converted(tmp_path, tmp_path.with_name("out"))
    assert np.array_equal(store["train"].read("tokens", range(20)), FRAMES)
    assert store.manifest.codebook_sizes == (1024,)


@pytest.mark.parametrize(("window", "stride"), [(4, None), (3, 1), (5, 2), (2, 7), (1, None)])
def test_windows_stay_within_their_minute_with_their_poses(
    tmp_path: Path, window: int, stride: int | None
) -> None:
    path = put_commavq(tmp_path / "data-0000.tar.gz", commavq_members(VIDEOS))
    source = opened(path, "commavq", window=window, stride=stride, columns=["pose"])
    expected = windows_of(window, stride or window)
    read_everywhere(source.splits["train"], expected)
    assert source.grid == (window, 8, 16)
    poses = source.further["train"]["pose"].read(0, len(expected))
    assert poses.shape == (len(expected), window, 6)
    firsts = [at for codes in VIDEOS.values() for at in range(0, len(codes) - window + 1, stride or window)]
    assert poses[:, 0, 0].tolist() == [6 * at for at in firsts]


def test_a_packed_file_at_a_url_gives_what_the_local_one_gives(tmp_path: Path) -> None:
    data = put_commavq(tmp_path / "x.tar.gz", commavq_members(VIDEOS)).read_bytes()
    fsspec.filesystem("memory").pipe_file("memory://layouts/x.tar.gz", data)
    source = open_source("memory://layouts/x.tar.gz", "commavq")
    read_everywhere(source.splits["train"], FRAMES)  # type: ignore[arg-type]


MEMBERS = commavq_members(VIDEOS)


def changed(**members: bytes | None) -> bytes:
    names = {name.replace("__", "/").replace("_", "."): data for name, data in members.items()}
    return tar_bytes({name: data for name, data in (MEMBERS | names).items() if data is not None}, "w:gz")


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (tar_bytes(MEMBERS, "w:gz")[:-30], [], "damaged or truncated|truncated"),
        (gzip.compress(tar_bytes(MEMBERS)[:9000]), [], "truncated: "),
        (
            changed(a_token_npy=npy_bytes(np.zeros((3, 8, 9), np.int16))),
            [],
            "of one type and shape, a row a frame",
        ),
        (changed(a_token_npy=npy_bytes(np.zeros((3, 8, 16), np.int32))), [], "of one type and shape"),
        (changed(a_token_npy=npy_bytes(np.array([[None]]))), [], "a.token.npy: holds Python objects"),
        (changed(a_token_npy=b"\x80\x04K\x01."), [], "a.token.npy: expected the .npy format"),
        (changed(a_token_npy=npy_bytes(VIDEOS["a"])[:-4]), [], "cut off or damaged"),
        (changed(a_pose_npy=None), ["pose"], "expected a member .pose.npy of numbers for each .token.npy"),
        (changed(a_pose_npy=npy_bytes(np.zeros((3, 6), "f4"))), ["pose"], "expected a member .pose.npy"),
        (changed(), ["speed"], "no such column"),
    ],
)
def test_damaged_videos_are_refused(tmp_path: Path, content: bytes, columns: list[str], message: str) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x.tar.gz", "commavq", columns=columns)


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    members = {f"{'./' * twice}a.token.npy": npy_bytes(VIDEOS["a"].astype(np.int16)) for twice in range(2)}
    data = tar_bytes(members).replace(b"./a.token.npy", b"a.token.npy\0\0")
    header = bytearray(data)
    for start in range(0, len(header), 512):  # the checksums of the header that has changed
        if header[start + 257 : start + 262] == b"ustar":
            total = sum(header[start : start + 512]) - sum(header[start + 148 : start + 156]) + 8 * 32
            header[start + 148 : start + 156] = b"%06o\0 " % total
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(bytes(header)))
    with pytest.raises(SourceError, match=r"key b'a' occurs twice"):
        open_source(tmp_path / "x.tar.gz")


@pytest.mark.parametrize(("value", "message"), [(-1, "sample 3: expected codes .* found -1"), (1024, "1023")])
def test_codes_out_of_range_leave_no_store(tmp_path: Path, value: int, message: str) -> None:
    codes = VIDEOS["a"].copy()
    codes[3, 1, 1] = value
    path = put_commavq(tmp_path / "x.tar.gz", commavq_members({"a": codes}))
    with pytest.raises(Exception, match=message):
        converted(path, tmp_path / "out")
    assert not (tmp_path / "out/zarr.json").exists()


def test_other_packed_tar_files_are_still_said_to_be_packed(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(tar_bytes({"0.jpg": b"x"}, "w:gz"))
    with pytest.raises(SourceError, match=r"a compressed tar file, whose samples cannot be reached singly"):
        open_source(tmp_path / "x.tar.gz")
    with pytest.raises(SourceError, match=r"Archives that have to be unpacked first: 1"):
        open_source(tmp_path)


SEGMENTS = np.repeat([7, 7, 9, 2], [5, 1, 3, 4])
IMAGES = random_codes(13, 4, 4, size=2**18)


@pytest.mark.parametrize("dtype", ["uint32", "int64"])
def test_1x_frames_and_windows_never_cross_a_segment(tmp_path: Path, dtype: str) -> None:
    path = put_world_model(tmp_path / "val_v1.1", IMAGES, SEGMENTS, token_dtype=dtype, vocab_size=2**18)
    source = opened(path, "1x")
    read_everywhere(source.splits["val"], IMAGES)
    source = opened(path, "1x", window=3, stride=2, columns=["segment"])
    firsts = [0, 2, 6, 9]
    read_everywhere(source.splits["val"], [IMAGES[at : at + 3] for at in firsts])
    assert source.further["val"]["segment"].read(1, 4).tolist() == [[7] * 3, [9] * 3, [2] * 3]
    assert source.codebook_sizes == (2**18,)
    assert source.notes == ("split val: 2 frames at ends of segments are in no window",)


def test_1x_folders_of_splits_become_a_store(tmp_path: Path) -> None:
    for split in ("train", "val"):
        put_world_model(tmp_path / f"src/{split}_v1.1", IMAGES, SEGMENTS)
    store = converted(tmp_path / "src", tmp_path / "out", window=4)
    assert store.splits == ("train", "val")
    assert np.array_equal(store["val"].read("tokens", range(2)), [IMAGES[:4], IMAGES[9:13]])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("video.bin", b"\0" * 100, r"uint32 \(13, 4, 4\) takes 832 bytes, found 100: cut off"),
        ("segment_ids.bin", b"\0" * 8, r"int32 \(13,\) takes 52 bytes, found 8"),
        ("segment_ids.bin", None, "segment_ids.bin: cannot be read: No such file"),
        ("metadata.json", b"[]", "expected metadata with num_images and s: a list"),
        ("metadata.json", b"{" * 5000, "expected metadata with num_images and s"),
        ("metadata.json", {"num_images": -1, "s": 4}, "num_images is -1"),
        ("metadata.json", {"num_images": 13, "s": 4.0}, "s is 4.0"),
        ("metadata.json", {"num_images": 2**40, "s": 4096}, "cut off, or of another type"),
        (
            "metadata.json",
            {"num_images": 13, "s": 4, "token_dtype": "O"},
            "expected token_dtype as a type of whole",
        ),
        ("metadata.json", {"num_images": 13, "s": 4, "vocab_size": "many"}, "expected one vocab_size"),
    ],
)
def test_1x_files_that_contradict_each_other_are_refused(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    path = put_world_model(tmp_path / "x", IMAGES, SEGMENTS)
    (path / name).unlink()
    if content is not None:
        (path / name).write_bytes(json.dumps(content).encode() if isinstance(content, dict) else content)
    with pytest.raises(SourceError, match=message):
        open_source(path)


def test_windows_are_refused_for_kinds_that_are_no_videos(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    with pytest.raises(
        SourceError, match=r"window=\.\.\. goes with videos of ready codes, not with kind array"
    ):
        open_source(tmp_path / "x.npy", window=3)
