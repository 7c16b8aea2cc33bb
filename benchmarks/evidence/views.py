"""The views of TokenAdapt that are drawn once and stored: cells that make them, and loaders that give them.

TokenAdapt takes several times as long as a step of a small network. Its views of each sample are drawn some
times beforehand, each with a geometry of its own, and a training draws among them: half of each batch are
stored views, as half of each batch is what TokenAdapt augments. Synonyms, colours and mixing come after the
views instead of before and within them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import tokenstore
from evidence.cells import Cell, EvidenceError, Workplace
from evidence.stores import store_place
from seitpp_models.networks.token_form import form_of
from tokenstore.augment import TokenVectors, load_adapter
from tokenstore.augment.token_adapt import TokenAdapt, adapter_geometry
from tokenstore.files import whole_file
from tokenstore.loading import TokenLoader
from tokenstore.networks.threads import torch_threads
from tokenstore.randomness import derived_seed

__all__ = ["FirstHalf", "ViewLoader", "drawn_views", "make_views", "stored_views"]

_BATCH = 50
"""The samples that are drawn at once, which does not decide what is drawn for others."""
_MOST_CODES = 2**16
"""The most codes of a codebook: views are stored as uint16."""
_SCALE = (0.08, 1.0)
"""The bounds of a crop's share of the area, as in supervised training."""


def make_views(cell: Cell, work: Workplace) -> dict[str, Any]:
    """Draw the views of a cell's store, a file for each time; times that are done are not drawn again.

    Raises EvidenceError for tokens that are no grids of one codebook of up to 65,536 codes.
    """
    out, count = work.place(cell), cell.decisions["count"]
    out.mkdir(parents=True, exist_ok=True)
    with torch_threads(work.threads):
        for time in range(count):
            if not _file(out, time).exists():
                with whole_file(_file(out, time)) as file:
                    np.save(file, drawn_views(cell, work, time))
    samples = len(stored_views(cell, work)[0])
    size = sum(_file(out, time).stat().st_size for time in range(count))
    return {"figures": {}, "samples": samples, "views": count, "views_bytes": size}


def drawn_views(cell: Cell, work: Workplace, time: int, most: int | None = None) -> npt.NDArray[np.uint16]:
    """Return a view (N, H, W) of each training sample of a cell's store, or of the first `most`.

    Which one it is, is a function of `time`. Raises EvidenceError as `make_views` does.
    """
    store = tokenstore.open(store_place(cell, work))
    vectors, adapter = _vectors_and_adapter(store, work.filled(cell))
    split = store["train"]
    count = len(split) if most is None else min(most, len(split))
    parts = []
    for start in range(0, count, _BATCH):
        rows = np.arange(start, min(start + _BATCH, count))
        codes = torch.from_numpy(np.array(split.read("tokens", rows))).long()
        generator = torch.Generator().manual_seed(derived_seed(time, start))
        parts.append(adapter(vectors(codes), generator=generator).numpy().astype(np.uint16))
    return np.concatenate(parts)


def _vectors_and_adapter(
    store: tokenstore.TokenStore, decisions: dict[str, Any]
) -> tuple[TokenVectors, TokenAdapt]:
    """Return the vectors of a store's codes, and the adapter that moves them on the whole grid."""
    form = form_of(store)
    if len(form.codebook_sizes) != 1 or form.is_list or form.numbers is not None:
        raise EvidenceError(f"{form.where}: expected grids of one codebook to store views of, found others")
    if form.codebook_sizes[0] > _MOST_CODES:
        raise EvidenceError(
            f"{form.where}: expected up to {_MOST_CODES:,} codes to store views of, found "
            f"{form.codebook_sizes[0]:,}"
        )
    adapter = load_adapter(decisions["adapter"], tokenizer=store.manifest.tokenizer)
    adapter.augmentation = adapter_geometry(form.grid, _SCALE, flip_p=0.5 if decisions["flip"] else 0.0)
    return form.vectors("sum"), adapter


def _file(folder: Path, time: int) -> Path:
    return folder / f"views-{time:02d}.npy"


def stored_views(cell: Cell, work: Workplace) -> list[npt.NDArray[np.uint16]]:
    """Return the views of a cell, (N, H, W) for each time, which stay in their files."""
    count = cell.decisions["count"]
    return [np.load(_file(work.place(cell), time), mmap_mode="r") for time in range(count)]


class ViewLoader:
    """The batches of a TokenLoader, whose second half of tokens are stored views of the same samples.

    Which of its views a sample gets is a function of seed, epoch and the batch's first row number.
    """

    def __init__(self, tokens: TokenLoader, views: Sequence[npt.NDArray[np.uint16]]) -> None:
        self.tokens, self.views = tokens, views

    def __iter__(self) -> Iterator[Any]:
        for batch in self.tokens:
            codes, *others = batch if isinstance(batch, tuple | list) else (batch,)
            rows = np.asarray(self.tokens.last_rows)
            seed = derived_seed(self.tokens.seed, self.tokens.epoch, int(rows[0]))
            codes = self._half_seen(codes, rows, np.random.default_rng(seed))
            yield (codes, *others) if others else codes

    def _half_seen(self, codes: Tensor, rows: npt.NDArray[Any], rng: np.random.Generator) -> Tensor:
        codes = codes.clone()
        first = _first_half(len(codes))
        times = rng.integers(len(self.views), size=len(codes) - first)
        for place, (row, time) in enumerate(zip(rows[first:], times, strict=True), first):
            codes[place] = torch.from_numpy(self.views[time][row].astype(np.int64)).to(codes)
        return codes

    def __len__(self) -> int:
        return len(self.tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokens, name)  # epoch, last_rows, set_epoch, state_dict, load_state_dict


class FirstHalf(nn.Module):
    """A crop of the first half of a batch alone; the stored views of the second half are crops already."""

    def __init__(self, crop: nn.Module) -> None:
        super().__init__()
        self.crop = crop

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return embeddings (B, C, H, W) whose first half is cropped."""
        first = _first_half(len(embeddings))
        cropped: Tensor = self.crop(embeddings[:first], generator=generator)
        return torch.cat((cropped, embeddings[first:]))


def _first_half(count: int) -> int:
    return count - count // 2
