"""The command `tokenstore info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import tokenstore

from .. import options
from ..console import counted, echo, echo_json, human_bytes
from ..main import EXIT_CODES
from ..parameters import ExistingPlace

if TYPE_CHECKING:
    from tokenstore.audit.diff import StoreDiff
    from tokenstore.audit.info import StoreInfo
    from tokenstore.codecs import Views
    from tokenstore.format import TokenizerIdentity

_CLASSES_SHOWN = 10
_HISTORY_SHOWN = 5
_VIEWS_SHOWN = 4


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@click.option(
    "--diff",
    "other",
    metavar="OTHER",
    type=ExistingPlace("token store"),
    help="Show instead what differs between STORE (<) and another store (>), samples among it; 1 if anything "
    "does.",
)
@options.as_json("the manifest and each array's layout, or the differences")
@options.storage_options()
def info(store: str, other: str | None, as_json: bool, storage_options: dict[str, Any] | None) -> None:
    """Show what STORE says about itself.

    \b
    Examples:
      tokenstore info photos.zarr
      tokenstore info photos.zarr --json | jq .manifest.tokenizer
      tokenstore info photos.zarr --diff relabelled.zarr
    """
    if other is not None:
        _show_diff(tokenstore.diff(store, other, storage_options=storage_options), as_json)
        return
    result = tokenstore.info(store, storage_options=storage_options)
    if as_json:
        echo_json(result.to_dict())
        return
    lines = {"store": store, **_manifest_lines(result), **_array_lines(result)}
    width = max(map(len, lines))
    for name, value in lines.items():
        echo(f"{name:<{width}}  {value}")


def _show_diff(found: StoreDiff, as_json: bool) -> None:
    """Print what differs between two stores; exit with 1 if anything does."""
    if as_json:
        echo_json(found.to_dict())
    else:
        rows = [(each.what, each.first, each.second) for each in found.differences]
        if rows:
            rows.insert(0, ("store", found.first, found.second))
        width = max([0, *(len(what) for what, _, _ in rows)])
        for what, first, second in rows:
            echo(f"{what:<{width}}  < {first}")
            echo(f"{'':<{width}}  > {second}")
        if found.same:
            echo("the same facts and samples")
    if not found.same:
        raise click.exceptions.Exit(1)


def _manifest_lines(result: StoreInfo) -> dict[str, str]:
    """Return what the manifest says, by the heads of the lines."""
    manifest = result.manifest
    lines = {
        "format": f"version {manifest.format_version}, needs tokenstore >= {manifest.requires}",
        "written by": f"{manifest.created_by} from {manifest.source_kind or 'unknown'}",
        "tokenizer": _tokenizer(manifest.tokenizer),
        "grid": " x ".join(map(str, manifest.grid)),
        "codebook": _sizes(manifest.codebook_sizes) + _rule(manifest.tokenizer),
    }
    if manifest.symmetries:
        lines["symmetries"] = f"{', '.join(manifest.symmetries)}: exact on tokens"
    if manifest.views is not None:
        lines["views"] = _views(manifest.views)
    if manifest.source_location is not None:
        lines["source"] = manifest.source_location
    if manifest.part is not None:
        lines["part"] = f"{manifest.part} of a conversion, to be merged with the others"
    if manifest.preprocessing is not None:
        steps = manifest.preprocessing
        lines["images"] = f"{steps.width} x {steps.height}, {steps.resize}, {steps.filter}"
    if manifest.ignore_index is not None:
        lines["masks"] = f"{manifest.ignore_index} where a pixel has no class"
    if manifest.class_names is not None:
        names = manifest.class_names
        more = f" ... {names[-1]}" if len(names) > _CLASSES_SHOWN else ""
        lines["classes"] = f"{len(names):,}: {', '.join(names[:_CLASSES_SHOWN])}{more}"
    for number, done in enumerate(manifest.history[-_HISTORY_SHOWN:], 1):
        head = "history" if number == 1 else f"history {number}"
        given = ", ".join(f"{name} {value!r:.60}" for name, value in done.arguments.items())
        lines[head] = f"{done.operation}{': ' if given else ''}{given}"
    if len(manifest.history) > _HISTORY_SHOWN:
        lines["history"] += f" (after {len(manifest.history) - _HISTORY_SHOWN:,} others)"
    for name, split in manifest.splits.items():
        lines[f"split {name}"] = f"{split.samples:,} samples, {split.skipped:,} skipped"
    return lines


def _views(views: Views) -> str:
    if views.boxes is None:
        return f"{views.count} of each sample, each sample its own"
    shown = [_box(*box) for box in views.boxes[:_VIEWS_SHOWN]]
    more = " ..." if views.count > _VIEWS_SHOWN else ""
    return f"{views.count} of each sample: {'; '.join(shown)}{more}"


def _box(top: int, left: int, height: int, width: int, mirrored: int) -> str:
    return f"{width} x {height} at ({left}, {top}){' mirrored' if mirrored else ''}"


def _array_lines(result: StoreInfo) -> dict[str, str]:
    """Return each array's layout, by the heads of the lines."""
    lines = {}
    for name, array in result.arrays.items():
        shape = " x ".join(f"{size:,}" for size in array.shape)
        shards = (
            f"{counted(array.shards, 'shard')} of {array.shard_samples:,}, chunks of {array.chunk_samples:,}"
        )
        lines[f"array {name}"] = (
            f"{array.dtype} {shape}, {array.codec}, {shards}, {human_bytes(array.nbytes)}"
        )
    return lines


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
