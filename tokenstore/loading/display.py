"""The tables that notebooks show of a dataset and a loader, and the sheet of a dataset's first samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokenstore.displays import code_colours, figure, html_table, two_columns
from tokenstore.errors import StoreError
from tokenstore.format import LABELS, TOKENS
from tokenstore.reading import Indices
from tokenstore.sheet import draw_sheet
from tokenstore.texts import printable
from tokenstore.tokenizers import Tokenizer, tokenizer_of
from tokenstore.tokenizers.decoded import decoded_images

if TYPE_CHECKING:
    from tokenstore.loading.dataset import TokenDataset
    from tokenstore.loading.loader import TokenLoader

__all__ = ["THUMBNAILS", "LoaderDisplay", "dataset_html", "samples_sheet"]

THUMBNAILS = 4
"""The number of samples whose codes a notebook shows as pictures."""
_LARGEST_GRID = 64
"""The largest side of a grid that is drawn."""


class LoaderDisplay:
    """A loader that a notebook shows as a table of its settings, above its dataset's."""

    def _repr_html_(self) -> str:
        loader = cast("TokenLoader", self)
        facts = {
            "batches": len(loader),
            "batch size": loader.batch_size,
            "shuffle": loader.shuffle,
            "seed": loader.seed,
            "epoch": loader.epoch,
            "rank": f"{loader.rank} of {loader.world_size}",
        }
        return two_columns("TokenLoader", facts) + loader.dataset._repr_html_()


def dataset_html(dataset: TokenDataset, row_numbers: Indices) -> str:
    """Return a dataset's facts and columns as HTML, with the codes of some rows (m,) drawn as pictures."""
    manifest = dataset.rows.manifests[0]
    facts = {
        "samples": len(dataset),
        "grid": " x ".join(map(str, manifest.grid)),
        "codebook": ", ".join(f"{size:,} codes" for size in manifest.codebook_sizes),
        "classes": None if dataset.class_names is None else len(dataset.class_names),
        "tokenizer": dataset.tokenizer.name,
        "view": dataset.view,
    }
    columns = [(name, dataset.column(name)) for name in dataset.columns]
    shapes = [" x ".join(map(str, column.shape)) or "one value" for _, column in columns]
    rows = [(name, column.dtype, shape) for (name, column), shape in zip(columns, shapes, strict=True)]
    table = html_table("columns", ("name", "stored as", "a sample"), rows)
    return two_columns(type(dataset).__name__, facts) + table + _thumbnails(dataset, row_numbers)


def samples_sheet(dataset: TokenDataset, row_numbers: Indices, tokenizer: Tokenizer | None) -> Image.Image:
    """Draw some rows (m,) of a dataset with their labels on a sheet, by `tokenizer` or the store's own.

    Raises StoreError for no row or a sheet that is too large, TokenizerError where no tokenizer is known or
    it does not fit, and DamageError.
    """
    if not len(row_numbers):
        raise StoreError(f"expected samples to show, found none in {dataset!r}")
    maker = tokenizer_of(dataset.rows.manifests[0]) if tokenizer is None else tokenizer
    images = decoded_images(maker, _codes(dataset, row_numbers))
    frames = images if images.ndim == 4 else images[:, 0]  # of video, the first
    return draw_sheet([(frame,) for frame in frames], _captions(dataset, row_numbers))


def _thumbnails(dataset: TokenDataset, row_numbers: Indices) -> str:
    """Return the codes of rows (m,) as pictures; nothing of remote rows, or where codes are no image."""
    manifest = dataset.rows.manifests[0]
    sizes, grid = manifest.codebook_sizes, manifest.grid
    drawn = len(sizes) == 1 and len(grid) == 2 and max(grid) <= _LARGEST_GRID and dataset.rows.is_local
    if not drawn or TOKENS not in dataset.columns or not len(row_numbers):
        return ""
    colours = code_colours(sizes[0], dataset.rows.splits[0].store.codebook)
    pictures = zip(_codes(dataset, row_numbers), _captions(dataset, row_numbers), strict=True)
    return "".join(figure(colours[codes], f"codes of sample {text}", text) for codes, text in pictures)


def _codes(dataset: TokenDataset, row_numbers: Indices) -> npt.NDArray[np.unsignedinteger]:
    """Return the codes (m, *grid) of rows, of the view that the dataset gives; of all views, view 0."""
    one = dataset.with_view(0) if dataset.view == "all" else dataset
    views = one.views_of(row_numbers)
    codes: npt.NDArray[np.unsignedinteger] = one.rows.read(TOKENS, row_numbers, None, None, views)
    return codes


def _captions(dataset: TokenDataset, row_numbers: Indices) -> list[str]:
    """Return the row number of each sample, and its class if it has one."""
    if LABELS not in dataset.rows.columns:
        return [str(row) for row in row_numbers.tolist()]
    names = dataset.class_names
    labels = dataset.rows.read(LABELS, row_numbers).tolist()
    texts = [str(label) if names is None else printable(names[label]) for label in labels]
    return [f"{row}  {text}" for row, text in zip(row_numbers.tolist(), texts, strict=True)]
