"""The part of a store that its arrays' metadata can open."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override

from tokenstore.errors import DamageError
from tokenstore.format import TOKENS
from tokenstore.reading import SplitReader, StoreFiles, TokenStore, array_reader


class ReadableStore(TokenStore):
    """A store without the columns of damaged metadata, and without the splits whose tokens are such a column.

    `on_damage` is called with the error of each.
    """

    def __init__(self, store: TokenStore, on_damage: Callable[[DamageError], object]) -> None:
        super().__init__(store.files)
        for split in store.splits:
            names = [
                name
                for name in store.files.split_arrays(split)
                if _opens(store.files, split, name, on_damage)
            ]
            if TOKENS in names:
                self._readers[split] = SplitReader(store.files, split, names)

    @property
    @override
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that can be read."""
        return tuple(self._readers)


def _opens(files: StoreFiles, split: str, name: str, on_damage: Callable[[DamageError], object]) -> bool:
    try:
        array_reader(files, f"{split}/{name}")
    except DamageError as error:
        on_damage(error)
        return False
    return True
