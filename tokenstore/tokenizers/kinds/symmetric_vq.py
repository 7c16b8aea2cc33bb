"""A convolutional vector quantiser with which mirroring commutes: codes of a mirror image are a look-up away.

Every feature map is a pair: the features of the image, and those of its mirror image. The two lie behind one
another in a batch, so that mirroring the image does no more than exchange them. Convolutions act on the two
alone, with the same kernels. Pointwise layers mix the two, once the second one is turned round, and are tied:

    out_a = K1 a + K2 b        out_b = K1 b + K2 a

The codebook is closed under the exchange of the halves of a vector. So there is a permutation p of the codes
with codes(mirror x) = p[mirror(codes(x))]: `symmetries` has it. The rounding is the same on both sides, up to
kernels that treat the ends of a row or batch differently.

Blocks are ConvNeXt's (Liu et al. 2022, https://arxiv.org/abs/2201.03545), as in `conv_vq`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.format import FLIP, Symmetries
from tokenstore.networks.pointwise import Pointwise
from tokenstore.tokenizers.configs import SizedConfig
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer, to_images, weights_fingerprint
from tokenstore.tokenizers.kinds.conv_vq import to_pixels
from tokenstore.tokenizers.similarities import in_parts, largest, similarities
from tokenstore.tokenizers.weights_files import load_model, save_model

PACKAGED_WEIGHTS = Path(__file__).parents[1] / "weights" / "conv-vq-symmetric-8x-2k.safetensors"
FORMAT = "tokenstore.symmetric_vq.1"
TIE = 1e-5
"""The difference of similarities below which a vector is as near to a code as to its partner."""


@dataclass(frozen=True)
class SymmetricVQConfig(SizedConfig):
    """The shape of a SymmetricVQ model, kept as JSON in its weights file.

    Widths count both halves. Raises TokenizerError for sizes that cannot be halved.
    """

    name: str = "conv-vq-symmetric-8x-2k"
    image_size: int = 256
    patch: int = 8
    codebook_size: int = 2048
    self_paired: int = 512
    """The codes that are their own partners: the first ones. The others are pairs of neighbours."""
    code_dim: int = 32
    encoder_width: int = 192
    encoder_blocks: int = 6
    decoder_width: int = 384
    decoder_blocks: int = 8

    def __post_init__(self) -> None:
        for name in ("patch", "code_dim", "encoder_width", "decoder_width"):
            if getattr(self, name) % 2:
                raise TokenizerError(f"config: expected an even {name}, found {getattr(self, name)}")
        if self.self_paired > self.codebook_size or (self.codebook_size - self.self_paired) % 2:
            raise TokenizerError(
                f"config: expected self_paired to leave pairs of {self.codebook_size} codes, found "
                f"{self.self_paired}"
            )

    @property
    def blocks(self) -> int:
        """The blocks of encoder and decoder."""
        return self.encoder_blocks + self.decoder_blocks

    @classmethod
    def of_codes(cls, name: str, codebook_size: int) -> SymmetricVQConfig:
        """Return the default shape for a number of codes, of which a quarter are their own partners."""
        alone = max(1, codebook_size // 4)
        alone += (codebook_size - alone) % 2
        return cls(name=name, codebook_size=codebook_size, self_paired=alone)

    def build(self) -> SymmetricVQ:
        """Return a model of this shape, with new weights."""
        return SymmetricVQ(self)


class TiedLinear(nn.Module):
    """A pointwise tied layer (2B, H, W, m) to (2B, H, W, n) of half the products of an ordinary one.

    Sums of the halves go through one matrix, differences through another: out_a and out_b are the sum and the
    difference of the two results.
    """

    def __init__(self, half_in: int, half_out: int, *, zero: bool = False) -> None:
        super().__init__()
        self.even = Pointwise(half_in, half_out)
        self.odd = Pointwise(half_in, half_out, bias=False)
        for weight in (self.even.weight, self.odd.weight):
            nn.init.zeros_(weight) if zero else nn.init.kaiming_uniform_(weight, a=11**0.5)
        if zero:
            nn.init.zeros_(self.even.bias)

    def mixed(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the halves (B, H, W, n) for halves that are turned the same way."""
        even, odd = self.even(a + b), self.odd(a - b)
        return even + odd, even - odd

    def forward(self, x: Tensor) -> Tensor:  # 2B, H, W, m
        """Return pairs for pairs."""
        a, b = x.chunk(2)
        out_a, out_b = self.mixed(a, b.flip(2))
        return torch.cat((out_a, out_b.flip(2)))


class Block(nn.Module):
    """A block of a 3x3 depthwise convolution of each half, and a tied network twice as wide."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(half, half, 3, padding=1, groups=half)
        self.norm = nn.LayerNorm(half)
        self.expand = TiedLinear(half, 2 * half)
        self.project = TiedLinear(2 * half, half, zero=True)

    def forward(self, x: Tensor) -> Tensor:  # 2B, H, W, m
        """Return pairs of the same shape."""
        y: Tensor = self.norm(self.spatial(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        a, b = y.chunk(2)
        a, b = self.expand.mixed(a, b.flip(2))
        a, b = self.project.mixed(F.gelu(a), F.gelu(b))
        return x + torch.cat((a, b.flip(2)))


class SymmetricVQ(nn.Module):
    """Encoder, codebook and decoder.

    Pixels are floats in -1..1, (B, 3, H, W); latents and embeddings are unit vectors, (B, D, h, w), whose
    first half belongs to the image and whose second half to its mirror image.
    """

    codebook: Tensor  # K, D

    def __init__(self, config: SymmetricVQConfig) -> None:
        super().__init__()
        self.config = config
        pixels, half_code = 3 * config.patch**2, config.code_dim // 2
        encoder, decoder = config.encoder_width // 2, config.decoder_width // 2
        self.from_patch = TiedLinear(pixels // 2, encoder)
        self.encoder = nn.Sequential(*(Block(encoder) for _ in range(config.encoder_blocks)))
        self.to_code = TiedLinear(encoder, half_code)
        self.from_code = TiedLinear(half_code, decoder)
        self.decoder = nn.Sequential(*(Block(decoder) for _ in range(config.decoder_blocks)))
        self.to_patch = TiedLinear(decoder, pixels // 2)
        codebook = torch.empty(config.codebook_size, config.code_dim)
        if not codebook.is_meta:  # which has no values, and for which torch would import its compiler
            codebook = self.closed(F.normalize(codebook.normal_(), dim=1))
        self.register_buffer("codebook", codebook)

    @property
    def partners(self) -> Tensor:
        """The code (K,) int64 of each code's exchanged vector: the permutation of the codes by a mirror."""
        codes = torch.arange(self.config.codebook_size, device=self.codebook.device)
        fixed = self.config.self_paired
        return torch.where(codes < fixed, codes, fixed + ((codes - fixed) ^ 1))

    def closed(self, vectors: Tensor) -> Tensor:
        """Return unit vectors (K, D) that are closed under the exchange of halves, made of any (K, D).

        The first of two partners decides; a code that is its own partner gets the mean of its halves.
        """
        fixed = self.config.self_paired
        first = vectors.clone()
        first[:fixed] += exchanged(vectors[:fixed])
        first = F.normalize(first, dim=1)
        first[fixed + 1 :: 2] = exchanged(first[fixed::2])
        return first

    def latents(self, pixels: Tensor) -> Tensor:
        """Return unit vectors (B, D, h, w) of pixels (B, 3, H, W)."""
        a, b = self.encoder(self.from_patch(self._left_halves(pixels))).chunk(2)
        a, b = (half.float() for half in self.to_code.mixed(a, b.flip(2)))
        squares = a.square().sum(3, keepdim=True) + b.square().sum(3, keepdim=True)
        return (torch.cat((a, b), dim=3) / squares.sqrt().clamp_min(1e-12)).permute(0, 3, 1, 2)

    def _left_halves(self, pixels: Tensor) -> Tensor:
        """Return the left halves of patches of pixels (B, 3, H, W) as pairs (2B, h, w, m).

        subtle: the left halves of the mirror image's patches are the right halves of the image's, mirrored
        """
        patch = self.config.patch
        rows, columns = (side // patch for side in pixels.shape[2:])
        both = torch.cat((pixels, pixels.flip(3))).contiguous()
        halves = both.view(-1, 3, rows, patch, columns, patch)[..., : patch // 2]
        return halves.permute(0, 2, 4, 1, 3, 5).flatten(3)

    def nearest(self, latents: Tensor) -> Tensor:
        """Return codes (B, h, w) int64 of latents (B, D, h, w).

        The similarities to the two codes of a pair are the sum and the difference of two products, those of
        sums and of differences of halves. A latent as near to a code as to its partner gets the nearest code
        that is its own partner, as its mirror image does.
        """
        a, b = latents.permute(0, 2, 3, 1).flatten(0, 2).chunk(2, dim=1)
        rows = torch.cat((a + b, a - b), dim=1)
        table = self._sums_and_differences
        asks = latents.device.type == "cpu" and not torch.compiler.is_compiling()
        codes = torch.cat(
            [self._nearest(similarities(table, part), asks=asks) for part in in_parts(rows, len(table))]
        )
        return codes.view(len(latents), *latents.shape[2:])

    def _nearest(self, products: Tensor, *, asks: bool) -> Tensor:
        """Return codes (n,) for products (self-paired and pairs, pairs; n) of sums, then of differences.

        `asks` says to ask first whether any latent is between two partners, for which a GPU would be waited.
        """
        fixed, size = self.config.self_paired, self.config.codebook_size
        along, across = torch.split(products, [(size + fixed) // 2, (size - fixed) // 2])
        if not len(across):
            return largest(along)
        along[fixed:] += across.abs()
        best = largest(along)
        pair = (best - fixed).clamp_min(0)
        side = across.gather(0, pair[None])[0]
        codes = torch.where(best < fixed, best, fixed + 2 * pair + (side < 0))
        between = (best >= fixed) & (side.abs() <= TIE)
        if not fixed:
            return codes
        if not asks:
            return torch.where(between, largest(along[:fixed]), codes)
        if bool(between.any()):
            codes[between] = largest(along[:fixed, between])
        return codes

    @property
    def _sums_and_differences(self) -> Tensor:
        """The rows (K, D) whose products with (a + b, a - b) are those of sums, then those of differences.

        Zeros fill the other half of each: one product of all is faster than two of half the width.
        """
        first, second = self.codebook.chunk(2, dim=1)
        representatives = self._representatives
        sums = (first + second)[representatives]
        differences = (first - second)[representatives[self.config.self_paired :]]
        return torch.cat((F.pad(sums, (0, sums.shape[1])), F.pad(differences, (sums.shape[1], 0))))

    @property
    def _representatives(self) -> Tensor:
        """The numbers of the codes that are their own partners, then of the first code of each pair."""
        fixed, size = self.config.self_paired, self.config.codebook_size
        device = self.codebook.device
        return torch.cat((torch.arange(fixed, device=device), torch.arange(fixed, size, 2, device=device)))

    def embed(self, codes: Tensor) -> Tensor:
        """Return embeddings (B, D, h, w) of codes (B, h, w)."""
        return F.embedding(codes, self.codebook).permute(0, 3, 1, 2)

    def pixels(self, embeddings: Tensor) -> Tensor:
        """Return pixels (B, 3, H, W) of embeddings (B, D, h, w)."""
        a, b = embeddings.permute(0, 2, 3, 1).chunk(2, dim=3)
        x = self.to_patch(self.decoder(self.from_code(torch.cat((a, b.flip(2))))))
        left, right = x.chunk(2)  # subtle: the right half of a patch is the left half of its mirror image
        batch, rows, columns, _ = left.shape
        patch = self.config.patch
        halves = [half.reshape(batch, rows, columns, 3, patch, patch // 2) for half in (left, right.flip(2))]
        patches = torch.cat((halves[0], halves[1].flip(5)), dim=5).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(batch, 3, rows * patch, columns * patch).float()

    def save(self, path: Path) -> None:
        """Write the model to a weights file."""
        save_weights(self, path)

    def tokenizer(self) -> SymmetricVQTokenizer:
        """Return the tokenizer of this model."""
        return SymmetricVQTokenizer(self)


def exchanged(vectors: Tensor) -> Tensor:
    """Return vectors (..., D) with their halves exchanged: those of the mirror image."""
    return vectors.roll(vectors.shape[-1] // 2, -1)


def save_weights(model: SymmetricVQ, path: Path) -> None:
    """Write a model as safetensors: networks in float16, the codebook in float32."""
    save_model(path, model, FORMAT, model.config)


def load_weights(path: Path) -> SymmetricVQ:
    """Load the model in a file that save_weights wrote, in float32 and eval mode.

    Raises TokenizerError where the file is absent or damaged, has other tensors than its config asks for, or
    a codebook that is not closed under the exchange of halves.
    """
    model = load_model(path, FORMAT, SymmetricVQConfig.from_json, SymmetricVQ)
    if not torch.equal(exchanged(model.codebook), model.codebook[model.partners]):
        raise TokenizerError(
            f"{path}: expected each code's exchanged vector at its partner in the codebook, found others"
        )
    return model


class SymmetricVQTokenizer(ImageTokenizer):
    """The Tokenizer over a trained SymmetricVQ."""

    network: SymmetricVQ

    def __init__(self, model: SymmetricVQ) -> None:
        super().__init__(model)
        config = model.config
        self.name = config.name
        self.image_size = config.image_size
        self.stride = config.patch
        self.codebook_sizes = (config.codebook_size,)
        # subtle: with numbers near one, whatever the dimension, published strengths of noise mean the same
        self.codebook = model.codebook.cpu().numpy() * np.float32(config.code_dim**0.5)
        self.fingerprint = weights_fingerprint(f"{FORMAT}\n{config.to_json()}", model.state_dict())

    @classmethod
    def load(cls, path: str | Path) -> SymmetricVQTokenizer:
        """Load the tokenizer of a weights file; raise TokenizerError if it cannot be loaded."""
        return cls(load_weights(Path(path)))

    @property
    def symmetries(self) -> Symmetries:
        """The permutation (K,) of codes by `flip`: codes of a mirror image are permuted, mirrored codes."""
        return {FLIP: self.network.partners.cpu().numpy().astype(np.int32)}

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        return self.network.nearest(self.network.latents(to_pixels(images)))

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        return to_images((self.network.pixels(self.network.embed(codes)) + 1) / 2)


def load(argument: str | None) -> SymmetricVQTokenizer:
    """Load the tokenizer of a weights file, or the one that ships with the package."""
    return SymmetricVQTokenizer.load(PACKAGED_WEIGHTS if argument is None else argument)
