"""The comparison of a complete store with the conversion that is asked for again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenstore.conversion.codes import CodePlan
from tokenstore.conversion.images import ConversionPlan
from tokenstore.errors import ConversionError, SampleError
from tokenstore.format import LABEL_COLUMN, LABELS, TOKENS, VIEW_BOXES, Column, Manifest
from tokenstore.reading import SplitReader, StoreFiles, TokenStore
from tokenstore.sources.base import Split
from tokenstore.sources.views import ViewDecoder
from tokenstore.writing import StoreSpec
from tokenstore.writing.choices import AUTO
from tokenstore.writing.rewrite import skips_of

__all__ = ["refuse_other_conversion"]


def refuse_other_conversion(store: TokenStore, plan: ConversionPlan | CodePlan, spec: StoreSpec) -> None:
    """Raise ConversionError if a complete store is not what the conversion of a plan would write.

    `spec` is the plan's, with the part that is made. Compared is all that decides the store's bytes and that
    the store tells: the kind of the source, its names, labels and classes, the tokenizer and what it was
    computed on, the sizes of images, grids, codebooks, chunks, shards and label maps, the codec and the part.
    Not compared are the contents of files, and the rate that the choice of a codec was made by. Samples are
    compared in a stream.
    """
    for what, stored, asked in _facts(store.manifest, plan, spec):
        if stored != asked:
            raise _refusal(store.files, f"{what} {stored!s:.200}", f"{asked!s:.200}")
    for name in plan.names:
        _refuse_other_arrays(store[name], plan, spec)
        _refuse_other_samples(store[name], plan)
        if isinstance(plan, ConversionPlan):
            _refuse_other_boxes(store[name], plan)


def _facts(
    manifest: Manifest, plan: ConversionPlan | CodePlan, spec: StoreSpec
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what decides the whole store: its name, what the store has, and what is asked for."""
    stored, asked = manifest.tokenizer, spec.tokenizer
    yield "a source of kind", manifest.source_kind, spec.source_kind
    yield "a tokenizer", str(stored), str(asked)
    yield "codes computed on", _computed(manifest), _computed(spec)
    yield "images of", manifest.preprocessing, spec.preprocessing
    yield "grids of", manifest.grid, spec.grid
    yield "views", _boxes(manifest), _boxes(spec)
    yield "classes", manifest.class_names, spec.class_names
    yield "an ignored label", manifest.ignore_index, spec.ignore_index
    yield "splits", sorted(manifest.splits), sorted(plan.names)
    yield "the part", str(manifest.part), str(spec.part)
    for name, value in ({} if spec.part is None else spec.part.inputs).items():
        was = {} if manifest.part is None else manifest.part.inputs
        yield f"a part of a conversion of {name}", was.get(name), value
    if plan.options.rewrites and plan.options.prune_codebook:
        yield "a pruned codebook:", stored.kept_codes is not None, True
        return
    yield "a pruned codebook:", stored.kept_codes is not None, asked.kept_codes is not None
    yield "codebooks of", manifest.codebook_sizes, spec.codebook_sizes


def _computed(of: Manifest | StoreSpec) -> str:
    return of.tokenizer.arithmetic or "any device"


def _boxes(of: Manifest | StoreSpec) -> str:
    if of.views is None:
        return "of the image alone"
    return f"of boxes {of.views.to_json()}" if of.views.boxes else f"{of.views.count} with boxes of their own"


def _refuse_other_arrays(reader: SplitReader, plan: ConversionPlan | CodePlan, spec: StoreSpec) -> None:
    """Raise ConversionError if a split's arrays are not laid out as they would be written."""
    store, where, options = reader.store, f"in split {reader.name} ", plan.options
    split = plan.source.splits[reader.name]
    columns = dict(plan.columns(reader.name))
    if split.labels(0, 0) is not None:
        columns = {LABELS: LABEL_COLUMN, **columns}
    stored = {name: array.layout.column for name, array in reader.arrays.items() if name != TOKENS}
    for name in sorted({*stored, *columns}):
        if stored.get(name) != columns.get(name):
            actual = f"{where}the array {name} of {_shape(stored.get(name))}"
            raise _refusal(store, actual, _shape(columns.get(name)))
    tokens = reader.array(TOKENS).layout
    codec = tokens.codec.name if options.codec == AUTO else options.codec
    if options.part is not None:
        codec = options.first_codec
    if tokens.codec.name != codec:
        raise _refusal(store, f"{where}the codec {tokens.codec.name}", codec)
    tokenizer, codebooks = store.manifest.tokenizer, store.manifest.codebook_sizes
    whole = replace(spec, codebook=None, synonyms=None, permutations=None)
    sizes = replace(whole, tokenizer=tokenizer, codebook_sizes=codebooks)
    # subtle: a store that is rewritten knows its samples already, a first one those that are listed
    listed = len(reader) if options.rewrites else len(options.positions(len(split)))
    expected = (options.chunk_samples, sizes.samples_per_shard(listed, columns.values()))
    if (tokens.chunk_samples, tokens.shard_samples) != expected:
        actual = f"chunks of {tokens.chunk_samples} samples in shards of {tokens.shard_samples}"
        raise _refusal(store, f"{where}{actual}", f"chunks of {expected[0]} in shards of {expected[1]}")


def _shape(column: Column | None) -> str:
    if column is None:
        return "nothing"
    if column.form is not None:
        return str(column.form)
    return " x ".join(map(str, (*column.shape, column.dtype)))


def _refuse_other_samples(reader: SplitReader, plan: ConversionPlan | CodePlan) -> None:
    """Raise ConversionError if a split does not have the samples of the source, in memory that stays flat."""
    store, where = reader.store, f"in split {reader.name} "
    split = plan.source.splits[reader.name]
    here = plan.options.positions(len(split))
    summary = store.manifest.splits[reader.name]
    if summary.samples + summary.skipped != len(here):
        stored = f"{where}{summary.samples + summary.skipped:,} samples"
        raise _refusal(store, stored, f"{len(here):,}")
    for skip in skips_of(reader):
        _compare_names(store, where, split, np.array([skip.source_index]), pa.array([skip.source]))
    labels = reader.array(LABELS).streamed() if LABELS in reader.arrays else None
    row = 0
    for batch in reader.samples_batches():
        positions = batch.column("source_index").to_numpy()
        if not len(positions):
            continue
        _compare_names(store, where, split, positions, batch.column("source"))
        first, last = int(positions[0]), int(positions[-1])
        of_source = split.labels(first, last + 1)
        if labels is not None and of_source is not None:
            values = labels.read_range(row, row + len(batch))
            differs = np.flatnonzero(values != of_source[positions - first])
            if len(differs):
                at = int(differs[0])
                sample = batch.column("source")[at].as_py()
                label = of_source[positions[at] - first]
                raise _refusal(store, f"{where}the label {values[at]} of {sample}", str(label))
        row += len(batch)
        width, height = (batch.column(name).cast(pa.int64()) for name in ("width", "height"))
        pixels = pc.max(pc.multiply(width, height)).as_py() or 0
        if pixels > plan.options.max_pixels:
            limit = f"at most {plan.options.max_pixels:,} allowed"
            raise _refusal(store, f"{where}an image of {pixels:,} pixels", limit)


def _refuse_other_boxes(reader: SplitReader, plan: ConversionPlan) -> None:
    """Raise ConversionError if the views of the first sample are not those that a plan would draw."""
    decoder = plan.encoder.decoder
    if not isinstance(decoder, ViewDecoder) or VIEW_BOXES not in reader.arrays or not len(reader):
        return
    first = next(iter(reader.samples_batches())).slice(0, 1).to_pylist()[0]
    at = first["source_index"]
    (data,) = plan.source.splits[reader.name].request(at, at + 1).read()
    if isinstance(data, SampleError):
        return  # as elsewhere, what files hold now is not compared
    boxes = decoder.boxes_of(data, first["width"], first["height"])
    stored = reader.read(VIEW_BOXES, slice(0, 1))[0]
    if boxes is not None and not np.array_equal(stored, boxes):
        where = f"in split {reader.name} views of {first['source']} with boxes"
        raise _refusal(reader.store, f"{where} {stored.tolist()}", str(boxes.tolist()))


def _compare_names(store: StoreFiles, where: str, split: Split, positions: Any, stored: pa.Array) -> None:
    """Raise ConversionError unless the samples at rising positions have the stored names."""
    first, last = int(positions[0]), int(positions[-1])
    if not 0 <= first <= last < len(split):
        raise _refusal(store, f"{where}the sample {stored[0].as_py()}", f"{len(split):,} samples")
    names = split.names(first, last + 1).take(pa.array(positions - first))
    if not stored.equals(names):
        pairs = zip(stored.to_pylist(), names.to_pylist(), strict=True)
        stored_name, name = next(pair for pair in pairs if pair[0] != pair[1])
        raise _refusal(store, f"{where}the sample {stored_name}", name)


def _refusal(store: StoreFiles, stored: str, asked: str) -> ConversionError:
    return ConversionError(
        f"{store.storage}: a complete store is there, of another source or other options: expected "
        f"{stored}, found {asked}. Choose another path, or remove the store"
    )
