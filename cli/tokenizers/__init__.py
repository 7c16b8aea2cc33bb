"""The commands about tokenizers: list them, train one, fit a codebook."""
