"""The pixel baseline: the same network on images, with augmentation as is usual for images.

Images are those of a store's splits, so that tokens and pixels are of the same samples in the same order;
`pixel_images` reduces them and counts bytes. The network is `seitpp_models.TokenViT` with three channels and
patches as large as a patch of tokens is on the image, so that it has as many patches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

import tokenstore
from evidence.cells import Cell, EvidenceError, Workplace
from evidence.pixel_images import Form, PixelImages, read_images
from evidence.stores import LABEL_BYTES, store_place
from evidence.trainings import OnStep, run_settings
from seitpp_models.evaluation.figures import evaluate_classifier
from seitpp_models.training.devices import devices_of
from seitpp_models.training.network_run import NetworkRun
from seitpp_models.training.network_training import train_network
from seitpp_models.training.optimisers import OptimiserConfig
from seitpp_models.training.settings import DeviceSettings
from seitpp_models.training.tasks import Classification
from seitpp_models.weights.files import TrainedModel, build_model
from tokenstore.augment import CenterCrop, CutMix, HorizontalFlip, RandomResizedCrop, soft_targets
from tokenstore.errors import did_you_mean
from tokenstore.format import TokenizerIdentity
from tokenstore.loading import TokenDataset, TokenLoader
from tokenstore.networks.runs import RunOptions

__all__ = ["PixelRecipe", "train_on_pixels"]

_SETTINGS = {
    "model": "tiny",
    "depth": 12,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "clip": 0.0,
    "drop_path": 0.1,
    "smoothing": 0.1,
    "cutmix": 1.0,
    "precision": "auto",
}
"""The settings that a training on pixels has, and their defaults."""
_JITTER = 0.4
"""The most that brightness, contrast and saturation are changed by."""
_MEAN, _DEVIATION = 0.45, 0.25
"""The mean and the standard deviation of pixels, about which the network's input is centred."""
_GREY = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in grey."""


@dataclass(frozen=True)
class Sight:
    """The part of images that a network sees: the central `crop` of images that are `side` pixels large."""

    side: int
    crop: int
    patch: int


class PixelRecipe(nn.Module):
    """The usual augmentation of images: random resized crop, flip, colours and CutMix.

    Images (B, H, W, 3) uint8 become inputs (B, 3, crop, crop), and labels (B,) probabilities (B, classes).
    """

    def __init__(self, crop: int, classes: int, smoothing: float, cutmix: float) -> None:
        super().__init__()
        self.crop = RandomResizedCrop(crop)
        self.flip = HorizontalFlip()
        self.cutmix = CutMix(cutmix) if cutmix else None
        self.classes, self.smoothing = classes, smoothing

    @torch.no_grad()
    def forward(self, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs and targets."""
        inputs = self.crop(_planes(images), generator=generator).clamp(0, 1)
        inputs = jittered(self.flip(inputs, generator=generator), generator)
        inputs, targets = normalised(inputs), soft_targets(labels, self.classes, self.smoothing)
        return (inputs, targets) if self.cutmix is None else self.cutmix(inputs, targets, generator=generator)


def jittered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation of images (B, 3, H, W) from 0 to 1, of each by its own."""
    drawn = torch.rand((3, len(images), 1, 1, 1), generator=generator, device=generator.device)
    brightness, contrast, saturation = (1 + _JITTER * (2 * drawn - 1)).to(images.device)
    images = (images * brightness).clamp(0, 1)
    grey = (images * torch.tensor(_GREY, device=images.device)[:, None, None]).sum(1, keepdim=True)
    images = (grey.mean((2, 3), keepdim=True) * (1 - contrast) + images * contrast).clamp(0, 1)
    grey = (images * torch.tensor(_GREY, device=images.device)[:, None, None]).sum(1, keepdim=True)
    return (grey * (1 - saturation) + images * saturation).clamp(0, 1)


def normalised(images: Tensor) -> Tensor:
    """Return images from 0 to 1 about zero, with a deviation of about one."""
    return (images - _MEAN) / _DEVIATION


def _planes(images: Tensor) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 3, H, W) float32 from 0 to 1."""
    return images.permute(0, 3, 1, 2).float() / 255


class PixelLoader:
    """The images of the samples that a TokenLoader gives, with their labels, in its order."""

    def __init__(self, tokens: TokenLoader, images: PixelImages) -> None:
        self.tokens = tokens
        self.images = torch.from_numpy(images.pixels)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _, labels in self.tokens:
            rows = torch.from_numpy(np.asarray(self.tokens.last_rows))
            yield self.images[rows].to(labels.device), labels

    def __len__(self) -> int:
        return len(self.tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokens, name)  # epoch, last_rows, set_epoch, state_dict, load_state_dict


def train_on_pixels(cell: Cell, work: Workplace, on_step: OnStep | None = None) -> dict[str, Any]:
    """Train a network on images of a cell's store, or go on with it; return figures, bytes and seconds."""
    decisions = work.filled(cell)
    store = tokenstore.open(store_place(cell, work))
    samples = len(store["train"])
    settings = run_settings({**decisions, "settings": _settings(decisions["settings"])}, samples, work)
    form = Form(decisions["side"], decisions["quality"])
    sight = Sight(**decisions["sight"])
    splits = {name: _images(store, name, Path(decisions["source"]), form) for name in ("train", "val")}
    precision = DeviceSettings(settings["device"], settings["precision"], work.threads)
    with devices_of(precision) as devices:
        run = _run(store, splits["train"], sight, settings, work.place(cell), form, devices)
        figures = train_network(
            run,
            RunOptions(resume=True),
            evaluate=lambda: _evaluated(run, store, splits["val"], "val", sight),
            on_step=on_step,
        )
        on_training = _evaluated(run, store, splits["train"], "train", sight)
    return {
        "figures": {**figures, "training_top1": on_training["top1"]},
        "bytes": splits["train"].nbytes + LABEL_BYTES * samples,
        "samples": samples,
        "steps": run.step,
        "seconds": round(run.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in run.network.model.parameters()),
        "fingerprint": store["train"].fingerprint,
    }


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training on pixels; raises EvidenceError for those that have no effect."""
    for name in given:
        if name not in _SETTINGS:
            near = did_you_mean(name, _SETTINGS)
            raise EvidenceError(f"expected settings of pixels, {', '.join(_SETTINGS)}, found {name}{near}")
    return {**_SETTINGS, **given}


def _images(store: tokenstore.TokenStore, split: str, source: Path, form: Form) -> PixelImages:
    """Return the images of a split of a store in a form."""
    return read_images(source, store[split].samples_table()["source"].to_pylist(), form)


def _run(
    store: tokenstore.TokenStore,
    images: PixelImages,
    sight: Sight,
    settings: Mapping[str, Any],
    out: Path,
    form: Form,
    devices: Accelerator,
) -> NetworkRun:
    """Return the run of a network on images: the steps are those of networks on tokens."""
    labels = store["train"].labels
    classes = len(store.class_names or ()) or (0 if labels is None else int(labels.max()) + 1)
    arguments = {
        "size": settings["model"],
        "depth": settings["depth"],
        "grid": (sight.crop, sight.crop),
        "patch": sight.patch,
        "channels": 3,
        "num_classes": classes,
        "drop_path_rate": settings["drop_path"],
    }
    torch.manual_seed(settings["seed"])
    network = TrainedModel(build_model("vit", arguments), "vit", arguments, TokenizerIdentity("pixels"))
    recipe = PixelRecipe(sight.crop, classes, settings["smoothing"], settings["cutmix"]).to(devices.device)
    loader: Any = PixelLoader(_loader(store, "train", settings, devices, shuffle=True), images)
    config = OptimiserConfig(
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        steps=settings["epochs"] * len(loader),
        warmup_steps=round(settings["warmup_epochs"] * len(loader)),
        weight_decay=settings["weight_decay"],
        clip=settings["clip"],
        seed=settings["seed"],
    )
    identity = {"pixels": json.dumps([vars(form), vars(sight), store["train"].fingerprint])}
    return NetworkRun(config, network, Classification(recipe), loader, out, identity, devices)


def _loader(
    store: tokenstore.TokenStore,
    split: str,
    settings: Mapping[str, Any],
    devices: Accelerator,
    *,
    shuffle: bool = False,
) -> TokenLoader:
    return TokenLoader(
        TokenDataset(store, split, columns=["tokens", "labels"]),
        settings["batch_size"],
        shuffle=shuffle,
        seed=settings["seed"],
        num_threads=0,
        device=devices.device,
    )


def _evaluated(
    run: NetworkRun, store: tokenstore.TokenStore, images: PixelImages, split: str, sight: Sight
) -> dict[str, float]:
    """Return the figures of a run's network on the central part of images."""
    settings = {"batch_size": run.config.batch_size, "seed": 0}
    loader = PixelLoader(_loader(store, split, settings, run.accelerator), images)
    batches: Iterator[Sequence[Tensor]] = ((seen(part, sight), labels) for part, labels in loader)
    return evaluate_classifier(run.evaluated, batches)


def seen(images: Tensor, sight: Sight) -> Tensor:
    """Return the inputs (B, 3, crop, crop) of images (B, H, W, 3) uint8: enlarged, and their central part."""
    enlarged = F.interpolate(_planes(images), (sight.side, sight.side), mode="bicubic", align_corners=False)
    return normalised(CenterCrop(sight.crop)(enlarged.clamp(0, 1)))
