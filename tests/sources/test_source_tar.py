"""Tar files of images: the walk over headers, samples and their labels, splits, damage."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources import ImageSource, open_source
from tokenstore.sources.shard_files import expand_braces
from tokenstore.sources.tar import open_tar
from tokenstore.sources.tar_headers import walk_tar

DATA = SHARED / "data"
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

Content = Mapping[str, bytes | str | int]


def write_tar(path: Path, members: Content | list[tuple[str, bytes]], format: str = "gnu") -> Path:
    """Write a tar file; values that are not bytes become their text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=FORMATS[format]) as tar:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            data = content if isinstance(content, bytes) else str(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, first: int = 0, count: int = 2) -> Path:
    """Write a WebDataset shard whose labels are the numbers of its keys."""
    members: dict[str, bytes | int] = {}
    for number in range(first, first + count):
        members[f"{number:04}.jpg"] = b"image %d" % number
        members[f"{number:04}.cls"] = number
    return write_tar(path, members)


def listed(source: ImageSource) -> dict[str, list[str]]:
    return {name: split.names(0, len(split)).to_pylist() for name, split in source.splits.items()}


def labels(source: ImageSource, split: str = "train") -> list[int] | None:
    found = source.splits[split].labels(0, len(source.splits[split]))
    return None if found is None else found.tolist()


def contents(source: ImageSource, split: str = "train") -> list[bytes | SampleError]:
    return list(source.splits[split].request(0, len(source.splits[split])).read())


@pytest.mark.parametrize("format", FORMATS)
def test_the_walk_finds_what_tarfile_finds(tmp_path: Path, format: str) -> None:
    names = ["a.jpg", "d/" + "e" * 90 + ".jpg", "x" * 80 + "/" + "y" * 90 + ".jpg", "é.png"]
    if format != "ustar":
        names += ["z" * 255, "deep/" * 60 + "end.jpg", "\udcff.jpg"]
    path = write_tar(
        tmp_path / "x.tar", {name: b"#" * (511 + place) for place, name in enumerate(names)}, format
    )
    with tarfile.open(path) as tar:
        expected = [(os.fsencode(m.name), m.offset_data, m.size, m.isreg()) for m in tar.getmembers()]
    assert [(m.name, m.offset, m.size, m.is_file) for m in walk_tar(path)] == expected


def test_the_walk_reads_sizes_in_base_256_and_pax_sizes(tmp_path: Path) -> None:
    info = tarfile.TarInfo("big.jpg")
    info.size = 700
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (700).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
    big = tmp_path / "big.tar"
    big.write_bytes(bytes(header) + bytes(1024) + bytes(1024))
    assert [(m.name, m.size) for m in walk_tar(big)] == [(b"big.jpg", 700)]
    info.pax_headers = {"size": "700", "comment": "a = b"}
    info.size = 0
    pax = tmp_path / "pax.tar"
    pax.write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024) + bytes(1024))
    assert [(m.name, m.size) for m in walk_tar(pax)] == [(b"big.jpg", 700)]


def test_webdataset_shards_give_images_with_integer_labels(tmp_path: Path) -> None:
    shard(tmp_path / "000.tar", 0)
    shard(tmp_path / "001.tar", 2)
    source = open_tar(tmp_path)
    assert listed(source) == {
        "train": ["000.tar/0000.jpg", "000.tar/0001.jpg", "001.tar/0002.jpg", "001.tar/0003.jpg"]
    }
    assert labels(source) == [0, 1, 2, 3]
    assert source.class_names is None
    assert contents(source) == [b"image 0", b"image 1", b"image 2", b"image 3"]


@pytest.mark.parametrize("key", ["label", "cls", "class"])
@pytest.mark.parametrize(
    ("values", "expected", "names"), [((3, 1), [3, 1], None), (("dog", "cat"), [1, 0], ("cat", "dog"))]
)
def test_labels_may_stand_in_json(
    tmp_path: Path, key: str, values: tuple[object, ...], expected: list[int], names: object
) -> None:
    members = {}
    for number, value in enumerate(values):
        members[f"{number}.json"] = json.dumps({"caption": "x", key: value})
        members[f"{number}.png"] = b"image"
    source = open_tar(write_tar(tmp_path / "x.tar", members))
    assert labels(source) == expected
    assert source.class_names == names


def test_cls_goes_before_json(tmp_path: Path) -> None:
    members = {"1.cls": " 5\n", "1.jpg": b"", "1.json": '{"label": 6}'}
    assert labels(open_tar(write_tar(tmp_path / "x.tar", members))) == [5]


@pytest.mark.parametrize("value", ["1.5", "[1]", "true", "null", "{}"])
def test_labels_in_json_that_are_neither_number_nor_name_are_refused(tmp_path: Path, value: str) -> None:
    path = write_tar(tmp_path / "x.tar", {"1.jpg": b"", "1.json": f'{{"label": {value}}}'})
    with pytest.raises(SourceError, match=r"x.tar: 1.json: expected a label that is a number or a name"):
        open_tar(path)


def test_broken_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"1.json: expected JSON"):
        open_tar(write_tar(tmp_path / "x.tar", {"1.jpg": b"", "1.json": "{"}))


def test_samples_without_a_label_among_labelled_ones_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"1.jpg": b"", "1.cls": 0, "2.jpg": b""})
    with pytest.raises(SourceError, match=r"samples without a label: 1 \(first: 2.jpg\)"):
        open_tar(path)


def test_a_key_ends_at_the_first_dot_of_the_base_name(tmp_path: Path) -> None:
    members = {"v1.0/a.jpg": b"photo", "v1.0/a.seg.png": b"mask", "v1.0/a.cls": 3}
    members |= {"v1.0/b.rgb.png": b"deep", "v1.0/b.cls": 4}
    source = open_tar(write_tar(tmp_path / "x.tar", members))
    assert contents(source) == [b"photo", b"deep"]
    assert labels(source) == [3, 4]
    assert source.notes == ()


def test_of_several_images_of_a_sample_a_fixed_one_is_taken_and_noted(tmp_path: Path) -> None:
    source = open_tar(write_tar(tmp_path / "x.tar", {"1.png": b"png", "1.jpg": b"jpg", "1.bmp": b"bmp"}))
    assert contents(source) == [b"jpg"]
    assert source.notes == ("images skipped, as their samples have one that goes before: 2 (first: 1.bmp)",)


def test_several_images_that_no_rule_chooses_from_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"sample '1': expected one image, found .a.png and .b.png"):
        open_tar(write_tar(tmp_path / "x.tar", {"1.a.png": b"", "1.b.png": b""}))


def test_the_same_key_in_two_places_is_refused(tmp_path: Path) -> None:
    for members in (
        [("1.jpg", b""), ("2.jpg", b""), ("1.jpg", b"")],
        [("1.jpg", b""), ("2.jpg", b""), ("1.cls", b"0"), ("2.cls", b"0")],
    ):
        with pytest.raises(SourceError, match=r"x.tar: key '1' occurs in two places"):
            open_tar(write_tar(tmp_path / "x.tar", members))


def test_the_same_member_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"key 'a/1' has two members .jpg"):
        open_tar(write_tar(tmp_path / "x.tar", [("a/1.jpg", b""), ("a/1.JPG", b"")]))


def test_members_without_an_image_are_noted(tmp_path: Path) -> None:
    source = open_tar(write_tar(tmp_path / "x.tar", {"1.jpg": b"", "readme.txt": b"", "._1.jpg": b""}))
    assert source.notes == ("members skipped, as no image goes with them: 1 (first: readme.txt)",)
    assert len(source.splits["train"]) == 1


def test_links_sparse_files_and_devices_are_passed_over_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"))
        for name, kind in [
            ("2.jpg", tarfile.SYMTYPE),
            ("3.jpg", tarfile.LNKTYPE),
            ("4.jpg", tarfile.FIFOTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "1.jpg", 0
            tar.addfile(info)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    source = open_tar(path)
    assert listed(source) == {"train": ["x.tar/1.jpg"]}
    assert source.notes == ("members skipped, as they are links, devices or sparse files: 3 (first: 2.jpg)",)


def test_sparse_members_of_both_kinds_are_walked_past(tmp_path: Path) -> None:
    old = tarfile.TarInfo("old.jpg")
    old.type, old.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(old.tobuf(tarfile.GNU_FORMAT))
    header[257:265] = b"ustar  \0"
    header[482] = 1
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
    new = tarfile.TarInfo("new.jpg")
    new.pax_headers, new.size = {"GNU.sparse.major": "1", "GNU.sparse.name": "new.jpg"}, 512
    plain = tarfile.TarInfo("plain.jpg")
    path = tmp_path / "x.tar"
    path.write_bytes(
        bytes(header) + bytes(512) + b"s" * 512
        + new.tobuf(tarfile.PAX_FORMAT) + b"s" * 512
        + plain.tobuf() + bytes(1024)
    )  # fmt: skip
    assert [(m.name, m.is_file) for m in walk_tar(path)] == [
        (b"old.jpg", False),
        (b"new.jpg", False),
        (b"plain.jpg", True),
    ]


class TestImageFoldersAsTar:
    def test_parent_folders_are_classes_where_no_sample_has_a_label(self, tmp_path: Path) -> None:
        members = {"set/b/1.JPEG": b"b1", "set/a/1.JPEG": b"a1", "set/b/2.JPEG": b"b2"}
        source = open_tar(write_tar(tmp_path / "x.tar", members))
        assert source.class_names == ("a", "b")
        assert labels(source) == [1, 0, 1]

    def test_folders_named_by_numbers_are_still_classes_in_order_of_names(self, tmp_path: Path) -> None:
        source = open_tar(write_tar(tmp_path / "x.tar", {"9/1.jpg": b"", "10/1.jpg": b""}))
        assert (source.class_names, labels(source)) == (("10", "9"), [1, 0])

    def test_split_folders_inside_are_splits(self, tmp_path: Path) -> None:
        members = {"./set/train/a/1.jpg": b"ta", "./set/val/b/x/1.jpg": b"vb", "./set/train/b/1.jpg": b"tb"}
        source = open_tar(write_tar(tmp_path / "x.tar", members))
        assert list(source.splits) == ["train", "val"]
        assert source.class_names == ("a", "b")
        assert (labels(source), contents(source)) == ([0, 1], [b"ta", b"tb"])
        assert (labels(source, "val"), contents(source, "val")) == ([1], [b"vb"])

    def test_split_folders_inside_are_splits_of_labelled_samples_too(self, tmp_path: Path) -> None:
        members = {"train/1.jpg": b"t", "train/1.cls": 4, "val/1.jpg": b"v", "val/1.cls": 5}
        source = open_tar(write_tar(tmp_path / "x.tar", members))
        assert (labels(source), labels(source, "val")) == ([4], [5])

    def test_a_tar_file_named_after_its_split_may_hold_the_split_folder(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train.tar", {"train/a/1.jpg": b"", "train/b/1.jpg": b""})
        write_tar(tmp_path / "val.tar", {"val/b/1.jpg": b""})
        source = open_tar(tmp_path)
        assert (labels(source), labels(source, "val"), source.class_names) == ([0, 1], [1], ("a", "b"))
        write_tar(tmp_path / "val.tar", {"train/b/1.jpg": b""})
        with pytest.raises(SourceError, match="split val by its name, but holds a folder for train"):
            open_tar(tmp_path)

    def test_images_without_folders_have_no_labels(self, tmp_path: Path) -> None:
        source = open_tar(write_tar(tmp_path / "x.tar", {"1.jpg": b"", "2.jpg": b""}))
        assert (labels(source), source.class_names) == (None, None)

    def test_images_beside_class_folders_are_refused(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "x.tar", {"a/1.jpg": b"", "b/1.jpg": b"", "stray.jpg": b""})
        with pytest.raises(SourceError, match=r"image 'stray.jpg' lies beside class folders"):
            open_tar(path)


class TestSplitsAndPatterns:
    def test_names_of_files_tell_the_split(self, tmp_path: Path) -> None:
        for name in ("train-0.tar", "train-1.tar", "validation_0.tar", "imagenet-test-0.tar"):
            shard(tmp_path / name)
        source = open_tar(tmp_path)
        assert {name: len(split) for name, split in source.splits.items()} == {
            "train": 4,
            "val": 2,
            "test": 2,
        }

    def test_folders_tell_the_split(self, tmp_path: Path) -> None:
        shard(tmp_path / "train/0.tar")
        shard(tmp_path / "val/0.tar", 5)
        source = open_tar(tmp_path)
        assert (labels(source), labels(source, "val")) == ([0, 1], [5, 6])

    def test_string_labels_share_their_classes_between_splits(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train.tar", {"1.jpg": b"", "1.cls": "b"})
        write_tar(tmp_path / "val.tar", {"1.jpg": b"", "1.cls": "a"})
        source = open_tar(tmp_path)
        assert (labels(source), labels(source, "val"), source.class_names) == ([1], [0], ("a", "b"))

    def test_files_of_which_only_some_name_a_split_are_refused(self, tmp_path: Path) -> None:
        shard(tmp_path / "train-0.tar")
        shard(tmp_path / "more.tar")
        with pytest.raises(SourceError, match=r"'train-0.tar' names its split but 'more.tar' does not"):
            open_tar(tmp_path)

    def test_files_beside_split_folders_are_refused(self, tmp_path: Path) -> None:
        shard(tmp_path / "train/0.tar")
        shard(tmp_path / "0.tar")
        with pytest.raises(SourceError, match=r"'0.tar' lies beside split folder 'train'"):
            open_tar(tmp_path)

    def test_braces_and_wildcards_name_files_in_order(self, tmp_path: Path) -> None:
        for number in range(11):
            shard(tmp_path / f"{number:03}.tar", number, 1)
        assert labels(open_tar(f"{tmp_path}/{{001..003}}.tar")) == [1, 2, 3]
        assert labels(open_tar(f"{tmp_path}/{{004,002}}.tar")) == [4, 2]
        assert labels(open_tar(f"{tmp_path}/01*.tar")) == [10]
        assert labels(open_source(f"{tmp_path}/{{009..010}}.tar")) == [9, 10]

    def test_a_missing_file_of_a_pattern_is_named(self, tmp_path: Path) -> None:
        shard(tmp_path / "0.tar")
        with pytest.raises(SourceError, match=r"2 files not found \(first: .*1.tar\)"):
            open_tar(f"{tmp_path}/{{0..2}}.tar")

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("a.tar", ["a.tar"]),
            ("{8..11}", ["8", "9", "10", "11"]),
            ("{08..11}", ["08", "09", "10", "11"]),
            ("{a,b}-{1..2}", ["a-1", "a-2", "b-1", "b-2"]),
            ("{,x}y", ["y", "xy"]),
        ],
    )
    def test_braces_expand_as_in_a_shell(self, pattern: str, names: list[str]) -> None:
        assert expand_braces(pattern) == names

    @pytest.mark.parametrize("pattern", ["{a}", "{}", "{3..1}", "{a..c}"])
    def test_braces_without_range_or_list_are_refused(self, pattern: str) -> None:
        with pytest.raises(SourceError, match="expected braces like"):
            expand_braces(pattern)


class TestDamage:
    def test_a_file_cut_off_anywhere_is_refused_with_its_name(self, tmp_path: Path) -> None:
        whole = shard(tmp_path / "whole.tar", count=3).read_bytes()
        end = next(m.offset for m in walk_tar(tmp_path / "whole.tar") if m.name == b"0002.cls") + 512
        cut = tmp_path / "cut.tar"
        for length in (*range(1, end + 1, 97), end):
            cut.write_bytes(whole[:length])
            with pytest.raises(SourceError, match=r"cut.tar: (truncated|not a tar)"):
                list(walk_tar(cut))
        cut.write_bytes(whole[: end + 512])
        assert len(list(walk_tar(cut))) == 6

    def test_a_truncated_member_is_named_with_its_offset(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "x.tar", {"1.jpg": b"#" * 600, "2.jpg": b"#" * 600})
        path.write_bytes(path.read_bytes()[:2100])
        with pytest.raises(
            SourceError, match=r"x.tar: truncated: member '2.jpg' at offset 1536 should end at"
        ):
            open_tar(path)

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.tuples(st.integers(0, 2**14), st.integers(0, 255)), min_size=1, max_size=3))
    def test_flipped_bytes_end_in_members_or_a_source_error(self, flips: list[tuple[int, int]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            members = {"a/" + "b" * 120 + ".jpg": b"x" * 700, "é.jpg": b"y", "c.cls": b"1"}
            path = write_tar(Path(folder) / "x.tar", members, "pax")
            data = bytearray(path.read_bytes())
            for place, value in flips:
                data[place % 5000] = value
            path.write_bytes(data)
            with contextlib.suppress(SourceError):
                assert all(member.offset + member.size <= len(data) for member in walk_tar(path))

    def test_a_damaged_header_is_named_with_its_offset(self, tmp_path: Path) -> None:
        path = shard(tmp_path / "x.tar")
        data = bytearray(path.read_bytes())
        data[1024 + 5] ^= 1
        path.write_bytes(data)
        with pytest.raises(SourceError, match=r"x.tar: damaged: no header at offset 1024"):
            open_tar(path)

    @pytest.mark.parametrize("content", [b"text, not tar\n" * 99, b"", b"x"])
    def test_other_files_are_no_tar_files(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(SourceError, match=r"x.tar: (not a tar file|expected a tar file|truncated)"):
            open_tar(tmp_path / "x.tar")

    def test_a_compressed_tar_file_says_to_decompress_it(self, tmp_path: Path) -> None:
        data = shard(tmp_path / "x.tar").read_bytes()
        for name in ("x.tar.gz", "x.tgz", "x.tar"):
            (tmp_path / name).write_bytes(gzip.compress(data))
            with pytest.raises(SourceError, match=r"compressed .*decompress it first"):
                open_source(tmp_path / name)

    def test_tar_files_put_one_behind_the_other_are_refused(self, tmp_path: Path) -> None:
        path = shard(tmp_path / "x.tar")
        path.write_bytes(path.read_bytes() * 2)
        with pytest.raises(SourceError, match=r"x.tar: holds more after its end mark at offset"):
            open_tar(path)

    def test_a_pax_header_that_leads_nowhere_is_refused(self, tmp_path: Path) -> None:
        info = tarfile.TarInfo("x")
        info.type = tarfile.XHDTYPE
        for record in (b"0 path=x\n", b"99 path=x\n", b"path=x\n", b"9 path=xx", b"8 size=x\n", b"5 xx\n"):
            info.size = len(record)
            (tmp_path / "x.tar").write_bytes(info.tobuf() + record.ljust(512, b"\0") + bytes(1024))
            with pytest.raises(SourceError, match="no pax record at offset 512"):
                list(walk_tar(tmp_path / "x.tar"))

    def test_a_tar_file_that_shrank_gives_bad_samples(self, tmp_path: Path) -> None:
        path = shard(tmp_path / "x.tar")
        request = open_tar(path).splits["train"].request(0, 2)
        os.truncate(path, 1024 + 512)
        first, second = request.read()
        assert first == b"image 0"
        assert "ends within the sample" in str(second)
        path.unlink()
        assert all("No such file" in str(error) for error in request.read())

    def test_a_tar_file_without_images_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="no images in the tar files of split train"):
            open_tar(write_tar(tmp_path / "x.tar", {"a.txt": b""}))


def test_requests_survive_pickling_and_cross_shards(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"{number}.tar", 2 * number)
    request = pickle.loads(pickle.dumps(open_tar(tmp_path).splits["train"].request(1, 5)))
    assert request.read() == [b"image 1", b"image 2", b"image 3", b"image 4"]
    assert len(request.paths) == 3


def test_the_fingerprint_follows_the_listing(tmp_path: Path) -> None:
    prints = set()
    for members in ({"1.jpg": b"x"}, {"2.jpg": b"x"}, {"1.jpg": b"xx"}, {"1.jpg": b"x", "1.cls": 1}):
        path = write_tar(tmp_path / "x.tar", members)
        prints.add(open_tar(path).splits["train"].fingerprint())
        assert open_tar(path).splits["train"].fingerprint() in prints
    assert len(prints) == 4


@pytest.mark.skipif(not (DATA / "imagenet-sample.tar").exists(), reason="the sample of ImageNet is not there")
def test_a_real_image_folder_in_a_tar_file_reads_as_tarfile_reads_it() -> None:
    source = open_tar(DATA / "imagenet-sample.tar")
    split = source.splits["train"]
    assert len(split) == len(source.class_names or ()) == 500
    assert np.array_equal(np.unique(split.labels(0, 500)), np.arange(500))
    with tarfile.open(DATA / "imagenet-sample.tar") as tar:
        expected = [tar.extractfile(member).read() for member in tar.getmembers()[:20]]
    assert split.request(0, 20).read() == expected
