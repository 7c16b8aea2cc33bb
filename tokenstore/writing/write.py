"""Stores of codes that a caller has in memory or in a loop: `tokenstore.write`."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import DEFAULT_CODEC, Views
from tokenstore.errors import ArgumentError, CodecError, Parameter
from tokenstore.format import TokenizerIdentity, codebook_sizes
from tokenstore.reading.open import StorePath, as_storage
from tokenstore.sources.base import UNKNOWN_TOKENIZER
from tokenstore.storage import Storage
from tokenstore.texts import is_unicode
from tokenstore.tokenizers import Tokenizer, load_tokenizer, symmetries_of
from tokenstore.tokenizers.related import codebook_fingerprint, related_identity
from tokenstore.writing.batches import as_array, declared_columns
from tokenstore.writing.choices import CHUNK_SAMPLES, MIN_DECODE_RATE, chosen_later
from tokenstore.writing.codec_choice import OnProgress
from tokenstore.writing.codes_writer import CodesWriter, Settings, Written
from tokenstore.writing.spec import StoreSpec

__all__ = ["SOURCE_KIND", "CodesWriter", "Written", "write"]

SOURCE_KIND = "written"
"""The kind of source in the manifest of a store that was written by `tokenstore.write`."""


@overload
def write(
    path: StorePath | Storage,
    codes: None = None,
    *,
    grid: Sequence[int] | None = None,
    views: int | Sequence[Sequence[int]] | Views | None = None,
    columns: Mapping[str, Any] | None = None,
    codebook_size: int | Sequence[int] | None = None,
    tokenizer: str | Tokenizer | TokenizerIdentity | None = None,
    codebook: Any = None,
    class_names: Sequence[str] | None = None,
    codec: str = DEFAULT_CODEC,
    min_decode_rate: float = MIN_DECODE_RATE,
    chunk_samples: int = CHUNK_SAMPLES,
    shard_samples: int | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> CodesWriter: ...


@overload
def write(
    path: StorePath | Storage,
    codes: Any,
    *,
    labels: Any = None,
    names: Sequence[str] | None = None,
    columns: Mapping[str, Any] | None = None,
    split: str = "train",
    grid: Sequence[int] | None = None,
    views: int | Sequence[Sequence[int]] | Views | None = None,
    codebook_size: int | Sequence[int] | None = None,
    tokenizer: str | Tokenizer | TokenizerIdentity | None = None,
    codebook: Any = None,
    class_names: Sequence[str] | None = None,
    codec: str = DEFAULT_CODEC,
    min_decode_rate: float = MIN_DECODE_RATE,
    chunk_samples: int = CHUNK_SAMPLES,
    shard_samples: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> Written: ...


def write(
    path: StorePath | Storage,
    codes: Any = None,
    *,
    labels: Any = None,
    names: Sequence[str] | None = None,
    columns: Mapping[str, Any] | None = None,
    split: str = "train",
    grid: Sequence[int] | None = None,
    views: int | Sequence[Sequence[int]] | Views | None = None,
    codebook_size: int | Sequence[int] | None = None,
    tokenizer: str | Tokenizer | TokenizerIdentity | None = None,
    codebook: Any = None,
    class_names: Sequence[str] | None = None,
    codec: str = DEFAULT_CODEC,
    min_decode_rate: float = MIN_DECODE_RATE,
    chunk_samples: int = CHUNK_SAMPLES,
    shard_samples: int | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> CodesWriter | Written:
    """Write a store of codes: all at once, or batch by batch in a `with` block.

        tokenstore.write("out.zarr", codes, labels=labels, codebook_size=1024)

        with tokenstore.write("out.zarr", grid=(16, 16), codebook_size=1024, resume=True) as writer:
            for codes, labels in batches(skip=writer.samples.get("train", 0)):
                writer.add(codes, labels)

    `codes` (N, *grid) are integers of numpy, torch or lists. Without them the call returns a `CodesWriter`,
    whose `add` takes batches of any size; the store is complete when its block ends without an exception, and
    else stays unfinished, to go on with by `resume=True`. `path` is a folder, a `.zip` file or an fsspec URL.
    Codes of several `views` are (N, V, *grid): V, or the box [top, left, height, width, flip] of each view
    (FORMAT.md, section 10). Boxes that differ from sample to sample are the column `view_boxes`.

    `codebook_size` is the number of codes, or one for each of several codebooks, which the first axis of the
    grid counts; a `tokenizer` or a `codebook` (K, D) or (n, K, D) float knows it too. The tokenizer is an
    object, a name `NAME[:ARGUMENT]`, or the `TokenizerIdentity` of one that is not at hand. `labels` (N,) are
    integers from 0, below the number of `class_names`. `names` (N,) are the samples' own names, by default
    `train[0]` and so on. `columns` are further values of each sample by name, as `CodesWriter.add` takes
    them; without codes they are their kinds instead, checked with each batch: a dtype, (dtype, shape), `str`
    for texts, or a Column. `codec` and the settings after it are those of `convert`.

    Raises ArgumentError and ManifestError for what does not fit, CodecError for codes outside their codebook,
    TokenizerError, StoreExistsError if something is at `path`, and ConversionError if the unfinished store
    there is of other settings or another process is writing it.
    """
    is_loop = codes is None
    grid = _grid(grid, codes, views, labels=labels, names=names)
    spec = _spec(grid, _Origin.of(tokenizer, codebook_size, codebook), class_names)
    spec = replace(spec, views=_views(views), chunk_samples=chunk_samples, shard_samples=shard_samples)
    spec = spec if chosen_later(codec) else replace(spec, codec=codec)
    kinds = (columns or {}) if is_loop else {}
    settings = Settings(codec, min_decode_rate, declared_columns(kinds), on_progress)
    writer = CodesWriter(as_storage(path, storage_options), spec, settings, resume=resume)
    if not is_loop:
        with writer:
            writer.add(codes, labels, split=split, names=names, columns=columns)
    return writer if is_loop else writer.result


def _refuse_samples(**given: Any) -> None:
    """Raise ArgumentError for what goes with codes, where there are none."""
    misused = [Parameter(name) for name, value in given.items() if value is not None]
    if misused:
        raise ArgumentError(
            f"{', '.join(map(str, misused))}: expected with codes, or by the writer's add", parameters=misused
        )


@dataclass(frozen=True)
class _Origin:
    """The origin of codes: the tokenizer that made them, and what follows from it."""

    codebook_sizes: tuple[int, ...]
    codebook: npt.NDArray[np.float32] | None
    tokenizer: Tokenizer | TokenizerIdentity
    spec: str | None = None
    """The user's name for the tokenizer."""

    @classmethod
    def of(
        cls,
        tokenizer: str | Tokenizer | TokenizerIdentity | None,
        codebook_size: int | Sequence[int] | None,
        codebook: Any,
    ) -> _Origin:
        """Return the origin that arguments say; raise ArgumentError where none says the codebook's size."""
        vectors = None if codebook is None else _vectors(codebook)
        sizes = (codebook_size,) if isinstance(codebook_size, int) else tuple(codebook_size or ())
        if not sizes and vectors is not None:
            sizes = codebook_sizes(vectors.shape)
        if tokenizer is None or isinstance(tokenizer, TokenizerIdentity):
            if not sizes:
                named = Parameter("codebook_size")
                raise ArgumentError(
                    f"{named}: expected the number of codes, a tokenizer or a codebook, found none of them",
                    parameters=[named],
                )
            fingerprint = None if vectors is None else codebook_fingerprint(vectors)
            return cls(sizes, vectors, tokenizer or TokenizerIdentity(UNKNOWN_TOKENIZER, fingerprint))
        spec = tokenizer if isinstance(tokenizer, str) else None
        loaded = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        sizes = sizes or loaded.codebook_sizes
        if vectors is None and sizes == loaded.codebook_sizes:
            vectors = loaded.codebook
        return cls(sizes, vectors, loaded, spec)

    def identity(self, grid: tuple[int, ...]) -> TokenizerIdentity:
        """Return the identity of the tokenizer of codes (*grid); raise TokenizerError if it does not fit."""
        if isinstance(self.tokenizer, TokenizerIdentity):
            return self.tokenizer
        return related_identity(self.codebook, self.codebook_sizes, grid, self.tokenizer, self.spec)

    def symmetries(self, identity: TokenizerIdentity) -> tuple[tuple[str, ...], npt.NDArray[np.int32] | None]:
        """Return the names and permutations of the symmetries of the codes of a tokenizer that is known."""
        if isinstance(self.tokenizer, TokenizerIdentity):
            return (), None
        return symmetries_of(self.tokenizer, identity.kept_codes)


def _vectors(codebook: Any) -> npt.NDArray[np.float32]:
    vectors = as_array(codebook, "codebook").astype(np.float32)
    if vectors.ndim not in (2, 3):
        raise ArgumentError(
            f"codebook: expected vectors (K, D) or (n, K, D), found {vectors.shape}",
            parameters=[Parameter("codebook")],
        )
    return vectors


def _views(views: int | Sequence[Sequence[int]] | Views | None) -> Views | None:
    """Return the views of an argument; raise ArgumentError for what is none."""
    if views is None or isinstance(views, Views):
        return views
    try:
        boxes = views if isinstance(views, int) else [[operator.index(each) for each in box] for box in views]
        return Views.from_json(boxes)
    except (CodecError, TypeError) as error:
        raise ArgumentError(f"views: {error}", parameters=[Parameter("views")]) from error


def _grid(grid: Sequence[int] | None, codes: Any, views: object, **of_codes: Any) -> Sequence[int] | None:
    """Return the shape of one grid of codes, by default that of `codes`; refuse `of_codes` without any.

    Raises ArgumentError for codes without a sample.
    """
    if codes is None:
        _refuse_samples(**of_codes)
        return grid
    if not len(codes):
        named = Parameter("codes")
        raise ArgumentError(f"{named}: expected at least one sample, found none", parameters=[named])
    return as_array(codes, "codes").shape[1 if views is None else 2 :] if grid is None else grid


def _checked_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return names of classes, one by label; raise ArgumentError for what is no list of texts."""
    if names is None:
        return None
    wrong = [names] if isinstance(names, str) else [name for name in names if not isinstance(name, str)]
    wrong += [name for name in names if isinstance(name, str) and not is_unicode(name)]
    if wrong:
        raise ArgumentError(
            f"class_names: expected a list of texts of Unicode's characters, found {wrong[0]!r:.80}",
            parameters=[Parameter("class_names")],
        )
    return tuple(names)


def _spec(grid: Sequence[int] | None, origin: _Origin, class_names: Sequence[str] | None) -> StoreSpec:
    if grid is None:
        raise ArgumentError(
            "grid: expected the shape of a sample's codes, such as (16, 16), found none",
            parameters=[Parameter("grid")],
        )
    shape = tuple(int(side) for side in grid)
    identity = origin.identity(shape)
    symmetries, permutations = origin.symmetries(identity)
    return StoreSpec(
        tokenizer=identity,
        grid=shape,
        codebook_sizes=origin.codebook_sizes,
        codebook=origin.codebook,
        class_names=_checked_names(class_names),
        source_kind=SOURCE_KIND,
        symmetries=symmetries,
        permutations=permutations,
    )
