"""Trains and evaluates the default tokenizer.

    python -m tokenstore.tokenizers.training IMAGES... --out DIR

IMAGES are folders, walked for images; half of them, by a hash of their file names, are held out.

Reconstruction is trained with pixel losses alone (no perceptual network, no adversary), so that the
tokenizer owes nothing to other weights. The codebook follows the encoder's vectors by moving averages
(van den Oord et al. 2017, https://arxiv.org/abs/1711.00937, appendix A.1).
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from tokenstore.tokenizers import DEFAULT_WEIGHTS
from tokenstore.tokenizers.conv_vq import ConvVQ, ConvVQConfig, ConvVQTokenizer, save_weights, to_pixels
from tokenstore.tokenizers.quality import evaluate

IMAGE_SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp"}
SMALL_SIDE = 128
"""Images with a shorter side than this are thumbnails, and are enlarged before they are cropped."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a tokenizer is trained, until minutes or steps run out, whichever is first.

    Only a run that ends by steps can be repeated exactly: the learning rate follows what ends it.
    """

    model: ConvVQConfig = field(default_factory=ConvVQConfig)
    minutes: float = 45.0
    steps: int = 1_000_000
    seed: int = 0
    batch: int = 32
    crop: int = 80
    small_share: float = 0.3
    learning_rate: float = 2e-3
    warmup_steps: int = 300
    unquantised_steps: int = 400
    l1_weight: float = 0.1
    commitment: float = 0.1
    codebook_decay: float = 0.99
    restart_share: float = 0.05
    """A code used less than this share of the mean use starts again from a vector of the batch."""
    weight_decay: float = 0.01
    average_decay: float = 0.998
    bfloat16: bool = True
    checkpoint_seconds: float = 120.0


# ---- images


def is_held_out(path: Path, share: float = 0.5) -> bool:
    """Whether the file is kept out of training; decided by its name alone."""
    digest = hashlib.sha256(path.name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def find_images(folders: tuple[Path, ...]) -> list[Path]:
    """All image files below the folders, in a fixed order."""
    found = (path for folder in folders for path in folder.rglob("*"))
    return sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)


def read_image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """An image as a tensor (3, H, W) uint8."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def squash(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC)


def shorter_side(image: Image.Image, size: int) -> Image.Image:
    scale = size / min(image.size)
    sides = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
    return image.resize(sides, Image.Resampling.BICUBIC)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    image = shorter_side(image, size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


class Crops:
    """Endless batches of random crops, (B, 3, crop, crop) uint8, from images held in memory."""

    def __init__(self, paths: list[Path], config: TrainingConfig) -> None:
        self.config = config
        self.photos: list[Tensor] = []  # each photograph at several scales
        self.photograph_count = 0
        self.small: list[Tensor] = []
        size = config.model.image_size
        for path in paths:
            image = read_image(path)
            if min(image.size) < SMALL_SIDE:
                self.small.append(to_tensor(image))
                continue
            scaled = (squash(image, size), shorter_side(image, size), shorter_side(image, size * 5 // 4))
            self.photos.extend(to_tensor(version) for version in scaled)
            self.photograph_count += 1
        if not self.photos and not self.small:
            raise click.ClickException("expected images to train on, found none that is not held out")

    def batch(self, rng: np.random.Generator) -> Tensor:
        share = self.config.small_share if self.photos else 1.0
        small = rng.binomial(self.config.batch, share) if self.small else 0
        photos = [self.photos[rng.integers(len(self.photos))] for _ in range(self.config.batch - small)]
        enlarged = [self._enlarge(self.small[rng.integers(len(self.small))], rng) for _ in range(small)]
        return torch.stack([self._crop(image, rng) for image in photos + enlarged])

    def _enlarge(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        least = max(1.0, self.config.crop / min(image.shape[1:]))
        scale = rng.uniform(least, max(2.0, least))
        sides = [max(self.config.crop, round(side * scale)) for side in image.shape[1:]]
        enlarged = F.interpolate(image[None].float(), sides, mode="bicubic", align_corners=False)
        return enlarged[0].round().clamp(0, 255).to(torch.uint8)

    def _crop(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        crop = self.config.crop
        top, left = (rng.integers(side - crop + 1) for side in image.shape[1:])
        image = image[:, top : top + crop, left : left + crop]
        if rng.random() < 0.5:
            image = image.flip(2)
        return image


# ---- the codebook


class MovingCodebook:
    """Moving averages of the latents assigned to each code, from which the codebook is renewed in place."""

    def __init__(self, model: ConvVQ, config: TrainingConfig) -> None:
        self.model, self.config = model, config
        self.sums = model.codebook.clone()
        self.counts = torch.ones(len(self.sums))

    def start_from(self, rows: Tensor, generator: torch.Generator) -> None:
        """Choose first entries as k-means++ does, by squared distance, then run a few k-means rounds."""
        chosen = [rows[torch.randint(len(rows), (1,), generator=generator)]]
        distance = 1 - (rows @ chosen[0].T)[:, 0]
        for _ in range(len(self.sums) - 1):
            pick = torch.multinomial(distance.clamp_min(1e-9), 1, generator=generator)
            chosen.append(rows[pick])
            distance = torch.minimum(distance, 1 - (rows @ rows[pick].T)[:, 0])
        codebook = torch.cat(chosen)
        for _ in range(5):
            codes = (rows @ codebook.T).argmax(1)
            sums = torch.zeros_like(codebook).index_add_(0, codes, rows)
            codebook = torch.where(sums.any(1, keepdim=True), F.normalize(sums, dim=1), codebook)
        self.model.codebook.copy_(codebook)
        self.sums.copy_(codebook)
        self.counts.fill_(1.0)

    def update(self, rows: Tensor, codes: Tensor, generator: torch.Generator, restart: bool) -> None:
        """Move towards rows (N, D) with their codes (N,)."""
        size, decay = len(self.sums), self.config.codebook_decay
        per_code = size / len(rows)  # so that counts are about 1 whatever the batch
        self.counts.lerp_(torch.bincount(codes, minlength=size).float() * per_code, 1 - decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, codes, rows) * per_code, 1 - decay)
        if restart:
            dead = (self.counts < self.config.restart_share).nonzero()[:, 0]
            fresh = rows[torch.randint(len(rows), (len(dead),), generator=generator)]
            self.sums[dead], self.counts[dead] = fresh, 1.0
        self.model.codebook.copy_(F.normalize(self.sums, dim=1))


# ---- training


def rotate(latents: Tensor, embeddings: Tensor) -> Tensor:
    """The embeddings, with gradients carried to the latents by the rotation between the two.

    Unit vectors (B, D, h, w); Fifty et al. 2024, https://arxiv.org/abs/2410.06424, equation 4.
    """
    start, end = latents.detach(), embeddings.detach()
    middle = F.normalize(start + end, dim=1)
    along_middle = (middle * latents).sum(1, keepdim=True)
    along_start = (start * latents).sum(1, keepdim=True)
    return latents - 2 * along_middle * middle + 2 * along_start * end


class Trainer:
    """A training run and its state; `run` goes on from a checkpoint in the folder where there is one."""

    def __init__(self, config: TrainingConfig, crops: Crops, out: Path) -> None:
        self.config, self.crops, self.out = config, crops, out
        self.generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # layers draw their initial weights from the global generator
            model = ConvVQ(config.model)
        self.model: ConvVQ = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.codebook = MovingCodebook(self.model, config)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.learning_rate, (0.9, 0.98), weight_decay=config.weight_decay
        )
        self.step, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        """How far the run is, 0 to 1."""
        return min(1.0, max(self.step / self.config.steps, self.seconds / 60 / self.config.minutes))

    def run(self) -> Iterator[float]:
        """Train to the end, yielding the pixel loss of each step; writes weights.safetensors and state.pt."""
        if self.state_path.exists():
            self.restore()
        saved = self.seconds
        while self.progress < 1:
            start = time.monotonic()
            loss = self.train_step()
            self.step += 1
            self.seconds += time.monotonic() - start
            if self.seconds - saved > self.config.checkpoint_seconds:
                self.save()
                saved = self.seconds
            yield loss
        self.save()

    def train_step(self) -> float:
        config = self.config
        rate = config.learning_rate * min(1.0, (self.step + 1) / config.warmup_steps)
        rate *= 0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * self.progress))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # subtle: drawn from (seed, step), so a resumed run sees the batches it would have seen
        pixels = to_pixels(self.crops.batch(np.random.default_rng((config.seed, self.step))))
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if self.step == config.unquantised_steps:
            self.start_codebook()
        quantised = self.step >= config.unquantised_steps
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            latents = self.model.latents(pixels)
        commitment = latents.new_zeros(())
        embeddings = latents
        if quantised:
            codes = self.model.nearest(latents.detach())
            target = self.model.embed(codes)
            commitment = (latents - target).square().sum(1).mean()
            embeddings = rotate(latents, target)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            error = self.model.pixels(embeddings) - pixels
        loss = error.square().mean() + config.l1_weight * error.abs().mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss + config.commitment * commitment)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            if quantised:
                rows = latents.detach().permute(0, 2, 3, 1).flatten(0, 2)
                self.codebook.update(rows, codes.flatten(), self.generator, restart=self.progress < 0.9)
            self.update_average()
        return float(error.detach().square().mean())

    @torch.no_grad()
    def start_codebook(self) -> None:
        rows = []
        for index in range(24):
            rng = np.random.default_rng((self.config.seed, self.step, index))
            latents = self.model.latents(to_pixels(self.crops.batch(rng)))
            rows.append(latents.permute(0, 2, 3, 1).flatten(0, 2))
        self.codebook.start_from(torch.cat(rows), self.generator)

    def update_average(self) -> None:
        keep = min(self.config.average_decay, (self.step + 1) / (self.step + 10))
        values = self.model.state_dict()
        for name, mean in self.average.state_dict().items():
            mean.lerp_(values[name], 1 - keep)
        self.average.codebook.copy_(F.normalize(self.average.codebook, dim=1))

    @property
    def state_path(self) -> Path:
        return self.out / "state.pt"

    def save(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        save_weights(self.average, self.out / "weights.safetensors")
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "codebook": (self.codebook.sums, self.codebook.counts),
            "generator": self.generator.get_state(),
            "progress": (self.step, self.seconds),
        }
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state_path)

    def restore(self) -> None:
        state = torch.load(self.state_path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for mean, value in zip((self.codebook.sums, self.codebook.counts), state["codebook"], strict=True):
            mean.copy_(value)
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["progress"]


# ---- evaluation


def report_quality(tokenizer: ConvVQTokenizer, paths: list[Path]) -> None:
    """Print the quality on photographs, held out and trained on, in two views of the tokenizer's size."""
    photos = [path for path in paths if min(read_image(path).size) >= SMALL_SIDE]
    size = tokenizer.image_size
    for part, wanted in (("held-out", True), ("training", False)):
        chosen = [path for path in photos if is_held_out(path) is wanted]
        if not chosen:
            click.echo(f"{part}: no photographs of at least {SMALL_SIDE} pixels a side")
            continue
        for view, fit in (("squashed", squash), ("centre-cropped", center_crop)):
            quality = evaluate(tokenizer, (to_tensor(fit(read_image(path), size)) for path in chosen))
            click.echo(f"{part}, {view} to {size}x{size}: {quality}")


# ---- the command


def train(config: TrainingConfig, paths: list[Path], out: Path) -> None:
    """Train on the images that are not held out, telling how it goes."""
    crops = Crops([path for path in paths if not is_held_out(path)], config)
    click.echo(f"training on {crops.photograph_count} photographs and {len(crops.small)} thumbnails")
    trainer = Trainer(config, crops, out)
    console = Console()
    mean, told = 0.0, time.monotonic()
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=1.0)
        for loss in trainer.run():
            mean = loss if not mean else 0.98 * mean + 0.02 * loss
            text = f"step {trainer.step}: PSNR of mean error {10 * math.log10(4 / mean):.2f} dB"
            bar.update(task, completed=trainer.progress, description=text)
            if not console.is_terminal and time.monotonic() - told > 60:
                told = time.monotonic()
                click.echo(f"{text}, {trainer.progress:.1%} done after {trainer.seconds / 60:.1f} minutes")
    click.echo(f"{trainer.step} steps in {trainer.seconds / 60:.1f} minutes: {out / 'weights.safetensors'}")


FOLDER = click.Path(file_okay=False, path_type=Path)
WEIGHTS_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("images", nargs=-1, required=True, type=FOLDER)
@click.option("--out", type=FOLDER, help="Folder for the weights and the state of the run.")
@click.option("--minutes", default=TrainingConfig.minutes, show_default=True, help="Stop after this long.")
@click.option("--steps", default=TrainingConfig.steps, show_default=True, help="Stop after this many steps.")
@click.option("--seed", default=TrainingConfig.seed, show_default=True, help="Decides everything random.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True, help="Threads of torch.")
@click.option("--bfloat16/--float32", default=TrainingConfig.bfloat16, help="Arithmetic of training.")
@click.option("--evaluate", "evaluated", is_flag=True, help="Don't train; print the quality of weights.")
@click.option("--weights", type=WEIGHTS_FILE, default=DEFAULT_WEIGHTS, help="What to evaluate.")
def main(
    images: tuple[Path, ...],
    out: Path | None,
    minutes: float,
    steps: int,
    seed: int,
    threads: int,
    bfloat16: bool,
    evaluated: bool,
    weights: Path,
) -> None:
    """Train the default tokenizer on the images below IMAGES, or evaluate it.

    Half of the images, chosen by a hash of their file names, are held out of training. A run whose OUT
    holds an unfinished one goes on with it.
    """
    torch.set_num_threads(threads)
    paths = find_images(images)
    if evaluated:
        report_quality(ConvVQTokenizer.load(weights), paths)
    elif out is None:
        raise click.UsageError("training needs --out DIR")
    else:
        train(TrainingConfig(minutes=minutes, steps=steps, seed=seed, bfloat16=bfloat16), paths, out)


if __name__ == "__main__":
    main()
