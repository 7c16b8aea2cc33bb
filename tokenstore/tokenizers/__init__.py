"""Tokenizers: images to codes and back."""

from __future__ import annotations

from tokenstore.tokenizers.base import FileTokenizer, Tokenizer
from tokenstore.tokenizers.codebooks import load_codebook
from tokenstore.tokenizers.registry import TOKENIZERS, TokenizerKind, load_tokenizer

__all__ = ["TOKENIZERS", "FileTokenizer", "Tokenizer", "TokenizerKind", "load_codebook", "load_tokenizer"]
