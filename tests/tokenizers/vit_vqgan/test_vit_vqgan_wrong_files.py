"""Checkpoints that are not of ViT-VQGAN: each is refused with the reason."""

from __future__ import annotations

import argparse
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.vit_vqgan_models import TINY, Tensors, loaded, random_tensors, saved, shapes_of
from safetensors.torch import save_file
from torch import Tensor

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.kinds.vit_vqgan import SMALL, load


class MakeFolder:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.target),))


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    for legacy in (False, True):
        path = tmp_path / "hostile.ckpt"
        content = {"state_dict": random_tensors(), "callbacks": MakeFolder(tmp_path / "ran")}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(TokenizerError, match=r"hostile\.ckpt: .*found a pickled object \(\w+\.mkdir\)"):
            load(str(path))
    assert not (tmp_path / "ran").exists()


def with_changes(**changes: Tensor | list[int] | None) -> dict[str, object]:
    """Return the tiny checkpoint with tensors exchanged, added, or (None) left out; `__` stands for a dot."""
    renamed = {name.replace("__", "."): value for name, value in changes.items()}
    tensors: dict[str, object] = {**random_tensors(), **renamed}
    return {name: value for name, value in tensors.items() if value is not None}


def with_layers(depth: int) -> Tensors:
    return {
        name: torch.zeros(1).expand(shape) for name, shape in shapes_of(replace(TINY, depth=depth)).items()
    }


def small_without_its_last_layers() -> Tensors:
    return {
        name: torch.zeros(1).expand(shape)
        for name, shape in shapes_of(SMALL).items()
        if ".layers.7." not in name
    }


def of_width(width: int) -> Tensors:
    return {
        name: torch.zeros(1).expand(shape) for name, shape in shapes_of(replace(TINY, width=width)).items()
    }


def with_two_names_of_width_6() -> Tensors:
    return {
        "encoder.transformer.norm.weight": torch.zeros(6),
        "encoder.transformer.norm.bias": torch.zeros(6),
    }


THE_TINY_ONE = r"expected the 59 tensors of vit-vqgan \(width 48, 2 layers, 2 heads, MLP 80, grid 4\)"
THE_SMALL_ONE = (
    r"expected the 191 tensors of vit-vqgan-small \(width 512, 8 layers, 8 heads, MLP 2048, grid 32\)"
)
PICKLED = r"expected tensors by name, found a pickled object \({}\).*torch\.save\(\{{k: v for k, v in "
NO_DICT = "expected a dict of tensors by name, or a Lightning checkpoint .*; found "

WRONG_CONTENTS: dict[str, tuple[Callable[[], object], str]] = {
    "a list": (lambda: list(random_tensors().values()), NO_DICT + "a list$"),
    "a tensor": (lambda: torch.zeros(3), NO_DICT + "a Tensor$"),
    "no tensors": (lambda: {"epoch": 3, "lr": 0.1}, NO_DICT + "a dict without tensors .* keys epoch, lr$"),
    "another wrapper": (
        lambda: {"model": random_tensors()},
        NO_DICT + "a dict without tensors .* keys model$",
    ),
    "a list inside": (lambda: {"state_dict": [torch.zeros(1)]}, NO_DICT + "a list as its 'state_dict'$"),
    "nothing inside": (lambda: {"state_dict": {}}, NO_DICT + "a dict as its 'state_dict' without tensors"),
    "a pickled module": (
        lambda: torch.nn.Linear(2, 2),
        PICKLED.format(r"torch\.nn\.modules\.linear\.Linear"),
    ),
    "a namespace": (
        lambda: {"state_dict": random_tensors(), "hyper_parameters": argparse.Namespace(lr=1)},
        PICKLED.format(r"argparse\.Namespace"),
    ),
    "numpy numbers": (
        lambda: {"state_dict": random_tensors(), "hyper_parameters": {"lr": np.float64(0.1)}},
        PICKLED.format(r"numpy\S+scalar"),
    ),
    "a missing tensor": (
        lambda: with_changes(pre_quant__bias=None),
        THE_TINY_ONE + r", [^:]*\n  1 missing: pre_quant\.bias$",
    ),
    "an unexpected tensor": (
        lambda: with_changes(pre_quant__scale=torch.zeros(2)),
        THE_TINY_ONE + r", [^:]*\n  1 unexpected: pre_quant\.scale$",
    ),
    "two kinds of problem": (
        lambda: with_changes(pre_quant__bias=None, post_quant__bias=torch.zeros(47), lossy=torch.zeros(1)),
        THE_TINY_ONE + r", [^:]*\n  1 missing: pre_quant\.bias\n  1 unexpected: lossy\n"
        r"  1 of another shape: post_quant\.bias \(expected \(48,\), found \(47,\)\)$",
    ),
    "another network": (
        lambda: {f"block.{index}.weight": torch.zeros(2) for index in range(12)},
        THE_SMALL_ONE
        + r", [^:]*\n  191 missing: (\S+, ){8}\.\.\.\n  12 unexpected: block\.0\.weight, (\S+, ){7}\.\.\.$",
    ),
    "a prefix": (
        lambda: {f"module.{name}": tensor for name, tensor in random_tensors().items()},
        THE_TINY_ONE + r", [^:]*\n  59 missing: (\S+, ){8}\.\.\.\n  59 unexpected: module\.encoder\.en_pos",
    ),
    "another patch": (
        lambda: with_changes(encoder__to_patch_embedding__0__weight=torch.zeros(48, 3, 16, 16)),
        r"of another shape: encoder\.to_patch_embedding\.0\.weight "
        r"\(expected \(48, 3, 8, 8\), found \(48, 3, 16, 16\)\)$",
    ),
    "another codebook": (
        lambda: with_changes(quantizer__embedding__weight=torch.zeros(391, 32)),
        r"quantizer\.embedding\.weight \(expected \(8192, 32\), found \(391, 32\)\)$",
    ),
    "positions of no square": (
        lambda: with_changes(encoder__en_pos_embedding=torch.zeros(1, 17, 48)),
        r"encoder\.en_pos_embedding \(expected \(1, 16, 48\), found \(1, 17, 48\)\)$",
    ),
    "two grids": (
        lambda: with_changes(decoder__de_pos_embedding=torch.zeros(1, 25, 48)),
        r"decoder\.de_pos_embedding \(expected \(1, 16, 48\), found \(1, 25, 48\)\)$",
    ),
    "a layer of another width": (
        lambda: with_changes(encoder__transformer__layers__1__0__norm__weight=torch.zeros(32)),
        THE_TINY_ONE + r", [^:]*\n  1 of another shape: encoder\.transformer\.layers\.1\.0\.norm\.weight ",
    ),
    "heads of another width": (
        lambda: with_changes(
            **{
                f"{half}__transformer__layers__{layer}__0__fn__to_qkv__weight": torch.zeros(96, 48)
                for half in ("encoder", "decoder")
                for layer in range(2)
            }
        ),
        r"1 heads.*\n  8 of another shape: .*to_qkv\.weight \(expected \(192, 48\), found \(96, 48\)\)",
    ),
    "whole numbers": (
        lambda: with_changes(pre_quant__weight=torch.zeros(32, 48, dtype=torch.int32)),
        r"1 not a dense tensor of floats: pre_quant\.weight \(torch\.int32\)$",
    ),
    "numbers in a list": (
        lambda: with_changes(pre_quant__bias=[0] * 32),
        r"1 not a dense tensor of floats: pre_quant\.bias \(list\)$",
    ),
    "a sparse tensor": (
        lambda: with_changes(pre_quant__weight=torch.zeros(32, 48).to_sparse()),
        r"1 not a dense tensor of floats: pre_quant\.weight ",
    ),
    "a tensor without values": (
        lambda: with_changes(pre_quant__weight=torch.zeros(32, 48, device="meta")),
        r"1 not a dense tensor of floats: pre_quant\.weight ",
    ),
    "NaN": (
        lambda: with_changes(pre_quant__bias=torch.full((32,), torch.nan)),
        r"expected finite numbers, found NaN or infinity in 1: pre_quant\.bias$",
    ),
    "infinity": (
        lambda: with_changes(post_quant__bias=torch.full((48,), torch.inf).half()),
        r"expected finite numbers, found NaN or infinity in 1: post_quant\.bias$",
    ),
    "too large for float32": (
        lambda: with_changes(post_quant__bias=torch.full((48,), 1e300, dtype=torch.float64)),
        r"expected finite numbers, found NaN or infinity in 1: post_quant\.bias$",
    ),
    "a lost layer": (
        small_without_its_last_layers,
        r"vit-vqgan-small (?s:.*)22 missing: encoder\.transformer\.layers\.7\.",
    ),
    "too many layers": (lambda: with_layers(65), "expected a depth of at most 64, found 65$"),
    "too wide": (lambda: of_width(4100), "expected a width of at most 4096, found 4100$"),
    "an odd width": (with_two_names_of_width_6, "expected a width that is a multiple of 4, found 6$"),
    "more than is stored": (
        lambda: of_width(4096),
        "expected dense tensors, found ones of fewer stored bytes",
    ),
}


@pytest.mark.parametrize(("content", "message"), WRONG_CONTENTS.values(), ids=WRONG_CONTENTS.keys())
def test_files_with_other_contents_are_refused(
    tmp_path: Path, content: Callable[[], object], message: str
) -> None:
    with pytest.raises(TokenizerError, match=rf"wrong\.ckpt: (?s:.*?){message}"):
        loaded(tmp_path / "wrong.ckpt", content())


def write_cut_off(path: Path, kept: int) -> None:
    if path.suffix == ".safetensors":
        save_file(random_tensors(), path)
    else:
        torch.save(random_tensors(), path)
    path.write_bytes(path.read_bytes()[:kept])


def write_compressed(path: Path) -> None:
    plain = saved(path.with_name("plain.pt"), random_tensors())
    with zipfile.ZipFile(plain) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in archive.infolist():
            packed.writestr(entry.filename, archive.read(entry))


WRONG_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "absent": ("wrong.pt", lambda path: None, "expected a checkpoint file, found nothing there"),
    "a folder": ("wrong.pt", Path.mkdir, "expected a checkpoint file, found a folder; name the file in it"),
    "a name without end": ("x" * 5000, lambda path: None, "expected a checkpoint file, found .*too long"),
    "empty": ("wrong.pt", Path.touch, "expected a checkpoint, found an empty file"),
    "another suffix": (
        "wrong.zip",
        Path.touch,
        r"expected .*\.ckpt, \.pt, .*\.safetensors, found 'wrong\.zip'",
    ),
    "text": ("wrong.pt", lambda path: path.write_text("a page\n"), "file of torch.save, found a damaged one"),
    "a page": (
        "wrong.ckpt",
        lambda path: path.write_text("<!DOCTYPE html>"),
        "found a damaged .*fetch it again",
    ),
    "zeros": ("wrong.pth", lambda path: path.write_bytes(bytes(999)), "file of torch.save, found a damaged"),
    "safetensors text": (
        "wrong.safetensors",
        lambda path: path.write_text("a page"),
        "safetensors file, found a",
    ),
    "cut off at once": (
        "wrong.pt",
        lambda path: write_cut_off(path, 30),
        "file of torch.save, found a damaged",
    ),
    "cut off": ("wrong.ckpt", lambda path: write_cut_off(path, -20), "file of torch.save, found a damaged"),
    "cut-off safetensors": (
        "wrong.safetensors",
        lambda path: write_cut_off(path, -20),
        "safetensors file, found a damaged one or another kind of file .*; fetch it again",
    ),
    "a PyTorch file by another name": (
        "wrong.safetensors",
        lambda path: saved(path, random_tensors()),
        "expected a safetensors file, found a damaged one or another kind",
    ),
    "compressed": (
        "wrong.pt",
        write_compressed,
        "expected a file as torch.save writes it, found a compressed",
    ),
}


@pytest.mark.parametrize(("name", "write", "message"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_files_of_another_kind_are_refused(
    tmp_path: Path, name: str, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(TokenizerError, match=message) as raised:
        load(str(path))
    assert str(raised.value).startswith(f"{path}: ")


def test_a_checkpoint_has_to_be_named() -> None:
    with pytest.raises(TokenizerError, match="expected vit-vqgan:CHECKPOINT, found no path"):
        load(None)
