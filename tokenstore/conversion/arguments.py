"""The arguments of a conversion: what was asked for becomes options, splits, a tokenizer and a plan."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tokenstore.conversion.codes import CodePlan, plan_codes
from tokenstore.conversion.images import ConversionPlan, LoadedTokenizer, plan_images
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import ArgumentError, Parameter, SourceError, TokenizerError, did_you_mean
from tokenstore.machine import available_cores
from tokenstore.reading.open import StorePath
from tokenstore.sources import SourceOptions
from tokenstore.sources.base import ImageSource, Source, Split
from tokenstore.storage import Storage, is_remote, public_url
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.base import Tokenizer, check_tokenizer
from tokenstore.tokenizers.registry import DEFAULT
from tokenstore.writing.spec import StoreSpec

_OWN_ARGUMENTS = (
    "tokenizer",
    "device",
    "source_kind",
    "codebook",
    "resume",
    "storage_options",
    "executor",
    "on_source",
    "on_progress",
)
"""The arguments of `convert` beside its options."""


def conversion_options(
    *, splits: str | Sequence[str] | None = None, workers: int | None = None, **options: Any
) -> ConvertOptions:
    """Return the options of a conversion; raise TypeError for an unknown name."""
    known = [field.name for field in fields(ConvertOptions)]
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        names = [*_OWN_ARGUMENTS, *known, *SourceOptions.__annotations__]
        begun = [name for name in _OWN_ARGUMENTS if unknown.startswith(f"{name}_")]
        near = f". Did you mean {begun[0]!r}?" if begun else did_you_mean(unknown, names)
        raise TypeError(f"convert() has no option {unknown!r}{near}")
    return ConvertOptions(
        splits=(splits,) if isinstance(splits, str) else tuple(splits or ()) or None,
        workers=available_cores() if workers is None else workers,
        **options,
    )


def loaded_tokenizer(
    tokenizer: str | Tokenizer | None, device: str, source: Source
) -> LoadedTokenizer | None:
    """Return the tokenizer for a source, loaded on a device if it is given by its name.

    By default it is the packaged one for images, and none for ready codes.
    """
    if tokenizer is None:
        if not isinstance(source, ImageSource):
            return None
        tokenizer = DEFAULT
    if isinstance(tokenizer, str):
        return LoadedTokenizer(load_tokenizer(tokenizer, device), tokenizer)
    return LoadedTokenizer(tokenizer)


def plan_of(
    source: Source,
    names: tuple[str, ...],
    options: ConvertOptions,
    tokenizer: Tokenizer | LoadedTokenizer | None,
    codebook: StorePath | None,
) -> ConversionPlan | CodePlan:
    """Plan the conversion of the splits `names` of an open source.

    Raises TokenizerError for images without a tokenizer, or a wrong one, ArgumentError for views of ready
    codes, and what the planning of images and codes raises.
    """
    location = public_url(source.location)
    loaded = None
    if tokenizer is not None:
        loaded = tokenizer if isinstance(tokenizer, LoadedTokenizer) else LoadedTokenizer(tokenizer)
        check_tokenizer(loaded.tokenizer)
    if not isinstance(source, ImageSource):
        if options.views is not None:
            named = Parameter("views", options.views)
            raise ArgumentError(
                f"{location}: {named}: views are cut from images, and these are ready codes; leave it out",
                parameters=[named],
            )
        vectors = None if codebook is None else Path(codebook)
        return plan_codes(source, names, options, location, vectors, loaded)
    if loaded is None:
        raise TokenizerError(
            "a source of images needs a tokenizer, found none: give tokenizer=..., an object or a "
            "LoadedTokenizer; `tokenstore.convert` takes names such as 'default' too"
        )
    return plan_images(source, names, options, location, loaded)


def refuse_workers(workers: int | None) -> None:
    """Raise ArgumentError for `workers` beside an executor, which has its own."""
    if workers is not None:
        named = Parameter("workers")
        raise ArgumentError(
            f"workers: expected none beside an executor, which has its own, found {workers}. Leave out "
            f"{named}",
            parameters=[named],
        )


def refuse_target_inside(source: StorePath, target: Storage) -> None:
    """Raise ArgumentError for a target inside the source."""
    if is_remote(source):
        where = public_url(os.fspath(source)).rstrip("/")
        is_inside = target.root is None and target.url.startswith(f"{where}/")
    else:
        where, folder = str(source), Path(source)
        root = target.root if folder.is_dir() else None
        is_inside = root is not None and root.resolve().is_relative_to(folder.resolve())
    if is_inside:
        raise ArgumentError(
            f"the target {target} is inside the source {where}: it would be read as images next time"
        )


def chosen_splits(source: Source, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the splits to convert: `names`, or all with samples; raise SourceError for a missing one."""
    missing = [name for name in names or () if name not in source.splits]
    if missing:
        near = did_you_mean(missing[0], source.splits)
        raise SourceError(
            f"{source.location}: no split {missing[0]!r}; it has {', '.join(source.splits)}{near}"
        )
    return names or tuple(name for name in source.splits if len(source.splits[name]))


def inputs_of_whole(
    source: Source, names: tuple[str, ...], options: ConvertOptions, spec: StoreSpec
) -> dict[str, Any]:
    """Return all that decides the bytes of a whole conversion, as JSON values."""
    splits: dict[str, Split] = {name: source.splits[name] for name in names}
    lists = {name: [len(split), split.fingerprint()] for name, split in splits.items()}
    further = {
        name: [[column, str(of_split.column), of_split.fingerprint()] for column, of_split in columns.items()]
        for name, columns in source.further.items()
        if name in names and columns
    }
    return {
        "source": {"kind": source.kind, "splits": lists, **({"columns": further} if further else {})},
        "tokenizer": str(spec.tokenizer),
        # subtle: of plain networks as they were before others could be compiled, so that their parts go on
        "computed": [spec.tokenizer.device, spec.tokenizer.dtype, *["compiled"] * spec.tokenizer.compiled],
        "grid": spec.grid,
        "codebook_sizes": spec.codebook_sizes,
        "class_names": hashlib.sha256(repr(source.class_names).encode()).hexdigest(),
        **options.decisions(),
        # subtle: left out without views, so that parts and unfinished stores of before go on
        **({} if spec.views is None else {"boxes": spec.views.to_json()}),
    }


def spec_of_part(
    source: Source, names: tuple[str, ...], options: ConvertOptions, spec: StoreSpec
) -> StoreSpec:
    """Return the spec of the part that a conversion makes, or of the whole."""
    if options.part is None:
        return spec
    return replace(spec, part=options.part_of(inputs_of_whole(source, names, options, spec)))
