"""The choice of the columns of a Parquet file that hold the images and the labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.arrow_types import is_bytes, is_number, is_text, type_name
from tokenstore.sources.base import Note
from tokenstore.sources.further import not_used
from tokenstore.sources.labels import LABEL_NAMES, looks_like_label
from tokenstore.sources.layouts.rows import TOKEN_NAMES
from tokenstore.texts import shortened

_T = TypeVar("_T")
IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class ColumnOptions:
    """The columns that the user names, and whether labels are wanted."""

    image_column: str | None = None
    label_column: str | None = None
    no_labels: bool = False
    further: tuple[str, ...] = ()
    """The further columns that are stored."""


@dataclass(frozen=True)
class Columns:
    """The columns to read, and the class names in the metadata."""

    image: str | None
    """The column of images; None for samples that are codes."""
    label: str | None
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...]
    unused_labels: tuple[str, ...]
    """The columns that may hold labels, if none is used, and how to use one."""
    label_is_named: bool
    """True if the user names the column of labels."""
    further: tuple[tuple[str, str], ...] = ()
    """The further columns that are stored, and their types."""

    def labelled(self, files: Mapping[str, _T], schemas: Mapping[str, pa.Schema]) -> dict[str, _T]:
        """Return the files of the splits that have the column of labels."""
        return {split: each for split, each in files.items() if self.label in schemas[split].names}

    def unlabelled(self, schemas: Mapping[str, pa.Schema]) -> tuple[str, ...]:
        """Return a note on each split that lacks the column of labels."""
        without = [split for split, schema in schemas.items() if self.label not in (None, *schema.names)]
        return tuple(
            f"split {split} has no labels: its files lack the column {self.label!r}" for split in without
        )


def labelled_choice(
    schemas: Mapping[str, pa.Schema], label: str | None, choose: Callable[[pa.Schema], Columns]
) -> Columns:
    """Choose by the columns of the first split that has labels, or of the first one if none has any.

    `schemas` are the columns of the splits, `label` the column of labels that the user names. Raises what
    `choose` does.
    """
    having = [schema for schema in schemas.values() if label is None or label in schema.names]
    choices = [choose(schema) for schema in having or [next(iter(schemas.values()))]]
    return next((choice for choice in choices if choice.label is not None), choices[0])


def choose_columns(schema: pa.Schema, where: str, options: ColumnOptions) -> Columns:
    """Choose columns by the user's options, the Hugging Face metadata, the names, then the types.

    Raises SourceError if a named column is not there or does not fit, and if no column, or more than one by
    its type alone, can hold images.
    """
    types = {field.name: field.type for field in schema}
    features = _features(schema)
    notes: list[str] = []
    image = _image_column(types, features, where, options.image_column, notes)
    label, unused = None, tuple[str, ...]()
    if not options.no_labels:
        others = {name: kind for name, kind in types.items() if name != image}
        label, unused = _label_column(others, features, where, options.label_column, notes)
    rest = [name for name in types if name not in (image, label, *options.further)]
    rest += [name for name in _beside_images(types[image], image) if name not in options.further]
    notes += not_used("columns", rest)
    for name in (image, label):
        if schema.names.count(name) > 1:
            raise SourceError(f"{where}: expected one column {name!r}, found {schema.names.count(name)}")
    return Columns(
        image,
        label,
        _class_names(features.get(label or ""), notes),
        tuple(notes),
        unused,
        options.label_column is not None,
        tuple((name, type_name(kind)) for name in options.further if (kind := type_of(schema, name))),
    )


def type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column, or of a field `COLUMN.FIELD` of a column of structs; None without one."""
    if schema.names.count(name) == 1:
        return schema.field(name).type
    column, *fields = name.split(".")
    if not fields or schema.names.count(column) != 1:
        return None
    kind = schema.field(column).type
    for field in fields:
        if not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
            return None
        kind = kind.field(field).type
    return kind


def _beside_images(kind: pa.DataType, image: str) -> list[str]:
    """Return the names of the fields that structs of images have beside their bytes."""
    if not pa.types.is_struct(kind):
        return []
    names = [field.name for field in kind]
    return [f"{image}.{name}" for name in names if name != "bytes"] if "bytes" in names else []


def code_column(schema: pa.Schema, where: str, given: str | None, image: str | None) -> str | None:
    """Return the column of codes, lists of whole numbers; None for rows that are images.

    `given` and `image` are the columns of codes and of images that the user names. Without them, rows are
    images where a column says so by its type in the metadata or by its name, and else codes where a column of
    lists has a name of `TOKEN_NAMES` or is the only one. Raises SourceError for a named column that does not
    fit.
    """
    types, features = {field.name: field.type for field in schema}, _features(schema)
    if given is not None:
        parameter = Parameter("token_column", given)
        if given not in types:
            raise _missing(where, parameter, types)
        if not _holds_codes(types[given]):
            raise SourceError(
                f"{where}: {parameter}: expected lists of whole numbers, found {types[given]}",
                parameters=[parameter],
            )
        return given
    fitting = [name for name, kind in types.items() if holds_images(kind)]
    if image or any(_feature_type(features, name) == "Image" or name in IMAGE_NAMES for name in fitting):
        return None
    lists = [name for name, kind in types.items() if _holds_codes(kind)]
    named = [name for name in TOKEN_NAMES if name in lists]
    is_clear = named or (len(lists) == 1 and all(is_text(types[name]) for name in fitting))
    return (named or lists)[0] if is_clear else None


def choose_beside_codes(schema: pa.Schema, where: str, codes: str, options: ColumnOptions) -> Columns:
    """Choose the column of labels beside that of codes, as `choose_columns` does beside that of images.

    Raises SourceError like `choose_columns`.
    """
    types, features = {field.name: field.type for field in schema}, _features(schema)
    notes: list[str] = []
    label, unused = None, tuple[str, ...]()
    if not options.no_labels:
        others = {name: kind for name, kind in types.items() if name != codes}
        label, unused = _label_column(others, features, where, options.label_column, notes)
    rest = [name for name in types if name not in (codes, label, *options.further)]
    notes += not_used("columns", rest)
    for name in (codes, label):
        if name is not None and schema.names.count(name) > 1:
            raise SourceError(f"{where}: expected one column {name!r}, found {schema.names.count(name)}")
    further = dict.fromkeys([codes, *options.further])
    return Columns(
        None,
        label,
        _class_names(features.get(label or ""), notes),
        tuple(notes),
        unused,
        options.label_column is not None,
        tuple((name, type_name(types[name])) for name in further if name in types),
    )


def _holds_codes(kind: pa.DataType) -> bool:
    """Return whether a column of that type holds lists, or lists of lists, of whole numbers."""
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return bool(depth and pa.types.is_integer(kind))


def _image_column(
    types: Mapping[str, pa.DataType],
    features: Mapping[str, Any],
    where: str,
    given: str | None,
    notes: list[str],
) -> str:
    parameter = Parameter("image_column")
    if given is not None:
        if given not in types:
            raise _missing(where, Parameter("image_column", given), types)
        if not holds_images(types[given]):
            raise SourceError(
                f"{where}: column {given!r}: expected bytes, paths, or a struct of both, found {types[given]}"
            )
        return given
    fitting = [name for name, kind in types.items() if holds_images(kind)]
    declared = [name for name in fitting if _feature_type(features, name) == "Image"]
    binary = [name for name in fitting if not is_text(types[name])]
    images = declared or [name for name in IMAGE_NAMES if name in fitting] or binary
    if not images or (images is binary and len(images) > 1):
        raise SourceError(
            f"{where}: expected an image column named {', '.join(IMAGE_NAMES)} or a single one of bytes, "
            f"found {_listed(types)}; {parameter} takes another",
            parameters=[parameter],
        )
    image = _preferred(images, IMAGE_NAMES)
    if len(images) > 1:
        text = f"images are taken from column {image}, one of {', '.join(images)}; {parameter} takes another"
        notes.append(Note(text, [parameter]))
    return image


def _label_column(
    types: Mapping[str, pa.DataType],
    features: Mapping[str, Any],
    where: str,
    given: str | None,
    notes: list[str],
) -> tuple[str | None, tuple[str, ...]]:
    """Return the column of labels, or None and the note on columns that may hold some."""
    parameter = Parameter("label_column")
    if given is not None:
        if given not in types:
            raise _missing(where, Parameter("label_column", given), types)
        if not holds_labels(types[given]):
            raise SourceError(
                f"{where}: column {given!r}: expected one label a sample, a number or a text, found "
                f"{types[given]}"
            )
        return given, ()
    labels = [name for name in types if _feature_type(features, name) == "ClassLabel"]
    labels = labels or [name for name in LABEL_NAMES if name in types]
    fit = [name for name in labels if holds_labels(types[name])]
    for name in labels:
        if name not in fit:
            notes.append(f"column {name} skipped: {types[name]} is not one label a sample")
    if fit:
        label = _preferred(fit, LABEL_NAMES)
        if len(fit) > 1:
            text = f"labels are taken from column {label}, one of {', '.join(fit)}; {parameter} takes another"
            notes.append(Note(text, [parameter]))
        return label, ()
    alike = [name for name in types if looks_like_label(name)]
    if not alike:
        return None, ()
    usable = next((name for name in alike if holds_labels(types[name])), None)
    parameters = [] if usable is None else [Parameter("label_column", usable)]
    how = f"; {parameters[0]} uses it" if parameters else ", as none is one label a sample"
    text = f"columns that may hold labels are not used: {shortened(alike)}{how}"
    return None, (Note(text, parameters),)


def _missing(where: str, parameter: Parameter, types: Mapping[str, pa.DataType]) -> SourceError:
    return SourceError(
        f"{where}: {parameter}: no such column; found {_listed(types)}", parameters=[parameter]
    )


def _listed(types: Mapping[str, pa.DataType]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in types.items()) or "no column"


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features that the `datasets` library wrote, {column: {"_type": ...}}, or an empty dict."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _feature_type(features: Mapping[str, Any], name: str) -> Any:
    feature = features.get(name)
    return feature.get("_type") if isinstance(feature, dict) else None


def _class_names(feature: Any, notes: list[str]) -> tuple[str, ...] | None:
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, list):
        return None
    try:
        if all(type(name) in (str, int, float) for name in names):
            texts = tuple(map(str, names))
            "".join(texts).encode()
            return texts
    except UnicodeEncodeError:  # halves of surrogate pairs, which JSON can hold
        pass
    notes.append("the class names in the metadata are not used, as some are no texts")
    return None


def _preferred(names: Sequence[str], order: Sequence[str]) -> str:
    return next((name for name in order if name in names), names[0])


def holds_images(kind: pa.DataType) -> bool:
    """Return whether a column of that type can hold images: bytes, paths, or structs of both."""
    if not pa.types.is_struct(kind):
        return is_text(kind) or is_bytes(kind)
    fields = {field.name: field.type for field in kind}
    contents, path = fields.get("bytes"), fields.get("path")
    if contents is None:
        return False
    return is_bytes(contents) or (pa.types.is_null(contents) and path is not None and is_text(path))


def holds_labels(kind: pa.DataType) -> bool:
    """Return whether a column of that type can hold one label a sample."""
    return is_number(kind) or is_text(kind) or is_bytes(kind)
