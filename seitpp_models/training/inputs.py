"""The samples of a store that a network is trained on, and the checks that they fit it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seitpp_models.errors import ModelError, SamplesError
from seitpp_models.networks.shape import NetworkShape
from seitpp_models.networks.token_form import TokenForm, scales_of
from seitpp_models.training.resolving import Settings
from tokenstore.augment import SeveralCodebooks, TokenVectors
from tokenstore.errors import Parameter
from tokenstore.format import MASKS, NO_SYMMETRIES, TOKENS, Symmetries
from tokenstore.loading import TokenDataset
from tokenstore.reading import TokenStore, open_store

__all__ = [
    "augmented_vectors",
    "check_labels",
    "check_masks",
    "code_entropy",
    "flips_of",
    "input_arguments",
    "number_scales",
    "opened",
    "rows_of_share",
    "share_of",
    "synonyms_of",
    "training_samples",
]


def opened(store: str | Path | TokenStore) -> tuple[TokenStore, str]:
    """Return an open store and its name for messages; raises StoreError if a path has none."""
    if isinstance(store, TokenStore):
        return store, store.files.storage.url
    return open_store(str(store)), str(store)


def training_samples(store: TokenStore, split: str, columns: Sequence[str]) -> TokenDataset:
    """Return the samples of a split with `columns`.

    Raises ModelError if a column is missing; StoreError if the store has no such split.
    """
    dataset = TokenDataset(store, split, columns=[TOKENS])
    where = f"{store.files.storage.url}/{split}"
    for column in columns:
        if column not in dataset.rows.columns:
            masks = Parameter("masks")
            way = str(masks) if column == MASKS else "class folders"
            raise ModelError(
                f"{where}: expected {column}, found {', '.join(dataset.rows.columns)}; convert the images "
                f"with {way}",
                parameters=[masks],
            )
    views = store.manifest.views
    if MASKS in columns and views is not None:
        raise ModelError(
            f"{where}: expected one view of each image, found {views.count}: label maps show the image; "
            "convert the images without views"
        )
    return TokenDataset(store, split, columns=columns)


def share_of(dataset: TokenDataset, share: float, seed: int) -> TokenDataset:
    """Return a random share of each class, at least one sample: a function of `seed` and the dataset."""
    if share == 1:
        return dataset
    labels = dataset.rows.labels
    groups = np.zeros(len(dataset), np.int64) if labels is None else labels
    return dataset.select(rows_of_share(groups, share, seed))


def rows_of_share(labels: npt.NDArray[np.integer[Any]], share: float, seed: int) -> npt.NDArray[np.int64]:
    """Return the row numbers (m,) of a random share of each class of labels (N,), in order.

    Each class has at least one. A smaller share's rows of the same seed are among those of a larger one.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        rng.permutation(members)[: max(1, round(share * len(members)))]
        for members in (np.flatnonzero(labels == label) for label in np.unique(labels))
    ]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def code_entropy(dataset: TokenDataset, form: TokenForm | None = None, most: int = 10_000) -> float:
    """Return the nats of a code, by the frequency of each code in up to `most` samples, evenly spread.

    A network that knows nothing of a code's neighbours has this loss. Of several codebooks, which `form`
    tells, it is the mean over them.
    """
    manifest = dataset.rows.manifests[0]
    sizes = (manifest.codebook_size,) if form is None else form.codebook_sizes
    counts = [np.zeros(size, np.int64) for size in sizes]
    for codes in _evenly_spread(dataset, [TOKENS], most):
        planes = [codes[0]]
        if len(sizes) > 1 and form is not None:
            whole = torch.from_numpy(codes[0].reshape(-1, *manifest.grid).astype(np.int64))
            planes = [plane.numpy() for plane in form.arranged(as_codes=True)(whole).unbind(1)]
        for number, plane in enumerate(planes):
            counts[number] += np.bincount(plane.ravel(), minlength=sizes[number])
    entropies = []
    for each in counts:
        shares = each[each > 0] / each.sum()
        entropies.append(float(-(shares * np.log(shares)).sum()))
    return sum(entropies) / len(entropies)


def number_scales(dataset: TokenDataset, form: TokenForm, most: int = 2000) -> tuple[float, ...]:
    """Return the root mean square of each channel of numbers, in up to `most` samples, evenly spread."""
    arranged = form.arranged(as_codes=False)
    squares, count = np.zeros(form.channels_of_numbers), 0
    for columns in _evenly_spread(dataset, [TOKENS, *form.columns], most):
        numbers: Tensor = arranged(*(torch.from_numpy(column.astype(np.int64)) for column in columns))
        squares += numbers.double().square().sum((0, 2, 3)).numpy()
        count += numbers[:, 0].numel()
    return scales_of(squares, count)


def _evenly_spread(
    dataset: TokenDataset, columns: Sequence[str], most: int
) -> Iterator[list[npt.NDArray[Any]]]:
    """Yield the columns of up to `most` samples, evenly spread, a thousand at a time."""
    row_numbers = np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(np.int64)
    for part in np.array_split(row_numbers, -(-len(row_numbers) // 1000)):
        yield [dataset.rows.read(column, part) for column in columns]


def input_arguments(settings: Settings, form: TokenForm, samples: TokenDataset) -> dict[str, Any]:
    """Return the arguments of a network that say what it takes: codes, or their vectors, or numbers.

    Numbers are taken as such unless codes were asked for. Raises ModelError for vectors of codes that have
    none.
    """
    if settings["input"] == "codes" and (form.numbers is None or "input" in settings.requested):
        return {"channels": form.learned_channels, "codebook_size": form.codebook_size}
    vectors = form.vectors(settings["combination"])
    arguments: dict[str, Any] = {"channels": vectors.channels, "codebook_size": None}
    if form.numbers is not None:
        arguments["scales"] = number_scales(samples, form)
    return arguments


def augmented_vectors(settings: Settings, form: TokenForm, shape: NetworkShape) -> TokenVectors | None:
    """Return the vectors that augmentation works on, for a network of a shape; None if it needs none.

    Raises ModelError if codes have no vectors, and for the augmentation of codes that are numbers;
    ArgumentError if a combination was given, and there are no several vectors to combine.
    """
    vectors = _augmented_vectors(settings, form, shape)
    several = isinstance(vectors, SeveralCodebooks) and form.digits is None
    settings.refuse_idle(("combination",), "vectors of several codes a position", not several)
    return vectors


def _augmented_vectors(settings: Settings, form: TokenForm, shape: NetworkShape) -> TokenVectors | None:
    embedding = shape.embedding(form)
    if embedding is not None or settings["augment"] == "none":
        return embedding
    if form.numbers is not None:
        codes, vectors, plain = (
            Parameter("input", "codes"),
            Parameter("input", "vectors"),
            Parameter("augment", "none"),
        )
        raise ModelError(
            f"{form.where}: {codes} goes with {plain} where codes are numbers; give that, or {vectors}",
            parameters=[codes, plain, vectors],
        )
    return shape.form_of(form).vectors(settings.values.get("combination", "sum"))


def flips_of(store: TokenStore, form: TokenForm) -> Symmetries:
    """Return the symmetries of a store's tokens; none of digits and of lists, whose places are no places."""
    return NO_SYMMETRIES if form.is_list or form.digits is not None else store.symmetries


def synonyms_of(store: TokenStore, form: TokenForm) -> Tensor | None:
    """Return the nearest codes (K, M) int64 that a store has of its codes; None of several a position."""
    synonyms = store.synonyms if len(form.codebook_sizes) == 1 else None
    return None if synonyms is None else torch.from_numpy(np.array(synonyms)).long()


def check_labels(dataset: TokenDataset, classes: int) -> None:
    """Raise ModelError if a dataset has no labels, SamplesError if a label is not below `classes`."""
    labels = dataset.rows.labels
    if labels is None:
        raise ModelError(f"{dataset!r}: expected labels, found none")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise SamplesError(
            f"{dataset!r}: expected labels from 0 to {classes - 1}, found {labels[wrong[0]]} at row "
            f"{wrong[0]} and {len(wrong) - 1} more; make the network for more classes, or filter the store",
            wrong,
        )


def check_masks(dataset: TokenDataset, classes: int, ignore_index: int, batch: int = 256) -> int:
    """Return the number of labels, from 0 to the largest that is not ignored.

    Labels of `classes` go from 0 to `classes` - 1, or to `classes` if the ignored one is among them, as in
    ADE20K, where 0 is no class and 150 is the last.

    Raises ModelError if label maps do not fit their grids, SamplesError if one has unknown labels.
    """
    last = classes if ignore_index < classes else classes - 1
    largest = 0
    shape, grid = dataset.column(MASKS).shape, dataset.rows.manifests[0].grid[-2:]
    if len(shape) != 2 or any(side % places for side, places in zip(shape, grid, strict=True)):
        size = Parameter("mask_size")
        raise ModelError(
            f"{dataset!r}: expected label maps of whole multiples of the grid {grid}, found {shape}; convert "
            f"the images with another {size}",
            parameters=[size],
        )
    for start in range(0, len(dataset), batch):
        row_numbers = np.arange(start, min(start + batch, len(dataset)))
        masks = dataset.rows.read(MASKS, row_numbers)
        largest = max(largest, int(np.max(masks, initial=0, where=masks != ignore_index)))
        wrong = (masks > last) & (masks != ignore_index)
        if wrong.any():
            row, *_ = np.argwhere(wrong)[0]
            parameters = Parameter("classes"), Parameter("ignore_index")
            raise SamplesError(
                f"{dataset!r}: expected labels from 0 to {last} or {ignore_index}, which is ignored, "
                f"found {masks[row][wrong[row]][0]} in the map of row {row_numbers[row]}; give "
                f"{parameters[0]} or {parameters[1]}",
                row_numbers[wrong.any((1, 2))],
                parameters=parameters,
            )
    return largest + 1
