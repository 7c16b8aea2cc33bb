"""Tokenizers: images to codes and back."""
