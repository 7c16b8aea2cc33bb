"""How good a classifier of tokens is on images, as they are and corrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.class_names import match_classes
from seitpp_models.evaluation.corruptions import corrupted_batch
from seitpp_models.evaluation.figures import ClassifierFigures, in_eval_mode, network_input
from seitpp_models.evaluation.on_stores import CLASSIFIERS
from seitpp_models.weights.files import TrainedModel
from tokenstore.errors import SampleError
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.sources.base import ImageSource, ImageSplit
from tokenstore.sources.decoding import Inputs, decode_in_order
from tokenstore.sources.images import PixelDecoder
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.encoder import Encoder, identity_of
from tokenstore.tokenizers.pruned import prune
from tokenstore.tokenizers.registry import load_tokenizer
from tokenstore.tokenizers.store_tokenizer import load_named

__all__ = ["CLEAN", "Condition", "ImageEvaluation", "evaluate_images", "tokenizer_for"]


@dataclass(frozen=True)
class Condition:
    """How images are corrupted before they become tokens."""

    corruption: str | None = None
    severity: int = 0

    def of(self, images: Inputs, positions: Sequence[int], seed: int, pool: Executor) -> Inputs:
        """Images (B, H, W, 3) as they look then."""
        if self.corruption is None:
            return images
        return corrupted_batch(images, positions, self.corruption, self.severity, seed, pool)


CLEAN = Condition()


@dataclass(frozen=True)
class ImageEvaluation:
    """What came of it."""

    figures: Mapping[Condition, Mapping[str, float]]
    """Of each condition `loss`, `top1` and `top5`."""
    samples: int
    skipped: Sequence[tuple[str, str]]
    """Names of images that could not be read, and why; they count nowhere."""
    crop: tuple[int, int]
    """Of each grid, what the network saw."""


def tokenizer_for(trained: TrainedModel, spec: str | None = None, device: str = "cpu") -> Tokenizer:
    """The tokenizer of the codes that a network was trained on; `spec` is another name of it.

    Raises TokenizerError where none is known or it cannot be loaded, ModelError where it is another.
    """
    wanted = trained.tokenizer
    if spec is None:
        tokenizer = load_named(wanted, device, "the network's file")
    else:
        tokenizer = load_tokenizer(spec, device)
    found: TokenizerIdentity = replace(identity_of(tokenizer, spec), kept_codes=wanted.kept_codes)
    trained.check(found, f"--tokenizer {spec}" if spec is not None else tokenizer.name)
    return tokenizer if wanted.kept_codes is None else prune(tokenizer, wanted.kept_codes)


def evaluate_images(
    trained: TrainedModel,
    source: ImageSource,
    split: str,
    encoder: Encoder,
    conditions: Sequence[Condition] = (CLEAN,),
    *,
    crop: tuple[int, int] | None = None,
    all_classes: bool = False,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    threads: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> ImageEvaluation:
    """Figures of a classifier on a split of images, by an encoder of `tokenizer_for`, under each condition.

    The network sees the central part of the codes that it was built for, or `crop`. Classes are matched as
    `match_classes` does. Each image is decoded once, in `workers` processes, and corrupted, in `threads`, by
    a function of `seed` and of its place in the split. `on_progress` is told how many samples are done.

    Raises ModelError where network, codes and classes do not fit each other, where no image can be read, and
    for corruptions where the tokenizer takes no pixels.
    """
    where = source.location
    if trained.kind not in CLASSIFIERS:
        raise ModelError(f"expected a classifier for images, found a network of kind {trained.kind!r}")
    chosen = source.splits[split]
    if chosen.labels(0, 0) is None:
        raise ModelError(
            f"{where}: expected images in folders named after their classes, found images without labels"
        )
    name = encoder.tokenizer.name
    if any(condition != CLEAN for condition in conditions) and not isinstance(encoder.decoder, PixelDecoder):
        raise ModelError(f"{name}: expected a tokenizer of pixels to corrupt, found one of files")
    sizes = encoder.tokenizer.codebook_sizes
    if len(sizes) != 1:
        raise ModelError(f"{name}: expected a tokenizer of one codebook, found {len(sizes)}")
    shape = trained.shape
    sides = shape.crop(encoder.grid, name, crop)
    embedding = shape.embedding(sizes[0], encoder.tokenizer.codebook, name)
    classes = match_classes(source.class_names, trained.labels, shape.classes, where, all_classes=all_classes)
    figures = {condition: ClassifierFigures(classes) for condition in conditions}
    skipped: list[tuple[str, str]] = []
    samples = 0
    with in_eval_mode(trained.model) as device, ThreadPoolExecutor(threads) as pool:
        embedding = None if embedding is None else embedding.to(device)
        for positions, inputs in _batches(chosen, encoder, batch_size, workers, skipped):
            labels = _labels(chosen, positions).to(device)
            for condition, gathered in figures.items():
                seen = condition.of(inputs, positions, seed, pool)
                codes = torch.from_numpy(encoder(seen).astype(np.int64)).to(device)
                with torch.no_grad():
                    logits = trained.model(network_input(codes, sides, embedding))
                gathered.update(logits, labels)
            samples += len(positions)
            if on_progress is not None:
                on_progress(samples + len(skipped))
    if not samples:
        raise ModelError(f"{where}: none of its images can be read; {skipped[0][0]}: {skipped[0][1]}")
    computed = {condition: gathered.compute() for condition, gathered in figures.items()}
    return ImageEvaluation(computed, samples, skipped, sides)


def _labels(split: ImageSplit, positions: Sequence[int]) -> Tensor:
    first = positions[0]
    labels = split.labels(first, positions[-1] + 1)
    assert labels is not None  # as it was looked up before
    return torch.from_numpy(labels[np.array(positions) - first].astype(np.int64))


def _batches(
    split: ImageSplit, encoder: Encoder, batch_size: int, workers: int, skipped: list[tuple[str, str]]
) -> Iterator[tuple[list[int], Inputs]]:
    """Places (B,) of readable images and their inputs (B, *shape); what cannot be read goes to `skipped`."""
    positions: list[int] = []
    inputs: list[Inputs] = []
    for batch in decode_in_order(split, 0, len(split), encoder.decoder, workers):
        for place, outcome in enumerate(batch.outcomes):
            position = batch.start + place
            if isinstance(outcome, SampleError):
                name = split.names(position, position + 1)[0].as_py()
                skipped.append((name, str(outcome)))
                continue
            positions.append(position)
            inputs.append(batch.inputs[place].copy())  # the memory is used again
            if len(positions) == batch_size:
                yield positions, np.stack(inputs)
                positions, inputs = [], []
    if positions:
        yield positions, np.stack(inputs)
