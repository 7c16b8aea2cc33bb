"""Samples of any source behind those of a store: converted as the store was, then appended."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenstore.errors import ArgumentError, StoreError, StoreExistsError, TokenstoreError
from tokenstore.files import rename
from tokenstore.format import MASKS, ROOT
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.reading.open import StorePath, as_storage, as_store, takes_options
from tokenstore.sources.base import UNKNOWN_TOKENIZER, CodeSource, ImageSource, Source
from tokenstore.sources.options import FAST_FILTER
from tokenstore.storage import Storage, open_storage, refuse_options
from tokenstore.storage.local import exchanged_store
from tokenstore.writing.editing.append import append_store
from tokenstore.writing.editing.new_store import EditedStore, OnSamples
from tokenstore.writing.target import finish_commit

if TYPE_CHECKING:
    from tokenstore.conversion.options import Progress
    from tokenstore.tokenizers.base import Tokenizer

__all__ = ["append"]


def append(
    store: StorePath | TokenStore,
    source: StorePath | TokenStore | Source,
    *,
    tokenizer: str | Tokenizer | None = None,
    again: bool = False,
    jobs: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: OnSamples | None = None,
    **options: Any,
) -> EditedStore:
    """Write the samples of `source` behind those of `store`, a local folder or zip file, in its place.

    `source` is a store of the same tokenizer, grid, views and columns, or anything that `tokenstore.convert`
    takes. The latter is converted first, to a folder beside the store, with the store's tokenizer, or the one
    given, its size of images and label maps, and its way of resizing; `options` are others of
    `tokenstore.convert`, such as `labels="labels.csv"` or `masks="annotations"`. Splits and classes are
    joined by name; new ones follow. A source that was appended before is refused, unless `again`.

    The new edition of the store is whole before it takes the place of the old one, with which it shares all
    full shards, and a call after a crash goes on by itself. `jobs` pieces of shards are worked on at a time,
    by default one a core. `storage_options` are those of a remote `source`. `on_progress` is called with a
    step's name, the samples done and in all.

    Raises StoreError for a store that is not local, or samples that cannot follow its own; StoreExistsError
    for a source that was appended before; ArgumentError; DamageError; ConversionError where another process
    writes the store; and the errors of `tokenstore.open` and `tokenstore.convert`.
    """
    place = store.files.storage if isinstance(store, TokenStore) else as_storage(store)
    if place.root is None:
        raise StoreError(
            f"{place}: expected a local store to append to: on object storage its files would be copied each "
            "time. Append to a copy here, or merge both to another place"
        )
    given = _as_opened_store(source, storage_options)
    if given is not None:
        if options or tokenizer is not None:
            raise ArgumentError(
                f"{', '.join(['tokenizer'] if tokenizer is not None else options)}: expected no options of a "
                "conversion with a store, whose samples are converted already"
            )
        return append_store(store, given, again=again, jobs=jobs, on_progress=on_progress)
    assert not isinstance(source, TokenStore)
    staging = _Staging(place, tokenizer, storage_options, options, on_progress)
    return staging.append(source, again, jobs)


class _Staging:
    """The conversion of a source to a store beside the one that it is for."""

    def __init__(
        self,
        place: Storage,
        tokenizer: str | Tokenizer | None,
        storage_options: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        on_progress: OnSamples | None,
    ) -> None:
        assert place.root is not None
        self._place, self._tokenizer, self._on_progress = place, tokenizer, on_progress
        self._options = dict(options)
        if storage_options is not None:
            self._options["source_storage_options"] = storage_options
        root = Path(os.path.realpath(place.root))
        self._folder = root.with_name(f".{root.name}.append")
        self._done = root.with_name(f".{root.name}.appended")

    def append(self, source: StorePath | Source, again: bool, jobs: int | None) -> EditedStore:
        """Convert a source, append it, and remove the converted store; see `tokenstore.append`."""
        between = self._place.interrupted_exchange()
        place = self._place.reopened() if between is None else open_storage(exchanged_store(between))
        before = StoreFiles(place)
        is_left = self._done.exists() or (self._folder.exists() and finish_commit(open_storage(self._folder)))
        converted = self._convert(before, source)
        try:
            result = append_store(
                str(self._place.root), converted, again=again, jobs=jobs, on_progress=self._on_progress
            )
        except StoreError as error:
            if type(error) in (StoreError, StoreExistsError):  # so that these samples cannot follow
                self._remove()
            if not is_left or not isinstance(error, StoreExistsError):
                given = source if isinstance(source, str | os.PathLike) else source.location
                text = str(error).replace(str(converted.files.storage), str(given))
                raise type(error)(text, parameters=error.parameters) from error
            # subtle: an earlier call was killed between the append and the removal of what it had converted
            return EditedStore(str(place), before.manifest, before.nbytes, already_complete=True)
        self._remove()
        return replace(result, location=str(self._place))

    def _remove(self) -> None:
        """Remove the converted store, which has another name while parts of it are gone already."""
        shutil.rmtree(self._done, ignore_errors=True)
        rename(self._folder, self._done)
        shutil.rmtree(self._done)

    def _convert(self, before: StoreFiles, source: StorePath | Source) -> TokenStore:
        from tokenstore.conversion.convert import convert  # imports torch, which stores do not need
        from tokenstore.tokenizers.store_tokenizer import spec_of

        manifest = before.manifest
        settings: dict[str, Any] = {"tokenizer": self._tokenizer or spec_of(manifest.tokenizer)}
        steps, name = manifest.preprocessing, manifest.tokenizer.name
        if steps is not None:
            settings |= {"image_size": steps.height, "resize": steps.resize}
            settings["fast_decode"] = steps.filter == FAST_FILTER
        elif isinstance(source, str | os.PathLike):
            settings["codebook_size"] = manifest.codebook_size
            if name != UNKNOWN_TOKENIZER and settings["tokenizer"] is None:
                settings["tokenizer_name"] = name
        settings |= _of_masks(before)
        progress = self._on_progress

        def report(done: Progress) -> None:
            if progress is not None:
                progress(f"{done.split}, converting", done.done, done.total)

        convert(source, self._folder, resume=True, on_progress=report, **{**settings, **self._options})
        return as_store(self._folder)


def _of_masks(files: StoreFiles) -> dict[str, int]:
    """Return the options of a conversion whose label maps are like those of a store; none without any."""
    store = TokenStore(files)
    sides = [store[name].column(MASKS).shape[0] for name in store.splits if MASKS in store[name].columns]
    ignored = {} if files.manifest.ignore_index is None else {"ignore_index": files.manifest.ignore_index}
    return {"mask_size": sides[0], **ignored} if sides else {}


def _as_opened_store(
    source: StorePath | TokenStore | Source, storage_options: Mapping[str, Any] | None
) -> TokenStore | None:
    """Return the open store that a source is; None for a source of another kind."""
    if isinstance(source, TokenStore):
        return as_store(source, storage_options)
    if isinstance(source, ImageSource | CodeSource):
        return None
    if not takes_options(source):
        refuse_options(storage_options, source)
    if re.search(r"[*?{\[]", os.fspath(source)) and not Path(source).exists():
        return None
    storage = as_storage(source, storage_options if takes_options(source) else None)
    try:
        if b'"tokenstore"' not in storage.read(ROOT):  # an array of Zarr's own
            return None
    except (OSError, TokenstoreError):
        return None
    return TokenStore(StoreFiles(storage))
