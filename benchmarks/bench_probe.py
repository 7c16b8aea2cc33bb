"""A benchmark: what codes say of an image, to a linear classifier over the codes of small images.

    python benchmarks/bench_probe.py TINY_IMAGENET [--train 20000] [--val 5000] [--tokenizer default]

TINY_IMAGENET is a source of 64x64 images with labels and splits `train` and `val`. Every contender encodes
the same images once, and the same classifier learns from each of three sets of features of its codes:

- vectors: the mean over the grid of the codes' vectors;
- histogram: the square root of each code's share of the grid (Hellinger);
- both, one beside the other.

Contenders are the tokenizers named; k-means over patches of 8x8x3 pixels of the training images, with as many
codes as the first tokenizer and its centroids, of 192 dimensions, as vectors; and JPEG's DCT coefficients
(tokenizer `dct`, read as conversion reads them). The vectors of `dct` are each plane's mean coefficient. Its
histogram counts each plane's values in bins over three standard deviations to both sides of zero, values
beyond in the outermost ones, so many bins that it has about as many features as the others' histograms.

Features are standardised on the training images. The classifier is ridge regression to one-hot labels; its
penalty is chosen on a tenth of the training images that is kept out, and it is fitted again to all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from tokenstore.errors import SampleError
from tokenstore.machine import available_cores
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource, ImageSplit
from tokenstore.sources.images import Decoder, ImageOptions, PixelDecoder
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.encoder import Encoder
from tokenstore.tokenizers.registry import load_tokenizer

SIDE = 64
OPTIONS = ImageOptions(SIDE)
PATCH = 8
FITTED_PATCHES = 200_000
PENALTIES = [10.0 ** (half / 2) for half in range(13)]
"""The penalties to choose from, for features of unit variance."""
BATCH = 256

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Part:
    """Some images of a split, as encoded files."""

    files: list[bytes]
    labels: Integers


@dataclass(frozen=True)
class Features:
    """The features of the training images and of the others, (n, D) each, by one contender."""

    vectors: tuple[Floats, Floats]
    histogram: tuple[Floats, Floats]


def read_part(split: ImageSplit, count: int) -> Part:
    """Read up to `count` images evenly spaced over a split, which has its classes one after another."""
    positions = np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int).tolist()
    files = []
    for index in positions:
        data = split.request(index, index + 1).read()[0]
        if isinstance(data, SampleError):
            raise data
        files.append(data)
    labels = split.labels(0, len(split))
    if labels is None:
        raise click.UsageError("expected images with labels, as class folders give them")
    return Part(files, labels[positions])


def codes_of(tokenizer: Tokenizer, files: Sequence[bytes]) -> Integers:
    """Encode files to codes (n, *grid), as conversion does."""
    encoder = Encoder(tokenizer, OPTIONS)
    starts = range(0, len(files), BATCH)
    return np.concatenate(
        [encoder(decoded(encoder.decoder, files[start : start + BATCH])) for start in starts]
    )


def decoded(decoder: Decoder, files: Sequence[bytes]) -> npt.NDArray[Any]:
    """Decode files to pixels."""
    inputs = np.empty((len(files), *decoder.shape), decoder.dtype)
    for data, out in zip(files, inputs, strict=True):
        decoder.decode(data, out)
    return inputs


def hellinger(codes: Integers, size: int) -> Floats:
    """Return the square root of each code's share of an image: codes (n, positions) to (n, size)."""
    samples, positions = codes.shape
    cells = np.arange(samples)[:, None] * size + codes
    counts = np.bincount(cells.ravel(), minlength=samples * size).reshape(samples, size)
    return np.sqrt(counts / positions, dtype=np.float32)


def codebook_features(codes: Sequence[Integers], codebook: Floats) -> Features:
    """Return features of codes (n, positions) of the training images and of the others."""
    means = [codebook[each].mean(axis=1) for each in codes]
    histograms = [hellinger(each, len(codebook)) for each in codes]
    return Features((means[0], means[1]), (histograms[0], histograms[1]))


def tokenizer_features(tokenizer: Tokenizer, train: Part, val: Part) -> Features:
    """Return features of a tokenizer's codes of both parts."""
    if tokenizer.codebook is None or len(tokenizer.codebook_sizes) > 1:
        raise click.UsageError(f"{tokenizer.name}: expected a tokenizer with one codebook of vectors")
    codes = [codes_of(tokenizer, part.files) for part in (train, val)]
    return codebook_features([each.reshape(len(each), -1) for each in codes], tokenizer.codebook)


def dct_features(tokenizer: Tokenizer, train: Part, val: Part, size: int) -> Features:
    """Return features of the tokenizer `dct`, with about `size` in the histogram."""
    planes, zero = len(tokenizer.codebook_sizes), tokenizer.codebook_sizes[0] // 2
    codes = [codes_of(tokenizer, part.files) for part in (train, val)]
    values = [each.reshape(len(each), planes, -1).astype(np.int32) - zero for each in codes]
    means = [each.mean(axis=2, dtype=np.float32) for each in values]
    reach = max(1, size // planes // 2)
    width = np.maximum(1, 3 * values[0].std(axis=(0, 2), dtype=np.float64)[:, None] / (reach + 0.5))
    bins = [np.clip(np.rint(each / width), -reach, reach).astype(np.int64) + reach for each in values]
    histograms = [
        np.concatenate([hellinger(each[:, plane], 2 * reach + 1) for plane in range(planes)], axis=1)
        for each in bins
    ]
    return Features((means[0], means[1]), (histograms[0], histograms[1]))


def patches_of(files: Sequence[bytes]) -> Floats:
    """Cut the files' images into patches (n, positions, 192) with values in 0..1."""
    images = decoded(PixelDecoder(OPTIONS), files)
    images = images.reshape(len(files), SIDE // PATCH, PATCH, SIDE // PATCH, PATCH, 3).swapaxes(2, 3)
    return images.reshape(len(files), -1, 3 * PATCH**2).astype(np.float32) / 255


def kmeans_features(train: Part, val: Part, size: int) -> Features:
    """Return features of k-means over patches, with `size` codes."""
    per_image = (SIDE // PATCH) ** 2
    fitted_on = train.files[:: max(1, len(train.files) * per_image // FITTED_PATCHES)]
    rows = patches_of(fitted_on).reshape(-1, 3 * PATCH**2)
    # subtle: k-means++ over all rows would take longer than everything else here
    kmeans = MiniBatchKMeans(size, batch_size=8192, init_size=4 * size, n_init=1, max_iter=10, random_state=0)
    codebook = torch.from_numpy(kmeans.fit(rows).cluster_centers_.astype(np.float32))
    codes = []
    for part in (train, val):
        batches = (part.files[start : start + BATCH] for start in range(0, len(part.files), BATCH))
        nearest_codes = [nearest(torch.from_numpy(patches_of(batch)), codebook) for batch in batches]
        codes.append(torch.cat(nearest_codes).numpy())
    return codebook_features(codes, codebook.numpy())


def nearest(rows: Tensor, codebook: Tensor) -> Tensor:
    """Return codes (n, positions) of the codebook's vectors nearest to vectors (n, positions, D)."""
    return (rows @ codebook.T - codebook.square().sum(1) / 2).argmax(-1)


class Ridge:
    """Ridge regression from standardised features to one-hot labels, in closed form."""

    def __init__(self, features: Floats, labels: Integers, classes: int) -> None:
        rows = torch.from_numpy(features)
        self._mean, deviation = rows.mean(0), rows.std(0, correction=0)
        self._scale = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0)
        rows = self._standardised(features)
        targets = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), classes).float()
        self._offset = targets.mean(0)
        self._gram = (rows.T @ rows).double()
        self._moments = (rows.T @ (targets - self._offset)).double()

    def _standardised(self, features: Floats) -> Tensor:
        return (torch.from_numpy(features) - self._mean) * self._scale

    def scores(self, features: Floats, penalty: float) -> Tensor:
        """Return a score for each class, (n, classes)."""
        eye = torch.eye(len(self._gram), dtype=torch.float64)
        factor = torch.linalg.cholesky(self._gram + penalty * eye)
        weights = torch.cholesky_solve(self._moments, factor).float()
        return self._standardised(features) @ weights + self._offset


def accuracy(scores: Tensor, labels: Integers, best: int) -> float:
    """Return the share of images whose label is among the `best` highest scores."""
    hits = scores.topk(best, dim=1).indices == torch.from_numpy(labels).long()[:, None]
    return float(hits.any(1).double().mean())


def probe(
    train: Floats, train_labels: Integers, val: Floats, val_labels: Integers, classes: int
) -> tuple[float, float, float]:
    """Fit the classifier; return top-1 and top-5 on `val`, and the penalty."""
    kept_out = np.random.default_rng(0).random(len(train)) < 0.1
    trial = Ridge(train[~kept_out], train_labels[~kept_out], classes)
    tried = [
        accuracy(trial.scores(train[kept_out], penalty), train_labels[kept_out], 1) for penalty in PENALTIES
    ]
    penalty = PENALTIES[int(np.argmax(tried))]
    scores = Ridge(train, train_labels, classes).scores(val, penalty)
    return accuracy(scores, val_labels, 1), accuracy(scores, val_labels, min(5, classes)), penalty


@click.command()
@click.argument("tiny_imagenet", type=click.Path(exists=True, path_type=Path))
@click.option("--train", "train_count", default=20_000, show_default=True, help="Images to learn from.")
@click.option("--val", "val_count", default=5_000, show_default=True, help="Images to measure on.")
@click.option("--tokenizer", "specs", multiple=True, default=("default",), show_default=True)
@click.option("--threads", default=available_cores(), show_default="one a core", help="Of torch.")
def main(tiny_imagenet: Path, train_count: int, val_count: int, specs: tuple[str, ...], threads: int) -> None:
    """Measure how well a linear classifier knows the images of TINY_IMAGENET by their codes."""
    torch.set_num_threads(threads)
    source = open_source(tiny_imagenet)
    if not isinstance(source, ImageSource) or not {"train", "val"} <= set(source.splits):
        raise click.UsageError(f"{tiny_imagenet}: expected images in the splits train and val")
    train, val = (
        read_part(source.splits[name], count) for name, count in (("train", train_count), ("val", val_count))
    )
    classes = int(max(train.labels.max(), val.labels.max())) + 1
    tokenizers = {spec: load_tokenizer(spec) for spec in specs}
    size = max(tokenizers[specs[0]].codebook_sizes)
    contenders: dict[str, Callable[[], Features]] = {
        spec: partial(tokenizer_features, tokenizer, train, val) for spec, tokenizer in tokenizers.items()
    }
    contenders[f"k-means, {PATCH}x{PATCH} pixels"] = partial(kmeans_features, train, val, size)
    contenders["dct"] = partial(dct_features, load_tokenizer("dct"), train, val, size)
    console = Console(width=110)
    table = Table("codes", "features", "dimensions", "top-1", "top-5", "penalty", "encoding, s")
    table.title = f"{len(train.files):,} images of {classes} classes to learn from, {len(val.files):,} others"
    for column in table.columns[2:]:
        column.justify = "right"
    for name, prepare in contenders.items():
        started = time.perf_counter()
        features = prepare()
        taken = f"{time.perf_counter() - started:.0f}"
        sets = {
            "vectors": features.vectors,
            "histogram": features.histogram,
            "both": tuple(
                np.concatenate(pair, axis=1)
                for pair in zip(features.vectors, features.histogram, strict=True)
            ),
        }
        for kind, (known, unknown) in sets.items():
            top_1, top_5, penalty = probe(known, train.labels, unknown, val.labels, classes)
            shares = (f"{top_1:.1%}", f"{top_5:.1%}", f"{penalty:,.0f}")
            table.add_row(name, kind, f"{known.shape[1]:,}", *shares, taken)
            name = taken = ""
        table.add_section()
    console.print(table)
    console.print(f"by chance: {1 / classes:.1%} and {min(5, classes) / classes:.1%}")


if __name__ == "__main__":
    main()
