"""The trainer of convolutional tokenizers, symmetric or not.

Reconstruction is trained with a pixel loss alone (no perceptual network, no adversary), so that the tokenizer
owes nothing to other weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.networks.runs import ResumableRun
from tokenstore.networks.states import load_optimizer
from tokenstore.tokenizers.kinds.conv_vq import to_pixels
from tokenstore.tokenizers.kinds.symmetric_vq import SymmetricVQConfig
from tokenstore.tokenizers.train.images import Crops, ImageSet
from tokenstore.tokenizers.train.losses import assignment_entropy, gradient_loss, pixel_loss, rotate
from tokenstore.tokenizers.train.models import VQConfig, VQModel, new_model
from tokenstore.tokenizers.train.moving_codebook import moving_codebook

__all__ = ["WEIGHTS", "StepResult", "Trainer", "TrainingConfig"]

WEIGHTS = "weights.safetensors"
"""The file of averaged weights in a run's folder."""
_START_BATCHES = 24


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training run.

    The same settings, images and threads give the same weights on a CPU. Raises TokenizerError for too few
    steps.
    """

    model: VQConfig = field(default_factory=SymmetricVQConfig)
    steps: int = 11_000
    seed: int = 0
    held_out: float = 0.1
    """The share of the images that is held out, besides splits named val or test."""
    photographs: int = 8
    """The crops of photographs in a batch."""
    photograph_crop: int = 96
    """The side in pixels of those crops."""
    thumbnails: int = 30
    """The crops of thumbnails in a batch."""
    thumbnail_crop: int = 64
    """The side in pixels of those crops."""
    enlarged_share: float = 0.25
    """The share of the thumbnails that are enlarged before they are cropped."""
    learning_rate: float = 2e-3
    warmup_steps: int = 300
    unquantised_steps: int = 400
    """The first steps, which decode the latents themselves."""
    commitment: float = 0.1
    entropy: float = 0.005
    """The weight of the entropy of the mean assignment to codes, which is maximised."""
    assignment_temperature: float = 0.05
    codebook_decay: float = 0.99
    restart_share: float = 0.05
    restart_until: float = 0.9
    """The share of the run after which no code starts again, so that none is new at the end."""
    weight_decay: float = 0.01
    average_decay: float = 0.999
    bfloat16: bool = True
    gradient: float = 0.0
    """The weight of the error of gradients, over three scales."""
    scale_equivariance: float = 0.0
    """The weight of the loss of images of half the size, decoded of embeddings averaged two by two."""

    def __post_init__(self) -> None:
        if not self.unquantised_steps < self.steps:
            raise TokenizerError(
                f"training: expected more steps than the {self.unquantised_steps} without a codebook, "
                f"found {self.steps}"
            )

    def shortened(self, steps: int) -> TrainingConfig:
        """Return the settings for a number of steps, with a shorter beginning if the steps are few."""
        return replace(
            self,
            steps=steps,
            warmup_steps=max(1, min(self.warmup_steps, steps // 8)),
            unquantised_steps=min(self.unquantised_steps, steps // 8),
        )


@dataclass(frozen=True)
class StepResult:
    """The result of one step of training on its batch."""

    step: int
    """The number of steps done."""
    psnr: float
    """The PSNR in dB of the batch's mean squared error."""
    perplexity: float
    """The perplexity of the codes of the batch."""
    learning_rate: float
    """The learning rate of the step."""
    seconds: float
    """The seconds of training so far."""


class Trainer(ResumableRun[list[Tensor], StepResult]):
    """A training run of a tokenizer and its state in a folder."""

    error = TokenizerError
    config: TrainingConfig

    def __init__(
        self, config: TrainingConfig, images: ImageSet, out: Path, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(config, out, {"images": ("the list of images", images.digest)})
        self.device = torch.device(device)
        self._images = images
        self.crops = Crops(
            images,
            image_size=config.model.image_size,
            photographs=config.photographs,
            photograph_crop=config.photograph_crop,
            thumbnails=config.thumbnails,
            thumbnail_crop=config.thumbnail_crop,
            enlarged_share=config.enlarged_share,
            seed=config.seed,
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.model: VQModel = new_model(config.model, config.seed, self.device)
        self.average: VQModel = copy.deepcopy(self.model).requires_grad_(False)
        self.codebook = moving_codebook(self.model, config.codebook_decay, config.restart_share)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.learning_rate, (0.9, 0.98), weight_decay=config.weight_decay
        )

    @property
    @override
    def facts(self) -> Mapping[str, Any]:
        return {"images": self._images.locations, "device": str(self.device)}

    @override
    def batches(self) -> Iterator[list[Tensor]]:
        return self.crops.batches(self.step, self.config.steps)

    @override
    def train_on(self, batch: list[Tensor]) -> Callable[[int, float], StepResult]:
        pixels = [to_pixels(crops.to(self.device)) for crops in batch]
        mean_error, perplexity, rate = self.train_step(pixels)
        psnr = 10 * math.log10(4 / mean_error)
        return lambda step, seconds: StepResult(step, psnr, perplexity, rate, seconds)

    def train_step(self, batch: list[Tensor]) -> tuple[float, float, float]:
        """Do one step on pixels (n, 3, H, W) of several sizes; return error, perplexity and rate."""
        rate = self.set_learning_rate(self.optimizer)
        if self.step == self.config.unquantised_steps:
            self._start_codebook()
        self.optimizer.zero_grad()
        pixels_in_all = sum(pixels.numel() for pixels in batch)
        squared, latents_of, codes_of = 0.0, [], []
        for pixels in batch:
            share = pixels.numel() / pixels_in_all
            loss, error, latents, codes = self._forward(pixels.contiguous(memory_format=torch.channels_last))
            torch.autograd.backward(share * loss)
            squared += share * float(error.detach().square().mean())
            latents_of.append(latents.detach().permute(0, 2, 3, 1).flatten(0, 2))
            codes_of.append(codes.flatten())
        self.refuse_unless_finite("error", squared)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        rows, codes = torch.cat(latents_of), torch.cat(codes_of)
        with torch.no_grad():
            if self.step >= self.config.unquantised_steps:
                restart = self.step < self.config.restart_until * self.config.steps
                self.codebook.update(rows, codes, self.generator, restart=restart)
            self._update_average()
        return squared, _perplexity(codes, self.config.model.codebook_size), rate

    def _forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss, pixel errors, latents and codes."""
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16)
        with autocast:
            latents = self.model.latents(pixels)
        codes = self.model.nearest(latents.detach())
        embeddings, regulariser = latents, latents.new_zeros(())
        if self.step >= self.config.unquantised_steps:
            target = self.model.embed(codes)
            commitment = (latents - target).square().sum(1).mean()
            with autocast:
                entropy = assignment_entropy(latents, self.model.codebook, self.config.assignment_temperature)
            regulariser = self.config.commitment * commitment - self.config.entropy * entropy
            embeddings = rotate(latents, target)
        with autocast:
            error = self.model.pixels(embeddings) - pixels
            loss = pixel_loss(error) + regulariser
            if self.config.scale_equivariance:
                loss = loss + self.config.scale_equivariance * self._smaller_loss(embeddings, pixels)
        if self.config.gradient:
            loss = loss + self.config.gradient * gradient_loss(error)
        return loss, error, latents, codes

    def _smaller_loss(self, embeddings: Tensor, pixels: Tensor) -> Tensor:
        """Return the loss of images of half the size, of averages of two by two embeddings.

        As in Kouzelis et al. 2025, https://arxiv.org/abs/2502.09509: what decodes at two sizes is smooth.
        """
        rows, columns = (side // 2 * 2 for side in embeddings.shape[2:])
        if not rows or not columns:
            return embeddings.new_zeros(())
        patch = pixels.shape[2] // embeddings.shape[2]
        means = F.normalize(F.avg_pool2d(embeddings[:, :, :rows, :columns], 2), dim=1)
        smaller = F.avg_pool2d(pixels[:, :, : rows * patch, : columns * patch], 2)
        return pixel_loss(self.model.pixels(means) - smaller)

    @torch.no_grad()
    def _start_codebook(self) -> None:
        """Choose the first codebook from latents of images that no step uses."""
        rows = []
        for number in range(_START_BATCHES):
            for crops in self.crops.batch(self.config.steps + number):
                latents = self.model.latents(to_pixels(crops.to(self.device)))
                rows.append(latents.permute(0, 2, 3, 1).flatten(0, 2))
        self.codebook.start_from(torch.cat(rows), self.generator)

    def _update_average(self) -> None:
        """Update the moving average of the weights.

        `torch.optim.swa_utils` would average parameters alike, but not the buffer of the codebook, which is
        an average of unit vectors and has to be of unit length again.
        """
        decay = min(self.config.average_decay, (self.step + 1) / (self.step + 10))
        values = self.model.state_dict()
        for name, mean in self.average.state_dict().items():
            mean.lerp_(values[name], 1 - decay)
        self.average.codebook.copy_(self.average.closed(self.average.codebook))

    @override
    def save_weights(self) -> None:
        self.average.save(self.out / WEIGHTS)

    @override
    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "codebook": (self.codebook.sums, self.codebook.counts),
            "generator": self.generator.get_state(),
        }

    @override
    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.codebook.sums.copy_(state["codebook"][0])
        self.codebook.counts.copy_(state["codebook"][1])
        self.generator.set_state(state["generator"])


def _perplexity(codes: Tensor, size: int) -> float:
    share = torch.bincount(codes, minlength=size).double() / len(codes)
    return float(torch.exp(torch.special.entr(share).sum()))
