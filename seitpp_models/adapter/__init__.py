"""The training of TokenAdapt, which augments tokens as images are augmented.

One front door: `train_tokenadapt` trains a TokenAdapt for a tokenizer, on images, and writes its weights.

    from seitpp_models.adapter import train_tokenadapt
    train_tokenadapt("photos/", "adapter.safetensors").quality["flip"].psnr

Inside: `run` has the call, `trainer` the steps, `pairs` the tokens that are learned from, `start` the weights
that a run begins with, `tokens` are those of the tokenizer, and `evaluation` compares adapted tokens with
those of augmented images. This wing may import tokenstore, `seitpp_models.networks` and
`seitpp_models.errors`. Its names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from seitpp_models.adapter.evaluation import AdapterQuality, evaluate_adapter
    from seitpp_models.adapter.run import AdapterSettings, TrainedAdapter, train_tokenadapt
    from seitpp_models.adapter.trainer import AdapterTrainer, AdapterTrainingConfig

__all__ = [
    "AdapterQuality",
    "AdapterSettings",
    "AdapterTrainer",
    "AdapterTrainingConfig",
    "TrainedAdapter",
    "evaluate_adapter",
    "train_tokenadapt",
]

_HOMES = {
    "AdapterQuality": "evaluation",
    "AdapterSettings": "run",
    "AdapterTrainer": "trainer",
    "AdapterTrainingConfig": "trainer",
    "TrainedAdapter": "run",
    "evaluate_adapter": "evaluation",
    "train_tokenadapt": "run",
}
"""The module of each name."""

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
