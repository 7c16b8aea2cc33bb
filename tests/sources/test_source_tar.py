"""Tar files of images: the walk over headers, samples and their labels."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.image_sources import contents, labels, listed
from helpers.paths import SHARED
from helpers.tar_files import FORMATS, shard, write_tar

from tokenstore.errors import SourceError
from tokenstore.sources.files import LocalFile
from tokenstore.sources.tar import open_tar
from tokenstore.sources.tar_headers import walk_tar

DATA = SHARED / "data"


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
    assert [(m.name, m.offset, m.size, m.is_file) for m in walk_tar(LocalFile.of(path))] == expected


def test_the_walk_reads_sizes_in_base_256_and_pax_sizes(tmp_path: Path) -> None:
    info = tarfile.TarInfo("big.jpg")
    info.size = 700
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (700).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
    big = tmp_path / "big.tar"
    big.write_bytes(bytes(header) + bytes(1024) + bytes(1024))
    assert [(m.name, m.size) for m in walk_tar(LocalFile.of(big))] == [(b"big.jpg", 700)]
    info.pax_headers = {"size": "700", "comment": "a = b"}
    info.size = 0
    pax = tmp_path / "pax.tar"
    pax.write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024) + bytes(1024))
    assert [(m.name, m.size) for m in walk_tar(LocalFile.of(pax))] == [(b"big.jpg", 700)]


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


@pytest.mark.parametrize("value", ["1.5", "NaN", "[true]", "true", "{}"])
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
    assert source.notes == ("members beside images that are not stored: .png: 1 (first: v1.0/a.seg.png)",)


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


def test_devices_and_folders_named_like_images_are_passed_over_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"))
        for name, kind in [("2.jpg", tarfile.CHRTYPE), ("3.jpg", tarfile.FIFOTYPE)]:
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    source = open_tar(path)
    assert listed(source) == {"train": ["x.tar/1.jpg"]}
    assert source.notes == ("members skipped, as they are links, devices or sparse files: 2 (first: 2.jpg)",)


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
    assert [(m.name, m.is_file) for m in walk_tar(LocalFile.of(path))] == [
        (b"old.jpg", False),
        (b"new.jpg", False),
        (b"plain.jpg", True),
    ]


def test_requests_survive_pickling_and_cross_shards(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"{number}.tar", 2 * number)
    request = pickle.loads(pickle.dumps(open_tar(tmp_path).splits["train"].request(1, 5)))
    assert request.read() == [b"image 1", b"image 2", b"image 3", b"image 4"]
    assert len(request.files) == 3


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
