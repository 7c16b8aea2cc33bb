"""The lookup of codes in a codebook, which gives embeddings; the base of everything that gives embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from tokenstore.augment.codebooks import Codebook, check_codes, check_dtype, codebook_vectors
from tokenstore.augment.on_codes import SYNONYMS, nearest_codes
from tokenstore.augment.requantise import Requantise

__all__ = ["CodebookEmbedding", "TokenVectors", "Vectors", "deviation_of", "token_vectors"]


class TokenVectors(nn.Module, ABC):
    """The base of modules that give embeddings (B, C, *grid) float32 of a batch of tokens.

    Recipes take such a module in place of a codebook.
    """

    codebook_sizes: tuple[int, ...]
    """The number of codes of each codebook; empty for tokens that are numbers and not codes."""

    by_angle: bool = False
    """True if vectors are compared by their angles, so that their lengths do not count."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """The channels of an embedding, C."""

    @property
    @abstractmethod
    def deviation(self) -> float:
        """The standard deviation of the numbers of embeddings, by which Emb-Noise is measured."""

    @abstractmethod
    def requantiser(self) -> nn.Module | None:
        """Return the module from embeddings back to tokens; None if embeddings are tokens already."""

    def synonyms(self) -> Tensor | None:
        """Return each code's nearest codes (K, M) int64; None if tokens have none."""
        return None

    @abstractmethod
    def read_out(self) -> tuple[Tensor, Tensor, float]:
        """Return a linear map of embeddings, weights (K, C) and biases (K,), and the length of an embedding.

        K counts the codes of all codebooks: of each, the nearest code has the largest result. Of numbers K is
        C, and the results are the numbers.
        """


class CodebookEmbedding(TokenVectors):
    """The lookup of codes (B, *grid) of any integer dtype: embeddings (B, C, *grid) float32.

    `codebook` (K, C) is copied to a buffer, which has no gradient. Raises ValueError for a codebook of
    another rank, and for None.
    """

    by_angle = True
    codebook: Tensor

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.register_buffer("codebook", codebook_vectors(codebook))
        self.codebook_sizes = (len(self.codebook),)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the embeddings of codes, channel-first.

        Raises CodecError for codes that are not integers and, on the CPU, for a code out of range. Other
        devices report a code out of range in torch's way, since a check would wait for the device.
        """
        check_dtype(codes)
        if codes.device.type == "cpu":
            check_codes(codes, len(self.codebook))
        return F.embedding(codes.long(), self.codebook).movedim(-1, 1).contiguous()

    @property
    @override
    def channels(self) -> int:
        return self.codebook.shape[1]

    @property
    @override
    def deviation(self) -> float:
        return deviation_of(self.codebook)

    @override
    def requantiser(self) -> Requantise:
        """Return the module that gives the code of the nearest vector, by cosine similarity."""
        return Requantise(self.codebook)

    @override
    def synonyms(self) -> Tensor | None:
        """Return the nearest codes (K, 5), or all other codes of fewer; None of a single code."""
        most = min(SYNONYMS, len(self.codebook) - 1)
        return nearest_codes(self.codebook, most) if most else None

    @override
    def read_out(self) -> tuple[Tensor, Tensor, float]:
        """Return the cosine similarity to each vector, (K, C), times the usual length of an embedding."""
        rows = F.normalize(self.codebook, dim=1)
        return rows, rows.new_zeros(len(rows)), float(self.codebook.norm(dim=1).mean())

    @override
    def extra_repr(self) -> str:
        return "{} codes of {} channels".format(*self.codebook.shape)


Vectors: TypeAlias = Codebook | TokenVectors
"""The vectors of tokens: those of one codebook, or a module that gives them."""


def token_vectors(vectors: Vectors | None) -> TokenVectors:
    """Return the module that gives embeddings: the one that was given, or the lookup in a codebook (K, C).

    Raises ValueError for a codebook of another rank, and for None.
    """
    return vectors if isinstance(vectors, TokenVectors) else CodebookEmbedding(vectors)  # type: ignore[arg-type]


def deviation_of(numbers: Tensor) -> float:
    """Return the standard deviation of all numbers of a tensor; 0 for a single one."""
    return float(numbers.std(correction=min(1, numbers.numel() - 1)))
