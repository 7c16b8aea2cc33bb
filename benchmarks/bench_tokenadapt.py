"""A benchmark: whether TokenAdapt gives the tokens of the augmented image, beside codes moved as they are.

    bench_tokenadapt.py ADAPTER IMAGES...

Each transform is drawn alike for the images and for f's map. "exact" decodes the augmented image's own codes.
"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from seitpp_models.adapter.evaluation import evaluate_adapter
from seitpp_models.adapter.run import held_out_pictures
from tokenstore.augment import load_adapter
from tokenstore.format import TokenizerIdentity
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource
from tokenstore.sources.images import ImageOptions
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.train.images import ImageRef


@click.command()
@click.argument("adapter")
@click.argument("images", nargs=-1, required=True)
@click.option("--tokenizer", default="default", show_default=True)
@click.option("--split", help="Only images of this split.")
@click.option("--names", type=click.File(), help="Only images whose file names are listed here, a line each.")
@click.option("--count", default=128, show_default=True, help="Images of each source.")
@click.option("--seed", default=0, show_default=True)
def main(
    adapter: str,
    images: tuple[str, ...],
    tokenizer: str,
    split: str | None,
    names: click.utils.LazyFile | None,
    count: int,
    seed: int,
) -> None:
    """Measure ADAPTER, a file or "default", on each of the sources IMAGES, which it was not trained on."""
    loaded = load_tokenizer(tokenizer)
    token_adapt = load_adapter(adapter, tokenizer=TokenizerIdentity(loaded.name, loaded.fingerprint))
    listed = None if names is None else {line.strip() for line in names if line.strip()}
    table = Table()
    for column in ("images", "transform", "codes, %", "naive", "PSNR, dB", "naive", "gain", "exact"):
        table.add_column(column, justify="left" if column in ("images", "transform") else "right")
    for place in images:
        source = open_source(place)
        if not isinstance(source, ImageSource):
            raise click.UsageError(f"{place}: expected images, found ready codes")
        refs = [
            ImageRef(part, index)
            for name, part in source.splits.items()
            if split in (None, name)
            for index, file in enumerate(part.names(0, len(part)).to_pylist())
            if listed is None or Path(file).name in listed
        ]
        pictures = held_out_pictures(refs, ImageOptions(loaded.image_size), count, seed)
        for name, quality in evaluate_adapter(token_adapt, loaded, pictures, seed).items():
            table.add_row(
                f"{Path(place).name}, {len(pictures)}",
                name,
                f"{100 * quality.share:.1f}",
                f"{100 * quality.naive_share:.1f}",
                f"{quality.psnr:.2f}",
                f"{quality.naive_psnr:.2f}",
                f"{quality.psnr - quality.naive_psnr:+.2f}",
                f"{quality.exact_psnr:.2f}",
            )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
