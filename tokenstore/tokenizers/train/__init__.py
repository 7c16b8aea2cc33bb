"""The training of tokenizers: two Python calls, each of which one command runs.

`train_tokenizer(images, out)` trains a tokenizer of the default kind from scratch. `fit_codebook(images, out,
autoencoder=...)` learns a codebook over the latents of an existing autoencoder. `run` and `fit` have the two
calls, `trainer` the steps of the first and `fitting` those of the second; `kmeans` is shared, `images` lists
what is trained on and what is held out.

This package imports `networks`, `sources` and the rest of `tokenizers`. Its names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from tokenstore.tokenizers.train.fit import FittedCodebook, fit_codebook
    from tokenstore.tokenizers.train.fitting import FitReport
    from tokenstore.tokenizers.train.images import ImageRef, ImageSet, list_images
    from tokenstore.tokenizers.train.run import TrainedTokenizer, TrainingSettings, train_tokenizer

__all__ = [
    "FitReport",
    "FittedCodebook",
    "ImageRef",
    "ImageSet",
    "TrainedTokenizer",
    "TrainingSettings",
    "fit_codebook",
    "list_images",
    "train_tokenizer",
]

_HOMES = {
    "FitReport": "fitting",
    **dict.fromkeys(("FittedCodebook", "fit_codebook"), "fit"),
    **dict.fromkeys(("ImageRef", "ImageSet", "list_images"), "images"),
    **dict.fromkeys(("TrainedTokenizer", "TrainingSettings", "train_tokenizer"), "run"),
}


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
