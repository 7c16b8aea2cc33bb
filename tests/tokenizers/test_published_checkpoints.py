"""Checkpoints as programs leave them: of whole runs, of Lightning's callbacks, and files of the hub."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from helpers.maskgit_models import random_checkpoint as maskgit_checkpoint
from helpers.vqgan_models import random_checkpoint, write_checkpoint

from tokenstore.errors import TokenizerError
from tokenstore.format import TokenizerIdentity
from tokenstore.tokenizers import TOKENIZERS, load_tokenizer, model_folders
from tokenstore.tokenizers.model_folders import LocalFiles
from tokenstore.tokenizers.store_tokenizer import load_named

MODULE = "pytorch_lightning.callbacks.model_checkpoint"


def of_lightning(monkeypatch: pytest.MonkeyPatch, path: Path, *, as_object: bool) -> None:
    """Write a checkpoint that names a class of Lightning, as a key or with an object of it."""
    callback = type("ModelCheckpoint", (), {"__module__": MODULE})
    with monkeypatch.context() as patch:
        for depth in range(1, MODULE.count(".") + 2):
            name = ".".join(MODULE.split(".")[:depth])
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[MODULE].ModelCheckpoint = callback
        state = {callback: {"best": torch.ones(())}} if not as_object else {"ModelCheckpoint": callback()}
        torch.save({"state_dict": random_checkpoint(), "callbacks": state, "epoch": 4}, path)


@pytest.mark.parametrize("as_object", [False, True])
def test_the_callbacks_that_lightning_names_are_read_as_nothing(
    as_object: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_lightning(monkeypatch, tmp_path / "last.ckpt", as_object=as_object)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)  # another test may have imported Lightning itself
    whole = load_tokenizer(f"vqgan:{tmp_path / 'last.ckpt'}")
    plain = load_tokenizer(f"vqgan:{write_checkpoint(tmp_path / 'plain.ckpt')}")
    assert whole.fingerprint == plain.fingerprint
    assert MODULE not in sys.modules


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Serve a folder as the only repository of the hub; the list has the names that were asked for."""
    torch.save(maskgit_checkpoint(), tmp_path / "maskgit.bin")
    asked: list[str] = []

    def files(repository: str) -> LocalFiles:
        asked.append(repository)
        return LocalFiles(tmp_path, repository)

    monkeypatch.setattr(model_folders, "_hub_files", files)
    return asked


def test_a_file_of_the_hub_is_fetched_where_the_user_names_it(hub: list[str]) -> None:
    tokenizer = load_tokenizer("maskgit-vqgan:org/models#maskgit.bin")
    assert tokenizer.codebook_sizes == (48,)
    assert hub == ["org/models"]
    with pytest.raises(TokenizerError, match=r"expected a file 'absent\.bin' there"):
        load_tokenizer("maskgit-vqgan:org/models#absent.bin")
    with pytest.raises(TokenizerError, match=r"expected a sub-folder behind the #"):
        load_tokenizer("maskgit-vqgan:org/models#../maskgit.bin")


@pytest.mark.parametrize("kind", [name for name, kind in TOKENIZERS.items() if kind.fetches])
def test_no_store_has_anything_fetched(kind: str, hub: list[str]) -> None:
    for argument in ("org/models", "org/models#maskgit.bin", "org/models#maskgit.bin@dot"):
        identity = TokenizerIdentity("somebody's", "ab" * 32, spec=f"{kind}:{argument}")
        with pytest.raises(TokenizerError, match=r"which is no file or folder here\. If you trust it"):
            load_named(identity)
    assert hub == []


def test_a_store_finds_its_tokenizer_by_a_name_with_a_look_up(tmp_path: Path) -> None:
    spec = f"vqgan:{write_checkpoint(tmp_path / 'model.ckpt')}@dot"
    loaded = load_tokenizer(spec)
    identity = TokenizerIdentity(loaded.name, loaded.fingerprint, spec=spec)
    assert load_named(identity).fingerprint == loaded.fingerprint
