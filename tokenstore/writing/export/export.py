"""The entry point of exports: a store's samples as files of another layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenstore.errors import ArgumentError, Parameter, StoreError, did_you_mean
from tokenstore.format import TOKENS
from tokenstore.reading import SplitReader, TokenStore
from tokenstore.reading.open import StorePath, as_storage, as_store, takes_options
from tokenstore.storage import Storage, refuse_options
from tokenstore.tokenizers import Tokenizer
from tokenstore.version import __version__
from tokenstore.writing.export.base import Exported, Layout
from tokenstore.writing.export.contents import IMAGE, SplitContents, columns_of, is_of_table
from tokenstore.writing.export.job import OnProgress, UnitRecord, existing_list, write_export
from tokenstore.writing.export.layouts import LAYOUTS, layout_named
from tokenstore.writing.export.pictures import Pictures

__all__ = ["ExportResult", "export"]


_OF_THE_STORE = (
    *("format_version", "requires", "features", "created_by", "splits", "files"),
    *("source_location", "part", "history"),
)
"""The fields of a manifest about the store's own files and places."""


@dataclass(frozen=True)
class ExportResult:
    """An export that is complete."""

    location: str
    """The place of the export, without a URL's user, password and query."""
    layout: str
    samples: Mapping[str, int]
    """The number of samples of each split."""
    files: int
    nbytes: int
    """The bytes of the files with samples."""
    notes: tuple[str, ...]
    """The remarks on what the layout does not hold, and on how to read it."""
    already_complete: bool = False


def export(
    store: StorePath | TokenStore,
    out: StorePath | Storage,
    *,
    to: str,
    splits: str | Sequence[str] | None = None,
    columns: str | Sequence[str] | None = None,
    rows_per_file: int | None = None,
    compression: str | None = None,
    pictures: bool = False,
    picture_format: str = "jpeg",
    picture_size: int | None = None,
    tokenizer: str | Tokenizer | None = None,
    device: str = "cpu",
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> ExportResult:
    """Write the samples of `store` as files of another layout: `to` is npy, parquet, webdataset and so on.

    `tokenstore.writing.export.layouts.LAYOUTS` has all layouts. `out` is a new folder or an fsspec URL.
    `splits` and `columns` choose, by default all; a column that the layout cannot hold is an error until it
    is left out. A split has `rows_per_file` samples a file where the layout has several. `pictures` adds a
    column `image` of pictures, `picture_format` jpeg or png, decoded from the codes by the store's
    `tokenizer` on `device`, their longer side `picture_size` pixels. Every file is read back and compared
    before it counts; `resume` goes on with an interrupted export. `storage_options` are those of the store,
    or of `out` where the store has no use for them. `on_progress` is called with a split and
    what is done with it, the samples that are done, and all of them.

    Raises ArgumentError for an unknown layout and options that it has no use for; StoreError for what the
    layout cannot hold; StoreExistsError if something else is at `out`; TokenizerError; DamageError; and the
    errors of `tokenstore.open`.
    """
    layout = layout_named(to)
    _check_options(layout, rows_per_file, compression, pictures)
    opened, place = _opened(store, out, storage_options, target_storage_options)
    drawer = None
    if pictures:
        drawer = Pictures.of(opened.manifest, tokenizer, device, picture_format, picture_size)
    notes: list[str] = []
    contents = _contents(opened, layout, _listed(splits), _listed(columns), drawer, notes)
    exported = Exported(opened, contents, rows_per_file, compression or layout.compressions[0])
    return _exported(place, layout, exported, notes, resume, on_progress)


def _opened(
    store: StorePath | TokenStore,
    out: StorePath | Storage,
    storage_options: Mapping[str, Any] | None,
    target_storage_options: Mapping[str, Any] | None,
) -> tuple[TokenStore, Storage]:
    """Return the open store and the place of the export; raise ArgumentError for a place that is none."""
    if target_storage_options is None and takes_options(out) and not takes_options(store):
        storage_options, target_storage_options = None, storage_options
    if not takes_options(out):
        refuse_options(target_storage_options, out, "target_storage_options")
    place = as_storage(out, target_storage_options)
    if place.working_storage() is not place:
        raise ArgumentError(f"{place}: expected a folder or a URL, found the name of a zip file")
    opened = as_store(store, storage_options)
    source = opened.files.storage
    if place.url.startswith(f"{source.url.rstrip('/')}/") or (
        place.root is not None
        and source.root is not None
        and place.root.resolve().is_relative_to(source.root.resolve())
    ):
        raise ArgumentError(f"{place}: expected a place outside of the store {source}, found one inside")
    return opened, place


def _exported(
    place: Storage,
    layout: Layout,
    exported: Exported,
    notes: list[str],
    resume: bool,
    on_progress: OnProgress | None,
) -> ExportResult:
    """Write an export, unless it is complete already."""
    notes += layout.check(exported)
    drawer = next(iter(exported.splits.values())).pictures
    inputs = {
        "store": exported.store.files.root_digest,
        "layout": layout.name,
        "columns": {name: list(split.names) for name, split in exported.splits.items()},
        "rows_per_file": exported.rows_per_file,
        "compression": exported.compression,
        "pictures": None if drawer is None else [drawer.format, drawer.side],
    }
    listed = existing_list(place, inputs) if resume else None
    already = listed is not None
    if listed is None:

        def about(records: Sequence[UnitRecord]) -> Mapping[str, Any]:
            return _about(exported, records, notes)

        listed = write_export(
            place, layout, exported, inputs, resume=resume, about=about, on_progress=on_progress
        )
    return _result(place, listed, already)


def _result(place: Storage, listed: Mapping[str, Any], already: bool) -> ExportResult:
    samples = {name: split["samples"] for name, split in listed["splits"].items()}
    files, nbytes, notes = (listed[name] for name in ("file_count", "nbytes", "notes"))
    layout = listed["inputs"]["layout"]
    return ExportResult(place.url, layout, samples, files, nbytes, tuple(notes), already)


def _listed(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return (names,) if isinstance(names, str) else None if names is None else tuple(names)


def _check_options(
    layout: Layout, rows_per_file: int | None, compression: str | None, pictures: bool
) -> None:
    """Raise ArgumentError for options that a layout has no use for."""
    wrong = [
        (rows_per_file is not None and not layout.cuts_files, "rows_per_file", "one file a split"),
        (pictures and not layout.takes_images, "pictures", "no pictures"),
        (compression is not None and len(layout.compressions) < 2, "compression", "no compression"),
    ]
    for is_wrong, name, why in wrong:
        if is_wrong:
            named = Parameter(name)
            raise ArgumentError(f"{named}: the layout {layout.name} has {why}", parameters=[named])
    if compression is not None and compression not in layout.compressions:
        named = Parameter("compression", compression)
        raise ArgumentError(
            f"{named}: expected {', '.join(layout.compressions)} for {layout.name}"
            f"{did_you_mean(compression, layout.compressions)}",
            parameters=[named],
        )
    if rows_per_file is not None and rows_per_file < 1:
        named = Parameter("rows_per_file")
        raise ArgumentError(f"{named}: expected 1 or more, found {rows_per_file}", parameters=[named])


def _contents(
    store: TokenStore,
    layout: Layout,
    splits: tuple[str, ...] | None,
    columns: tuple[str, ...] | None,
    pictures: Pictures | None,
    notes: list[str],
) -> dict[str, SplitContents]:
    """Return what is exported of each split, and add what is not to the notes.

    Raises StoreError for a split or a column that is not there, or that the layout cannot hold.
    """
    for name in splits or ():
        store[name]  # which raises StoreError with what is near
    names = splits or tuple(name for name in store.splits if len(store[name]))
    if not names or not all(len(store[name]) for name in names):
        raise StoreError(
            f"{store.files.storage}: expected splits with samples, found none in {names or 'any'}"
        )
    known = {column for name in names for column in columns_of(store[name])}
    unknown = next((name for name in columns or () if name not in known), None)
    if unknown is not None:
        named = Parameter("columns", unknown)
        near = did_you_mean(unknown, known)
        raise StoreError(
            f"{named}: no such column; found {', '.join(sorted(known))}{near}", parameters=[named]
        )
    contents, left_out = {}, dict[str, list[str]]()
    for name in names:
        chosen = _chosen(store[name], layout, columns, left_out)
        if pictures is not None:
            if IMAGE in chosen:
                raise StoreError(
                    f"{name}/{IMAGE}: the store has a column of that name, so that no pictures can be added"
                )
            chosen = (*chosen, IMAGE)
        contents[name] = SplitContents(store[name], chosen, pictures)
    notes += [f"left out, {reason}: {', '.join(places)}" for reason, places in left_out.items()]
    if store.synonyms is not None:
        notes.append("left out: the codebook's synonyms")
    return contents


def _chosen(
    reader: SplitReader, layout: Layout, columns: tuple[str, ...] | None, left_out: dict[str, list[str]]
) -> tuple[str, ...]:
    """Return the columns of a split that are exported, and add the others to those of their reason."""
    chosen, whole = [], SplitContents(reader, columns_of(reader))
    for name in whole.names:
        problem = layout.problem(name, whole.kind(name))
        if columns is not None and name != TOKENS and name not in columns:
            problem = "not asked for"
        elif problem is None:
            chosen.append(name)
            continue
        elif name == TOKENS or not is_of_table(reader, name) or name in (columns or ()):
            raise _cannot_hold(layout, whole, name, problem)
        left_out.setdefault(problem, []).append(f"{reader.name}/{name}")
    return tuple(chosen)


def _cannot_hold(layout: Layout, contents: SplitContents, name: str, problem: str) -> StoreError:
    """Return the error for a column that a layout cannot hold, with what to do instead."""

    def holds(other: Layout, column: str) -> bool:
        return other.problem(column, contents.kind(column)) is None

    named = Parameter("columns", "NAME")
    rest = [each for each in contents.names if each != TOKENS and holds(layout, each)]
    others = [other for other in LAYOUTS if holds(layout_named(other), name)]
    return StoreError(
        f"{contents.split}/{name}: the layout {layout.name} cannot hold it: {problem}. Choose columns by "
        f"{named}, of {', '.join(rest) or 'none'}, or another layout, of {', '.join(others)}",
        parameters=[named],
    )


def _about(exported: Exported, records: Sequence[UnitRecord], notes: Sequence[str]) -> dict[str, Any]:
    """Return what the list of an export says beside its files."""
    facts = exported.manifest.to_dict()
    return {
        "written_by": f"tokenstore {__version__}",
        "manifest": {name: facts[name] for name in facts if name not in _OF_THE_STORE},
        "splits": {
            name: {
                "samples": len(split),
                "columns": {column: str(kind) for column, kind in split.kinds.items()},
            }
            for name, split in exported.splits.items()
        },
        "file_count": sum(record.files for record in records),
        "nbytes": sum(record.nbytes for record in records),
        "notes": list(notes),
    }
