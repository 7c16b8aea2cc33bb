"""Checkpoints that are spoilt, each in one way, with the error that a strict reader has to give."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]
NO_FLOATS = r"1 not a dense tensor of floats: \S+bias "


class MakeFolder:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        """Return the call that unpickling makes."""
        return (os.mkdir, (str(self.target),))


def _a_bias(tensors: Tensors) -> str:
    """Return the name of a tensor that no size follows from."""
    return next(name for name, tensor in reversed(tensors.items()) if tensor.ndim == 1 and "bias" in name)


def _changed(change: Callable[[Tensor], object]) -> Callable[[Path, Tensors], None]:
    """Return the writer of a checkpoint in which one tensor is exchanged."""

    def write(path: Path, tensors: Tensors) -> None:
        name = _a_bias(tensors)
        torch.save(tensors | {name: change(tensors[name])}, path)

    return write


def _without_one(path: Path, tensors: Tensors) -> None:
    torch.save({name: tensor for name, tensor in tensors.items() if name != _a_bias(tensors)}, path)


def _with_code(path: Path, tensors: Tensors) -> None:
    torch.save({"state_dict": tensors, "callbacks": MakeFolder(path.parent / "ran")}, path)


def _with_old_code(path: Path, tensors: Tensors) -> None:
    content = {"state_dict": tensors, "callbacks": MakeFolder(path.parent / "ran")}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _cut_off(path: Path, tensors: Tensors) -> None:
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _safetensors_by_another_name(path: Path, tensors: Tensors) -> None:
    save_file(tensors, path)


def _compressed(path: Path, tensors: Tensors) -> None:
    plain = path.with_name("plain.pt")
    torch.save(tensors, plain)
    with zipfile.ZipFile(plain) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in archive.infolist():
            packed.writestr(entry.filename, archive.read(entry))


def _hollow(path: Path, tensors: Tensors) -> None:
    """Write tensors of the right shapes that are a few stored bytes each."""
    torch.save({name: torch.zeros(1).expand(tensor.shape) for name, tensor in tensors.items()}, path)


def _prefixed(path: Path, tensors: Tensors) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, path)


WRONG: dict[str, tuple[Callable[[Path, Tensors], object], str]] = {
    "missing": (_without_one, r"1 missing: \S+bias$"),
    "unexpected": (
        lambda path, tensors: torch.save(tensors | {"extra.scale": torch.ones(2)}, path),
        r"1 unexpected: extra\.scale$",
    ),
    "of another shape": (
        _changed(lambda tensor: torch.cat([tensor, tensor])),
        r"1 of another shape: \S+bias \(expected \(\d+,\), found \(\d+,\)\)$",
    ),
    "whole numbers": (
        _changed(lambda tensor: tensor.int()),
        rf"{NO_FLOATS}\(torch\.int32\)$",
    ),
    "a list": (
        _changed(lambda tensor: tensor.tolist()),
        rf"{NO_FLOATS}\(list\)$",
    ),
    "sparse": (_changed(lambda tensor: tensor.to_sparse()), NO_FLOATS),
    "NaN": (_changed(lambda tensor: tensor * torch.nan), r"found NaN or infinity in 1: \S+bias$"),
    "infinite": (
        _changed(lambda tensor: torch.full_like(tensor, 1e300, dtype=torch.float64)),
        r"found NaN or infinity in 1: \S+bias$",
    ),
    "a pickle with code": (_with_code, r"found a pickled object \(\w+\.mkdir\)"),
    "an old pickle with code": (_with_old_code, r"found a pickled object \(\w+\.mkdir\)"),
    "cut off": (_cut_off, "found a damaged one or another kind of file .*fetch it again"),
    "empty": (lambda path, tensors: path.touch(), "found an empty file; fetch it again"),
    "text": (lambda path, tensors: path.write_text("<!DOCTYPE html>"), "found a damaged one or another kind"),
    "safetensors by another name": (_safetensors_by_another_name, "found a damaged one or another kind"),
    "compressed": (_compressed, "found a compressed archive"),
    "a few bytes": (_hollow, "found ones of fewer stored bytes than their shapes"),
    "another prefix": (_prefixed, r"expected .*found none"),
    "another architecture": (
        lambda path, tensors: torch.save({f"blocks.{i}.weight": torch.ones(3) for i in range(20)}, path),
        r"expected .*found none",
    ),
    "no tensors": (lambda path, tensors: torch.save({"epoch": 3}, path), "without tensors and with the keys"),
    "absent": (lambda path, tensors: None, "expected a checkpoint file, found nothing there"),
}
"""The writers of spoilt checkpoints, (path, good tensors by name), with the end of the error."""
