"""The table in a file of labels: its encoding, its delimiter, and which columns hold paths and labels.

Spreadsheets write `;` or tabs, UTF-16 and a first line `sep=;`; pandas writes an unnamed column of row
numbers; others write more columns, headings of many names, or none.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
from pyarrow import csv as arrow_csv

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.files import SourceFile, whole_file
from tokenstore.sources.further import not_used
from tokenstore.sources.labels import LABEL_NAMES, looks_like_label
from tokenstore.sources.names import printable
from tokenstore.texts import shortened

PATH_NAMES = (
    *("path", "file", "filename", "file_name", "image", "filepath", "file_path", "image_path", "img_path"),
    *(
        "image_id",
        "image_name",
        "img",
        "img_name",
        "img_id",
        "fname",
        "name",
        "id",
        "paths",
        "files",
        "images",
    ),
)
"""The headings of columns of paths, best first, in lower case."""
_DELIMITERS = ",;\t| "
_MAX_NBYTES = 2**30
_MAX_COLUMNS = 1000
_SNIFFED_ROWS = 20
_SNIFFED_NBYTES = 2**16
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


@dataclass(frozen=True)
class LabelTable:
    """The paths and the labels of a file, both `pa.binary()`, without its heading."""

    paths: pa.ChunkedArray
    labels: pa.ChunkedArray
    notes: tuple[str, ...] = ()


def read_label_table(
    file: SourceFile,
    image_column: str | None = None,
    label_column: str | None = None,
    *,
    first_two: bool = False,
) -> LabelTable:
    """Read a file of paths and labels, whose columns are named, found by their headings, or the only two.

    Without a heading, `first_two` takes the first two columns, whatever others follow.

    Raises SourceError for a file that cannot be read or has no row, and for columns that are unclear.
    """
    data, delimiter, head = csv_content(file)
    places, is_head, notes = _columns(head, file, (image_column, label_column), first_two)
    names = [str(number) for number in range(len(head))]
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(data),
            read_options=arrow_csv.ReadOptions(column_names=names),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter),
            convert_options=arrow_csv.ConvertOptions(
                column_types={names[place]: pa.binary() for place in places},
                include_columns=[names[place] for place in places],
            ),
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(file, f": {error}") from error
    table = table.slice(1) if is_head else table
    if not len(table):
        raise SourceError(f"{file}: the labels file lists no images")
    return LabelTable(table.column(0), table.column(1), notes)


def csv_content(file: SourceFile) -> tuple[bytes, str, list[str]]:
    """Return a file's text, the delimiter of its cells, and the cells of its first row."""
    data = _content(file)
    return data, *_sniff(data, file)


def _content(file: SourceFile) -> bytes:
    """Return a file's text in UTF-8, or in whatever other encoding that keeps ASCII, without its marks."""
    data = whole_file(file, _MAX_NBYTES, "the labels file")
    if data[:2] in _UTF16:
        try:
            data = data[2:].decode(_UTF16[data[:2]]).encode()
        except UnicodeError as error:
            raise SourceError(f"{file}: begins like UTF-16, but is none: {error}") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    first, end, rest = data.partition(b"\n")
    return rest if end and first.lower().startswith(b"sep=") else data


def _sniff(data: bytes, file: SourceFile) -> tuple[str, list[str]]:
    """Return the delimiter that divides the first rows alike, and the cells of the first row."""
    begin = data[:_SNIFFED_NBYTES]
    lines = begin if len(begin) == len(data) else begin.rpartition(b"\n")[0] or begin
    text = lines.decode("utf-8", "surrogateescape")
    for delimiter in _DELIMITERS:
        rows = list(islice(_rows(text, delimiter), _SNIFFED_ROWS))
        counts = {len(row) for row in rows}
        if len(counts) == 1 and 1 < len(rows[0]) <= _MAX_COLUMNS and (delimiter != " " or counts == {2}):
            return delimiter, rows[0]
    line = begin.split(b"\n", 1)[0][:80].strip()
    raise _unreadable(file, f", found {printable(line)!r} as the first line")


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the rows of a text that are not empty, as far as they can be told apart."""
    try:
        yield from filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error:
        yield []  # which no delimiter divides like the others


def _columns(
    head: Sequence[str], file: SourceFile, given: tuple[str | None, str | None], first_two: bool
) -> tuple[tuple[int, int], bool, tuple[str, ...]]:
    """Return the places of paths and labels, whether the first row is a heading, and notes."""
    names = [cell.strip().lower() for cell in head]
    chosen = [None if name is None else _given(name, head, file) for name in given]
    paths, labels = chosen
    if paths is None:
        paths = next((names.index(name) for name in PATH_NAMES if name in names), None)
    if paths is None and labels is None and not _is_index(names[0]):
        if len(head) == 2 or first_two:
            return (0, 1), False, ()
        raise _unreadable(file, f" or more with a heading, found {_shown(head)}")
    if paths is None:
        others = [place for place in range(len(head)) if place != labels and not _is_index(names[place])]
        paths = others[0] if len(others) == 1 else None
    if labels is None:
        known = [names.index(name) for name in LABEL_NAMES if name in names and names.index(name) != paths]
        others = [place for place in range(len(head)) if place != paths and not _is_index(names[place])]
        alike = [place for place in others if looks_like_label(names[place])]
        labels = next((places[0] for places in (known[:1], alike, others) if len(places) == 1), None)
    if paths is None or labels is None:
        what = Parameter("label_column" if paths is not None else "image_column")
        kind = "labels" if paths is not None else "paths"
        raise SourceError(
            f"{file}: expected a column of {kind} with a usual name, such as "
            f"{shortened(LABEL_NAMES if paths is not None else PATH_NAMES)}, found {_shown(head)}; "
            f"{what} names it",
            parameters=[what],
        )
    rest = [head[place] for place in range(len(head)) if place not in (paths, labels) and names[place]]
    table = Parameter("table", file.name)
    notes = not_used(f"columns of {file.name}", [_printable(name) for name in rest], needed=[table])
    return (paths, labels), True, notes


def _is_index(name: str) -> bool:
    """Return whether a heading, in lower case, is that of the row numbers that pandas writes."""
    return not name or name.startswith("unnamed:")


def _given(name: str, head: Sequence[str], file: SourceFile) -> int:
    places = [place for place, cell in enumerate(head) if cell.strip() == name]
    if len(places) != 1:
        raise SourceError(f"{file}: expected one column {name!r}, found {len(places)} in {_shown(head)}")
    return places[0]


def _unreadable(file: SourceFile, instead: str) -> SourceError:
    return SourceError(f"{file}: expected a CSV file of two columns, path and label{instead}")


def _shown(head: Sequence[str]) -> str:
    return f"{len(head)} columns: {shortened([_printable(cell) for cell in head], 10)}"


def _printable(cell: str) -> str:
    return printable(cell.encode("utf-8", "surrogateescape"))
