"""The options of a conversion, its progress and its result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from tokenstore.codecs import DEFAULT_CODEC
from tokenstore.errors import ArgumentError, Parameter
from tokenstore.format import ConversionPart, Manifest, Skip, part_positions
from tokenstore.machine import available_cores
from tokenstore.sources.images import ImageOptions, Resize
from tokenstore.sources.masks import LARGEST_VALUE
from tokenstore.sources.views import ViewRule, parse_views
from tokenstore.writing.choices import AUTO, CHUNK_SAMPLES, MIN_DECODE_RATE, chosen_later, few_bad

OnError: TypeAlias = Literal["limit", "skip", "fail"]
MAX_PIXELS = ImageOptions(1).max_pixels
"""The pixels of an image beyond which it counts as bad, by default."""
BATCH_SIZE = 32
"""The images that a tokenizer takes at once, by default."""

_NO_DECISIONS = ("batch_size", "compile", "workers", "on_error", "part")
"""The options that do not decide the bytes of a whole conversion, or by the spec of its store."""


@dataclass(frozen=True)
class ConvertOptions:
    """The options of a conversion.

    All but `batch_size`, `workers`, `on_error` and `part` decide the bytes of the whole store.
    """

    codec: str = DEFAULT_CODEC
    """The codec: bitpack, zstd, context, or auto for the smallest of these. The last two take the store's
    size twice meanwhile."""
    min_decode_rate: float = MIN_DECODE_RATE
    """The samples a second and core that the choice of `auto` has to decode at."""
    chunk_samples: int = CHUNK_SAMPLES
    shard_samples: int | None = None
    splits: tuple[str, ...] | None = None
    limit: int | None = None
    on_error: OnError = "limit"
    """The treatment of bad samples: skip and report up to 1 % of a split (none below 100 samples) and fail
    beyond, skip any number, or fail at one."""
    image_size: int | None = None
    """The side in pixels of the square that an image becomes; by default the tokenizer's, or for smaller
    images a half, a quarter ... of it (`tokenstore.conversion.image_size`)."""
    resize: Resize = "squash"
    max_pixels: int = MAX_PIXELS
    fast_decode: bool = False
    """True to decode large JPEG images at a reduced scale (`tokenstore.sources.ImageOptions`), as the
    manifest then says. A few codes differ from those of images that are decoded in full."""
    views: str | None = None
    """The views that are cut from each image: `flip`, `ten-crop:1.1`, `random:8`, or others that
    `tokenstore.sources.views.parse_views` takes; None for the image alone."""
    mask_size: int | None = None
    """The side of the label maps, if the source has some; by default that of the images."""
    ignore_index: int = LARGEST_VALUE
    """The value of the label maps' pixels that have no class."""
    prune_codebook: bool = False
    """True to store only codes that occur, numbered anew; takes the store's size twice meanwhile."""
    codebook_size: int | None = None
    """The codebook's size, for codes whose source does not say; else the largest code + 1."""
    batch_size: int = BATCH_SIZE
    compile: bool = False
    """True to compile the tokenizer's network by torch.compile, as the manifest then says. That takes
    seconds to minutes once, and a few codes may differ."""
    workers: int = field(default_factory=available_cores)
    part: tuple[int, int] | None = None
    """The part of the conversion that is made: (3, 100) is the third of 100, to be merged with the others
    by `tokenstore.merge`. What depends on all codes, a codec or a pruned codebook, is left to the merging."""

    def __post_init__(self) -> None:
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            named = Parameter("part")
            raise ArgumentError(
                f"{named}: expected a number from 1 to {self.part[1]} of {self.part[1]} parts, "
                f"found {self.part[0]}",
                parameters=[named],
            )

        if self.views is not None:
            parse_views(self.views)
            if self.fast_decode:
                both = Parameter("fast_decode"), Parameter("views", self.views)
                raise ArgumentError(
                    f"{both[0]}: expected no {both[1]}, for views are cut from images of full size",
                    parameters=both,
                )

    @property
    def view_rule(self) -> ViewRule | None:
        """The rule by which views are cut; None for the image alone."""
        return None if self.views is None else parse_views(self.views)

    @property
    def first_codec(self) -> str:
        """The codec that shards are written with first: `auto` is chosen when all codes are known."""
        later = self.codec == AUTO or (self.part is not None and chosen_later(self.codec))
        return DEFAULT_CODEC if later else self.codec

    @property
    def rewrites(self) -> bool:
        """True if a whole store is written first, and rewritten when all its codes are known."""
        return self.part is None and (self.prune_codebook or chosen_later(self.codec))

    def listed(self, samples: int) -> int:
        """Return how many of a split's samples are converted, in all parts together."""
        return samples if self.limit is None else min(self.limit, samples)

    def positions(self, samples: int) -> range:
        """Return the positions of those of a split's samples that are converted here."""
        return part_positions(*(self.part or (1, 1)), self.listed(samples))

    def part_of(self, inputs: Mapping[str, Any]) -> ConversionPart | None:
        """Return the part that is made of the whole conversion of `inputs`; None for the whole."""
        if self.part is None:
            return None
        return ConversionPart(*self.part, self.on_error, json.loads(json.dumps(inputs)))

    def allowed_bad(self, listed: int) -> tuple[int, str] | None:
        """Return how many samples of `listed` may be bad and the reason; None for any number."""
        if self.on_error == "skip":
            return None
        if self.on_error == "fail":
            return 0, str(Parameter("on_error", "fail"))
        return few_bad(listed)

    def decisions(self) -> dict[str, Any]:
        """Return the options that decide the store's bytes, as JSON values."""
        decisions = {name: value for name, value in asdict(self).items() if name not in _NO_DECISIONS}
        # subtle: without them they are left out, so that parts and unfinished stores of before go on
        del decisions["views"]
        if not self.fast_decode:
            del decisions["fast_decode"]
        return decisions if self.view_rule is None else {**decisions, "views": str(self.view_rule)}


@dataclass(frozen=True)
class Progress:
    """The state of a conversion: the source's samples that are done, of `total`, in one split."""

    split: str
    done: int
    total: int
    skipped: int


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion."""

    manifest: Manifest
    nbytes: int
    """The bytes of all files of the store."""
    skipped: Mapping[str, Sequence[Skip]]
    """The samples of each split that could not be read."""
    resumed_at: Mapping[str, int]
    """The first sample of each split that was not yet in the store."""
    already_complete: bool = False
    size_note: str | None = None
    """A remark on the images' size, if it was chosen here and is not the tokenizer's or enlarges images."""
    codec_reason: str | None = None
    """The reason for the codec, if `context` or `auto` was asked for."""
    unlabelled: tuple[str, ...] = ()
    """The splits that were stored without labels though their source seems to have some."""
    unused_labels: tuple[str, ...] = ()
    """The notes on what looks like labels in the source, if a split is `unlabelled`."""


OnProgress: TypeAlias = Callable[[Progress], None]
