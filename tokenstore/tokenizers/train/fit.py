"""The call behind `tokenstore fit-codebook`: a codebook over the latents of an autoencoder, in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tokenstore.errors import Parameter, SourceError, TokenizerError, did_you_mean
from tokenstore.locks import PlaceLock
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
    """Learn a codebook over an autoencoder's latents of images, and write it to the file `out`.

    `images` is a source of images, or the path of one. `autoencoder` is an AutoencoderKL, AutoencoderTiny or
    AutoencoderDC of diffusers, or a pipeline with one: a folder, or an id of the Hugging Face hub. A position
    gets `codebooks` codes of `codebook_size` values each; each further codebook is learned over the residuals
    of those before. `levels`, one number a latent channel, is finite scalar quantisation instead.

    The images are at most `limit` (None: all) of `split` (by default train or the first), evenly spaced; one
    in ten is held out. `image_size` is the side in pixels of the square that an image becomes; `ImageOptions`
    describes the ways to `resize`. k-means sees `max_vectors` latent vectors, a random sample of all, in
    `iterations` steps of `batch_vectors`. `overwrite` replaces an existing file.

    `on_start` is called before the first image with the source, the split's name and the number of images,
    `on_progress` with the stage, the steps done in the stage, and all its steps.

    Raises SourceError for images that cannot be used. Raises TokenizerError if diffusers is not installed,
    `out` exists or has another ending, the autoencoder cannot be loaded, the options don't fit, or there are
    too few vectors.
    """
    path = Path(out)
    options = FitOptions(codebook_size, codebooks, levels, max_vectors, batch_vectors, iterations, seed)
    with _reserved(path, overwrite):
        source = open_images(images)
        name, images_of_split = _choose_split(source, split)
        kind = _autoencoder_kind()
        model = kind.load_autoencoder(autoencoder, device)
        if on_start is not None:
            total = len(images_of_split)
            on_start(source, name, total if limit is None else min(limit, total))
        image_options = ImageOptions(image_size, resize)
        progress = {} if on_progress is None else {"on_progress": on_progress}
        tokenizer, report = learn_codebook(
            images_of_split, model, image_options, options, limit=limit, **progress
        )
        kind.write_codebook(tokenizer, path)
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
