"""The source of the SeiT release: one gzip of escaped codes for each split.

    <name>-<split>-token.data.bin.gz     all samples back to back
    <name>-<split>-token.index.npy.gz    N + 1 byte offsets into the uncompressed data
    <name>-<split>-label.txt             one integer a line
    codebook.ckpt, synonyms.json         both optional; codebook-synonyms.json is such a file, too

A code below 255 is one byte; a larger one is the byte 255 and then the byte `code - 255`. The classes of
`imagenet1k` are ImageNet's 1,000, whose names are WordNet ids.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.errors import SourceError
from tokenstore.sources.base import CodeSource, CodeSplit, Labels
from tokenstore.sources.files import LocalFile
from tokenstore.sources.folders import files_ending
from tokenstore.sources.forward_stream import STREAM_ERRORS, ForwardStream, read_all
from tokenstore.sources.imagenet_classes import imagenet_classes
from tokenstore.sources.labels import check_labels, parse_label
from tokenstore.sources.names import check_range, digest
from tokenstore.sources.npy_files import parse_npy
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.split_names import group_folders, in_usual_order

GRID = (32, 32)
DATA_ENDING = "-token.data.bin.gz"

_CODES_A_SAMPLE = math.prod(GRID)
_INDEX_HEADER, _OFFSET_NBYTES, _MOST_INFLATED = 2**16, 8, 1032
_LABEL_NBYTES = 16
"""The bytes of a line with a label."""
_SYNONYMS = ("synonyms.json", "codebook-synonyms.json")
_IMAGENET = "imagenet1k-"
_MOST_SYNONYM_BYTES = 2**26
_MOST_SYNONYMS = 2**26
_ESCAPE = 255
_SAMPLES_A_READ = 4096
_JSON_ERRORS = (*(OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError),)
_DATA_NAME = re.compile(rf"(.+)-([^-]+){re.escape(DATA_ENDING)}")


@dataclass(frozen=True)
class SeitSplit(CodeSplit):
    """The codes of one split, decoded from the stream on demand."""

    name: str
    stream: ForwardStream
    offsets: npt.NDArray[np.int64]
    all_labels: Labels
    codebook_size: int | None

    @property
    @override
    def columns(self) -> Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        return {}

    @override
    def __len__(self) -> int:
        return len(self.all_labels)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        check_range(start, stop, len(self))
        return pa.array([f"{self.name}[{sample}]" for sample in range(start, stop)], pa.string())

    @override
    def labels(self, start: int, stop: int) -> Labels:
        check_range(start, stop, len(self))
        return self.all_labels[start:stop]

    @override
    def fingerprint(self) -> str:
        return digest(self.name, self.offsets, self.all_labels)

    @override
    def codes(self, start: int, stop: int) -> npt.NDArray[np.uint16]:
        """Decode codes (stop - start, 32, 32).

        A call that begins where the last one ended reads on; a call for earlier samples reads from the
        beginning.

        Raises SourceError, naming the sample, for damaged codes.
        """
        check_range(start, stop, len(self))
        codes = np.empty((stop - start, _CODES_A_SAMPLE), np.uint16)
        for first in range(start, stop, _SAMPLES_A_READ):
            last = min(first + _SAMPLES_A_READ, stop)
            offsets = self.offsets[first : last + 1]
            data = self.stream.read(int(offsets[0]), int(offsets[-1] - offsets[0]))
            codes[first - start : last - start] = self._unescape(data, offsets - offsets[0], first)
        if stop == len(self):
            self.stream.check_nothing_after(int(self.offsets[-1]))
        return codes.reshape(stop - start, *GRID)

    @override
    def column(self, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        raise KeyError(name)

    def _unescape(self, data: bytes, offsets: npt.NDArray[np.int64], first: int) -> npt.NDArray[np.uint16]:
        """Return the codes (n, 1024) of samples from `first` on, whose bounds in `data` are `offsets`."""
        stored = np.frombuffer(data, np.uint8)
        is_escape = stored == _ESCAPE
        is_payload = np.zeros_like(is_escape)
        is_payload[1:] = is_escape[:-1]
        # the largest code is below 255 + 255, so that no escape is followed by the byte 255
        self._refuse(is_escape[offsets[1:] - 1], first, "ends within an escaped code")
        twice = np.searchsorted(offsets, np.flatnonzero(is_escape & is_payload), "right") - 1
        has_twice = np.zeros(len(offsets) - 1, bool)
        has_twice[twice] = True
        self._refuse(has_twice, first, "has an escape after an escape")
        starts = np.concatenate(([0], np.cumsum(~is_payload)))[offsets]
        counts: npt.NDArray[np.int64] = np.diff(starts)
        self._refuse(counts != _CODES_A_SAMPLE, first, f"does not hold exactly {_CODES_A_SAMPLE} codes")
        codes = stored.astype(np.uint16)
        codes[:-1] += stored[1:] * is_escape[:-1]
        decoded: npt.NDArray[np.uint16] = codes[~is_payload].reshape(-1, _CODES_A_SAMPLE)
        if self.codebook_size is not None:
            too_large: npt.NDArray[np.bool_] = decoded.max(axis=1) >= self.codebook_size
            self._refuse(too_large, first, f"has a code outside the codebook of {self.codebook_size}")
        return decoded

    def _refuse(self, bad: npt.NDArray[np.bool_], first: int, what: str) -> None:
        """Raise SourceError for the first sample that is marked bad."""
        if bad.any():
            raise SourceError(f"{self.name}{DATA_ENDING}: sample {first + int(np.argmax(bad))} {what}")


def open_seit(location: str | Path) -> CodeSource:
    """Open a folder in the layout of the SeiT release.

    The codes themselves are checked when they are read. Raises SourceError for a missing or damaged file, and
    for files that contradict each other.
    """
    folder = Path(location)
    names = _names_of_splits(folder)
    synonyms = _synonyms(_file_of_synonyms(folder))
    size = None if synonyms is None else len(synonyms)
    splits = {split: _open_split(folder, names[split], size) for split in in_usual_order(names)}
    codebook = folder / "codebook.ckpt"
    return CodeSource(
        kind="seit",
        location=str(location),
        splits=splits,
        grid=GRID,
        codebook_sizes=None if size is None else (size,),
        codebook_path=codebook if codebook.is_file() else None,
        synonyms=synonyms,
        class_names=_class_names(splits),
    )


def _class_names(splits: Mapping[str, SeitSplit]) -> tuple[str, ...] | None:
    """Return ImageNet's classes for splits of that name and labels within them; else None."""
    names = imagenet_classes()
    are_imagenet = all(split.name.startswith(_IMAGENET) for split in splits.values())
    largest = max((int(split.all_labels.max(initial=-1)) for split in splits.values()), default=-1)
    return names if are_imagenet and largest < len(names) else None


def _file_of_synonyms(folder: Path) -> Path:
    """Return the path of the nearest codes, by either of its published names."""
    paths = [folder / name for name in _SYNONYMS]
    return next((path for path in paths if path.exists()), paths[0])


def _names_of_splits(folder: Path) -> dict[str, str]:
    """Return, for each split, the beginning of its files' names."""
    paths = files_ending(folder, (DATA_ENDING,))
    matches = [match for path in paths if (match := _DATA_NAME.fullmatch(path.name))]
    if not matches:
        raise SourceError(f"{folder}: no file ending in {DATA_ENDING}")
    if len({match[1] for match in matches}) > 1:
        raise SourceError(
            f"{folder}: files of two data sets, {matches[0][1]!r} and {matches[-1][1]!r}; take them apart"
        )
    words = group_folders([match[2] for match in matches], str(folder))
    if words is None:
        words = {match[2]: match[2] for match in matches}
    return {split: f"{matches[0][1]}-{word}" for split, word in words.items()}


def _open_split(folder: Path, name: str, codebook_size: int | None) -> SeitSplit:
    data, index = folder / f"{name}{DATA_ENDING}", folder / f"{name}-token.index.npy.gz"
    offsets = _offsets(index, data)
    labels = _labels(folder / f"{name}-label.txt", len(offsets) - 1)
    if len(labels) != len(offsets) - 1:
        raise SourceError(f"{folder}: {len(labels)} labels of {name}, but its index is of {len(offsets) - 1}")
    stream = ForwardStream(partial(_open_gzip, data), str(data), LocalFile.of(data))
    return SeitSplit(name, stream, offsets, labels, codebook_size)


def _open_gzip(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb"))


def _offsets(path: Path, data: Path) -> npt.NDArray[np.int64]:
    """Read the byte offsets (N + 1,) of the samples in the file `data`."""
    try:
        # a byte of gzip gives at most 1032, so the file of codes bounds the samples that an index can have
        most = _INDEX_HEADER + _OFFSET_NBYTES * (data.stat().st_size * _MOST_INFLATED // _CODES_A_SAMPLE)
        with gzip.open(path, "rb") as file:
            content = read_all(file, most)
        if content is None:
            raise SourceError(f"more offsets than {data.name} can have samples")
        offsets = parse_npy(content, "the file inside")
    except (*STREAM_ERRORS, SourceError) as error:
        raise SourceError(f"{path}: the index cannot be read: {error}") from error
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2 or offsets[0] != 0:
        raise SourceError(
            f"{path}: expected a row of offsets from 0, found {offsets.dtype} {offsets.shape} {offsets[:1]}"
        )
    offsets = offsets.astype(np.int64)
    lengths = np.diff(offsets)
    # a sample takes one or two bytes a code; anything else also means that offsets are out of order
    wrong = (lengths < _CODES_A_SAMPLE) | (lengths > 2 * _CODES_A_SAMPLE)
    if wrong.any():
        sample = int(np.argmax(wrong))
        raise SourceError(
            f"{path}: sample {sample} takes {lengths[sample]} bytes, expected {_CODES_A_SAMPLE} to "
            f"{2 * _CODES_A_SAMPLE}"
        )
    return cast(npt.NDArray[np.int64], offsets)


def _labels(path: Path, samples: int) -> Labels:
    """Read the labels of the index's samples, one integer a line."""
    most = _LABEL_NBYTES * (samples + _SAMPLES_A_READ)
    try:
        with path.open("rb") as file:
            lines = file.read(most + 1).decode("ascii").split()
            too_long = file.tell() > most
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: the labels cannot be read: {error}") from error
    if too_long:
        raise SourceError(f"{path}: expected {samples} labels, one a line, found more than {most} bytes")
    bad = next((number for number, line in enumerate(lines) if not line.isdigit()), None)
    if bad is not None:
        raise SourceError(f"{path}: expected an integer in line {bad + 1}, found {reprlib.repr(lines[bad])}")
    return check_labels(np.array([parse_label(line, str(path)) for line in lines], np.int64), str(path))


def _synonyms(path: Path) -> npt.NDArray[np.int32] | None:
    """Read the nearest codes of each code (K, M), padded with -1; None if the file does not exist."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_SYNONYM_BYTES + 1)
        if len(content) > _MOST_SYNONYM_BYTES:
            raise ValueError(f"more than {_MOST_SYNONYM_BYTES} bytes")
        table = {int(code): nearest for code, nearest in json.loads(content).items()}
        rows = [table[code] for code in range(len(table))]
        width = max(map(len, rows))
        if len(rows) * width > _MOST_SYNONYMS:
            raise ValueError(f"{width} nearest codes for each of {len(rows)}")
        synonyms = np.full((len(rows), width), -1, np.int32)
        for code, nearest in enumerate(rows):
            if not all(type(other) is int for other in nearest):
                raise TypeError(f"nearest codes of code {code}: {reprlib.repr(nearest)}")
            synonyms[code, : len(nearest)] = nearest
    except _JSON_ERRORS as error:
        raise SourceError(f"{path}: expected a list of nearest codes for each code: {error!r}") from error
    if (synonyms < -1).any() or (synonyms >= len(rows)).any():
        raise SourceError(f"{path}: names codes outside the codebook of {len(rows)}")
    return synonyms


def _is_seit_folder(folder: Path) -> bool:
    return any(folder.glob(f"*{DATA_ENDING}"))


SOURCE = SourceKind(open=open_seit, holds=_is_seit_folder, looked_for=f"the SeiT release (*{DATA_ENDING})")
"""The kind `seit`."""
