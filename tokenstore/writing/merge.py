"""The merging of stores: of whole ones, or of the parts of a conversion.

Parts become, byte for byte, the store of one conversion of the whole; `editing/join.py` joins whole stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenstore.errors import ArgumentError, Parameter, StoreError, StoreExistsError
from tokenstore.format import LABELS, TOKENS, Manifest
from tokenstore.machine import in_order
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.reading.open import StorePath, as_storage, as_store, takes_options
from tokenstore.storage import STAGING, Storage, refuse_options
from tokenstore.writing.blocks import BlockExecutor, block_executor
from tokenstore.writing.codec_choice import CodecChoice, OnProgress
from tokenstore.writing.editing.join import Joining, join_stores
from tokenstore.writing.parts import WholeConversion, check_bad, columns_of, whole_of
from tokenstore.writing.prune import codes_in_use
from tokenstore.writing.rewrite import rewrite_into, same_codes, unchanged, write_joined
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.target import finish_commit
from tokenstore.writing.writer import StoreWriter

_WHOLE = f"{STAGING}/.whole"
"""The folder of the merged store that is rewritten when all its codes are known."""
_OPENED_AT_ONCE = 16


@dataclass(frozen=True)
class MergeResult:
    """A store that was merged of others."""

    location: str
    """The place of the store, without a URL's user, password and query."""
    manifest: Manifest
    nbytes: int
    choice: CodecChoice | None = None
    """The codec and the reason for it, where it was chosen when all codes were known."""
    already_complete: bool = False


def merge(
    out: StorePath | Storage,
    parts: Sequence[StorePath | TokenStore],
    *,
    split_names: str = "{split}",
    common_columns: bool = False,
    on_error: str | None = None,
    jobs: int | None = None,
    executor: BlockExecutor | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> MergeResult:
    """Write one store of `parts`: stores of one tokenizer, or all parts of a conversion, in any order.

    Stores are joined in their order: splits of one name, or of the one that `split_names` gives with
    `{split}`, `{store}` (the name of its file) and `{number}` (from 1); classes by their names. They must
    have the same columns, or with `common_columns` those that not all have are left out. The codec is the
    first one's; facts of images that they state otherwise are left out. Shards and chunks that stay the same
    are linked or copied as they are, all others are cut anew.

    Parts were converted with `part=(number, count)`. The merged store has the same bytes as one conversion of
    the whole: a codec or pruned codebook that depends on all codes is chosen here, and as many samples may be
    bad as there, any number with `on_error="skip"`.

    `executor` has pieces of shards encoded elsewhere, such as `tokenstore.conversion.RayExecutor`; else
    `jobs` are worked on at a time, by default one a core. The bytes are the same for any. `resume` goes on
    with an interrupted merge. `storage_options` are those of the parts, or of `out` where the parts are
    local; `target_storage_options` are those of `out`. `on_progress` is called with a step's name, the
    samples done and in all.

    Raises StoreError for stores that cannot be merged, or if parts are not all of one conversion, each once;
    ConversionError for too many bad samples, or an unfinished store at `out` of other parts; StoreExistsError
    if something else is at `out`; ArgumentError; DamageError; and the errors of `tokenstore.open`.
    """
    executor = block_executor(jobs, executor)
    place, stores = _opened(out, parts, storage_options, target_storage_options)
    how = Joining(split_names, common_columns)
    if not any(store.manifest.part for store in stores):
        _check_whole(stores, on_error)
        joined = join_stores(stores, place, how, executor=executor, resume=resume, on_progress=on_progress)
        return MergeResult(
            joined.location, joined.manifest, joined.nbytes, already_complete=joined.already_complete
        )
    if how != Joining("{split}", False):
        raise ArgumentError("expected whole stores to name splits or leave out columns, found parts")
    return _merge_parts(place, stores, on_error, executor, resume, on_progress)


def _opened(
    out: StorePath | Storage,
    parts: Sequence[StorePath | TokenStore],
    storage_options: Mapping[str, Any] | None,
    target_storage_options: Mapping[str, Any] | None,
) -> tuple[Storage, list[TokenStore]]:
    """Return the place of a store, and its open parts."""
    remote = [takes_options(part) for part in parts]
    if target_storage_options is None and takes_options(out) and not any(remote):
        storage_options, target_storage_options = None, storage_options
    if parts and not any(remote):
        refuse_options(storage_options, parts[0])
    if not takes_options(out):
        refuse_options(target_storage_options, out, "target_storage_options")
    place = as_storage(out, target_storage_options)

    def opened(part: StorePath | TokenStore) -> TokenStore:
        return as_store(part, storage_options if takes_options(part) else None)

    return place, list(in_order(opened, parts, _OPENED_AT_ONCE))


def _check_whole(stores: Sequence[TokenStore], on_error: str | None) -> None:
    """Raise StoreError for no store, and ArgumentError for `on_error`, for which only parts have a use."""
    if not stores:
        raise StoreError("expected stores to merge, or the parts of a conversion, found none")
    if on_error is not None:
        named = Parameter("on_error")
        raise ArgumentError(
            f"{named} is for parts of a conversion, and {stores[0].files.storage} is a whole store. Leave it "
            "out",
            parameters=[named],
        )


def _merge_parts(
    place: Storage,
    parts: Sequence[TokenStore],
    on_error: str | None,
    executor: BlockExecutor,
    resume: bool,
    on_progress: OnProgress | None,
) -> MergeResult:
    """Write the store that one conversion would have written, of all of its parts."""
    if on_error not in (None, "skip"):
        raise ArgumentError(
            f"on_error: expected None or 'skip', found {on_error!r}", parameters=[Parameter("on_error")]
        )
    whole, stores = whole_of(parts)
    check_bad(whole, stores, on_error)
    if resume and finish_commit(place):
        return _already_merged(place, whole, stores)
    job = _Merging(whole, stores, executor, resume, on_progress)
    choice = None
    if whole.rewrites:
        choice = job.write_and_rewrite(place)
    else:
        job.write(place, whole.spec(stores[0]))
    written = StoreFiles(place.reopened())
    return MergeResult(written.storage.url, written.manifest, written.nbytes, choice)


@dataclass(frozen=True)
class _Merging:
    """One merging: the whole, its parts in order, and how the work is done."""

    whole: WholeConversion
    parts: Sequence[TokenStore]
    executor: BlockExecutor
    resume: bool
    on_progress: OnProgress | None

    def write(self, target: Storage, spec: StoreSpec) -> None:
        """Write all splits with their shards cut anew, and commit."""
        with StoreWriter(target, spec, resume=self.resume, inputs=self._inputs()) as writer:
            for name, listed in self.whole.listed.items():
                columns = columns_of(self.parts[0], name)
                labels = LABELS in columns
                columns = {
                    array: column for array, column in columns.items() if array not in (TOKENS, LABELS)
                }
                split = writer.split(name, listed, labels=labels, columns=columns)

                def report(done: int, total: int, step: str = f"{name}, merging") -> None:
                    if self.on_progress is not None:
                        self.on_progress(step, done, total)

                stores = [part.files for part in self.parts]
                write_joined(stores, split, spec, unchanged, self.executor, report)
            writer.commit()

    def write_and_rewrite(self, target: Storage) -> CodecChoice:
        """Write the whole store beside the shards to be, then rewrite it when all its codes are known."""
        whole, spec = self.whole, self.whole.spec(self.parts[0])
        with StoreWriter(target, spec, resume=self.resume, inputs=self._inputs()) as writer:
            staged = writer.storage.below(_WHOLE)
            if not (self.resume and finish_commit(staged)):
                self.write(staged, spec)
            complete = TokenStore(StoreFiles(staged))
            return rewrite_into(
                writer,
                complete,
                codes_in_use(complete, self.executor) if whole.prune_codebook else same_codes(complete),
                codec=whole.codec,
                min_decode_rate=whole.min_decode_rate,
                shard_samples=whole.shard_samples,
                executor=self.executor,
                on_progress=self.on_progress,
            ).choice

    def _inputs(self) -> dict[str, Any]:
        digest = hashlib.sha256("".join(store.files.root_digest for store in self.parts).encode())
        return {"merged": digest.hexdigest()}


def _already_merged(place: Storage, whole: WholeConversion, parts: Sequence[TokenStore]) -> MergeResult:
    """Return the result of a complete store; raise StoreExistsError if it is not of these parts."""
    written = StoreFiles(place.reopened())
    manifest, first = written.manifest, parts[0].manifest
    numbers = {
        name: (
            sum(store.manifest.splits[name].samples for store in parts),
            sum(store.manifest.splits[name].skipped for store in parts),
        )
        for name in whole.listed
    }
    same = (
        {name: (split.samples, split.skipped) for name, split in manifest.splits.items()} == numbers
        and manifest.tokenizer.fingerprint == first.tokenizer.fingerprint
        and manifest.grid == first.grid
        and manifest.views == first.views
        and manifest.class_names == first.class_names
        and manifest.part is None
    )
    if not same:
        raise StoreExistsError(
            f"{place}: expected nothing, or the store of these {len(parts)} parts, found another store. "
            "Choose another path, or remove it"
        )
    return MergeResult(written.storage.url, manifest, written.nbytes, already_complete=True)
