"""Labels of tar files under other names than KEY.cls, and whatever is left out, are found or said."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from helpers.image_sources import contents, labels, listed
from helpers.tar_files import write_tar

from tokenstore.errors import SourceError
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource
from tokenstore.sources.tar import open_tar
from tokenstore.sources.tar_groups import samples_of_group
from tokenstore.sources.tar_headers import Member


def opened(tmp_path: Path, members: dict[str, bytes | str | int]) -> ImageSource:
    return open_tar(write_tar(tmp_path / "x.tar", members))


class TestLabelsByOtherNames:
    @pytest.mark.parametrize(
        ("image", "label"),
        [
            ("clip{0}_v1.{0}.jpg", "clip{0}_v1.{0}.cls"),
            ("{0}.rgb.jpg", "{0}.rgb.cls"),
            ("{0}.jpg", "{0}.jpg.cls"),
            ("{0}.rgb.jpg", "{0}.rgb.jpg.cls"),
            ("{0}.jpg", "{0}.label"),
            ("{0}.jpg", "{0}.class"),
            ("{0}.jpg", "{0}.cls.txt"),
            ("v1.{0}.jpg", "v1.{0}.cls"),
            ("2023-01-31 12.{0}.png", "2023-01-31 12.{0}.class"),
        ],
    )
    def test_a_label_that_can_only_be_this_images_is_read_and_noted(
        self, tmp_path: Path, image: str, label: str
    ) -> None:
        members = {}
        for number in (5, 3):
            members |= {image.format(number): b"image %d" % number, label.format(number): number}
        source = opened(tmp_path, members)
        assert (labels(source), contents(source)) == ([5, 3], [b"image 5", b"image 3"])
        first = min(label.format(number) for number in (5, 3))
        note = f"labels read from members that are not named KEY.cls or KEY.json: 2 (first: {first})"
        assert note in source.notes
        assert source.unused_labels == ()

    def test_a_json_of_the_images_own_name_is_read(self, tmp_path: Path) -> None:
        source = opened(tmp_path, {"0.rgb.jpg": b"", "0.rgb.json": '{"label": 4}'})
        assert labels(source) == [4]

    def test_the_plain_cls_goes_before_other_names(self, tmp_path: Path) -> None:
        source = opened(tmp_path, {"0.rgb.jpg": b"", "0.rgb.cls": 1, "0.cls": 2, "0.label": 3})
        assert labels(source) == [2]
        assert source.unused_labels[0].startswith(
            "not used, though they look like labels: .label: 1 (first: 0.label); .rgb.cls: 1 (first: 0.rgb"
        )

    def test_images_of_one_key_that_only_numbers_tell_apart_are_samples(self, tmp_path: Path) -> None:
        source = opened(tmp_path, {"v1.0.jpg": b"a", "v1.1.jpg": b"b", "v1.1.png": b"c", "v2.jpg": b"d"})
        assert listed(source) == {"train": ["x.tar/v1.0.jpg", "x.tar/v1.1.jpg", "x.tar/v2.jpg"]}
        assert source.notes == (
            "images skipped, as their samples have one that goes before: 1 (first: v1.1.png)",
            "images of one key taken as samples of their own, as their names differ: 2 (first: v1.0.jpg)",
        )

    def test_images_of_one_key_with_labels_of_their_own_are_samples(self, tmp_path: Path) -> None:
        members = {"1.left.png": b"l", "1.left.cls": 0, "1.right.png": b"r", "1.right.cls": 1}
        source = opened(tmp_path, members)
        assert (labels(source), contents(source)) == ([0, 1], [b"l", b"r"])

    def test_one_label_for_several_images_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"sample 'v1': expected one image, found .0.jpg and .1.jpg"):
            opened(tmp_path, {"v1.0.jpg": b"", "v1.1.jpg": b"", "v1.cls": 1})

    def test_one_image_without_its_label_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"without a label: 1 \(first: v1.1.jpg\)"):
            opened(tmp_path, {"v1.0.jpg": b"", "v1.0.cls": 1, "v1.1.jpg": b""})


class TestLabelsInJson:
    @pytest.mark.parametrize(("value", "label"), [("3.0", 3), ("[3]", 3), ("[3.0]", 3), ('"3.0"', 3)])
    def test_a_number_that_is_whole_is_a_label(self, tmp_path: Path, value: str, label: int) -> None:
        source = opened(tmp_path, {"0.jpg": b"", "0.json": f'{{"label": {value}}}'})
        assert (labels(source), source.class_names) == ([label], None)

    @pytest.mark.parametrize(("value", "kind"), [("null", "null"), ("[1, 2]", "a list")])
    def test_null_and_lists_are_no_labels_and_noted(self, tmp_path: Path, value: str, kind: str) -> None:
        source = opened(tmp_path, {"0.jpg": b"", "0.json": f'{{"label": {value}}}'})
        assert labels(source) is None
        assert len(source.unused_labels) == 1
        assert f"label in .json that is {kind}: 1 (first: 0.json)" in source.unused_labels[0]
        assert source.notes == ()

    def test_null_among_labels_is_refused_and_named(self, tmp_path: Path) -> None:
        members = {"0.jpg": b"", "0.json": '{"label": null}', "1.jpg": b"", "1.json": '{"label": 1}'}
        with pytest.raises(
            SourceError, match=r"without a label: 1 .first: 0.jpg.*label in .json that is null"
        ):
            opened(tmp_path, members)

    @pytest.mark.parametrize(
        "text",
        ["[" * 10_000, '{"label": ' + "[" * 10_000, '{"label": "\\ud800"}', '{"label": ' + "9" * 5_000],
    )
    def test_hostile_json_is_refused(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(SourceError, match=r"x.tar: 0.json: (expected JSON|the label)"):
            opened(tmp_path, {"0.jpg": b"", "0.json": text})

    def test_a_label_of_thousands_of_digits_is_refused(self, tmp_path: Path) -> None:
        for name, text in (("0.cls", "9" * 5_000), ("0.json", json.dumps({"label": 10**4_000}))):
            with pytest.raises(SourceError, match=r"expected labels 0..2147483647, found a number of"):
                opened(tmp_path, {"0.jpg": b"", name: text})


class TestWhatIsNotStored:
    @pytest.mark.parametrize(
        ("member", "content", "said"),
        [
            ("0.fine.cls", "7", ".fine.cls: 1 (first: 0.fine.cls)"),
            ("0.target", "7", ".target: 1 (first: 0.target)"),
            ("0.label.npy", "7", ".label.npy: 1 (first: 0.label.npy)"),
            ("0.txt", " 7\n", "numbers in .txt: 1 (first: 0.txt)"),
            ("0.json", '{"fine_label": 7}', "fine_label in .json: 1 (first: 0.json)"),
        ],
    )
    def test_what_looks_like_labels_is_said_with_how_to_use_it(
        self, tmp_path: Path, member: str, content: str, said: str
    ) -> None:
        source = opened(tmp_path, {"0.jpg": b"", member: content})
        assert labels(source) is None
        assert source.unused_labels == (
            f"not used, though they look like labels: {said}. A sample has one label, the text of KEY.cls or "
            "label in KEY.json: rename what should be used",
        )

    @pytest.mark.parametrize("name", ["labels/0.cls", "labels.csv", "train_classes.txt"])
    def test_labels_apart_from_their_images_are_said(self, tmp_path: Path, name: str) -> None:
        source = opened(tmp_path, {"images/0.jpg": b"", name: "7", "readme.txt": ""})
        said = f"members with no image of their key: 1 (first: {name})"
        assert labels(source) is None
        assert said in source.unused_labels[0]
        assert "members skipped, as no image goes with them: 1 (first: readme.txt)" in source.notes

    def test_no_labels_stores_images_whose_labels_cannot_be_used(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "x.tar", {"a/0.jpg": b"", "a/0.cls": 1, "b/1.jpg": b"", "b/1.json": "{"})
        with pytest.raises(SourceError, match="expected JSON"):
            open_source(path)
        source = open_source(path, no_labels=True)
        assert (labels(source), source.class_names, source.unused_labels) == (None, None, ())
        path = write_tar(tmp_path / "x.tar", {"a/0.jpg": b"", "a/0.cls": 1, "b/1.jpg": b""})
        with pytest.raises(SourceError, match="no_labels=True") as caught:
            open_source(path)
        assert [parameter.name for parameter in caught.value.parameters] == ["no_labels"]

    def test_captions_and_other_fields_are_said(self, tmp_path: Path) -> None:
        members: dict[str, bytes | str | int] = {}
        for number in range(3):
            members[f"{number}.jpg"] = b""
            members[f"{number}.json"] = json.dumps({"label": number, "url": "x", "caption": "a"})
            members[f"{number}.txt"] = "a dog"
        source = opened(tmp_path, members)
        assert labels(source) == [0, 1, 2]
        assert source.notes == (
            "members beside images that are not stored: .txt: 3 (first: 0.txt)",
            "fields of JSON members that are not stored: caption in .json: 3 (first: 0.json); "
            "url in .json: 3 (first: 0.json)",
        )

    def test_a_note_stays_short_whatever_the_members_are_called(self, tmp_path: Path) -> None:
        members = {"0.jpg": b"", **{f"0.x{number}": b"" for number in range(300)}}
        (note,) = opened(tmp_path, members).notes
        assert ": others: 200 (first: " in note
        assert len(note) < 400


def test_thousands_of_images_of_one_key_are_listed_in_time_that_grows_with_them() -> None:
    member = Member(b"", 0, 0, True, False)
    group = {f"{number:06}.{ending}": member for number in range(20_000) for ending in ("jpg", "cls")}
    began = time.process_time()
    samples, _ = samples_of_group(group, b"frame", Path("x.tar"))
    assert time.process_time() - began < 5  # a comparison of each with each takes ten minutes
    assert [sample.labels for sample in samples[:2]] == [["000000.cls"], ["000001.cls"]]
