"""The front door: one page that shows a store, or two side by side, and the same figures as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from typing_extensions import Unpack

from tokenstore.audit.report.charts import require_matplotlib
from tokenstore.audit.report.figures import StoreFigures
from tokenstore.audit.report.gathering import OnStep, Request, gather
from tokenstore.audit.report.page import page_path, render_page, write_page
from tokenstore.audit.report.store_page import store_views
from tokenstore.errors import (
    ArgumentError,
    DamageError,
    ManifestError,
    Parameter,
    StoreError,
    TokenstoreError,
)
from tokenstore.reading import TokenStore
from tokenstore.reading.open import StorePath, as_store
from tokenstore.sources.options import OriginalsOptions, refuse_unknown
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.version import __version__

SCHEMA_VERSION = 1
"""The version of the names and meanings in `Report.to_dict`."""
SAMPLES = 24
"""The samples of a contact sheet unless the caller says otherwise."""
QUALITY = 32
"""The samples of each split that are compared with their images unless the caller says otherwise."""
NEAR = 0.9
"""The share of equal codes of near duplicates unless the caller says otherwise."""


@dataclass(frozen=True)
class Report:
    """The figures of one store or two, and the page that shows them."""

    stores: tuple[StoreFigures, ...]
    path: Path | None = None
    """The file of the page; None if none was written."""
    nbytes: int = 0
    """The bytes of that file."""
    unread: Mapping[str, TokenstoreError] = field(default_factory=dict)
    """The error because of which one store of two is not shown, by its place."""

    @property
    def problems(self) -> tuple[TokenstoreError | str, ...]:
        """The problems of the stores: the error of one that is not shown, and damage that was met."""
        damage = (problem for store in self.stores for problem in store.problems)
        return (*self.unread.values(), *damage)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values, with the version of their names as `schema_version`."""
        return {
            "schema": "tokenstore.report",
            "schema_version": SCHEMA_VERSION,
            "created_by": f"tokenstore {__version__}",
            "stores": [store.to_dict() for store in self.stores],
            "unread": {place: str(error) for place, error in self.unread.items()},
        }

    def html(self) -> str:
        """Return the page; raises ArgumentError without matplotlib."""
        return render_page("store.html", stores=store_views(self.stores), unread=self.unread)


def report(
    *stores: StorePath | TokenStore,
    out: StorePath | None = None,
    samples: int = SAMPLES,
    quality: int = QUALITY,
    near: float | None = NEAR,
    shuffle: bool = True,
    augment: Literal["seitpp"] | None = None,
    verify: bool = False,
    adapter: str = "default",
    images: StorePath | None = None,
    tokenizer: str | Tokenizer | None = None,
    device: str = "cpu",
    storage_options: Mapping[str, Any] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    **of_images: Unpack[OriginalsOptions],
) -> Report:
    """Gather what can be said of a store, or of two side by side, and write it as one HTML page.

    Figures are those of `stats`, `verify` and `dedupe`, pictures those of `preview`. Of a store of more than
    67 million codes, codes are counted in evenly spaced chunks, and the page says so. A damaged store is
    shown as far as it can be read, with its damage, and so is one store of two if the other cannot be opened:
    `Report.problems` says what is wrong.

    Args:
        *stores: One store, or two, each open or by its path or URL.
        out: The file of the page, whose name ends in .html; None for none.
        samples: The samples of the contact sheet, by default 24.
        quality: The samples of each split to compare with their images, by default 32; 0 for none.
        near: The share of equal codes of near duplicates, by default 0.9; None for exact ones alone.
        shuffle: True to measure how well the orders of an epoch mix each split.
        augment: "seitpp" to show what that augmentation makes of a few samples.
        verify: True to check every byte of the store, and show the result.
        adapter: The file of the TokenAdapt weights of that augmentation, or "default".
        images: The place of the images, by default that in the manifest.
        tokenizer: The tokenizer that decodes, by default the one that the manifest names.
        device: The device that a tokenizer given by its name runs on.
        storage_options: The options of remote `stores`.
        on_progress: Called with the name of a step, the units of it that are done, and all its units.
        **of_images: The options that the images are opened with.

    Raises ArgumentError for arguments that cannot be used, SourceError, TokenizerError and AdapterError for
    what is named here and does not fit, OSError, and, if no store can be shown, DamageError or the errors of
    `tokenstore.open`.
    """
    refuse_unknown(of_images, OriginalsOptions.__annotations__, "report")
    _check_arguments(stores, samples, quality, augment, adapter)
    path = None if out is None else page_path(out)
    if path is not None:
        require_matplotlib()
    request = Request(
        samples, quality, near, shuffle, augment, verify, adapter, images, tokenizer, device, of_images
    )
    made = _gathered(stores, storage_options, request, on_progress)
    return made if path is None else replace(made, path=path, nbytes=write_page(path, made.html()))


def _gathered(
    stores: Sequence[StorePath | TokenStore],
    storage_options: Mapping[str, Any] | None,
    request: Request,
    on_progress: OnStep | None,
) -> Report:
    """Gather the figures of each store; steps are named by the number of the store where there are two.

    Raises the error of a store that cannot be shown if there is no other that can.
    """

    def on_step(prefix: str, step: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(prefix + step, done, total)

    shown: list[StoreFigures] = []
    errors: dict[str, TokenstoreError] = {}
    for number, store in enumerate(stores, 1):
        prefix = f"store {number}: " if len(stores) > 1 else ""
        try:
            shown.append(gather(as_store(store, storage_options), request, partial(on_step, prefix)))
        except (StoreError, ManifestError, DamageError) as error:
            place = str(store.files.storage if isinstance(store, TokenStore) else store)
            errors[place] = error
    if not shown:
        raise next(iter(errors.values()))
    return Report(tuple(shown), unread=errors)


def _check_arguments(
    stores: tuple[object, ...], samples: int, quality: int, augment: str | None, adapter: str
) -> None:
    if not 1 <= len(stores) <= 2:
        raise ArgumentError(f"expected one store, or two to show side by side, found {len(stores)}")
    for name, value, least in (("samples", samples, 1), ("quality", quality, 0)):
        if value < least:
            named = Parameter(name, value)
            raise ArgumentError(f"{named}: expected at least {least}", parameters=[named])
    if augment not in (None, "seitpp"):
        raise ArgumentError(f"augment: expected 'seitpp' or None, found {augment!r}")
    if augment is None and adapter != "default":
        idle, needed = Parameter("adapter"), Parameter("augment")
        raise ArgumentError(f"{idle} goes with {needed}", parameters=[idle, needed])
