"""A pre-training, a fine-tuning and an evaluation: python train_and_evaluate.py photos.zarr runs/."""

import sys
from pathlib import Path

from seitpp_models.evaluation import evaluate
from seitpp_models.training import finetune, pretrain

SMALL = {"batch_size": 32, "epochs": 1, "warmup_epochs": 0, "adapter": "none", "threads": 1}
"""The settings of a run of seconds on a CPU; for a real one, a recipe such as `config="pretrain-one-gpu"`."""


def main(store: str, runs: str) -> None:
    """Train without labels, go on from those weights with labels, and evaluate on the store."""
    network = {"model": "tiny", "depth": 2, "decoder_depth": 1}
    pretrained = pretrain(store, Path(runs, "pretrained"), **network, **SMALL)
    tuned = finetune(store, Path(runs, "tuned"), **SMALL, start=pretrained.weights, held_out=0.2)
    print(tuned.figures)
    print(evaluate(tuned.weights, store=store, split="train").figures)


if __name__ == "__main__":
    main(*sys.argv[1:])
