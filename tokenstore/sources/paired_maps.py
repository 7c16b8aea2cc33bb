"""The check that a source lists no label maps as if they were photographs.

Maps are told by what they are and by what they are called: files of one channel and few values, each with an
image of its name and size in the same split. The names are equal, or but for words at their ends: `x.jpg` and
`maps/x.png`, `x.png` and `x_mask.png`, `x_leftImg8bit.png` and `x_gtFine_labelIds.png`.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from PIL import Image

from tokenstore.errors import Parameter, SampleError, SourceError
from tokenstore.sources.base import ImageSplit
from tokenstore.sources.images import FORMATS, check_pixels, pillow_limits, upright
from tokenstore.sources.options import MAX_PIXELS

__all__ = ["Pair", "refuse_paired_maps"]

_MAYBE_MAPS = r"(?i)\.(png|gif|bmp|tiff?)$"
"""The names of files in formats that keep values as they are."""
_LOOKED_AT = 32
"""The files of such names in a split that are looked at."""
_COMPARED = 8
"""The pairs whose images are looked at, too."""
_MOST_VALUES = 64
"""The most different values of a label map: a grey photograph has more."""
_MOST_PARTNERS = 20_000
_BLOCK = 2**16
"""The names that are compared at a time."""
_WORD = re.compile(r"[-_. ][A-Za-z][A-Za-z0-9]*$")
_MOST_WORDS = 3
"""The words that a map's name may have behind its image's."""

Advise = Callable[[str, "Pair"], tuple[str, Sequence[Parameter]]]
"""A function from a split and a pair in it to what to do, in words, and the parameters that these name."""


class Pair(NamedTuple):
    """A label map and its image, by their names in the source."""

    label_map: str
    image: str
    map_folder: str
    """The part of the map's folder that its image's folder does not have."""
    image_folder: str
    same_stem: bool
    """True if the names of both files are equal but for their endings."""


class _Side(NamedTuple):
    """The part of a name in which all maps, or all images, differ from the other side."""

    folder: tuple[str, ...]
    words: str
    ending: str


@dataclass(frozen=True)
class _File:
    row: int
    name: str

    @property
    def folders(self) -> tuple[str, ...]:
        return tuple(self.name.split("/")[:-1])

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2].rpartition(".")[0]

    @property
    def ending(self) -> str:
        return self.name.rpartition(".")[2].lower()

    def is_of(self, side: _Side) -> bool:
        """Return whether the file's name is like those of one side."""
        width, folders = len(side.folder), self.folders
        windows = (folders[start : start + width] for start in range(len(folders) - width + 1))
        return self.ending == side.ending and self.stem.endswith(side.words) and side.folder in windows


def refuse_paired_maps(splits: Mapping[str, ImageSplit], where: str, advise: Advise) -> None:
    """Raise SourceError if label maps are among the images of a split; `advise` says what to do about them.

    Up to 32 files that may be maps are read, evenly spread over a split.
    """
    for name, split in splits.items():
        pair = _first_pair(split)
        if pair is not None:
            way, parameters = advise(name, pair)
            bare = Parameter("no_labels", True)
            raise SourceError(
                f"{where}: split {name}: {pair.label_map} looks like the label map of {pair.image}, with one "
                f"channel of few values, and not like an image to encode. {way}, or take all as images by "
                f"{bare}",
                parameters=[*parameters, bare],
            )


def _first_pair(split: ImageSplit) -> Pair | None:
    """Return a label map of a split with its image, if there are maps."""
    looked_at = _spread(split)
    if len(looked_at) < 2:
        return None
    with ThreadPoolExecutor(_COMPARED, "tokenstore-maps") as threads:
        are_maps = list(threads.map(lambda file: _is_map(_read(split, file)), looked_at))
    maps = [file for file, is_map in zip(looked_at, are_maps, strict=True) if is_map]
    if len(maps) < 2:
        return None
    for (of_maps, _), pairs in _relations(maps, _partners(split, maps)).items():
        alike = [file for file in looked_at if file.is_of(of_maps)]
        if len(pairs) < 2 or not all(file in pairs for file in alike):
            continue
        if all(_fits(split, file, image) for file, image in list(pairs.items())[:_COMPARED]):
            file, image = next(iter(pairs.items()))
            mine, other = _middles(file.folders, image.folders)
            return Pair(file.name, image.name, "/".join(mine), "/".join(other), file.stem == image.stem)
    return None


def _spread(split: ImageSplit) -> list[_File]:
    """Return some files that may be label maps, evenly spread over a split."""
    starts = range(0, len(split), _BLOCK)
    counts = np.array([len(_rows(split, start, _MAYBE_MAPS)) for start in starts], np.int64)
    ends = np.cumsum(counts)
    total = int(counts.sum())
    ranks = np.unique(np.linspace(0, total - 1, min(_LOOKED_AT, total)).astype(np.int64))
    blocks = np.searchsorted(ends, ranks, "right")
    files = []
    for block in np.unique(blocks).tolist():
        rows = _rows(split, starts[block], _MAYBE_MAPS)
        first = int(ends[block] - counts[block])
        files += [_file(split, int(rows[rank - first])) for rank in ranks[blocks == block].tolist()]
    return files


def _rows(split: ImageSplit, start: int, pattern: str) -> npt.NDArray[np.int64]:
    """Return the rows of a block of names that match a pattern."""
    names = split.names(start, min(start + _BLOCK, len(split)))
    matches = pc.match_substring_regex(names, pattern).to_numpy(zero_copy_only=False)
    return start + np.flatnonzero(matches)


def _file(split: ImageSplit, row: int) -> _File:
    return _File(row, split.names(row, row + 1)[0].as_py())


def _read(split: ImageSplit, file: _File) -> bytes:
    """Return a file's bytes; none where it cannot be read, which the conversion will report."""
    (data,) = split.request(file.row, file.row + 1).read()
    return b"" if isinstance(data, SampleError) else data


def _keys(stem: str) -> Iterator[str]:
    """Yield a map's name, and its beginnings without the words at its end."""
    yield stem
    for _ in range(_MOST_WORDS):
        shorter = _WORD.sub("", stem)
        if not shorter or shorter == stem:
            return
        stem = shorter
        yield stem


def _partners(split: ImageSplit, maps: Sequence[_File]) -> dict[str, list[_File]]:
    """Return the files whose names are those of maps but for words at their ends, by the keys of maps."""
    keys = {key for file in maps for key in _keys(file.stem)}
    any_key = "|".join(map(re.escape, sorted(keys)))
    pattern = rf"(?:^|/)(?:{any_key})(?:[-_. ][A-Za-z][A-Za-z0-9]*)?\.[A-Za-z0-9]+$"
    partners: dict[str, list[_File]] = defaultdict(list)
    count = 0
    for start in range(0, len(split), _BLOCK):
        for row in _rows(split, start, pattern).tolist():
            file = _file(split, row)
            for key in {file.stem, _WORD.sub("", file.stem)} & keys:
                partners[key].append(file)
            count += 1
            if count >= _MOST_PARTNERS:  # whose names say nothing, such as 1.png in each of many folders
                return partners
    return partners


def _relations(
    maps: Sequence[_File], partners: Mapping[str, Sequence[_File]]
) -> dict[tuple[_Side, _Side], dict[_File, _File]]:
    """Return the ways in which names of maps and of their partners differ, each with its pairs."""
    relations: dict[tuple[_Side, _Side], dict[_File, _File]] = defaultdict(dict)
    for file in maps:
        for key in _keys(file.stem):
            for other in partners.get(key, ()):
                mine, theirs = _middles(file.folders, other.folders)
                sides = (
                    _Side(mine, file.stem[len(key) :], file.ending),
                    _Side(theirs, other.stem[len(key) :], other.ending),
                )
                if sides[0] != sides[1]:
                    relations[sides].setdefault(file, other)
    return relations


def _middles(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return two paths of folders without the parts that both begin and end with."""
    most = min(len(one), len(other))
    start = next((place for place in range(most) if one[place] != other[place]), most)
    rest = most - start
    end = next((place for place in range(rest) if one[-1 - place] != other[-1 - place]), rest)
    return one[start : len(one) - end], other[start : len(other) - end]


def _fits(split: ImageSplit, label_map: _File, image: _File) -> bool:
    """Return whether a file is the image of a label map: of its size, and no map itself."""
    data = _read(split, image)
    size = _size(data)
    return size is not None and size == _size(_read(split, label_map)) and not _has_few_values(data)


def _is_map(data: bytes) -> bool:
    """Return whether a file has one channel of few values."""
    image = _opened(data)
    return image is not None and image.mode in ("1", "L", "P", "I", "I;16", "I;16B") and _has_few_values(data)


def _has_few_values(data: bytes) -> bool:
    """Return whether an image has few values, or few colours."""
    image = _opened(data)
    if image is None:
        return False
    try:
        values: npt.NDArray[Any] = np.asarray(image)
    except Exception:  # whatever Pillow raises for a file that is cut off
        return False
    if values.ndim == 2:
        return len(np.unique(values)) <= _MOST_VALUES
    if len(np.unique(values[..., 0])) > _MOST_VALUES:
        return False
    colours = np.zeros(values.shape[:2], np.uint64)
    for channel in range(values.shape[2]):
        colours = colours << np.uint64(8) | values[..., channel].astype(np.uint64)
    return len(np.unique(colours)) <= _MOST_VALUES


def _size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of an image that is turned upright, or None."""
    image = _opened(data)
    try:
        return None if image is None else upright(image).size
    except Exception:  # as above
        return None


def _opened(data: bytes) -> Image.Image | None:
    """Return an image that is not yet decoded, or None."""
    try:
        with pillow_limits(MAX_PIXELS):
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            check_pixels(image, MAX_PIXELS)
            return image
    except Exception:  # as above
        return None
