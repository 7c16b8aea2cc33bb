"""Errors of networks and their training."""

from __future__ import annotations

from tokenstore.errors import TokenstoreError

__all__ = ["ModelError"]


class ModelError(TokenstoreError):
    """Weights, or a network and its data, do not fit each other."""
