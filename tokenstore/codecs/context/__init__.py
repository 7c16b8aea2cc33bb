"""The codec `context`: lossless entropy coding of grids of codes, every sample a stream of its own.

README.md beside this file draws the model, has a glossary, and says how a kernel is changed.
`codec.py` is the codec (`Context`), `model.py` the model that a store keeps (`ContextModel`), `fitting.py`
fits a model to codes (`fit_context`). May import: `bitpack`, `chunks` and `addresses` of this wing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from tokenstore.codecs.context.codec import Context
    from tokenstore.codecs.context.fitting import fit_context
    from tokenstore.codecs.context.model import ContextModel

__all__ = ["Context", "ContextModel", "fit_context"]

_HOMES = {"Context": "codec", "ContextModel": "model", "fit_context": "fitting"}


# Imported on first use: fitting imports numba, which reading a manifest does not need.
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
