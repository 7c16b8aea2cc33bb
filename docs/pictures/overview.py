"""The picture docs/pictures/overview.jpg: two photographs, their tokens, and these augmented.

    python docs/pictures/overview.py

The photographs are the two that scikit-learn ships. The captions have the bytes of their files, and of their
codes at 11 bits each.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from tokenstore.augment import augmented_examples, load_adapter
from tokenstore.displays import code_colours
from tokenstore.tokenizers import load_tokenizer

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OUT = Path(__file__).with_suffix(".png")
CODE_BYTES = 32 * 32 * 11 // 8
SIDE = 256
"""The pixels of a photograph's side as the tokenizer takes it."""
TITLES = ("photograph", "tokens", "decoded", "exact flip", "TokenAdapt, a crop", "ColorAdapt")
INK, QUIET = "#1f2328", "#57606a"

Images = npt.NDArray[np.uint8]


def panels(photos: list[Image.Image]) -> list[list[Images]]:
    """Return the images (256, 256, 3) below TITLES, of each photograph."""
    inputs = np.stack([np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for photo in photos])
    tokenizer = load_tokenizer("default")
    codes = tokenizer.encode(torch.from_numpy(inputs).movedim(-1, 1))
    codebook = tokenizer.codebook
    assert codebook is not None
    adapted = augmented_examples(codes, codebook, load_adapter(), symmetries=tokenizer.symmetries)
    chosen = (codes, adapted["exact flip"], adapted["TokenAdapt crop"], adapted["ColorAdapt"])
    decoded = [tokenizer.decode(part).movedim(1, -1).numpy() for part in chosen]
    colours = code_colours(len(codebook), codebook)[codes.numpy()].repeat(8, 1).repeat(8, 2)
    return [[inputs[n], colours[n], *(images[n] for images in decoded)] for n in range(len(photos))]


def draw() -> None:
    """Draw the picture and write it beside this file."""
    sample = load_sample_images()
    sizes = [Path(name).stat().st_size for name in sample.filenames]
    rows = panels([Image.fromarray(pixels) for pixels in sample.images])
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10})
    figure, axes = plt.subplots(2, len(TITLES), figsize=(12, 4.55), dpi=150, facecolor="white")
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            axis = axes[row][column]
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(TITLES[column], color=INK, fontsize=11, pad=6)
        for column, size in enumerate((sizes[row], CODE_BYTES)):
            axes[row][column].set_xlabel(f"{size:,} bytes", color=QUIET, labelpad=4)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.93, bottom=0.055, wspace=0.03, hspace=0.16)
    figure.savefig(OUT)
    plt.close(figure)
    with Image.open(OUT) as drawn:
        drawn.convert("RGB").save(OUT.with_suffix(".jpg"), quality=88)
    OUT.unlink()


if __name__ == "__main__":
    draw()
