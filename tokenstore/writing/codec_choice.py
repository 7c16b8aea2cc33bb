"""Which codec a store's codes take the fewest bytes with, tables included, and fast enough."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import chunks
from tokenstore.codecs.chunks import ChunkCodec
from tokenstore.codecs.context import Context, ContextModel, fit_context
from tokenstore.codecs.context.fitting import MAX_FIT_CODES
from tokenstore.errors import Parameter, StoreError
from tokenstore.format.layout import TOKENS, fill_value
from tokenstore.reading.reader import TokenStore
from tokenstore.writing.choices import MIN_DECODE_RATE

OnProgress: TypeAlias = Callable[[str, int, int], None]

_TRIAL_CHUNKS = 16
_TIMINGS = 3


@dataclass(frozen=True)
class Measured:
    """One codec on a store's codes."""

    codec: str
    nbytes: int
    """Of all tokens, from a sample of chunks, and of tables."""
    decode_rate: float
    """Samples a second on one core."""

    def __str__(self) -> str:
        return f"{self.codec}: {self.nbytes:,} bytes, {self.decode_rate:,.0f} samples/s a core"


@dataclass(frozen=True)
class CodecChoice:
    """The codec that a store is written with, and why."""

    codec: str
    model: ContextModel | None = None
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.codec}: {self.reason}"

    def to_json(self) -> bytes:
        model = None if self.model is None else base64.b64encode(self.model.to_bytes()).decode()
        return json.dumps({"codec": self.codec, "model": model, "reason": self.reason}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> CodecChoice:
        values = json.loads(data)
        model = values["model"]
        model = None if model is None else ContextModel.from_bytes(base64.b64decode(model))
        return cls(values["codec"], model, values["reason"])


def choose_codec(
    store: TokenStore,
    wanted: str,
    codebook_sizes: tuple[int, ...],
    renumbered: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    *,
    min_decode_rate: float = MIN_DECODE_RATE,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> CodecChoice:
    """The codec for a store's codes: the one `wanted`, fitted where it has to be, or the smallest of all
    for `auto`.

    `renumbered` is what becomes of codes (n, *grid) before they are written. Large stores are sampled.
    `on_progress` is told of fitting. Raises StoreError where nothing decodes at `min_decode_rate`.
    """
    sizes = {name: len(store[name]) for name in store.splits}
    total = sum(sizes.values())
    if wanted in ("bitpack", "zstd") or not total:
        return CodecChoice(
            "bitpack" if wanted == "auto" else wanted, reason="as asked for" if total else "no samples"
        )
    codes_per_sample = math.prod(store.manifest.grid)

    def told(done: int, steps: int) -> None:
        if on_progress is not None:
            on_progress("fitting the context model", done, steps)

    codes = renumbered(_sampled(store, max(1, MAX_FIT_CODES // codes_per_sample), seed))
    splits = sum(bool(size) for size in sizes.values())
    context = fit_context(
        codes,
        codebook_sizes,
        seed=seed,
        total_codes=total * codes_per_sample,
        copies=splits,
        on_progress=told,
    )
    if wanted == "context":
        return CodecChoice("context", context.model, "as asked for")
    size = max(codebook_sizes)
    rivals: list[ChunkCodec] = [chunks.named("bitpack", size), context, chunks.named("zstd", size)]
    chunk_samples = store[store.splits[0]].arrays[TOKENS].layout.chunk_samples
    trial = [renumbered(part) for part in _trial_chunks(store, chunk_samples, seed)]
    measured = {codec.name: _measured(codec, trial, chunk_samples, total, splits) for codec in rivals}
    fast = [one for one in measured.values() if one.decode_rate >= min_decode_rate]
    told_all = "; ".join(map(str, measured.values()))
    if not fast:
        fewer = Parameter("min_decode_rate")
        raise StoreError(
            f"{store.files.storage}: no codec decodes {min_decode_rate:,.0f} samples/s a core ({told_all}). "
            f"Ask for fewer by {fewer}, or name a codec",
            parameters=[fewer],
        )
    best = min(fast, key=lambda one: one.nbytes)
    slow = [one.codec for one in measured.values() if one not in fast]
    reason = f"the smallest of {told_all}"
    if slow:
        reason += f"; {', '.join(slow)} below {min_decode_rate:,.0f} samples/s"
    return CodecChoice(best.codec, context.model if best.codec == "context" else None, reason)


def _sampled(store: TokenStore, most: int, seed: int) -> npt.NDArray[Any]:
    """Codes of at most so many samples, drawn from all splits alike."""
    total = sum(len(store[name]) for name in store.splits)
    share = min(1.0, most / max(1, total))
    parts = []
    for at, name in enumerate(store.splits):
        size = len(store[name])
        drawn = np.random.default_rng((seed, at)).permutation(size)[: math.ceil(share * size)]
        parts.append(store[name].read(TOKENS, np.sort(drawn)))
    return np.concatenate(parts)


def _trial_chunks(store: TokenStore, chunk_samples: int, seed: int) -> list[npt.NDArray[Any]]:
    """Whole chunks from all over a store."""
    spans = [
        (name, start, min(start + chunk_samples, len(store[name])))
        for name in store.splits
        for start in range(0, len(store[name]), chunk_samples)
    ]
    drawn = np.random.default_rng((seed, len(spans))).permutation(len(spans))[:_TRIAL_CHUNKS]
    return [store[name][start:stop] for name, start, stop in (spans[at] for at in sorted(drawn))]


def _measured(
    codec: ChunkCodec, trial: list[npt.NDArray[Any]], chunk_samples: int, total: int, copies: int
) -> Measured:
    fill = int(fill_value(trial[0].dtype))
    payloads = [np.frombuffer(codec.encode(codes, chunk_samples, fill), np.uint8) for codes in trial]
    outs = [np.empty_like(codes) for codes in trial]
    best = math.inf
    for _ in range(_TIMINGS):
        start = time.perf_counter()
        for payload, out in zip(payloads, outs, strict=True):
            codec.decode(payload, out)
        best = min(best, time.perf_counter() - start)
    samples = sum(map(len, trial))
    tables = copies * codec.table_nbytes if isinstance(codec, Context) else 0
    nbytes = round(sum(map(len, payloads)) / max(1, samples) * total) + tables
    return Measured(codec.name, nbytes, samples / max(best, 1e-9))
