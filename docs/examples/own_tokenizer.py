"""A tokenizer of one's own: python own_tokenizer.py photos/ grey.zarr."""

import sys

import torch

import tokenstore
from tokenstore.tokenizers import TokenizerBase


class Greys(TokenizerBase, torch.nn.Module):
    """Each 16x16 pixels become one of 64 greys."""

    name = "greys"
    codebook_sizes = (64,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("levels", torch.linspace(0, 255, 64))  # its fingerprint follows from its weights

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the nearest grey of each patch of images (B, 3, H, W) uint8: (B, H / 16, W / 16)."""
        patches = torch.nn.functional.avg_pool2d(inputs.float().mean(1, keepdim=True), 16)
        return (patches - self.levels.view(1, -1, 1, 1)).abs().argmin(1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, H, W) uint8 of flat patches; only needed to look at images again."""
        grey = self.levels[codes.long()].repeat_interleave(16, 1).repeat_interleave(16, 2)
        return grey.round().to(torch.uint8).unsqueeze(1).expand(-1, 3, -1, -1)


def main(images: str, store: str) -> None:
    """Convert images by the tokenizer, and draw what its codes decode to."""
    tokenstore.convert(images, store, tokenizer=Greys())
    tokenstore.preview(store, f"{store}.png", tokenizer=Greys())


if __name__ == "__main__":
    main(*sys.argv[1:])
