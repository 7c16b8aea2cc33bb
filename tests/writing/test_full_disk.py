"""A full disk while a store is written: one error names the file, the bytes and how to go on."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from helpers.stores import random_codes, write_store
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.errors import StorageError
from tokenstore.files import write_file

CODES = random_codes(6, (2, 2), 391)


class FullDisk:
    """A disk that is full from the n-th file on, until it is emptied."""

    def __init__(self, patch: pytest.MonkeyPatch, left: int, code: int = errno.ENOSPC) -> None:
        self.left, self.code = left, code
        patch.setattr("os.fsync", self.flush)

    def flush(self, _: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(self.code, os.strerror(self.code))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    np.save(folder / "codes.npy", CODES)
    write_store(folder / "a.zarr", {"train": (CODES,)}, chunk_samples=2, shard_samples=2)
    return folder / "a.zarr"


OPERATIONS: dict[str, Callable[..., object]] = {
    "convert": lambda store, out, **options: tokenstore.convert(
        store.with_name("codes.npy"), out, chunk_samples=2, shard_samples=2, **options
    ),
    "copy": tokenstore.copy,
    "recode": lambda store, out, **options: tokenstore.recode(store, out, codec="zstd", **options),
    "select": lambda store, out, **options: tokenstore.select(store, out, where="row >= 0", **options),
    "relabel": lambda store, out, **options: tokenstore.relabel(
        store, out, labels={"train": [0] * 6}, **options
    ),
}


@pytest.mark.parametrize("out", ["b.zarr", "b.zip"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_full_disk_is_one_error_and_the_operation_goes_on_later(
    store: Path, tmp_path: Path, operation: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OPERATIONS[operation]
    for left in range(2, 200, 5):
        target, error = tmp_path / str(left) / out, None
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, left)
            try:
                run(store, target)
            except StorageError as raised:
                error = raised
        if disk.left >= 0:
            break
        assert error is not None
        assert [parameter.name for parameter in error.parameters] == ["resume"]
        text = r"/b\.z.*: No space left on device: ([\d,]+ bytes are needed, )?[\d,]+ bytes are free\. "
        text += r"Make room, and go on with resume=True$"
        assert re.search(text, str(error))
        run(store, target, resume=True)
        np.testing.assert_array_equal(tokenstore.open(target)["train"][:], CODES)
    assert left > 6
    assert disk.left >= 0


def test_a_table_and_a_copied_block_name_their_file_too(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullWriter(pq.ParquetWriter):
        def __init__(self, where: object, *arguments: object, **options: object) -> None:
            super().__init__(where, *arguments, **options)
            self.is_on_disk = isinstance(where, Path)

        def write_table(self, *tables: object) -> None:
            if self.is_on_disk:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write_table(*tables)

    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetWriter", FullWriter)
        with pytest.raises(StorageError, match=r"/b/train/samples\.parquet: No space left on device"):
            tokenstore.recode(store, tmp_path / "b", codec="zstd")
    result = CliRunner().invoke(cli, ["recode", str(store), str(tmp_path / "b"), "--codec", "zstd"])
    assert (result.exit_code, "--resume" in result.output) == (1, True)


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EFBIG])
def test_a_used_up_quota_is_named_and_other_errors_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with monkeypatch.context() as patch:
        FullDisk(patch, 0, code)
        text = rf"/file: {os.strerror(code)}: 4 bytes are needed, [\d,]+"
        with pytest.raises(StorageError, match=text):
            write_file(tmp_path / "file", b"four")
    with monkeypatch.context() as patch:
        FullDisk(patch, 0, errno.EIO)
        with pytest.raises(OSError, match="Input/output error") as error:
            write_file(tmp_path / "file", b"four")
        assert not isinstance(error.value, StorageError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a process")
def test_a_full_disk_that_torch_hides_is_named_too(tmp_path: Path) -> None:
    program = (
        "import resource, sys, torch\n"
        "from tokenstore.errors import StorageError\n"
        "from tokenstore.files import whole_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    with whole_file(sys.argv[1]) as file:\n"
        "        torch.save(torch.zeros(1_000_000), file)\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state.pt")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r".*/state\.pt: File too large: [\d,]+ bytes are free\n", printed)
    assert list(tmp_path.iterdir()) == []
