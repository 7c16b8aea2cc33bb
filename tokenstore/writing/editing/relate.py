"""The relation of a store's codes to the tokenizer that made them, which its source did not name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenstore.errors import TokenizerError
from tokenstore.format import (
    SYMMETRIES,
    TokenizerIdentity,
    encode_table_array,
    symmetry_axes,
    table_array_document,
)
from tokenstore.reading import TokenStore
from tokenstore.reading.open import StorePath
from tokenstore.storage import Storage
from tokenstore.tokenizers import Tokenizer, load_tokenizer, symmetries_of
from tokenstore.tokenizers.related import codebook_fingerprint, related_identity
from tokenstore.writing.editing.edition import Edition, Editor, edit
from tokenstore.writing.editing.new_store import EditedStore, OnSamples

__all__ = ["relate"]


def relate(
    store: StorePath | TokenStore,
    tokenizer: str | Tokenizer,
    out: StorePath | Storage | None = None,
    *,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    on_progress: OnSamples | None = None,
) -> EditedStore:
    """Write into the manifest of `store` which tokenizer made its codes: at `out`, or in its place.

    Images can then become codes of the same meaning: networks that are trained on the store take images.
    `tokenizer` is a tokenizer or its name. The vectors of the store's codebook have to be the tokenizer's, or
    some of them in their order, as `tokenstore.convert` compares those of ready codes; without vectors the
    sizes have to be equal. The symmetries become the tokenizer's; all other files stay. The other arguments
    are those of `tokenstore.relabel`.

    Raises TokenizerError for a tokenizer that does not fit, or another than the store's known one, and
    otherwise what `tokenstore.relabel` raises.
    """
    loaded = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    spec = tokenizer if isinstance(tokenizer, str) else None

    def editor(opened: TokenStore) -> Editor:
        identity = _identity(opened, loaded, spec)

        names, permutations = symmetries_of(loaded, identity.kept_codes)

        def write(edition: Edition) -> dict[str, Any]:
            edition.keep_rest((SYMMETRIES,), on_progress)
            if permutations is not None:
                edition.write_document(
                    SYMMETRIES, table_array_document(permutations, symmetry_axes(permutations))
                )
                place = "/".join("0" * permutations.ndim)
                edition.write(f"{SYMMETRIES}/c/{place}", encode_table_array(permutations))
            return {"tokenizer": identity, "symmetries": names}

        return write

    done = {"name": "relate", "tokenizer": loaded.name, "fingerprint": loaded.fingerprint}
    return edit(
        store,
        out,
        done,
        editor,
        resume=resume,
        storage_options=storage_options,
        target_storage_options=target_storage_options,
    )


def _identity(store: TokenStore, tokenizer: Tokenizer, spec: str | None) -> TokenizerIdentity:
    """Return the tokenizer's identity for the store's codes; raise TokenizerError if it did not make them."""
    manifest, vectors = store.manifest, store.codebook
    known = manifest.tokenizer.fingerprint
    of_vectors = None if vectors is None else codebook_fingerprint(vectors)
    if known not in (None, of_vectors, tokenizer.fingerprint):
        raise TokenizerError(
            f"{store.files.storage}: expected codes of an unknown tokenizer, found those of "
            f"{manifest.tokenizer}, which is not {tokenizer.name} ({tokenizer.fingerprint[:12]})"
        )
    return related_identity(vectors, manifest.codebook_sizes, manifest.grid, tokenizer, spec)
