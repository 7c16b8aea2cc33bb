"""Loading: samples and batches of tokens for a training loop.

`TokenDataset` is a split as a map-style dataset, with views of it; `concat` and `mix` make one dataset of
several. `TokenLoader` is the entry point of training: batches decoded by threads, in an exact order that can
be resumed. `views.py` draws the view of an image that a sample is. `orders.py` has the orders of samples, and
`sampling/` their pure functions. `resident/` decodes tokens that stay compressed in a GPU's memory.
`pipeline.py` and `prefetching.py` are the loader's parts.
Names are imported on first use. Kernels compile on first use too, never at import.

May import: torch, and tokenstore's `errors`, `machine`, `randomness`, `codecs`, `storage`, `format` and
`reading`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from tokenstore.loading.dataset import TokenDataset
    from tokenstore.loading.loader import TokenLoader
    from tokenstore.loading.mixing import MixedDataset, concat, mix
    from tokenstore.loading.orders import Mixing, Shuffle, measure_mixing

__all__ = [
    "MixedDataset",
    "Mixing",
    "Shuffle",
    "TokenDataset",
    "TokenLoader",
    "concat",
    "measure_mixing",
    "mix",
]

_HOMES = {
    "MixedDataset": "mixing",
    "Mixing": "orders",
    "Shuffle": "orders",
    "TokenDataset": "dataset",
    "TokenLoader": "loader",
    "concat": "mixing",
    "measure_mixing": "orders",
    "mix": "mixing",
}
"""The module of every public name."""


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
