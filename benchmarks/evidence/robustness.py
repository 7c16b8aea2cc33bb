"""The cells that evaluate trained networks on corrupted images."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import tokenstore
from evidence.cells import Cell, EvidenceError, Workplace
from evidence.stores import store_place
from evidence.trainings import place_of_model
from seitpp_models.evaluation import CLEAN, evaluate

__all__ = ["evaluate_corrupted", "images_of_split"]

_SPLIT = "val"


def evaluate_corrupted(cell: Cell, work: Workplace) -> dict[str, Any]:
    """Evaluate the network of a cell on corrupted images, and return top-1 by corruption and severity.

    The figure `corrupted` is the mean over all corruptions and severities, and `clean` is of the same images
    as they are.
    """
    decisions = work.filled(cell)
    trained = cell.needs["model"]
    store = store_place(trained, work)
    images = work.place(cell) / "images"
    count = images_of_split(store, Path(decisions["source"]), images, decisions["images_of_a_class"])
    tokenizer = work.filled(trained.whole_store)["options"].get("tokenizer")
    evaluation = evaluate(
        place_of_model(work.place(trained)),
        images=images,
        device=work.device or "cpu",
        workers=0,
        threads=work.threads,
        tokenizer=None if tokenizer == "default" else tokenizer,
        corruptions=decisions["corruptions"],
        severities=decisions["severities"],
        seed=decisions["seed"],
    )
    shutil.rmtree(images)
    by_corruption: defaultdict[str, list[float]] = defaultdict(list)
    for condition, figures in evaluation.results.items():
        if condition != CLEAN:
            by_corruption[str(condition.corruption)].append(figures["top1"])
    every = [top1 for severities in by_corruption.values() for top1 in severities]
    figures = {"clean": evaluation.figures["top1"], "corrupted": sum(every) / len(every)}
    means = {name: sum(values) / len(values) for name, values in by_corruption.items()}
    return {"figures": {**figures, **means}, "by_severity": dict(by_corruption), "samples": count}


def images_of_split(store: Path, source: Path, folder: Path, of_a_class: int | None) -> int:
    """Copy the first images of each class of a store's split val to a folder of classes; return their number.

    `source` is the folder of images that the store was made of, and `of_a_class` their number, None for all.
    Raises EvidenceError for a source that is no folder.
    """
    if not source.is_dir():
        raise EvidenceError(f"{source}: expected a folder of images to corrupt, found none")
    shutil.rmtree(folder, ignore_errors=True)
    opened = tokenstore.open(store)
    split, names = opened[_SPLIT], opened.class_names
    labels = split.labels
    if labels is None or names is None:
        raise EvidenceError(
            f"{store}: expected labels and names of classes in the split {_SPLIT}, found none"
        )
    taken: defaultdict[int, int] = defaultdict(int)
    for name, label in zip(split.samples_table()["source"].to_pylist(), labels.tolist(), strict=True):
        if of_a_class is not None and taken[label] >= of_a_class:
            continue
        taken[label] += 1
        target = folder / names[label] / Path(name).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
    return sum(taken.values())
