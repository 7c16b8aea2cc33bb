"""The tokens of a tokenizer as TokenAdapt takes and gives them: codes of some codebooks, or numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from seitpp_models.errors import ModelError
from seitpp_models.networks.token_form import TokenForm, form_of_tokenizer, scales_of
from tokenstore.augment import TokenVectors
from tokenstore.errors import AdapterError
from tokenstore.tokenizers import Tokenizer

__all__ = ["AdapterTokens", "tokens_of"]


class AdapterTokens:
    """The way from a tokenizer's codes (B, *grid) to tokens and their vectors, and back to codes."""

    def __init__(self, form: TokenForm, scales: Sequence[float] = ()) -> None:
        """Take tokens of a form; `scales` divide the channels of numbers.

        Raises AdapterError for codes without vectors, and for lists.
        """
        if form.is_list:
            raise AdapterError(
                f"{form.where}: expected a tokenizer of grids (H, W), which move as images do, found one of "
                f"lists of {form.grid[1]} codes"
            )
        self.form = replace(form, columns=())  # numbers of the tokenizer's own tables
        self.scales = tuple(scales)
        self._arranged = self.form.arranged(as_codes=form.numbers is None, scales=scales)
        try:
            self.vectors: TokenVectors = form.vectors()
        except ModelError as error:
            raise AdapterError(
                f"{form.where}: expected a tokenizer with vectors of its codes, found none"
            ) from error

    @property
    def codebook_size(self) -> int | tuple[int, ...]:
        """The `codebook_size` of an adapter for the tokens."""
        return () if self.form.numbers is not None else self.form.codebook_size

    def to(self, device: torch.device) -> AdapterTokens:
        """Move the vectors to a device, and return the same object."""
        self.vectors = self.vectors.to(device)
        return self

    def tokens(self, codes: Tensor) -> Tensor:
        """Return the tokens of codes: codes (B, H, W) or (B, n, H, W), or numbers (B, C, H, W)."""
        tokens: Tensor = self._arranged(codes)
        return tokens

    def embeddings(self, codes: Tensor) -> Tensor:
        """Return the embeddings (B, C, H, W) of codes."""
        embeddings: Tensor = self.vectors(self.tokens(codes))
        return embeddings

    def codes(self, tokens: Tensor) -> Tensor:
        """Return the tokenizer's codes (B, *grid) of tokens that an adapter gives."""
        form = self.form
        if form.numbers is not None:
            scales = torch.tensor(self.scales, device=tokens.device)[:, None, None]
            return form.numbers.nearest_codes(tokens * scales)
        if form.digits is None:
            return tokens
        codes, radix = torch.zeros_like(tokens[:, 0]), 1
        for digits, levels in zip(tokens.unbind(1), form.digits.levels, strict=True):
            codes, radix = codes + radix * digits, radix * levels
        return codes

    def loss(self, outputs: Tensor, tokens: Tensor) -> Tensor:
        """Return the loss () of g's outputs (B, K, h, w) for tokens.

        It is the cross-entropy in nats, of several codebooks the mean, or of numbers the mean squared error.
        """
        sizes = self.vectors.codebook_sizes
        if not sizes:
            return F.mse_loss(outputs, tokens)
        if len(sizes) == 1:
            return F.cross_entropy(outputs, tokens)
        parts = zip(torch.split(outputs, list(sizes), 1), tokens.unbind(1), strict=True)
        return torch.stack([F.cross_entropy(logits, plane) for logits, plane in parts]).mean()

    def right(self, outputs: Tensor, tokens: Tensor) -> Tensor:
        """Return the share () of tokens that g's outputs have right; of numbers, of their square."""
        sizes = self.vectors.codebook_sizes
        if not sizes:
            return 1 - F.mse_loss(outputs, tokens) / tokens.square().mean().clamp(min=1e-12)
        if len(sizes) == 1:
            return (outputs.argmax(1) == tokens).float().mean()
        likeliest = [part.argmax(1) for part in torch.split(outputs, list(sizes), 1)]
        return (torch.stack(likeliest, 1) == tokens).float().mean()


def tokens_of(tokenizer: Tokenizer, grid: tuple[int, ...], codes: Iterable[Tensor] = ()) -> AdapterTokens:
    """Return the tokens of a tokenizer with a grid; of numbers, the scales are those of `codes` (B, *grid).

    Raises AdapterError for a tokenizer whose tokens cannot be adapted.
    """
    try:
        form = form_of_tokenizer(tokenizer, grid)
    except ModelError as error:
        raise AdapterError(str(error)) from error
    plain = AdapterTokens(form)
    if form.numbers is None:
        return plain
    squares, count = torch.zeros(form.channels_of_numbers, dtype=torch.float64), 0
    for part in codes:
        numbers = plain.tokens(part).double()
        squares += numbers.square().sum((0, 2, 3)).cpu()
        count += numbers[:, 0].numel()
    return AdapterTokens(form, scales_of(squares.numpy(), count))
