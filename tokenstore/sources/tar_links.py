"""The links inside a tar file, followed to the members that hold the bytes; never out of the file."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from tokenstore.sources.files import SourceFile
from tokenstore.sources.tar_headers import Member, walk_tar

LEADS_NOWHERE = -1
"""The offset of a link that no file of the same tar file is at the end of."""

_MAX_HOPS = 40
"""The links that are followed one after another, as many as Linux follows."""


class TarLinks:
    """The links of one tar file. The file is walked again when the first link has to be followed."""

    def __init__(self, tar: SourceFile) -> None:
        self._tar = tar

    def follow(self, link: Member) -> Member:
        """Return a link as the file that it leads to, under the link's own name.

        A link that leads out of the tar file or nowhere has the offset LEADS_NOWHERE and no bytes.
        """
        file = self._files.get(self._ends[_normal(link.name)])
        if file is None:
            return replace(link, offset=LEADS_NOWHERE, size=0, is_file=True)
        return replace(file, name=link.name)

    @cached_property
    def _ends(self) -> dict[bytes, bytes]:
        """The name at the end of each link, by the link's name."""
        targets = {
            _normal(member.name): _target(member) for member in walk_tar(self._tar) if member.link is not None
        }
        return {name: _end(name, targets) for name in targets}

    @cached_property
    def _files(self) -> dict[bytes, Member]:
        """The files that links lead to."""
        ends = set(self._ends.values())
        files = (member for member in walk_tar(self._tar) if member.is_file)
        return {name: member for member in files if (name := _normal(member.name)) in ends}


def _normal(name: bytes) -> bytes:
    return posixpath.normpath(name)


def _target(member: Member) -> bytes:
    """Return the name that a link leads to, as a path inside the tar file."""
    assert member.link is not None
    folder = posixpath.dirname(member.name) if member.link.is_symbolic else b""
    return _normal(posixpath.join(folder, member.link.target))


def _end(name: bytes, targets: Mapping[bytes, bytes]) -> bytes:
    for _ in range(_MAX_HOPS):
        if name not in targets:
            break
        name = targets[name]
    return name
