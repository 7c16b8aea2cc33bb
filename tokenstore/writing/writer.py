"""Append-only writing of a store: shard by shard, resumable, the manifest last.

While a store is being written it has no root `zarr.json`. The writer's own files lie in the folder
`.partial`: the store's inputs (`conversion.json`), and for every split the journal of its finished shards,
with their rows of the samples table. A shard's entry is written after the shard. So every shard that a crash
leaves behind is either in the journal and whole, or is written again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from typing import Any, TypeAlias

from tokenstore.codecs import FORM_FEATURES
from tokenstore.errors import ConversionError, ManifestError
from tokenstore.files import resumable
from tokenstore.format import (
    CODEBOOK,
    DIGITS,
    LABEL_COLUMN,
    LABELS,
    NAME,
    ROOT,
    SHARD_MANIFESTS,
    SYMMETRIES,
    SYNONYMS,
    TABLE_PARTS,
    TOKENS,
    VIEW_BOXES,
    VIEWS,
    Column,
    FileRecord,
    Manifest,
    encode_json,
    encode_root,
    encode_table_array,
    file_record,
    group_document,
    symmetry_axes,
    table_array_document,
    view_boxes_problem,
)
from tokenstore.storage import STAGING, Storage
from tokenstore.version import __version__
from tokenstore.writing.owner import Owner
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.split import SplitWriter
from tokenstore.writing.target import HEADER, finish, look, own
from tokenstore.writing.uploads import Uploads

__all__ = ["SplitWriter", "StoreWriter"]

Columns: TypeAlias = Mapping[str, Column]

_RESERVED = frozenset({CODEBOOK, SYMMETRIES, SYNONYMS, "c"})
_FEATURES = (SHARD_MANIFESTS, TABLE_PARTS)


class StoreWriter:
    """A writer of one store, used as a context manager; the store is not complete before `commit()`.

    `inputs` (JSON values) are all that decides the store's bytes: a resumed conversion must have the same.
    The writer owns the target until it is closed. Raises StoreExistsError if something else is at the target,
    and ConversionError if the unfinished store there is of other inputs or another process is writing it. A
    full disk ends the block with a StorageError.
    """

    def __init__(
        self,
        target: Storage,
        spec: StoreSpec,
        *,
        resume: bool = False,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        self.spec = spec
        self.target = target
        self.storage = target.working_storage()
        self.splits: list[SplitWriter] = []
        self.uploads = Uploads()
        """The shards under way to a remote place."""
        header = encode_json({"tokenstore": __version__, **(inputs or {})})
        if target.root is None:
            self._is_begun(resume, header)  # before an owner is written there, or one is taken over
        self._owner: Owner | None = own(target, resume)
        try:
            self._begin(resume, header)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if (full := resumable(error)) is not None:
            raise full from error

    def close(self) -> None:
        """Release the store, after what is under way; unless it was committed, it stays unfinished."""
        self.uploads.close()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.release()

    def check(self) -> None:
        """Raise ConversionError if another process has become the writer of this store."""
        if self._owner is not None:
            self._owner.check()

    def _begin(self, resume: bool, header: bytes) -> None:
        if self._is_begun(resume, header):
            return
        if self.target.root is not None:
            self.storage.remove(HEADER)  # of a conversion that was killed as it began
        try:
            self.storage.create(HEADER, header)
        except FileExistsError as error:
            raise ConversionError(f"{self.target}: another process is writing this store") from error

    def _is_begun(self, resume: bool, header: bytes) -> bool:
        """Return True if a conversion with the same inputs is unfinished; raise as `StoreWriter` does."""
        if not look(self.target, resume):
            return False
        written = json.loads(self.storage.read(HEADER))
        expected = json.loads(header)
        different = [key for key in {**written, **expected} if written.get(key) != expected.get(key)]
        if different:
            key = different[0]
            was, now = (f"{values.get(key)!r:.200}" for values in (written, expected))
            raise ConversionError(
                f"{self.target}: cannot resume with other inputs: {key} was {was}, is now {now}. Use what it "
                "was begun with, or remove the unfinished store"
            )
        return True

    def note(self, name: str, data: bytes) -> None:
        """Save data under a name, for `recall` after a crash, until the store is complete."""
        self.check()
        self.storage.write(f"{STAGING}/{name}", data)

    def recall(self, name: str) -> bytes | None:
        """Return the data noted under a name, or None."""
        try:
            return self.storage.read(f"{STAGING}/{name}")
        except FileNotFoundError:
            return None

    def split(
        self,
        name: str,
        listed: int | None,
        *,
        first: int = 0,
        labels: bool = True,
        columns: Columns | None = None,
    ) -> SplitWriter:
        """Begin or go on with a split that has at most `listed` samples, from the source's `first` on.

        None stands for a number that nobody knows yet.

        Raises ManifestError for a name that no split or column can have.
        """
        columns = {**({LABELS: LABEL_COLUMN} if labels else {}), **(columns or {})}
        for word in (name, *columns):
            if word == TOKENS or not NAME.fullmatch(word) or word in _RESERVED:
                raise ManifestError(f"{word!r} cannot name a split or column: use letters, digits, _ and -")
        problem = view_boxes_problem(self.spec.views, columns[VIEW_BOXES]) if VIEW_BOXES in columns else None
        if problem is not None:
            raise ManifestError(f"{VIEW_BOXES}: {problem}")
        samples = self.spec.samples_per_shard(listed, columns.values())
        split = SplitWriter(self, name, listed, samples, columns, first)
        self.splits.append(split)
        return split

    def commit(self) -> Manifest:
        """Write all that is left, the manifest last, and return it; the store is complete.

        Raises StorageError and OSError if storage does not take a file, and ConversionError if another
        process has become the writer of this store.
        """
        try:
            return self._commit()
        except FileNotFoundError:
            self.check()  # another may have finished the store and removed the journal
            raise

    def _commit(self) -> Manifest:
        self.check()
        nodes: dict[str, dict[str, Any]] = {}
        files: dict[str, FileRecord] = {}
        self.uploads.wait()
        for split in self.splits:
            nodes[split.name] = group_document()
            nodes.update(split.array_documents())
            files.update(split.write_lists())
            files.update(split.write_tables())
        permutations = self.spec.permutations
        for name, values, axes in (
            (CODEBOOK, self.spec.stored_codebook, ("codebook", "code", "channel")),
            (SYNONYMS, self.spec.synonyms, ("code", "rank")),
            (SYMMETRIES, permutations, () if permutations is None else symmetry_axes(permutations)),
        ):
            if values is not None:
                nodes[name] = table_array_document(values, axes)
                path = f"{name}/{'/'.join(['c', *('0' for _ in values.shape)])}"
                files[path] = self._write(path, encode_table_array(values))
        for path, document in nodes.items():
            files[f"{path}/{ROOT}"] = self._write(f"{path}/{ROOT}", encode_json(document))
        manifest = Manifest(
            **self.spec.shared(),
            splits={split.name: split.summary() for split in self.splits},
            files=dict(sorted(files.items())),
            features=self._features(),
            created_by=f"tokenstore {__version__}",
        )
        for path in self.storage.files():
            if any(split.is_stray(path) for split in self.splits):
                self.storage.remove(path)
        self.storage.settle(chain(files, *(split.shard_paths() for split in self.splits)))
        self.complete(encode_root(manifest, nodes))
        return manifest

    def _features(self) -> tuple[str, ...]:
        """Return the names of all that a reader of the store must know."""
        large = _FEATURES if any(split.is_large for split in self.splits) else ()
        forms = [column.form for split in self.splits for column in split.columns.values()]
        used = {form.feature for form in forms if form is not None}
        views = () if self.spec.views is None else (VIEWS,)
        digits = (DIGITS,) if self.spec.tokens_layout(1, self.spec.chunk_samples).codec.digits else ()
        return (
            self.spec.codec,
            *large,
            *digits,
            *views,
            *(feature for feature in FORM_FEATURES if feature in used),
        )

    def complete(self, root: bytes) -> None:
        """Write the root's `zarr.json`, the last file, and clear up; the store is complete.

        Raises what `commit` raises.
        """
        self.check()
        try:
            self.storage.create(ROOT, root)
        except FileExistsError as error:
            raise ConversionError(f"{self.target}: another process has completed this store") from error
        if self._owner is not None:
            self._owner.stop()
        finish(self.target)
        self.close()

    def _write(self, path: str, data: bytes) -> FileRecord:
        self.storage.write(path, data)
        return file_record(data)
