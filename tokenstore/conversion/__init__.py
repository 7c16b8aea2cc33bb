"""Conversion: images and a tokenizer, or ready codes, in; a store out.

`convert` opens the source, loads the tokenizer and writes the store; `options` holds what can be asked for,
the progress and the result. `images` plans a conversion of images, `codes` one of ready codes: the store's
spec, and the ranges of the source (`plans`). An executor (`executors`) has each range encoded, or read, to a
segment (`ranges`, `encoding`), and `assembly` packs the segments, in order, into shards. Whichever executor
ran, and however often a conversion was killed and resumed, the bytes are the same.

The entry point is `tokenstore.convert`. This wing may import every other wing of tokenstore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from tokenstore.conversion.cluster import RayExecutor
    from tokenstore.conversion.convert import convert_source
    from tokenstore.conversion.encoding import EncoderRecipe, RangeEncoder
    from tokenstore.conversion.executors import Executor, LocalExecutor, encode_surely
    from tokenstore.conversion.images import ConversionPlan, LoadedTokenizer
    from tokenstore.conversion.options import Conversion, ConvertOptions, Progress
    from tokenstore.conversion.plans import RangePlan, RangeWorker
    from tokenstore.conversion.ranges import BadSample, RangeRequest, SampleRange, Segment
    from tokenstore.tokenizers.related import codebook_fingerprint

__all__ = [
    "BadSample",
    "Conversion",
    "ConversionPlan",
    "ConvertOptions",
    "EncoderRecipe",
    "Executor",
    "LoadedTokenizer",
    "LocalExecutor",
    "Progress",
    "RangeEncoder",
    "RangePlan",
    "RangeRequest",
    "RangeWorker",
    "RayExecutor",
    "SampleRange",
    "Segment",
    "codebook_fingerprint",
    "convert_source",
    "encode_surely",
]

_HOMES = {
    "BadSample": "ranges",
    "Conversion": "options",
    "ConversionPlan": "images",
    "ConvertOptions": "options",
    "EncoderRecipe": "encoding",
    "Executor": "executors",
    "LoadedTokenizer": "images",
    "LocalExecutor": "executors",
    "Progress": "options",
    "RangeEncoder": "encoding",
    "RangePlan": "plans",
    "RangeRequest": "ranges",
    "RangeWorker": "plans",
    "RayExecutor": "cluster",
    "SampleRange": "ranges",
    "Segment": "ranges",
    "codebook_fingerprint": "codes",
    "convert_source": "convert",
    "encode_surely": "executors",
}


# imported on first use, so that a wing costs only what is used of it
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
