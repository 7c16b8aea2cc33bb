"""The quality of rebuilt images: PSNR, SSIM and the use of codes.

torchmetrics takes seconds to import, so it is imported when something is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokenstore.errors import TokenizerError
from tokenstore.networks.torchvision import import_torchvision
from tokenstore.tokenizers.base import Tokenizer

PEAK = 255.0
PSNR_CEILING = 100.0
"""The largest PSNR in dB, so that an image without any error leaves a mean finite."""
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
"""The Gaussian window of Wang et al. 2004 (https://doi.org/10.1109/TIP.2003.819861), in pixels."""


def psnr(images: Tensor, rebuilt: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image, (B,), in dB, of uint8 images (B, 3, H, W)."""
    import_torchvision()  # torchmetrics imports torchvision
    from torchmetrics.functional.image import peak_signal_noise_ratio

    _check_pair(images, rebuilt)
    ratio = peak_signal_noise_ratio(rebuilt, images, PEAK, reduction="none", dim=(1, 2, 3))
    return ratio.clamp(max=PSNR_CEILING)


def ssim(images: Tensor, rebuilt: Tensor) -> Tensor:
    """Return the structural similarity of each image, (B,), over RGB, of uint8 images (B, 3, H, W).

    Images are mirrored at their borders. Raises TokenizerError if they are smaller than half a window.
    """
    import_torchvision()
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check_pair(images, rebuilt)
    if min(images.shape[2:]) <= SSIM_WINDOW // 2:
        raise TokenizerError(
            f"expected images of more than {SSIM_WINDOW // 2} pixels a side for SSIM, found "
            f"{tuple(images.shape[2:])}"
        )
    similarity = structural_similarity_index_measure(
        rebuilt.float(),
        images.float(),
        gaussian_kernel=True,
        sigma=SSIM_SIGMA,
        kernel_size=SSIM_WINDOW,
        reduction="none",
        data_range=PEAK,
    )
    assert isinstance(similarity, Tensor)  # it is a pair where the whole map is asked for too
    return similarity


def pairwise(
    images: npt.NDArray[np.uint8], rebuilt: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return PSNR (n,) and SSIM (n,) of images (n, H, W, 3) and their reconstructions."""
    pair = [torch.from_numpy(array).permute(0, 3, 1, 2) for array in (images, rebuilt)]
    return psnr(*pair).numpy(), ssim(*pair).numpy()


def _check_pair(images: Tensor, rebuilt: Tensor) -> None:
    if images.shape != rebuilt.shape or images.ndim != 4 or {images.dtype, rebuilt.dtype} != {torch.uint8}:
        raise TokenizerError(
            f"expected images and their reconstructions (B, 3, H, W) uint8, found {tuple(images.shape)} "
            f"{images.dtype} and {tuple(rebuilt.shape)} {rebuilt.dtype}"
        )


@dataclass(frozen=True)
class Quality:
    """The quality of a set of rebuilt images: means over images, and the use of codes."""

    images: int
    psnr: float
    ssim: float
    perplexity: float
    """The perplexity of the codes; with several codebooks, the mean over them."""
    unused_codes: int
    """The number of codes without use, of all codebooks together."""
    images_per_second: float

    def __str__(self) -> str:
        return (
            f"{self.images} images: PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.3f}, perplexity "
            f"{self.perplexity:.0f}, unused codes {self.unused_codes:,}, encoded one by one at "
            f"{self.images_per_second:.1f} images/s"
        )


def evaluate(tokenizer: Tokenizer, images: Iterable[Tensor]) -> Quality:
    """Encode and decode images, each (3, H, W) uint8, and measure; at least one image is required."""
    sizes = tokenizer.codebook_sizes
    drawn: list[list[Tensor]] = [[] for _ in sizes]
    noise, similarity, seconds = [], [], 0.0
    for image in images:
        start = time.perf_counter()
        codes = tokenizer.encode(image[None])
        seconds += time.perf_counter() - start
        rebuilt = tokenizer.decode(codes).cpu()
        planes = [codes] if len(sizes) == 1 else codes.unbind(1)
        for codes_so_far, plane in zip(drawn, planes, strict=True):
            codes_so_far.append(plane.flatten().cpu())
        noise.append(psnr(image[None], rebuilt).item())
        similarity.append(ssim(image[None], rebuilt).item())
    # only codes that occur are counted: a codebook may be too large for an array of counts
    counted = [np.unique(torch.cat(codes).numpy(), return_counts=True)[1] for codes in drawn]
    uses = [torch.from_numpy(counts) for counts in counted]
    return Quality(
        images=len(noise),
        psnr=float(np.mean(noise)),
        ssim=float(np.mean(similarity)),
        perplexity=float(np.mean([_perplexity(use) for use in uses])),
        unused_codes=sum(size - len(use) for size, use in zip(sizes, uses, strict=True)),
        images_per_second=len(noise) / seconds,
    )


def _perplexity(uses: Tensor) -> float:
    share = uses.double() / uses.sum()
    return float(torch.exp(torch.special.entr(share).sum()))
