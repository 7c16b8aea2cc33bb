"""Every tokenizer by its name: `NAME` or `NAME:ARGUMENT`."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import torch

from tokenstore.errors import TokenizerError
from tokenstore.networks.torchvision import import_torchvision
from tokenstore.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class TokenizerKind:
    """A kind of tokenizer, as `tokenstore tokenizers` lists it."""

    module: str
    """The module below tokenstore.tokenizers.kinds whose `load(argument)` gives the tokenizer on the CPU."""
    summary: str
    grid: str
    codebook: str
    licence: str
    argument: str | None = None
    """What stands behind the colon; None where nothing may."""
    argument_is_optional: bool = False
    packages: tuple[str, ...] = ()
    """What has to be installed besides, by the extra `extra`."""
    extra: str | None = None

    @property
    def usage(self) -> str:
        """What stands behind the name: `[:ARGUMENT]`."""
        if self.argument is None:
            return ""
        return f"[:{self.argument}]" if self.argument_is_optional else f":{self.argument}"


TOKENIZERS = {
    "default": TokenizerKind(
        "conv_vq",
        "light convolutional VQ; its weights ship with the package",
        grid="H/8 x W/8",
        codebook="2,048 x 32",
        licence="Apache-2.0",
    ),
    "conv-vq": TokenizerKind(
        "conv_vq",
        "the same with weights that `tokenstore train-tokenizer` wrote",
        grid="H/8 x W/8",
        codebook="as trained",
        licence="yours",
        argument="WEIGHTS.safetensors",
    ),
    "vit-vqgan": TokenizerKind(
        "vit_vqgan",
        "ViT-VQGAN, small or base, from a checkpoint of the published layout",
        grid="32 x 32 at 256 x 256",
        codebook="8,192 x 32",
        licence="of the checkpoint; the published ones CC BY-NC 4.0",
        argument="CHECKPOINT",
    ),
    "diffusers": TokenizerKind(
        "diffusers_vq",
        "a diffusers VQModel",
        grid="of the model",
        codebook="of the model",
        licence="of the model",
        argument="FOLDER or HUB-ID[#SUBFOLDER]",
        packages=("diffusers",),
        extra="diffusers",
    ),
    "transformers": TokenizerKind(
        "transformers_vq",
        "the VQ model of Chameleon, Janus or Emu3 in transformers",
        grid="of the model",
        codebook="of the model",
        licence="of the model",
        argument="FOLDER or HUB-ID[#SUBFOLDER]",
        packages=("transformers",),
        extra="transformers",
    ),
    "autoencoder": TokenizerKind(
        "autoencoder",
        "a continuous autoencoder of diffusers with a codebook that `tokenstore fit-codebook` learned",
        grid="[n x] that of the model",
        codebook="as fitted",
        licence="of the model",
        argument="CODEBOOK.safetensors[@FOLDER]",
        packages=("diffusers",),
        extra="diffusers",
    ),
    "dct": TokenizerKind(
        "dct",
        "quantised DCT coefficients of JPEG files; OPTIONS are y=15,cb=6,cr=6,quality=75,sampling=420",
        grid="n x H/16 x W/16",
        codebook="n x 2,048, no vectors",
        licence="none needed",
        argument="OPTIONS",
        argument_is_optional=True,
        packages=("jpeglib",),
        extra="jpeg",
    ),
}
"""Every kind of tokenizer by its name."""


def load_tokenizer(spec: str = "default", device: str = "cpu") -> Tokenizer:
    """The tokenizer `NAME` or `NAME:ARGUMENT`, where NAME is one of TOKENIZERS.

    Raises TokenizerError where the name is unknown, the argument missing or useless, a package not
    installed, or the device not usable.
    """
    name, colon, argument = spec.partition(":")
    kind = TOKENIZERS.get(name)
    if kind is None:
        known = ", ".join(name + kind.usage for name, kind in TOKENIZERS.items())
        raise TokenizerError(f"expected a tokenizer of {known}; found {spec!r}")
    if bool(argument) != bool(colon) or (argument and kind.argument is None):
        raise TokenizerError(f"expected {name}{kind.usage}, found {spec!r}")
    if not argument and kind.argument is not None and not kind.argument_is_optional:
        raise TokenizerError(f"expected {name}{kind.usage}, found {spec!r} without {kind.argument}")
    for package in kind.packages:
        if importlib.util.find_spec(package) is None:
            raise TokenizerError(
                f"tokenizer {name!r} needs the package {package}; pip install 'tokenstore[{kind.extra}]'"
            )
    if kind.packages:  # transformers and diffusers import torchvision
        import_torchvision()
    module = importlib.import_module(f"tokenstore.tokenizers.kinds.{kind.module}")
    tokenizer: Tokenizer = module.load(argument or None)
    check_device(device)
    return tokenizer.to(device)


def check_device(device: str) -> None:
    """Raise TokenizerError unless torch can compute on a device of that name here."""
    try:
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise TokenizerError(f"device {device!r} cannot be used here: {reason}") from error
