"""Codecs: codes to bytes and back, each a Zarr v3 codec too (`tokenstore.codecs.zarr`)."""

from __future__ import annotations

from tokenstore.codecs import bitpack

__all__ = ["bitpack"]
