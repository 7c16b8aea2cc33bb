"""The two logs of `tokenstore convert`: text for people, JSON lines for programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.progress import Progress as Bar
from rich.progress import TaskID

from tokenstore.sources import MaskedSplit, count_classes
from tokenstore.texts import percent

from ..console import counted, echo, echo_json, hint_commands, human_bytes, human_rate, human_seconds
from ..main import spoken
from ..progress import progress_bar

if TYPE_CHECKING:
    from tokenstore.conversion.dry_run import Estimate
    from tokenstore.conversion.options import Conversion, Progress
    from tokenstore.sources.base import Source, Split

_SHOWN = 10
"""The samples that could not be read, of a split, that the text log prints."""
_COMPLETE = "already complete, of samples of the same names and labels, with the same options"


def _without(split: Split) -> str:
    return "label maps" if isinstance(split, MaskedSplit) else "no labels"


def _class_line(source: Source) -> str:
    """Return the numbers of classes of the splits, and the first names of classes."""
    classes = count_classes(source)
    numbers = [
        f"{name}: {_classes(classes[name]) if name in classes else _without(split)}"
        for name, split in source.splits.items()
    ]
    names = ""
    if source.class_names is not None:
        shown = ", ".join(source.class_names[:_SHOWN])
        names = f" ({shown}{', ...' if len(source.class_names) > _SHOWN else ''})"
    return ", ".join(numbers) + names


def _classes(number: int) -> str:
    return counted(number, "class", "classes")


class TextLog:
    """The log for people: a bar while the conversion runs, then a summary."""

    def __init__(self) -> None:
        """Prepare the bar, which `begin` starts."""
        self._bar: Bar = progress_bar("samples")
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, source: Source) -> None:
        """Print the listed source."""
        sizes = ", ".join(f"{name}: {counted(len(split), 'sample')}" for name, split in source.splits.items())
        echo(f"{source.location}: {source.kind}, {sizes}")
        for note in (*source.notes, *source.unused_labels):
            echo(f"  note: {spoken(note)}")
        echo(f"  {_class_line(source)}")
        self._bar.start()

    def progress(self, state: Progress) -> None:
        """Show how far the conversion is."""
        if state.split not in self._tasks:
            self._tasks[state.split] = self._bar.add_task(
                state.split, total=state.total, completed=state.done, note=""
            )
        note = f"{state.skipped} skipped" if state.skipped else ""
        self._bar.update(self._tasks[state.split], completed=state.done, note=note)

    def skipped(self, skips: list[dict[str, Any]], event: str = "skipped") -> None:
        """Print the first samples that could not be read."""
        for skip in skips[:_SHOWN]:
            echo(f"  {event} {skip['source']}: {skip['reason']}")

    def planned(self, plan: Estimate, out: str) -> None:
        """Print the plan of a conversion that is not made."""
        for name, split in plan.splits.items():
            classes = "no labels" if split.classes is None else _classes(split.classes)
            columns = ", ".join(["tokens", *split.columns])
            samples, shards = counted(split.samples, "sample"), counted(split.shards, "shard")
            echo(f"{name}: {samples}, {classes}, {shards} of {columns}")
        size = "" if plan.image_size is None else f"images of {plan.image_size[1]}x{plan.image_size[0]}, "
        grid = "x".join(map(str, plan.grid))
        views = "" if plan.views is None else f"{plan.views} views of each, "
        echo(f"{size}{views}grids of {grid}, codebooks of {', '.join(f'{n:,}' for n in plan.codebook_sizes)}")
        if plan.size_note:
            echo(f"note: {spoken(plan.size_note)}")
        for name, reason in plan.bad[:_SHOWN]:
            echo(f"  cannot read {name}: {reason}")
        if plan.bad:
            echo(f"{len(plan.bad):,} of {counted(plan.measured, 'sample')} tried cannot be read")
        if plan.already_complete:
            echo(f"{out}: {_COMPLETE}, {human_bytes(plan.nbytes)}. Nothing was written")
            return
        source = "" if plan.source_nbytes is None else f" of {human_bytes(plan.source_nbytes)} of images"
        echo(
            f"about {human_bytes(plan.nbytes)} ({plan.codec}){source}, {human_seconds(plan.seconds)} here, "
            f"estimated from {counted(plan.measured, 'sample')}"
        )
        state = "an unfinished conversion is there, to go on with" if plan.resumes else "nothing is there yet"
        free = "" if plan.free_nbytes is None else f"; {human_bytes(plan.free_nbytes)} are free"
        echo(f"{out}: {state}{free}. Nothing was written")
        if plan.free_nbytes is not None and plan.free_nbytes < plan.nbytes:
            echo(f"note: {out}: the disk has too little room")

    def interrupted(self, again: str) -> None:
        """Print the command that resumes the conversion."""
        echo(f"interrupted; what is done is kept. Go on with: {again}", err=True)

    def end(self, conversion: Conversion, out: str, seconds: float) -> None:
        """Print the result."""
        manifest = conversion.manifest
        if conversion.already_complete:
            echo(f"{out}: {_COMPLETE}")
            return
        for name, position in conversion.resumed_at.items():
            if position:
                echo(f"{name}: went on after {counted(position, 'sample')}")
        nbytes = conversion.nbytes
        for name, split in manifest.splits.items():
            echo(f"{name}: {counted(split.samples, 'sample')} stored, {split.skipped:,} skipped")
            self.skipped([vars(skip) for skip in conversion.skipped[name]])
            if split.skipped > _SHOWN:
                echo(f"  ... all {split.skipped:,} are listed in {out}/{name}/skipped.parquet")
        if conversion.size_note:
            echo(f"note: {spoken(conversion.size_note)}")
        if conversion.codec_reason:
            echo(f"codec {conversion.codec_reason}")
        samples = sum(split.samples for split in manifest.splits.values())
        source_nbytes = manifest.source_nbytes
        share = (
            f", {percent(nbytes / source_nbytes, 2)} of the images' {human_bytes(source_nbytes)}"
            if source_nbytes
            else ""
        )
        rate = human_rate(samples / seconds)
        echo(f"{out}: {human_bytes(nbytes)}{share}; {human_seconds(seconds)}, {rate} samples/s")
        if conversion.unused_labels:
            notes = "; ".join(map(spoken, conversion.unused_labels))
            splits = ", ".join(conversion.unlabelled)
            echo(f"{out}: stored without labels, though SRC seems to have some ({splits}): {notes}")
        look = ("stats", out) if manifest.preprocessing is None else ("preview", out, "-o", "sheet.png")
        hint_commands(("tokenstore", *look), ("tokenstore", "verify", out))


class JsonLog:
    """The log for programs: one JSON object a line."""

    def __init__(self) -> None:
        """Begin without a progress line."""
        self._last = 0.0

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self, source: Source) -> None:
        """Print the listed source."""
        sizes = {name: len(split) for name, split in source.splits.items()}
        self._write(
            "begin",
            location=source.location,
            kind=source.kind,
            splits=sizes,
            notes=[spoken(note) for note in (*source.notes, *source.unused_labels)],
            classes=count_classes(source),
        )

    def progress(self, state: Progress) -> None:
        """Show how far the conversion is."""
        if state.done == state.total or time.monotonic() - self._last >= 1:
            self._last = time.monotonic()
            self._write("progress", **vars(state))

    def skipped(self, skips: list[dict[str, Any]], event: str = "skipped") -> None:
        """Print samples that could not be read."""
        for skip in skips:
            self._write(event, **skip)

    def planned(self, plan: Estimate, out: str) -> None:
        """Print the plan of a conversion that is not made."""
        note = None if plan.size_note is None else spoken(plan.size_note)
        self._write("plan", out=out, **{**plan.to_dict(), "size_note": note})

    def interrupted(self, again: str) -> None:
        """Print the command that resumes the conversion."""
        self._write("interrupted", resume=again)

    def end(self, conversion: Conversion, out: str, seconds: float) -> None:
        """Print the result."""
        for name, skips in conversion.skipped.items():
            self.skipped([{"split": name, **vars(skip)} for skip in skips])
        manifest = conversion.manifest
        self._write(
            "end",
            out=out,
            already_complete=conversion.already_complete,
            splits={name: vars(split) for name, split in manifest.splits.items()},
            nbytes=conversion.nbytes,
            size_note=None if conversion.size_note is None else spoken(conversion.size_note),
            codec_reason=conversion.codec_reason,
            unlabelled=list(conversion.unlabelled),
            unused_labels=[spoken(note) for note in conversion.unused_labels],
            seconds=round(seconds, 3),
        )

    def _write(self, event: str, **values: Any) -> None:
        echo_json({"event": event, **values}, indent=None)
