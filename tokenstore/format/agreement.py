"""The agreement of an array's layout with the manifest: sizes, codes, and exactly the shards of N samples."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from tokenstore.codecs import Zstd, code_dtype
from tokenstore.errors import CodecError, DamageError, ManifestError
from tokenstore.format import sharding
from tokenstore.format.layout import LABELS, TOKENS, ArrayLayout
from tokenstore.format.manifest import Manifest

__all__ = ["check_layout"]


def check_layout(layout: ArrayLayout, manifest: Manifest, array: str, where: str) -> None:
    """Compare the layout of an aligned array, such as `train/tokens`, with the manifest.

    Whoever goes on from here has no more shards and chunks to count than the store has bytes for. `where`
    names the array in messages. Raises ManifestError where the layout contradicts the manifest, and
    DamageError for a shard that the manifest does not list.
    """
    split, _, name = array.partition("/")
    samples = manifest.splits[split].samples
    if layout.samples != samples:
        raise ManifestError(f"{where}: expected the manifest's {samples} samples, found {layout.samples}")
    if name == TOKENS:
        _check_codes(layout, manifest, where)
    else:
        _check_column(layout, name, where)
    _check_shards(layout, manifest, array, where)


def _check_codes(layout: ArrayLayout, manifest: Manifest, where: str) -> None:
    if layout.sample_shape != manifest.grid:
        raise ManifestError(
            f"{where}: expected the manifest's grid {manifest.grid}, found {layout.sample_shape}"
        )
    size = manifest.codebook_size
    packed_for = size if layout.codec.codebook_size is None else layout.codec.codebook_size
    if layout.dtype != code_dtype(size) or packed_for != size:
        raise ManifestError(
            f"{where}: expected {code_dtype(size)} for the manifest's {size} codes, "
            f"found {layout.dtype} for {packed_for}"
        )
    try:
        layout.codec.check_codes(manifest.grid, manifest.codebook_sizes)
    except CodecError as error:
        raise ManifestError(f"{where}: {error}") from error


def _check_column(layout: ArrayLayout, name: str, where: str) -> None:
    if name == LABELS and (layout.dtype != np.int32 or layout.sample_shape):
        raise ManifestError(
            f"{where}: expected int32 of shape ({layout.samples},), found {layout.dtype} {layout.shape}"
        )
    if layout.codec.name != Zstd.name:
        raise ManifestError(f"{where}: expected the codec {Zstd.name}, found {layout.codec.name}")


def _check_shards(layout: ArrayLayout, manifest: Manifest, array: str, where: str) -> None:
    prefix = f"{array}/c/"
    listed = [path for path in manifest.files if path.startswith(prefix)]
    if layout.shards != len(listed):
        raise _other_shards(layout, array, listed, where)
    for shard in range(layout.shards):
        path = f"{array}/{layout.shard_file(shard)}"
        record = manifest.files.get(path)
        if record is None:
            raise _other_shards(layout, array, listed, where)
        least = layout.index_nbytes + layout.shard_chunks(shard) * sharding.CHECKSUM_NBYTES
        if record.size < least:
            raise DamageError(
                f"{where}: expected at least {least} bytes in the shard {layout.shard_file(shard)}, whose "
                f"index alone has {layout.index_nbytes}, found {record.size} in the manifest. "
                "Restore the store from a copy"
            )


def _other_shards(layout: ArrayLayout, array: str, listed: Collection[str], where: str) -> Exception:
    """Return the error for shards that are not those of the array's samples."""
    names = frozenset(listed)
    for shard in range(layout.shards):  # ends at the first that is missing
        path = f"{array}/{layout.shard_file(shard)}"
        if path not in names:
            return DamageError(
                f"{where}: the manifest lists no file {path}: {layout.samples} samples are {layout.shards} "
                f"shards, and it lists {len(names)}. Restore the store from a copy"
            )
    expected = {f"{array}/{layout.shard_file(shard)}" for shard in range(layout.shards)}
    return ManifestError(
        f"{where}: expected the {layout.shards} shards of {layout.samples} samples, found also "
        f"{min(names - expected)} in the manifest"
    )
