"""TokenDataset: a store's split as a map-style dataset for torch, and views of it."""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset

from tokenstore.errors import StoreError, did_you_mean
from tokenstore.format import LABELS, TOKENS, Column, TokenizerIdentity
from tokenstore.loading.columns import collated, sample_values
from tokenstore.loading.display import THUMBNAILS, dataset_html, samples_sheet
from tokenstore.loading.orders import Shuffle, order_of
from tokenstore.loading.pipeline import no_end
from tokenstore.loading.sampling import Order, Permutation
from tokenstore.loading.views import HAVE_VIEWS, View, checked_view, views_of
from tokenstore.randomness import check_key
from tokenstore.reading import (
    Indices,
    Rows,
    SplitReader,
    Subset,
    TokenStore,
    normalised,
    open_store,
    row_bits,
    source_indices,
)
from tokenstore.storage import Retries
from tokenstore.tokenizers import Tokenizer

__all__ = ["Shuffle", "TokenDataset"]

Transform: TypeAlias = Callable[[Any], Any]

_SPLIT_KEY = 0x73706C6974
"""The part of a key that sets the draw of `split` apart from the orders of epochs of the same seed."""


class TokenDataset(Dataset[Any]):
    """The samples of one split, each a tuple of its columns; a single column is not wrapped in a tuple.

    `dataset[i]` is `(tokens, label)`: tokens (*grid) int64, label int. `dataset[a:b]`, like
    `dataset[[3, 1]]`, is a collated batch: tokens (m, *grid), labels (m,) int64. `columns` lists aligned
    arrays in the order they come in; by default the tokens and, where the split has them, the labels. A
    column of scalars gives Python numbers, one of texts `str`, any other column tensors.

    `transform` is applied to each sample's tokens. `target_transform` is applied to its label or, without
    labels, to its first column that is not the tokens. A transform with a method `of_rows(rows, values)`,
    such as `tokenstore.augment.PerSample`, is called once a batch. Its arguments are the samples' row numbers
    (m,) in the split, or in the concatenation of several, and their values; it returns a list of m values.
    `indices` (m,) restricts and orders the dataset, as `select` does.

    Of a store with views, `view` says which one a sample's tokens (*grid) are: a number, or "random", the
    default: one that seed, epoch and row decide. The epoch is a TokenLoader's own, and that of `set_epoch`
    elsewhere. "all" gives all V views, (V, *grid). The column `view_boxes` follows the view.

    Batches of indices (`__getitems__`, which torch's DataLoader calls) are decoded in one call. The dataset
    pickles to its location and is safe in forked, spawned and persistent workers. `TokenLoader` reads a
    dataset faster than a DataLoader, in an order that does not depend on the number of ranks.

    Remote stores, and the arguments from `storage_options` on, are as in `tokenstore.open`.

    Raises StoreError for a split or column that the store does not have, ValueError where `columns` is not a
    list of names or for a view that samples do not have, IndexError for indices out of range, and as
    `tokenstore.open` does.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | TokenStore,
        split: str = "train",
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        columns: Sequence[str] | None = None,
        indices: Sequence[int] | Indices | None = None,
        storage_options: Mapping[str, Any] | None = None,
        *,
        view: View | None = None,
        retries: Retries | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_limit: int | str = "10GB",
        cache_policy: Literal["lru", "pin"] = "lru",
    ) -> None:
        if isinstance(path, TokenStore):
            store = path
        else:
            store = open_store(
                path,
                storage_options=storage_options,
                retries=retries,
                cache_dir=cache_dir,
                cache_limit=cache_limit,
                cache_policy=cache_policy,
            )
        rows: Rows = store[split]
        rows = rows if indices is None else Subset(rows, indices)
        self._set_up(rows, columns, transform, target_transform, view)

    def _set_up(
        self,
        rows: Rows,
        columns: Sequence[str] | None,
        transform: Transform | None,
        target_transform: Transform | None,
        view: View | None = None,
    ) -> None:
        self.rows: Rows = rows
        self._choose_view(view)
        self.transform = transform
        self.target_transform = target_transform
        if columns is None:
            columns = [name for name in (TOKENS, LABELS) if name in rows.columns]
        if isinstance(columns, str) or not columns:
            raise ValueError(f"columns: expected a list of names such as ['tokens'], found {columns!r}")
        self.columns = tuple(columns)
        for name in self.columns:
            self.column(name)

    def _choose_view(self, view: View | None) -> None:
        self.view = checked_view(view, self.rows)
        self._drawn_by = None
        if self.view == "random":  # subtle: shared, so that workers that were started before see the epoch
            self._drawn_by = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int, seed: int = 0) -> None:
        """Choose the epoch, and the seed, whose views indexing gives; a TokenLoader chooses by itself.

        The choice also is that of subsets, and of worker processes that were started before. Raises
        ValueError for numbers that are not of 64 bits.
        """
        check_key(seed, epoch)
        if self._drawn_by is not None:
            self._drawn_by[0], self._drawn_by[1] = (each - 2**64 * (each >= 2**63) for each in (seed, epoch))

    def with_view(self, view: View | None) -> Self:
        """Return a dataset of the same samples that gives another view; raises ValueError as `view` does."""
        dataset = copy.copy(self)
        dataset._choose_view(view)
        return dataset

    def column(self, name: str) -> Column:
        """Return the dtype, the shape and the form of the stored samples of a column, as they are given.

        Raises StoreError for a column that the dataset does not have.
        """
        if name in HAVE_VIEWS and self.view not in (None, "all"):
            return self.rows.view_column(name)
        return self.rows.column(name)

    def views_of(self, row_numbers: Indices, key: tuple[int, int] | None = None) -> Indices | int | None:
        """Return the view (m,) that is given of each sample at `row_numbers` (m,), or the one of all.

        None stands for all views, and for samples without. `key` is (seed, epoch), by default that of
        `set_epoch`.
        """
        if key is None:
            key = (0, 0) if self._drawn_by is None else (int(self._drawn_by[0]), int(self._drawn_by[1]))
        return views_of(self.view, self.rows, row_numbers, *key)

    @property
    def reader(self) -> SplitReader:
        """The split that samples come from. Raises StoreError for a concatenation."""
        base = self.rows.base
        for split in base.splits:
            if split is base:
                return split
        raise StoreError(f"expected a dataset of one split, found {base!r}")

    @property
    def indices(self) -> Indices | None:
        """The row numbers of the dataset's samples in the split, in order; None for all samples."""
        return self.rows.indices

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, by label; None where the store has none."""
        return self.rows.manifests[0].class_names

    @property
    def tokenizer(self) -> TokenizerIdentity:
        """The identity of the tokenizer that made the codes."""
        return self.rows.manifests[0].tokenizer

    @property
    def fingerprint(self) -> str:
        """An identity of the samples and their order, which does not depend on where their stores are."""
        return self.rows.fingerprint

    def samples_table(self) -> Any:
        """Return the origin of every sample, in the dataset's order, as a `pyarrow.Table` of len(self) rows.

        Its columns are `source_index` and `source` (the number and name in the source), `label_name`, `width`
        and `height` in pixels, and `source_bytes`; null where unknown. Raises DamageError.
        """
        return self._ordered_rows().samples_table()

    def samples_batches(self) -> Iterator[Any]:
        """Yield the rows of `samples_table()` in order, as `pyarrow.RecordBatch`es; raises DamageError.

        Memory does not grow with the number of samples, unless they are in another order than in the store.
        """
        return self._ordered_rows().samples_batches()

    def __repr__(self) -> str:
        grid = " x ".join(map(str, self.rows.manifests[0].grid))
        sizes = self.rows.manifests[0].codebook_sizes
        codebooks = f"codebook{'s'[: len(sizes) - 1]} of {', '.join(map(str, sizes))}"
        if len(sizes) > 1 and len(set(sizes)) == 1:
            codebooks = f"{len(sizes)} codebooks of {sizes[0]}"
        classes = "no class names" if self.class_names is None else f"{len(self.class_names):,} classes"
        views = "" if self.view is None else f"view {self.view!r}, "
        return (
            f"{type(self).__name__}({len(self):,} samples of {', '.join(self.columns)}, {views}grid {grid}, "
            f"{codebooks}, {classes}, {self.rows!r})"
        )

    def show(self, n: int = 8, *, tokenizer: Tokenizer | None = None) -> Image.Image:
        """Return a sheet of the first n samples and their labels, decoded by the store's tokenizer or yours.

        Raises StoreError for no sample or a sheet that is too large, TokenizerError where none is known.
        """
        return samples_sheet(self, self._row_numbers(normalised(slice(n), len(self))), tokenizer)

    def _repr_html_(self) -> str:
        return dataset_html(self, self._row_numbers(normalised(slice(THUMBNAILS), len(self))))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        # subtle: without this method, Python would take an IndexError of a transform for the end
        for position in range(len(self)):
            yield self[position]

    def __getitem__(self, index: int | slice | Sequence[int] | Indices) -> Any:
        if isinstance(index, slice) or np.ndim(index):
            positions = normalised(index, len(self))
            if not len(positions):
                raise IndexError(f"{index} selects none of {len(self)} samples")
            return self.collate(self.samples(self._row_numbers(positions)))
        return self.samples(self._row_numbers(normalised([index], len(self))))[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        return self.samples(self._row_numbers(normalised(indices, len(self))))

    def collate(self, samples: Sequence[Any]) -> Any:
        """Return the batch of some samples, as torch's `default_collate`; texts and lists are a list each.

        It is the `collate_fn` for a DataLoader of columns whose samples are lists of different lengths.
        """
        targets = () if self.target_transform is None else (self._target,)

        def is_ragged(name: str) -> bool:
            return self.column(name).is_ragged and name not in targets

        return collated(self.columns, is_ragged, samples)

    def select(self, indices: Sequence[int] | Indices) -> Self:
        """Return a dataset of the samples at `indices` (m,), in that order; nothing is copied.

        Raises IndexError for indices out of range.
        """
        return self._subset(lambda: Subset(self.rows, indices))

    def filter(self, *, labels: int | str | Iterable[int | str]) -> Self:
        """Return a dataset of the samples with one of `labels`: class indices or names, or a single one.

        Raises StoreError where the dataset has no labels, or labels that mean different classes; ValueError
        for a label that no class has or, in a store without names of classes, no sample.
        """
        if LABELS not in self.rows.columns:
            raise StoreError(f"expected a dataset with labels, found {self!r}")
        if any(manifest.class_names != self.class_names for manifest in self.rows.manifests):
            raise StoreError(f"labels mean different classes in {self!r}: filter before concatenating")
        requested = np.array([self._class_index(label) for label in _listed(labels)], np.int64)
        return self._where(lambda positions: np.isin(self.rows.read(LABELS, positions), requested))

    def _class_index(self, label: Any) -> int:
        """Return the index of a class by its name or index; raise ValueError if there is none."""
        names = self.class_names
        if isinstance(label, str):
            if names is None or label not in names:
                near = did_you_mean(label, names or ())
                raise ValueError(f"labels: expected a class name of {self.rows!r}, found {label!r}{near}")
            return names.index(label)
        try:
            index = operator.index(label)
        except TypeError:
            raise ValueError(f"labels: expected class indices or names, found {label!r}") from None
        if names is not None and not 0 <= index < len(names):
            raise ValueError(f"labels: expected class indices from 0 to {len(names) - 1}, found {index}")
        known = self.rows.base.labels if names is None else None
        if known is not None and not (known == index).any():
            within = f"labels from {known.min()} to {known.max()}" if len(known) else "no samples"
            raise ValueError(
                f"labels: expected some that samples of {self.rows.base!r} have, found {index}; "
                f"it has {within}"
            )
        return index

    def split(self, fraction: float, seed: int = 0) -> tuple[Self, Self]:
        """Return two datasets without a sample in common: the rest, and a random `fraction` of the samples.

        Both have the samples in the dataset's order, and are the same for the same seed. Raises ValueError
        for a fraction that is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction: expected a number between 0 and 1, found {fraction}")
        place = Permutation(len(self), seed, _SPLIT_KEY).inverse
        count = round(fraction * len(self))
        drawn = row_bits(len(self), lambda positions: place(positions) < count)
        return self._where(drawn.has_not), self._where(drawn.has)

    def _where(self, is_member: Callable[[Indices], npt.NDArray[np.bool_]]) -> Self:
        """Return a dataset of the samples, in their order, that a function of positions (m,) tells."""
        return self._subset(lambda: Subset.where(self.rows, is_member))

    def _subset(self, rows: Callable[[], Rows]) -> Self:
        """Return a dataset of other rows. All subsets are made here, or refused by a dataset without any."""
        view = copy.copy(self)
        view.rows = rows()
        return view

    def order(self, seed: int, epoch: int, shuffle: Shuffle, window: int) -> Order:
        """Return the order of an epoch, which maps positions (m,) to row numbers of `rows`.

        `window` is the size of a window of the shuffles "block" and "lanes", in samples. Raises ValueError
        for a seed or epoch out of range.
        """
        return order_of(self.rows, shuffle, window, seed, epoch)

    def _row_numbers(self, positions: Indices) -> Indices:
        return positions

    def _ordered_rows(self) -> Rows:
        """Return the rows in the dataset's own order."""
        return self.rows

    @property
    def _target(self) -> str | None:
        others = [name for name in self.columns if name != TOKENS]
        return LABELS if LABELS in others else next(iter(others), None)

    def samples(
        self, row_numbers: Indices, prefetched: Any = None, key: tuple[int, int] | None = None
    ) -> list[Any]:
        """Return the samples of some row numbers of `rows`, transformed, as `dataset[i]` gives them.

        `prefetched` is a result of `rows.prefetch`, `key` as for `views_of`. Raises IndexError, DamageError,
        and StorageError where remote storage does not answer.
        """
        views = self.views_of(row_numbers, key)
        columns = [self._column(name, row_numbers, prefetched, views) for name in self.columns]
        for name, attribute in ((TOKENS, "transform"), (self._target, "target_transform")):
            if getattr(self, attribute) is not None and name in self.columns:
                place = self.columns.index(name)
                try:
                    columns[place] = self._transformed(getattr(self, attribute), row_numbers, columns[place])
                except StopIteration as error:
                    raise no_end(attribute) from error
        return list(columns[0]) if len(columns) == 1 else list(zip(*columns, strict=True))

    def _transformed(self, function: Any, row_numbers: Indices, values: Sequence[Any]) -> Sequence[Any]:
        of_rows = getattr(function, "of_rows", None)
        if of_rows is None:
            return [function(value) for value in values]
        results: Sequence[Any] = of_rows(source_indices(self.rows, row_numbers), values)
        if len(results) != len(values):
            raise ValueError(
                f"{function!r}: expected a value for each of {len(values)} samples, found {len(results)}"
            )
        return results

    def _column(self, name: str, row_numbers: Indices, prefetched: Any, views: object) -> Sequence[Any]:
        column, view = self.column(name), views if name in HAVE_VIEWS else None
        if name == TOKENS:
            tokens = torch.empty((len(row_numbers), *column.shape), dtype=torch.int64, device="cpu")
            self.rows.read(name, row_numbers, tokens.numpy(), prefetched, view)
            return tokens.unbind(0)
        return sample_values(column, self.rows.read(name, row_numbers, None, prefetched, view))


def _listed(labels: Any) -> list[Any]:
    """Return labels as a list; a single one, also as an array without axes, as a list of one."""
    single = isinstance(labels, str) or getattr(labels, "ndim", None) == 0
    return [labels] if single or not isinstance(labels, Iterable) else list(labels)
