"""The tokenizer of a continuous autoencoder of diffusers with a codebook learned over its latents.

Pixels are floats in -1..1 for every class here; AutoencoderTiny brings them to 0..1 itself. Latents are in
the autoencoder's own units, the mode of the posterior where there is one (Kingma & Welling 2014,
https://arxiv.org/abs/1312.6114): never a sample of it, and without the scaling that is for diffusion.
`fitting.py` learns codebooks.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.files import write_file
from tokenstore.format.fields import FieldError, Reader, checked, list_of, null_or
from tokenstore.tokenizers.configs import SIZE, TEXT, read_config
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer, to_images, weights_fingerprint
from tokenstore.tokenizers.kinds.conv_vq import to_pixels
from tokenstore.tokenizers.model_folders import load_diffusers, open_model, open_safetensors
from tokenstore.tokenizers.quantisers import QUANTISERS, FiniteScalar, Quantiser, restore

FORMAT = "tokenstore.autoencoder_codebook.1"
ENDING = ".safetensors"
SUBFOLDERS = ("vae",)
"""The sub-folders in which pipelines have their autoencoder."""


@dataclass(frozen=True)
class AutoencoderClass:
    """The differences between the classes of diffusers that can be used."""

    latents: str
    """The encoder's output: a posterior, or latents."""
    blocks: str
    """The field of the config with an entry for each block of the encoder; all but one halve the sides."""
    decisive: str
    """The fields that the weights' names and shapes do not determine. They are listed, so that a field that a
    later version of diffusers adds does not change fingerprints."""


CLASSES = {
    "AutoencoderKL": AutoencoderClass(
        latents="latent_dist",
        blocks="block_out_channels",
        decisive="act_fn block_out_channels down_block_types layers_per_block mid_block_add_attention "
        "norm_num_groups up_block_types",
    ),
    "AutoencoderTiny": AutoencoderClass(
        latents="latents",
        blocks="encoder_block_out_channels",
        decisive="act_fn decoder_block_out_channels encoder_block_out_channels num_decoder_blocks "
        "num_encoder_blocks upsample_fn upsampling_scaling_factor",
    ),
    "AutoencoderDC": AutoencoderClass(
        latents="latent",
        blocks="encoder_block_out_channels",
        decisive="attention_head_dim decoder_act_fns decoder_block_out_channels decoder_block_types "
        "decoder_conv_act_fn decoder_in_shortcut decoder_layers_per_block decoder_norm_types "
        "decoder_qkv_multiscales downsample_block_type encoder_block_out_channels encoder_block_types "
        "encoder_layers_per_block encoder_out_shortcut encoder_qkv_multiscales upsample_block_type",
    ),
}
"""The classes that can be used. No other is loaded, whatever a config says."""


class Autoencoder(nn.Module):
    """Images to latents (B, D, h, w) and back."""

    def __init__(self, model: Any, reference: str) -> None:
        """`model` is of one of CLASSES, `reference` how the user named it."""
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.reference = reference
        self.class_name = type(model).__name__
        self._class = CLASSES[self.class_name]
        self.channels: int = model.config.latent_channels
        self.stride: int = 2 ** (len(model.config[self._class.blocks]) - 1)
        decisive = json.dumps({key: model.config[key] for key in self._class.decisive.split()})
        head = f"diffusers.{self.class_name}\n{decisive}\npixels -1..1"
        self.fingerprint = weights_fingerprint(head, model.state_dict())

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def latents(self, images: Tensor) -> Tensor:
        """Return latents (B, D, h, w) of images (B, 3, H, W) uint8 whose sides are multiples of `stride`."""
        encoded = getattr(self.model.encode(to_pixels(images)), self._class.latents)
        latents: Tensor = encoded if isinstance(encoded, Tensor) else encoded.mode()
        return latents

    def images(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, H, W) uint8 of latents (B, D, h, w)."""
        return to_images((self.model.decode(latents).sample + 1) / 2)

    def tokenizer(self, quantiser: Quantiser, image_size: int) -> AutoencoderTokenizer:
        """Return the tokenizer of this autoencoder and a quantiser of its latents."""
        return AutoencoderTokenizer(self, quantiser, image_size)

    @torch.no_grad()
    def try_out(self) -> None:
        """Raise TokenizerError unless a small image gives latents of the right shape, and they an image."""
        side = 2 * self.stride  # subtle: of one position alone some normalisations cannot make anything
        image = torch.zeros((1, 3, side, side), dtype=torch.uint8, device=self.device)
        try:
            latents = self.latents(image)
            shapes = [tuple(latents.shape), tuple(self.images(latents).shape)]
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(
                f"{self.reference}: expected an autoencoder of RGB images, found one that cannot take them "
                f"({str(error).splitlines()[0]})"
            ) from error
        expected = [(1, self.channels, 2, 2), tuple(image.shape)]
        if shapes != expected:
            raise TokenizerError(
                f"{self.reference}: expected latents and an image of shapes {expected}, found {shapes}"
            )


def load_autoencoder(reference: str, device: str = "cpu", *, fetch: bool = True) -> Autoencoder:
    """Load the autoencoder in a folder, a pipeline's folder or a hub repository, in float32.

    Without `fetch`, a repository has to be in the hub's local cache.

    Raises TokenizerError where there is none of CLASSES, its weights are not whole, or the device not usable.
    """
    folder = open_model(reference, "_class_name", CLASSES, SUBFOLDERS, fetch=fetch)
    model_class = getattr(diffusers, folder.config["_class_name"])
    with torch.random.fork_rng(devices=[]):  # subtle: it draws weights before it reads them
        model = load_diffusers(folder, model_class)
    autoencoder = Autoencoder(model, reference)
    autoencoder.try_out()
    try:
        return autoencoder.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise TokenizerError(f"device {device!r} cannot be used here: {reason}") from error


class Pair(nn.Module):
    """An autoencoder and a quantiser of its latents."""

    def __init__(self, autoencoder: Autoencoder, quantiser: Quantiser) -> None:
        """Join the two; raise TokenizerError if they differ in their number of channels."""
        super().__init__()
        if quantiser.dimensions != autoencoder.channels:
            raise TokenizerError(
                f"{autoencoder.reference}: expected latents of {quantiser.dimensions} channels, as the "
                f"quantiser has, found {autoencoder.channels}"
            )
        self.autoencoder, self.quantiser = autoencoder, quantiser


class AutoencoderTokenizer(ImageTokenizer):
    """The Tokenizer over a pair."""

    network: Pair

    def __init__(self, autoencoder: Autoencoder, quantiser: Quantiser, image_size: int) -> None:
        super().__init__(Pair(autoencoder, quantiser))
        self.image_size = image_size
        self.stride = autoencoder.stride
        self.codebook_sizes = quantiser.codebook_sizes
        self.codebook = quantiser.codebook
        short = autoencoder.class_name.removeprefix("Autoencoder").lower()
        self.name = f"autoencoder-{short}-{quantiser.label}"
        head = f"{FORMAT}\n{autoencoder.fingerprint}\n{quantiser.label}"
        self.fingerprint = weights_fingerprint(head, quantiser.state_dict())

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        return self.network.quantiser.codes(self.network.autoencoder.latents(images))

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        return self.network.autoencoder.images(self.network.quantiser.vectors(codes))


@dataclass(frozen=True)
class CodebookConfig:
    """The facts of a codebook file besides its tensors."""

    quantiser: str
    levels: list[int] | None
    autoencoder: str
    """The user's name for the autoencoder: a folder, or a hub id."""
    autoencoder_class: str
    autoencoder_fingerprint: str
    latent_channels: int
    image_size: int

    def to_json(self) -> str:
        """Return the config as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CodebookConfig:
        """Parse a config; raise TokenizerError unless the text has exactly the fields, of their types."""
        return read_config(text, cls, _READERS)


def _one_of(names: Collection[str]) -> Reader[str]:
    return checked(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names)


def _levels(value: object, where: str) -> list[int] | None:
    try:
        sizes = null_or(list_of(SIZE))(value, where)
    except FieldError as error:
        raise FieldError(where, "null or a list of whole numbers", repr(value)) from error
    return None if sizes is None else list(sizes)


_READERS: dict[str, Reader[Any]] = {
    "quantiser": _one_of(QUANTISERS),
    "levels": _levels,
    "autoencoder": TEXT,
    "autoencoder_class": _one_of(CLASSES),
    "autoencoder_fingerprint": TEXT,
    "latent_channels": SIZE,
    "image_size": SIZE,
}


def write_codebook(tokenizer: AutoencoderTokenizer, path: Path) -> None:
    """Write a learned codebook as safetensors, with the name and fingerprint of its autoencoder."""
    autoencoder, quantiser = tokenizer.network.autoencoder, tokenizer.network.quantiser
    config = CodebookConfig(
        quantiser=quantiser.kind,
        levels=list(quantiser.levels) if isinstance(quantiser, FiniteScalar) else None,
        autoencoder=autoencoder.reference,
        autoencoder_class=autoencoder.class_name,
        autoencoder_fingerprint=autoencoder.fingerprint,
        latent_channels=autoencoder.channels,
        image_size=tokenizer.image_size,
    )
    tensors = {name: tensor.cpu().contiguous() for name, tensor in quantiser.state_dict().items()}
    write_file(path, save(tensors, {"format": FORMAT, "config": config.to_json()}))


def read_codebook(path: Path) -> tuple[CodebookConfig, Quantiser]:
    """Read the config and quantiser of a file that write_codebook wrote.

    Raises TokenizerError where the file is absent, damaged, or has other tensors than its config asks for.
    """
    if not path.is_file():
        raise TokenizerError(f"{path}: expected a codebook that `tokenstore fit-codebook` wrote, found none")
    with open_safetensors(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        if metadata.get("format") != FORMAT:
            raise TokenizerError(f"expected the format {FORMAT!r}, found {metadata.get('format')!r}")
        config = CodebookConfig.from_json(metadata.get("config", ""))
        quantiser = restore(config.quantiser, config.levels, tensors)
        if quantiser.dimensions != config.latent_channels:
            raise TokenizerError(
                f"expected vectors of {config.latent_channels} channels, found {quantiser.dimensions}"
            )
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
    return config, quantiser


def load(argument: str | None) -> AutoencoderTokenizer:
    """Load the tokenizer of `CODEBOOK.safetensors`, or `CODEBOOK.safetensors@FOLDER` of another folder.

    A relative folder in the file is looked for as it is, then beside the file. A model of the hub that only
    the file names is taken from the hub's local cache; `CODEBOOK.safetensors@ORG/NAME` fetches it. Raises
    TokenizerError where either is absent or damaged, or where the autoencoder is not the one that the
    codebook was learned for.
    """
    name, ending, other_folder = (argument or "").partition(f"{ENDING}@")
    path = Path(name + ENDING if ending else name).expanduser()
    config, quantiser = read_codebook(path)
    reference = other_folder or _beside(path, config.autoencoder)
    try:
        autoencoder = load_autoencoder(reference, fetch=bool(other_folder))
    except TokenizerError as error:
        raise TokenizerError(
            f"{path}: its autoencoder {reference} cannot be loaded; if it lies elsewhere, name the folder "
            f"or the model of the hub: autoencoder:{path}@FOLDER ({error})"
        ) from error
    actual = autoencoder.class_name, autoencoder.fingerprint
    if actual != (config.autoencoder_class, config.autoencoder_fingerprint):
        raise TokenizerError(
            f"{path}: expected the autoencoder it was learned for ({config.autoencoder}: "
            f"{config.autoencoder_class} {config.autoencoder_fingerprint:.16}), found {actual[0]} "
            f"{actual[1]:.16} at {reference}; name the folder with the first, or fit a codebook anew"
        )
    return autoencoder.tokenizer(quantiser, config.image_size)


def _beside(codebook: Path, reference: str) -> str:
    """Return the reference, or if only that exists the folder of that name beside the codebook."""
    folder, _, _ = reference.partition("#")
    is_beside = not Path(folder).expanduser().is_dir() and (codebook.parent / folder).is_dir()
    return str(codebook.parent / reference) if is_beside else reference
