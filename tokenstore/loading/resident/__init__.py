"""Tokens that stay compressed in a device's memory and are decoded there, a batch at a time."""

from tokenstore.loading.resident.bitpack import unpack
from tokenstore.loading.resident.context import ContextDecoder
from tokenstore.loading.resident.tokens import ResidentTokens

__all__ = ["ContextDecoder", "ResidentTokens", "unpack"]
