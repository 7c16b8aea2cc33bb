"""The evaluation of a network of any kind on a split of a token store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.figures import OnBatch
from seitpp_models.evaluation.measures import Measure, MeasuredSamples, measure_for
from seitpp_models.networks.token_form import form_of
from seitpp_models.weights.files import TrainedModel
from tokenstore.errors import Parameter, did_you_mean
from tokenstore.format import MASKS, TOKENS
from tokenstore.loading import TokenDataset, TokenLoader
from tokenstore.reading import Indices, SplitReader, TokenStore

__all__ = ["Batches", "chosen_split", "evaluate_store"]

_USUAL_SPLIT = "val"


@dataclass(frozen=True)
class Batches:
    """The batches that an evaluation reads: their size, the threads that decode, and the device."""

    size: int = 64
    threads: int | None = None
    device: str | torch.device = "cpu"


def chosen_split(splits: Sequence[str], requested: str | None, where: str) -> str:
    """Return the split to evaluate on: `requested`, or by default val, or the only one.

    Raises ModelError if it is none of `splits`, which are those of `where`.
    """
    usual = _USUAL_SPLIT if len(splits) != 1 else splits[0]
    split = usual if requested is None else requested
    if split not in splits:
        choice = Parameter("split")
        raise ModelError(
            f"{where}: no split {split!r}; it has {', '.join(splits) or 'none'}; choose by {choice}"
            f"{did_you_mean(split, splits)}",
            parameters=[choice],
        )
    return split


def evaluate_store(
    trained: TrainedModel,
    store: TokenStore,
    split: str,
    *,
    measure: Measure | None = None,
    crop: tuple[int, int] | None = None,
    row_numbers: Indices | None = None,
    batches: Batches | None = None,
    on_batch: OnBatch | None = None,
) -> dict[str, Any]:
    """Return the figures of a network on a split, by the `measure`, or by default the network's own.

    The network is on the device of `batches`. It sees the central `crop` of the codes, or by default what it
    was built for, of the samples `row_numbers` (m,) of the split, or by default all; of samples with views,
    their central one (`Views.central`). Raises ModelError if the codes, labels or masks are not the
    network's.
    """
    batches = batches or Batches()
    measure = measure or measure_for(trained, {})
    manifest = store.manifest
    reader = store[split]
    where = f"{reader.store.storage}, split {split}"
    trained.check(manifest.tokenizer, where)
    form = replace(form_of(store), where=where)
    sides = trained.shape.crop(form.grid, where, crop)
    arranged, embedding = trained.shape.arranged(form), trained.shape.embedding(form)
    embedding = None if embedding is None else embedding.to(batches.device)
    for column in measure.columns:
        _check_column(reader, column, where)
    columns = [TOKENS, *measure.columns, *arranged.columns]
    view = None if manifest.views is None else manifest.views.central
    dataset = TokenDataset(store, split, columns=columns, indices=row_numbers, view=view)
    loader = TokenLoader(
        dataset,
        batches.size,
        num_threads=batches.threads,
        device=batches.device,
        batch_transform=None if arranged.is_identity else arranged.of_batch,
    )
    return measure.figures(trained, MeasuredSamples(store, where, loader, sides, embedding, on_batch))


def _check_column(reader: SplitReader, column: str, where: str) -> None:
    """Raise ModelError if a split does not have a column, or not as labels or label maps."""
    if column not in reader.columns:
        raise ModelError(
            f"{where}: expected {column} beside the codes, found {', '.join(reader.columns)}; evaluate on a "
            f"split that has {column}"
        )
    shape, dtype = reader.column(column).shape, reader.column(column).dtype
    axes, kind = (2, "label maps (H, W)") if column == MASKS else (0, "a number a sample")
    if len(shape) != axes or dtype.kind not in "iu":
        raise ModelError(f"{where}: expected {column} to be {kind} of integers, found {shape} {dtype}")
