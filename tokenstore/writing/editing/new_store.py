"""A new store that an operation makes of other stores, with the operation in its history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from tokenstore.errors import StoreExistsError
from tokenstore.format import TOKENS, Manifest, Operation
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.reading.open import StorePath, as_storage, as_store, takes_options
from tokenstore.storage import Storage, refuse_options
from tokenstore.version import __version__
from tokenstore.writing.rewrite import spec_of
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.target import finish_commit
from tokenstore.writing.writer import StoreWriter

__all__ = [
    "EditedStore",
    "OnSamples",
    "Places",
    "new_store",
    "opened_places",
    "operation",
    "same_spec",
    "spec_like",
]

OnSamples: TypeAlias = Callable[[str, int, int], None]
"""A progress callback: the step's name, the samples that are done, and all of them."""


@dataclass(frozen=True)
class EditedStore:
    """A store that an operation on stores made."""

    location: str
    """The place of the store, without a URL's user, password and query."""
    manifest: Manifest
    nbytes: int
    already_complete: bool = False
    """True if an earlier call had made the store."""

    @property
    def samples(self) -> int:
        """The samples of all splits."""
        return sum(split.samples for split in self.manifest.splits.values())


@dataclass(frozen=True)
class Places:
    """The open stores of an operation, and the place of the new one."""

    stores: Sequence[TokenStore]
    target: Storage


def opened_places(
    stores: Sequence[StorePath | TokenStore],
    out: StorePath | Storage,
    storage_options: Mapping[str, Any] | None,
    target_storage_options: Mapping[str, Any] | None,
) -> Places:
    """Open stores, and the place of a new one.

    `storage_options` are those of the stores, or of `out` where these are local and have no use for them.
    Raises ArgumentError for options that no remote place has a use for, and the errors of `tokenstore.open`.
    """
    remote = [takes_options(store) for store in stores]
    if target_storage_options is None and takes_options(out) and not any(remote):
        storage_options, target_storage_options = None, storage_options
    if stores and not any(remote):
        refuse_options(storage_options, "local stores")
    if not takes_options(out):
        refuse_options(target_storage_options, out, "target_storage_options")
    place = as_storage(out, target_storage_options)
    opened = [as_store(store, storage_options if takes_options(store) else None) for store in stores]
    return Places(opened, place)


def operation(name: str, stores: Sequence[TokenStore], **arguments: Any) -> Operation:
    """Return the entry of a history for an operation on stores; arguments that are None are left out."""
    given = {argument: value for argument, value in arguments.items() if value is not None}
    digests = tuple(store.files.root_digest for store in stores)
    return Operation(name, given, digests, f"tokenstore {__version__}")


def spec_like(store: TokenStore) -> StoreSpec:
    """Return the spec of a whole store that is written with the codec of another one."""
    codec = store[store.splits[0]].array(TOKENS).layout.codec
    return replace(
        spec_of(store), codec=codec.name, model=codec.model, given_views=codec.given_views, part=None
    )


def same_spec(store: TokenStore, done: Operation) -> StoreSpec:
    """Return the spec of a store that is made of another by an operation, with the same codec."""
    return replace(spec_like(store), history=(*store.manifest.history, done))


def new_store(
    target: Storage, spec: StoreSpec, resume: bool, write: Callable[[StoreWriter], None]
) -> EditedStore:
    """Write the store of a spec, whose history says all that decides its bytes.

    `write` writes all files through a writer, and commits. With `resume` a store that is whole already is
    returned, if it is of the same operation. Raises StoreExistsError for anything else at the target, and
    what `StoreWriter` raises.
    """
    done = spec.history[-1]
    if resume and finish_commit(target):
        written = StoreFiles(target.reopened())
        if written.manifest.history[-1:] != (done,):
            raise StoreExistsError(
                f"{target}: expected nothing, or the store of the same operation ({done.operation}), found "
                "another store. Choose another path, or remove it"
            )
        return _result(written, already_complete=True)
    with StoreWriter(target, spec, resume=resume, inputs={"operation": done.to_dict()}) as writer:
        write(writer)
    return _result(StoreFiles(target.reopened()))


def _result(written: StoreFiles, *, already_complete: bool = False) -> EditedStore:
    return EditedStore(written.storage.url, written.manifest, written.nbytes, already_complete)
