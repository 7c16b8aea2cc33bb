"""The tokenizer of a store: the one that made its codes."""

from __future__ import annotations

from pathlib import Path

from tokenstore.errors import Parameter, TokenizerError
from tokenstore.format import Manifest, TokenizerIdentity
from tokenstore.sources.base import UNKNOWN_TOKENIZER
from tokenstore.tokenizers.base import Tokenizer, check_tokenizer
from tokenstore.tokenizers.pruned import prune
from tokenstore.tokenizers.registry import DEFAULT, find_kind, load_tokenizer

_ANY_TOKENIZER = Parameter("tokenizer", "NAME[:ARGUMENT]")
_NAME_IT = f"name the tokenizer by {_ANY_TOKENIZER}; `tokenstore tokenizers` lists them"
_OTHER_TOKENIZER = Parameter("tokenizer")


def tokenizer_of(manifest: Manifest, spec: str | None = None, device: str = "cpu") -> Tokenizer:
    """Load the tokenizer that made a store's codes, over the store's own codes if these were pruned.

    `spec` names it, `NAME[:ARGUMENT]`; else it is the one that the manifest names. Its fingerprint must be
    the manifest's. Where the manifest has none, or the store was converted from ready codes, whose
    fingerprint is at most that of a bare codebook, a tokenizer that `spec` names is taken if its codebook
    sizes and grid fit: whether it is the right one cannot be told.

    Raises TokenizerError where no tokenizer is known, and where the one named cannot be loaded or is another.
    """
    if spec is not None:
        return fitted(manifest, load_tokenizer(spec, device), trusted=True)
    return fitted(manifest, load_named(manifest.tokenizer, device))


def load_named(
    identity: TokenizerIdentity, device: str = "cpu", where: str = "the store's manifest"
) -> Tokenizer:
    """Load the tokenizer that an identity read from `where` names: by its spec, or by its name.

    The name is that of a kind which needs no argument. A tokenizer that was the default when it was used is
    known by its name, whichever is the default now.

    The fingerprint is not compared. Raises TokenizerError if no tokenizer is known, or the tokenizer cannot
    be loaded or would have to be fetched from a hub.
    """
    if identity.spec in (None, DEFAULT) and _is_a_kind(identity.name):
        return load_tokenizer(identity.name, device)
    if identity.spec is not None:
        _refuse_to_fetch(identity.spec, where)
        try:
            return load_tokenizer(identity.spec, device)
        except TokenizerError as error:
            raise TokenizerError(
                f"{where} names its tokenizer {identity.spec!r}, which cannot be loaded: "
                f"{error}. If it is called otherwise here, {_NAME_IT}",
                parameters=[_ANY_TOKENIZER, *error.parameters],
            ) from error
    what = f"names it {identity.name!r}" if identity.name != UNKNOWN_TOKENIZER else "does not know it"
    raise TokenizerError(
        f"which tokenizer made the codes? {where[0].upper()}{where[1:]} {what}; {_NAME_IT}",
        parameters=[_ANY_TOKENIZER],
    )


def spec_of(identity: TokenizerIdentity) -> str | None:
    """Return the user's name for a tokenizer, or its own if it was the default and another one is now.

    The result means the tokenizer that was used; None if the user named none.
    """
    kind, default = find_kind(identity.name), find_kind(DEFAULT)
    was_default = identity.spec == DEFAULT and _is_a_kind(identity.name)
    if was_default and kind is not None and default is not None and kind.module != default.module:
        return identity.name
    return identity.spec


def _is_a_kind(name: str) -> bool:
    """Return whether a tokenizer's name is that of a kind which needs no argument and fetches nothing."""
    kind = find_kind(name)
    return kind is not None and not kind.fetches and (kind.argument is None or kind.argument_is_optional)


def _refuse_to_fetch(spec: str, where: str) -> None:
    """Raise TokenizerError if a spec in a file, which may be anybody's, would fetch a model from a hub."""
    name, _, argument = spec.partition(":")
    kind = find_kind(name)
    if kind is not None and kind.fetches:
        place = argument.partition("#")[0]
        places = place, place.rpartition("@")[0] or place
        if not any(Path(local).expanduser().exists() for local in places):
            this_one = Parameter("tokenizer", spec)
            raise TokenizerError(
                f"{where} names its tokenizer {spec!r}, which is no file or folder here. If you trust "
                f"it and want the model fetched from the hub, say so by {this_one}; else {_NAME_IT}",
                parameters=[this_one, _ANY_TOKENIZER],
            )


def fitted(manifest: Manifest, tokenizer: Tokenizer, trusted: bool = False) -> Tokenizer:
    """Check that a tokenizer fits a store, and return it, over the store's own codes if these were pruned.

    `trusted` accepts another fingerprint if the manifest has none of a whole tokenizer. Raises TokenizerError
    if the tokenizer does not fit, or is none.
    """
    check_tokenizer(tokenizer)
    identity = manifest.tokenizer
    if tokenizer.fingerprint != identity.fingerprint and not (trusted and _fingerprint_is_open(manifest)):
        raise TokenizerError(
            f"the store's codes are of tokenizer {identity.name!r} with fingerprint {identity.fingerprint}, "
            f"but {tokenizer.name!r} has {tokenizer.fingerprint}. They mean nothing to another tokenizer: "
            f"{_NAME_IT}",
            parameters=[_ANY_TOKENIZER],
        )
    if identity.kept_codes is not None:
        tokenizer = prune(tokenizer, identity.kept_codes)
    if tokenizer.codebook_sizes != manifest.codebook_sizes:
        expected, actual = _sizes(manifest.codebook_sizes), _sizes(tokenizer.codebook_sizes)
        codebook_size = Parameter("codebook_size", max(tokenizer.codebook_sizes))
        raise TokenizerError(
            f"expected a tokenizer with {expected} codes as the store has, found {tokenizer.name!r} with "
            f"{actual}. Name another by {_OTHER_TOKENIZER}; if the store holds ready codes of this one, "
            f"convert them again with {codebook_size}",
            parameters=[_OTHER_TOKENIZER, codebook_size],
        )
    _check_grid(manifest, tokenizer)
    return tokenizer


def _fingerprint_is_open(manifest: Manifest) -> bool:
    """Return whether the manifest has no fingerprint, or only that of a codebook of ready codes."""
    of_ready_codes = manifest.source_kind is not None and manifest.preprocessing is None
    return manifest.tokenizer.fingerprint is None or of_ready_codes


def _check_grid(manifest: Manifest, tokenizer: Tokenizer) -> None:
    """Raise TokenizerError if a tokenizer's grid is not the store's.

    subtle: without the images' size only the number of axes can be compared.
    """
    steps = manifest.preprocessing
    side = tokenizer.image_size
    try:
        grid = tokenizer.grid((3, side, side) if steps is None else (3, steps.height, steps.width))
    except TokenizerError:
        if steps is None:  # a tokenizer of other inputs than images
            return
        raise
    fits = len(grid) == len(manifest.grid) if steps is None else grid == manifest.grid
    if not fits:
        raise TokenizerError(
            f"expected a tokenizer with grids like the store's {manifest.grid}, found {tokenizer.name!r} "
            f"with {grid}. Name another by {_OTHER_TOKENIZER}",
            parameters=[_OTHER_TOKENIZER],
        )


def _sizes(sizes: tuple[int, ...]) -> str:
    """Return sizes as text: `1024`, `1024 + 512`, or `2048 (36 times)`."""
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return f"{sizes[0]} ({len(sizes)} times)"
    return " + ".join(map(str, sizes))
