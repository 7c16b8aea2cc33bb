"""The facts that a store's manifest states, as texts: those of `info`, `stats` and the report."""

from __future__ import annotations

from tokenstore.codecs import Views
from tokenstore.format import Manifest, TokenizerIdentity
from tokenstore.texts import counted

__all__ = ["manifest_facts", "split_facts"]

_CLASSES_SHOWN = 10
_HISTORY_SHOWN = 5
_VIEWS_SHOWN = 4


def manifest_facts(manifest: Manifest) -> dict[str, str]:
    """Return what a manifest says of the whole store, by the name of each fact."""
    facts = {
        "format": f"version {manifest.format_version}, needs tokenstore >= {manifest.requires}",
        "written by": f"{manifest.created_by} from {manifest.source_kind or 'unknown'}",
        "tokenizer": _tokenizer(manifest.tokenizer),
        "grid": " x ".join(map(str, manifest.grid)),
        "codebook": _sizes(manifest.codebook_sizes) + _rule(manifest.tokenizer),
    }
    if manifest.symmetries:
        facts["symmetries"] = f"{', '.join(manifest.symmetries)}: exact on tokens"
    if manifest.views is not None:
        facts["views"] = _views(manifest.views)
    if manifest.source_location is not None:
        facts["source"] = manifest.source_location
    if manifest.part is not None:
        facts["part"] = f"{manifest.part} of a conversion, to be merged with the others"
    if manifest.preprocessing is not None:
        steps = manifest.preprocessing
        facts["images"] = f"{steps.width} x {steps.height}, {steps.resize}, {steps.filter}"
    if manifest.ignore_index is not None:
        facts["masks"] = f"{manifest.ignore_index} where a pixel has no class"
    if manifest.class_names is not None:
        names = manifest.class_names
        more = f" ... {names[-1]}" if len(names) > _CLASSES_SHOWN else ""
        facts["classes"] = f"{len(names):,}: {', '.join(names[:_CLASSES_SHOWN])}{more}"
    return facts | _history(manifest)


def split_facts(manifest: Manifest) -> dict[str, str]:
    """Return the samples of each split, by `split` and its name."""
    return {
        f"split {name}": f"{counted(split.samples, 'sample')}, {split.skipped:,} skipped"
        for name, split in manifest.splits.items()
    }


def _history(manifest: Manifest) -> dict[str, str]:
    """Return the last operations that made the store of others."""
    facts = {}
    for number, done in enumerate(manifest.history[-_HISTORY_SHOWN:], 1):
        head = "history" if number == 1 else f"history {number}"
        given = ", ".join(f"{name} {value!r:.60}" for name, value in done.arguments.items())
        facts[head] = f"{done.operation}{': ' if given else ''}{given}"
    if len(manifest.history) > _HISTORY_SHOWN:
        facts["history"] += f" (after {len(manifest.history) - _HISTORY_SHOWN:,} others)"
    return facts


def _views(views: Views) -> str:
    if views.boxes is None:
        return f"{views.count} of each sample, each sample its own"
    shown = [_box(*box) for box in views.boxes[:_VIEWS_SHOWN]]
    more = " ..." if views.count > _VIEWS_SHOWN else ""
    return f"{views.count} of each sample: {'; '.join(shown)}{more}"


def _box(top: int, left: int, height: int, width: int, mirrored: int) -> str:
    return f"{width} x {height} at ({left}, {top}){' mirrored' if mirrored else ''}"


def _sizes(sizes: tuple[int, ...]) -> str:
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return f"{len(sizes)} of {sizes[0]:,} codes"
    return " + ".join(f"{size:,}" for size in sizes) + " codes"


def _rule(identity: TokenizerIdentity) -> str:
    """Return what an implicit codebook's vectors are, as the end of a line."""
    implicit = identity.implicit_codebook
    if implicit is None:
        return ""
    levels = " x ".join(map(str, implicit.levels))
    return f", vectors by the rule {implicit.kind} of {levels} levels"


def _tokenizer(identity: TokenizerIdentity) -> str:
    computed = "" if identity.arithmetic is None else f", computed in {identity.arithmetic}"
    pruned = "" if identity.kept_codes is None else ", codebook pruned"
    named = "" if identity.spec is None else f", named {identity.spec}"
    return f"{identity}{named}{pruned}{computed}"
