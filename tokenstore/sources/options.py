"""The options of decoding images, apart from the decoders, so that reading them imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from tokenstore.errors import did_you_mean

__all__ = [
    "FAST_FILTER",
    "FILTER",
    "LARGEST_VALUE",
    "MAX_PIXELS",
    "ImageOptions",
    "OriginalsOptions",
    "Resize",
    "SourceOptions",
    "refuse_unknown",
]

Resize: TypeAlias = Literal["squash", "crop", "pad"]
"""The ways in which an image comes to another size; `ImageOptions` describes them."""
MAX_PIXELS = 89_478_485
"""The default of the pixels of an image that is still decoded, which is Pillow's own."""
FILTER, FAST_FILTER = "bicubic", "dct-bicubic"
"""The names in a manifest of the filter that resizes images, without and with `fast_decode`."""
LARGEST_VALUE = 255
"""The largest class index of a label map."""


class OriginalsOptions(TypedDict, total=False):
    """The options of opening the images that a store was made from; None and False are the defaults."""

    image_column: str | None
    """The column of images of Parquet files, or of paths in the file `labels`."""
    allow_outside_paths: bool
    """True to read files that a Parquet file names by paths that lead out of its folder."""
    source_storage_options: Mapping[str, Any] | None
    """The options of fsspec for a source at a URL."""


class SourceOptions(OriginalsOptions, total=False):
    """The options of opening a source, each for some kinds; None and False are the defaults."""

    labels: str | Path | None
    """A CSV file of paths and labels, for a folder of images."""
    masks: str | Path | None
    """A folder of label maps, for a folder of images."""
    label_column: str | None
    """The column of labels of Parquet files, or of the file `labels`."""
    no_labels: bool
    """True to list images without labels, whatever looks like some."""
    class_names: str | Path | Sequence[str] | None
    """The names of the classes by label, for a source without: a list, or a text file of a name a line.

    Where images have label maps and no labels, they name the maps' values.
    """
    columns: Sequence[str] | None
    """Further columns to store, such as captions: names in the source, or `NAME=FIELD` for another name."""
    table: str | Path | None
    """A CSV or Parquet file with further columns, whose rows have the paths of images."""
    soft_labels: str | Path | None
    """A file (N, classes) of probabilities or logits, or a folder with one for each split."""
    soft_top: int | None
    """The most probable classes of each sample that are kept of `soft_labels`, by default 10."""
    token_column: str | None
    """The name of what holds ready codes: a tensor, an array, a field, a column."""
    grid: Sequence[int] | None
    """The shape that each sample's ready codes are brought to, such as (16, 16) for rows of 256."""
    window: int | None
    """The frames of a sample, for videos of ready codes; by default a sample is one frame."""
    stride: int | None
    """The frames from the begin of a `window` to that of the next one, by default a window's."""
    tokenizer_name: str | None
    """The name of the tokenizer that made ready codes, for a source that does not say it."""


def refuse_unknown(options: Mapping[str, object], known: Iterable[str], function: str) -> None:
    """Raise TypeError, as Python does, for a keyword argument of a function that is not `known`."""
    for name in options:
        if name not in known:
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}{did_you_mean(name, known)}"
            )


@dataclass(frozen=True)
class ImageOptions:
    """The options that bring images to one size; together with the file they decide every pixel.

    `squash` brings both sides to the size. `crop` takes the largest centred part of the size's shape. `pad`
    fits the whole image inside and fills the rest with black. All use Pillow's bicubic filter. An image that
    has the size already is not touched.

    Raises ValueError for a side below 1 pixel, an unknown resize, and `max_pixels` below 1.
    """

    size: int | tuple[int, int]
    """The size in pixels: one number for a square, or (height, width)."""
    resize: Resize = "squash"
    max_pixels: int = MAX_PIXELS
    """The number of pixels above which an image is refused before it is decoded."""
    fast_decode: bool = False
    """True to decode JPEG images at an eighth to a half of their sides, where that leaves twice the input's.

    Pixels of photographs differ by 0.25 of 255 in the mean, and so a few codes differ. An image of less than
    four times the input's sides is decoded in full."""

    def __post_init__(self) -> None:
        """Check the values."""
        if min(self.height, self.width) < 1:
            raise ValueError(f"image size: expected at least 1 pixel a side, got {self.size}")
        if self.resize not in get_args(Resize):
            near = did_you_mean(self.resize, get_args(Resize))
            raise ValueError(
                f"resize: expected one of {', '.join(get_args(Resize))}, got {self.resize!r}{near}"
            )
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels: expected at least 1, got {self.max_pixels}")

    @property
    def filter(self) -> str:
        """The name of the filter in a manifest."""
        return FAST_FILTER if self.fast_decode else FILTER

    @property
    def height(self) -> int:
        """The height in pixels."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """The width in pixels."""
        return self.size if isinstance(self.size, int) else self.size[1]
