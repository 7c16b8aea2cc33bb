"""Files are written whole or not at all, and readable by whom the user's umask lets read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from seitpp_models.weights.files import TrainedModel, save_model
from tokenstore.augment.adapters import save_adapter
from tokenstore.augment.token_adapt import AdapterConfig, TokenAdapt
from tokenstore.files import move_file, whole_file, write_file
from tokenstore.format.manifest import TokenizerIdentity

posix_only = pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_file_has_its_bytes_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path, temporary = tmp_path / "file", tmp_path / "elsewhere"
    path.write_bytes(b"old")

    def interrupted(temporary: Path | None) -> None:
        with whole_file(path, temporary=temporary) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    for chosen in (None, temporary):
        with pytest.raises(KeyboardInterrupt):
            interrupted(chosen)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_complete_on_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    replace = Path.replace
    monkeypatch.setattr("os.fsync", lambda descriptor: calls.append(os.fstat(descriptor).st_size))

    def replacing(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replacing)
    write_file(tmp_path / "file", b"four")
    assert calls[:2] == [4, "rename"]
    assert len(calls) == 2 + (os.name == "posix"), "the folder is flushed last"
    calls.clear()
    write_file(tmp_path / "file", b"four", sync=False)
    assert calls == ["rename"]
    calls.clear()
    move_file(tmp_path / "file", tmp_path / "moved")
    assert calls[:2] == [4, "rename"]
    assert (tmp_path / "moved").read_bytes() == b"four"


def save_small_adapter(path: Path) -> None:
    sizes = AdapterConfig(codebook_size=4, channels=2, grid=(4, 4), size=(2, 2), width=4, heads=1, mlp=4)
    save_adapter(TokenAdapt(sizes), path)


def save_small_model(path: Path) -> None:
    save_model(TrainedModel(torch.nn.Linear(2, 2), "vit", {}, TokenizerIdentity("test")), path)


@posix_only
@pytest.mark.parametrize("write", [lambda path: write_file(path, b""), save_small_adapter, save_small_model])
def test_a_new_file_has_the_permissions_of_the_umask(
    write: Callable[[Path], None], umask: int, tmp_path: Path
) -> None:
    path = tmp_path / "file.safetensors"
    write(path)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
