"""The checkpoints of other programs: tensors by name, read without running anything in the files."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tokenstore.errors import TokenizerError

__all__ = ["SUFFIXES", "listed", "read_checkpoint", "read_dense_tensors", "read_pytorch"]

SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")
"""The ends of the names of checkpoints."""
_DROPPED = ("loss.",)
"""The beginnings of the names of tensors that only training needs."""
_LIGHTNING, _MAE = "state_dict", "model"
"""The keys of the tensors in checkpoints of whole runs: Lightning's and MAE's."""
_CALLBACKS = tuple(
    f"{package}.callbacks.{name}"
    for package in ("pytorch_lightning", "lightning.pytorch")
    for name in ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
)
"""The classes that older versions of Lightning name in checkpoints, as keys of their callbacks' states."""
_SHARED = 4
"""The most times that the bytes of a file may be tensors: some networks use a tensor under several names."""
_SHOWN = 8
"""The most names that an error lists of each kind of problem."""


def _nothing(name: str) -> type:
    """Return a class that goes by the whole name of one of a run's callbacks, and does nothing."""
    module, _, own = name.rpartition(".")
    return type(own, (), {"__module__": module})


def read_checkpoint(path: Path, *, of_runs: bool = False) -> dict[str, object]:
    """Return the tensors and other values of a safetensors file, or of one of torch.save, by name.

    With `of_runs`, the tensors may also be under the key 'model', beside a run's options as an
    argparse.Namespace. Raises TokenizerError if the file is missing, damaged, of another kind, or holds
    objects that only running code could read.
    """
    return _tensors_by_name(_read(path, of_runs), of_runs)


def read_dense_tensors(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors by name of a file that `read_checkpoint` reads, of whole runs too.

    With a `key`, they are those under that key of the file. Raises TokenizerError, too, if the tensors claim
    to be larger than their file, and if the file has no such key.
    """
    loaded = _read(path, of_runs=True)
    if key is not None:
        if not isinstance(loaded, dict) or key not in loaded:
            names = listed(map(str, loaded)) if isinstance(loaded, dict) else type(loaded).__name__
            raise TokenizerError(f"expected tensors under the key {key!r}, found {names}")
        loaded = loaded[key]
    values = _tensors_by_name(loaded, of_runs=True)
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    strided = all(tensor.layout == torch.strided for tensor in tensors.values())
    if not strided or sum(tensor.nbytes for tensor in tensors.values()) > _SHARED * path.stat().st_size:
        # subtle: a few stored bytes can claim to be tensors of any size, by strides of zero
        raise TokenizerError("expected dense tensors, found ones of fewer stored bytes than their shapes")
    return tensors


def _read(path: Path, of_runs: bool) -> object:
    if path.is_dir():
        raise TokenizerError("expected a checkpoint file, found a folder; name the file in it")
    if not path.is_file():
        raise TokenizerError("expected a checkpoint file, found nothing there")
    if path.suffix.lower() not in SUFFIXES:
        raise TokenizerError(f"expected a file ending in one of {', '.join(SUFFIXES)}, found {path.name!r}")
    if not path.stat().st_size:
        raise TokenizerError("expected a checkpoint, found an empty file; fetch it again")
    kind = "safetensors file" if path.suffix.lower() == ".safetensors" else "file of torch.save"
    try:
        return load_file(path) if kind == "safetensors file" else read_pytorch(path, of_runs=of_runs)
    except TokenizerError:
        raise
    except Exception as error:  # torch.load answers a damaged file with nearly any exception
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise TokenizerError(
                f"expected tensors by name, found a pickled object ({refused[1]}); only tensors are read, "
                "since a pickle may run code. Where you trust the file, save its tensors alone: "
                "c = torch.load(FILE, map_location='cpu', weights_only=False); "
                "torch.save({k: v for k, v in c['state_dict'].items()}, 'tensors.pt'), "
                "or of a pickled module c.state_dict().items()"
            ) from error
        reason = f"{type(error).__name__}: {str(error)[:100]}".splitlines()[0]
        raise TokenizerError(
            f"expected a {kind}, found a damaged one or another kind of file ({reason}); fetch it again"
        ) from error


def read_pytorch(path: Path, *, of_runs: bool = False, mapped: bool = True) -> object:
    """Return the tensors and other values in a file of `torch.save`, and run nothing in it.

    With `of_runs`, a run's options may be an argparse.Namespace, and the callbacks that Lightning names are
    empty objects, whose classes are not imported. Tensors of a zip file are `mapped`, or read.
    Raises TokenizerError for a compressed archive, and nearly any exception for a damaged file.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        with zipfile.ZipFile(path) as archive:
            # subtle: compressed bytes would be mapped as if they were weights, or grow without bound; so
            # would bytes that several entries share
            entries = archive.infolist()
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise TokenizerError("expected a file as torch.save writes it, found a compressed archive")
    known: list[Any] = [argparse.Namespace, *map(_nothing, _CALLBACKS)] if of_runs else []
    with torch.serialization.safe_globals(known):
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped and mapped)


def _tensors_by_name(loaded: object, of_runs: bool) -> dict[str, object]:
    """Return the values by name of a checkpoint of either layout, without those of _DROPPED."""
    names = (_LIGHTNING, _MAE) if of_runs else (_LIGHTNING,)
    inside = next((name for name in names if isinstance(loaded, dict) and name in loaded), None)
    values = loaded[inside] if isinstance(loaded, dict) and inside else loaded
    if not isinstance(values, dict) or not any(isinstance(value, Tensor) for value in values.values()):
        actual = f"a {type(values).__name__}" + (f" as its {inside!r}" if inside else "")
        if isinstance(values, dict):
            actual += f" without tensors and with the keys {listed(map(str, values))}"
        raise TokenizerError(
            f"expected a dict of tensors by name, or a Lightning checkpoint with one as {_LIGHTNING!r}; "
            f"found {actual}"
        )
    return {str(name): value for name, value in values.items() if not str(name).startswith(_DROPPED)}


def listed(names: Iterable[str]) -> str:
    """Return the first of some names as one text, for an error."""
    names = list(names)
    return ", ".join(name[:120] for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
