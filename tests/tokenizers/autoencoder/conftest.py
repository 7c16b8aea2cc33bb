"""Images, autoencoders and a codebook fitted to both.

Diffusers is imported when a test asks for a fixture: where it is not installed, the tests are skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSplit


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write twelve files, one of which is not an image."""
    from helpers.autoencoder_models import smooth_images

    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(smooth_images(12)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:02d}.png")
    (folder / "03.png").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="session")
def split(folder: Path) -> ImageSplit:
    """Open the folder's only split."""
    return next(iter(open_source(folder).splits.values()))  # type: ignore[return-value]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save a folder for each class that can be used."""
    from helpers.autoencoder_models import make_dc, make_kl, make_tiny

    root = tmp_path_factory.mktemp("models")
    for name, make in (("kl", make_kl), ("tiny", make_tiny), ("dc", make_dc)):
        make().save_pretrained(root / name)
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="session")
def fitted(split: ImageSplit, models: dict[str, Path]) -> Any:
    """Fit a small codebook to the images' latents."""
    from helpers.autoencoder_models import fit

    return fit(split, models["kl"])
