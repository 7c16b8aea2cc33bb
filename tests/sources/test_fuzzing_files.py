"""Mutated tar files, arrays and SeiT files are read or refused with a SourceError, at once.

20,000 mutations of each kind: python -m pytest -m slow tests/sources -k fuzzing
"""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.mutations import mutated, survive
from helpers.url_sources import outcomes

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.arrays import open_arrays
from tokenstore.sources.base import Source
from tokenstore.sources.seit import DATA_ENDING, open_seit
from tokenstore.sources.tar import open_tar

pytestmark = pytest.mark.filterwarnings("ignore")
SEEDS = [range(200), pytest.param(range(20_000), marks=pytest.mark.slow, id="20,000")]
CODES = np.random.default_rng(0).integers(0, 200, (5, 4, 4)).astype(np.int16)


def read_all(source: Source) -> None:
    """Read whatever a conversion reads of a source."""
    for split in source.splits.values():
        count = len(split)
        split.fingerprint()
        split.labels(0, count)
        assert len(split.names(0, count)) == count
        if hasattr(split, "request"):
            images = split.request(0, count).read()
            assert all(isinstance(image, bytes | SampleError) for image in images)
        else:
            split.codes(0, count)
            for name in split.columns:
                split.column(name, 0, count)


def tar_file(format: int) -> bytes:
    """Return a tar file with every sort of member."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        members = {"0.jpg": b"image", "0.cls": b"1", "1.jpg": b"image", "1.json": b'{"label": 2, "a": [1.0]}'}
        members |= {"v1.0.jpg": b"image", "v1.0.cls": b"3", "v1.1.jpg": b"image", "v1.1.cls": b"4"}
        members |= {"l" * (120 if format != tarfile.USTAR_FORMAT else 9) + ".jpg": b"image" * 200}
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        label = tarfile.TarInfo("l" * (120 if format != tarfile.USTAR_FORMAT else 9) + ".cls")
        label.type, label.linkname = tarfile.LNKTYPE, "0.cls"
        tar.addfile(label)
        for name, kind, target in (("x.jpg", b"1", "0.jpg"), ("x.cls", b"2", "./0.cls")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return file.getvalue()


TARS = [tar_file(format) for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)]


def mutated_tar(rng: random.Random) -> bytes:
    """Return a mutated tar file, in half of all cases with right checksums of the headers."""
    data = bytearray(mutated(rng.choice(TARS), rng))
    if rng.random() < 0.5:
        for start in range(0, len(data) - 511, 512):
            header = data[start : start + 512]
            if header[257:262] == b"ustar":
                total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
                data[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(data)


@pytest.mark.parametrize("seeds", SEEDS)
def test_fuzzing_tar_files(tmp_path: Path, seeds: range) -> None:
    path = tmp_path / "x.tar"

    def read(content: object) -> None:
        assert isinstance(content, bytes)
        path.write_bytes(content)
        read_all(open_tar(path))

    path.write_bytes(TARS[0])
    read_all(open_tar(path))
    refused = survive(mutated_tar, read, SourceError, seeds)
    assert 0.2 * len(seeds) < refused < 0.95 * len(seeds)


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(2_000), marks=pytest.mark.slow, id="2,000")])
def test_fuzzing_tar_files_at_a_url_gives_what_it_gives_locally(tmp_path: Path, seeds: range) -> None:
    path = tmp_path / "x.tar"
    for seed in seeds:
        path.write_bytes(mutated_tar(random.Random(seed)))
        local, remote = outcomes(path, "tar")
        assert local == remote, seed


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ARRAYS = {
    "tokens.npy": npy_bytes(CODES),
    "labels.npy": npy_bytes(np.arange(5)),
    "class_names.npy": npy_bytes(np.array(list("abcde"))),
    "codebook.npy": npy_bytes(np.zeros((200, 2), np.float32)),
    "scores.npy": npy_bytes(np.zeros((5, 3), ">f4")),
}


def archive(members: dict[str, bytes], method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return file.getvalue()


def mutated_header(array: bytes, rng: random.Random) -> bytes:
    """Return a `.npy` file whose header alone is mutated, of the right length or not."""
    length = struct.unpack("<H", array[8:10])[0]
    header = mutated(array[10 : 10 + length], rng)
    if rng.random() < 0.8:
        return array[:8] + struct.pack("<H", len(header)) + header + array[10 + length :]
    return array[:10] + header + array[10 + length :]


def mutated_arrays(rng: random.Random) -> tuple[str, bytes]:
    """Return the ending and the content of a mutated `.npy` or `.npz` file."""
    name = rng.choice(list(ARRAYS))
    way = rng.randrange(4)
    if way == 0:
        return "npy", mutated_header(ARRAYS["tokens.npy"], rng)
    if way == 1:
        return "npy", mutated(ARRAYS["tokens.npy"], rng)
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    if way == 2:
        change = rng.choice((mutated, mutated_header))
        return "npz", archive(ARRAYS | {name: change(ARRAYS[name], rng)}, method)
    return "npz", mutated(archive(ARRAYS, method), rng)


@pytest.mark.parametrize("seeds", SEEDS)
def test_fuzzing_arrays(tmp_path: Path, seeds: range) -> None:
    def read(content: object) -> None:
        assert isinstance(content, tuple)
        path = tmp_path / f"x.{content[0]}"
        path.write_bytes(content[1])
        read_all(open_arrays(path))

    read(("npz", archive(ARRAYS, zipfile.ZIP_DEFLATED)))
    refused = survive(mutated_arrays, read, SourceError, seeds)
    assert 0.3 * len(seeds) < refused < 0.99 * len(seeds)


SAMPLES = [bytes(1000) + b"\xff\x07" * 24, bytes(range(254)) * 4 + bytes(8)]
SEIT = {
    f"t-train{DATA_ENDING}": b"".join(SAMPLES),
    "t-train-token.index.npy.gz": npy_bytes(np.cumsum([0, *map(len, SAMPLES)])),
    "t-train-label.txt": b"3\n1\n",
    "synonyms.json": json.dumps({str(code): [(code + 1) % 300, 0] for code in range(300)}).encode(),
}


def stored(name: str, content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0) if name.endswith(".gz") else content


def mutated_seit(rng: random.Random) -> tuple[str, bytes]:
    """Return the name and the content of a file of the release that is mutated before or after packing."""
    name = rng.choice(list(SEIT))
    if rng.random() < 0.5:
        return name, mutated(stored(name, SEIT[name]), rng)
    change = mutated_header if ".npy" in name and rng.random() < 0.5 else mutated
    return name, stored(name, change(SEIT[name], rng))


@pytest.mark.parametrize("seeds", SEEDS)
def test_fuzzing_seit_files(tmp_path: Path, seeds: range) -> None:
    whole = {name: stored(name, content) for name, content in SEIT.items()}
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    read_all(open_seit(tmp_path))

    def read(content: object) -> None:
        assert isinstance(content, tuple)
        name, changed = content
        (tmp_path / name).write_bytes(changed)
        try:
            read_all(open_seit(tmp_path))
        finally:
            (tmp_path / name).write_bytes(whole[name])

    refused = survive(mutated_seit, read, SourceError, seeds)
    assert 0.3 * len(seeds) < refused < 0.99 * len(seeds)
