"""The agreement of an array's layout with the manifest: sizes, codes, and exactly the shards of N samples."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import Column, Views, code_dtype
from tokenstore.errors import CodecError, DamageError, ManifestError
from tokenstore.format import sharding
from tokenstore.format.layout import LABELS, TOKENS, VIEW_BOXES, ArrayLayout
from tokenstore.format.manifest import DIGITS, SHARD_MANIFESTS, Manifest
from tokenstore.format.shard_manifest import ROW_NBYTES, SHARD_MANIFEST

_MOST_NBYTES = 2**62
"""The most bytes of all shards of an array: sums of their sizes are in 64 bits."""

__all__ = [
    "check_layout",
    "check_shard_nbytes",
    "checked_layout",
    "has_shard_manifest",
    "view_boxes_problem",
]


def checked_layout(document: Any, manifest: Manifest, array: str, where: str) -> ArrayLayout:
    """Return the layout in the Zarr document of an aligned array, such as `train/tokens`.

    Raises what `ArrayLayout.from_zarr` and `check_layout` raise.
    """
    layout = ArrayLayout.from_zarr(document, where)
    if manifest.views is not None and array.partition("/")[2] in (TOKENS, VIEW_BOXES):
        layout = replace(layout, views=manifest.views.count)
    check_layout(layout, manifest, array, where)
    return layout


def check_layout(layout: ArrayLayout, manifest: Manifest, array: str, where: str) -> None:
    """Compare the layout of an aligned array, such as `train/tokens`, with the manifest.

    After it and `check_shard_nbytes`, there are no more shards and chunks to count than the store has bytes
    for. `where` names the array in messages. Raises ManifestError where the layout contradicts the manifest,
    and DamageError for a shard that the manifest does not list.
    """
    split, _, name = array.partition("/")
    samples = manifest.splits[split].samples
    if layout.samples != samples:
        raise ManifestError(f"{where}: expected the manifest's {samples} samples, found {layout.samples}")
    if layout.form is not None and name in (TOKENS, LABELS):
        raise ManifestError(f"{where}: expected numbers, found a column of {layout.form}")
    if name == TOKENS:
        _check_codes(layout, manifest, where)
    else:
        _check_column(layout, name, manifest, where)
    _check_shards(layout, manifest, array, where)


def has_shard_manifest(manifest: Manifest, array: str) -> bool:
    """Return True if the shards of an array, such as `train/tokens`, are listed in a file of their own."""
    return SHARD_MANIFESTS in manifest.features and f"{array}/{SHARD_MANIFEST}" in manifest.files


def check_shard_nbytes(layout: ArrayLayout, nbytes: npt.NDArray[np.int64], where: str) -> None:
    """Compare the shards' sizes (shards,) in the manifest with what their indexes take alone.

    Raises DamageError for a shard that is too short, or for more bytes than there are.
    """
    least = np.full(layout.shards, layout.index_nbytes + layout.chunks_per_shard * sharding.CHECKSUM_NBYTES)
    if layout.shards:
        last = layout.shards - 1
        least[last] = layout.index_nbytes + layout.shard_chunks(last) * sharding.CHECKSUM_NBYTES
    if float(nbytes.sum(dtype=np.float64)) > _MOST_NBYTES:
        raise DamageError(f"{where}: expected shards of at most {_MOST_NBYTES} bytes in all, found more")
    short = nbytes < least
    if short.any():
        shard = int(short.argmax())
        raise DamageError(
            f"{where}: expected at least {least[shard]} bytes in the shard {layout.shard_file(shard)}, whose "
            f"index alone has {layout.index_nbytes}, found {nbytes[shard]} in the manifest. "
            "Restore the store from a copy"
        )


def _check_codes(layout: ArrayLayout, manifest: Manifest, where: str) -> None:
    if layout.sample_shape != manifest.sample_shape:
        views = "" if manifest.views is None else f"{manifest.views.count} views of "
        raise ManifestError(
            f"{where}: expected {views}the manifest's grid {manifest.grid}, found {layout.sample_shape}"
        )
    _check_views(layout, manifest, where)
    size = manifest.codebook_size
    packed_for = size if layout.codec.codebook_size is None else layout.codec.codebook_size
    if layout.dtype != code_dtype(size) or packed_for != size:
        raise ManifestError(
            f"{where}: expected {code_dtype(size)} for the manifest's {size} codes, "
            f"found {layout.dtype} for {packed_for}"
        )
    if layout.codec.digits is not None and DIGITS not in manifest.features:
        raise ManifestError(
            f"{where}: expected a model of digits only with the feature {DIGITS!r}, found one with "
            f"{list(manifest.features)}"
        )
    try:
        layout.codec.check_codes(manifest.grid, manifest.codebook_sizes)
    except CodecError as error:
        raise ManifestError(f"{where}: {error}") from error


def _check_views(layout: ArrayLayout, manifest: Manifest, where: str) -> None:
    """Raise ManifestError unless a codec that reads samples alone reads the manifest's views alone."""
    views, codec = manifest.views, layout.codec
    expected = 1 if views is None or codec.samples is None else views.count
    if codec.views != expected:
        raise ManifestError(
            f"{where}: expected a codec of {_counted(expected)}, found one of {_counted(codec.views)}"
        )
    if codec.given_views is not None and codec.given_views.views != views:
        raise ManifestError(
            f"{where}: expected a codec of the manifest's views {views and views.to_json()!r:.200}, "
            f"found one of {codec.given_views.views.to_json()!r:.200}"
        )


def _counted(views: int) -> str:
    return "samples without views" if views == 1 else f"{views} views a sample"


def view_boxes_problem(views: Views | None, column: Column) -> str | None:
    """Return what is wrong with a column of boxes for views (FORMAT.md, M37); None for a right one."""
    if views is None:
        return None  # an array of this name means nothing
    if views.boxes is not None:
        return "expected no boxes of each sample beside those of the manifest's views"
    expected = Column(np.dtype(np.int32), (views.count, 5))
    return None if column == expected else f"expected {expected}, found {column}"


def _check_column(layout: ArrayLayout, name: str, manifest: Manifest, where: str) -> None:
    if name == LABELS and (layout.dtype != np.int32 or layout.sample_shape):
        raise ManifestError(
            f"{where}: expected int32 of shape ({layout.samples},), found {layout.dtype} {layout.shape}"
        )
    problem = view_boxes_problem(manifest.views, layout.column) if name == VIEW_BOXES else None
    if problem is not None:
        raise ManifestError(f"{where}: {problem}")
    form = layout.form
    if form is not None and form.feature not in manifest.features:
        raise ManifestError(
            f"{where}: expected the feature {form.feature!r} for a column of {form}, found "
            f"{list(manifest.features)}"
        )
    expected = layout.column.codec.name
    if layout.codec.name != expected:
        raise ManifestError(f"{where}: expected the codec {expected}, found {layout.codec.name}")


def _check_shards(layout: ArrayLayout, manifest: Manifest, array: str, where: str) -> None:
    prefix = f"{array}/c/"
    listed = [path for path in manifest.files if path.startswith(prefix)]
    if has_shard_manifest(manifest, array):
        _check_shard_manifest(layout, manifest, array, listed, where)
        return
    paths = (f"{array}/{layout.shard_file(shard)}" for shard in range(layout.shards))
    if layout.shards != len(listed) or not all(path in manifest.files for path in paths):
        raise _other_shards(layout, array, listed, where)


def _check_shard_manifest(
    layout: ArrayLayout, manifest: Manifest, array: str, listed: Collection[str], where: str
) -> None:
    nbytes, expected = manifest.files[f"{array}/{SHARD_MANIFEST}"].size, layout.shards * ROW_NBYTES
    if nbytes != expected:
        raise ManifestError(
            f"{where}: expected {expected} bytes in {SHARD_MANIFEST} for {layout.shards} shards, "
            f"found {nbytes}"
        )
    if listed:
        raise ManifestError(f"{where}: expected shards in {SHARD_MANIFEST} alone, found {min(listed)} too")


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
