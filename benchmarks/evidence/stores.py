"""The cells that are stores: images turned to tokens, and shares of their samples."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tokenstore
from evidence.cells import Cell, EvidenceError, Workplace
from seitpp_models.networks.token_form import form_of
from seitpp_models.training.inputs import rows_of_share
from tokenstore.files import whole_file
from tokenstore.networks.threads import torch_threads
from tokenstore.sources import open_source

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
    """Turn images into a store, and return its bytes and samples.

    Of a cell with a `share`, only those training images are turned into tokens that a share of the store of
    all images would have. Raises EvidenceError if the images are in no folders of classes.
    """
    out = work.place(cell)
    arguments = conversion(cell, work)
    if _is_complete(out):
        shutil.rmtree(_linked(out), ignore_errors=True)  # of a process that was killed just before its end
        return _facts(out)
    if "share" in cell.decisions:
        link_share(Path(arguments["source"]), _linked(out), cell.decisions["share"])
        arguments["source"] = _linked(out)
    with torch_threads(work.threads):
        tokenstore.convert(target=out, resume=True, **arguments)
    shutil.rmtree(_linked(out), ignore_errors=True)
    return _facts(out)


def _linked(out: Path) -> Path:
    return out.with_name(f"{out.name}.images")


def link_share(source: Path, folder: Path, share: float) -> None:
    """Link the images of a source to a folder: of its training images a share of each class, and all others.

    The images are those that `make_subset` takes; where there can be no links, they are copied. Raises
    EvidenceError for a source that is no folder with a split train of classes.
    """
    splits = open_source(str(source)).splits if source.is_dir() else {}
    labels = splits["train"].labels(0, len(splits["train"])) if "train" in splits else None
    if labels is None:
        raise EvidenceError(f"{source}: expected a folder train with folders of classes, found none")
    rows = {name: np.arange(len(part)) for name, part in splits.items()}
    rows["train"] = training_rows(labels, share)
    for name, part in splits.items():
        images = part.names(0, len(part)).take(rows[name]).to_pylist()
        for image in images:
            link = folder / image
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                _link_or_copy(source / image, link)


def _link_or_copy(original: Path, link: Path) -> None:
    try:
        os.link(original, link)
    except OSError:  # another file system, or one without links
        with original.open("rb") as image, whole_file(link, sync=False) as file:
            shutil.copyfileobj(image, file)


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
