"""The command `tokenstore verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import tokenstore
from tokenstore.texts import percent

from .. import options, source_options
from ..console import counted, echo, echo_json, human_bytes, refuse_idle_options
from ..main import EXIT_CODES

if TYPE_CHECKING:
    from tokenstore.audit.retokenization import Retokenization
    from tokenstore.audit.verify import Verification

_IMAGE_OPTIONS = {**source_options.ORIGINALS, "tokenizer": "--tokenizer", "device": "--device"}


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@options.as_json("the findings")
@click.option(
    "--retokenize",
    metavar="N",
    type=click.IntRange(1),
    help="Also encode the images of N samples of each split again and compare their codes.",
)
@source_options.originals()
@options.tokenizer(otherwise="the one that STORE names")
@options.device()
@options.storage_options()
def verify(store: str, as_json: bool, retokenize: int | None, **settings: Any) -> None:
    """Check every digest, checksum, code and label of STORE.

    Exits with 1 and names the file and chunk where anything is not as it was written. With --retokenize,
    codes that differ from those the images give now count as damage too, but only where they are computed
    as they were then: on the same kind of device, in the same float type.

    \b
    Examples:
      tokenstore verify photos.zarr
      tokenstore verify s3://bucket/photos.zarr
      tokenstore verify photos.zarr --retokenize 100 --images /new/place/photos
    """
    refuse_idle_options(_IMAGE_OPTIONS, "--retokenize N", retokenize is None)
    from ..progress import progress_bar

    with progress_bar("bytes", quiet=as_json) as bar:
        task = bar.add_task("verifying", total=None, note="")
        result = tokenstore.verify(
            store,
            retokenize=retokenize,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            **settings,
        )
    if as_json:
        echo_json(result.to_dict())
    else:
        _print(store, result)
    if not result.ok:
        raise click.exceptions.Exit(1)


def _print(store: str, result: Verification) -> None:
    """Print the notes and the damage, then one line in sum."""
    if result.retokenization is not None:
        _print_retokenization(result.retokenization)
    for note in result.notes:
        echo(f"note: {note}")
    for problem in result.problems:
        echo(f"damage: {problem}")
    verdict = "ok" if result.ok else f"damaged, {counted(len(result.problems), 'finding')}"
    checked = (
        f"{counted(result.files, 'file')}, {human_bytes(result.nbytes)}, {counted(result.chunks, 'chunk')}"
    )
    echo(f"{store}: {verdict}; checked {checked}, {counted(result.samples, 'sample')}")


def _print_retokenization(again: Retokenization) -> None:
    from .stats_tables import missing_images  # imports numba

    echo(f"codes were computed in: {again.stored_arithmetic}; now: {again.arithmetic}")
    for name, split in again.splits.items():
        share = f", {percent(split.equal_codes / split.codes, 4)} of their codes" if split.codes else ""
        echo(
            f"split {name}: {split.equal_samples:,} of {counted(split.samples, 'sample')} encoded again are "
            f"equal{share}{missing_images(split)}"
        )
