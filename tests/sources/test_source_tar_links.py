"""Links in tar files are followed inside the file, and nowhere else."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from helpers.image_sources import contents, labels, listed
from helpers.tar_files import FORMATS

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.tar import open_tar

LONG = "folder/" * 30
Link = tuple[str, bytes, str]


def linked(path: Path, files: dict[str, bytes], links: list[Link], format: str = "gnu") -> Path:
    """Write a tar file of files, then links (name, type, target)."""
    with tarfile.open(path, "w", format=FORMATS[format]) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return path


def test_hard_links_as_gnu_tar_writes_them_are_images(tmp_path: Path) -> None:
    for name, content in (("a/0.jpg", b"zero"), ("b/1.jpg", b"one")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    os.link(tmp_path / "a/0.jpg", tmp_path / "b/0.jpg")
    (tmp_path / "b/2.jpg").symlink_to("../a/0.jpg")
    subprocess.run(["tar", "cf", "x.tar", "--sort=name", "a", "b"], cwd=tmp_path, check=True)
    source = open_tar(tmp_path / "x.tar")
    assert listed(source) == {"train": [f"x.tar/{name}.jpg" for name in ("a/0", "b/0", "b/1", "b/2")]}
    assert contents(source) == [b"zero", b"zero", b"one", b"zero"]
    assert (labels(source), source.notes) == ([0, 1, 1, 1], ())


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_links_are_followed_over_several_steps_and_long_names(tmp_path: Path, format: str) -> None:
    files = {f"{LONG}0.jpg": b"zero", f"{LONG}0.cls": b"5"}
    links = [
        (f"{LONG}1.jpg", tarfile.SYMTYPE, "../folder/0.jpg"),
        (f"{LONG}1.cls", tarfile.LNKTYPE, f"{LONG}0.cls"),
        (f"{LONG}2.jpg", tarfile.SYMTYPE, "3.jpg"),
        (f"{LONG}2.cls", tarfile.SYMTYPE, "./0.cls"),
        (f"{LONG}3.jpg", tarfile.LNKTYPE, f"./{LONG}1.jpg"),
        (f"{LONG}3.cls", tarfile.SYMTYPE, "2.cls"),
    ]
    source = open_tar(linked(tmp_path / "x.tar", files, links, format))
    assert contents(source) == [b"zero"] * 4
    assert labels(source) == [5] * 4


@pytest.mark.parametrize(
    "target", ["../../../../../../../../etc/hostname", "/etc/hostname", "secret.jpg", "1.jpg", "", "0"]
)
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_that_leads_to_no_file_of_the_tar_file_is_a_bad_sample(
    tmp_path: Path, kind: bytes, target: str
) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    source = open_tar(linked(tmp_path / "x.tar", {"0.jpg": b"zero"}, [("1.jpg", kind, target)]))
    assert listed(source) == {"train": ["x.tar/0.jpg", "x.tar/1.jpg"]}
    good, bad = contents(source)
    assert good == b"zero"
    assert isinstance(bad, SampleError)
    assert "a link that leads to no file inside" in str(bad)


def test_a_label_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    path = linked(tmp_path / "x.tar", {"0.jpg": b"zero"}, [("0.cls", tarfile.SYMTYPE, "/etc/hostname")])
    with pytest.raises(SourceError, match=r"x.tar: 0.cls: expected a label .* found a link to no file"):
        open_tar(path)


def test_other_links_that_lead_nowhere_are_noted(tmp_path: Path) -> None:
    links = [("readme", tarfile.SYMTYPE, "elsewhere"), ("more", tarfile.SYMTYPE, "more")]
    source = open_tar(linked(tmp_path / "x.tar", {"0.jpg": b"zero"}, links))
    assert source.notes == ("members skipped, as they are links, devices or sparse files: 2 (first: more)",)


def test_thousands_of_links_in_a_row_take_no_time(tmp_path: Path) -> None:
    links = [(f"{number}.jpg", tarfile.SYMTYPE, f"{number + 1}.jpg") for number in range(3_000)]
    path = linked(tmp_path / "x.tar", {"start.jpg": b""}, links)
    began = time.process_time()
    source = open_tar(path)
    assert time.process_time() - began < 5
    assert len(source.splits["train"]) == 3_001
