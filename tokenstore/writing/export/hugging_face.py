"""The layout of `datasets.Dataset.save_to_disk`: Arrow files, for `datasets.load_from_disk`.

dataset_dict.json                 {"splits": ["train", "val"]}
train/data-00000-of-00002.arrow   a stream of record batches
train/state.json                  the files of the split
train/dataset_info.json           the kinds of its columns
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from typing_extensions import override

from tokenstore.codecs import Column
from tokenstore.format import LABELS, encode_json
from tokenstore.writing.export import arrow
from tokenstore.writing.export.array_files import codebook_file
from tokenstore.writing.export.base import Exported, Layout, PlainLayout, Stream, Unit
from tokenstore.writing.export.card import CARD, card_of
from tokenstore.writing.export.contents import Values

__all__ = ["HuggingFace"]


class HuggingFace(PlainLayout, Layout):
    """The folder that `datasets.load_from_disk` reads."""

    name: ClassVar[str] = "hf"
    cuts_files: ClassVar[bool] = True
    takes_images: ClassVar[bool] = True

    @override
    def problem(self, name: str, column: Column) -> str | None:
        return arrow.problem(name)

    @override
    def check(self, exported: Exported) -> tuple[str, ...]:
        return arrow.notes(exported)

    @override
    def units(self, exported: Exported) -> Iterator[Unit]:
        return arrow.file_units(exported, "{split}/data-{part}.arrow")

    @override
    def write(self, exported: Exported, unit: Unit, stream: Stream, folder: Path) -> None:
        contents = exported.splits[unit.split]
        schema, first = arrow.arrow_schema(exported, unit), unit.start
        ending = "" if contents.pictures is None else contents.pictures.format
        with pa.OSFile(str(folder / unit.name), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for values in stream(unit.columns):
                batch = arrow.record_batch(values, schema, unit, first, ending)
                writer.write_batch(batch)
                first += len(batch)

    @override
    def read(self, exported: Exported, unit: Unit, folder: Path) -> Iterator[Values]:
        with pa.OSFile(str(folder / unit.name)) as file, pa.ipc.open_stream(file) as batches:
            for batch in batches:
                yield arrow.read_batch(batch, exported, unit)

    @override
    def extras(self, exported: Exported) -> Mapping[str, bytes]:
        files: dict[str, Any] = {"dataset_dict.json": {"splits": list(exported.splits)}}
        units = list(self.units(exported))
        for split in exported.splits:
            paths = [unit.name.removeprefix(f"{split}/") for unit in units if unit.split == split]
            identity = json.dumps([exported.store.files.root_digest, split, exported.splits[split].names])
            files[f"{split}/state.json"] = {
                "_data_files": [{"filename": path} for path in paths],
                "_fingerprint": hashlib.sha256(identity.encode()).hexdigest()[:16],
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": split,
            }
            files[f"{split}/dataset_info.json"] = {
                "citation": "",
                "description": "",
                "features": arrow.features(exported, split),
                "homepage": "",
                "license": "",
            }
        encoded = {path: encode_json(values) for path, values in files.items()}
        return {**codebook_file(exported), CARD: card_of(self, exported, {LABELS: arrow.LABEL}), **encoded}
