"""A store open for reading, and the function that opens one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenstore.displays import two_columns
from tokenstore.format import Manifest, Symmetries
from tokenstore.reading.split import SplitReader
from tokenstore.reading.store_files import StoreFiles
from tokenstore.storage import Cache, Retries, open_storage

__all__ = ["TokenStore", "open_store"]


class TokenStore:
    """A store open for reading: `store["train"][5]` are the codes of a sample.

    Iterating gives the names of the splits. `store["test"]` raises StoreError if the store has no such split.
    """

    def __init__(self, files: StoreFiles) -> None:
        self.files = files
        self._readers: dict[str, SplitReader] = {}

    @property
    def manifest(self) -> Manifest:
        """The store's manifest."""
        return self.files.manifest

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return self.files.splits

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes by label, where the store has them."""
        return self.files.manifest.class_names

    @property
    def codebook(self) -> npt.NDArray[np.float32] | None:
        """The tokenizer's vectors (K, D) or (n, K, D), where the store has them."""
        return self.files.codebook

    @property
    def synonyms(self) -> npt.NDArray[np.int32] | None:
        """Each code's nearest codes, best first (K, M), padded with -1, where the store has them."""
        return self.files.synonyms

    @property
    def symmetries(self) -> Symmetries:
        """The permutations of codes by name: `flip` gives the codes of mirror images, in mirrored grids.

        Each is int32 (K,), or (n, K) of n codebooks. Most tokenizers have none. Raises ManifestError if they
        are none of the store's codes.
        """
        return self.files.symmetries

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)

    def __contains__(self, split: object) -> bool:
        return split in self.splits

    def __getitem__(self, split: str) -> SplitReader:
        if split not in self._readers:
            self._readers[split] = SplitReader(self.files, split)
        return self._readers[split]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {split.samples}" for name, split in self.manifest.splits.items())
        return f"TokenStore({self.files.storage.url!r}, {sizes})"

    def _repr_html_(self) -> str:
        return two_columns("TokenStore", {"place": self.files.storage.url}) + self.manifest._repr_html_()


def open_store(
    url: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    retries: Retries | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_limit: int | str = "10GB",
    cache_policy: Literal["lru", "pin"] = "lru",
) -> TokenStore:
    """Open a store for reading: a folder, a zip file or an fsspec URL.

    With `cache_dir`, everything that is fetched of a store on another machine is cached in that folder, up to
    `cache_limit` (bytes, or a text such as "10GB"). Several processes and stores may share the folder.
    `retries` says how long requests are tried. Raises NotAStoreError, IncompleteStoreError, VersionError,
    ManifestError, DamageError, and StorageError where storage does not answer; ValueError for an invalid
    limit or for `storage_options` with a local path. Reading raises StoreChangedError where the store was
    replaced after it was opened.
    """
    cache = None if cache_dir is None else Cache(cache_dir, cache_limit, cache_policy)
    return TokenStore(StoreFiles(open_storage(url, storage_options, retries), cache=cache))
