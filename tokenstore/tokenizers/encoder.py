"""The encoder of a conversion: a tokenizer from arrays of inputs to arrays of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from tokenstore.codecs import code_dtype
from tokenstore.errors import ManifestError, Parameter, TokenizerError
from tokenstore.format import (
    MASKS,
    VIEW_BOXES,
    Column,
    Preprocessing,
    TokenizerIdentity,
    code_planes,
    symmetries_table,
    symmetries_within,
)
from tokenstore.sources.images import Decoder, ImageOptions, PixelDecoder, Resize
from tokenstore.sources.masks import MaskDecoder
from tokenstore.sources.options import FAST_FILTER, FILTER
from tokenstore.sources.views import ViewDecoder, ViewRule
from tokenstore.tokenizers.base import (
    CompilableTokenizer,
    FileTokenizer,
    SymmetricTokenizer,
    Tokenizer,
    check_encoded,
)
from tokenstore.tokenizers.passes import refuse_compiling


class Encoder:
    """A tokenizer for images of one size: inputs of its `decoder` in, codes (n, *grid) out.

    `masks` decodes the label maps that a store has besides the codes, if any. With a rule of `views`, inputs
    have V views of each image, and codes are (n, V, *grid): each view's are those of a batch of that view.

    Raises TokenizerError for views of a tokenizer that reads files, ArgumentError for views of other options.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        options: ImageOptions,
        masks: MaskDecoder | None = None,
        views: ViewRule | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.options = options
        self.masks = masks
        self.rule = views
        self.grid = tokenizer.grid((3, options.height, options.width))
        self.dtype = code_dtype(max(tokenizer.codebook_sizes))
        self._files = tokenizer if isinstance(tokenizer, FileTokenizer) else None
        self._views = None if views is None else self._view_decoder(views)
        self.decoder: Decoder = self._views or self._plain_decoder()
        self.views = None if self._views is None else self._views.views
        self.shape = self.grid if self.views is None else (self.views.count, *self.grid)
        """The shape of a sample's codes: the grid, behind the number of views if there are some."""
        self.columns: Mapping[str, Column] = {
            **({} if self._files is None else self._files.columns),
            **({} if masks is None else {MASKS: Column(np.dtype(np.uint8), masks.shape)}),
            **self._view_columns(),
        }

    def _plain_decoder(self) -> Decoder:
        if self._files is not None and self.options.fast_decode:
            named = Parameter("fast_decode")
            raise TokenizerError(
                f"{named}: the tokenizer {self.tokenizer.name} encodes files, of which it needs every pixel; "
                f"leave out {named}",
                parameters=[named],
            )
        return PixelDecoder(self.options) if self._files is None else self._files.decoder(self.options)

    def _view_decoder(self, rule: ViewRule) -> ViewDecoder:
        if self._files is not None:
            named = Parameter("views", str(rule))
            raise TokenizerError(
                f"{named}: the tokenizer {self.tokenizer.name} encodes files, which have no views; take one "
                "that encodes pixels",
                parameters=[named],
            )
        return rule.decoder(self.options)

    def _view_columns(self) -> dict[str, Column]:
        """Return the column of boxes, if those of the views differ from sample to sample."""
        if self.views is None or self.views.boxes is not None:
            return {}
        return {VIEW_BOXES: Column(np.dtype(np.int32), (self.views.count, 5))}

    @property
    def takes_pixels(self) -> bool:
        """True if the inputs are RGB pixels (B, H, W, 3) uint8, False if the tokenizer reads files."""
        return self._files is None

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Encode inputs (n, *shape); raise TokenizerError for codes of a wrong type, shape or range."""
        if self._views is None:
            return self.encode_batch(inputs)
        pixels = self._views.pixels(inputs)
        codes = np.empty((len(inputs), *self.shape), self.dtype)
        for view in range(pixels.shape[1]):
            codes[:, view] = self.encode_batch(np.ascontiguousarray(pixels[:, view]))
        return codes

    def encode_batch(self, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Encode a batch of the tokenizer's inputs, of one view if there are some, to codes (n, *grid)."""
        tensor = torch.from_numpy(inputs)
        codes = self.tokenizer.encode(tensor.permute(0, 3, 1, 2) if self._files is None else tensor)
        check_encoded(self.tokenizer.name, codes)
        array = codes.cpu().numpy()
        expected = (len(inputs), *self.grid)
        if array.shape != expected:
            raise TokenizerError(f"{self.tokenizer.name}: expected codes {expected}, found {array.shape}")
        for values, size in code_planes(array, self.tokenizer.codebook_sizes):
            low, high = int(values.min(initial=0)), int(values.max(initial=0))
            if low < 0 or high >= size:
                raise TokenizerError(
                    f"{self.tokenizer.name}: expected codes from 0 to {size - 1}, found {low} to {high}"
                )
        return array.astype(self.dtype)

    def warm_up(self) -> None:
        """Encode a black image, so that a network to compile is; raise TokenizerError if it cannot be."""
        self.encode_batch(np.zeros((1, self.options.height, self.options.width, 3), np.uint8))

    def column_values(
        self, inputs: npt.NDArray[Any], masks: npt.NDArray[np.uint8]
    ) -> Mapping[str, npt.NDArray[Any]]:
        """Return the values (n, *shape) of each of `columns`; `masks` are label maps (n, H, W), if any."""
        values = {} if self._files is None else self._files.column_values(inputs)
        boxes = None if self._views is None else self._views.boxes(inputs)
        return {
            **values,
            **({} if self.masks is None else {MASKS: masks}),
            **({} if boxes is None else {VIEW_BOXES: boxes}),
        }


def compiled_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with its network compiled; raise TokenizerError for one that has none to compile."""
    if not isinstance(tokenizer, CompilableTokenizer):
        refuse_compiling(tokenizer.name)
    return tokenizer.compiled()


def identity_of(tokenizer: Tokenizer, spec: str | None = None) -> TokenizerIdentity:
    """Return the identity of a tokenizer for a manifest; `spec` is the user's name for it."""
    exact = tokenizer.dtype is None
    return TokenizerIdentity(
        tokenizer.name,
        tokenizer.fingerprint,
        spec=spec,
        device=None if exact else tokenizer.device.type,
        dtype=None if exact else str(tokenizer.dtype).removeprefix("torch."),
        compiled=isinstance(tokenizer, CompilableTokenizer) and tokenizer.is_compiled,
        implicit_codebook=getattr(tokenizer, "implicit_codebook", None),
    )


def symmetries_of(
    tokenizer: Tokenizer, kept_codes: Sequence[Sequence[int]] | None = None
) -> tuple[tuple[str, ...], npt.NDArray[np.int32] | None]:
    """Return the names and the array (S, K) or (S, n, K) of a tokenizer's symmetries: () and None for none.

    With `kept_codes`, the tokenizer's own code of each code, they are those of the codes that were kept.
    Raises TokenizerError for permutations that are none of the tokenizer's codes.
    """
    if not isinstance(tokenizer, SymmetricTokenizer):
        return (), None
    try:
        table = symmetries_table(tokenizer.symmetries, tokenizer.codebook_sizes)
    except ManifestError as error:
        raise TokenizerError(f"{tokenizer.name}: {error}") from error
    if kept_codes is None:
        return table
    own = [np.asarray(codes) for codes in kept_codes]
    return symmetries_table(symmetries_within(tokenizer.symmetries, own), tuple(map(len, own)))


def options_of(steps: Preprocessing, where: str) -> ImageOptions:
    """Return the options that prepare an image by the `steps` of a manifest or of a network's file.

    Raises ManifestError, with `where`, for steps that this version does not know.
    """
    if steps.filter not in (FILTER, FAST_FILTER):
        raise ManifestError(
            f"{where}.filter: expected {FILTER!r} or {FAST_FILTER!r}, found {steps.filter!r}. Upgrade "
            "tokenstore"
        )
    size, is_fast = (steps.height, steps.width), steps.filter == FAST_FILTER
    try:
        return ImageOptions(size, cast(Resize, steps.resize), fast_decode=is_fast)
    except ValueError as error:
        raise ManifestError(f"{where}: {error}") from error
