"""Audits: what a store holds, whether it is whole, and what its codes look like as images.

`info` reads the manifest and layouts, `stats` counts bytes and codes, `verify` checks every byte.
`originals` finds the images that a store was made from; `reconstruct` decodes codes to images; `quality` and
`retokenization` compare the two; `preview` draws them on a sheet. `columns` is the table of what `stats`
can say of a split beyond sizes and codes: a new column is one function and one line there, and
`register_column` adds one from outside.

The entry points are `tokenstore.info`, `.stats`, `.verify`, `.preview` and `.reconstruct`. A function that
has its module's name is imported from the module. This wing may import `loading` and all that comes before
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from tokenstore.audit.codes import CodebookUse
    from tokenstore.audit.columns import StatsColumn, StatsOptions, register_column
    from tokenstore.audit.info import ArrayInfo, StoreInfo
    from tokenstore.audit.originals import (
        Originals,
        evenly_spaced,
        image_options,
        open_images,
        read_originals,
    )
    from tokenstore.audit.pictures import FORMATS, save_image
    from tokenstore.audit.preview import Preview
    from tokenstore.audit.quality import SplitQuality, measure_quality
    from tokenstore.audit.reconstruct import Reconstruction, decode_samples
    from tokenstore.audit.retokenization import Retokenization, SplitAgreement, retokenize
    from tokenstore.audit.stats import SplitAudit, StorageAudit
    from tokenstore.audit.verify import Verification

__all__ = [
    "FORMATS",
    "ArrayInfo",
    "CodebookUse",
    "Originals",
    "Preview",
    "Reconstruction",
    "Retokenization",
    "SplitAgreement",
    "SplitAudit",
    "SplitQuality",
    "StatsColumn",
    "StatsOptions",
    "StorageAudit",
    "StoreInfo",
    "Verification",
    "decode_samples",
    "evenly_spaced",
    "image_options",
    "measure_quality",
    "open_images",
    "read_originals",
    "register_column",
    "retokenize",
    "save_image",
]

_HOMES = {
    "ArrayInfo": "info",
    "CodebookUse": "codes",
    "FORMATS": "pictures",
    "Originals": "originals",
    "Preview": "preview",
    "Reconstruction": "reconstruct",
    "Retokenization": "retokenization",
    "SplitAgreement": "retokenization",
    "SplitAudit": "stats",
    "SplitQuality": "quality",
    "StatsColumn": "columns",
    "StatsOptions": "columns",
    "StorageAudit": "stats",
    "StoreInfo": "info",
    "Verification": "verify",
    "decode_samples": "reconstruct",
    "evenly_spaced": "originals",
    "image_options": "originals",
    "measure_quality": "quality",
    "open_images": "originals",
    "read_originals": "originals",
    "register_column": "columns",
    "retokenize": "retokenization",
    "save_image": "pictures",
}


# imported on first use, so that a wing costs only what is used of it
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
