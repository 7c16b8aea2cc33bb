"""The quality of a store's reconstructions: PSNR and SSIM against the images as the tokenizer saw them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenstore.audit.originals import ComparedSamples, Comparison, check_some_compared
from tokenstore.audit.reconstruct import decode_samples
from tokenstore.reading import TokenStore
from tokenstore.sources.base import ImageSource
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.quality import pairwise


@dataclass(frozen=True)
class SplitQuality(ComparedSamples):
    """The quality of a split's reconstructions: means over the samples, None without any sample."""

    psnr: float | None = None
    """The PSNR in dB; each sample counts up to `quality.PSNR_CEILING`."""
    ssim: float | None = None


def measure_quality(
    store: TokenStore, tokenizer: Tokenizer, source: ImageSource, samples: int
) -> dict[str, SplitQuality]:
    """Measure PSNR and SSIM of up to `samples` reconstructions, evenly spaced over each split.

    Of a store with views, view 0 is measured. Raises SourceError if none of their images can be read,
    TokenizerError for a tokenizer that does not decode to images, DamageError for damaged codes.
    """
    splits = {}
    for name in store.splits:
        comparison = Comparison(store, name, source)
        noise: list[float] = []
        similarity: list[float] = []
        for indices, images in comparison.batches(samples):
            psnr, ssim = pairwise(images, decode_samples(store, name, indices, tokenizer))
            noise += psnr.tolist()
            similarity += ssim.tolist()
        means = (float(np.mean(noise)), float(np.mean(similarity))) if noise else (None, None)
        splits[name] = SplitQuality(**comparison.counts, psnr=means[0], ssim=means[1])
    check_some_compared(splits)
    return splits
