"""The parts that networks of tokenizers, of TokenAdapt and of `seitpp_models` share.

- `runs` trains in a folder: steps, checkpoints and a log, to resume from. `ResumableRun` is the run's state,
  and `run_steps` trains it to the end.
- `states` reads a run's checkpoint and compares it with the run; `tensor_files` compares what a safetensors
  file declares with the network that it asks for, before memory is taken.
- `records` writes down how a training was begun.
- `pointwise` computes linear layers by the fastest kernel of a CPU.
- `transformer` has the blocks of ViT-VQGAN and TokenAdapt.
- `checkpoints` reads tensors out of files of other programs, and runs nothing in them.
- `precision`, `threads` and `torchvision` ask the machine and the installation what they can do.

May import: `errors`, `files`, `machine`. The names below are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from tokenstore.networks.checkpoints import read_checkpoint
    from tokenstore.networks.pointwise import Pointwise, pointwise
    from tokenstore.networks.precision import Precision, computes_in_bfloat16, has_bfloat16
    from tokenstore.networks.runs import ResumableRun, run_steps
    from tokenstore.networks.threads import torch_threads
    from tokenstore.networks.torchvision import import_torchvision
    from tokenstore.networks.transformer import Transformer, sin_cos_table

__all__ = [
    "Pointwise",
    "Precision",
    "ResumableRun",
    "Transformer",
    "computes_in_bfloat16",
    "has_bfloat16",
    "import_torchvision",
    "pointwise",
    "read_checkpoint",
    "run_steps",
    "sin_cos_table",
    "torch_threads",
]

_HOMES = {
    "Pointwise": "pointwise",
    "Precision": "precision",
    "ResumableRun": "runs",
    "Transformer": "transformer",
    "computes_in_bfloat16": "precision",
    "has_bfloat16": "precision",
    "import_torchvision": "torchvision",
    "pointwise": "pointwise",
    "read_checkpoint": "checkpoints",
    "run_steps": "runs",
    "sin_cos_table": "transformer",
    "torch_threads": "threads",
}
"""The module of each name."""

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
