"""A store's samples as images again, the images they were made from, and how the two compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tokenstore.errors import ManifestError, SampleError, SourceError, TokenizerError
from tokenstore.format.layout import TOKENS
from tokenstore.format.manifest import Manifest, Preprocessing, TokenizerIdentity
from tokenstore.reading.reader import Indices, TokenStore, normalised
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource, ImageSplit
from tokenstore.sources.images import Decoder, ImageOptions, PixelDecoder, Resize
from tokenstore.tokenizers.base import FileTokenizer, Tokenizer
from tokenstore.tokenizers.encoder import Encoder, identity_of
from tokenstore.tokenizers.quality import pairwise

BATCH = 32
"""Samples that are decoded or encoded at once unless the caller says otherwise."""

_FILTER = Preprocessing(1, 1, "squash").filter
"""The one filter that images are resized by."""

Images: TypeAlias = npt.NDArray[np.uint8]
Inputs: TypeAlias = npt.NDArray[Any]


def reconstruct(
    store: TokenStore, split: str, indices: object, tokenizer: Tokenizer, batch: int = BATCH
) -> Images:
    """Images (m, H, W, 3) of the samples at `indices` (m,); of a tokenizer of video (m, T, H, W, 3).

    The tokenizer decodes `batch` samples at a time, with the aligned columns it keeps beside the codes.
    Raises IndexError, StoreError, DamageError, and TokenizerError where it gives anything but such images.
    """
    reader = store[split]
    wanted = normalised(indices, len(reader))
    columns = tokenizer.columns if isinstance(tokenizer, FileTokenizer) else {}
    parts = []
    for start in range(0, max(1, len(wanted)), batch):
        here = wanted[start : start + batch]
        codes = torch.from_numpy(reader.read(TOKENS, here).astype(np.int64))
        beside = {name: torch.from_numpy(reader.read(name, here)) for name in columns}
        parts.append(_channels_last(tokenizer, tokenizer.decode(codes, **beside)))
    return np.concatenate(parts)


def _channels_last(tokenizer: Tokenizer, images: torch.Tensor) -> Images:
    if images.dtype != torch.uint8 or images.ndim not in (4, 5) or images.shape[-3] != 3:
        raise TokenizerError(
            f"{tokenizer.name}: expected images (B, 3, H, W) or video (B, T, 3, H, W) uint8 of decoding, "
            f"found {tuple(images.shape)} {images.dtype}"
        )
    return images.movedim(-3, -1).cpu().numpy()


@dataclass(frozen=True)
class Originals:
    """What some samples were made from, as far as it can still be had."""

    inputs: list[Inputs | None]
    """For each sample its image (H, W, 3) uint8, or what the decoder makes of the file; None for missing."""
    reason: str | None = None
    """Why the first of those that are missing is."""
    changed_files: int = 0
    """Files that have not the size in bytes which they had when they were converted."""

    @property
    def missing(self) -> int:
        return sum(image is None for image in self.inputs)


def originals(
    store: TokenStore,
    split: str,
    indices: object,
    source: ImageSource | str | Path | None = None,
    decoder: Decoder | None = None,
) -> Originals:
    """The source's images of the samples at `indices` (m,), preprocessed as the manifest says.

    `source` is where the images are, or the source itself; None for where the manifest says that they were.
    A sample is found by its place in the source, or by its name where another is there now. `decoder` turns
    files into a tokenizer's inputs, where it takes others than pixels. What cannot be had is None, with a
    reason. Raises IndexError, DamageError, ManifestError.
    """
    wanted = normalised(indices, len(store[split]))
    try:
        if not isinstance(source, ImageSource):
            source = source_of(store.manifest, source, folder_of(store))
        part = _same_split(store, split, source)
        decoder = decoder or PixelDecoder(image_options(store.manifest))
    except SourceError as error:
        return Originals([None] * len(wanted), str(error))
    rows = store[split].samples_table().take(pa.array(wanted))
    places = _places(part, rows["source_index"].to_pylist(), rows["source"].to_pylist())
    inputs: list[Inputs | None] = []
    reasons, changed = [], 0
    for place, name, nbytes in zip(
        places, rows["source"].to_pylist(), rows["source_bytes"].to_pylist(), strict=True
    ):
        try:
            data = _file(part, place, name, source.location)
            out = np.empty(decoder.shape, decoder.dtype)
            decoder.decode(data, out)
        except SampleError as error:
            inputs.append(None)
            reasons.append(f"{source.location}: {name}: {error}")
            continue
        inputs.append(out)
        changed += nbytes is not None and nbytes != len(data)
    return Originals(inputs, reasons[0] if reasons else None, changed)


def source_of(
    manifest: Manifest, location: str | Path | None = None, near: Path | None = None
) -> ImageSource:
    """The source of a store's images: at `location`, or where the manifest says that it was.

    A relative place in the manifest is looked for from the working folder, then from `near`.
    Raises SourceError where the store was not made of images, or they are not to be found.
    """
    if manifest.preprocessing is None:
        raise SourceError("the store was made of ready codes: there are no images it could be compared with")
    where = location or manifest.source_location
    if where is None:
        raise SourceError(
            "the store's manifest does not say where its images were; name the place by --images"
        )
    if location is None and near is not None and not Path(where).exists() and (near / where).exists():
        where = near / where
    try:
        source = open_source(where, manifest.source_kind)
    except SourceError as error:
        hint = "" if location else ". If the images are elsewhere now, name the place by --images"
        raise SourceError(f"{error}{hint}") from error
    if not isinstance(source, ImageSource):
        raise SourceError(f"{where}: expected the images that the store was made of, found codes")
    return source


def folder_of(store: TokenStore) -> Path | None:
    """The folder that a store is in, where it is on this machine."""
    root: Path | None = store.files.storage.root
    return None if root is None else root.parent


def image_options(manifest: Manifest) -> ImageOptions:
    """How a store's images were preprocessed.

    Raises SourceError where they were not, ManifestError where this version cannot do it.
    """
    steps = manifest.preprocessing
    if steps is None:
        raise SourceError("the store was made of ready codes: its manifest has no preprocessing of images")
    resize: Resize = steps.resize  # type: ignore[assignment]
    try:
        options = ImageOptions((steps.height, steps.width), resize)
    except ValueError as error:
        raise ManifestError(f"manifest.preprocessing: {error}") from error
    if steps.filter != _FILTER:
        raise ManifestError(
            f"manifest.preprocessing.filter: expected {_FILTER!r}, found {steps.filter!r}. Upgrade tokenstore"
        )
    return options


def evenly_spaced(samples: int, count: int) -> Indices:
    """Up to `count` indices of `samples`, evenly spaced from the first one on."""
    count = min(samples, count)
    return np.arange(count, dtype=np.int64) * samples // max(1, count)


def _same_split(store: TokenStore, split: str, source: ImageSource) -> ImageSplit:
    """subtle: a source with no folders for splits takes its split from its name, which moving may change."""
    if split in source.splits:
        return source.splits[split]
    if len(source.splits) == len(store.splits) == 1:
        return next(iter(source.splits.values()))
    raise SourceError(f"{source.location}: expected a split {split!r}, found {', '.join(source.splits)}")


def _places(part: ImageSplit, indices: Sequence[int], names: Sequence[str]) -> list[int | None]:
    """Where in a source's split the samples are now, None for nowhere."""
    places: list[int | None] = [
        index if index < len(part) and part.names(index, index + 1)[0].as_py() == name else None
        for index, name in zip(indices, names, strict=True)
    ]
    if None in places:
        found = pc.index_in(pa.array(names, pa.string()), part.names(0, len(part))).to_pylist()
        places = [by_name if place is None else place for place, by_name in zip(places, found, strict=True)]
    return places


def _file(part: ImageSplit, place: int | None, name: str, location: str) -> bytes:
    """The bytes of a sample's file; raises SampleError."""
    if place is None:
        raise SampleError("no longer there under this name")
    (data,) = part.request(place, place + 1).read()
    if isinstance(data, SampleError):
        raise data
    return data


@dataclass
class Chosen:
    """The samples of a split that were compared with their images."""

    samples: int = 0
    missing: int = 0
    """Samples chosen whose image is not to be had."""
    reason: str | None = None
    """Why the first of those that are missing is."""
    changed_files: int = 0
    """Images whose files have not the size in bytes that they had when they were converted."""


@dataclass
class SplitQuality(Chosen):
    """How near reconstructions come to the images: means over the samples, None where there are none."""

    psnr: float | None = None
    """In dB; each sample counts up to `quality.PSNR_CEILING`."""
    ssim: float | None = None


@dataclass
class SplitAgreement(Chosen):
    """How the store's codes compare with those that the images give now."""

    equal_samples: int = 0
    """Samples all of whose codes are equal."""
    codes: int = 0
    equal_codes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The counts, and the shares of equal samples and codes, as JSON values."""
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
    """What codes were computed in now, such as `cpu float32`; `exact` where no float decides them."""
    stored_arithmetic: str
    """What the manifest says the store's were; `exact` also where it says nothing."""

    @property
    def must_agree(self) -> bool:
        """Whether codes that differ are a finding: they were computed now as they were then."""
        return self.arithmetic == self.stored_arithmetic

    @property
    def differences(self) -> list[str]:
        """A sentence for each split with codes that differ."""
        why = f"codes were computed in {self.stored_arithmetic} then and {self.arithmetic} now"
        if self.must_agree:
            why = (
                "the images or the codes are not those of the conversion"
                if self.arithmetic == "exact"
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
        """All of it as JSON values."""
        splits = {name: split.to_dict() for name, split in self.splits.items()}
        return {"arithmetic": self.arithmetic, "stored_arithmetic": self.stored_arithmetic, "splits": splits}


def measure_quality(
    store: TokenStore, tokenizer: Tokenizer, source: ImageSource, samples: int
) -> dict[str, SplitQuality]:
    """PSNR and SSIM of up to `samples` reconstructions, evenly spaced over each split.

    Raises SourceError where none of their images is to be had, TokenizerError, DamageError.
    """
    splits = {}
    decoder = PixelDecoder(image_options(store.manifest))
    for name in store.splits:
        splits[name] = quality = SplitQuality()
        noise, similarity = [], []
        for here, images in _with_images(store, name, samples, source, decoder, quality):
            psnr, ssim = pairwise(images, reconstruct(store, name, here, tokenizer))
            noise += psnr.tolist()
            similarity += ssim.tolist()
        if noise:
            quality.psnr, quality.ssim = float(np.mean(noise)), float(np.mean(similarity))
    _refuse_nothing(splits)
    return splits


def retokenize(store: TokenStore, tokenizer: Tokenizer, source: ImageSource, samples: int) -> Retokenization:
    """Encode up to `samples` images again, evenly spaced over each split, and compare their codes.

    Raises SourceError where none of the images is to be had, TokenizerError, DamageError.
    """
    encoder = Encoder(tokenizer, image_options(store.manifest))
    if encoder.grid != store.manifest.grid:
        raise TokenizerError(
            f"{tokenizer.name}: expected a grid {store.manifest.grid} as the store has, found {encoder.grid}"
        )
    splits = {}
    for name in store.splits:
        splits[name] = agreement = SplitAgreement()
        for here, inputs in _with_images(store, name, samples, source, encoder.decoder, agreement):
            equal = (encoder(inputs) == store[name].read(TOKENS, here)).reshape(len(here), -1)
            agreement.equal_samples += int(equal.all(axis=1).sum())
            agreement.codes += equal.size
            agreement.equal_codes += int(equal.sum())
    _refuse_nothing(splits)
    stored, now = store.manifest.tokenizer, identity_of(tokenizer)
    return Retokenization(splits, _arithmetic(now), _arithmetic(stored))


def _with_images(
    store: TokenStore, split: str, samples: int, source: ImageSource, decoder: Decoder, chosen: Chosen
) -> Iterator[tuple[Indices, Inputs]]:
    """Batches of indices whose images are there, and the decoder's inputs; `chosen` keeps count."""
    indices = evenly_spaced(len(store[split]), samples)
    for start in range(0, len(indices), BATCH):
        here = indices[start : start + BATCH]
        found = originals(store, split, here, source, decoder)
        there = np.array([image is not None for image in found.inputs])
        chosen.samples += int(there.sum())
        chosen.missing += found.missing
        chosen.reason = chosen.reason or found.reason
        chosen.changed_files += found.changed_files
        if there.any():
            yield here[there], np.stack([image for image in found.inputs if image is not None])


def _refuse_nothing(splits: Mapping[str, Chosen]) -> None:
    if not any(split.samples for split in splits.values()):
        reasons = [split.reason for split in splits.values() if split.reason is not None]
        raise SourceError(
            f"expected images to compare the store with, found none: {[*reasons, 'it has no samples'][0]}. "
            "If they are elsewhere now, name the place by --images"
        )


def _arithmetic(identity: TokenizerIdentity) -> str:
    if identity.device is None and identity.dtype is None:
        return "exact"
    return f"{identity.device} {identity.dtype}"
