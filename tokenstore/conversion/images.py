"""The plan of a conversion of images: the listed source, the spec of the store, and ranges of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from tokenstore.conversion.encoding import EncoderRecipe, RangeEncoder
from tokenstore.conversion.image_size import ChosenSize, choose_size
from tokenstore.conversion.options import ConvertOptions
from tokenstore.conversion.plans import RangePlan
from tokenstore.conversion.ranges import DEADLY, BadSample, RangeRequest, SampleRange, Segment
from tokenstore.errors import ArgumentError, Parameter
from tokenstore.format import VIEW_BOXES, Column, Preprocessing
from tokenstore.sources import decoding
from tokenstore.sources.base import ImageSource, MaskedSplit, further_kinds
from tokenstore.sources.decoding import decode_tasks
from tokenstore.sources.images import ImageOptions
from tokenstore.sources.masks import MaskDecoder
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.encoder import Encoder, compiled_tokenizer, identity_of, symmetries_of
from tokenstore.writing.spec import StoreSpec

__all__ = ["ConversionPlan", "LoadedTokenizer", "plan_images"]


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, and the name that it was loaded by, if any; a manifest has the name too."""

    tokenizer: Tokenizer
    spec: str | None = None


@dataclass(frozen=True)
class ConversionPlan(RangePlan):
    """The plan of a conversion of images."""

    source: ImageSource
    names: tuple[str, ...]
    spec: StoreSpec
    recipe: EncoderRecipe
    encoder: Encoder
    """The encoder of this process."""
    options: ConvertOptions
    size_note: str | None = None

    @property
    @override
    def batch_size(self) -> int:
        """The number of samples of which a tokenizer's batch is the good ones."""
        return self.options.batch_size

    @property
    @override
    def range_samples(self) -> int:
        return decoding.TASK_SAMPLES

    @override
    def begin(self, workers: int) -> RangeEncoder:
        return RangeEncoder(self.encoder, self.batch_size, workers)

    @override
    def columns(self, split: str) -> Mapping[str, Column]:
        return {**self.encoder.columns, **further_kinds(self.source, split)}

    @override
    def request(self, samples: SampleRange, task_samples: int | None = None) -> RangeRequest:
        tasks = decode_tasks(
            self.source.splits[samples.split],
            samples.start,
            samples.stop,
            masks=self.encoder.masks is not None,
            samples=task_samples,
        )
        return RangeRequest(samples, tuple(tasks))

    @override
    def lost(self, sample: SampleRange, error: Exception) -> Segment:
        """Return the segment of a sample that counts as bad, since workers die of it."""
        encoder = self.encoder
        return Segment(
            sample,
            np.empty((0, *encoder.shape), encoder.dtype),
            {name: np.empty((0, *column.shape), column.dtype) for name, column in encoder.columns.items()},
            np.empty(0, np.int64),
            np.empty((0, 3), np.int64),
            tuple(BadSample(position, DEADLY) for position in range(sample.start, sample.stop)),
        )


def plan_images(
    source: ImageSource,
    names: tuple[str, ...],
    options: ConvertOptions,
    location: str,
    loaded: LoadedTokenizer,
) -> ConversionPlan:
    """Plan a conversion of the splits `names` by a tokenizer.

    Raises TokenizerError for a tokenizer that does not take images of the size, or views, or that cannot be
    compiled where that is asked for, and ArgumentError for views beside label maps or a column of boxes.
    """
    tokenizer = compiled_tokenizer(loaded.tokenizer) if options.compile else loaded.tokenizer
    size = _chosen_size(source, tokenizer, options)
    encoder = _encoder(source, tokenizer, options, size.side)
    if options.compile:
        encoder.warm_up()
    images = encoder.options
    symmetries, permutations = symmetries_of(tokenizer)
    spec = StoreSpec(
        grid=encoder.grid,
        codebook_sizes=tokenizer.codebook_sizes,
        tokenizer=identity_of(tokenizer, loaded.spec),
        codec=options.first_codec,
        chunk_samples=options.chunk_samples,
        shard_samples=options.shard_samples,
        class_names=source.class_names,
        preprocessing=Preprocessing(images.height, images.width, images.resize, images.filter),
        ignore_index=None if encoder.masks is None else encoder.masks.ignore_index,
        source_kind=source.kind,
        source_location=location,
        codebook=tokenizer.codebook,
        views=encoder.views,
        symmetries=symmetries,
        permutations=permutations,
    )
    recipe = EncoderRecipe(
        loaded.spec or loaded.tokenizer,
        tokenizer.fingerprint,
        str(tokenizer.device),
        images,
        encoder.masks,
        options.batch_size,
        encoder.rule,
        options.compile,
    )
    return ConversionPlan(source, names, spec, recipe, encoder, options, size.note)


def _chosen_size(source: ImageSource, tokenizer: Tokenizer, options: ConvertOptions) -> ChosenSize:
    if options.image_size is not None:
        return ChosenSize(options.image_size)
    return choose_size([source.splits[name] for name in options.splits or source.splits], tokenizer)


def _encoder(source: ImageSource, tokenizer: Tokenizer, options: ConvertOptions, side: int) -> Encoder:
    images = ImageOptions(side, options.resize, options.max_pixels, options.fast_decode)
    masked = any(isinstance(split, MaskedSplit) for split in source.splits.values())
    masks = MaskDecoder(images, options.mask_size or images.height, options.ignore_index)
    if options.views is not None:
        _refuse_beside_views(source, masked, Parameter("views", options.views))
    return Encoder(tokenizer, images, masks if masked else None, options.view_rule)


def _refuse_beside_views(source: ImageSource, masked: bool, views: Parameter) -> None:
    """Raise ArgumentError for label maps beside `views`, and for a column of the name of their boxes."""
    if masked:
        masks = Parameter("masks")
        raise ArgumentError(
            f"{source.location}: {views} is for images without label maps, since a label map would be of one "
            f"view alone; leave out {views}, or {masks}",
            parameters=[views, masks],
        )
    if any(VIEW_BOXES in columns for columns in source.further.values()):
        other = Parameter("columns", f"NAME={VIEW_BOXES}")
        raise ArgumentError(
            f"{source.location}: with {views} a store keeps the boxes of its views as {VIEW_BOXES}, which is "
            f"a column of the source too; {other} gives that another name",
            parameters=[views, other],
        )
