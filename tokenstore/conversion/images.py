"""The plan of a conversion of images: the listed source, the spec of the store, and ranges of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tokenstore.conversion.encoding import EncoderRecipe
from tokenstore.conversion.image_size import ChosenSize, choose_size
from tokenstore.conversion.options import ConvertOptions
from tokenstore.conversion.ranges import RangeRequest, SampleRange
from tokenstore.format import Column, Preprocessing
from tokenstore.sources.base import ImageSource, MaskedSplit
from tokenstore.sources.decoding import decode_tasks
from tokenstore.sources.images import ImageOptions
from tokenstore.sources.masks import MaskDecoder
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.encoder import Encoder, identity_of
from tokenstore.writing.spec import StoreSpec

__all__ = ["ConversionPlan", "LoadedTokenizer", "plan_images"]


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, and the name that it was loaded by, if any; a manifest has the name too."""

    tokenizer: Tokenizer
    spec: str | None = None


@dataclass(frozen=True)
class ConversionPlan:
    """The plan of a conversion of images; an `Executor` runs it.

    A plan has no object for each sample or range: `ranges` yields them one by one.
    """

    source: ImageSource
    names: tuple[str, ...]
    """The splits that are converted, in order."""
    spec: StoreSpec
    recipe: EncoderRecipe
    """The recipe by which a worker elsewhere makes its encoder."""
    encoder: Encoder
    """The encoder of this process."""
    options: ConvertOptions
    size_note: str | None = None
    """A remark on the size of the images, where the user has not chosen it."""

    @property
    def batch_size(self) -> int:
        """The number of samples of which a tokenizer's batch is the good ones."""
        return self.options.batch_size

    def listed(self, split: str) -> int:
        """Return how many samples of a split are converted, in all parts of the conversion together."""
        return self.options.listed(len(self.source.splits[split]))

    def positions(self, split: str) -> range:
        """Return the positions of those of a split's samples that are converted here."""
        return self.options.positions(len(self.source.splits[split]))

    def columns(self, _: str) -> Mapping[str, Column]:
        """Return the aligned arrays that a split has besides the tokens and the labels."""
        return self.encoder.columns

    def ranges(self, starts: Mapping[str, int], batches: int = 1) -> Iterator[SampleRange]:
        """Yield the ranges of each split from a start on, of so many of the tokenizer's batches each.

        Ranges begin and end at multiples of the batch size, or at the end of a split. So no batch depends on
        where a conversion was interrupted, or on its cut into parts; samples outside of these are encoded
        and left out.
        """
        for split, start in starts.items():
            stop, size = self.positions(split).stop, self.batch_size
            if start < stop:
                stop = min(stop + -stop % size, self.listed(split))
                for first in range(start - start % size, stop, batches * size):
                    yield SampleRange(split, first, min(first + batches * size, stop))

    def request(self, samples: SampleRange, task_samples: int | None = None) -> RangeRequest:
        """Return the request by which a worker encodes a range, in tasks of at most so many samples."""
        tasks = decode_tasks(
            self.source.splits[samples.split],
            samples.start,
            samples.stop,
            masks=self.encoder.masks is not None,
            samples=task_samples,
        )
        return RangeRequest(samples, tuple(tasks))


def plan_images(
    source: ImageSource,
    names: tuple[str, ...],
    options: ConvertOptions,
    location: str,
    loaded: LoadedTokenizer,
) -> ConversionPlan:
    """Plan a conversion of the splits `names` by a tokenizer.

    Raises TokenizerError for a tokenizer that does not take images of the size.
    """
    tokenizer = loaded.tokenizer
    size = _chosen_size(source, tokenizer, options)
    encoder = _encoder(source, tokenizer, options, size.side)
    images = encoder.options
    spec = StoreSpec(
        grid=encoder.grid,
        codebook_sizes=tokenizer.codebook_sizes,
        tokenizer=identity_of(tokenizer, loaded.spec),
        codec=options.first_codec,
        chunk_samples=options.chunk_samples,
        shard_samples=options.shard_samples,
        class_names=source.class_names,
        preprocessing=Preprocessing(images.height, images.width, images.resize),
        ignore_index=None if encoder.masks is None else encoder.masks.ignore_index,
        source_kind=source.kind,
        source_location=location,
        codebook=tokenizer.codebook,
    )
    recipe = EncoderRecipe(
        loaded.spec or tokenizer,
        tokenizer.fingerprint,
        str(tokenizer.device),
        images,
        encoder.masks,
        options.batch_size,
    )
    return ConversionPlan(source, names, spec, recipe, encoder, options, size.note)


def _chosen_size(source: ImageSource, tokenizer: Tokenizer, options: ConvertOptions) -> ChosenSize:
    if options.image_size is not None:
        return ChosenSize(options.image_size)
    return choose_size([source.splits[name] for name in options.splits or source.splits], tokenizer)


def _encoder(source: ImageSource, tokenizer: Tokenizer, options: ConvertOptions, side: int) -> Encoder:
    images = ImageOptions(side, options.resize, options.max_pixels)
    masked = any(isinstance(split, MaskedSplit) for split in source.splits.values())
    masks = MaskDecoder(images, options.mask_size or images.height, options.ignore_index)
    return Encoder(tokenizer, images, masks if masked else None)
