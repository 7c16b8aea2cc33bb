"""Tokenizers: images to grids of codes, and back.

The entry point is `load_tokenizer("NAME[:ARGUMENT]")`; `tokenizer_kinds()` lists the names. `base` has the
protocol and a base class for tokenizers of one's own, `kinds/` one model a file, `train/` trains the default
kind and fits codebooks over autoencoders. `encoder` is a tokenizer as conversion uses it, `store_tokenizer`
finds the tokenizer of a store, `quality` measures how well images are rebuilt. Other packages add kinds by
entry points, as `registry` says.

This wing imports `format`, `networks`, `sources` and the wings before them. Its names are imported on first
use: listing the kinds needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from tokenstore.tokenizers.base import (
        FileTokenizer,
        NumberTokenizer,
        SymmetricTokenizer,
        Tokenizer,
        TokenizerBase,
        check_tokenizer,
    )
    from tokenstore.tokenizers.codebooks import load_codebook
    from tokenstore.tokenizers.encoder import Encoder, identity_of, options_of, symmetries_of
    from tokenstore.tokenizers.registry import (
        TOKENIZERS,
        TokenizerKind,
        TrustedSpec,
        check_device,
        load_tokenizer,
        tokenizer_kinds,
    )
    from tokenstore.tokenizers.store_tokenizer import tokenizer_of

__all__ = [
    "TOKENIZERS",
    "Encoder",
    "FileTokenizer",
    "NumberTokenizer",
    "SymmetricTokenizer",
    "Tokenizer",
    "TokenizerBase",
    "TokenizerKind",
    "TrustedSpec",
    "check_device",
    "check_tokenizer",
    "identity_of",
    "load_codebook",
    "load_tokenizer",
    "options_of",
    "symmetries_of",
    "tokenizer_kinds",
    "tokenizer_of",
]

_HOMES = {
    "check_tokenizer": "base",
    **dict.fromkeys(
        ("FileTokenizer", "NumberTokenizer", "SymmetricTokenizer", "Tokenizer", "TokenizerBase"), "base"
    ),
    "load_codebook": "codebooks",
    **dict.fromkeys(("Encoder", "identity_of", "options_of", "symmetries_of"), "encoder"),
    **dict.fromkeys(("TOKENIZERS", "TokenizerKind", "check_device", "load_tokenizer"), "registry"),
    **dict.fromkeys(("TrustedSpec", "tokenizer_kinds"), "registry"),
    "tokenizer_of": "store_tokenizer",
}


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
