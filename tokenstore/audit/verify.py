"""The verification of a store: every digest, checksum, code, label and alignment."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tokenstore.errors import (
    ArgumentError,
    DamageError,
    IncompleteStoreError,
    NotAStoreError,
    Parameter,
    StorageError,
    TokenstoreError,
)
from tokenstore.format import LABELS, ROOT, SAMPLES_TABLE, SKIPPED_TABLE, TOKENS, FileRecord, code_planes
from tokenstore.reading import ArrayReader, StoreFiles, TokenStore, array_reader
from tokenstore.reading.open import StorePath, as_storage
from tokenstore.storage import STAGING, Storage

if TYPE_CHECKING:
    from tokenstore.audit.retokenization import Retokenization
    from tokenstore.tokenizers.base import Tokenizer


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
) -> Verification:
    """Check every byte of `store` and all that its bytes mean.

    `retokenize` also encodes the images of so many samples of each split again, if nothing else is wrong,
    and compares their codes. Codes that differ are a problem if they are computed as they were then: on the
    same kind of device, in the same float type; else a note. The images are looked for at `images`, by
    default at the place in the manifest; `tokenizer` is by default the one that the manifest names.
    `on_progress` is called with the bytes read so far and in all.

    Raises NotAStoreError and IncompleteStoreError if there is no complete store, ArgumentError for arguments
    without use, and with `retokenize` SourceError if no image can be read and TokenizerError if the
    tokenizer is unknown or is not the store's. Everything else is reported, not raised.
    """
    place = store.files.storage if isinstance(store, TokenStore) else store
    encode_again = None
    if retokenize is None:
        _refuse_idle(images=images, tokenizer=tokenizer)
    else:
        opened = TokenStore(StoreFiles(as_storage(place, storage_options)))
        encode_again = _prepare_retokenization(opened, retokenize, images, tokenizer, device)
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
        if value is not None:
            idle = Parameter(name)
            raise ArgumentError(f"{idle} goes with {needed}", parameters=[idle, needed])


def _prepare_retokenization(
    store: TokenStore,
    samples: int,
    images: StorePath | None,
    tokenizer: str | Tokenizer | None,
    device: str,
) -> Callable[[], Retokenization]:
    """Open the images and the tokenizer, before hours go into reading the store."""
    # imported here, since torch takes seconds
    from tokenstore.audit.originals import folder_of, open_images
    from tokenstore.audit.reconstruct import tokenizer_for
    from tokenstore.audit.retokenization import retokenize

    source = open_images(store.manifest, images, folder_of(store))
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
    damaged = set()
    for path, record in store.manifest.files.items():
        problem = _check_file(storage, path, record)
        if problem is not None:
            findings.problems.append(f"{storage}/{path}: {problem}")
            damaged.add(path)
        findings.files += 1
        findings.nbytes += record.size
        if on_progress is not None:
            on_progress(findings.nbytes, store.nbytes)
    _check_listing(store, damaged, findings)
    for array, check in (("codebook", _check_codebook), ("synonyms", _check_synonyms)):
        if f"{array}/{ROOT}" in store.manifest.files and not _table_is_damaged(array, damaged):
            try:
                findings.problems += check(store)
            except TokenstoreError as error:
                findings.problems.append(str(error))
    for split in store.splits:
        _check_split(store, split, damaged, findings)
    return findings


def _check_file(storage: Storage, path: str, expected: FileRecord) -> str | None:
    digest = hashlib.sha256()
    size = 0
    try:
        for block in storage.blocks(path):
            digest.update(block)
            size += len(block)
    except FileNotFoundError:
        return "the file is missing"
    except (OSError, ValueError, DamageError) as error:
        return f"cannot be read: {error}"
    if size != expected.size:
        return f"expected {expected.size} bytes, found {size}"
    if digest.hexdigest() != expected.sha256:
        return f"expected SHA-256 {expected.sha256}, found {digest.hexdigest()}"
    return None


def _check_listing(store: StoreFiles, damaged: set[str], findings: _Findings) -> None:
    nodes = _consolidated_metadata(store)
    documents = [path for path in store.manifest.files if path.endswith(f"/{ROOT}") and path not in damaged]
    for path in documents if store.manifest.is_consolidated else ():
        if nodes.get(path.removesuffix(f"/{ROOT}")) != _json(store, path):
            findings.problems.append(
                f"{store.storage}/{ROOT}: the consolidated metadata is not that of {path}"
            )
    try:
        listed = list(store.storage.files())
    except StorageError as error:
        findings.notes.append(f"files that are not the store's are not looked for: {error}")
        return
    extra = [path for path in listed if path not in store.manifest.files and path != ROOT]
    staged = [path for path in extra if path.startswith(f"{STAGING}/")]
    if staged:
        findings.notes.append(
            f"{len(staged)} files of the finished conversion are left in {STAGING}; remove it"
        )
    strangers = [path for path in extra if path not in staged]
    if strangers:
        findings.notes.append(f"{len(strangers)} files are not the store's, the first is {strangers[0]}")


def _consolidated_metadata(store: StoreFiles) -> Mapping[str, Any]:
    try:
        return dict(_json(store, ROOT)["consolidated_metadata"]["metadata"])
    except (KeyError, TypeError, ValueError):
        return {}


def _json(store: StoreFiles, path: str) -> Any:
    try:
        return json.loads(store.storage.read(path))
    except (ValueError, RecursionError):
        return None


def _check_codebook(store: StoreFiles) -> list[str]:
    codebook = store.codebook
    size = store.manifest.codebook_size
    if codebook is None or codebook.ndim not in (2, 3) or codebook.shape[-2] < size:
        shape = None if codebook is None else codebook.shape
        return [f"{store.storage}/codebook: expected vectors of {size} codes, found shape {shape}"]
    if not np.isfinite(codebook).all():
        return [f"{store.storage}/codebook: holds values that are not finite"]
    return []


def _check_synonyms(store: StoreFiles) -> list[str]:
    synonyms = store.synonyms
    size = store.manifest.codebook_size
    if synonyms is None or synonyms.ndim != 2 or len(synonyms) < size:
        shape = None if synonyms is None else synonyms.shape
        return [f"{store.storage}/synonyms: expected a row for each of {size} codes, found shape {shape}"]
    low, high = int(synonyms.min(initial=-1)), int(synonyms.max(initial=-1))
    if low < -1 or high >= len(synonyms):
        found = low if low < -1 else high
        return [f"{store.storage}/synonyms: expected codes below {len(synonyms)}, or -1, found {found}"]
    return []


def _table_is_damaged(array: str, damaged: set[str]) -> bool:
    return any(path.startswith(f"{array}/") for path in damaged)


def _check_split(store: StoreFiles, split: str, damaged: set[str], findings: _Findings) -> None:
    samples = store.manifest.splits[split].samples
    findings.samples += samples
    names = store.split_arrays(split)
    if TOKENS not in names:
        findings.problems.append(f"{store.storage}/{split}: has no {TOKENS}")
    for name in names:
        if f"{split}/{name}/{ROOT}" in damaged:
            continue
        try:
            reader = array_reader(store, f"{split}/{name}")
        except TokenstoreError as error:
            findings.problems.append(str(error))
            continue
        if name == LABELS and reader.layout.dtype != np.int32:
            findings.problems.append(
                f"{store.storage}/{split}/{name}: expected int32, found {reader.layout.dtype}"
            )
        _check_chunks(reader, name, findings)
    for table in (SAMPLES_TABLE, SKIPPED_TABLE):
        path = f"{split}/{table}"
        expected = samples if table == SAMPLES_TABLE else store.manifest.splits[split].skipped
        if path in damaged or (table == SKIPPED_TABLE and not expected):
            continue
        findings.problems += _check_table(store, path, expected)


def _check_chunks(reader: ArrayReader, name: str, findings: _Findings) -> None:
    manifest = reader.store.manifest
    layout = reader.layout
    classes = None if manifest.class_names is None else len(manifest.class_names)
    for chunk in range(-(-layout.samples // layout.chunk_samples)):
        shard, position = divmod(chunk, layout.chunks_per_shard)
        try:
            if position and not reader.shard_opens(shard):
                continue
            values = reader.decode_chunk(chunk)
        except DamageError as error:
            findings.problems.append(str(error))
            continue
        findings.chunks += 1
        if name == TOKENS:
            problem = _code_out_of_range(values, manifest.codebook_sizes)
        elif name == LABELS:
            problem = _label_out_of_range(values, classes)
        else:
            problem = None
        if problem is not None:
            findings.problems.append(f"{reader.where(chunk)}: {problem}")
    reader.forget()


def _code_out_of_range(codes: npt.NDArray[Any], sizes: tuple[int, ...]) -> str | None:
    for values, size in code_planes(codes, sizes):
        if values.size and int(values.max()) >= size:
            return f"expected codes from 0 to {size - 1}, found {int(values.max())}"
    return None


def _label_out_of_range(labels: npt.NDArray[Any], classes: int | None) -> str | None:
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or (classes is not None and high >= classes):
        expected = "labels from 0" if classes is None else f"labels from 0 to {classes - 1}"
        return f"expected {expected}, found {low if low < 0 else high}"
    return None


def _check_table(store: StoreFiles, path: str, rows: int) -> list[str]:
    # imported here: the only part of this module that needs Arrow
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        actual = pq.read_metadata(io.BytesIO(store.read_checked(path))).num_rows
    except (TokenstoreError, OSError, pa.ArrowException) as error:
        return [f"{store.storage}/{path}: {error}"]
    return [] if actual == rows else [f"{store.storage}/{path}: expected {rows} rows, found {actual}"]
