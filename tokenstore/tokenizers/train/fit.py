"""The call behind `tokenstore fit-codebook`: a codebook over the latents of an autoencoder, in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tokenstore.errors import Parameter, SourceError, TokenizerError, did_you_mean
from tokenstore.locks import PlaceLock
from tokenstore.networks.records import versions, write_record
from tokenstore.sources.base import ImageSource, ImageSplit
from tokenstore.sources.options import ImageOptions, Resize
from tokenstore.tokenizers.train.fitting import FitOptions, FitReport, OnProgress, learn_codebook
from tokenstore.tokenizers.train.images import open_images

if TYPE_CHECKING:  # the module needs diffusers
    from tokenstore.tokenizers.kinds.autoencoder import AutoencoderTokenizer

__all__ = ["ENDING", "FittedCodebook", "fit_codebook"]

ENDING = ".safetensors"
"""The ending of a codebook's file."""
_DEFAULT = FitOptions()


@dataclass(frozen=True)
class FittedCodebook:
    """A codebook that was learned and written."""

    path: Path
    """The file; `autoencoder:PATH` names the tokenizer."""
    tokenizer: AutoencoderTokenizer
    """The autoencoder with the codebook."""
    report: FitReport
    """The data that the codebook was learned from, and the fit."""


def fit_codebook(
    images: str | Path | ImageSource,
    out: str | Path,
    *,
    autoencoder: str,
    codebook_size: int = _DEFAULT.codebook_size,
    codebooks: int = _DEFAULT.codebooks,
    levels: tuple[int, ...] | None = None,
    split: str | None = None,
    limit: int | None = 2000,
    image_size: int = 256,
    resize: Resize = "squash",
    max_vectors: int = _DEFAULT.max_vectors,
    batch_vectors: int = _DEFAULT.batch_vectors,
    iterations: int = _DEFAULT.iterations,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    on_start: Callable[[ImageSource, str, int], None] | None = None,
    on_progress: OnProgress | None = None,
) -> FittedCodebook:
    """Learn a codebook over an autoencoder's latents of images, and write it to a file.

    Args:
        images: A source of images, or the path or URL of one. One image in ten is held out to evaluate on.
        out: The file to write, whose name ends in .safetensors. A file of the same name that ends in .yaml
            gets the record of the fit: its settings, its images and the versions of the libraries.
        autoencoder: An AutoencoderKL, AutoencoderTiny or AutoencoderDC of diffusers, or a pipeline with one:
            a folder, or an id of the Hugging Face hub.
        codebook_size: The number of codes of each codebook; by default 4096.
        codebooks: The number of codes of a position. Each codebook after the first is learned over the
            residuals of those before it.
        levels: The number of values of each latent channel, for finite scalar quantisation in place of
            learned codebooks.
        split: The split of the images; by default train, or else the first.
        limit: The most images to read, evenly spaced over the split; None reads all.
        image_size: The side in pixels of the square that an image becomes.
        resize: The way an image becomes a square, as `ImageOptions` describes.
        max_vectors: The most latent vectors that k-means sees, a random sample of all; by default 1048576.
        batch_vectors: The number of vectors of a step of k-means; by default 16384.
        iterations: The number of steps of k-means for each codebook; by default 200.
        seed: The seed of all draws.
        device: The device that the autoencoder runs on, cpu or cuda.
        overwrite: True to replace an existing file.
        on_start: Called before the first image with the source, the split's name and the number of images.
        on_progress: Called with the stage, the steps done in the stage, and all its steps.

    Raises:
        SourceError: The images cannot be used.
        TokenizerError: diffusers is not installed, `out` exists or has another ending, the autoencoder
            cannot be loaded, the options don't fit, or there are too few vectors.
    """
    options = FitOptions(codebook_size, codebooks, levels, max_vectors, batch_vectors, iterations, seed)
    request = _Request(images, split, limit, ImageOptions(image_size, resize), autoencoder, device)
    with _reserved(Path(out), overwrite):
        return _fit(request, Path(out), options, on_start, on_progress)


@dataclass(frozen=True)
class _Request:
    """The images that a codebook is asked for, and the autoencoder."""

    images: str | Path | ImageSource
    split: str | None
    limit: int | None
    image_options: ImageOptions
    autoencoder: str
    device: str

    def record(self, path: Path, options: FitOptions, source: ImageSource, split: str) -> None:
        """Write down how the codebook was fitted; raises OSError."""
        settings = {
            "autoencoder": self.autoencoder,
            **asdict(options),
            "image_size": self.image_options.size,
            "resize": self.image_options.resize,
            "limit": self.limit,
        }
        facts = {
            "images": source.location,
            "split": split,
            "inputs": {"images": source.splits[split].fingerprint()},
            "device": self.device,
            "versions": versions(("torch", "diffusers", "numpy")),
        }
        write_record(path, f"How {path.stem}{ENDING} was fitted.", settings, facts)


def _fit(
    request: _Request,
    path: Path,
    options: FitOptions,
    on_start: Callable[[ImageSource, str, int], None] | None,
    on_progress: OnProgress | None,
) -> FittedCodebook:
    source = open_images(request.images)
    name, images = _choose_split(source, request.split)
    kind = _autoencoder_kind()
    model = kind.load_autoencoder(request.autoencoder, request.device)
    if on_start is not None:
        on_start(source, name, len(images) if request.limit is None else min(request.limit, len(images)))
    progress = {} if on_progress is None else {"on_progress": on_progress}
    tokenizer, report = learn_codebook(
        images, model, request.image_options, options, limit=request.limit, **progress
    )
    kind.write_codebook(tokenizer, path)
    request.record(path.with_suffix(".yaml"), options, source, name)
    return FittedCodebook(path, tokenizer, report)


def _autoencoder_kind() -> ModuleType:
    """Import the module of autoencoders; raise TokenizerError if diffusers is not installed."""
    try:
        from tokenstore.tokenizers.kinds import autoencoder
    except ImportError as error:
        raise TokenizerError(
            f"fit-codebook needs the package diffusers; pip install 'tokenstore[diffusers]' ({error})"
        ) from error
    return autoencoder


@contextmanager
def _reserved(path: Path, overwrite: bool) -> Iterator[None]:
    """Keep others from writing a file until the block ends.

    Raises TokenizerError before minutes of work for a file that cannot be written, or that another writes.
    """
    if path.suffix != ENDING:
        raise TokenizerError(f"expected a file to write that ends in {ENDING}, found {path}")
    try:
        lock = PlaceLock(path, "codebook")
    except BlockingIOError as error:
        raise TokenizerError(f"{path}: {error}. Wait for its end, or name another file") from error
    with lock:
        if path.exists() and not overwrite:
            replace = Parameter("overwrite", True)
            raise TokenizerError(
                f"{path}: is there already; name another file, or replace it with {replace}",
                parameters=[replace],
            )
        yield


def _choose_split(source: ImageSource, split: str | None) -> tuple[str, ImageSplit]:
    """Return the name and images of a split: by default train, or the first."""
    name = split or ("train" if "train" in source.splits else next(iter(source.splits)))
    if name not in source.splits:
        names = ", ".join(source.splits)
        near = did_you_mean(name, source.splits)
        raise SourceError(f"{source.location}: expected a split of {names}, found {name!r}{near}")
    return name, source.splits[name]
