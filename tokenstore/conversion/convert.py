"""Conversion: a source and a tokenizer in, a store out.

Samples are taken in the source's order. A sample that cannot be read is reported and left out, together
with its label. A conversion that was killed and resumed gives the same bytes as one that was not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenstore.codecs import DEFAULT_CODEC
from tokenstore.conversion.arguments import (
    chosen_splits,
    conversion_options,
    inputs_of_whole,
    loaded_tokenizer,
    plan_of,
    refuse_target_inside,
    refuse_workers,
    spec_of_part,
)
from tokenstore.conversion.assembly import write_splits
from tokenstore.conversion.completed import refuse_other_conversion
from tokenstore.conversion.executors import Executor, LocalExecutor
from tokenstore.conversion.exported import open_with_facts
from tokenstore.conversion.images import LoadedTokenizer
from tokenstore.conversion.options import Conversion, ConvertOptions, OnProgress, Progress
from tokenstore.conversion.plans import RangePlan
from tokenstore.errors import ArgumentError, ConversionError, SourceError
from tokenstore.format import ROOT
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.reading.open import StorePath, as_storage
from tokenstore.sources import SourceOptions
from tokenstore.sources.base import CodeSource, ImageSource, Source
from tokenstore.sources.listings import SavedListings
from tokenstore.storage import STAGING, Storage
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.writing.blocks import BlockExecutor
from tokenstore.writing.prune import codes_in_use
from tokenstore.writing.rewrite import rewrite_into, same_codes, skips_of
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.target import LISTINGS, check_target, finish_commit, look, own
from tokenstore.writing.writer import StoreWriter

WHOLE = f"{STAGING}/.whole"
"""The folder of the whole store that is rewritten when all its codes are known, to prune its codebook or to
choose its codec. No split's journal can have that name."""


def convert(
    source: StorePath | Source,
    target: StorePath | Storage,
    *,
    tokenizer: str | Tokenizer | None = None,
    device: str = "cpu",
    source_kind: str | None = None,
    codebook: StorePath | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    executor: Executor | None = None,
    on_source: Callable[[Source], None] | None = None,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> Conversion:
    """Turn images, or ready codes, into a token store.

    Args:
        source: A folder of images, tar shards or Parquet files, also at an fsspec URL, any layout of ready
            codes, or an open source.
        target: The store's place: a folder, a `.zip` file or an fsspec URL.
        tokenizer: The tokenizer of images, an object or `NAME[:ARGUMENT]`, by default the packaged one; of
            ready codes the one that made them, which their vectors must show.
        device: The device that a tokenizer given by its name runs on.
        source_kind: The kind of the source, by default as found.
        codebook: The file of ready codes' vectors.
        resume: True to go on with what an interrupted conversion left at `target`.
        storage_options: The options of a remote `target`.
        executor: What encodes images or reads codes, with `workers` of its own, by default this process and
            decode processes; the store's bytes are the same for each.
        on_source: Called with the listed source before the tokenizer is loaded.
        on_progress: Called with a Progress.
        **options: The fields of `tokenstore.conversion.ConvertOptions`, such as `codec="context"`, and, if
            `source` is a path, those of `tokenstore.sources.SourceOptions`, such as `labels="labels.csv"`.

    Raises TypeError for an unknown option, ArgumentError for a target inside the source, SourceError,
    TokenizerError, StoreExistsError, ManifestError for sizes that do not fit, and ConversionError for too
    many bad samples or for a store that was begun with other inputs.
    """
    of_source = {name: options.pop(name) for name in SourceOptions.__annotations__ if name in options}
    if executor is not None:
        refuse_workers(options.get("workers"))
    chosen = conversion_options(**options)
    place = as_storage(target, storage_options)
    source = _source(source, source_kind, of_source, place, resume)
    if on_source is not None:
        on_source(source)
    return convert_source(
        source,
        place,
        tokenizer=loaded_tokenizer(tokenizer, device, source),
        options=chosen,
        resume=resume,
        codebook=codebook,
        executor=executor,
        on_progress=on_progress,
    )


def _source(
    source: StorePath | Source, kind: str | None, options: dict[str, Any], place: Storage, resume: bool
) -> Source:
    """Return the source of a conversion to a place, which is checked before minutes go into listing."""
    if isinstance(source, ImageSource | CodeSource):
        if not resume:
            check_target(place, resume)
        if any(options.values()):
            raise ArgumentError(f"{', '.join(options)}: expected a path to open, found an open source")
        return source
    refuse_target_inside(source, place)
    if not resume:
        check_target(place, resume)
    return _opened(os.fspath(source), kind, options, place, resume)


def _opened(source: str, kind: str | None, options: dict[str, Any], place: Storage, resume: bool) -> Source:
    """List a source; what takes long to list is saved in the unfinished store, for a resumed conversion.

    Raises ConversionError where another process is writing a local store there.
    """
    if resume and place.reopened().exists(ROOT):
        return open_with_facts(source, kind, **options)
    with contextlib.ExitStack() as owned:

        def own_place() -> None:
            # subtle: a writer's files have one temporary name, which a listing would take from its shards
            if place.root is not None:
                owned.callback(own(place, resume).release)
                look(place, resume)

        listings = SavedListings(place.working_storage(), LISTINGS, own_place, resumed=resume)
        try:
            return open_with_facts(source, kind, listings=listings, **options)
        except SourceError:
            if not resume or listings.folders.took_saved:
                listings.remove()
            raise


def convert_source(
    source: Source,
    target: StorePath | Storage,
    *,
    tokenizer: Tokenizer | LoadedTokenizer | None = None,
    options: ConvertOptions | None = None,
    resume: bool = False,
    codebook: StorePath | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> Conversion:
    """Convert an open source by a loaded tokenizer; `convert` opens and loads both.

    Images need a `tokenizer`; one for codes says who made them. Codes are stored as they are, with the
    vectors in the file `codebook` or those of the source. An `executor` encodes the images or reads the
    codes. Raises like `convert`.
    """
    options = options or ConvertOptions()
    place = as_storage(target)
    names = chosen_splits(source, options.splits)
    plan = plan_of(source, names, options, tokenizer, codebook)
    second = executor if isinstance(executor, BlockExecutor) else None
    job = _Job(source, names, options, plan, resume, on_progress, executor or LocalExecutor(), second)
    if resume and finish_commit(place):
        refuse_other_conversion(TokenStore(StoreFiles(place.reopened())), plan, job.spec_of_part())
        return _already_complete(place)
    conversion = job.write_and_rewrite(place) if options.rewrites else job.write(place)
    conversion = replace(conversion, size_note=plan.size_note)
    unlabelled = [name for name in names if source.splits[name].labels(0, 0) is None]
    if unlabelled and source.unused_labels:
        return replace(conversion, unlabelled=tuple(unlabelled), unused_labels=source.unused_labels)
    return conversion


@dataclass(frozen=True)
class _Job:
    """One conversion: its source, options and plan."""

    source: Source
    names: tuple[str, ...]
    """The splits that are converted."""
    options: ConvertOptions
    plan: RangePlan
    resume: bool
    on_progress: OnProgress | None
    executor: Executor
    second: BlockExecutor | None
    """The executor of the second pass, if it is not this process."""

    def write(self, target: Storage, spec: StoreSpec | None = None) -> Conversion:
        """Write all splits, and commit."""
        spec = self.spec_of_part(spec)
        with StoreWriter(target, spec, resume=self.resume, inputs=self._inputs(spec)) as writer:
            resumed_at = write_splits(self.plan, self.executor, writer, self._report)
            skipped = {part.name: part.skipped for part in writer.splits}
            if spec.part is None and not any(part.samples for part in writer.splits):
                raise ConversionError(
                    f"{self.source.location}: no sample could be converted; the first reason: "
                    f"{next((s.reason for part in skipped.values() for s in part), 'none listed')}"
                )
            manifest = writer.commit()
        return Conversion(manifest, StoreFiles(target.reopened()).nbytes, skipped, resumed_at)

    def write_and_rewrite(self, target: Storage) -> Conversion:
        """Write a whole store beside the shards to be, then rewrite it when all its codes are known."""
        spec, options = self.plan.spec, self.options
        with StoreWriter(target, spec, resume=self.resume, inputs=self._inputs(spec)) as writer:
            staged = writer.storage.below(WHOLE)
            if self.resume and finish_commit(staged):
                whole = _already_complete(staged)
            else:
                plain = replace(options, prune_codebook=False, codec=DEFAULT_CODEC)
                whole = replace(self, options=plain).write(staged, replace(spec, codec=DEFAULT_CODEC))
            complete = TokenStore(StoreFiles(staged))
            skips = {name: skips_of(complete[name]) for name in complete.splits}
            rewritten = rewrite_into(
                writer,
                complete,
                codes_in_use(complete, self.second) if options.prune_codebook else same_codes(complete),
                codec=options.codec,
                min_decode_rate=options.min_decode_rate,
                shard_samples=options.shard_samples,
                executor=self.second,
                on_progress=self._report_step,
            )
        nbytes = StoreFiles(target.reopened()).nbytes
        reason = str(rewritten.choice)
        return Conversion(rewritten.manifest, nbytes, skips, whole.resumed_at, codec_reason=reason)

    def _report(self, split: str, stop: int, skipped: int) -> None:
        if self.on_progress is not None:
            here = self.options.positions(len(self.source.splits[split]))
            self.on_progress(Progress(split, stop - here.start, len(here), skipped))

    def _report_step(self, step: str, done: int, total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(step, done, total, 0))

    def spec_of_part(self, spec: StoreSpec | None = None) -> StoreSpec:
        """Return the plan's spec, or another, with the part that is made."""
        return spec_of_part(self.source, self.names, self.options, spec or self.plan.spec)

    def _inputs(self, spec: StoreSpec) -> dict[str, Any]:
        """Return all that decides the store's bytes, as JSON values."""
        part = self.options.part
        whole = inputs_of_whole(self.source, self.names, self.options, spec)
        return {**whole, **({} if part is None else {"part": list(part)})}


def _already_complete(target: Storage) -> Conversion:
    store = StoreFiles(target.reopened())
    return Conversion(store.manifest, store.nbytes, {}, {}, already_complete=True)
