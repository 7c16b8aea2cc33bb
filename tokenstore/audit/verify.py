"""The verification of a store: every digest, checksum, code, label and alignment."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from tokenstore.audit.meaning import (
    check_codebook,
    check_listing,
    check_root,
    check_split,
    check_symmetries,
    check_synonyms,
)
from tokenstore.audit.sound_files import SoundFiles
from tokenstore.errors import (
    ArgumentError,
    DamageError,
    IncompleteStoreError,
    ManifestError,
    NotAStoreError,
    Parameter,
    TokenstoreError,
)
from tokenstore.format import ROOT, SHARD_MANIFEST, SYMMETRIES, FileRecord
from tokenstore.machine import available_cores, in_order
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.reading.open import StorePath, as_storage
from tokenstore.sources.options import OriginalsOptions, refuse_unknown
from tokenstore.storage import Storage

if TYPE_CHECKING:
    from tokenstore.audit.retokenization import Retokenization
    from tokenstore.tokenizers.base import Tokenizer


_FETCHED_AT_ONCE = 16
"""The least number of files that are fetched and checked at a time: each waits for storage meanwhile."""
_AHEAD = 256
"""The files that are checked, for each thread, while an earlier one takes long."""


@dataclass(frozen=True)
class Verification:
    """The outcome of a verification; the store is as promised if there are no `problems`."""

    problems: list[str]
    notes: list[str]
    files: int
    nbytes: int
    chunks: int
    samples: int
    retokenize: int | None = None
    """The number of samples of each split that were to be encoded again."""
    retokenization: Retokenization | None = None
    """The codes that images give now; None if not asked for, or for a damaged store."""

    @property
    def ok(self) -> bool:
        """True if the store is as it was written."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as JSON values; `retokenization` is among them only if it was asked for."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        again, samples = values.pop("retokenization"), values.pop("retokenize")
        if samples is not None:
            values["retokenization"] = None if again is None else again.to_dict()
        return {"ok": self.ok, **values}


@dataclass
class _Findings:
    """The findings and counts of a verification under way."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    nbytes: int = 0
    chunks: int = 0
    samples: int = 0


def verify(
    store: StorePath | TokenStore | Storage,
    *,
    retokenize: int | None = None,
    images: StorePath | None = None,
    tokenizer: str | Tokenizer | None = None,
    device: str = "cpu",
    storage_options: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **of_images: Unpack[OriginalsOptions],
) -> Verification:
    """Check every byte of `store` and all that its bytes mean.

    `retokenize` also encodes the images of so many samples of each split again, if nothing else is wrong,
    and compares their codes. Codes that differ are a problem if they are computed as they were then: on the
    same kind of device, in the same float type; else a note. The images are looked for at `images`, by
    default at the place in the manifest, and opened with the options `of_images`; `tokenizer` is by default
    the one that the manifest names.
    `on_progress` is called with the bytes read so far and in all.

    Raises NotAStoreError and IncompleteStoreError if there is no complete store, StoreChangedError if it was
    replaced while it was read, ArgumentError for arguments
    without use, and with `retokenize` SourceError if no image can be read and TokenizerError if the
    tokenizer is unknown or is not the store's. Everything else is reported, not raised.
    """
    refuse_unknown(of_images, OriginalsOptions.__annotations__, "verify")
    place = store.files.storage if isinstance(store, TokenStore) else store
    encode_again = None
    if retokenize is None:
        _refuse_idle(images=images, tokenizer=tokenizer, **of_images)
    else:
        opened = TokenStore(StoreFiles(as_storage(place, storage_options)))
        encode_again = _prepare_retokenization(opened, retokenize, images, tokenizer, device, of_images)
    findings = _check_store(place, storage_options, on_progress)
    again = None
    if encode_again is not None and findings.problems:
        findings.notes.append("images were not encoded again: restore what is damaged first")
    elif encode_again is not None:
        again = encode_again()
        (findings.problems if again.must_agree else findings.notes).extend(again.differences)
    return Verification(**vars(findings), retokenize=retokenize, retokenization=again)


def _refuse_idle(**arguments: object) -> None:
    needed = Parameter("retokenize")
    for name, value in arguments.items():
        if value not in (None, False):
            idle = Parameter(name)
            raise ArgumentError(f"{idle} goes with {needed}", parameters=[idle, needed])


def _prepare_retokenization(
    store: TokenStore,
    samples: int,
    images: StorePath | None,
    tokenizer: str | Tokenizer | None,
    device: str,
    of_images: OriginalsOptions,
) -> Callable[[], Retokenization]:
    """Open the images and the tokenizer, before hours go into reading the store."""
    # imported here, since torch takes seconds
    from tokenstore.audit.originals import folder_of, open_images
    from tokenstore.audit.reconstruct import tokenizer_for
    from tokenstore.audit.retokenization import retokenize

    source = open_images(store.manifest, images, folder_of(store), **of_images)
    maker = tokenizer_for(store.manifest, tokenizer, device)
    return partial(retokenize, store, maker, source, samples)


def _check_store(
    place: StorePath | Storage,
    storage_options: Mapping[str, Any] | None,
    on_progress: Callable[[int, int], None] | None,
) -> _Findings:
    findings = _Findings()
    try:
        storage = as_storage(place, storage_options)
        store = StoreFiles(storage)
    except (NotAStoreError, IncompleteStoreError):
        raise
    except TokenstoreError as error:
        findings.problems.append(str(error))
        return findings
    findings.files, findings.nbytes = 1, store.root_nbytes
    with contextlib.closing(SoundFiles(store)) as sound:
        damaged, unread = _check_files(store, sound, findings, on_progress)
        try:
            findings.problems += check_root(store, damaged)
        except FileNotFoundError:
            store.check_unchanged()
            raise
        problems, notes = check_listing(store, sound.sizes)
    findings.problems += problems
    findings.notes += notes
    findings.problems += _table_problems(store, damaged)
    for split in store.splits:
        of_split = check_split(store, split, damaged, sound.shards, sound.table_problems)
        findings.problems += of_split.problems
        findings.chunks += of_split.chunks
        findings.samples += store.manifest.splits[split].samples
    findings.problems += [problem for problem in unread if problem not in findings.problems]
    if findings.problems:
        store.rule_out_change()  # a store that was replaced meanwhile is not damaged
    return findings


def _check_files(
    store: StoreFiles,
    sound: SoundFiles,
    findings: _Findings,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[set[str], list[str]]:
    """Check every file, many at a time, and add up what is found.

    Returns the paths of damaged files, and the reasons for which lists of shards could not be read.
    """
    storage, total = store.storage, _nbytes(store)
    damaged: set[str] = set()
    unread: list[str] = []

    def checked(file: tuple[str, FileRecord]) -> tuple[str, FileRecord, str | None]:
        path, record = file
        return path, record, None if sound.passes(path, record) else _check_file(storage, path, record)

    jobs = available_cores() if storage.maps_files else max(_FETCHED_AT_ONCE, available_cores())
    # the records of the second list depend on what is damaged in the first
    for records in (store.manifest.files.items(), _shard_records(store, damaged, unread)):
        with contextlib.closing(in_order(checked, sound.announced(records), jobs, _AHEAD)) as checks:
            for path, record, problem in checks:
                if problem is not None:
                    findings.problems.append(f"{storage}/{path}: {problem}")
                    damaged.add(path)
                findings.files += 1
                findings.nbytes += record.size
                if on_progress is not None:
                    on_progress(findings.nbytes, total)
    return damaged, unread


def _table_problems(store: StoreFiles, damaged: set[str]) -> list[str]:
    """Return what is wrong with the small arrays about codes, but for those of damaged files."""
    tables = {"codebook": check_codebook, "synonyms": check_synonyms, SYMMETRIES: check_symmetries}
    existing = {path.removesuffix(f"/{ROOT}") for path in store.manifest.files} - {SYMMETRIES}
    existing |= {SYMMETRIES} if store.manifest.symmetries else set()
    problems: list[str] = []
    for array, check in tables.items():
        if array in existing and not _is_damaged(array, damaged):
            try:
                problems += check(store)
            except TokenstoreError as error:
                problems.append(str(error))
    return problems


def _shard_records(
    store: StoreFiles, damaged: Set[str], unread: list[str]
) -> Iterator[tuple[str, FileRecord]]:
    """Yield the path and the record of every shard that is not listed in the root.

    The shards of an array whose list is damaged or bad are left out, and the reason is added to `unread`.
    """
    for array in store.listed_arrays:
        if not damaged & {f"{array}/{ROOT}", f"{array}/{SHARD_MANIFEST}"}:
            try:
                yield from store.shard_records(array)
            except (ManifestError, DamageError) as error:
                unread.append(str(error))


def _nbytes(store: StoreFiles) -> int:
    """Return the bytes of all files, as far as the lists of them can be read."""
    try:
        return store.nbytes
    except (ManifestError, DamageError):
        return store.root_nbytes + sum(record.size for record in store.manifest.files.values())


def _is_damaged(array: str, damaged: set[str]) -> bool:
    return any(path.startswith(f"{array}/") for path in damaged)


def _check_file(storage: Storage, path: str, expected: FileRecord) -> str | None:
    digest = hashlib.sha256()
    size = 0
    try:
        for block in storage.blocks(path):
            digest.update(block)
            size += len(block)
            if size > expected.size:
                return f"expected {expected.size} bytes, found more"
    except FileNotFoundError:
        return "the file is missing"
    except (OSError, ValueError, DamageError) as error:
        return f"cannot be read: {error}"
    if size != expected.size:
        return f"expected {expected.size} bytes, found {size}"
    if digest.hexdigest() != expected.sha256:
        return f"expected SHA-256 {expected.sha256}, found {digest.hexdigest()}"
    return None
