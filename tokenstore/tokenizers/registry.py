"""The table of all kinds of tokenizers by name, those of other packages included: `NAME` or `NAME:ARGUMENT`.

A kind is one module with a function `load(argument)`, and one entry of `TOKENIZERS`. Another package adds a
kind by an entry point of the group `tokenstore.tokenizers`, whose name is the kind's and whose object is a
`TokenizerKind`, or a class of tokenizers, which is made without arguments:

    [project.entry-points."tokenstore.tokenizers"]
    cosmos = "my_package.kinds:COSMOS"
    mine = "my_package.mine:MyTokenizer"

Nothing heavy is imported until a tokenizer is loaded, so that listing the kinds costs no time.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from tokenstore.errors import Parameter, TokenizerError, did_you_mean
from tokenstore.plugins import plugins

if TYPE_CHECKING:
    from tokenstore.tokenizers.base import Tokenizer

__all__ = [
    "DEFAULT",
    "GROUP",
    "TOKENIZERS",
    "TokenizerKind",
    "TrustedSpec",
    "check_device",
    "find_kind",
    "load_tokenizer",
    "tokenizer_kinds",
]

DEFAULT = "default"
"""The name of the packaged tokenizer that images are encoded with unless the user names another."""
GROUP = "tokenstore.tokenizers"
"""The group of entry points by which other packages add kinds."""


@dataclass(frozen=True)
class TokenizerKind:
    """A kind of tokenizer, as `tokenstore tokenizers` lists it."""

    module: str
    """The module whose function `load(argument)` returns the tokenizer on the CPU."""
    summary: str
    """A short description of the model."""
    grid: str
    """The grid of codes, in words."""
    codebook: str
    """The codebook, in words."""
    licence: str
    """The licence of the weights."""
    argument: str | None = None
    """The name of the argument after the colon; None for a kind without one."""
    argument_is_optional: bool = False
    """True if the kind has a default for the argument."""
    packages: tuple[str, ...] = ()
    """The packages that the kind needs besides those of tokenstore, installed by the extra `extra`."""
    extra: str | None = None
    """The extra of tokenstore that installs `packages`."""
    make: Callable[[], Any] | None = None
    """The class of a kind that is no more than a class, which is made without arguments."""
    fetches: bool = False
    """True if an argument that is no local folder is the id of a model, which is fetched from a hub."""
    runs_code: bool = False
    """True if a model's files are programs, which run: they are loaded only if the user says so."""

    @property
    def usage(self) -> str:
        """The argument as usage lines show it: `[:ARGUMENT]`, `:ARGUMENT` or nothing."""
        if self.argument is None:
            return ""
        return f"[:{self.argument}]" if self.argument_is_optional else f":{self.argument}"

    @property
    def missing_extra(self) -> str | None:
        """The extra to install before the kind can be used; None if its packages are installed."""
        installed = all(importlib.util.find_spec(package) is not None for package in self.packages)
        return None if installed else self.extra


class TrustedSpec(str):
    """The name of a tokenizer, `NAME[:ARGUMENT]`, whose files may run code: the user trusts who made them.

    A call that takes a tokenizer's name takes this too. In a store it is a text like any other, so that the
    trust does not travel with the store.
    """

    __slots__ = ()


TOKENIZERS = {
    DEFAULT: TokenizerKind(
        "tokenstore.tokenizers.kinds.symmetric_vq",
        "light convolutional VQ whose tokens flip exactly; its weights ship with the package",
        grid="H/8 x W/8",
        codebook="2,048 x 32",
        licence="Apache-2.0",
    ),
    "conv-vq-8x-2k": TokenizerKind(
        "tokenstore.tokenizers.kinds.conv_vq",
        "the default tokenizer before, light convolutional VQ; its weights ship with the package",
        grid="H/8 x W/8",
        codebook="2,048 x 32",
        licence="Apache-2.0",
    ),
    "conv-vq-symmetric-8x-2k": TokenizerKind(
        "tokenstore.tokenizers.kinds.symmetric_vq",
        "the default tokenizer by its own name, which goes on to mean these weights",
        grid="H/8 x W/8",
        codebook="2,048 x 32",
        licence="Apache-2.0",
    ),
    "conv-vq": TokenizerKind(
        "tokenstore.tokenizers.kinds.conv_vq",
        "the same with weights of your own, which `tokenstore train-tokenizer` wrote",
        grid="H/8 x W/8",
        codebook="as trained",
        licence="yours",
        argument="WEIGHTS.safetensors",
    ),
    "conv-vq-symmetric": TokenizerKind(
        "tokenstore.tokenizers.kinds.symmetric_vq",
        "one whose tokens flip exactly, with weights that `tokenstore train-tokenizer` wrote",
        grid="H/8 x W/8",
        codebook="as trained",
        licence="yours",
        argument="WEIGHTS.safetensors",
    ),
    "vit-vqgan": TokenizerKind(
        "tokenstore.tokenizers.kinds.vit_vqgan",
        "ViT-VQGAN, small or base, from a checkpoint of the published layout",
        grid="32 x 32 at 256 x 256",
        codebook="8,192 x 32",
        licence="of the checkpoint; the published ones CC BY-NC 4.0",
        argument="CHECKPOINT[#CODEBOOK]",
    ),
    "diffusers": TokenizerKind(
        "tokenstore.tokenizers.kinds.diffusers_vq",
        "a diffusers VQModel",
        grid="of the model",
        codebook="of the model",
        licence="of the model",
        argument="FOLDER or HUB-ID[#SUBFOLDER]",
        fetches=True,
        packages=("diffusers",),
        extra="diffusers",
    ),
    "transformers": TokenizerKind(
        "tokenstore.tokenizers.kinds.transformers_vq",
        "the VQ model of Chameleon, Janus or Emu3 in transformers",
        grid="of the model",
        codebook="of the model",
        licence="of the model",
        argument="FOLDER or HUB-ID[#SUBFOLDER]",
        fetches=True,
        packages=("transformers",),
        extra="transformers",
    ),
    "vqgan": TokenizerKind(
        "tokenstore.tokenizers.kinds.vqgan",
        "VQGANs of taming-transformers, latent diffusion, IBQ, Emu3.5 and LlamaGen; "
        "LOOKUP is euclidean, cosine or dot where the file's names don't tell it",
        grid="H/16 x W/16, H/8 x W/8 or H/4 x W/4",
        codebook="256 to 262,144 x 3 to 256",
        licence="of the checkpoint: MIT, or Apache-2.0 for IBQ and Emu3.5",
        argument="FILE[@LOOKUP] or HUB-ID#FILE",
        fetches=True,
    ),
    "maskgit-vqgan": TokenizerKind(
        "tokenstore.tokenizers.kinds.maskgit_vqgan",
        "MaskGIT's VQGAN, as re-issued for PyTorch",
        grid="H/16 x W/16",
        codebook="1,024 x 256",
        licence="of the checkpoint: Apache-2.0",
        argument="FILE or HUB-ID#FILE",
        fetches=True,
    ),
    "titok": TokenizerKind(
        "tokenstore.tokenizers.kinds.titok",
        "TiTok: an image as a list of codes, without a grid",
        grid="32, 64, 128 or 256 at 256 x 256",
        codebook="4,096 x 12 or 8,192 x 64",
        licence="of the model: Apache-2.0",
        argument="FOLDER or HUB-ID",
        fetches=True,
    ),
    "cosmos": TokenizerKind(
        "tokenstore.tokenizers.kinds.cosmos",
        "Cosmos DI8x8 and DI16x16: TorchScript, which runs code of its own and has to be allowed",
        grid="H/8 x W/8 or H/16 x W/16",
        codebook="64,000 x 6, by a rule",
        licence="of the model: NVIDIA Open Model Licence",
        argument="FOLDER",
        runs_code=True,
    ),
    "open-magvit2": TokenizerKind(
        "tokenstore.tokenizers.kinds.open_magvit2",
        "Open-MAGVIT2: codes are the signs of latents, without a table",
        grid="H/16 x W/16 or H/8 x W/8",
        codebook="262,144 x 18 or 16,384 x 14, by a rule",
        licence="of the checkpoint: Apache-2.0",
        argument="FILE or HUB-ID#FILE",
        fetches=True,
    ),
    "autoencoder": TokenizerKind(
        "tokenstore.tokenizers.kinds.autoencoder",
        "a continuous autoencoder of diffusers with a codebook that `tokenstore fit-codebook` learned",
        grid="[n x] that of the model",
        codebook="as fitted",
        licence="of the model",
        argument="CODEBOOK.safetensors[@FOLDER]",
        packages=("diffusers",),
        extra="diffusers",
    ),
    "dct": TokenizerKind(
        "tokenstore.tokenizers.kinds.dct",
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
"""The kinds of this package by name."""


def tokenizer_kinds() -> dict[str, TokenizerKind]:
    """Return all kinds of tokenizers by name: those of this package, then those of others, sorted.

    Raises TokenizerError if another package's kind cannot be imported.
    """
    others = _entry_points()
    return {**TOKENIZERS, **{name: _load_kind(others[name]) for name in sorted(others)}}


def find_kind(name: str) -> TokenizerKind | None:
    """Return the kind of a name, or None if no kind has the name.

    Raises TokenizerError if another package's kind cannot be imported.
    """
    if name in TOKENIZERS:
        return TOKENIZERS[name]
    entry_point = _entry_points().get(name)
    return None if entry_point is None else _load_kind(entry_point)


def _entry_points() -> dict[str, EntryPoint]:
    """Return the kinds of other packages by name; names of this package cannot be taken."""
    return {name: point for name, point in plugins(GROUP).items() if name not in TOKENIZERS}


def _load_kind(entry_point: EntryPoint) -> TokenizerKind:
    """Import the kind of another package; raise TokenizerError if it cannot be, or is something else."""
    try:
        kind = entry_point.load()
    except Exception as error:  # whatever another package's module raises
        raise TokenizerError(
            f"tokenizer {entry_point.name!r}: {entry_point.value} cannot be imported "
            f"({type(error).__name__}: {error}); repair or uninstall the package that adds the tokenizer"
        ) from error
    if isinstance(kind, type):
        summary = (kind.__doc__ or kind.__name__).strip().splitlines()[0].removesuffix(".")
        return TokenizerKind(kind.__module__, summary, "its own", "its own", "its package's", make=kind)
    if not isinstance(kind, TokenizerKind):
        raise TokenizerError(
            f"tokenizer {entry_point.name!r}: expected {entry_point.value} to be a TokenizerKind or a class, "
            f"found {type(kind).__name__}"
        )
    return kind


def load_tokenizer(spec: str = DEFAULT, device: str = "cpu", *, allow_torchscript: bool = False) -> Tokenizer:
    """Load the tokenizer `NAME` or `NAME:ARGUMENT`, where NAME is one of `tokenizer_kinds()`.

    A kind whose files are TorchScript runs code of whoever made them: it is loaded with `allow_torchscript`,
    or if `spec` is a TrustedSpec.

    Raises TokenizerError if the name is unknown, the argument missing or useless, a package not installed, or
    the device not usable, and for whatever the kind itself refuses.
    """
    name, colon, argument = spec.partition(":")
    kind = find_kind(name)
    if kind is None:
        kinds = tokenizer_kinds()
        known = ", ".join(name + kind.usage for name, kind in kinds.items())
        raise TokenizerError(f"expected a tokenizer of {known}; found {spec!r}{did_you_mean(name, kinds)}")
    if bool(argument) != bool(colon) or (argument and kind.argument is None):
        raise TokenizerError(f"expected {name}{kind.usage}, found {spec!r}")
    if not argument and kind.argument is not None and not kind.argument_is_optional:
        raise TokenizerError(f"expected {name}{kind.usage}, found {spec!r} without {kind.argument}")
    if kind.runs_code and not (allow_torchscript or isinstance(spec, TrustedSpec)):
        allowed = Parameter("allow_torchscript", True)
        raise TokenizerError(
            f"{spec}: its files are TorchScript, and loading them runs code of whoever made them, which can "
            f"do all that you can. If you trust them, name the tokenizer and say {allowed}",
            parameters=[allowed],
        )
    _check_packages(name, kind)
    if kind.packages:  # transformers and diffusers import torchvision
        from tokenstore.networks.torchvision import import_torchvision

        import_torchvision()
    if kind.make is not None:
        tokenizer: Tokenizer = kind.make()
    else:
        tokenizer = importlib.import_module(kind.module).load(argument or None)
    check_device(device)
    if name not in TOKENIZERS:
        from tokenstore.tokenizers.base import check_tokenizer

        check_tokenizer(tokenizer)
    return tokenizer.to(device)


def _check_packages(name: str, kind: TokenizerKind) -> None:
    """Raise TokenizerError, saying how to install it, if a package of a kind is missing."""
    for package in kind.packages:
        if importlib.util.find_spec(package) is None:
            install = package if kind.extra is None else f"'tokenstore[{kind.extra}]'"
            raise TokenizerError(f"tokenizer {name!r} needs the package {package}; pip install {install}")


def check_device(device: str) -> None:
    """Raise TokenizerError unless torch can compute on a device of that name here."""
    import torch

    try:
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise TokenizerError(f"device {device!r} cannot be used here: {reason}") from error
