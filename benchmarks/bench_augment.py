"""A benchmark: how fast is a recipe of augmentation, beside the published order of operations.

    bench_augment.py [--batch-size 256] [--device cpu]

Codes (B, 32, 32) of 391, vectors of 32 channels, TokenAdapt of the published sizes with random weights. The
plain way makes one-hot maps (B, 391, 32, 32), crops and resizes them one sample at a time and multiplies them
by the codebook; of the other half, f's maps are flipped, turned, moved, sheared and cropped one sample and
one step at a time; attention is written out. A recipe's networks are in bfloat16 where the device multiplies
it natively: both ways are measured in both. Each runs in a process of its own, for its peak memory.
"""

from __future__ import annotations

import json
import math
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from tokenstore.augment import AdapterConfig, TokenAdapt, recipes
from tokenstore.augment.devices import products
from tokenstore.augment.geometry import affine_maps
from tokenstore.networks import transformer
from tokenstore.networks.precision import has_bfloat16

CODES, CHANNELS, GRID, SIZE = 391, 32, 32, 28
KINDS = ("plain", "plain, bfloat16", "recipe", "recipe, float32", "recipe, without TokenAdapt")


def plain_attention(self: transformer.Attention, x: Tensor) -> Tensor:
    """Compute the softmax of all similarities at once, as the definition has it."""
    batch, places, _ = x.shape
    queries, keys, values = self.to_qkv(x).view(batch, places, 3, self.heads, 64).permute(2, 0, 3, 1, 4)
    weights = (queries @ keys.mT / math.sqrt(64)).softmax(-1)
    mixed: Tensor = self.to_out((weights @ values).transpose(1, 2).flatten(2))
    return mixed


def plain_crop(sample: Tensor, size: int, scale: tuple[float, float]) -> Tensor:
    """Take Inception's random crop of one sample (C, H, W) and resize it by torch's bicubic interpolation."""
    rows, columns = sample.shape[1:]
    for _ in range(10):
        area = rows * columns * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= columns and 0 < height <= rows:
            top, left = random.randint(0, rows - height), random.randint(0, columns - width)
            box = sample[None, :, top : top + height, left : left + width]
            return F.interpolate(box, (size, size), mode="bicubic", align_corners=False)[0]
    return F.interpolate(sample[None], (size, size), mode="bicubic", align_corners=False)[0]


def plain_geometry(sample: Tensor, size: int) -> Tensor:
    """Apply TokenAdapt's A to one map (C, H, W), step by step."""
    if random.random() < 0.5:
        sample = sample.flip(2)
    if random.random() < 0.5:
        for number, most in enumerate((math.radians(30), 0.2, 0.2, math.tan(math.radians(15)), 0.26)):
            if random.random() < 0.5:
                parts = [torch.zeros(1, device=sample.device) for _ in range(5)]
                parts[number] += random.uniform(-most, most)
                maps = affine_maps(*parts, (sample.shape[1], sample.shape[2]))
                places = F.affine_grid(maps, [1, *sample.shape], align_corners=False)
                sample = F.grid_sample(sample[None], places, align_corners=False)[0]
    return plain_crop(sample, size, (0.2, 1.0))


def plain_colour(vectors: Tensor) -> Tensor:
    """Apply ColorAdapt, Emb-Noise or nothing to the batch, each sample by itself."""
    choice = random.randrange(3)
    changed = random.sample(range(len(vectors)), len(vectors) // 2)
    result = list(vectors)
    for number in changed:
        sample, partner = vectors[number], vectors[len(vectors) - 1 - number]
        if choice == 0:
            mean, deviation = sample.mean((1, 2), keepdim=True), sample.std((1, 2), keepdim=True)
            result[number] = (sample - mean) / deviation * partner.std((1, 2), keepdim=True) + partner.mean(
                (1, 2), keepdim=True
            )
        elif choice == 1:
            result[number] = sample + torch.randn_like(sample) + torch.randn_like(sample[:, :1, :1])
    return torch.stack(result)


@torch.no_grad()
def plain_recipe(codes: Tensor, codebook: Tensor, adapter: TokenAdapt) -> Tensor:
    """Augment codes (B, H, W) by the published order of operations; return vectors (B, C, H, W)."""
    one_hot = F.one_hot(codes, CODES).permute(0, 3, 1, 2).float()
    half = len(codes) - len(codes) // 2
    cropped = torch.stack([plain_crop(sample, SIZE, (0.2, 1.0)) for sample in one_hot[:half]])
    first = plain_colour(torch.einsum("bkhw,kc->bchw", cropped, codebook))
    rows = F.normalize(first.movedim(1, -1).reshape(-1, CHANNELS), dim=1)
    nearest = (rows @ F.normalize(codebook, dim=1).T).argmax(1).view(half, SIZE, SIZE)
    vectors = plain_colour(torch.einsum("bkhw,kc->bchw", one_hot[half:], codebook))
    adapted = adapter.to_map(vectors)
    augmented = torch.stack([plain_geometry(sample, 2 * SIZE) for sample in adapted])
    return torch.cat((nearest, adapter.to_logits(augmented).argmax(1)))


def timed(step: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the median seconds of a step, after one step to warm up."""
    step()
    durations: list[float] = []
    while sum(durations) < seconds or len(durations) < 3:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(time.perf_counter() - start)
    return sorted(durations)[len(durations) // 2]


def peak_mb(device: torch.device) -> float:
    """Return the most memory that this process has used on the device, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measured(kind: str, batch_size: int, device: torch.device, seconds: float) -> dict[str, float]:
    """Return samples a second, and the memory in MB on top of that before the first step."""
    torch.manual_seed(0)
    random.seed(0)
    codebook = torch.randn(CODES, CHANNELS)
    adapter = TokenAdapt(AdapterConfig())
    codes = torch.randint(0, CODES, (batch_size, GRID, GRID), device=device)
    if kind.startswith("plain"):
        transformer.Attention.forward = plain_attention  # type: ignore[method-assign]
        codebook, adapter = codebook.to(device), adapter.to(device)

        def step() -> object:
            with products(device, "bf16" if "bfloat16" in kind else "fp32"):
                return plain_recipe(codes, codebook, adapter)
    else:
        adapter.precision = "fp32" if "float32" in kind else "auto"
        recipe = recipes.mtm_pretrain(codebook, None if "without" in kind else adapter).to(device)
        generator = torch.Generator(device).manual_seed(0)

        def step() -> object:
            return recipe(codes, generator=generator)

    before = peak_mb(device)
    durations = timed(step, device, seconds)
    return {"samples/s": batch_size / durations, "MB": peak_mb(device) - before}


@click.command()
@click.option("--batch-size", default=256, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="A measurement, at least.")
@click.option("--only", hidden=True)
def main(batch_size: int, device: str, seconds: float, only: str | None) -> None:
    """Measure the recipe of masked token modelling and print a table."""
    if only is not None:
        print(json.dumps(measured(only, batch_size, torch.device(device), seconds)))
        return
    table = Table(title=f"mtm_pretrain, batches of {batch_size}, {device}, {torch.get_num_threads()} threads")
    for column in ("way", "samples/s", "x", "MB above the start"):
        table.add_column(column, justify="left" if column == "way" else "right")
    first = None
    native = has_bfloat16(torch.device(device))
    for kind in KINDS:
        if "bfloat16" in kind and not native:
            continue  # emulated, it would be slower than float32
        command = [sys.executable, __file__, "--batch-size", str(batch_size), "--device", device]
        command += ["--seconds", str(seconds), "--only", kind]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        first = first or result["samples/s"]
        rate = result["samples/s"]
        table.add_row(kind, f"{rate:,.1f}", f"{rate / first:.2f}", f"{result['MB']:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
