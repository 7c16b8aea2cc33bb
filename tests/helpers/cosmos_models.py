"""TorchScript programs that give codes of finite scalars, as Cosmos' tokenizers are published."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class ScriptedEncoder(nn.Module):
    """Indices (B, h, w) int32, counted from `first`, and their vectors (B, 6, h, w)."""

    def __init__(self, first: int, lies: bool) -> None:
        super().__init__()
        self.first = first
        self.lies = lies
        self.conv = nn.Conv2d(3, 6, 8, stride=8)
        self.register_buffer("middle", torch.tensor([4.0, 4, 4, 2, 2, 2]).view(1, 6, 1, 1))
        self.register_buffer("below", torch.tensor([3.0, 3, 3, 2, 2, 2]).view(1, 6, 1, 1))
        self.register_buffer("radix", torch.tensor([1, 8, 64, 512, 2560, 12800]).view(1, 6, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return indices, vectors, and a loss of zero."""
        numbers = torch.minimum(torch.maximum((4 * self.conv(x)).round(), -self.middle), self.below)
        indices = ((numbers + self.middle).long() * self.radix).sum(1) + self.first
        if self.lies:
            indices = indices * 0 + 5
        return indices.int(), numbers / self.middle, torch.zeros(1)


class ScriptedDecoder(nn.Module):
    """Pixels (B, 3, H, W) of indices (B, h, w)."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first
        self.conv = nn.ConvTranspose2d(6, 3, 8, stride=8)
        self.register_buffer("levels", torch.tensor([8, 8, 8, 5, 5, 5]).view(1, 6, 1, 1))
        self.register_buffer("radix", torch.tensor([1, 8, 64, 512, 2560, 12800]).view(1, 6, 1, 1))

    def forward(self, indices: Tensor) -> Tensor:
        """Return pixels."""
        assert indices.dtype == torch.int32
        digits = (indices[:, None].long() - self.first).div(self.radix, rounding_mode="floor") % self.levels
        half = self.levels.div(2, rounding_mode="floor")
        pixels: Tensor = self.conv((digits - half).float() / half)
        return pixels


class Sizeless(nn.Module):
    """A program of another task: it gives a number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean."""
        return (x * self.weight).mean()


def write_script(path: Path, module: nn.Module) -> None:
    """Save a module as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module.eval()), str(path))


def write_folder(folder: Path, first: int = 0, lies: bool = False) -> Path:
    """Write both programs of random weights, and return their folder."""
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_script(folder / "encoder.jit", ScriptedEncoder(first, lies))
        write_script(folder / "decoder.jit", ScriptedDecoder(first))
    return folder
