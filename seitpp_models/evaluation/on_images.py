"""The evaluation of a classifier of tokens on images, as they are and corrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.class_names import match_classes
from seitpp_models.evaluation.corruptions import corrupted_batch
from seitpp_models.evaluation.figures import ClassifierFigures, in_eval_mode, network_input
from seitpp_models.evaluation.measures import measure_for
from seitpp_models.evaluation.predictions import PredictionLog, Predictions
from seitpp_models.networks.token_form import ArrangedTokens, form_of_tokenizer
from seitpp_models.weights.files import TrainedModel
from tokenstore.errors import SampleError
from tokenstore.format import TokenizerIdentity
from tokenstore.sources.base import ImageSource, ImageSplit
from tokenstore.sources.decoding import Inputs, decode_in_order
from tokenstore.sources.images import ImageOptions, Resize
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.encoder import Encoder, identity_of, options_of
from tokenstore.tokenizers.pruned import prune
from tokenstore.tokenizers.registry import load_tokenizer
from tokenstore.tokenizers.related import is_codebook_of
from tokenstore.tokenizers.store_tokenizer import load_named

__all__ = [
    "CLEAN",
    "Condition",
    "Decoding",
    "ImageEvaluation",
    "evaluate_images",
    "options_for",
    "tokenizer_for",
]


@dataclass(frozen=True)
class Condition:
    """A corruption of images before they become tokens; none is the images as they are."""

    corruption: str | None = None
    severity: int = 0

    def of(self, images: Inputs, positions: Sequence[int], seed: int, pool: Executor) -> Inputs:
        """Return images (B, H, W, 3) under this condition; `positions` are their places in the data."""
        if self.corruption is None:
            return images
        return corrupted_batch(images, positions, self.corruption, self.severity, seed, pool)


CLEAN = Condition()
"""The condition of images as they are."""


@dataclass(frozen=True)
class Decoding:
    """The batches of images: their size, the processes that decode, the threads that corrupt, the seed."""

    batch_size: int = 64
    workers: int = 0
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class ImageEvaluation:
    """The figures of a classifier on images."""

    figures: Mapping[Condition, Mapping[str, float]]
    """The figures `loss`, `top1` and `top5` (of more than five classes) of each condition."""
    samples: int
    """The number of images that count."""
    skipped: Sequence[tuple[str, str]]
    """The names of images that cannot be read, and why; they count nowhere."""
    crop: tuple[int, int]
    """The sides of the part of each grid that the network saw."""
    predictions: Mapping[Condition, Predictions]
    """The predictions under each condition; empty unless they were kept."""


def tokenizer_for(trained: TrainedModel, spec: str | None = None, device: str = "cpu") -> Tokenizer:
    """Return the tokenizer of the codes that a network was trained on; `spec` is another name of it.

    Of ready codes it is one whose codebook has exactly their vectors.

    Raises TokenizerError if no tokenizer is known or if it cannot be loaded, ModelError if it is another.
    """
    identity = trained.tokenizer
    if spec is None:
        tokenizer = load_named(identity, device, "the network's file")
    else:
        tokenizer = load_tokenizer(spec, device)
    loaded: TokenizerIdentity = replace(identity_of(tokenizer, spec), kept_codes=identity.kept_codes)
    if is_codebook_of(identity, tokenizer):  # ready codes, whose fingerprint is that of their vectors
        loaded = replace(loaded, fingerprint=identity.fingerprint)
    trained.check(loaded, tokenizer.name if spec is None else f"the tokenizer {spec}")
    return tokenizer if identity.kept_codes is None else prune(tokenizer, identity.kept_codes)


def options_for(
    trained: TrainedModel,
    tokenizer: Tokenizer,
    image_size: int | None = None,
    resize: Resize | None = None,
) -> ImageOptions:
    """Return the options that prepare images as those that a network was trained on, but for what is given.

    Where the network's file does not say how they were prepared, images are squashed to the tokenizer's size.
    Raises ManifestError for a preparation that this version does not know.
    """
    steps = trained.preprocessing
    own = ImageOptions(tokenizer.image_size) if steps is None else options_of(steps, "preprocessing")
    return replace(own, size=image_size or own.size, resize=resize or own.resize)


def evaluate_images(
    trained: TrainedModel,
    source: ImageSource,
    split: str,
    encoder: Encoder,
    conditions: Sequence[Condition] = (CLEAN,),
    *,
    crop: tuple[int, int] | None = None,
    all_classes: bool = False,
    keep_predictions: bool = False,
    decoding: Decoding | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> ImageEvaluation:
    """Return the figures of a classifier on a split of images under each condition.

    `encoder` makes the codes of the images (`tokenizer_for`, `options_for`). The network sees the central
    part of the codes that it was built for, or `crop`. Classes are matched as `match_classes` does. Each
    image is decoded once, and corrupted by a function of the seed and of its place in the split.
    `on_progress` is called with the number of samples done.

    Raises ModelError if network, codes and classes do not fit each other, if no image can be read, and for
    corruptions if the tokenizer takes no pixels.
    """
    where, images = source.location, source.splits[split]
    decoding = decoding or Decoding()
    _check(trained, images, where, encoder, conditions)
    shape, form = trained.shape, form_of_tokenizer(encoder.tokenizer, encoder.grid)
    sides = shape.crop(form.grid, form.where, crop)
    arranged, embedding = shape.arranged(form), shape.embedding(form)
    classes = match_classes(source.class_names, trained.labels, shape.classes, where, all_classes=all_classes)
    logs = {condition: PredictionLog() for condition in conditions} if keep_predictions else {}
    figures = {condition: ClassifierFigures(classes, logs.get(condition)) for condition in conditions}
    skipped: list[tuple[str, str]] = []
    rows: list[int] = []
    any_grid = crop is not None
    with (
        in_eval_mode(trained.model, any_grid=any_grid) as device,
        ThreadPoolExecutor(decoding.threads) as pool,
    ):
        embedding = None if embedding is None else embedding.to(device)
        for positions, inputs in _batches(images, encoder, decoding, skipped):
            labels = _labels(images, positions).to(device)
            for condition, gathered in figures.items():
                seen = condition.of(inputs, positions, decoding.seed, pool)
                tokens = _tokens(encoder, seen, arranged, device)
                with torch.no_grad():
                    logits = trained.model(network_input(tokens, sides, embedding))
                gathered.update(logits, labels)
            rows += positions
            if on_progress is not None:
                on_progress(len(rows) + len(skipped))
    if not rows:
        raise ModelError(f"{where}: none of its images can be read; {skipped[0][0]}: {skipped[0][1]}")
    computed = {condition: gathered.compute() for condition, gathered in figures.items()}
    predictions = {condition: log.finish(np.array(rows)) for condition, log in logs.items()}
    return ImageEvaluation(computed, len(rows), skipped, sides, predictions)


def _check(
    trained: TrainedModel,
    images: ImageSplit,
    where: str,
    encoder: Encoder,
    conditions: Sequence[Condition],
) -> None:
    """Raise ModelError if a network, images, their tokenizer and conditions cannot go together."""
    if not measure_for(trained, {}).of_images:
        raise ModelError(f"expected a classifier for images, found a network of kind {trained.kind!r}")
    if images.labels(0, 0) is None:
        raise ModelError(
            f"{where}: expected images in folders named after their classes, found images without labels"
        )
    name = encoder.tokenizer.name
    if any(condition != CLEAN for condition in conditions) and not encoder.takes_pixels:
        raise ModelError(f"{name}: expected a tokenizer of pixels to corrupt, found one of files")


def _tokens(encoder: Encoder, inputs: Inputs, arranged: ArrangedTokens, device: torch.device) -> Tensor:
    """Encode inputs (B, *shape) to the tokens that a network takes."""
    codes = torch.from_numpy(encoder(inputs).astype(np.int64)).to(device)
    if not arranged.columns:
        return cast(Tensor, arranged(codes))
    values = encoder.column_values(inputs, np.empty(0, np.uint8))
    columns = [torch.from_numpy(values[name].astype(np.int64)).to(device) for name in arranged.columns]
    return cast(Tensor, arranged(codes, *columns))


def _labels(split: ImageSplit, positions: Sequence[int]) -> Tensor:
    first = positions[0]
    labels = split.labels(first, positions[-1] + 1)
    assert labels is not None  # evaluate_images has checked for labels
    return torch.from_numpy(labels[np.array(positions) - first].astype(np.int64))


def _batches(
    split: ImageSplit, encoder: Encoder, decoding: Decoding, skipped: list[tuple[str, str]]
) -> Iterator[tuple[list[int], Inputs]]:
    """Yield the positions (B,) of readable images and their inputs (B, *shape); others go to `skipped`."""
    positions: list[int] = []
    inputs: list[Inputs] = []
    for batch in decode_in_order(split, 0, len(split), encoder.decoder, decoding.workers):
        for place, outcome in enumerate(batch.outcomes):
            position = batch.start + place
            if isinstance(outcome, SampleError):
                name = split.names(position, position + 1)[0].as_py()
                skipped.append((name, str(outcome)))
                continue
            positions.append(position)
            inputs.append(batch.inputs[place].copy())  # the decoder uses the memory again
            if len(positions) == decoding.batch_size:
                yield positions, np.stack(inputs)
                positions, inputs = [], []
    if positions:
        yield positions, np.stack(inputs)
