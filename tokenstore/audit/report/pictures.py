"""The samples that a report shows as pictures: chosen, decoded, and with their originals where they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tokenstore.audit.originals import Inputs, evenly_spaced
from tokenstore.audit.preview import sample_strip
from tokenstore.audit.quality import ComparedImages
from tokenstore.audit.stats import StorageAudit
from tokenstore.errors import TokenizerError
from tokenstore.format import LABELS, Manifest
from tokenstore.reading import Indices, SplitReader, TokenStore
from tokenstore.texts import printable
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.decoded import decoded_images

WORST = 8
"""The samples with the worst reconstructions that are shown."""

_BLOCK = 4
"""The side of the square of equal codes whose middle is a code's patch."""
_GRIDS_AT_ONCE = 16

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One sample as its codes decode, and as it was."""

    split: str
    row: int
    label: str | None
    """The name of its class, or its label; None without labels."""
    rebuilt: Images
    """The image that its codes decode to (H, W, 3)."""
    original: Images | None = None
    """Its image as the tokenizer saw it (H, W, 3), where it can still be read."""
    note: str = ""
    """A figure of the sample, as a text."""

    def to_dict(self) -> dict[str, Any]:
        """Return all but the images as JSON values."""
        return {"split": self.split, "row": self.row, "label": self.label, "note": self.note}


def sheet_rows(split: SplitReader, audit: StorageAudit, count: int) -> Indices:
    """Return the rows (m,) of up to `count` samples for a contact sheet, by class where there are labels."""
    counts = audit.splits[split.name].class_counts
    labels = split.labels
    if counts is None or labels is None:
        return evenly_spaced(len(split), count)
    by_label = dict(counts if isinstance(counts, dict) else enumerate(counts))
    occurring = [label for label, samples in by_label.items() if samples]
    shown = [occurring[place] for place in evenly_spaced(len(occurring), count).tolist()]
    each = count // max(1, len(shown))
    rows = [np.flatnonzero(labels == label) for label in shown]
    return np.concatenate([part[evenly_spaced(len(part), each)] for part in rows]).astype(np.int64)


def pictures(
    store: TokenStore,
    split: str,
    rows: Indices,
    rebuilt: npt.NDArray[Any],
    originals: Sequence[Inputs | None],
    notes: Sequence[str] = (),
) -> list[Picture]:
    """Return samples as pictures, of images (m, H, W, 3) or video (m, T, H, W, 3), in the order of `rows`."""
    labels = sample_labels(store, store[split], rows)
    notes = notes or [""] * len(rows)
    return [
        Picture(
            split, int(row), label, sample_strip(own), None if image is None else sample_strip(image), note
        )
        for row, label, own, image, note in zip(rows, labels, rebuilt, originals, notes, strict=True)
    ]


def sample_labels(store: TokenStore, split: SplitReader, rows: Indices) -> list[str | None]:
    """Return the name of the class of each row, or its label as a text; None without labels."""
    if LABELS not in split.columns:
        return [None] * len(rows)
    names = store.class_names
    labels = split.read(LABELS, rows).tolist()
    return [
        str(label) if names is None or not 0 <= label < len(names) else printable(names[label])
        for label in labels
    ]


class WorstRebuilt:
    """The samples of the lowest PSNR among all that are compared, with their images."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self._worst: list[tuple[float, Picture]] = []
        self.psnr: dict[str, list[float]] = {}
        """The PSNR in dB of every sample that was compared, by split."""

    def add(self, compared: ComparedImages) -> None:
        """See some samples."""
        self.psnr.setdefault(compared.split, []).extend(compared.psnr.tolist())
        order = np.argsort(compared.psnr, kind="stable")[:WORST]
        notes = [
            f"{compared.psnr[place]:.1f} dB, SSIM {compared.ssim[place]:.3f}" for place in order.tolist()
        ]
        drawn = pictures(
            self._store,
            compared.split,
            compared.indices[order],
            compared.rebuilt[order],
            list(compared.images[order]),
            notes,
        )
        self._worst += zip(compared.psnr[order].tolist(), drawn, strict=True)
        self._worst = sorted(self._worst, key=lambda each: each[0])[:WORST]

    @property
    def pictures(self) -> list[Picture]:
        """The samples, the worst first."""
        return [picture for _, picture in self._worst]


def code_patches(manifest: Manifest, tokenizer: Tokenizer, codes: Sequence[int]) -> list[Images]:
    """Return the patch (h, w, 3) that each code of a single codebook stands for among codes of its own.

    A grid of squares of equal codes is decoded, and the middle of each square is cut out. Raises
    TokenizerError for a grid that is not of places in an image, and for a tokenizer that does not decode.
    """
    grid = manifest.grid
    if len(manifest.codebook_sizes) > 1 or len(grid) != 2 or min(grid) < _BLOCK:
        raise TokenizerError(
            f"patches are drawn of one codebook and grids of at least {_BLOCK} x {_BLOCK} places, not of "
            f"{len(manifest.codebook_sizes)} and {' x '.join(map(str, grid))}"
        )
    down, across = grid[0] // _BLOCK, grid[1] // _BLOCK
    blocks = down * across
    grids = np.zeros((math.ceil(len(codes) / blocks), *grid), np.int64)
    for number, code in enumerate(codes):
        at, place = divmod(number, blocks)
        row, column = (_BLOCK * each for each in divmod(place, across))
        grids[at, row : row + _BLOCK, column : column + _BLOCK] = code
    with torch.inference_mode():
        images = np.concatenate(
            [
                decoded_images(tokenizer, grids[start : start + _GRIDS_AT_ONCE])
                for start in range(0, len(grids), _GRIDS_AT_ONCE)
            ]
        )
    if images.ndim != 4:
        raise TokenizerError("patches are drawn of images, not of video")
    height, width = images.shape[1] // grid[0], images.shape[2] // grid[1]
    patches = []
    for number in range(len(codes)):
        at, place = divmod(number, blocks)
        row, column = (_BLOCK * each + _BLOCK // 4 for each in divmod(place, across))
        half = _BLOCK // 2
        patches.append(
            images[at, row * height : (row + half) * height, column * width : (column + half) * width]
        )
    return patches
