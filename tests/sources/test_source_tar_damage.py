"""Damaged tar files: an error that names the place, or a bad sample, and never a wrong image."""

from __future__ import annotations

import contextlib
import gzip
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from helpers.tar_files import shard, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.errors import SourceChangedError, SourceError
from tokenstore.sources import open_source
from tokenstore.sources.files import LocalFile
from tokenstore.sources.tar import open_tar
from tokenstore.sources.tar_headers import walk_tar

ENDLESS = b"5012 size=" + b"1" * 5_001 + b"\n"
"""A pax record whose number has more digits than Python parses."""


class TestDamage:
    def test_a_file_cut_off_anywhere_is_refused_with_its_name(self, tmp_path: Path) -> None:
        whole = shard(tmp_path / "whole.tar", count=3).read_bytes()
        end = (
            next(m.offset for m in walk_tar(LocalFile.of(tmp_path / "whole.tar")) if m.name == b"0002.cls")
            + 512
        )
        cut = tmp_path / "cut.tar"
        for length in (*range(1, end + 1, 97), end):
            cut.write_bytes(whole[:length])
            with pytest.raises(SourceError, match=r"cut.tar: (truncated|not a tar)"):
                list(walk_tar(LocalFile.of(cut)))
        cut.write_bytes(whole[: end + 512])
        assert len(list(walk_tar(LocalFile.of(cut)))) == 6

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
                assert all(
                    member.offset + member.size <= len(data) for member in walk_tar(LocalFile.of(path))
                )

    def test_a_damaged_header_is_named_with_its_offset(self, tmp_path: Path) -> None:
        path = shard(tmp_path / "x.tar")
        data = bytearray(path.read_bytes())
        data[1024 + 5] ^= 1
        path.write_bytes(data)
        with pytest.raises(SourceError, match=r"x.tar: damaged: no header at offset 1024"):
            open_tar(path)

    @pytest.mark.parametrize(
        "field", [b"-0000001000\0", b"000_0001000\0", b"+0000001000\0", b"00000001008\0"]
    )
    def test_a_size_that_is_not_octal_digits_is_refused(self, tmp_path: Path, field: bytes) -> None:
        header = bytearray(tarfile.TarInfo("1.jpg").tobuf())
        header[124:136] = field
        header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
        (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(2048))
        with pytest.raises(SourceError, match=r"x.tar: damaged: .* is no size, at offset 0"):
            open_tar(tmp_path / "x.tar")

    @pytest.mark.parametrize("field", [b"009999\0 ", b"-07777\0 ", b"0_0777\0 "])
    def test_a_checksum_that_is_not_octal_digits_is_refused(self, tmp_path: Path, field: bytes) -> None:
        header = bytearray(tarfile.TarInfo("1.jpg").tobuf())
        header[148:156] = field
        (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(2048))
        with pytest.raises(SourceError, match=r"x.tar: not a tar file: no header at offset 0"):
            open_tar(tmp_path / "x.tar")

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
        for record in (
            b"0 path=x\n",
            b"99 path=x\n",
            b"path=x\n",
            b"9 path=xx",
            b"8 size=x\n",
            b"5 xx\n",
            ENDLESS,
        ):
            info.size = len(record)
            (tmp_path / "x.tar").write_bytes(info.tobuf() + record.ljust(5_120, b"\0") + bytes(1024))
            with pytest.raises(SourceError, match="no pax record at offset 512"):
                list(walk_tar(LocalFile.of(tmp_path / "x.tar")))

    def test_a_tar_file_that_shrank_is_another_one_and_one_that_went_gives_bad_samples(
        self, tmp_path: Path
    ) -> None:
        path = shard(tmp_path / "x.tar")
        request = open_tar(path).splits["train"].request(0, 2)
        os.truncate(path, 1024 + 512)
        with pytest.raises(SourceChangedError, match=r"x\.tar: was replaced after it was listed"):
            request.read()
        path.unlink()
        assert all("No such file" in str(error) for error in request.read())

    def test_a_tar_file_without_images_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="no images in the tar files of split train"):
            open_tar(write_tar(tmp_path / "x.tar", {"a.txt": b""}))
