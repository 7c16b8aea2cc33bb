"""The facts that a store states about itself: its manifest, and the layout of each array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from tokenstore.audit.facts import manifest_facts, split_facts
from tokenstore.format import Manifest
from tokenstore.reading import TokenStore
from tokenstore.reading.open import StorePath, as_store


@dataclass(frozen=True)
class ArrayInfo:
    """The layout of one aligned array."""

    shape: tuple[int, ...]
    dtype: str
    codec: str
    chunk_samples: int
    shard_samples: int
    shards: int
    nbytes: int
    """The bytes of all its files."""

    def to_dict(self) -> dict[str, Any]:
        """Return the layout as JSON values."""
        return {**asdict(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class StoreInfo:
    """A store's manifest and the layout of its arrays."""

    location: str
    manifest: Manifest
    arrays: Mapping[str, ArrayInfo]
    """The arrays by name, such as `train/tokens`."""

    @property
    def facts(self) -> dict[str, str]:
        """The statements of the manifest, and the samples of each split, as texts by their names."""
        return {**manifest_facts(self.manifest), **split_facts(self.manifest)}

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        arrays = {name: array.to_dict() for name, array in self.arrays.items()}
        return {"location": self.location, "manifest": self.manifest.to_dict(), "arrays": arrays}


def info(store: StorePath | TokenStore, *, storage_options: Mapping[str, Any] | None = None) -> StoreInfo:
    """Return what `store` says about itself, without reading any code.

    Raises NotAStoreError, IncompleteStoreError, VersionError, ManifestError, DamageError, and StorageError
    if storage does not answer.
    """
    opened = as_store(store, storage_options)
    arrays = {}
    for split in opened.splits:
        for name, reader in opened[split].arrays.items():
            layout = reader.layout
            arrays[f"{split}/{name}"] = ArrayInfo(
                layout.shape,
                str(replace(layout.column, shape=())),
                layout.codec.name,
                layout.chunk_samples,
                layout.shard_samples,
                layout.shards,
                file_nbytes(opened, f"{split}/{name}/"),
            )
    return StoreInfo(opened.files.storage.url, opened.manifest, arrays)


def file_nbytes(store: TokenStore, prefix: str) -> int:
    """Return the bytes of all files below `prefix`, the folder of a split or an array and a slash."""
    return sum(size for path, size in file_sizes(store) if f"{path}/".startswith(prefix))


def file_sizes(store: TokenStore) -> Iterator[tuple[str, int]]:
    """Yield the path and the bytes of each file of an open store but the root.

    The shards of an array that has a list of them are one size, by the array's name.
    """
    for path, record in store.manifest.files.items():
        yield path, record.size
    for split in store.splits:
        for name in store[split].arrays:
            array = f"{split}/{name}"
            if array in store.files.listed_arrays:
                yield array, int(store.files.shard_nbytes(array).sum())
