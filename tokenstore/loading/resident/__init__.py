"""Tokens that stay compressed in a device's memory and are decoded there, a batch at a time."""

from tokenstore.resident.bitpack import unpack
from tokenstore.resident.context import ContextDecoder
from tokenstore.resident.tokens import ResidentTokens

__all__ = ["ContextDecoder", "ResidentTokens", "unpack"]
