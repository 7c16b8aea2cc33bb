"""Small networks with random weights, a store that fits them, and the command that evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner, Result
from tokenstore_cli.seitpp import cli
from torch import Tensor, nn

from helpers.stores import Samples, random_codes, write_store
from seitpp_models.weights.files import TrainedModel, build_model, save_model
from tokenstore.format.manifest import TokenizerIdentity

NAMES = ("n01", "n02", "n03", "n04", "n05", "n06")
TEST = TokenizerIdentity("test", "ab" * 32)
K, GRID, SAMPLES = 16, (8, 8), 20
VIT = {"size": "tiny", "grid": GRID, "depth": 1, "channels": 4, "num_classes": len(NAMES)}
MASKED = {
    "codebook_size": K,
    "channels": 4,
    "grid": GRID,
    "width": 32,
    "depth": 1,
    "heads": 2,
    "decoder_width": 32,
    "decoder_depth": 1,
    "decoder_heads": 2,
}
CODES = random_codes(SAMPLES, (10, 10), K)
LABELS = (np.arange(SAMPLES) % len(NAMES)).astype(np.int32)
MASKS = np.random.default_rng(0).integers(0, 3, (SAMPLES, 40, 40), np.uint8)
MASKS[:, :12] = 255
CODEBOOK = np.random.default_rng(1).normal(size=(K, 4)).astype(np.float32)


def trained(kind: str, arguments: dict[str, Any], **facts: Any) -> TrainedModel:
    torch.manual_seed(0)
    model = build_model(kind, arguments).eval()
    for parameter in model.parameters():  # heads begin as zeros
        nn.init.normal_(parameter, std=0.3)
    return TrainedModel(model, kind, arguments, **({"tokenizer": TEST, "labels": NAMES} | facts))


def saved(network: TrainedModel, path: Path) -> Path:
    save_model(network, path)
    return path


def batches(*columns: Any, size: int = 7) -> list[tuple[Tensor, ...]]:
    tensors = [torch.from_numpy(np.asarray(column)) for column in columns]
    parts = [tensor.long().split(size) for tensor in tensors]
    return list(zip(*parts, strict=True))


def run(*words: object) -> Result:
    threads = torch.get_num_threads()
    try:
        return CliRunner().invoke(cli, ["evaluate", "--threads", "1", "--workers", "0", *map(str, words)])
    finally:
        torch.set_num_threads(threads)


def said(result: Result) -> str:
    """Return the output of a command that ended well, or its error, in one line."""
    return " ".join(result.output.split())


class Lookup(nn.Module):
    """Logits of a sample are the row that its first code names."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, codes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        assert not self.training
        found = self.logits[codes[:, 0, 0]]
        return found if size is None else found[:, :, None, None].expand(-1, -1, *size).clone()


def write_evaluated(path: Path) -> Path:
    """Write twenty samples of six classes with grids of 10x10 and masks of 40x40; a split without either."""
    splits = {"train": Samples(CODES), "val": Samples(CODES, LABELS, {"masks": MASKS})}
    write_store(path, splits, K, tokenizer=TEST, class_names=NAMES, codebook=CODEBOOK)
    return path
