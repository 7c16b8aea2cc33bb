"""The layout of WebDataset: tar files whose members share a key for each sample.

000000000.tokens.npy    the codes
000000000.cls           the label
000000000.json          texts and single numbers, and the name of the class
000000000.boxes.npy     other arrays
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.codecs import TEXT, Column
from tokenstore.errors import StoreError
from tokenstore.format import LABELS, TOKENS
from tokenstore.writing.export.array_files import codebook_file, npy_array, npy_bytes
from tokenstore.writing.export.base import Exported, Layout, PlainLayout, Stream, Unit
from tokenstore.writing.export.card import CARD, card_of
from tokenstore.writing.export.contents import IMAGE, Values
from tokenstore.writing.export.json_lines import json_value, values_of

__all__ = ["WebDataset"]

CLASS_NAME = "class_name"
_MEMBERS = {TOKENS: "tokens.npy", LABELS: "cls"}
_FILE_ROWS = 10_000
_READ_SAMPLES = 256


class WebDataset(PlainLayout, Layout):
    """Tar files `train-000000.tar` of 10,000 samples, as the package webdataset reads them."""

    name: ClassVar[str] = "webdataset"
    compressions: ClassVar[tuple[str, ...]] = ("none", "gzip")
    cuts_files: ClassVar[bool] = True
    takes_images: ClassVar[bool] = True

    @override
    def problem(self, name: str, column: Column) -> str | None:
        if name == CLASS_NAME:
            return f"its name is that of the classes' names, {CLASS_NAME}"
        return None

    @override
    def units(self, exported: Exported) -> Iterator[Unit]:
        ending = ".tar.gz" if exported.compression == "gzip" else ".tar"
        for split, contents in exported.splits.items():
            for number, (start, stop) in enumerate(exported.cuts(split, _FILE_ROWS)):
                yield Unit((f"{split}-{number:06d}{ending}",), split, start, stop, contents.names)

    @override
    def write(self, exported: Exported, unit: Unit, stream: Stream, folder: Path) -> None:
        row = unit.start
        with (folder / unit.name).open("wb") as raw:
            file: Any = raw
            if exported.compression == "gzip":
                file = gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0)
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for values in stream(unit.columns):
                    for place in range(len(values[TOKENS])):
                        sample = {name: rows[place] for name, rows in values.items()}
                        for ending, data in self._members(exported, unit.split, row, sample):
                            _add(archive, f"{row:09d}.{ending}", data)
                        row += 1
            if file is not raw:
                file.close()

    @override
    def read(self, exported: Exported, unit: Unit, folder: Path) -> Iterator[Values]:
        samples: list[dict[str, bytes]] = []
        with tarfile.open(folder / unit.name, "r|gz" if exported.compression == "gzip" else "r|") as archive:
            for row, (key, members) in enumerate(_grouped(archive), unit.start):
                if key != f"{row:09d}":
                    raise ValueError(f"expected the key {row:09d}, found {key}")
                samples.append(members)
                if len(samples) == _READ_SAMPLES or row + 1 == unit.stop:
                    yield {name: self._column(exported, unit.split, name, samples) for name in unit.columns}
                    samples = []

    @override
    def extras(self, exported: Exported) -> Mapping[str, bytes]:
        return {**codebook_file(exported), CARD: card_of(self, exported, _MEMBERS)}

    def _members(
        self, exported: Exported, split: str, row: int, sample: Mapping[str, Any]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the ending and the bytes of each member of a sample."""
        contents, names = exported.splits[split], exported.manifest.class_names
        fields: dict[str, Any] = {}
        for name, value in sample.items():
            if name == LABELS:
                yield "cls", str(int(value)).encode()
                if names is not None:
                    fields[CLASS_NAME] = names[int(value)]
            elif name == IMAGE:
                assert contents.pictures is not None
                yield _picture_ending(contents.pictures.format), value
            elif _is_field(contents.kind(name)):
                fields[name] = json_value(value)
            else:
                yield f"{name}.npy", npy_bytes(np.asarray(value))
        if fields:
            try:
                yield "json", json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
            except ValueError as error:
                raise StoreError(
                    f"{split}, sample {row}: an infinite number has no form in JSON; leave its column out, "
                    "or export to another layout"
                ) from error

    def _column(
        self, exported: Exported, split: str, name: str, samples: list[dict[str, bytes]]
    ) -> npt.NDArray[Any]:
        """Return the values of a column of samples that were read back."""
        contents = exported.splits[split]
        if name == LABELS:
            return np.array([int(members["cls"]) for members in samples])
        if name == IMAGE:
            assert contents.pictures is not None
            ending = _picture_ending(contents.pictures.format)
            pictures: npt.NDArray[Any] = np.empty(len(samples), object)
            pictures[:] = [members[ending] for members in samples]
            return pictures
        kind = contents.kind(name)
        if _is_field(kind):
            return values_of([json.loads(members["json"])[name] for members in samples], kind)
        arrays = [npy_array(members[f"{name}.npy"]) for members in samples]
        if not kind.is_ragged:
            return np.stack(arrays)
        lists: npt.NDArray[Any] = np.empty(len(arrays), object)
        for place, array in enumerate(arrays):
            lists[place] = array
        return lists


def _is_field(kind: Column) -> bool:
    """Return True for a column whose values are fields of the sample's JSON: texts and single numbers."""
    return kind == TEXT or (not kind.is_ragged and not kind.shape)


def _picture_ending(format: str) -> str:
    return {"jpeg": "jpg"}.get(format, format)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _grouped(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key of each sample and its members by their endings."""
    key, members = None, dict[str, bytes]()
    for member in archive:
        start, _, ending = member.name.partition(".")
        if key is not None and start != key:
            yield key, members
            members = {}
        key = start
        opened = archive.extractfile(member)
        assert opened is not None
        members[ending] = opened.read()
    if key is not None:
        yield key, members
