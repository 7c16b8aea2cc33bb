"""The recoding of a store: the same codes with another codec, elsewhere or in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenstore.format import Manifest
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.reading.open import StorePath, as_storage, as_store, takes_options
from tokenstore.storage import Storage
from tokenstore.writing.blocks import BlockExecutor, block_executor
from tokenstore.writing.choices import MIN_DECODE_RATE
from tokenstore.writing.codec_choice import CodecChoice, OnProgress
from tokenstore.writing.in_place import replace_store
from tokenstore.writing.rewrite import Rewritten, check_codec, rewrite_into, same_codes
from tokenstore.writing.writer import StoreWriter

_NO_DECISIONS = ("executor", "on_progress")
"""The settings that do not decide the new store's bytes."""


@dataclass(frozen=True)
class RecodeResult:
    """A store that was recoded, and its size before and after."""

    location: str
    manifest: Manifest
    nbytes: int
    nbytes_before: int | None
    """The bytes of the store before; None if a crash left it between two names."""
    choice: CodecChoice | None
    """The codec and the reason for it; None if an earlier call, cut short, had recoded the store already."""


def recode(
    store: StorePath | TokenStore,
    out: StorePath | Storage | None = None,
    *,
    codec: str = "auto",
    min_decode_rate: float = MIN_DECODE_RATE,
    shard_samples: int | None = None,
    jobs: int | None = None,
    executor: BlockExecutor | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> RecodeResult:
    """Write `store` again with another codec; its codes stay the same, decoded from checked bytes.

    Args:
        store: The store, or its path or URL.
        out: The place of the new store. None for the store's own, a local folder or zip file: the new one is
            whole beside the old one before they change places, and a call after a crash goes on by itself.
        codec: bitpack, context, zstd, or auto for the smallest of them that decodes fast enough.
        min_decode_rate: The samples a second and core that the choice of auto has to decode at.
        shard_samples: The samples of a shard, by default about 32 MiB of them.
        jobs: The pieces of shards that are encoded at a time, by default one a core; any give the same bytes.
        executor: What encodes them instead, such as `tokenstore.conversion.RayExecutor`.
        resume: True to go on with what an interrupted call left at `out`.
        storage_options: The options of both places, as far as they are remote.
        on_progress: Called with a step's name, the units of it that are done, and all its units.

    Raises ArgumentError for `jobs` below 1 or beside an executor; StoreError for an unknown codec, for a
    store that cannot be recoded in its place, or if no codec is fast enough; DamageError for damaged codes;
    StoreExistsError if something is at `out`; ConversionError if an unfinished store there is of other
    inputs; and the errors of `tokenstore.open`.
    """
    settings: dict[str, Any] = {
        "codec": codec,
        "min_decode_rate": min_decode_rate,
        "shard_samples": shard_samples,
        "executor": block_executor(jobs, executor),
        "on_progress": on_progress,
    }
    if out is None:
        place = store.files.storage if isinstance(store, TokenStore) else as_storage(store, storage_options)
        return _recode_in_place(place, settings)
    opened = as_store(store, storage_options if takes_options(store) or not takes_options(out) else None)
    target = as_storage(out, storage_options if takes_options(out) else None)
    return _result(target, opened.files.nbytes, _recode_to(opened, target, resume=resume, **settings))


def _recode_in_place(place: Storage, settings: dict[str, Any]) -> RecodeResult:
    """Recode the store of a place, and put the new one in its place."""
    check_codec(settings["codec"])
    before = StoreFiles(place.reopened()).nbytes if place.root is not None and place.exists() else None
    decisions = {name: value for name, value in settings.items() if name not in _NO_DECISIONS}
    rewritten = replace_store(
        place, decisions, lambda old, target: _recode_to(old, target, resume=True, **settings)
    )
    return _result(place, before, rewritten)


def _result(place: Storage, before: int | None, rewritten: Rewritten | None) -> RecodeResult:
    written = StoreFiles(place.reopened())
    choice = None if rewritten is None else rewritten.choice
    return RecodeResult(written.storage.url, written.manifest, written.nbytes, before, choice)


def _recode_to(
    store: TokenStore,
    target: Storage,
    *,
    codec: str,
    min_decode_rate: float,
    shard_samples: int | None,
    executor: BlockExecutor,
    resume: bool,
    on_progress: OnProgress | None,
) -> Rewritten:
    inputs = {
        "recoded": store.files.root_digest,
        "codec": codec,
        "min_decode_rate": min_decode_rate,
        "shard_samples": shard_samples,
    }
    plan = same_codes(store)
    with StoreWriter(target, plan.spec, resume=resume, inputs=inputs) as writer:
        return rewrite_into(
            writer,
            store,
            plan,
            codec=codec,
            min_decode_rate=min_decode_rate,
            shard_samples=shard_samples,
            executor=executor,
            on_progress=on_progress,
        )
