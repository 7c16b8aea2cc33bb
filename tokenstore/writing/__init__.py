"""The writing of stores: new ones shard by shard, and stores made from stores.

`StoreWriter` writes a store that is complete only after its `commit`: conversion and every operation here go
through it. `spec` says what a new store is, `target` where it may be, `owner` who may write there,
`codec_choice` which codec is smallest. `copy` copies a store file by file, `recode` writes it with another
codec, also in its place (`in_place`), `prune` with only the codes that occur; both rewrite shard by shard
(`rewrite`), in blocks that threads or an executor work on (`blocks`). `merge` makes one store of the parts of
a conversion. `write` makes one of a caller's codes, batch by batch (`codes_writer`, `batches`, `gathered`).
`export/` writes samples as files of other layouts.
`editing/` takes samples of complete stores and changes labels; `linked` shares files between stores.

The entry points are `tokenstore.copy`, `export`, `merge`, `recode`, `relabel`, `relate`, `rename_class`,
`select`, `split` and `write`. A function that has its module's name is imported from the module. This wing
may import `reading` and all that comes before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from tokenstore.writing.blocks import Block, BlockExecutor, BlockReader, BlockTask, Threads, reachable
    from tokenstore.writing.choices import CHUNK_SAMPLES, MIN_DECODE_RATE
    from tokenstore.writing.codec_choice import CodecChoice, choose_codec
    from tokenstore.writing.copy import CopyResult
    from tokenstore.writing.prune import codes_in_use, prune_codebook
    from tokenstore.writing.recode import RecodeResult
    from tokenstore.writing.rewrite import RewritePlan, rewrite_into, same_codes, skips_of
    from tokenstore.writing.spec import StoreSpec
    from tokenstore.writing.split import SplitWriter
    from tokenstore.writing.target import check_target, finish_commit
    from tokenstore.writing.writer import StoreWriter

__all__ = [
    "CHUNK_SAMPLES",
    "MIN_DECODE_RATE",
    "Block",
    "BlockExecutor",
    "BlockReader",
    "BlockTask",
    "CodecChoice",
    "CopyResult",
    "RecodeResult",
    "RewritePlan",
    "SplitWriter",
    "StoreSpec",
    "StoreWriter",
    "Threads",
    "check_target",
    "choose_codec",
    "codes_in_use",
    "finish_commit",
    "prune_codebook",
    "reachable",
    "rewrite_into",
    "same_codes",
    "skips_of",
]

_HOMES = {
    "Block": "blocks",
    "BlockExecutor": "blocks",
    "BlockReader": "blocks",
    "BlockTask": "blocks",
    "Threads": "blocks",
    "reachable": "blocks",
    "CHUNK_SAMPLES": "choices",
    "CodecChoice": "codec_choice",
    "CopyResult": "copy",
    "MIN_DECODE_RATE": "choices",
    "RecodeResult": "recode",
    "RewritePlan": "rewrite",
    "SplitWriter": "split",
    "StoreSpec": "spec",
    "StoreWriter": "writer",
    "check_target": "target",
    "choose_codec": "codec_choice",
    "codes_in_use": "prune",
    "finish_commit": "target",
    "prune_codebook": "prune",
    "rewrite_into": "rewrite",
    "same_codes": "rewrite",
    "skips_of": "rewrite",
}


# imported on first use, so that a wing costs only what is used of it
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
