"""The quality of a store's reconstructions: PSNR and SSIM against the images as the tokenizer saw them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.audit.originals import ComparedSamples, Comparison, check_some_compared
from tokenstore.audit.reconstruct import decode_samples
from tokenstore.reading import Indices, TokenStore
from tokenstore.sources.base import ImageSource
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.quality import pairwise

DECODED_AT_ONCE = 8
"""The samples that are decoded together: the activations of large images take much memory."""


@dataclass(frozen=True)
class SplitQuality(ComparedSamples):
    """The quality of a split's reconstructions: means over the samples, None without any sample."""

    psnr: float | None = None
    """The PSNR in dB; each sample counts up to `quality.PSNR_CEILING`."""
    ssim: float | None = None


@dataclass(frozen=True)
class ComparedImages:
    """Some samples of a split, compared with their images."""

    split: str
    indices: Indices
    """The samples (m,) int64, counted from the split's first."""
    images: npt.NDArray[Any]
    """Their images as the tokenizer saw them (m, H, W, 3) uint8."""
    rebuilt: npt.NDArray[Any]
    """The images that their codes decode to (m, H, W, 3) uint8."""
    psnr: npt.NDArray[Any]
    """The PSNR (m,) of each in dB."""
    ssim: npt.NDArray[Any]
    """The SSIM (m,) of each."""


def measure_quality(
    store: TokenStore,
    tokenizer: Tokenizer,
    source: ImageSource,
    samples: int,
    on_compared: Callable[[ComparedImages], object] | None = None,
) -> dict[str, SplitQuality]:
    """Measure PSNR and SSIM of up to `samples` reconstructions, evenly spaced over each split.

    Of a store with views, view 0 is measured. `on_compared` is called with each batch.
    Raises SourceError if none of their images can be read,
    TokenizerError for a tokenizer that does not decode to images, DamageError for damaged codes.
    """
    splits = {}
    for name in store.splits:
        comparison = Comparison(store, name, source)
        noise: list[float] = []
        similarity: list[float] = []
        for indices, images in comparison.batches(samples):
            rebuilt = decode_samples(store, name, indices, tokenizer, DECODED_AT_ONCE)
            psnr, ssim = pairwise(images, rebuilt)
            if on_compared is not None:
                on_compared(ComparedImages(name, indices, images, rebuilt, psnr, ssim))
            noise += psnr.tolist()
            similarity += ssim.tolist()
        means = (float(np.mean(noise)), float(np.mean(similarity))) if noise else (None, None)
        splits[name] = SplitQuality(**comparison.counts, psnr=means[0], ssim=means[1])
    check_some_compared(splits)
    return splits
