"""How good a network of any kind is on a split of a token store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.class_names import match_classes
from seitpp_models.evaluation.figures import OnBatch, evaluate_classifier, evaluate_masked, evaluate_segmenter
from seitpp_models.networks.masking import MaskRatio
from seitpp_models.weights.files import TrainedModel
from tokenstore.format.layout import LABELS, MASKS, TOKENS
from tokenstore.loading.dataset import TokenDataset
from tokenstore.loading.loader import TokenLoader
from tokenstore.reading import Indices, SplitReader, TokenStore

__all__ = ["CLASSIFIERS", "chosen_split", "evaluate_store", "ignored_label"]

CLASSIFIERS = ("vit", "timm")
"""Kinds of networks that classify."""
_USUAL_SPLIT = "val"
_USUAL_IGNORED = 255


def chosen_split(splits: Sequence[str], wanted: str | None, where: str) -> str:
    """`wanted`, or by default val, or the only one; raises ModelError where it is none of `splits`."""
    usual = _USUAL_SPLIT if len(splits) != 1 else splits[0]
    split = usual if wanted is None else wanted
    if split not in splits:
        raise ModelError(
            f"{where}: no split {split!r}; it has {', '.join(splits) or 'none'}; choose by --split"
        )
    return split


def evaluate_store(
    trained: TrainedModel,
    store: TokenStore,
    split: str,
    *,
    crop: tuple[int, int] | None = None,
    all_classes: bool = False,
    ignore_index: int | None = None,
    mask_ratio: float = MaskRatio.mean,
    seed: int = 0,
    batch_size: int = 64,
    threads: int | None = None,
    device: str | torch.device = "cpu",
    on_batch: OnBatch | None = None,
    rows: Indices | None = None,
) -> dict[str, Any]:
    """The figures of `evaluate_classifier`, `evaluate_segmenter` or `evaluate_masked`, by the network's kind.

    The network, which must be on `device`, sees the central part of the codes that it was built for, or
    `crop`, of the samples `rows` (m,) of the split, by default all. `threads` decode. Raises ModelError where
    codes, labels or masks are not the network's. `ignore_index` is by default the store's.
    """
    manifest = store.manifest
    reader = store[split]
    where = f"{reader.store.storage}, split {split}"
    trained.check(manifest.tokenizer, where)
    if len(manifest.codebook_sizes) != 1:
        raise ModelError(f"{where}: expected codes of one codebook, found {len(manifest.codebook_sizes)}")
    shape = trained.shape
    sides = shape.crop(manifest.grid, where, crop)
    embedding = shape.embedding(manifest.codebook_size, store.codebook, where)
    embedding = None if embedding is None else embedding.to(device)
    column = {"segmenter": MASKS, "masked": None}.get(trained.kind, LABELS)
    if column is not None:
        _check_column(reader, column, where)
    columns = [TOKENS] if column is None else [TOKENS, column]
    dataset = TokenDataset(store, split, columns=columns, indices=rows)
    loader = TokenLoader(dataset, batch_size, num_threads=threads, device=device)
    if trained.kind == "masked":
        return dict(
            evaluate_masked(trained.model, loader, seed=seed, ratio=mask_ratio, crop=sides, on_batch=on_batch)
        )
    if trained.kind == "segmenter":
        return evaluate_segmenter(
            trained.model,
            loader,
            classes=shape.classes,
            ignore_index=ignored_label(store) if ignore_index is None else ignore_index,
            embedding=embedding,
            crop=sides,
            on_batch=on_batch,
        )
    classes = match_classes(
        manifest.class_names, trained.labels, shape.classes, where, all_classes=all_classes
    )
    return dict(
        evaluate_classifier(
            trained.model, loader, embedding=embedding, crop=sides, classes=classes, on_batch=on_batch
        )
    )


def ignored_label(store: TokenStore) -> int:
    """The label of pixels without a class: the store's, or 255 where it says none."""
    stored: int | None = store.manifest.ignore_index
    return _USUAL_IGNORED if stored is None else stored


def _check_column(reader: SplitReader, column: str, where: str) -> None:
    if column not in reader.columns:
        raise ModelError(
            f"{where}: expected {column} beside the codes, found {', '.join(reader.columns)}; evaluate on a "
            f"split that has {column}"
        )
    shape, dtype = reader.sample_type(column)
    axes, kind = (2, "label maps (H, W)") if column == MASKS else (0, "a number a sample")
    if len(shape) != axes or dtype.kind not in "iu":
        raise ModelError(f"{where}: expected {column} to be {kind} of integers, found {shape} {dtype}")
