"""The options that two or more commands share: one function for each, so that a name means one thing.

Every function returns a decorator: `@options.device()`. Its arguments are what may differ between commands.
Nothing here imports torch, zarr, numba or pyarrow; choices come from light tables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .parameters import Choice, ExistingPlace, PartOf, parse_rows, parse_storage_options
from .trust import allow_torchscript, trusted_if_allowed

_Command = TypeVar("_Command", bound=Callable[..., Any])
Decorator = Callable[[_Command], _Command]

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
"""The choices of --precision."""
RESIZES = ("squash", "crop", "pad")
"""The choices of --resize."""


def together(*decorators: Decorator[Any]) -> Decorator[Any]:
    """Return one decorator that adds several options, in the order that the help shows them."""

    def decorated(command: _Command) -> _Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorated


def option(
    *names: str, help: str, default: Any = None, otherwise: str = "", **settings: Any
) -> Decorator[Any]:
    """Return an option whose help ends in its default, or in what happens `otherwise` where it has none."""
    if default is not None:
        return click.option(*names, help=help, default=default, show_default=True, **settings)
    return click.option(*names, help=help + (f" [default: {otherwise}]" if otherwise else ""), **settings)


# Places


def existing_store(name: str = "store", *, nargs: int = 1) -> Decorator[Any]:
    """Return the argument STORE (or another `name`): an existing store, a local path or an fsspec URL.

    With `nargs=-1`, the command gets a tuple of one or more.
    """
    return click.argument(name, type=ExistingPlace("token store"), nargs=nargs, required=True)


def existing_source(name: str, *, nargs: int = 1) -> Decorator[Any]:
    """Return an argument that names a source of images or codes: a local path, a pattern or an fsspec URL."""
    return click.argument(name, type=ExistingPlace("source"), nargs=nargs, required=True)


def images(*, required: bool = False, multiple: bool = False, end: str = "") -> Decorator[Any]:
    """Return --images, a source of images; with `multiple`, the command gets a tuple of sources."""
    again = "; may be given again" if multiple else ""
    return click.option(
        "--images",
        metavar="SRC",
        type=ExistingPlace("source"),
        required=required,
        multiple=multiple,
        help=f"A source of images, as `tokenstore convert` reads them{again}{end}.",
    )


def out(what: str, *, folder: bool = False, required: bool = True, **settings: Any) -> Decorator[Any]:
    """Return --out, the local path of the file or folder that the command writes, as a Path."""
    return option(
        "-o",
        "--out",
        metavar="PATH",
        required=required,
        type=click.Path(file_okay=not folder, dir_okay=folder, path_type=Path),
        help=f"Where to write: {what}.",
        **settings,
    )


def overwrite() -> Decorator[Any]:
    """Return the flag --overwrite."""
    return click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")


def storage_options(name: str = "--storage-options", *, of: str = "store") -> Decorator[Any]:
    """Return --storage-options, or another `name` where a command opens two stores; the value is a dict."""
    return click.option(
        name,
        metavar="JSON",
        callback=parse_storage_options,
        help=f"Options of fsspec for a remote {of}, such as '{{\"anon\": true}}'.",
    )


def split(
    otherwise: str = "", *, default: str | None = None, name: str = "split", multiple: bool = False
) -> Decorator[Any]:
    """Return --split; `otherwise` says which split is used without it, where `default` does not."""
    again = "; may be given again" if multiple else ""
    return option(
        "--split",
        name,
        metavar="NAME",
        default=default,
        multiple=multiple,
        otherwise=otherwise,
        help=f"The split to work on{again}.",
    )


def indices(what: str) -> Decorator[Any]:
    """Return --indices, row numbers of one split, listed or in a file; the command gets integers."""
    return click.option(
        "--indices",
        metavar="I,J,...|FILE",
        callback=parse_rows,
        help=f"Samples by their row numbers, listed, or in a .npy or text file: {what}.",
    )


def share(help: str, *, default: float | None = None) -> Decorator[Any]:
    """Return --share, a share of samples; `help` says of which, and how they are chosen."""
    return option(
        "--share",
        metavar="SHARE",
        type=click.FloatRange(0, 1, min_open=True),
        default=default,
        help=f"Share of samples: {help}.",
    )


# Output and runs


def as_json(what: str) -> Decorator[Any]:
    """Return the flag --json, for which the command prints `what` as JSON on standard output."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print JSON on standard output: {what}.")


def resume(what: str) -> Decorator[Any]:
    """Return the flag --resume: continue `what`, the work of an interrupted command, or begin it."""
    return click.option(
        "--resume",
        is_flag=True,
        help=f"Continue {what}, given the same options; begin if there is none.",
    )


def seed(*, of: str = "everything") -> Decorator[Any]:
    """Return --seed, an int; the default is 0."""
    return option("--seed", metavar="SEED", type=int, default=0, help=f"Seed of what is random: {of}.")


def limit(which: str, *, default: int | None = None) -> Decorator[Any]:
    """Return --limit, the most samples of a split that the command takes; `which` says which they are."""
    return option(
        "--limit",
        metavar="N",
        type=click.IntRange(1),
        default=default,
        help=f"At most so many samples of each split: {which}.",
    )


def part() -> Decorator[Any]:
    """Return --part, a part of a conversion; the value is its number and the number of parts."""
    return click.option(
        "--part",
        metavar="I/N",
        type=PartOf(),
        help="Convert only part I of N, counted from 1; `tokenstore merge` puts the parts together.",
    )


# Devices and processes


def device(default: str | None = "cpu", *, otherwise: str = "") -> Decorator[Any]:
    """Return --device; `otherwise` says what is used where `default` is None."""
    return option(
        "--device",
        metavar="DEVICE",
        default=default,
        otherwise=otherwise,
        help="The device that networks run on: cpu, cuda, cuda:1, mps, or another of torch's.",
    )


def precision(default: str = "auto") -> Decorator[Any]:
    """Return --precision, one of `PRECISIONS`."""
    return option(
        "--precision",
        type=Choice(PRECISIONS),
        default=default,
        help="Arithmetic of the networks; auto: bf16 where the device multiplies it natively, else fp32. "
        "Weights are in float32.",
    )


def workers(what: str, *, default: int | None = None) -> Decorator[Any]:
    """Return --workers, the number of processes (or threads) that prepare samples; by default one a core."""
    return click.option(
        "--workers",
        metavar="N",
        type=click.IntRange(0),
        default=available_cores if default is None else default,
        show_default="one a core" if default is None else True,
        help=f"Workers beside the main process: {what}.",
    )


def jobs(what: str, *, default: int | None = None) -> Decorator[Any]:
    """Return --jobs, how many pieces of the work are done at a time; by default one a core."""
    return click.option(
        "--jobs",
        metavar="N",
        type=click.IntRange(1),
        default=available_cores if default is None else default,
        show_default="one a core" if default is None else True,
        help=f"Pieces of the work that are done at a time: {what}.",
    )


def ray_cluster(cores: str, *, gpus: bool = False) -> Decorator[Any]:
    """Return --ray, and the options of the actors on that cluster; `cores` says what each core does."""
    of_gpus = option(
        "--gpus-per-actor",
        metavar="N",
        type=click.FloatRange(0),
        otherwise="1, or 0 for --device cpu",
        help="GPUs of an actor, also a share of one.",
    )
    return together(
        click.option(
            "--ray",
            metavar="ADDRESS",
            help="Encode on a Ray cluster: auto for the one that this machine is part of, HOST:PORT, or "
            "local for a new one of this machine alone.",
        ),
        option(
            "--actors",
            metavar="N",
            type=click.IntRange(1),
            default=1,
            help="Actors on the cluster; those without room begin when it has grown.",
        ),
        *([of_gpus] if gpus else []),
        option(
            "--cpus-per-actor",
            metavar="N",
            type=click.IntRange(1),
            default=1,
            help=f"Cores of an actor, each with {cores}.",
        ),
    )


def threads(*, of: str = "") -> Decorator[Any]:
    """Return --threads, the threads of PyTorch on a CPU; by default one a core."""
    return click.option(
        "--threads",
        metavar="N",
        type=click.IntRange(1),
        default=available_cores,
        show_default="one a core",
        help=f"Threads that compute on a CPU{of}.",
    )


def batch_size(default: int, what: str, *, least: int = 1) -> Decorator[Any]:
    """Return --batch-size, a number of samples."""
    return option(
        "--batch-size",
        metavar="N",
        type=click.IntRange(least),
        default=default,
        help=f"Samples of a batch: {what}.",
    )


# Images and tokenizers


def tokenizer(default: str | None = None, *, otherwise: str = "") -> Decorator[Any]:
    """Return --tokenizer and --allow-torchscript; `otherwise` says which is used without a `default`."""
    named = option(
        "--tokenizer",
        metavar="NAME[:ARGUMENT]",
        default=default,
        otherwise=otherwise,
        callback=trusted_if_allowed,
        help="The tokenizer; `tokenstore tokenizers` lists all.",
    )
    return together(named, allow_torchscript())


def image_size(
    default: int | None = None, *, least: int = 1, otherwise: str = "the tokenizer's"
) -> Decorator[Any]:
    """Return --image-size, the side in pixels of the square that an image becomes."""
    return option(
        "--image-size",
        metavar="PIXELS",
        type=click.IntRange(least),
        default=default,
        otherwise=otherwise,
        help="Side in pixels of the square that an image becomes.",
    )


def resize(default: str | None = "squash", *, otherwise: str = "") -> Decorator[Any]:
    """Return --resize, one of `RESIZES`; `otherwise` says which is used where `default` is None."""
    return option(
        "--resize",
        type=Choice(RESIZES),
        default=default,
        otherwise=otherwise,
        help="How an image becomes a square: both sides to size, centre crop, or fit and pad with black.",
    )


def codebook_size(
    default: int | None = None, *, least: int = 1, most: int | None = None, otherwise: str = ""
) -> Decorator[Any]:
    """Return --codebook-size, the number of codes of a codebook."""
    return option(
        "--codebook-size",
        metavar="N",
        type=click.IntRange(least, most),
        default=default,
        otherwise=otherwise,
        help="Codes of a codebook.",
    )


def ignore_index(default: int | None = None, *, most: int | None = None) -> Decorator[Any]:
    """Return --ignore-index, the label of pixels without a class."""
    return option(
        "--ignore-index",
        metavar="LABEL",
        type=click.IntRange(0, most),
        default=default,
        otherwise="the store's",
        help="The label of pixels without a class, which count nowhere.",
    )


# Stores that are written


def codec(default: str) -> Decorator[Any]:
    """Return --codec, one of the codecs that a writer may choose."""
    from tokenstore.writing.choices import choices

    return option(
        "--codec",
        type=Choice(choices()),
        default=default,
        help="Codec of the codes: bitpack is fastest, context smallest, zstd is read without tokenstore; "
        "auto is the smallest that is fast enough.",
    )


def min_decode_rate() -> Decorator[Any]:
    """Return --min-decode-rate, which limits what `--codec auto` chooses."""
    from tokenstore.writing.choices import MIN_DECODE_RATE

    return option(
        "--min-decode-rate",
        metavar="SAMPLES/S",
        type=click.FloatRange(0),
        default=MIN_DECODE_RATE,
        help="The slowest codec that auto may choose, in samples decoded a second on one core.",
    )


def shard_samples() -> Decorator[Any]:
    """Return --shard-samples, the number of samples of one shard."""
    return click.option(
        "--shard-samples",
        metavar="N",
        type=click.IntRange(1),
        help="Samples of one shard, which is one file. [default: about 32 MiB of them]",
    )


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    from tokenstore.machine import available_cores as cores  # imports numba

    return cores()
