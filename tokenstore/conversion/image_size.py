"""The size that images are brought to where the user gives none.

It is the tokenizer's own, or for smaller images half of it, a quarter and so on: the smallest of these that
is not below the shorter side of the median image. So images are never enlarged to four times their pixels or
more, unless the tokenizer takes no smaller ones.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from tokenstore.conversion.ranges import spaced_samples
from tokenstore.errors import Parameter, SampleError, TokenizerError
from tokenstore.sources.base import ImageSplit, Note
from tokenstore.sources.decoding import decode_tasks
from tokenstore.sources.fetching import fetched_many
from tokenstore.sources.images import FORMATS, ImageOptions, pillow_limits
from tokenstore.tokenizers.base import FileTokenizer, Tokenizer

__all__ = ["ChosenSize", "choose_size"]

LEAST_GRID = 4
"""The positions a side below which no smaller size is chosen."""
_MAX_PIXELS = ImageOptions(1).max_pixels
_MEASURED = 32
"""The number of images whose sides are read, spread over all splits."""


@dataclass(frozen=True)
class ChosenSize:
    """The side in pixels of the square that an image becomes."""

    side: int
    note: Note | None = None
    """A remark for the user, if the side is not the tokenizer's own or images are enlarged."""


def choose_size(splits: Sequence[ImageSplit], tokenizer: Tokenizer) -> ChosenSize:
    """Choose the size of the images in `splits` for a tokenizer.

    A tokenizer that reads files rather than pixels keeps its own size, and so do sources of which none of the
    images that are looked at can be read.
    """
    own = tokenizer.image_size
    if isinstance(tokenizer, FileTokenizer):
        return ChosenSize(own)
    shorter = [min(sides) for sides in _measured(splits)]
    if not shorter:
        return ChosenSize(own)
    median = int(statistics.median_low(shorter))
    side = own
    while side % 2 == 0 and side // 2 >= median and _takes(tokenizer, side // 2):
        side //= 2
    if side == own and own < 2 * median:
        return ChosenSize(own)
    size = Parameter("image_size")
    reason = f"the shorter side of the median image has {median} pixels"
    if side < own:
        text = f"{reason}: images become {side}x{side}, not the tokenizer's {own}x{own}; {size} gives another"
    else:
        text = f"{reason}: images are enlarged to {own}x{own}, the least that {tokenizer.name} takes"
    return ChosenSize(side, Note(text, [size]))


def _takes(tokenizer: Tokenizer, side: int) -> bool:
    try:
        return min(tokenizer.grid((3, side, side))[-2:]) >= LEAST_GRID
    except TokenizerError:
        return False


def _measured(splits: Sequence[ImageSplit]) -> Iterator[tuple[int, int]]:
    """Yield the width and height of some images, those that can be read."""
    chosen = spaced_samples([(split, range(len(split))) for split in splits], _MEASURED)
    tasks = (task for split, start, stop in chosen for task in decode_tasks(splits[split], start, stop))
    for task in fetched_many(tasks):
        for data in task.images.read():
            if not isinstance(data, SampleError):
                yield from _sides(data)


def _sides(data: bytes) -> Iterator[tuple[int, int]]:
    try:
        with pillow_limits(_MAX_PIXELS), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image.size
    except Exception:  # a bad image: the conversion says so
        return
