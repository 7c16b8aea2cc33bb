"""The versions that storage tells of its files along with their bytes."""

from __future__ import annotations


class Versions:
    """A count of answers that tell another version of their file than the answer before."""

    changes: int = 0
    _versions: dict[str, str]

    def _note_version(self, key: str, version: str) -> None:
        # Without a version, any answer may be a change.
        self.changes += not version or self._versions.setdefault(key, version) != version
        self._versions[key] = version
