"""The manifest of a store: frozen dataclasses to and from JSON values, versioned (FORMAT.md, section 2)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from typing_extensions import override

from tokenstore.codecs import FORM_FEATURES, NAME, codec_class, codec_names
from tokenstore.displays import html_table, two_columns
from tokenstore.errors import ManifestError, VersionError
from tokenstore.format.fields import (
    FieldError,
    Reader,
    exactly,
    fields_of,
    integer,
    list_of,
    mapping_of,
    null_or,
    record,
    text,
)
from tokenstore.format.store_fields import Preprocessing, StoreFields, TokenizerIdentity, read_store_fields
from tokenstore.format.symmetries import SYMMETRIES

__all__ = [
    "DIGITS",
    "FORMAT_VERSION",
    "NAME",
    "SHARD_MANIFESTS",
    "TABLE_PARTS",
    "VIEWS",
    "FileRecord",
    "Manifest",
    "Preprocessing",
    "SplitSummary",
    "TokenizerIdentity",
]

FORMAT_VERSION = 1
REQUIRES = "0.1.0"
"""The oldest tokenstore that reads what this version writes."""

SHARD_MANIFESTS = "manifests"
"""The feature of a store that lists the shards of some arrays in a file of each array (FORMAT.md, M28)."""
TABLE_PARTS = "tables"
"""The feature of a store whose samples tables are in parts, in some splits (FORMAT.md, M29)."""
DIGITS = "digits"
"""The feature of a store whose context model codes digits of codes (FORMAT.md, M23)."""
VIEWS = "views"
"""The feature of a store whose samples have views (FORMAT.md, M35)."""


@dataclass(frozen=True)
class SplitSummary:
    """The size of a split, and of the source that it was made from."""

    samples: int
    skipped: int = 0
    source_bytes: int | None = None
    """The bytes of the encoded images that were converted; None if the source was codes."""
    part_rows: int | None = None
    """The rows of each part of the samples table but the last; None for a table in one file."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; `part_rows` is among them only for a table in parts."""
        values = dict(vars(self))
        if self.part_rows is None:
            del values["part_rows"]
        return values


@dataclass(frozen=True)
class FileRecord:
    """The size in bytes and the SHA-256 (hex) of one file of the store."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest(StoreFields):
    """The manifest of a complete store: its shared fields, its splits, and the digests of its files."""

    splits: Mapping[str, SplitSummary]
    files: Mapping[str, FileRecord] = field(default_factory=dict, repr=False)
    _: KW_ONLY
    features: tuple[str, ...] = ()
    """The names of all that a reader of the store must know: its codecs, the lists of its files, and the
    forms of its columns."""
    created_by: str = ""
    requires: str = REQUIRES
    format_version: int = FORMAT_VERSION

    @property
    def codes(self) -> int:
        """The number of codes of all samples."""
        return sum(split.samples for split in self.splits.values()) * math.prod(self.sample_shape)

    @property
    def source_nbytes(self) -> int | None:
        """The bytes of all images that the store was made of; None unless every split with samples knows."""
        known = [split.source_bytes for split in self.splits.values() if split.samples]
        sizes = [nbytes for nbytes in known if nbytes is not None]
        return sum(sizes) if sizes and len(sizes) == len(known) else None

    @property
    def codecs(self) -> tuple[str, ...]:
        """The names of the codecs among the features."""
        return tuple(name for name in self.features if name not in _OTHER_FEATURES)

    @property
    def has_codec_tables(self) -> bool:
        """True if the metadata of token arrays holds tables of their codec, such as a context model."""
        return any(codec_class(name).has_tables for name in self.codecs)

    @property
    def is_consolidated(self) -> bool:
        """True if the root `zarr.json` repeats the metadata of all groups and arrays (FORMAT.md, M11)."""
        return not self.has_codec_tables

    def _repr_html_(self) -> str:
        facts = {
            "grid": " x ".join(map(str, self.grid)),
            "codebook": ", ".join(f"{size:,} codes" for size in self.codebook_sizes),
            "tokenizer": self.tokenizer.name,
            "codec": ", ".join(self.codecs),
            "classes": None if self.class_names is None else len(self.class_names),
            "views": None if self.views is None else self.views.count,
            "bytes": sum(record.size for record in self.files.values()),
            "made by": self.created_by or None,
        }
        splits = ((name, split.samples, split.skipped) for name, split in self.splits.items())
        return two_columns("Manifest", facts) + html_table("splits", ("name", "samples", "skipped"), splits)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON values, without its digest."""
        return {
            "format_version": self.format_version,
            "requires": self.requires,
            "features": list(self.features),
            "created_by": self.created_by,
            "tokenizer": self.tokenizer.to_dict(),
            "grid": list(self.grid),
            "codebook_sizes": list(self.codebook_sizes),
            "preprocessing": None if self.preprocessing is None else vars(self.preprocessing),
            "source_kind": self.source_kind,
            **({} if self.source_location is None else {"source_location": self.source_location}),
            **({} if self.ignore_index is None else {"ignore_index": self.ignore_index}),
            **({} if self.part is None else {"part": self.part.to_dict()}),
            **({} if self.views is None else {"views": self.views.to_json()}),
            **({SYMMETRIES: list(self.symmetries)} if self.symmetries else {}),
            **({"history": [each.to_dict() for each in self.history]} if self.history else {}),
            "class_names": None if self.class_names is None else list(self.class_names),
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
            "files": {path: [record.size, record.sha256] for path, record in self.files.items()},
        }

    @classmethod
    def from_dict(cls, values: object) -> Manifest:
        """Return the manifest of JSON values, checked.

        Raises ManifestError for values that are no manifest's, and VersionError for a newer store's.
        """
        try:
            versions = fields_of(values, "manifest", _VERSIONS)
            _check_version(**versions)
            own = fields_of(values, "manifest", _FIELDS)
            manifest = cls(**read_store_fields(values, "manifest"), **versions, **own)
        except FieldError as error:
            raise ManifestError(str(error)) from error
        manifest.check()
        return manifest

    @override
    def check(self) -> None:
        super().check()
        if (self.views is not None) != (VIEWS in self.features):
            found = "none" if self.views is None else f"{self.views.to_json()!r:.80}"
            raise ManifestError(
                f"manifest.views: expected the views of samples exactly with the feature {VIEWS!r}, "
                f"found {found} with {list(self.features)}"
            )
        for name, split in self.splits.items():
            if split.part_rows is not None and TABLE_PARTS not in self.features:
                raise ManifestError(
                    f"manifest.splits.{name}.part_rows: expected the feature {TABLE_PARTS!r}, found "
                    f"{list(self.features)}"
                )
            if not NAME.fullmatch(name):
                raise ManifestError(
                    f"manifest.splits: expected a name of letters, digits, _ and -, found {name!r:.80}"
                )
        for path in self.files:
            if not _is_inside(path):
                raise ManifestError(f"manifest.files: expected a path inside the store, found {path!r}")


def _check_version(format_version: int, requires: str, features: tuple[str, ...]) -> None:
    known = {*codec_names(), *_OTHER_FEATURES}
    unknown = sorted(set(features) - known)
    if format_version > FORMAT_VERSION or unknown:
        what = f"feature {unknown[0]!r}" if unknown else f"format version {format_version}"
        raise VersionError(
            f"this store needs tokenstore >= {requires}: it uses {what}, and this version knows format "
            f"version {FORMAT_VERSION} with {', '.join(sorted(known))}. Upgrade tokenstore"
        )


def _is_inside(path: str) -> bool:
    """Return whether a file's path stays below the store's root, on any system."""
    parts = path.split("/")
    return path.isprintable() and not {"", ".", ".."} & set(parts) and not {":", "\\"} & set(path)


def _files(value: object, where: str) -> dict[str, FileRecord]:
    records = mapping_of(exactly(list))(value, where)
    return {path: _file(values, f"{where}[{path!r}]") for path, values in records.items()}


def _file(values: list[Any], where: str) -> FileRecord:
    match values:
        case [int(size), str(digest)] if (
            type(size) is int and 0 <= size < 2**63 and re.fullmatch("[0-9a-f]{64}", digest)
        ):
            return FileRecord(size, digest)
    raise FieldError(where, "[size, SHA-256 in hex]", repr(values))


_VERSIONS: dict[str, Reader[Any]] = {
    "format_version": integer(1),
    "requires": text,
    "features": list_of(text),
}
_read_split = record(
    SplitSummary,
    {"samples": integer(), "skipped": integer(), "source_bytes": null_or(integer())},
    {"part_rows": integer(1)},
)
_OTHER_FEATURES = frozenset({DIGITS, SHARD_MANIFESTS, TABLE_PARTS, VIEWS, *FORM_FEATURES})
_FIELDS: dict[str, Reader[Any]] = {"splits": mapping_of(_read_split), "files": _files, "created_by": text}
