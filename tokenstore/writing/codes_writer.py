"""The writer of a store from batches of codes, as a context manager."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from tokenstore.codecs import DEFAULT_CODEC, NAME, Column, code_dtype
from tokenstore.errors import ArgumentError, ConversionError
from tokenstore.format import LABELS, TOKENS, VIEW_BOXES, Manifest, view_boxes_problem
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.storage import STAGING, Storage
from tokenstore.writing.batches import (
    Batch,
    as_array,
    as_column,
    as_labels,
    as_texts,
    column_of,
    column_to_json,
)
from tokenstore.writing.checks import check_codes
from tokenstore.writing.choices import MIN_DECODE_RATE, chosen_later
from tokenstore.writing.codec_choice import CodecChoice, OnProgress
from tokenstore.writing.gathered import SplitContents, SplitGatherer
from tokenstore.writing.rewrite import rewrite_into, same_codes
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.target import finish_commit
from tokenstore.writing.writer import StoreWriter

__all__ = ["CodesWriter", "Settings", "Written"]

_SPLITS = "splits.json"
"""The note of what every split holds."""
_WHOLE = f"{STAGING}/.whole"
"""The folder of the whole store that is rewritten when its codec can be chosen."""


@dataclass(frozen=True)
class Settings:
    """The settings of a writer beside the store's spec."""

    codec: str = DEFAULT_CODEC
    min_decode_rate: float = MIN_DECODE_RATE
    kinds: Mapping[str, Column] = field(default_factory=dict)
    """The columns that every split has to have, if they are declared."""
    on_progress: OnProgress | None = None


@dataclass(frozen=True)
class Written:
    """A store that was written."""

    location: str
    """The place of the store, without a URL's user, password and query."""
    manifest: Manifest
    nbytes: int
    """The bytes of all files of the store."""
    choice: CodecChoice | None = None
    """The codec and the reason for it, where it was chosen when all codes were known."""
    already_complete: bool = False
    """True if the store was complete before the writer began."""


class CodesWriter:
    """A writer of one store from batches of any size: `tokenstore.write` without codes returns it.

    The store is complete when the `with` block ends without an exception. After one, or a crash, it stays
    unfinished, and `resume=True` goes on with it: `samples` says how many of each split are safe. Every 30
    seconds all samples so far are saved, and always by `save` and when the block ends by an exception.
    """

    def __init__(self, target: Storage, spec: StoreSpec, settings: Settings, *, resume: bool = False) -> None:
        self.spec = spec
        self._target = target
        self._settings = settings
        self._splits: dict[str, SplitGatherer] = {}
        self._empty: set[str] = set()
        """The splits of which all batches so far were empty."""
        self._stack = contextlib.ExitStack()
        self._result: Written | None = None
        self._complete: Mapping[str, int] | None = None
        """The samples of each split where all are written, so that no more can be added."""
        self._outer: StoreWriter | None = None
        """The writer of the store, until it is closed."""
        self._inner: StoreWriter | None = None
        """The writer that samples go to: the same, or of a store that is rewritten with a chosen codec."""
        if resume and finish_commit(target):
            self._refuse_other_store()
            return
        try:
            self._begin(resume)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None:
                self.commit()
                return
            with contextlib.suppress(Exception):  # the first error is the one to report
                self.save()
            self._stack.__exit__(kind, error, trace)

    @property
    def samples(self) -> dict[str, int]:
        """The samples of each split so far; at the beginning of a resumed writer, those that are safe."""
        if self._complete is not None:
            return dict(self._complete)
        return {name: split.samples for name, split in self._splits.items()}

    @property
    def result(self) -> Written:
        """The complete store; raises ConversionError before it is complete."""
        if self._result is None:
            raise ConversionError(f"{self._target}: the store is not complete before the end of the block")
        return self._result

    def add(
        self,
        codes: Any,
        labels: Any = None,
        *,
        split: str = "train",
        names: Sequence[str] | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> None:
        """Append samples to a split: codes (n, *grid), and for each sample what the split's others have.

        Codes of V views are (n, V, *grid). `labels` (n,) are integers from 0, `names` (n,) texts. A column is
        an array (n, *shape), `n` texts, or for lists of any length a list of `n` arrays (m, *shape); soft
        labels, whose Column has to be declared, are probabilities (n, classes). The first batch of a split
        says what all of its samples have. All arrays are copied.

        Raises ArgumentError for what does not fit and CodecError for codes outside their codebook, before
        anything of the batch is taken; and the errors of storage.
        """
        if self._inner is None:
            why = "all samples are written already" if self._complete is not None else "the writer is closed"
            raise ArgumentError(f"{self._target}: {why}, so that none can be added")
        where = f"split {split}"
        values = as_array(codes, where)
        first = self.samples.get(split, 0)
        spec = self.spec
        check_codes(values, spec.codebook_sizes, spec.grid, where, first, views=spec.views)
        given, count = columns or {}, len(values)
        kinds = self._kinds(split, given, where)
        batch = Batch(
            first,
            values.astype(code_dtype(self.spec.codebook_size)),
            None if labels is None else as_labels(labels, count, self.spec.class_names, where),
            None if names is None else as_texts(names, count, f"{where}: names"),
            {
                name: as_column(column, kinds[name], count, f"{where}: column {name!r}")
                for name, column in given.items()
            },
        )
        if count:
            contents = SplitContents(kinds, labels is not None, names is not None)
            self._gatherer(split, contents, where).take(batch)
            self._empty.discard(split)
        elif split not in self._splits:
            self._empty.add(split)

    def save(self) -> None:
        """Make all samples so far safe: after a crash, `resume=True` begins behind them.

        Raises the errors of storage.
        """
        for split in self._splits.values():
            split.save()
        if self._inner is not None:
            self._inner.uploads.wait()

    def commit(self) -> Written:
        """Write what is left, the manifest last, and return the complete store.

        The end of the `with` block does so. Raises ConversionError if no sample was added, or none to a split
        that empty batches were added to, and the errors of storage and of the choice of a codec.
        """
        if self._result is not None:
            return self._result
        if self._outer is None:
            raise ConversionError(f"{self._target}: the writer is closed")
        if self._inner is not None:
            self._finish_splits(self._inner)
            self._complete = self.samples
            self._inner = None
        choice = self._rewritten(self._outer) if chosen_later(self._settings.codec) else None
        self._result = self._written(choice)
        self.close()
        return self._result

    def close(self) -> None:
        """Release the store; unless it was committed, it stays unfinished."""
        self._outer = self._inner = None
        self._stack.close()

    def _begin(self, resume: bool) -> None:
        inputs = {"written": self._decisions()}
        writer = StoreWriter(self._target, self.spec, resume=resume, inputs=inputs)
        self._outer = self._inner = self._stack.enter_context(writer)
        if chosen_later(self._settings.codec):
            staged = writer.storage.below(_WHOLE)
            if resume and finish_commit(staged):
                self._complete, self._inner = _sizes(StoreFiles(staged).manifest), None
                return
            self._inner = StoreWriter(staged, self.spec, resume=resume, inputs=inputs)
            self._stack.enter_context(self._inner)
        noted = self._inner.recall(_SPLITS)
        for name, contents in json.loads(noted or b"{}").items():
            self._splits[name] = SplitGatherer(self._inner, name, SplitContents.from_json(contents))

    def _kinds(self, split: str, columns: Mapping[str, Any], where: str) -> Mapping[str, Column]:
        """Return what the columns of a batch hold; raise ArgumentError for others than the split's."""
        known = self._splits[split].contents.columns if split in self._splits else self._settings.kinds
        if (split in self._splits or known) and set(columns) != set(known):
            raise ArgumentError(
                f"{where}: expected the columns {', '.join(known) or 'none'}, found "
                f"{', '.join(columns) or 'none'}"
            )
        return {
            name: known[name] if name in known else column_of(values, f"{where}: column {name!r}")
            for name, values in columns.items()
        }

    def _gatherer(self, split: str, contents: SplitContents, where: str) -> SplitGatherer:
        """Return the writer of a split, of which all samples have the same; begin it if it is new.

        Raises ArgumentError for a batch that has more or less than the split.
        """
        if split in self._splits:
            known = self._splits[split].contents
            for what in ("labels", "names"):
                has, needs = (getattr(each, f"has_{what}") for each in (contents, known))
                if has != needs:
                    found = f"{what}, which no sample before has" if has else "none, which all before have"
                    raise ArgumentError(f"{where}: expected {what if needs else f'no {what}'}, found {found}")
            return self._splits[split]
        boxes = contents.columns.get(VIEW_BOXES)
        problem = None if boxes is None else view_boxes_problem(self.spec.views, boxes)
        if problem is not None:
            raise ArgumentError(f"{where}: column {VIEW_BOXES!r}: {problem}")
        for word in (split, *contents.columns):
            if word in (TOKENS, LABELS) or not NAME.fullmatch(word):
                raise ArgumentError(
                    f"{word!r} cannot name a split or column: use letters, digits, _ and -; labels are an "
                    "argument of their own"
                )
        assert self._inner is not None
        gatherer = SplitGatherer(self._inner, split, contents)
        self._note_splits(self._inner, {**self._splits, split: gatherer})
        self._splits[split] = gatherer
        return gatherer

    def _note_splits(self, writer: StoreWriter, splits: Mapping[str, SplitGatherer]) -> None:
        facts = {name: split.contents.to_json() for name, split in splits.items()}
        writer.note(_SPLITS, json.dumps(facts).encode())

    def _finish_splits(self, writer: StoreWriter) -> None:
        problem = None
        if not any(self.samples.values()):
            problem = "no sample was added, and a store has at least one"
        elif self._empty:
            problem = f"split {min(self._empty)}: expected at least one sample, found empty batches only"
        if problem is not None:
            self.save()
            raise ConversionError(
                f"{self._target}: {problem}. The store is unfinished: go on with resume=True, and add "
                "samples or leave that split out; or remove it"
            )
        for split in self._splits.values():
            split.settle()
        self._note_splits(writer, self._splits)  # a shard that is written short stays so after a crash
        writer.splits = [split.finish() for split in self._splits.values()]
        writer.commit()

    def _rewritten(self, writer: StoreWriter) -> CodecChoice:
        """Write the store with the codec that is chosen now that all codes are known."""
        staged = TokenStore(StoreFiles(writer.storage.below(_WHOLE)))
        return rewrite_into(
            writer,
            staged,
            same_codes(staged),
            codec=self._settings.codec,
            min_decode_rate=self._settings.min_decode_rate,
            shard_samples=self.spec.shard_samples,
            on_progress=self._settings.on_progress,
        ).choice

    def _written(self, choice: CodecChoice | None = None, *, before: bool = False) -> Written:
        store = StoreFiles(self._target.reopened())
        return Written(store.storage.url, store.manifest, store.nbytes, choice, already_complete=before)

    def _refuse_other_store(self) -> None:
        """Take the complete store at the target as the result; raise ConversionError if it is of others."""
        self._result = self._written(before=True)
        manifest = self._result.manifest
        self._complete = _sizes(manifest)
        for fact in ("grid", "views", "codebook_sizes", "tokenizer", "class_names", "source_kind"):
            found, asked = getattr(manifest, fact), getattr(self.spec, fact)
            if found != asked:
                raise ConversionError(
                    f"{self._target}: a complete store is there, of other settings: expected {fact} "
                    f"{asked!r:.200}, found {found!r:.200}. Choose another path, or remove the store"
                )

    def _decisions(self) -> dict[str, Any]:
        """Return all that decides the store's bytes beside its samples, as JSON values."""
        spec, settings = self.spec, self._settings
        names = json.dumps(spec.class_names).encode()
        vectors = b"" if spec.codebook is None else np.ascontiguousarray(spec.codebook).tobytes()
        return {
            "grid": list(spec.grid),
            **({} if spec.views is None else {"views": spec.views.to_json()}),
            "codebook_sizes": list(spec.codebook_sizes),
            "tokenizer": spec.tokenizer.to_dict(),
            "class_names": hashlib.sha256(names).hexdigest(),
            "codebook": hashlib.sha256(vectors).hexdigest(),
            "codec": settings.codec,
            "min_decode_rate": settings.min_decode_rate,
            "chunk_samples": spec.chunk_samples,
            "shard_samples": spec.shard_samples,
            "columns": {name: column_to_json(kind) for name, kind in settings.kinds.items()},
        }


def _sizes(manifest: Manifest) -> dict[str, int]:
    return {name: split.samples for name, split in manifest.splits.items()}
