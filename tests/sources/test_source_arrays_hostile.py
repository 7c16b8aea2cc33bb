"""Arrays and SeiT files with impossible sizes, bombs and odd headers end in one SourceError, at once."""

from __future__ import annotations

import ast
import contextlib
import gzip
import io
import json
import math
import resource
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.zip_files import with_far_header

from tokenstore.errors import SourceError
from tokenstore.sources.arrays import open_arrays
from tokenstore.sources.seit import open_seit

CODES = np.arange(32, dtype=np.uint8).reshape(4, 8)
ZEROS = 2**29


def npy_bytes(header: str, data: bytes = b"") -> bytes:
    """Return a `.npy` file of any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def header(descr: str = "'|u1'", shape: str = "(4, 8)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def packed(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def deflated(start: bytes, zeros: int) -> tuple[bytes, int]:
    """Return some bytes and then zeros (a multiple of 1 MB) as deflated data, and the number of them all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    before = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return before + block * (zeros >> 20) + packer.flush(), len(start) + zeros


def write_zip(path: Path, members: dict[str, tuple[bytes, int]]) -> None:
    """Write a zip file of data that is deflated already."""
    files, directory = b"", b""
    for name, (data, size) in members.items():
        crc = zlib.crc32(zlib.decompress(data, -15)) if size < 2**20 else 0
        fields = struct.pack("<HHHIIIIHH", 20, 0, 8, 0, crc, len(data), size, len(name), 0)
        directory += (
            b"PK\x01\x02\x14\x00" + fields + bytes(10) + struct.pack("<I", len(files)) + name.encode()
        )
        files += b"PK\x03\x04" + fields + name.encode() + data
    counts = struct.pack("<HHIIH", len(members), len(members), len(directory), len(files), 0)
    path.write_bytes(files + directory + b"PK\x05\x06" + bytes(4) + counts)


@contextlib.contextmanager
def little_memory(nbytes: int = 2**28) -> Iterator[None]:
    """Allow the block little more memory than the process has."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + nbytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


HEADERS = {
    "negative": header(shape="(-4, -8)"),
    "boolean": header(shape="(True, 32)"),
    "deep": header(shape="(" * 5000),
    "signs": header(shape="-" * 5000 + "1"),
    "nested": header(shape="[" * 150 + "]" * 150),
    "many dimensions": header(shape=f"({'1, ' * 60} 4, 8)"),
    "endless number": header(shape="(" + "9" * 5000 + ", 8)"),
    "huge": header(shape="(9999999999999999999999, 8)"),
    "unhashable": "{[]: 1}\n",
    "keys of two kinds": "{1: 1, 'a': 2}\n",
    "no Python": "{'descr': \n",
    "an open string": "{'descr': '''",
    "indented": "   {\n 1\n  2\n}",
    "odd dtype": header(descr="[('a', '<i4'), ('a', '<i4')]"),
    "dtype of nothing": header(descr="'|V0'"),
    "dtype of tuples": header(descr="('<i4', (1, -1))"),
    "recursive dtype": header(descr="[" * 90 + "]" * 90),
    "not ASCII": header() + "\x00\xff",
}


@pytest.mark.parametrize("kind", ["npy", "npz"])
@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_none_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    data = npy_bytes(HEADERS[name], bytes(32))
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        path.write_bytes(data)
    else:
        packed(path, {"tokens": data})
    with pytest.raises(SourceError, match=rf"x.{kind}: ") as caught:
        open_arrays(path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("version", [(1, 1), (9, 0)])
def test_a_version_that_nobody_wrote_is_refused(tmp_path: Path, version: tuple[int, int]) -> None:
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY" + bytes(version) + saved(CODES)[8:])
    with pytest.raises(SourceError, match=r"x.npy: expected the .npy format"):
        open_arrays(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("name", "descr", "shape"),
    [
        ("class_names", f"'<U{ZEROS // 8}'", "(2,)"),
        ("class_names", "'<U1'", f"({ZEROS // 4},)"),
        ("codebook", "'<f4'", f"({ZEROS // 4}, 3)"),
        ("labels", "'<i8'", f"(4, {ZEROS // 32})"),
        ("tokens", "'|u1'", f"(4, {ZEROS // 4})"),
    ],
)
def test_a_bomb_in_an_archive_is_refused_before_it_is_inflated(
    tmp_path: Path, name: str, descr: str, shape: str
) -> None:
    nbytes = math.prod(ast.literal_eval(shape)) * np.dtype(ast.literal_eval(descr)).itemsize
    members = {"tokens.npy": deflated(saved(CODES), 0)} if name != "tokens" else {}
    members[f"{name}.npy"] = deflated(npy_bytes(header(descr, shape)), nbytes)
    write_zip(tmp_path / "x.npz", members)
    with little_memory(), pytest.raises(SourceError, match=rf"{name}.*(at most|up to|one row of integers)"):
        open_arrays(tmp_path / "x.npz")


def test_a_member_whose_declared_size_cannot_be_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.npz", {"tokens": npy_bytes(header(shape="(500000000, 8)"), bytes(64))})
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = (4_000_000_000 + 80).to_bytes(4, "little")
    path.write_bytes(data)
    with little_memory(), pytest.raises(SourceError, match=r"4000000080 bytes cannot come of \d+"):
        open_arrays(path)


def test_archives_that_numpy_does_not_write_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"array 'tokens': neither stored nor deflated"):
        open_arrays(packed(tmp_path / "x.npz", {"tokens": saved(CODES)}, zipfile.ZIP_LZMA))
    with pytest.raises(SourceError, match=r"expected up to 1000 arrays of different names, found 1001"):
        open_arrays(packed(tmp_path / "x.npz", {str(number): b"" for number in range(1001)}))
    twice = packed(tmp_path / "x.npz", {"tokens": saved(CODES), "sekont": saved(CODES)}).read_bytes()
    (tmp_path / "x.npz").write_bytes(twice.replace(b"sekont", b"tokens"))
    with pytest.raises(SourceError, match=r"found 2 arrays of 1 names"):
        open_arrays(tmp_path / "x.npz")


def test_a_zip_file_whose_extra_leads_beyond_it_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.npz", {"tokens": saved(CODES)})
    path.write_bytes(with_far_header(path.read_bytes()))
    with pytest.raises(SourceError, match=r"x.npz"):
        open_arrays(path)


@pytest.mark.parametrize("place", [6, 28, 30])
def test_a_zip_file_of_an_odd_version_or_extra_is_refused(tmp_path: Path, place: int) -> None:
    whole = packed(tmp_path / "x.npz", {"tokens": saved(CODES)}).read_bytes()
    for value in (1, 7, 99, 255):
        data = bytearray(whole)
        data[data.rindex(b"PK\x01\x02") + place] = value
        (tmp_path / "x.npz").write_bytes(data)
        with contextlib.suppress(SourceError):
            open_arrays(tmp_path / "x.npz").splits["train"].codes(0, 4)


@pytest.mark.parametrize("name", [0x7FFFFFFF, 0xD800])
def test_class_names_that_are_no_text_are_refused(tmp_path: Path, name: int) -> None:
    names = npy_bytes(header("'<U1'", "(1,)"), struct.pack("<I", name))
    with pytest.raises(
        SourceError, match=r"array 'class_names': expected names, found U\+[0-9A-F]+, no char"
    ):
        open_arrays(packed(tmp_path / "x.npz", {"tokens": saved(CODES), "class_names": names}))


def seit(folder: Path, index: bytes, labels: str = "0\n") -> Path:
    (folder / "t-train-token.data.bin.gz").write_bytes(gzip.compress(bytes(1024)))
    (folder / "t-train-token.index.npy.gz").write_bytes(gzip.compress(index))
    (folder / "t-train-label.txt").write_text(labels)
    return folder


@pytest.mark.parametrize("name", HEADERS)
def test_an_index_with_a_header_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    index = npy_bytes(HEADERS[name], bytes(32))
    with pytest.raises(SourceError, match=r"index.npy.gz: the index cannot be read"):
        open_seit(seit(tmp_path, index))


def test_an_index_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    folder = seit(tmp_path, b"")
    data, size = deflated(npy_bytes(header("'<i8'", f"({ZEROS // 8},)")), ZEROS)
    head = b"\x1f\x8b\x08" + bytes(7)
    (folder / "t-train-token.index.npy.gz").write_bytes(head + data + struct.pack("<II", 0, size))
    with little_memory(), pytest.raises(SourceError, match=r"more offsets than .*data.bin.gz can have"):
        open_seit(folder)


@pytest.mark.parametrize("labels", ["9" * 5000, "0\n" * 100_000])
def test_seit_labels_without_end_are_refused(tmp_path: Path, labels: str) -> None:
    with pytest.raises(SourceError, match=r"t-train-label.txt: expected .{20,100}$"):
        open_seit(seit(tmp_path, saved(np.array([0, 1024])), labels))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        json.dumps({str(code): [0] * (1000 if code == 5 else 1) for code in range(70_000)}),
        '{"0": [0.7]}',
        '{"0": [true]}',
        '{"0": [' + "9" * 5000 + "]}",
    ],
)
def test_synonyms_that_are_no_small_table_of_codes_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "synonyms.json").write_text(text)
    with (
        little_memory(),
        pytest.raises(SourceError, match=r"synonyms.json: expected a list of nearest codes"),
    ):
        open_seit(seit(tmp_path, saved(np.array([0, 1024]))))


@pytest.mark.parametrize("name", ["label", "targets", "fine_label"])
def test_arrays_and_files_that_look_like_labels_are_said(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "x.npz", tokens=CODES, **{name: np.arange(4)})
    assert open_arrays(tmp_path / "x.npz").unused_labels == (
        f"array {name!r} looks like labels and is not used as such; save one integer a sample as 'labels'",
    )
    np.savez(tmp_path / "x.npz", tokens=CODES, labels=np.arange(4), **{name: np.arange(4)})
    assert open_arrays(tmp_path / "x.npz").unused_labels == ()
    np.save(tmp_path / "x.npy", CODES)
    np.save(tmp_path / f"{name}.npy", np.arange(4))
    assert open_arrays(tmp_path / "x.npy").unused_labels == (
        f"{name}.npy looks like labels and is not used; save one integer a sample as x-labels.npy",
    )
    np.save(tmp_path / "x-labels.npy", np.arange(4))
    assert open_arrays(tmp_path / "x.npy").unused_labels == ()
