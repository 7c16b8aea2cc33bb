"""The context codec: lossless entropy coding of grids of codes, every sample on its own."""

from __future__ import annotations

from tokenstore.codecs.context.codec import Context, Located
from tokenstore.codecs.context.fitting import fit_context
from tokenstore.codecs.context.model import ContextModel

__all__ = ["Context", "ContextModel", "Located", "fit_context"]
