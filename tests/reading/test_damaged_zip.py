"""Damaged stores in zip files: verification names what is wrong, and no reader returns a wrong code."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import zipfile
from pathlib import Path

import fsspec
import pytest
from helpers.damaged_stores import SAMPLES, samples_read, verified, write
from helpers.mutations import mutated, survive
from helpers.zip_files import with_far_header

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.errors import DamageError, NotAStoreError
from tokenstore.storage import open_storage


@pytest.fixture(scope="module")
def intact_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store in a zip file that tests only read."""
    return write(tmp_path_factory.mktemp("intact") / "store.zip")


@pytest.fixture
def packed(intact_zip: Path, tmp_path: Path) -> Path:
    """Copy the store in a zip file, to be damaged."""
    return Path(shutil.copy(intact_zip, tmp_path / "store.zip"))


@pytest.mark.thorough
def test_a_flipped_bit_of_a_zip_file_never_gives_a_wrong_code(packed: Path) -> None:
    """Dates and flags of a zip file say nothing about its files: a change there may go unnoticed."""
    rng = random.Random(0)
    data = packed.read_bytes()
    for _ in range(200):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        packed.write_bytes(changed)
        if verified(packed).ok:
            assert samples_read(packed) == sum(SAMPLES.values())
        else:
            samples_read(packed)


def test_a_flipped_bit_of_a_file_in_a_zip_file_is_found(packed: Path) -> None:
    rng = random.Random(1)
    data = packed.read_bytes()
    with zipfile.ZipFile(packed) as members:
        infos = members.infolist()
    for info in infos:
        header = data[info.header_offset : info.header_offset + 30]
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        changed = bytearray(data)
        changed[start + rng.randrange(info.file_size)] ^= 1 << rng.randrange(8)
        packed.write_bytes(changed)
        assert any(info.filename in problem for problem in verified(packed).problems), info.filename
        samples_read(packed)


def test_a_cut_zip_file_is_found(packed: Path) -> None:
    data = packed.read_bytes()
    for length in [*range(0, len(data), 499), len(data) - 1]:
        packed.write_bytes(data[:length])
        (problem,) = verify(packed).problems
        assert "not a whole zip file" in problem
        with pytest.raises(DamageError, match="not a whole zip file"):
            tokenstore.open(packed)


@pytest.mark.parametrize("flips", [30, pytest.param(200, marks=pytest.mark.thorough)])
def test_a_zip_file_with_deflated_members_is_read_and_its_damage_found(packed: Path, flips: int) -> None:
    """Not as tokenstore packs it, but as somebody might."""
    with zipfile.ZipFile(packed) as members:
        contents = {name: members.read(name) for name in members.namelist()}
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as members:
        for name, data in contents.items():
            members.writestr(name, data)
    assert verify(packed).ok
    assert samples_read(packed) == sum(SAMPLES.values())
    rng = random.Random(2)
    data = packed.read_bytes()
    for _ in range(flips):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        packed.write_bytes(changed)
        verified(packed)
        samples_read(packed)


@pytest.mark.parametrize("remote", [False, True])
def test_a_zip_file_of_a_stores_folder_names_the_folder(
    intact_zip: Path, tmp_path: Path, remote: bool
) -> None:
    """`zip -r photos.zip photos.zarr` puts the folder into the zip file, not what is in it."""
    shutil.unpack_archive(intact_zip, tmp_path / "data/photos.zarr")
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path, "data")
    url: Path | str = tmp_path / "photos.zip"
    if remote:
        url = "memory://zipped-folder/photos.zip"
        fsspec.filesystem("memory").pipe("/zipped-folder/photos.zip", (tmp_path / "photos.zip").read_bytes())
    with pytest.raises(
        NotAStoreError, match=r"no zarr.json at the top .* but one in its folder 'data/photos.zarr'"
    ):
        tokenstore.open(url)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as empty:
        empty.writestr("readme.txt", "")
    with pytest.raises(NotAStoreError, match=r"expected a token store, found no zarr.json in it"):
        tokenstore.open(tmp_path / "photos.zip")


def store_of_zip_members(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as opened:
        for name in ("zarr.json", "train/c/0", "x"):
            opened.writestr(name, bytes(range(256)) * 3)
    return file.getvalue()


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ZIP_FILES = [store_of_zip_members(method) for method in METHODS]
ZIP_FILES += [with_far_header(ZIP_FILES[0])]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seeds", [range(500), pytest.param(range(20_000), marks=pytest.mark.slow)])
def test_fuzzing_zip_files(tmp_path: Path, seeds: range) -> None:
    def read(data: object) -> None:
        assert isinstance(data, bytes)
        (tmp_path / "x.zip").write_bytes(data)
        storage = open_storage(str(tmp_path / "x.zip"))
        for path in storage.files():
            opened = storage.open_file(path)
            if opened is not None:
                os.close(opened[0])
            storage.read_range(path, 1, 5)
            storage.size(path)
            assert storage.read(path) == b"".join(storage.blocks(path))

    with pytest.raises(DamageError):
        read(ZIP_FILES[-1])
    survive(lambda rng: mutated(rng.choice(ZIP_FILES), rng), read, DamageError, seeds)
