"""The gathering of one store's figures, each by the call that the other commands have for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from tokenstore.audit.columns import StatsOptions
from tokenstore.audit.info import info
from tokenstore.audit.originals import evenly_spaced, folder_of, open_images, read_originals
from tokenstore.audit.preview import augmented_images
from tokenstore.audit.quality import DECODED_AT_ONCE, measure_quality
from tokenstore.audit.reconstruct import decode_samples, tokenizer_for
from tokenstore.audit.report.figures import QualityFigures, SplitFigures, StoreFigures, StorePictures
from tokenstore.audit.report.observing import SplitCodes
from tokenstore.audit.report.pictures import Picture, WorstRebuilt, code_patches, pictures, sheet_rows
from tokenstore.audit.report.predictability import Predictability, predictabilities
from tokenstore.audit.report.readable import ReadableStore
from tokenstore.audit.report.tables import (
    DuplicateFigures,
    SkippedSamples,
    column_ranges,
    duplicate_figures,
    skipped_samples,
)
from tokenstore.audit.stats import StorageAudit, audit_store
from tokenstore.audit.verify import Verification, verify
from tokenstore.errors import AdapterError, DamageError, SourceError, TokenizerError
from tokenstore.format import TOKENS
from tokenstore.reading import Indices, TokenStore
from tokenstore.reading.open import StorePath
from tokenstore.sources.base import ImageSource
from tokenstore.sources.options import OriginalsOptions
from tokenstore.tokenizers.base import Tokenizer

MOST_CODES = 2**26
"""The codes of a store that are counted: of a store of more, those of evenly spaced chunks."""
EXTREMES = 6
"""The samples of the fewest and of the most bits that are shown."""
MOST_DAMAGE = 50
"""The findings of damage that are listed."""
AUGMENTED = 4
"""The samples that the augmentation is shown on."""

OnStep = Callable[[str, int, int], None]
"""A progress callback: the step's name, the units of it that are done, and all its units."""


@dataclass(frozen=True)
class Request:
    """The parts of a report that are asked for, and how pictures and originals are had."""

    samples: int
    quality: int
    near: float | None
    shuffle: bool
    augment: str | None
    verify: bool
    adapter: str
    images: StorePath | None
    tokenizer: str | Tokenizer | None
    device: str
    of_images: OriginalsOptions = field(default_factory=OriginalsOptions)


def gather(store: TokenStore, request: Request, on_step: OnStep) -> StoreFigures:
    """Gather the figures of an open store; raises as `tokenstore.report` does."""
    gatherer = _Gatherer(store, request, on_step)
    return gatherer.figures()


class _Gatherer:
    """The gathering of one store's figures, step by step."""

    def __init__(self, store: TokenStore, request: Request, on_step: OnStep) -> None:
        self._request, self._on_step = request, on_step
        self._reasons: dict[str, str] = {}
        self._damage: dict[str, None] = {}
        self._store = ReadableStore(store, self._damaged)
        # what the caller named has to be there; what the manifest names may be gone
        named, where = request.tokenizer is not None, request.images is not None
        self._tokenizer = self._had("pictures", () if named else TokenizerError, self._open_tokenizer)
        self._source = self._had("originals", () if where else SourceError, self._open_source)

    def figures(self) -> StoreFigures:
        """Return all figures."""
        about = info(self._store)
        worst = WorstRebuilt(self._store)
        # first: that none of the images named can be read is said before minutes of counting
        errors = TokenizerError if self._request.images is not None else (SourceError, TokenizerError)
        quality = self._had("quality", errors, partial(self._quality, worst))
        verification = self._verification()
        observers: dict[str, SplitCodes] = {}
        audit = self._audit(observers)
        self._on_step("columns", 0, len(self._store.splits))
        splits = {}
        for number, name in enumerate(self._store.splits, 1):
            split, seen = self._store[name], observers[name]
            columns = self._had("columns", (), partial(column_ranges, split))
            skipped = self._had("skipped", (), partial(skipped_samples, self._store, name))
            if skipped is None:
                skipped = SkippedSamples(self._store.manifest.splits[name].skipped, [])
            splits[name] = SplitFigures(seen.curves, seen.entropy(), columns or [], skipped)
            self._on_step("columns", number, len(self._store.splits))
        bits = self._predictability()
        duplicates = self._duplicates()
        shown = StorePictures()
        if self._tokenizer is not None:
            drawn = self._had(
                "pictures",
                TokenizerError,
                partial(self._pictures, self._tokenizer, audit, splits, bits, duplicates, worst),
            )
            shown = shown if drawn is None else drawn
        return StoreFigures(
            about,
            audit,
            splits,
            shown,
            quality,
            bits,
            duplicates,
            verification,
            self._reasons,
            tuple(self._damage),
            is_spaced=self._store.manifest.codes > MOST_CODES,
        )

    def _had(self, part: str, errors: Any, made: Callable[[], Any]) -> Any:
        """Return what `made` returns; None after damage or one of `errors`, noted as the part's reason."""
        try:
            return made()
        except DamageError as error:
            self._damaged(error)
            self._reasons[part] = str(error)
            return None
        except errors as error:
            self._reasons[part] = str(error)
            return None

    def _damaged(self, error: DamageError) -> None:
        if len(self._damage) < MOST_DAMAGE:
            self._damage[str(error)] = None

    def _open_tokenizer(self) -> Tokenizer:
        return tokenizer_for(self._store.manifest, self._request.tokenizer, self._request.device)

    def _open_source(self) -> ImageSource:
        request = self._request
        return open_images(self._store.manifest, request.images, folder_of(self._store), **request.of_images)

    def _verification(self) -> Verification | None:
        if not self._request.verify:
            return None
        return verify(self._store, on_progress=partial(self._on_step, "verifying"))

    def _audit(self, observers: dict[str, SplitCodes]) -> StorageAudit:
        def observe(name: str, samples: int) -> SplitCodes:
            observers[name] = SplitCodes(self._store.manifest, samples)
            return observers[name]

        return audit_store(
            self._store,
            StatsOptions(shuffle=self._request.shuffle),
            partial(self._on_step, "counting codes"),
            most_codes=MOST_CODES,
            observe=observe,
            on_damage=self._damaged,
        )

    def _predictability(self) -> Mapping[str, Predictability] | None:
        self._on_step("bits of samples", 0, 1)
        bits = self._had("predictability", (), partial(predictabilities, self._store))
        self._on_step("bits of samples", 1, 1)
        if isinstance(bits, str):
            self._reasons["predictability"] = bits
            return None
        measured: Mapping[str, Predictability] | None = bits
        return measured

    def _duplicates(self) -> DuplicateFigures | None:
        if not any(len(self._store[name]) for name in self._store.splits):
            return None
        find = partial(duplicate_figures, self._store, self._request.near, self._on_step)
        found: DuplicateFigures | None = self._had("duplicates", (), find)
        return found

    def _quality(self, worst: WorstRebuilt) -> QualityFigures | None:
        """Compare some reconstructions with their images."""
        samples = self._request.quality
        if not samples or self._tokenizer is None or self._source is None:
            return None
        total = sum(min(samples, len(self._store[name])) for name in self._store.splits)
        compared = 0

        def on_compared(batch: Any) -> None:
            nonlocal compared
            worst.add(batch)
            compared += len(batch.indices)
            self._on_step("comparing images", compared, total)

        with torch.inference_mode():
            splits = measure_quality(self._store, self._tokenizer, self._source, samples, on_compared)
        return QualityFigures(splits, worst.psnr)

    def _pictures(
        self,
        tokenizer: Tokenizer,
        audit: StorageAudit,
        splits: Mapping[str, SplitFigures],
        bits: Mapping[str, Predictability] | None,
        duplicates: DuplicateFigures | None,
        worst: WorstRebuilt,
    ) -> StorePictures:
        steps = iter(range(1, 6))

        def done() -> None:
            self._on_step("drawing pictures", next(steps), 5)

        first = next((name for name in self._store.splits if len(self._store[name])), None)
        if first is None:
            return StorePictures()
        with torch.inference_mode():
            sheet = self._drawn(
                tokenizer, first, sheet_rows(self._store[first], audit, self._request.samples)
            )
            done()
            fewest, most = self._extremes(tokenizer, first, bits)
            done()
            pairs = self._pairs(tokenizer, duplicates)
            done()
            patches = self._had("patches", TokenizerError, partial(self._patches, tokenizer, splits[first]))
            done()
            errors: Any = AdapterError if self._request.adapter == "default" else ()
            augmented = self._had("augmented", errors, partial(self._augmented, tokenizer, first))
            done()
        return StorePictures(sheet, worst.pictures, fewest, most, pairs, patches or [], augmented or {})

    def _drawn(
        self, tokenizer: Tokenizer, split: str, rows: Indices, notes: list[str] | None = None
    ) -> list[Picture]:
        """Decode samples, with their originals where they are; damaged samples are left out."""
        try:
            rebuilt = decode_samples(self._store, split, rows, tokenizer, DECODED_AT_ONCE)
        except DamageError:
            sound = [place for place, row in enumerate(rows.tolist()) if self._is_sound(split, row)]
            rows, notes = rows[sound], [notes[place] for place in sound] if notes else []
            if not sound:
                return []
            rebuilt = decode_samples(self._store, split, rows, tokenizer, DECODED_AT_ONCE)
        originals: list[Any] = [None] * len(rows)
        if self._source is not None:
            read = read_originals(self._store, split, rows, self._source)
            originals = read.inputs
            if read.reason is not None:
                self._reasons.setdefault("originals", read.reason)
        return pictures(self._store, split, rows, rebuilt, originals, notes or [])

    def _is_sound(self, split: str, row: int) -> bool:
        try:
            self._store[split].read(TOKENS, [row])
        except DamageError as error:
            self._damaged(error)
            return False
        return True

    def _extremes(
        self, tokenizer: Tokenizer, split: str, bits: Mapping[str, Predictability] | None
    ) -> tuple[list[Picture], list[Picture]]:
        """Draw the samples of the fewest bits, and those of the most."""
        if bits is None:
            return [], []
        measured = bits[split]
        fewest, most = (
            self._drawn(
                tokenizer,
                split,
                rows,
                [
                    f"{measured.bits_of(row) / measured.codes_per_sample:.2f} bits a code"
                    for row in rows.tolist()
                ],
            )
            if len(rows)
            else []
            for rows in measured.extremes(EXTREMES)
        )
        return fewest, most

    def _pairs(
        self, tokenizer: Tokenizer, duplicates: DuplicateFigures | None
    ) -> list[tuple[Picture, Picture]]:
        """Draw some pairs of duplicates."""
        drawn = []
        for one, first, two, second, share in [] if duplicates is None else duplicates.examples:
            note = "the same codes" if share == 1 else f"{share:.1%} of the codes"
            (left,) = self._drawn(tokenizer, one, np.array([first]), [note])
            (right,) = self._drawn(tokenizer, two, np.array([second]), [note])
            drawn.append((left, right))
        return drawn

    def _patches(self, tokenizer: Tokenizer, split: SplitFigures) -> list[Any]:
        if not split.curves:
            return []
        top = split.curves[0].top_codes
        images = code_patches(self._store.manifest, tokenizer, [code for code, _ in top])
        return [(code, share, image) for (code, share), image in zip(top, images, strict=True)]

    def _augmented(self, tokenizer: Tokenizer, split: str) -> Mapping[str, Any]:
        if self._request.augment is None:
            return {}
        reader = self._store[split]
        rows = evenly_spaced(len(reader), AUGMENTED)
        return augmented_images(self._store, reader, rows, tokenizer, self._request.adapter)
