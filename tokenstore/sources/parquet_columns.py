"""The choice of the columns of a Parquet file that hold the images and the labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tokenstore.errors import SourceError

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")
LABEL_NAMES = ("label", "labels", "cls", "class")


@dataclass(frozen=True)
class Columns:
    """The columns to read, and the class names in the metadata."""

    image: str
    label: str | None
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...]


def choose_columns(schema: pa.Schema, where: str) -> Columns:
    """Choose columns by the Hugging Face metadata, then by name, then by type.

    Raises SourceError if no column, or more than one by its type alone, can hold images.
    """
    features = _features(schema)
    fitting = [field.name for field in schema if _holds_images(field.type)]
    declared = [name for name in fitting if _feature_type(features, name) == "Image"]
    binary = [name for name in fitting if not _is_text(schema.field(name).type)]
    images = declared or [name for name in IMAGE_NAMES if name in fitting] or binary
    if not images or (images is binary and len(images) > 1):
        raise SourceError(
            f"{where}: expected an image column named {', '.join(IMAGE_NAMES)} or a single one of bytes, "
            f"found {', '.join(f'{field.name} ({field.type})' for field in schema)}"
        )
    image = _preferred(images, IMAGE_NAMES)
    labels = [name for name in schema.names if _feature_type(features, name) == "ClassLabel"]
    labels = labels or [name for name in LABEL_NAMES if name in schema.names and name != image]
    notes = []
    if len(images) > 1:
        notes.append(f"images are taken from column {image}, one of {', '.join(images)}")
    fit = [name for name in labels if _holds_labels(schema.field(name).type)]
    for name in labels:
        if name not in fit:
            notes.append(f"column {name} skipped: {schema.field(name).type} is not one label a sample")
    label = _preferred(fit, LABEL_NAMES) if fit else None
    if len(fit) > 1:
        notes.append(f"labels are taken from column {label}, one of {', '.join(fit)}")
    names = features.get(label, {}).get("names") if label is not None else None
    return Columns(image, label, tuple(map(str, names)) if isinstance(names, list) else None, tuple(notes))


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features that the `datasets` library wrote, {column: {"_type": ...}}, or an empty dict."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _feature_type(features: dict[str, Any], name: str) -> Any:
    feature = features.get(name)
    return feature.get("_type") if isinstance(feature, dict) else None


def _preferred(names: Sequence[str], order: Sequence[str]) -> str:
    return next((name for name in order if name in names), names[0])


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and pa.types.is_binary(field.type) for field in kind)
    return bool(_is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_labels(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or _is_text(kind))
