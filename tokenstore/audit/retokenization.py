"""The check that a store's images still give the store's codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.audit.originals import ComparedSamples, Comparison, check_some_compared, image_options
from tokenstore.errors import TokenizerError
from tokenstore.format import TOKENS
from tokenstore.reading import TokenStore
from tokenstore.sources.base import ImageSource
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.encoder import Encoder, identity_of

EXACT = "exact"
"""The arithmetic of codes that no float decides."""


@dataclass(frozen=True)
class SplitAgreement(ComparedSamples):
    """The agreement of a split's codes with those that the images give now."""

    equal_samples: int = 0
    """The number of samples all of whose codes are equal."""
    codes: int = 0
    equal_codes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the shares of equal samples and codes, as JSON values."""
        return {
            **asdict(self),
            "equal_samples_share": self.equal_samples / self.samples if self.samples else None,
            "equal_codes_share": self.equal_codes / self.codes if self.codes else None,
        }


@dataclass(frozen=True)
class Retokenization:
    """A store's codes against those that its images give now."""

    splits: Mapping[str, SplitAgreement]
    arithmetic: str
    """The device and float type of the codes computed now, such as `cpu float32`; `exact` for tokenizers
    whose codes no float decides."""
    stored_arithmetic: str
    """The device and float type of the store's codes by its manifest; `exact` also if it names none."""

    @property
    def must_agree(self) -> bool:
        """True if codes that differ are a finding: they are computed now as they were then."""
        return self.arithmetic == self.stored_arithmetic

    @property
    def differences(self) -> list[str]:
        """A sentence for each split with codes that differ."""
        why = f"codes were computed in {self.stored_arithmetic} then and {self.arithmetic} now"
        if self.must_agree:
            why = (
                "the images or the codes are not those of the conversion"
                if self.arithmetic == EXACT
                else "the images or the codes are not those of the conversion, or another processor or "
                "version of torch rounds otherwise, which tips a code now and then"
            )
        return [
            f"split {name}: {split.samples - split.equal_samples:,} of {split.samples:,} samples have other "
            f"codes when their images are encoded again, {split.changed_files:,} of the image files another "
            f"size: {why}"
            for name, split in self.splits.items()
            if split.equal_samples < split.samples
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        splits = {name: split.to_dict() for name, split in self.splits.items()}
        return {"arithmetic": self.arithmetic, "stored_arithmetic": self.stored_arithmetic, "splits": splits}


def retokenize(store: TokenStore, tokenizer: Tokenizer, source: ImageSource, samples: int) -> Retokenization:
    """Encode up to `samples` images again, evenly spaced over each split, and compare their codes.

    Of a store with views, all views are compared. Raises SourceError if none of the images can be read,
    TokenizerError for a tokenizer with another grid, or of files for a store with views, DamageError for
    damaged codes.
    """
    encoder = Encoder(tokenizer, image_options(store.manifest))
    if encoder.grid != store.manifest.grid:
        raise TokenizerError(
            f"{tokenizer.name}: expected a grid {store.manifest.grid} as the store has, found {encoder.grid}"
        )
    views = store.manifest.views
    if views is not None and not encoder.takes_pixels:
        raise TokenizerError(f"{tokenizer.name}: it encodes files, which have no {views.count} views")
    splits = {}
    for name in store.splits:
        if views is None:
            comparison = Comparison(store, name, source, encoder.decoder)
        else:
            comparison = Comparison(store, name, source, all_views=True)
        equal_samples = codes = equal_codes = 0
        for indices, inputs in comparison.batches(samples):
            codes_now = encoder(inputs) if views is None else _codes_of_views(encoder, inputs)
            equal = (codes_now == store[name].read(TOKENS, indices)).reshape(len(indices), -1)
            equal_samples += int(equal.all(axis=1).sum())
            codes += equal.size
            equal_codes += int(equal.sum())
        splits[name] = SplitAgreement(
            **comparison.counts, equal_samples=equal_samples, codes=codes, equal_codes=equal_codes
        )
    check_some_compared(splits)
    stored, now = store.manifest.tokenizer, identity_of(tokenizer)
    return Retokenization(splits, now.arithmetic or EXACT, stored.arithmetic or EXACT)


def _codes_of_views(encoder: Encoder, images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Return the codes (n, V, *grid) of images (n, V, H, W, 3), of which a batch has one view."""
    views = [np.ascontiguousarray(images[:, view]) for view in range(images.shape[1])]
    return np.stack([encoder.encode_batch(view) for view in views], axis=1)
