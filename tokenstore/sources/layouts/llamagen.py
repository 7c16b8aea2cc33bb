"""The source of LlamaGen's code trees: a file a sample, with the codes of all its views.

    CODE/imagenet{S}_codes/{i}.npy      integers (1, V, L), row by row; S the side of the image in pixels
    CODE/imagenet{S}_labels/{i}.npy     its label, (1,)

Two views are the image and its mirror image. Ten are crops of the image enlarged to int(1.1 S), or to
int(1.05 S) where the name of a folder of the path ends in `ten_crop_105`: top left, top right, bottom left,
bottom right, centre, then the same of the mirror image. The tree names neither its classes nor its tokenizer.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.codecs import Views
from tokenstore.codecs.views import MAX_VIEWS, Box
from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import CodeSource, Labels, Note
from tokenstore.sources.code_values import check_shape
from tokenstore.sources.folders import folders_in
from tokenstore.sources.labels import check_labels
from tokenstore.sources.layouts.npy_stacks import ArrayKind, read_many
from tokenstore.sources.layouts.rows import CodeRows, LayoutSplit
from tokenstore.sources.names import counted, digest
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.split_names import DEFAULT_SPLIT, split_of_file
from tokenstore.texts import shortened

_CODES, _LABELS = "_codes", "_labels"
_FILE = re.compile(r"(0|[1-9][0-9]{0,17})\.npy")
_SIZE = re.compile(r"([1-9][0-9]{0,5})_codes$")
WIDE, SLIGHT = 1.1, 1.05
SLIGHT_FOLDER = "ten_crop_105"
"""The end of the name of a folder, at any depth, above trees of images enlarged `SLIGHT` times."""
_AT_A_TIME = 4096


@dataclass(frozen=True)
class TreeRows(CodeRows):
    """The codes in the files of one folder, in the order of their numbers."""

    folder: str
    numbers: npt.NDArray[np.int64]
    kind: ArrayKind
    sample: tuple[int, ...]
    """The shape of a sample: (V, *grid), or the grid alone of one view."""

    @property
    @override
    def where(self) -> str:
        return self.folder

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.sample

    @override
    def __len__(self) -> int:
        return len(self.numbers)

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        files = list(read_many(_paths(self.folder, self.numbers[start:stop])))
        return self.kind.stacked(files).reshape(stop - start, *self.sample)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        numbers = pc.cast(pa.array(self.numbers[start:stop]), pa.string())
        return pc.binary_join_element_wise(numbers, ".npy", "")

    @override
    def fingerprint(self) -> str:
        return digest(Path(self.folder).name, self.numbers, repr(self.sample))


def open_llamagen(location: str | Path) -> CodeSource:
    """Open a local tree of codes: the folder with `X_codes` and `X_labels`, or the folder `X_codes` itself.

    Samples are in the order of their numbers. Their grid is a square where L is one; views have boxes where V
    is 2 or 10 and the folder's name says the size of images. Raises SourceError for a folder of other files,
    for codes without a label, and for files that differ in shape, which are read as the conversion goes.
    """
    folder = _codes_folder(Path(location).absolute())
    numbers = _numbers(folder)
    first = next(read_many(_paths(str(folder), numbers[:1])))
    kind = ArrayKind.of(first[1], first[0])
    if len(kind.shape) != 3 or kind.shape[0] != 1:
        raise SourceError(f"{first[0]}: expected codes (1, V, L), found {kind.dtype} {kind.shape}")
    check_shape(kind.dtype, kind.shape, first[0])
    count, length = kind.shape[1:]
    if count > MAX_VIEWS:
        raise SourceError(f"{first[0]}: expected up to {MAX_VIEWS} views, found {count}")
    grid = (math.isqrt(length),) * 2 if math.isqrt(length) ** 2 == length > 1 else (length,)
    views, notes = _views(folder, count)
    labels, more = _labels(folder, numbers)
    missing = int(numbers[-1]) + 1 - len(numbers)
    if missing:
        gap = int(np.flatnonzero(np.diff(numbers, prepend=-1) > 1)[0])
        before = int(numbers[gap - 1]) + 1 if gap else 0
        notes.append(counted("numbers without a file", missing, f"{before}.npy"))
    size = Parameter("codebook_size")
    notes.append(Note(f"all files are read for the largest code unless {size} says the codebook's", [size]))
    rows = TreeRows(str(folder), numbers, kind, grid if count == 1 else (count, *grid))
    return CodeSource(
        kind="llamagen",
        location=str(location),
        splits={split_of_file(folder.name) or DEFAULT_SPLIT: LayoutSplit(rows, labels)},
        grid=grid,
        notes=(*notes, *more),
        views=views,
    )


def ten_crops(size: int, enlarged: int) -> tuple[Box, ...]:
    """Return the boxes of ten crops of a size, in an image of the size `enlarged`, in pixels.

    They are those of torchvision's `ten_crop`: the centre is rounded to even, in the mirror image too.
    """
    spare = enlarged - size
    middle = round(spare / 2)
    places = [(0, 0), (0, spare), (spare, 0), (spare, spare), (middle, middle)]
    plain = [(top, left, size, size, 0) for top, left in places]
    mirrored = [(top, spare - left, size, size, 1) for top, left in places]
    return (*plain, *mirrored)


def _codes_folder(root: Path) -> Path:
    if root.name.endswith(_CODES) and root.is_dir():
        return root
    folders = _trees(root)
    if len(folders) != 1:
        found = f"found {shortened([folder.name for folder in folders])}; give one of these folders"
        raise SourceError(
            f"{root}: expected a folder X{_CODES} beside X{_LABELS}, {found if folders else 'found none'}"
        )
    return folders[0]


def _trees(root: Path) -> list[Path]:
    """Return the folders of codes in a folder that have a folder of labels beside them."""
    if not root.is_dir():
        return []
    return [path for path in folders_in(root) if path.name.endswith(_CODES) and _labels_folder(path).is_dir()]


def _labels_folder(codes: Path) -> Path:
    return codes.with_name(codes.name.removesuffix(_CODES) + _LABELS)


def _numbers(folder: Path) -> npt.NDArray[np.int64]:
    """Return the numbers of a folder's files, sorted; raise SourceError for files of other names."""
    numbers = np.fromiter(_numbers_in(folder), np.int64)
    if not len(numbers):
        raise SourceError(f"{folder}: expected files 0.npy, 1.npy ..., found none")
    numbers.sort()
    return numbers


def _numbers_in(folder: Path) -> Iterator[int]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                match = _FILE.fullmatch(entry.name)
                if match is not None:
                    yield int(match[1])
                elif not entry.name.startswith("."):
                    raise SourceError(f"{folder}: expected files 0.npy, 1.npy ..., found {entry.name!r:.200}")
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed: {error.strerror or error}") from error


def _paths(folder: str, numbers: npt.NDArray[np.int64]) -> list[str]:
    return [f"{folder}/{number}.npy" for number in numbers.tolist()]


def _views(folder: Path, count: int) -> tuple[Views | None, list[str]]:
    """Return the views of a tree, and the notes on them."""
    if count == 1:
        return None, []
    match = _SIZE.search(folder.name)
    if match is None or count not in (2, 10):
        return Views(count), [f"samples have {count} views of unknown boxes"]
    size = int(match[1])
    if count == 2:
        return Views(2, ((0, 0, size, size, 0), (0, 0, size, size, 1))), [
            "view 1 is the mirror image of view 0"
        ]
    is_slight = any(part.endswith(SLIGHT_FOLDER) for part in folder.resolve().parts)
    factor = SLIGHT if is_slight else WIDE
    boxes = ten_crops(size, int(size * factor))
    return Views(10, boxes), [f"the ten views are crops of images enlarged {factor} times"]


def _labels(folder: Path, numbers: npt.NDArray[np.int64]) -> tuple[Labels | None, tuple[str, ...]]:
    """Return the labels of all samples, None for a tree without labels, and a note on other labels."""
    beside = _labels_folder(folder)
    if not beside.is_dir():
        return None, (f"no labels: there is no folder {beside.name}",)
    of_labels = _numbers(beside)
    missing = np.setdiff1d(numbers, of_labels, assume_unique=True)
    if len(missing):
        raise SourceError(
            f"{beside}: {counted('codes without a label', len(missing), f'{missing[0]}.npy')}; add the "
            "labels, or remove the codes"
        )
    kind: ArrayKind | None = None
    labels = []
    for start in range(0, len(numbers), _AT_A_TIME):
        files = list(read_many(_paths(str(beside), numbers[start : start + _AT_A_TIME])))
        kind = ArrayKind.of(files[0][1], files[0][0]) if kind is None else kind
        if int(np.prod(kind.shape, dtype=np.int64)) != 1 or kind.dtype.kind not in "iu":
            raise SourceError(f"{files[0][0]}: expected one label (1,), found {kind.dtype} {kind.shape}")
        labels.append(kind.stacked(files).reshape(-1))
    rest = len(of_labels) - len(numbers)
    more = (f"labels without codes are not used: {rest}",) if rest else ()
    return check_labels(np.concatenate(labels), str(beside)), more


def _holds(folder: Path) -> bool:
    if _trees(folder):
        return True
    if not folder.name.endswith(_CODES):
        return False
    with os.scandir(folder) as entries:
        return any(_FILE.fullmatch(entry.name) for entry in entries)


SOURCE = SourceKind(
    open=open_llamagen,
    holds=_holds,
    looked_for=f"LlamaGen codes (X{_CODES}/0.npy, X{_LABELS}/0.npy)",
)
"""The kind `llamagen`."""
