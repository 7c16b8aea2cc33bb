"""The relation of ready codes to a tokenizer: do their codebooks have the same vectors?

Codes that were made elsewhere come with a codebook at most. If it is that of a tokenizer, or some of its
vectors in their order, the codes are that tokenizer's, and images can be made codes of the same meaning.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tokenstore.errors import Parameter, TokenizerError
from tokenstore.format import TokenizerIdentity
from tokenstore.tokenizers.base import Tokenizer, check_tokenizer
from tokenstore.tokenizers.encoder import identity_of
from tokenstore.tokenizers.pruned import prune

Vectors = npt.NDArray[np.float32]

_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
"""The difference of numbers that are one: files keep vectors in other float types, too."""
_ROWS = 1024
"""The vectors whose nearest ones are looked for at once."""


def codebook_fingerprint(vectors: Vectors) -> str:
    """Return the SHA-256 (hex) of a codebook's shape and little-endian float32 values."""
    digest = hashlib.sha256(str(vectors.shape).encode())
    digest.update(np.ascontiguousarray(vectors, "<f4").tobytes())
    return digest.hexdigest()


def is_codebook_of(identity: TokenizerIdentity, tokenizer: Tokenizer) -> bool:
    """Return whether the fingerprint of ready codes is that of exactly a tokenizer's codebook."""
    codebook = tokenizer.codebook
    return codebook is not None and identity.fingerprint == codebook_fingerprint(codebook)


def related_identity(
    vectors: Vectors | None,
    sizes: tuple[int, ...],
    grid: tuple[int, ...],
    tokenizer: Tokenizer,
    spec: str | None = None,
) -> TokenizerIdentity:
    """Return the identity of a tokenizer for ready codes (*grid) with codebooks of `sizes` and `vectors`.

    `vectors` (K, D) or (n, K, D) are compared with the tokenizer's, as they are and by their directions: all
    must be there, in the same order; those left out count as pruned. Where one of them has no vectors, the
    sizes must be equal. Raises TokenizerError for a tokenizer that does not fit.
    """
    check_tokenizer(tokenizer)
    left = _kept_codes(vectors, sizes, tokenizer)
    axes = len(tokenizer.grid((3, tokenizer.image_size, tokenizer.image_size)))
    if axes != len(grid):
        raise TokenizerError(
            f"{tokenizer.name}: expected grids of {axes} axes, found ready codes with grids {grid}"
        )
    whole = all(
        codes == tuple(range(size)) for codes, size in zip(left, tokenizer.codebook_sizes, strict=True)
    )
    if not whole:
        prune(tokenizer, left)  # which checks them
    # subtle: nobody knows what these codes were computed on
    return replace(identity_of(tokenizer, spec), device=None, dtype=None, kept_codes=None if whole else left)


def _kept_codes(
    vectors: Vectors | None, sizes: tuple[int, ...], tokenizer: Tokenizer
) -> tuple[tuple[int, ...], ...]:
    """Return the tokenizer's own code of each ready code, for each codebook; raise TokenizerError."""
    name, own_sizes, own = tokenizer.name, tokenizer.codebook_sizes, tokenizer.codebook
    if vectors is None or own is None:
        if sizes != own_sizes:
            given_vectors = Parameter("codebook")
            raise TokenizerError(
                f"{name}: expected ready codes of codebooks {own_sizes}, found {sizes}, and no vectors to "
                f"compare. Convert the codes with their vectors by {given_vectors}",
                parameters=[given_vectors],
            )
        return tuple(tuple(range(size)) for size in sizes)
    given, table = (values if values.ndim == 3 else values[None] for values in (vectors, own))
    if (len(given), given.shape[2]) != (len(table), table.shape[2]):
        raise TokenizerError(
            f"{name}: expected a codebook like the tokenizer's {own.shape}, found one of {vectors.shape}"
        )
    pairs = zip(given, table, sizes, own_sizes, strict=True)
    return tuple(_places(plane[:size], theirs[:most], name) for plane, theirs, size, most in pairs)


def _places(given: Vectors, own: Vectors, name: str) -> tuple[int, ...]:
    """Return the rows of `own` (K, D) that the vectors `given` (k, D) are, in rising order."""
    best = np.zeros(len(given), np.bool_)
    for ours, theirs in ((given, own), (_directions(given), _directions(own))):
        places = _nearest(ours, theirs)
        same = np.isclose(theirs[places], ours, _RELATIVE, _ABSOLUTE).all(axis=1)
        if same.all():
            if (np.diff(places) <= 0).any():
                raise TokenizerError(
                    f"{name}: the ready codes' vectors are the tokenizer's, but in another order. Number "
                    "the codes as the tokenizer does"
                )
            return tuple(places.tolist())
        best |= same
    code = int(np.argmin(best))
    raise TokenizerError(
        f"{name}: expected the vectors of this tokenizer, found others: {int((~best).sum()):,} of "
        f"{len(given):,} are none of its {len(own):,}, the first is that of code {code}"
    )


def _nearest(vectors: Vectors, table: Vectors) -> npt.NDArray[np.int64]:
    """Return the row of `table` (K, D) nearest to each of `vectors` (m, D)."""
    lengths = (table.astype(np.float64) ** 2).sum(axis=1)
    rows = [
        (lengths - 2 * vectors[start : start + _ROWS].astype(np.float64) @ table.T).argmin(axis=1)
        for start in range(0, len(vectors), _ROWS)
    ]
    return np.concatenate(rows)


def _directions(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions: Vectors = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return directions
