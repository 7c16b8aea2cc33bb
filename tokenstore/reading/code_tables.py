"""The small arrays of a store about its codes: vectors, nearest codes, and permutations by symmetries."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.errors import ManifestError
from tokenstore.format import (
    CODEBOOK,
    NO_SYMMETRIES,
    ROOT,
    SYMMETRIES,
    SYNONYMS,
    Manifest,
    Symmetries,
    decode_table_array,
    symmetries_of_rows,
    symmetries_problem,
)
from tokenstore.storage import Storage


class CodeTables:
    """The root arrays about codes, for a class that reads a store's files."""

    storage: Storage
    manifest: Manifest

    def read_checked(self, path: str) -> bytes:
        """Read a whole file and check its digest."""
        raise NotImplementedError

    def read_json(self, path: str) -> Any:
        """Read a checked JSON file."""
        raise NotImplementedError

    @cached_property
    def codebook(self) -> npt.NDArray[np.float32] | None:
        """The tokenizer's vectors (K, D) or (n, K, D), where the store has them or a rule gives them."""
        computed = self.manifest.implicit_table
        return self._table_array(CODEBOOK, np.dtype(np.float32)) if computed is None else computed

    @cached_property
    def synonyms(self) -> npt.NDArray[np.int32] | None:
        """Each code's nearest codes, best first (K, M), padded with -1, where the store has them."""
        return self._table_array(SYNONYMS, np.dtype(np.int32))

    @cached_property
    def permutations(self) -> npt.NDArray[np.int32] | None:
        """The permutations (S, K) or (S, n, K) of codes by the manifest's `symmetries`; None for none.

        Raises ManifestError if they are none of the store's codes (FORMAT.md, M42).
        """
        names = self.manifest.symmetries
        if not names:
            return None
        rows = self._table_array(SYMMETRIES, np.dtype(np.int32))
        where = f"{self.storage}/{SYMMETRIES}"
        if rows is None:
            raise ManifestError(f"{where}: expected permutations for {list(names)}, found no array")
        problem = symmetries_problem(rows, names, self.manifest.codebook_sizes)
        if problem is not None:
            raise ManifestError(f"{where}: {problem}")
        return rows

    @property
    def symmetries(self) -> Symmetries:
        """The permutations (K,) or (n, K) of codes by name; none in most stores."""
        rows = self.permutations
        return NO_SYMMETRIES if rows is None else symmetries_of_rows(rows, self.manifest.symmetries)

    def _table_array(self, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
        if f"{name}/{ROOT}" not in self.manifest.files:
            return None
        document = self.read_json(f"{name}/{ROOT}")
        try:
            shape = tuple(document["shape"])
            data = self.read_checked(f"{name}/{'/'.join(['c', *('0' for _ in shape)])}")
            return decode_table_array(document, data, dtype)
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"{self.storage}/{name}: not the metadata of a {name}: {error}") from error
