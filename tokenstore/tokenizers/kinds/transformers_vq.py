"""The VQ models of transformers as tokenizers: those of Chameleon, Janus and Emu3.

A folder holds one of them alone, as its `save_pretrained` wrote it, or the whole multimodal model, of
which nothing but the VQ model is read. Codes are those of the library's `encode`.

Pixels are normalised as the folder's `processor_config.json` or `preprocessor_config.json` says
(`rescale_factor`, `image_mean`, `image_std`). Without one they are what the published models have:
Chameleon level * 0.0078 - 1, Janus and Emu3 -1..1 (the defaults of the image processors' classes are of
CLIP for these two, and not what their models were trained with).

Chameleon: https://arxiv.org/abs/2405.09818; Janus: https://arxiv.org/abs/2410.13848; Emu3:
https://arxiv.org/abs/2409.18869.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    ChameleonConfig,
    ChameleonVQVAE,
    ChameleonVQVAEConfig,
    Emu3Config,
    Emu3VQVAE,
    Emu3VQVAEConfig,
    JanusConfig,
    JanusVQVAE,
    JanusVQVAEConfig,
)
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer, check_codes, to_images, weights_fingerprint
from tokenstore.tokenizers.model_folders import (
    ModelFolder,
    check_names,
    open_model,
    read_json,
    read_tensors,
    reason,
    try_out,
    whole_positions,
)

DEFAULT_IMAGE_SIZE = 256
PART = "vqmodel."
"""The prefix of the names of a VQ model's tensors within a whole model."""


@dataclass(frozen=True)
class Normalisation:
    """The normalisation of pixels for a network: (level * scale - mean) / std for levels 0..255."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_pixels(self, images: Tensor) -> Tensor:
        """Return uint8 images as floats (..., 3, H, W)."""
        mean, std = self._constants(images.device)
        return (images.float() * self.scale - mean) / std

    def to_images(self, pixels: Tensor) -> Tensor:
        """Return floats (..., 3, H, W) as uint8 images."""
        mean, std = self._constants(pixels.device)
        return to_images((pixels * std + mean) / (255 * self.scale))

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return mean, std


SYMMETRIC = Normalisation(1 / 255, (0.5,) * 3, (0.5,) * 3)


class TransformersVQTokenizer(ImageTokenizer):
    """The base of the VQ models of transformers."""

    model_class: ClassVar[Any]
    config_class: ClassVar[Any]
    whole_config_class: ClassVar[Any]
    published: ClassVar[Normalisation]
    """The normalisation of the published models."""
    decisive: ClassVar[tuple[str, ...]]
    """Fields of the config that decide codes, where the weights' names and shapes do not say it all."""
    decodes: ClassVar[bool] = True
    accelerator_batch = 1  # one image fills a GPU, and 32 of them its memory

    network: Any

    def __init__(self, model: Any, normalisation: Normalisation) -> None:
        super().__init__(model)
        self.normalisation = normalisation
        self.stride = 2 ** (len(model.config.channel_multiplier) - 1)
        self.image_size = whole_positions(self._image_size(model.config), self.stride)
        codebook = model.quantize.embedding.weight
        self.codebook_sizes = (codebook.shape[0],)
        self.codebook = codebook.detach().cpu().numpy().copy()
        decisive = {key: getattr(model.config, key) for key in self.decisive}
        head = f"transformers.{self.model_class.__name__}\n{json.dumps([decisive, asdict(normalisation)])}"
        self.fingerprint = weights_fingerprint(head, model.state_dict())

    def _image_size(self, config: Any) -> int:
        return DEFAULT_IMAGE_SIZE

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        network = self.network
        latents = network.quant_conv(network.encoder(self.normalisation.to_pixels(images)))  # b, D, h, w
        _, _, codes = network.quantize(latents)
        grids: Tensor = codes.view(len(images), *latents.shape[2:])
        return grids


class ChameleonTokenizer(TransformersVQTokenizer):
    """The VQ model of Chameleon, of which transformers has the encoder alone: `decode` raises."""

    name = "chameleon-vq"
    model_class = ChameleonVQVAE
    config_class = ChameleonVQVAEConfig
    whole_config_class = ChameleonConfig
    published = Normalisation(0.0078, (1.0,) * 3, (1.0,) * 3)
    decisive = ("attn_type", "channel_multiplier", "num_res_blocks")
    decodes = False

    def _image_size(self, config: Any) -> int:
        return int(config.resolution)

    @override
    def decode(self, codes: Tensor) -> Tensor:
        return self.decode_pass(codes)

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        raise TokenizerError(
            f"{self.name}: expected a model with a decoder, found Chameleon's, of which transformers has the "
            "encoder alone; codes can be stored and trained on, and images be rebuilt with a VQ model of "
            "Janus, Emu3 or diffusers"
        )


class JanusTokenizer(TransformersVQTokenizer):
    """The VQ model of Janus; images of any multiple of the stride, not of the config's number alone."""

    name = "janus-vq"
    model_class = JanusVQVAE
    config_class = JanusVQVAEConfig
    whole_config_class = JanusConfig
    published = SYMMETRIC
    decisive = ("channel_multiplier", "num_res_blocks")

    def _image_size(self, config: Any) -> int:
        return int(config.num_patches) * self.stride

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        # subtle: the library's decode does the same, for num_patches x num_patches positions only
        network = self.network
        vectors = F.normalize(network.quantize.embedding(codes), dim=-1).permute(0, 3, 1, 2)
        return self.normalisation.to_images(network.decoder(network.post_quant_conv(vectors)))


class Emu3Tokenizer(TransformersVQTokenizer):
    """The VQ model of Emu3, of images and of video.

    Video is (B, T, 3, H, W) uint8 with T a multiple of the config's `temporal_downsample_factor`, its
    codes (B, t, h, w). An image is encoded as a film of that many equal frames, as the library does.
    """

    name = "emu3-vq"
    model_class = Emu3VQVAE
    config_class = Emu3VQVAEConfig
    whole_config_class = Emu3Config
    published = SYMMETRIC
    decisive = (
        "attn_resolutions",
        "channel_multiplier",
        "num_attention_heads",
        "num_res_blocks",
        "temporal_downsample_factor",
    )

    def __init__(self, model: Any, normalisation: Normalisation) -> None:
        super().__init__(model, normalisation)
        self.frames_per_code = int(model.config.temporal_downsample_factor)

    @override
    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(input_shape) != 4:
            return super().grid(input_shape)
        frames, *image = input_shape
        if frames < 1 or frames % self.frames_per_code:
            raise TokenizerError(
                f"{self.name}: expected the frames of a video to be a multiple of {self.frames_per_code}, "
                f"found {frames}; drop or repeat frames"
            )
        return (frames // self.frames_per_code, *super().grid(tuple(image)))

    @torch.no_grad()
    def encode(self, inputs: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) uint8 to codes (B, h, w), or video (B, T, 3, H, W) to (B, t, h, w)."""
        if inputs.ndim != 5 or inputs.dtype != torch.uint8:
            return super().encode(inputs)
        grid = self.grid(tuple(inputs.shape[1:]))
        if not len(inputs):
            return torch.empty((0, *grid), dtype=torch.int64, device=self.device)
        return self.in_passes(self.encode_pass, inputs)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images (B, 3, H, W) of codes (B, h, w), or video (B, T, 3, H, W) of codes (B, t, h, w)."""
        if codes.ndim != 4:
            return super().decode(codes)
        check_codes(self.name, codes.flatten(1, 2), self.codebook_sizes)
        if not len(codes):
            frames, *sides = codes.shape[1:]
            height, width = (side * self.stride for side in sides)
            shape = (0, frames * self.frames_per_code, 3, height, width)
            return torch.empty(shape, dtype=torch.uint8, device=self.device)
        return self.in_passes(self.decode_pass, codes.to(torch.int64))

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        # subtle: the library's encode cuts the codes of upright video short
        pixels = self.normalisation.to_pixels(images)
        if images.ndim == 4:
            pixels = pixels[:, None].expand(-1, self.frames_per_code, -1, -1, -1)
        network = self.network
        latents = network.quant_conv(network.encoder(pixels).transpose(1, 2))  # b, D, t, h, w
        codes: Tensor = network.quantize(latents.transpose(1, 2))
        return codes if images.ndim == 5 else codes[:, 0]

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        return self.normalisation.to_images(self.network.decode(codes))


FAMILIES: Mapping[str, type[TransformersVQTokenizer]] = {
    kind.config_class.model_type: kind for kind in (ChameleonTokenizer, JanusTokenizer, Emu3Tokenizer)
}
"""The tokenizers by the `model_type` of a VQ model's config."""
WHOLE_FAMILIES: Mapping[str, type[TransformersVQTokenizer]] = {
    kind.whole_config_class.model_type: kind for kind in FAMILIES.values()
}
"""The tokenizers by the `model_type` of the config of the whole model."""


def read_normalisation(folder: ModelFolder, published: Normalisation) -> Normalisation:
    """Read the normalisation of a folder's image processor; return `published` if it has none."""
    path, values = folder.get("processor_config.json"), None
    if path is not None:
        values = read_json(path).get("image_processor")
    if not isinstance(values, dict):
        path = folder.get("preprocessor_config.json")
        if path is None:
            return published
        values = read_json(path)
    rescales, normalises = values.get("do_rescale", True), values.get("do_normalize", True)
    scale = values.get("rescale_factor", published.scale) if rescales else 1.0
    mean = values.get("image_mean", published.mean) if normalises else 0.0
    std = values.get("image_std", published.std) if normalises else 1.0
    scales, means, stds = _numbers(scale, 1), _numbers(mean, 3), _numbers(std, 3)
    if [len(scales), len(means), len(stds)] != [1, 3, 3] or min(scales + stds) <= 0:
        raise TokenizerError(
            f"{path}: expected rescale_factor over 0, image_mean of one or three numbers, and as many over 0 "
            f"as image_std; found {scale!r}, {mean!r}, {std!r}"
        )
    return Normalisation(scales[0], means, stds)


def _numbers(value: object, repeats: int) -> tuple[float, ...]:
    """Return a number several times, or a list of numbers; an empty tuple for anything else."""
    values: Sequence[Any] = value if isinstance(value, list | tuple) else [value] * repeats
    whole = all(isinstance(number, int | float) and math.isfinite(number) for number in values)
    return tuple(float(number) for number in values) if whole else ()


def load_model(folder: ModelFolder) -> tuple[type[TransformersVQTokenizer], Any]:
    """Load the kind of tokenizer and the VQ model of a folder, in float32 and eval mode.

    Raises TokenizerError where weights are absent, damaged, not finite, or not those the config asks for.
    """
    model_type = folder.config["model_type"]
    whole = model_type in WHOLE_FAMILIES
    kind = (WHOLE_FAMILIES if whole else FAMILIES)[model_type]
    tensors = read_tensors(folder, "model", PART if whole else "")
    try:
        if whole:
            config = kind.whole_config_class.from_dict(dict(folder.config)).vq_config
        else:
            config = kind.config_class.from_dict(dict(folder.config))
        with torch.device("meta"):  # subtle: names and shapes are compared before any memory is taken
            model = kind.model_class(config)
        expected = model.state_dict()
        check_names(folder.where, expected.keys() - tensors.keys(), tensors.keys() - expected.keys())
        for name, tensor in tensors.items():
            if tensor.is_floating_point() != expected[name].is_floating_point():
                raise TokenizerError(
                    f"{folder.where}: tensor {name!r}: expected {expected[name].dtype}, found "
                    f"{tensor.dtype}; quantised weights are not read, name the original model"
                )
        model.load_state_dict(tensors, assign=True)
    except TokenizerError:
        raise
    except Exception as error:  # a config that makes no sense is answered with nearly any exception
        raise TokenizerError(
            f"{folder.where}: expected a {kind.model_class.__name__} whose weights fit its config, found one "
            f"that cannot be built ({reason(error)})"
        ) from error
    return kind, model.eval()


def load(argument: str | None) -> TransformersVQTokenizer:
    """Load the tokenizer of a folder, or of a hub id, that holds a VQ model or a whole model with one.

    Raises TokenizerError where there is no such model, or its weights are not whole.
    """
    folder = open_model(argument or "", "model_type", [*FAMILIES, *WHOLE_FAMILIES])
    kind, model = load_model(folder)
    tokenizer = kind(model, read_normalisation(folder, kind.published))
    try_out(tokenizer, folder.where, decodes=kind.decodes)
    return tokenizer
