"""Codes to what a network sees in training: embeddings, random-resized-cropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tokenstore.augment.crops import RandomResizedCrop
from tokenstore.augment.crops_cpu import check_out, embed_resized_crop
from tokenstore.augment.embedding import CodebookEmbedding, check_dtype

__all__ = ["CroppedEmbedding"]


class CroppedEmbedding(nn.Module):
    """`crop(CodebookEmbedding(codebook)(codes))`: codes (B, H, W) to embeddings (B, C, *crop.size) float32.

    Codes are of any integer dtype. On the CPU all is one compiled pass, by one thread without the GIL, so
    that the threads of a loader run it side by side; other devices look up, then crop. With labels, in a
    TokenLoader:

        cropped = CroppedEmbedding(codebook, RandomResizedCrop(28))

        def training_input(codes, labels, *, generator):
            return cropped(codes, generator=generator), labels

        TokenLoader(dataset, 256, batch_transform=training_input)

    `out`, a contiguous float32 buffer on the codes' device, takes the result and is returned. The same state
    of the generator gives the same result. Raises like CodebookEmbedding, and ValueError where shapes do not
    fit.
    """

    def __init__(self, codebook: Tensor | npt.NDArray[Any], crop: RandomResizedCrop) -> None:
        super().__init__()
        self.embedding = CodebookEmbedding(codebook)
        self.crop = crop

    def forward(self, codes: Tensor, *, generator: torch.Generator, out: Tensor | None = None) -> Tensor:
        check_dtype(codes)
        if codes.ndim != 3:
            raise ValueError(f"expected codes (B, H, W), found shape {tuple(codes.shape)}")
        codebook = self.embedding.codebook
        shape = (len(codes), codebook.shape[1], *self.crop.size)
        if codes.device.type != "cpu":
            cropped: Tensor = self.crop(self.embedding(codes), generator=generator)
            if out is None:
                return cropped
            check_out(out, shape)
            return out.copy_(cropped)
        if out is None:
            # numpy asks the system for large pages and torch does not, which costs up to half the time
            out = torch.from_numpy(np.empty(shape, np.float32))
        boxes = self.crop.boxes(len(codes), (codes.shape[1], codes.shape[2]), generator).cpu()
        embed_resized_crop(codes, codebook, boxes, self.crop.size, self.crop.interpolation, out)
        return out
