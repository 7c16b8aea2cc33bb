"""The labels of the samples of tar files: texts of members, and fields of JSON."""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.files import Reader, SourceFile
from tokenstore.sources.names import printable
from tokenstore.sources.tar_groups import JSON, Group, GroupSample
from tokenstore.sources.tar_headers import Member
from tokenstore.sources.tar_links import LEADS_NOWHERE
from tokenstore.sources.tar_notes import TarNotes

_USUAL_ENDINGS = ("cls", JSON)
_LABEL_KEYS = ("label", "cls", "class")
_MAX_LABEL_BYTES = 2**24
_MAX_NUMBER_BYTES = 20
"""The size of a text that may be a number alone."""
_EXACT = 2.0**53
"""The float from which on not every whole number is one."""


@dataclass(frozen=True)
class LabelReader:
    """The reader of the labels of a tar file's samples."""

    file: Reader
    tar: SourceFile
    notes: TarNotes
    stored: tuple[str, ...] = ()
    """The fields of JSON members that are stored as further columns."""

    def text(self, sample: GroupSample, group: Group) -> tuple[bytes | None, list[str]]:
        """Return a sample's label, or None, and the endings of the members that were read for it."""
        read = []
        for ending in sample.labels:
            read.append(ending)
            member = group[ending]
            content = self._content(member)
            text = self._label_in_json(content, member) if ending.endswith(JSON) else content
            if text is not None:
                if ending not in _USUAL_ENDINGS:
                    self.notes.named.add(member.name)
                return text, read
        return None, read

    def note_unused(self, ending: str, member: Member) -> None:
        """Count a member that no sample of its key uses."""
        is_short_text = ending.endswith("txt") and 0 < member.size <= _MAX_NUMBER_BYTES
        if is_short_text and self._content(member).strip().isdigit():
            self.notes.bad_label(f"numbers in .{ending}", member.name)
        else:
            self.notes.beside(ending, member.name)

    def _content(self, member: Member) -> bytes:
        if member.offset == LEADS_NOWHERE or member.size > _MAX_LABEL_BYTES:
            nowhere = "a link to no file of the tar file"
            actual = nowhere if member.offset == LEADS_NOWHERE else f"{member.size} bytes"
            raise SourceError(
                f"{self.tar}: {printable(member.name)}: expected a label of up to {_MAX_LABEL_BYTES} bytes, "
                f"found {actual}"
            )
        self.file.seek(member.offset)
        return self.file.read(member.size)

    def _label_in_json(self, content: bytes, member: Member) -> bytes | None:
        """Return the label in a JSON object; None for an object without one, for null, and for several."""
        where = f"{self.tar}: {printable(member.name)}"
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{where}: expected JSON: {error}") from error
        if not isinstance(fields, dict):
            self.notes.beside(JSON, member.name)
            return None
        label_key = next((key for key in _LABEL_KEYS if key in fields), None)
        for key in fields:
            if key != label_key and key not in self.stored:
                self.notes.field(key, member.name)
        if label_key is None:
            return None
        value = fields[label_key]
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is None or isinstance(value, list):
            kind = "null" if value is None else "a list"
            self.notes.bad_label(f"{label_key} in .json that is {kind}", member.name)
            return None
        return _label_text(value, where)


def _label_text(value: object, where: str) -> bytes:
    """Return a label in JSON, a number or a name, as text; raise SourceError for other values."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        without = Parameter("no_labels", True)
        raise SourceError(
            f"{where}: expected a label that is a number or a name, found {reprlib.repr(value)}; {without} "
            "stores images without labels",
            parameters=[without],
        )
    try:
        return str(value).encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{where}: the label {value!r} holds half a character: {error.reason}") from error
