"""Sizes of a tokenizer that is quick to make."""

from __future__ import annotations

from tokenstore.tokenizers.kinds.conv_vq import ConvVQConfig

TINY = ConvVQConfig(
    name="tiny",
    image_size=64,
    codebook_size=16,
    code_dim=8,
    encoder_width=16,
    encoder_blocks=1,
    decoder_width=16,
    decoder_blocks=1,
)
