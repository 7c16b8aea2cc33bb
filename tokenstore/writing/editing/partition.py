"""The division of a split into several, such as training and validation samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.errors import ArgumentError, ManifestError, Parameter, StoreError, did_you_mean
from tokenstore.format import NAME
from tokenstore.reading import SplitReader, TokenStore
from tokenstore.reading.open import StorePath
from tokenstore.reading.row_numbers import Indices, Member, RowNumbers, row_list, rows_where
from tokenstore.storage import Storage
from tokenstore.writing.blocks import block_executor
from tokenstore.writing.drawing import drawn
from tokenstore.writing.editing.new_store import (
    EditedStore,
    OnSamples,
    new_store,
    opened_places,
    operation,
    same_spec,
)
from tokenstore.writing.editing.rows import PickedRows
from tokenstore.writing.editing.select import check_seed, write_picked
from tokenstore.writing.writer import StoreWriter

__all__ = ["divided", "split"]


def split(
    store: StorePath | TokenStore,
    out: StorePath | Storage,
    *,
    shares: Mapping[str, float],
    of: str | None = None,
    stratified: bool = False,
    seed: int = 0,
    jobs: int | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    on_progress: OnSamples | None = None,
) -> EditedStore:
    """Write a store to `out` in which samples of one split of `store` are splits of their own.

    `shares` are the shares of the samples that go to each new split, such as `{"val": 0.05}`, below 1 in all;
    samples stay in their order, and all others stay in the split. `of` is the split that is divided, not
    needed where the store has only one. With `stratified` the share of each class is the same, but for less
    than one sample. The draw is a pure function of `seed`, the shares, the number of samples and, with
    `stratified`, the labels. `jobs`, `resume`, the options of storage and `on_progress` are as in `select`.
    Other splits are linked, or copied as they are.

    Raises ArgumentError for shares, names or a seed that cannot be used; StoreError for an unknown split, or
    one without labels where these are needed; DamageError; StoreExistsError if something else is at `out`;
    ConversionError if an unfinished store there is of another operation; and the errors of `tokenstore.open`.
    """
    executor = block_executor(jobs, None)
    check_seed(seed)
    places = opened_places([store], out, storage_options, target_storage_options)
    (opened,) = places.stores
    name = _divided_split(opened, of)
    _check_shares(opened, shares)
    done = operation(
        "split", [opened], shares=dict(shares), of=name, stratified=stratified or None, seed=int(seed)
    )

    rows = divided(opened[name], shares, stratified, seed)
    picked: dict[str, list[PickedRows]] = {}
    for each in opened.splits:
        if each == name:
            picked[each] = [PickedRows(opened[name], rows[None])]
            picked |= {new: [PickedRows(opened[name], rows[new], has_skips=False)] for new in shares}
        else:
            picked[each] = [PickedRows(opened[each])]

    def write(writer: StoreWriter) -> None:
        write_picked(writer, picked, writer.spec, executor, on_progress)

    return new_store(places.target, same_spec(opened, done), resume, write)


def divided(
    rows: SplitReader, shares: Mapping[str, float], stratified: bool, seed: int
) -> dict[str | None, RowNumbers]:
    """Draw the row numbers of each share of a split, and under None those of the rest.

    Raises ArgumentError for a share of no sample, and StoreError for a split without labels.
    """
    size = len(rows)
    labels = rows.labels if stratified else None
    if stratified and labels is None:
        raise StoreError(f"{rows!r}: expected labels to take a share of each class, found none")
    drawn_rows: dict[str | None, RowNumbers] = {}
    left: RowNumbers = rows_where(size, lambda positions: np.ones(len(positions), np.bool_))
    for number, (name, share) in enumerate(shares.items()):
        samples, named = round(share * size), Parameter("shares")
        if not 0 < samples < len(left):
            raise ArgumentError(
                f"{named}: expected some samples, but not all, of {size} for {name}, found {samples}",
                parameters=[named],
            )
        if labels is None:
            positions = drawn(len(left), samples, (seed, number))
        else:
            positions = _of_each_class(labels[left.listed()], samples, (seed, number))
        taken = left.at(positions)
        drawn_rows[name] = row_list(len(taken), size, iter([taken]))
        is_taken = _member(drawn_rows[name])
        left = _without(left, is_taken, size)
    return {None: left, **drawn_rows}


def _of_each_class(labels: npt.NDArray[np.int32], samples: int, key: tuple[int, int]) -> Indices:
    """Draw `samples` positions of labels (n,), of each class alike but for less than one, and sort them."""
    order = np.argsort(labels, kind="stable")
    classes, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    exact = counts * (samples / len(labels))
    takes = np.floor(exact).astype(np.int64)
    missing = samples - int(takes.sum())
    # the classes with the largest remainders have one more, the first of equal ones
    takes[np.argsort(takes - exact, kind="stable")[:missing]] += 1
    chosen = [
        order[start + drawn(count, take, (*key, label))]
        for label, start, count, take in zip(
            classes.tolist(), starts.tolist(), counts.tolist(), takes.tolist(), strict=True
        )
    ]
    return np.sort(np.concatenate(chosen))


def _member(numbers: RowNumbers) -> Member:
    return lambda rows: numbers.before(rows + 1) > numbers.before(rows)


def _without(left: RowNumbers, is_taken: Member, size: int) -> RowNumbers:
    return left.where(lambda positions: ~is_taken(left.at(positions)), size)


def _divided_split(store: TokenStore, of: str | None) -> str:
    if of is None and len(store.splits) != 1:
        named = Parameter("of")
        raise ArgumentError(
            f"{store.files.storage}: expected a store of one split, found {', '.join(store.splits)}. Name "
            "the "
            f"one to divide by {named}",
            parameters=[named],
        )
    name = store.splits[0] if of is None else of
    if name not in store.splits:
        raise StoreError(
            f"{store.files.storage}: no split {name!r}; it has {', '.join(store.splits)}"
            f"{did_you_mean(name, store.splits)}"
        )
    return name


def _check_shares(store: TokenStore, shares: Mapping[str, float]) -> None:
    named = Parameter("shares")
    if not shares or not all(share > 0 for share in shares.values()) or not sum(shares.values()) < 1:
        raise ArgumentError(
            f"{named}: expected shares above 0, below 1 in all, found {dict(shares) or 'none'}",
            parameters=[named],
        )
    for name in shares:
        if name in store.splits:
            raise ArgumentError(
                f"{named}: expected names of new splits, found {name!r}, which {store.files.storage} has",
                parameters=[named],
            )
        if not NAME.fullmatch(name):
            raise ManifestError(f"{name!r} cannot name a split: use letters, digits, _ and -")
