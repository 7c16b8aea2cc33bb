"""What a store says about itself: frozen dataclasses <-> JSON, versioned.

The manifest is the `tokenstore` attribute of the store's root group, so the root `zarr.json` is both
what Zarr opens and what makes a store complete (FORMAT.md, section 2).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tokenstore.codecs import codec_class, codec_names
from tokenstore.errors import DamageError, ManifestError, VersionError

FORMAT_VERSION = 1
REQUIRES = "0.1.0"
"""The oldest tokenstore that reads what this version writes."""
MAX_CODEBOOK_SIZE = 2**31

_LIST_OF_INTEGERS = re.compile(r"\[\n\s*(-?\d+(?:,\n\s*-?\d+)*)\n\s*\]")
"""subtle: no string of JSON has a line break in it."""
_EMPTY_DIGEST = "0" * 64
_T = TypeVar("_T")


@dataclass(frozen=True)
class TokenizerIdentity:
    """Which tokenizer made the codes, and what they mean."""

    name: str
    fingerprint: str | None = None
    """SHA-256 (hex) of weights, codebook and configuration; None where nothing is known."""
    kept_codes: tuple[tuple[int, ...], ...] | None = field(default=None, repr=False)
    """For each codebook the tokenizer's own code of every code in the store, where it was pruned."""
    spec: str | None = field(default=None, compare=False)
    """How whoever converted named the tokenizer."""
    device: str | None = field(default=None, compare=False)
    """Where codes were computed; None where they are the same on every device."""
    dtype: str | None = field(default=None, compare=False)
    """The float type codes were computed in; None where they are exact."""

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.fingerprint[:12]})" if self.fingerprint else f"{self.name} (no fingerprint)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON has them; those that say nothing are left out, but for the fingerprint."""
        values: dict[str, Any] = {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "spec": self.spec,
            "device": self.device,
            "dtype": self.dtype,
            "kept_codes": self.kept_codes and [list(codes) for codes in self.kept_codes],
        }
        return {name: value for name, value in values.items() if name == "fingerprint" or value is not None}

    @classmethod
    def from_dict(cls, values: object, where: str) -> TokenizerIdentity:
        """What `to_dict` gave; raises ManifestError, which says `where`."""
        fields = _Fields(values, where)
        planes = fields.optional("kept_codes", list)
        kept = (
            None if planes is None else tuple(_kept(planes, number, where) for number in range(len(planes)))
        )
        return cls(
            fields.get("name", str),
            fields.get("fingerprint", (str, type(None))),
            kept_codes=kept,
            spec=fields.optional("spec", str),
            device=fields.optional("device", str),
            dtype=fields.optional("dtype", str),
        )


@dataclass(frozen=True)
class Preprocessing:
    """How an image became the tokenizer's input."""

    height: int
    width: int
    resize: str
    filter: str = "bicubic"


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds and what it was made from."""

    samples: int
    skipped: int = 0
    source_bytes: int | None = None
    """Bytes of the encoded images that were converted; None where the source was codes."""


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of one file of the store."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that a store says about itself.

    `grid` is the shape of one sample's codes. With several codebooks its first axis counts them and
    `codebook_sizes` has one entry each; else `codebook_sizes` has one entry.
    """

    tokenizer: TokenizerIdentity
    grid: tuple[int, ...]
    codebook_sizes: tuple[int, ...]
    splits: Mapping[str, SplitSummary]
    files: Mapping[str, FileRecord] = field(default_factory=dict, repr=False)
    features: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    source_kind: str | None = None
    source_location: str | None = None
    """Where the source was, as whoever converted named it."""
    ignore_index: int | None = None
    """The value of `masks` where a pixel has no class; None where nothing is known."""
    created_by: str = ""
    requires: str = REQUIRES
    format_version: int = FORMAT_VERSION

    @property
    def codebook_size(self) -> int:
        """The largest codebook's size: every code is below it."""
        return max(self.codebook_sizes)

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values, without its digest."""
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
            "class_names": None if self.class_names is None else list(self.class_names),
            "splits": {name: vars(split) for name, split in self.splits.items()},
            "files": {path: [record.size, record.sha256] for path, record in self.files.items()},
        }

    @classmethod
    def from_dict(cls, values: object) -> Manifest:
        """Parse and check a manifest; raises ManifestError, or VersionError for a newer store."""
        root = _Fields(values, "manifest")
        version = root.integer("format_version", minimum=1)
        requires = root.get("requires", str)
        features = tuple(root.strings("features"))
        unknown = sorted(set(features) - set(codec_names()))
        if version > FORMAT_VERSION or unknown:
            what = f"feature {unknown[0]!r}" if unknown else f"format version {version}"
            raise VersionError(
                f"this store needs tokenstore >= {requires}: it uses {what}, and this version knows format "
                f"version {FORMAT_VERSION} with {', '.join(sorted(codec_names()))}. Upgrade tokenstore"
            )
        preprocessing = root.get("preprocessing", (dict, type(None)))
        class_names = root.get("class_names", (list, type(None)))
        manifest = cls(
            tokenizer=TokenizerIdentity.from_dict(root.get("tokenizer", dict), "manifest.tokenizer"),
            grid=tuple(root.integers("grid", minimum=1)),
            codebook_sizes=tuple(root.integers("codebook_sizes", minimum=1, maximum=MAX_CODEBOOK_SIZE)),
            splits={name: _split(root.fields("splits"), name) for name in root.get("splits", dict)},
            files={path: _file(root.fields("files"), path) for path in root.get("files", dict)},
            features=features,
            class_names=None if class_names is None else tuple(root.strings("class_names")),
            preprocessing=None if preprocessing is None else _preprocessing(root.fields("preprocessing")),
            source_kind=root.get("source_kind", (str, type(None))),
            source_location=root.optional("source_location", str),
            ignore_index=None if root.optional("ignore_index", int) is None else root.integer("ignore_index"),
            created_by=root.get("created_by", str),
            requires=requires,
            format_version=version,
        )
        manifest.check()
        return manifest

    def check(self) -> None:
        """Raise ManifestError where fields contradict each other."""
        if not self.grid:
            raise ManifestError("manifest.grid: expected at least one axis, found []")
        if not self.codebook_sizes:
            raise ManifestError("manifest.codebook_sizes: expected at least one size, found []")
        codebooks = len(self.codebook_sizes)
        if codebooks > 1 and self.grid[0] != codebooks:
            raise ManifestError(
                f"manifest.grid: with {codebooks} codebooks the first axis must be {codebooks}, "
                f"found {list(self.grid)}"
            )
        if max(self.codebook_sizes) > MAX_CODEBOOK_SIZE:
            raise ManifestError(
                f"manifest.codebook_sizes: expected at most {MAX_CODEBOOK_SIZE} codes, "
                f"found {max(self.codebook_sizes)}"
            )
        kept = self.tokenizer.kept_codes
        if kept is not None and tuple(map(len, kept)) != self.codebook_sizes:
            raise ManifestError(
                f"manifest.tokenizer.kept_codes: expected lists of {self.codebook_sizes} codes, found "
                f"{tuple(map(len, kept))}"
            )
        for name in self.splits:
            if not name or "/" in name:
                raise ManifestError(f"manifest.splits: expected a name without '/', found {name!r}")
        for path in self.files:
            if not _is_inside(path):
                raise ManifestError(f"manifest.files: expected a path inside the store, found {path!r}")


def encode_root(manifest: Manifest, nodes: Mapping[str, dict[str, Any]]) -> bytes:
    """The bytes of a complete store's root `zarr.json`.

    `nodes` maps the path of every group and array in the store to its metadata document, so that Zarr
    readers need one request; but for context models, which would be there twice. Source: FORMAT.md,
    section 2.
    """
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"tokenstore": {**manifest.to_dict(), "digest": _EMPTY_DIGEST}},
    }
    if consolidates(manifest):
        document["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(nodes),
        }
    # kept codes may be thousands of integers: not one a line
    text = encode_json(document).decode()
    blank = _LIST_OF_INTEGERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text).encode()
    digest = hashlib.sha256(blank).hexdigest()
    return blank.replace(f'"digest": "{_EMPTY_DIGEST}"'.encode(), f'"digest": "{digest}"'.encode())


def consolidates(manifest: Manifest) -> bool:
    """Whether the root `zarr.json` holds the metadata of all below it."""
    return not has_tables(manifest)


def has_tables(manifest: Manifest) -> bool:
    """Return whether the metadata of token arrays holds tables of their codec, such as a context model."""
    return any(codec_class(feature).has_tables for feature in manifest.features)


def decode_root(data: bytes, where: str) -> Manifest:
    """The manifest in a root `zarr.json`, its digest checked.

    Raises ManifestError where the document is no store's, VersionError where it is a newer store's and
    DamageError where its bytes have changed since they were written.
    """
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse)
        attributes = document["attributes"]["tokenstore"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(
            f"{where}: expected a Zarr v3 group with a 'tokenstore' attribute, found none ({error!r}). "
            "Either this is not a token store or its root zarr.json is damaged"
        ) from error
    try:
        manifest = Manifest.from_dict(attributes)
        digest = _Fields(attributes, "manifest").get("digest", str)
    except ManifestError as error:
        raise type(error)(f"{where}: {error}") from error
    written = digest.encode(errors="replace")
    if re.fullmatch(b"[0-9a-f]{64}", written) and data.count(written) == 1:
        actual = hashlib.sha256(data.replace(written, _EMPTY_DIGEST.encode())).hexdigest()
    else:
        actual = "not computable"
    if actual != digest:
        raise DamageError(
            f"{where}: the manifest's digest is {digest!r} but its bytes give {actual}: the file was changed "
            "after it was written. Restore it from a copy"
        )
    return manifest


def encode_json(document: Mapping[str, Any]) -> bytes:
    """A metadata document as this library writes it: UTF-8, two spaces of indent."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("an object has the same key twice")
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _is_inside(path: str) -> bool:
    """Whether a file's path stays below the store's root, on any system."""
    parts = path.split("/")
    return path.isprintable() and not {"", ".", ".."} & set(parts) and not {":", "\\"} & set(path)


def _kept(planes: list[object], number: int, where: str) -> tuple[int, ...]:
    name = f"kept_codes[{number}]"
    plane = _Fields({name: planes[number]}, where)
    codes = plane.integers(name, maximum=MAX_CODEBOOK_SIZE - 1)
    if any(second <= first for first, second in itertools.pairwise(codes)):
        raise ManifestError(f"{where}.{name}: expected codes in rising order, found {codes!r:.80}")
    return tuple(codes)


def _split(splits: _Fields, name: str) -> SplitSummary:
    fields = splits.fields(name)
    source_bytes = fields.get("source_bytes", (int, type(None)))
    return SplitSummary(
        samples=fields.integer("samples"),
        skipped=fields.integer("skipped"),
        source_bytes=None if source_bytes is None else fields.integer("source_bytes"),
    )


def _file(files: _Fields, path: str) -> FileRecord:
    record = files.get(path, list)
    if (
        len(record) != 2
        or type(record[0]) is not int
        or record[0] < 0
        or not isinstance(record[1], str)
        or not re.fullmatch("[0-9a-f]{64}", record[1])
    ):
        raise ManifestError(f"manifest.files[{path!r}]: expected [size, SHA-256 in hex], found {record!r}")
    return FileRecord(record[0], record[1])


def _preprocessing(fields: _Fields) -> Preprocessing:
    return Preprocessing(
        height=fields.integer("height", minimum=1),
        width=fields.integer("width", minimum=1),
        resize=fields.get("resize", str),
        filter=fields.get("filter", str),
    )


class _Fields:
    """A JSON object whose fields are read with their expected type, or raise ManifestError."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise ManifestError(f"{where}: expected a JSON object, found {type(values).__name__}")
        self._values = values
        self._where = where

    def get(self, name: str, kind: type[_T] | tuple[type, ...]) -> Any:
        if name not in self._values:
            raise ManifestError(f"{self._where}.{name}: missing")
        value = self._values[name]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in kinds:
            expected = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
            raise ManifestError(f"{self._where}.{name}: expected {expected}, found {value!r:.80}")
        return value

    def optional(self, name: str, kind: type[_T]) -> _T | None:
        """The field's value, or None where it is absent."""
        return None if self._values.get(name) is None else self.get(name, kind)

    def fields(self, name: str) -> _Fields:
        return _Fields(self.get(name, dict), f"{self._where}.{name}")

    def integer(self, name: str, minimum: int = 0, maximum: int = 2**63 - 1) -> int:
        return self._bounded(name, self.get(name, int), minimum, maximum)

    def integers(self, name: str, minimum: int = 0, maximum: int = 2**63 - 1) -> list[int]:
        values = self.get(name, list)
        return [self._bounded(f"{name}[{i}]", value, minimum, maximum) for i, value in enumerate(values)]

    def strings(self, name: str) -> list[str]:
        values: list[str] = self.get(name, list)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise ManifestError(f"{self._where}.{name}[{i}]: expected str, found {value!r:.80}")
        return values

    def _bounded(self, name: str, value: object, minimum: int, maximum: int) -> int:
        if type(value) is not int or not minimum <= value <= maximum:
            raise ManifestError(
                f"{self._where}.{name}: expected an integer from {minimum} to {maximum}, found {value!r:.80}"
            )
        return value
