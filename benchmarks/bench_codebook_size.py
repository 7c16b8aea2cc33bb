"""A benchmark: what a larger codebook of the default tokenizer gains, and what it costs.

    python benchmarks/bench_codebook_size.py IMAGES... [--sizes 512,1024,2048,4096] [--steps 400]
    python benchmarks/bench_codebook_size.py IMAGES... --weights A.safetensors --weights B.safetensors

Trains a tokenizer of the default kind from scratch for each size. Size and number of steps apart, the
configuration is the default one, warm-up and the steps before quantisation shortened for a short run; every
size sees the same batches. Then each is measured on images that training left out: photographs squashed to
256x256, thumbnails to 64x64, bits as bench_tokenizers.py counts them. Runs of a few minutes rank sizes, but
don't say what long ones reach; --weights measures finished weights in the same columns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import torch
from bench_tokenizers import (
    PHOTOGRAPH,
    THUMBNAIL,
    image_source,
    measure,
    quality_cells,
    quality_table,
    read_images,
)
from rich.console import Console

from tokenstore.machine import available_cores
from tokenstore.tokenizers.kinds.conv_vq import ConvVQConfig, ConvVQTokenizer, save_weights
from tokenstore.tokenizers.train.images import ImageSet, list_images
from tokenstore.tokenizers.train.trainer import WEIGHTS, Trainer, TrainingConfig

TOLD_STEPS = 50


class Sizes(click.ParamType):
    """The parameter type of codebook sizes, separated by commas."""

    name = "sizes"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Parse sizes such as "512,1024". Raises click.BadParameter for anything else."""
        try:
            return tuple(int(size) for size in value.split(","))
        except ValueError:
            self.fail(f"expected numbers as 512,1024, found {value!r}", param, ctx)


def short_config(size: int, steps: int, held_out: float, seed: int) -> TrainingConfig:
    """Return the default configuration with a codebook size, shortened to so many steps."""
    model = replace(ConvVQConfig(), codebook_size=size, name=f"conv-vq-{size}")
    return TrainingConfig(model=model, held_out=held_out, seed=seed).shortened(steps)


def trained(config: TrainingConfig, images: ImageSet, console: Console) -> tuple[ConvVQTokenizer, float]:
    """Train a tokenizer; return it with its averaged weights, and the seconds that training took."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, images, Path(folder))
        for result in trainer.run():
            if result.step % TOLD_STEPS == 0:
                console.print(
                    f"K = {config.model.codebook_size:,}, step {result.step:,} of {config.steps:,}: "
                    f"PSNR {result.psnr:.2f} dB, perplexity {result.perplexity:,.0f}, {result.seconds:.0f} s"
                )
        weights = trainer.out / WEIGHTS
        save_weights(trainer.average, weights)
        return ConvVQTokenizer.load(weights), trainer.seconds


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--sizes", type=Sizes(), default="512,1024,2048,4096", show_default=True)
@click.option("--steps", default=400, show_default=True, help="Steps of training for each size.")
@click.option("--weights", type=click.Path(exists=True, path_type=Path), multiple=True, help="Measure these.")
@click.option("--held-out", default=0.5, show_default=True, help="Share of the images kept out of training.")
@click.option("--evaluate-images", default=250, show_default=True, help="Most held-out images of a kind.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=available_cores(), show_default="one a core", help="Of torch.")
def main(
    images: tuple[str, ...],
    sizes: tuple[int, ...],
    steps: int,
    weights: tuple[Path, ...],
    held_out: float,
    evaluate_images: int,
    seed: int,
    threads: int,
) -> None:
    """Compare codebook sizes on IMAGES, sources as `tokenstore train-tokenizer` reads them."""
    torch.set_num_threads(threads)
    console = Console(width=150)
    listed = list_images([image_source(place) for place in images], held_out)
    sets = {
        f"{kind} at {side}x{side}": read_images(refs, side, evaluate_images)
        for kind, refs, side in (
            ("held-out photographs", listed.held_out_photographs, PHOTOGRAPH),
            ("held-out thumbnails", listed.held_out_thumbnails, THUMBNAIL),
        )
        if refs
    }

    def finished() -> Iterator[tuple[str, ConvVQTokenizer, str]]:
        for path in weights:
            yield path.name, ConvVQTokenizer.load(path), ""
        for size in () if weights else sizes:
            tokenizer, seconds = trained(short_config(size, steps, held_out, seed), listed, console)
            yield f"{steps:,} steps", tokenizer, f"{seconds:,.0f}"

    tables = {title: quality_table(title, "weights", "K", last=["trained, s"]) for title in sets}
    for name, tokenizer, seconds in finished():
        size = f"{tokenizer.codebook_sizes[0]:,}"
        for title, views in sets.items():
            cells = quality_cells(tokenizer, *measure(tokenizer, views))
            tables[title].add_row(name, size, *cells, seconds)
    for table in tables.values():
        console.print(table)


if __name__ == "__main__":
    main()
