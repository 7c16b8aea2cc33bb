"""The remarks on what the index of tar files leaves out, or takes by a rule of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenstore.sources.images import EXTENSIONS
from tokenstore.sources.names import Tally, printable
from tokenstore.sources.tar_groups import looks_like_labels

_MAX_KINDS = 100
"""The kinds of things that are counted apart; more of them are counted together."""
_SHOWN = 6
_HOW_TO_LABEL = "a sample has one label, the text of KEY.cls or label in KEY.json: rename what should be used"


class Tallies:
    """The counts of things of several kinds, with the name of the first of each kind."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._kinds: dict[str, Tally] = {}

    def add(self, kind: str, name: bytes) -> None:
        """Count one more thing of a kind, of that name."""
        if kind not in self._kinds and len(self._kinds) >= _MAX_KINDS:
            kind = "others"
        self._kinds.setdefault(kind, Tally(kind)).add(name)

    def facts(self) -> dict[str, Any]:
        """Return the counts as JSON values, for `merge`."""
        return {kind: tally.facts() for kind, tally in self._kinds.items()}

    def merge(self, facts: Mapping[str, Any]) -> None:
        """Add the counts that another's `facts` are."""
        for kind, of_kind in facts.items():
            if kind not in self._kinds and len(self._kinds) >= _MAX_KINDS:
                kind = "others"
            self._kinds.setdefault(kind, Tally(kind)).merge(Tally.of(kind, of_kind))

    def notes(self, advice: str = "") -> tuple[str, ...]:
        """Return one note of all kinds, the most frequent first, or none if nothing was counted."""
        if not self._kinds:
            return ()
        kinds = sorted(self._kinds.values(), key=lambda tally: (-tally.count, tally.what))
        shown = "; ".join(note for tally in kinds[:_SHOWN] for note in tally.notes())
        more = f"; {len(kinds) - _SHOWN} more kinds" if len(kinds) > _SHOWN else ""
        return (f"{self._what}: {shown}{more}{advice and f'. {advice[0].upper()}{advice[1:]}'}",)


class TarNotes:
    """The members that are no part of a sample, or not stored, and the labels found by a rule or not used."""

    def __init__(self) -> None:
        self.special = Tally("members skipped, as they are links, devices or sparse files")
        self.others = Tally("members skipped, as no image goes with them")
        self.images = Tally("images skipped, as their samples have one that goes before")
        self.apart = Tally("images of one key taken as samples of their own, as their names differ")
        self.named = Tally("labels read from members that are not named KEY.cls or KEY.json")
        self._beside = Tallies("members beside images that are not stored")
        self._fields = Tallies("fields of JSON members that are not stored")
        self._labels = Tallies("not used, though they look like labels")

    def without_image(self, name: bytes) -> None:
        """Count a member whose key has no image."""
        if looks_like_labels(printable(name.rpartition(b"/")[2])):
            self._labels.add("members with no image of their key", name)
        else:
            self.others.add(name)

    def beside(self, ending: str, name: bytes) -> None:
        """Count a member of a sample that is not stored, by its ending."""
        if looks_like_labels(ending) and ending.rpartition(".")[2] not in EXTENSIONS:
            self._labels.add(f".{ending}", name)
        else:
            self._beside.add(f".{ending.rpartition('.')[2]}", name)

    def field(self, key: str, name: bytes) -> None:
        """Count a field of a JSON member that is not stored, by its key."""
        tallies = self._labels if looks_like_labels(key) else self._fields
        tallies.add(f"{printable(key.encode('utf-8', 'surrogatepass'))} in .json", name)

    def bad_label(self, kind: str, name: bytes) -> None:
        """Count a label that cannot be used, by its kind."""
        self._labels.add(kind, name)

    def facts(self) -> dict[str, Any]:
        """Return all counts as JSON values, for `merge`."""
        return {name: counts.facts() for name, counts in vars(self).items()}

    def merge(self, facts: Mapping[str, Any]) -> None:
        """Add the counts that another's `facts` are."""
        for name, counts in vars(self).items():
            if isinstance(counts, Tally):
                counts.merge(Tally.of("", facts[name]))
            else:
                counts.merge(facts[name])

    def unused_labels(self) -> tuple[str, ...]:
        """Return a sentence on what looks like labels and is not used, and how to use it."""
        return self._labels.notes(_HOW_TO_LABEL)

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each sort of thing that was counted, unused labels aside."""
        tallies = (self.special, self.others, self.images, self.apart, self.named, self._beside, self._fields)
        return tuple(note for tally in tallies for note in tally.notes())
