"""The cells that are stores: images turned to tokens, and shares of their samples."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tokenstore
from evidence.cells import Cell, EvidenceError, Workplace
from seitpp_models.networks.token_form import form_of
from seitpp_models.training.inputs import rows_of_share
from tokenstore.networks.threads import torch_threads

__all__ = [
    "LABEL_BYTES",
    "conversion",
    "make_store",
    "make_subset",
    "store_place",
    "stored_bytes",
    "training_rows",
]

LABEL_BYTES = 2
"""The bytes of a label beside an image, where labels are in no store."""
_PARTS = ("tokens", "labels", "masks")
"""The arrays of a split that training reads, beside the columns that numbers such as coefficients need."""
_DRAW = 0
"""The seed of the draw of samples: all cells of a budget learn from the same."""


def store_place(cell: Cell, work: Workplace) -> Path:
    """Return the folder of the store of a cell, or of the store that a cell needs."""
    return work.place(cell.needs.get("store", cell) if cell.kind not in ("store", "subset") else cell)


def make_store(cell: Cell, work: Workplace) -> dict[str, Any]:
    """Turn images into a store, and return its bytes and samples."""
    out = work.place(cell)
    with torch_threads(work.threads):
        tokenstore.convert(target=out, resume=True, **conversion(cell, work))
    return _facts(out)


def conversion(cell: Cell, work: Workplace) -> dict[str, Any]:
    """Return the arguments of `tokenstore.convert` for the store of a cell, on the machine of the work."""
    decisions = work.filled(cell)
    device = "cuda" if (work.device or "").startswith("cuda") else "cpu"
    return {
        "source": decisions["source"],
        "device": device,
        "workers": work.threads - 1,
        **decisions["options"],
    }


def make_subset(cell: Cell, work: Workplace) -> dict[str, Any]:
    """Take a share of the training samples of a store, and return the bytes and samples of the new store.

    With `held_out`, that share of each class of the training samples becomes the split val instead of the
    store's own, for choices that may not look at it.
    """
    share, held_out = cell.decisions["share"], cell.decisions["held_out"]
    store = tokenstore.open(work.place(cell.needs["store"]))
    out = work.place(cell)
    training = out.with_name(f"{out.name}.training")
    if _is_complete(out):
        shutil.rmtree(training, ignore_errors=True)  # of a process that was killed just before its end
        return _facts(out)
    rows = {name: np.arange(len(store[name])) for name in store.splits}
    rows["train"] = training_rows(store["train"].labels, share)
    if not held_out:
        tokenstore.select(store, out, indices=rows, jobs=1, resume=True)
        return _facts(out)
    if not _is_complete(training):
        tokenstore.select(
            store, training, indices={"train": rows["train"]}, splits=["train"], jobs=1, resume=True
        )
    tokenstore.split(
        training, out, shares={"val": held_out}, of="train", stratified=True, seed=_DRAW, jobs=1, resume=True
    )
    shutil.rmtree(training)
    return _facts(out)


def training_rows(labels: npt.NDArray[np.integer[Any]] | None, share: float) -> npt.NDArray[np.int64]:
    """Return the row numbers (m,) of a share of each class of labels (N,), in order.

    A smaller share's rows are among those of a larger one. Raises EvidenceError if there are no labels.
    """
    if labels is None:
        raise EvidenceError("expected labels to take a share of each class, found none")
    return rows_of_share(labels, share, _DRAW)


def stored_bytes(store: Path) -> int:
    """Return the bytes that training reads: arrays of the split train with their metadata, and the codebook.

    Samples' names, digests and other splits do not count.
    """
    parts = [*_PARTS, *form_of(tokenstore.open(store)).columns]
    folders = [store / "train" / part for part in parts] + [store / "codebook"]
    files = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)


def _is_complete(place: Path) -> bool:
    """Return True if there is a complete store at a place."""
    try:
        tokenstore.open(place)
    except tokenstore.TokenstoreError:
        return False
    return True


def _facts(out: Path) -> dict[str, Any]:
    """Return the bytes of a store's training samples, and the samples of its splits."""
    store = tokenstore.open(out)
    samples = {name: len(store[name]) for name in store.splits}
    return {"bytes": stored_bytes(out), "samples": samples["train"], "figures": {}, "splits": samples}
