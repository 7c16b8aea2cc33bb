"""The VQModel of diffusers as a tokenizer: VQGANs and MoVQ.

Pixels are floats in -1..1, as every pipeline with a VQModel has them. Codes are those of
`VQModel.quantize` on the latents of `VQModel.encode`; images are those of `VQModel.decode`. The
config's `scaling_factor` and `force_upcast` belong to diffusion and do not touch codes. VQGAN:
Esser et al. 2021, https://arxiv.org/abs/2012.09841; MoVQ (`norm_type` spatial): Zheng et al. 2022,
https://arxiv.org/abs/2209.09002.
"""

from __future__ import annotations

import json
from typing import Any

from diffusers import VQModel
from torch import Tensor
from typing_extensions import override

from tokenstore.tokenizers.image_tokenizer import ImageTokenizer, to_images, weights_fingerprint
from tokenstore.tokenizers.kinds.conv_vq import to_pixels
from tokenstore.tokenizers.model_folders import load_diffusers, open_model, try_out, whole_positions

SUBFOLDERS = ("vqvae", "movq", "vae")
"""The sub-folders in which pipelines have their VQModel."""
UNSET_SAMPLE_SIZE = 32
"""The class's default, which published configs keep whatever the model was trained on."""
DEFAULT_IMAGE_SIZE = 256
DECISIVE = (
    "act_fn",
    "block_out_channels",
    "down_block_types",
    "layers_per_block",
    "mid_block_add_attention",
    "norm_num_groups",
    "norm_type",
    "up_block_types",
)
"""The fields that the weights' names and shapes do not determine. They are listed, so that a field that a
later version of diffusers adds does not change fingerprints."""


class DiffusersVQTokenizer(ImageTokenizer):
    """The Tokenizer over a diffusers VQModel."""

    name = "diffusers-vq"
    network: Any

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        config = model.config
        self.stride = 2 ** (len(config.block_out_channels) - 1)
        self.image_size = image_size_of(config.sample_size, self.stride)
        codebook = model.quantize.embedding.weight
        self.codebook_sizes = (codebook.shape[0],)
        self.codebook = codebook.detach().cpu().numpy().copy()
        decisive = json.dumps({key: config[key] for key in DECISIVE})
        head = f"diffusers.VQModel\n{decisive}\npixels -1..1"
        self.fingerprint = weights_fingerprint(head, model.state_dict())

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        latents = self.network.encode(to_pixels(images)).latents  # b, D, h, w
        _, _, (_, _, codes) = self.network.quantize(latents)
        grids: Tensor = codes.view(len(images), *latents.shape[2:])
        return grids

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        # subtle: VQModel.decode takes codes or vectors as its config says, and would quantise vectors again
        network = self.network
        vectors = network.quantize.get_codebook_entry(codes.flatten(), (*codes.shape, -1))
        spatial = vectors if network.config.norm_type == "spatial" else None
        pixels = network.decoder(network.post_quant_conv(vectors), spatial)
        return to_images((pixels + 1) / 2)


def image_size_of(sample_size: object, stride: int) -> int:
    """Return the side in pixels of a config's `sample_size`, or a usual one, as a multiple of the stride."""
    side = sample_size if isinstance(sample_size, int) else UNSET_SAMPLE_SIZE
    return whole_positions(DEFAULT_IMAGE_SIZE if side == UNSET_SAMPLE_SIZE else side, stride)


def load(argument: str | None) -> DiffusersVQTokenizer:
    """Load the tokenizer of a folder that holds a VQModel or a pipeline with one, or of a hub id.

    Raises TokenizerError where there is no such model, or its weights are not whole.
    """
    folder = open_model(argument or "", "_class_name", ["VQModel"], SUBFOLDERS)
    tokenizer = DiffusersVQTokenizer(load_diffusers(folder, VQModel))
    try_out(tokenizer, folder.where)
    return tokenizer
