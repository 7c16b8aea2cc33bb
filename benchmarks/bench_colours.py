"""A benchmark: how much colour augmentation changes a store's vectors, counted in codes.

    python benchmarks/bench_colours.py STORE... [--samples 100]

The vectors of some samples go through Emb-Noise of several strengths, and through ColorAdapt. The table
gives the share of positions whose most similar vector of the codebook, by cosine, is another one after that,
and the cosine between the vectors of before and after. `published` is a strength of 1.0, `codebook` the
standard deviation of the codebook's numbers, which recipes take.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import tokenstore
from tokenstore.augment import ColorAdapt, EmbNoise, noise_strength
from tokenstore.networks.threads import torch_threads
from tokenstore.tokenizers.similarities import most_similar


def augmentations(codebook: Tensor) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name of each augmentation and the module, which changes every sample."""
    own = noise_strength(codebook)
    yield "Emb-Noise, published: 1.0", EmbNoise(1.0, share=1)
    for part in (1, 0.5, 0.25):
        yield f"Emb-Noise, {part} x codebook: {part * own:.3g}", EmbNoise(part * own, share=1)
    yield "ColorAdapt", ColorAdapt(share=1)


def rows_of(embeddings: Tensor) -> Tensor:
    """Return unit vectors (N, D) of embeddings (B, D, H, W)."""
    return F.normalize(embeddings.permute(0, 2, 3, 1).flatten(0, 2), dim=1)


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--samples", default=100, show_default=True)
@torch.no_grad()
@torch_threads(1)
def main(stores: tuple[Path, ...], samples: int) -> None:
    """Augment some samples of each of the STORES and print a table."""
    table = Table("store", "augmentation", "codes changed", "cosine", box=MARKDOWN)
    for place in stores:
        store = tokenstore.open(place)
        codes = torch.from_numpy(store[store.splits[0]][:samples].astype("int64"))
        codebook = torch.from_numpy(store.codebook).float()
        embeddings = F.embedding(codes, codebook).permute(0, 3, 1, 2).contiguous()
        before, entries = rows_of(embeddings), F.normalize(codebook, dim=1)
        nearest = most_similar(before, entries)
        for name, module in augmentations(codebook):
            after = rows_of(module(embeddings, generator=torch.Generator().manual_seed(0)))
            changed = (most_similar(after, entries) != nearest).float().mean()
            cosine = (before * after).sum(1).mean()
            table.add_row(place.stem, name, f"{float(changed):.1%}", f"{float(cosine):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
