"""The choice of a codec: the one that takes the fewest bytes, tables included, and is fast enough."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import (
    DEFAULT_CODEC,
    MAX_FIT_CODES,
    ChunkCodec,
    ContextModel,
    GivenViews,
    codec_class,
    codec_names,
)
from tokenstore.errors import Parameter, StoreError
from tokenstore.format import TOKENS, StoreFields, fill_value
from tokenstore.reading import TokenStore
from tokenstore.writing.choices import AUTO, MIN_DECODE_RATE, chosen_later
from tokenstore.writing.drawing import drawn

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""A progress callback: the step's name, the units of it that are done, and all its units."""

_TRIAL_CHUNKS = 16
_MOST_FIT_CODES = 2 * MAX_FIT_CODES
"""The most codes of all views in memory for a fit."""
_READ_AT_ONCE = 2**12
_TIMINGS = 3


@dataclass(frozen=True)
class Measured:
    """The size and speed of one codec on a store's codes."""

    codec: str
    nbytes: int
    """The bytes of all tokens, estimated from a sample of chunks, and of the codec's tables."""
    decode_rate: float
    """The samples that are decoded in a second on one core, of several views one each."""

    def __str__(self) -> str:
        return f"{self.codec}: {self.nbytes:,} bytes, {self.decode_rate:,.0f} samples/s a core"


@dataclass(frozen=True)
class CodecChoice:
    """The codec that a store is written with, and the reason for it."""

    codec: str
    model: ContextModel | None = None
    reason: str = ""
    given_views: GivenViews | None = None
    """The views that are coded given others, with the model of those."""

    def __str__(self) -> str:
        return f"{self.codec}: {self.reason}"

    def to_json(self) -> bytes:
        """Return the choice, with the context codec's models, as JSON."""
        model = None if self.model is None else base64.b64encode(self.model.to_bytes()).decode()
        views = {} if self.given_views is None else {"given_views": self.given_views.to_json()}
        return json.dumps({"codec": self.codec, "model": model, "reason": self.reason, **views}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> CodecChoice:
        """Return the choice that `to_json` wrote."""
        values = json.loads(data)
        model = values["model"]
        model = None if model is None else ContextModel.from_bytes(base64.b64decode(model))
        views = values.get("given_views")
        return cls(
            values["codec"], model, values["reason"], None if views is None else GivenViews.from_json(views)
        )


def choose_codec(
    store: TokenStore,
    codec: str,
    codebook_sizes: tuple[int, ...],
    renumber: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    *,
    min_decode_rate: float = MIN_DECODE_RATE,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> CodecChoice:
    """Choose the codec for a store's codes: the one named `codec`, or for `auto` the smallest of all.

    The context codec is fitted to the codes, as they are after `renumber`, a function over codes (n, *grid).
    Large stores are sampled. `on_progress` is called while the codec is fitted.

    Raises StoreError if no codec decodes at `min_decode_rate`, DamageError for damaged codes.
    """
    sizes = {name: len(store[name]) for name in store.splits}
    total = sum(sizes.values())
    if not chosen_later(codec) or not total:
        return CodecChoice(
            DEFAULT_CODEC if codec == AUTO else codec, reason="as asked for" if total else "no samples"
        )
    fields = store.manifest
    codes_per_sample = math.prod(fields.sample_shape)

    def report(done: int, steps: int) -> None:
        if on_progress is not None:
            on_progress("fitting the context model", done, steps)

    def renumbered(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return renumber(fields.grids(codes)).reshape(len(codes), *fields.sample_shape)

    codes = renumbered(_sample_codes(store, _fit_samples(fields), seed))
    splits = sum(bool(size) for size in sizes.values())
    rivals = [
        codec_class(name).fitted(
            codes,
            codebook_sizes,
            seed=seed,
            total_codes=total * codes_per_sample,
            copies=splits,
            on_progress=report,
            **({} if fields.views is None else {"views": fields.views}),
        )
        for name in (codec_names() if codec == AUTO else (codec,))
    ]
    if codec != AUTO:
        return CodecChoice(codec, rivals[0].model, "as asked for", rivals[0].given_views)
    chunk_samples = store[store.splits[0]].arrays[TOKENS].layout.chunk_samples
    trial = [renumbered(part) for part in _trial_chunks(store, chunk_samples, seed)]
    measured = {each.name: _measure(each, trial, chunk_samples, total, splits) for each in rivals}
    best, reason = _smallest(list(measured.values()), min_decode_rate, str(store.files.storage))
    winner = next(each for each in rivals if each.name == best)
    return CodecChoice(best, winner.model, reason, winner.given_views)


def _fit_samples(fields: StoreFields) -> int:
    """Return the most samples that a codec is fitted to: enough of each view for the model of any of them."""
    of_a_view = MAX_FIT_CODES // math.prod(fields.grid)
    return max(1, min(of_a_view, _MOST_FIT_CODES // math.prod(fields.sample_shape)))


def _smallest(measured: list[Measured], min_decode_rate: float, where: str) -> tuple[str, str]:
    """Return the smallest codec that is fast enough and the reason; raises StoreError if none is."""
    fast = [one for one in measured if one.decode_rate >= min_decode_rate]
    figures = "; ".join(map(str, measured))
    if not fast:
        fewer = Parameter("min_decode_rate")
        raise StoreError(
            f"{where}: no codec decodes {min_decode_rate:,.0f} samples/s a core ({figures}). "
            f"Ask for fewer by {fewer}, or name a codec",
            parameters=[fewer],
        )
    best = min(fast, key=lambda one: one.nbytes)
    slow = [one.codec for one in measured if one not in fast]
    reason = f"the smallest of {figures}"
    if slow:
        reason += f"; {', '.join(slow)} below {min_decode_rate:,.0f} samples/s"
    return best.codec, reason


def _sample_codes(store: TokenStore, most: int, seed: int) -> npt.NDArray[Any]:
    """Read the codes of at most `most` samples, drawn from all splits alike."""
    total = sum(len(store[name]) for name in store.splits)
    share = min(1.0, most / max(1, total))
    parts = []
    for at, name in enumerate(store.splits):
        size = len(store[name])
        chosen = drawn(size, math.ceil(share * size), (seed, at))
        tokens = store[name].array(TOKENS).streamed()
        codes = np.empty((len(chosen), *tokens.layout.sample_shape), tokens.layout.dtype)
        for start in range(0, len(chosen), _READ_AT_ONCE):  # each may be in a chunk of its own
            span = slice(start, start + _READ_AT_ONCE)
            tokens.read(chosen[span], codes[span])
        parts.append(codes)
    return np.concatenate(parts)


def _trial_chunks(store: TokenStore, chunk_samples: int, seed: int) -> list[npt.NDArray[Any]]:
    """Read whole chunks from all over a store."""
    counts = [-(-len(store[name]) // chunk_samples) for name in store.splits]
    stops, chunks = np.cumsum(counts), []
    total = sum(counts)
    for at in drawn(total, _TRIAL_CHUNKS, (seed, total)).tolist():
        number = int(np.searchsorted(stops, at, side="right"))
        split = store[store.splits[number]]
        start = (at - int(stops[number]) + counts[number]) * chunk_samples
        chunks.append(split[start : start + chunk_samples])
    return chunks


def _measure(
    codec: ChunkCodec, trial: list[npt.NDArray[Any]], chunk_samples: int, total: int, copies: int
) -> Measured:
    fill = int(fill_value(trial[0].dtype))
    payloads = [np.frombuffer(codec.encode(codes, chunk_samples, fill), np.uint8) for codes in trial]
    reads = [_read(codec, payload, codes) for payload, codes in zip(payloads, trial, strict=True)]
    best = math.inf
    for _ in range(_TIMINGS):
        start = time.perf_counter()
        for read in reads:
            read()
        best = min(best, time.perf_counter() - start)
    samples = sum(map(len, trial))
    nbytes = round(sum(map(len, payloads)) / max(1, samples) * total) + copies * codec.table_nbytes
    return Measured(codec.name, nbytes, samples / max(best, 1e-9))


def _read(codec: ChunkCodec, payload: npt.NDArray[np.uint8], codes: npt.NDArray[Any]) -> Callable[[], None]:
    """Return the reading of a chunk of codes (n, ...): of all samples, or of a view of each that is drawn."""
    if codec.views == 1 or codec.samples is None:
        return partial(codec.decode, payload, np.empty_like(codes))
    samples, count, *grid = codes.shape
    views = np.arange(samples) * count + np.random.default_rng(samples).integers(0, count, samples)
    spans = [codec.samples.spans(payload, tuple(grid), samples * count)]
    out = np.empty((samples, *grid), codes.dtype)
    return partial(codec.samples.decode_spans, spans, np.zeros(samples, np.int64), views, out)
