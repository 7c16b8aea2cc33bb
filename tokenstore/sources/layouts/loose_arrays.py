"""The refusal of arrays that are no layout: latents, which are no codes, and files in other folders."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenstore.errors import SourceError
from tokenstore.sources.folders import files_ending, folders_in
from tokenstore.sources.npy_files import StoredArray, open_npy, open_npz

__all__ = ["array_advice", "latents_advice"]

_ENDINGS = (".npy", ".npz")
_LOOKED_AT = 8
"""The folders in a folder that are looked into."""


def latents_advice(what: str) -> str:
    """Return why floats are not read, and what is: `what` names them, with their type and shape."""
    return (
        f"{what}: latents, which are no codes. A store keeps whole numbers, which a tokenizer with a "
        "codebook gives: convert the images by one"
    )


def array_advice(folder: Path) -> str | None:
    """Return what the arrays in a folder of nothing known are, and what would be read; None if it has none.

    The first readable array in the folder, or in one of its first folders, is looked at.
    """
    for where, stored in _arrays(folder):
        facts = f"{stored.dtype} {stored.shape}"
        if stored.dtype.kind == "f":
            return latents_advice(f"arrays such as {where}, {facts}")
        return (
            f"arrays such as {where}, {facts}. Codes are read from one file with a row a sample, "
            "train.npy, or from a file a sample as LlamaGen keeps them: X_codes/0.npy of (1, views, codes), "
            "and X_labels/0.npy"
        )
    return None


def _arrays(folder: Path) -> Iterator[tuple[str, StoredArray]]:
    for each in (folder, *islice(folders_in(folder), _LOOKED_AT)):
        for path in files_ending(each, _ENDINGS)[:1]:
            try:
                arrays = {"": open_npy(path)} if path.suffix.lower() == ".npy" else open_npz(path)
            except SourceError:
                continue
            name = path.relative_to(folder).as_posix()
            yield from ((f"{name}{array and f' ({array})'}", stored) for array, stored in arrays.items())
