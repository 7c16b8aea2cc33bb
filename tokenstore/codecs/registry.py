"""The registry of codecs: a line for each, imported on first use."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenstore.errors import CodecError, did_you_mean

if TYPE_CHECKING:
    from tokenstore.codecs.chunks import ChunkCodec
    from tokenstore.codecs.context.given import GivenViews
    from tokenstore.codecs.context.model import ContextModel
    from tokenstore.codecs.views import Views

__all__ = [
    "DEFAULT_CODEC",
    "MAX_CODEBOOK_SIZE",
    "codec_class",
    "codec_from_zarr",
    "codec_names",
    "named_codec",
    "register_codec",
]

DEFAULT_CODEC = "bitpack"
MAX_CODEBOOK_SIZE = 2**31
"""The most codes of a codebook (FORMAT.md, M3)."""


@dataclass(frozen=True)
class _Entry:
    zarr_name: str
    """The Zarr codec that tells the codec in an array's metadata: the last of the codec's `zarr`."""
    home: str | type[ChunkCodec]
    """The class, or "module:class" to import it from."""


_CODECS: dict[str, _Entry] = {
    "bitpack": _Entry("tokenstore.bitpack", "tokenstore.codecs.bitpack:Bitpack"),
    "context": _Entry("tokenstore.context", "tokenstore.codecs.context.codec:Context"),
    "zstd": _Entry("zstd", "tokenstore.codecs.zstd:Zstd"),
}
"""The codecs by name, in the order in which they are compared and listed."""


def register_codec(codec: type[ChunkCodec]) -> None:
    """Let stores be written and read with one more codec, in this process.

    Raises ValueError if its name, or that of its Zarr codec, is another codec's.
    """
    for name, entry in _CODECS.items():
        if entry.home is not codec and (name == codec.name or entry.zarr_name == codec.zarr_name):
            raise ValueError(
                f"expected a codec of another name than {name!r} ({entry.zarr_name}), "
                f"found {codec.name!r} ({codec.zarr_name})"
            )
    _CODECS[codec.name] = _Entry(codec.zarr_name, codec)


def codec_names() -> tuple[str, ...]:
    """Return the names of all codecs."""
    return tuple(_CODECS)


def codec_class(name: str) -> type[ChunkCodec]:
    """Return the class of a codec; raises CodecError for an unknown name."""
    if name not in _CODECS:
        raise CodecError(f"expected a codec {_listed()}, found {name!r}{did_you_mean(name, _CODECS)}")
    home = _CODECS[name].home
    if not isinstance(home, str):
        return home
    module, _, attribute = home.partition(":")
    codec: type[ChunkCodec] = getattr(importlib.import_module(module), attribute)
    return codec


def named_codec(
    name: str,
    codebook_size: int,
    model: ContextModel | None = None,
    views: Views | None = None,
    given_views: GivenViews | None = None,
) -> ChunkCodec:
    """Return the codec of that name for codes below `codebook_size`; raises CodecError if unknown.

    With `views`, samples have that many views, and a codec that reads samples alone reads views alone.
    `given_views` are the same views as a codec with a model codes them.
    """
    if views is None:  # codecs of other packages may know no views
        return codec_class(name).for_codes(codebook_size, model)
    return codec_class(name).for_codes(codebook_size, model, views, given_views)


def codec_from_zarr(codecs: list[dict[str, Any]]) -> ChunkCodec:
    """Return the codec of an array's Zarr metadata, its checksum left out; raises CodecError if unknown."""
    last = codecs[-1].get("name") if codecs and isinstance(codecs[-1], dict) else None
    for name, entry in _CODECS.items():
        if entry.zarr_name == last and (codec := codec_class(name).from_zarr(codecs)) is not None:
            return codec
    raise CodecError(f"expected the codecs of {_listed()}, found {codecs!r:.200}")


def _listed() -> str:
    *names, last = _CODECS
    return f"{', '.join(names)} or {last}"
