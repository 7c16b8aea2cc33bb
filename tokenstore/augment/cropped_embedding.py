"""The training input of a network that reads embeddings: codes looked up, and random-resized-cropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tokenstore.augment.codebooks import check_dtype
from tokenstore.augment.crops import RandomResizedCrop
from tokenstore.augment.crops_cpu import check_out, embed_resized_crop
from tokenstore.augment.embedding import CodebookEmbedding

__all__ = ["CroppedEmbedding"]


class CroppedEmbedding(nn.Module):
    """The composition `crop(CodebookEmbedding(codebook)(codes))`, in one pass on the CPU.

    Codes (B, H, W) of any integer dtype become embeddings (B, C, *crop.size) float32. On the CPU one thread
    makes one compiled pass without the GIL, so a loader's threads run side by side. Other devices look codes
    up, then crop. With labels, in a TokenLoader:

        cropped = CroppedEmbedding(codebook, RandomResizedCrop(28))

        def training_input(codes, labels, *, generator):
            return cropped(codes, generator=generator), labels

        TokenLoader(dataset, 256, batch_transform=training_input)

    The same state of the generator gives the same result.
    """

    def __init__(self, codebook: Tensor | npt.NDArray[Any], crop: RandomResizedCrop) -> None:
        super().__init__()
        self.embedding = CodebookEmbedding(codebook)
        self.crop = crop

    def forward(self, codes: Tensor, *, generator: torch.Generator, out: Tensor | None = None) -> Tensor:
        """Return cropped embeddings (B, C, *size), in `out` where it is given.

        `out` is a contiguous float32 buffer on the codes' device. Raises CodecError as CodebookEmbedding
        does, and ValueError where shapes do not fit.
        """
        check_dtype(codes)
        if codes.ndim != 3:
            raise ValueError(f"expected codes (B, H, W), found shape {tuple(codes.shape)}")
        codebook = self.embedding.codebook
        grid = codes.shape[1], codes.shape[2]
        size = self.crop.size_of(grid)
        shape = (len(codes), codebook.shape[1], *size)
        if codes.device.type != "cpu":
            cropped: Tensor = self.crop(self.embedding(codes), generator=generator)
            if out is None:
                return cropped
            check_out(out, shape)
            return out.copy_(cropped)
        if out is None:
            # numpy asks the system for large pages; torch does not, which costs up to half the time
            out = torch.from_numpy(np.empty(shape, np.float32))
        boxes = self.crop.boxes(len(codes), grid, generator).cpu()
        embed_resized_crop(codes, codebook, boxes, size, self.crop.interpolation, out)
        return out
