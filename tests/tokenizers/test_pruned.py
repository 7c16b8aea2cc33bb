"""A pruned tokenizer numbers codes as the pruned store does, and is the inner one otherwise."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from helpers.brightness import BrightnessTokenizer
from PIL import Image

from tokenstore.errors import TokenizerError
from tokenstore.sources.images import ImageOptions
from tokenstore.tokenizers.base import FileTokenizer, Tokenizer
from tokenstore.tokenizers.pruned import PrunedTokenizer, prune

KEPT = (3, 7, 250)


class OnACircle(BrightnessTokenizer):
    """The vector of a code is a direction: codes that are near have near vectors."""

    codebook = np.stack(
        [
            np.cos(np.arange(256) / 200) * (1 + np.arange(256)),
            np.sin(np.arange(256) / 200) * (1 + np.arange(256)),
        ],
        axis=1,
    ).astype(np.float32)


class WithoutVectors(BrightnessTokenizer):
    codebook = None


class Digits(BrightnessTokenizer):
    """A tokenizer of brightness in two codes: sixteens, and what is left."""

    codebook_sizes = (16, 16)
    codebook = np.stack([OnACircle.codebook[:16], OnACircle.codebook[16:32]])

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2, *super().grid(input_shape))

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        patches = inputs.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((1, 4, 5)).round().long()
        return torch.stack([patches // 16, patches % 16], dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return super().decode(codes[:, 0] * 16 + codes[:, 1])


def grey(*levels: int) -> torch.Tensor:
    """Return images (B, 3, 16, 16) of one level each."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16)


def test_it_is_the_inner_tokenizer_but_for_its_codes() -> None:
    inner = OnACircle()
    pruned: Tokenizer = PrunedTokenizer(inner, [KEPT])
    assert (pruned.name, pruned.fingerprint) == (inner.name, inner.fingerprint)
    assert (pruned.image_size, pruned.device, pruned.dtype) == (16, torch.device("cpu"), None)
    assert pruned.grid((3, 16, 24)) == (2, 3)
    assert pruned.codebook_sizes == (3,)
    assert pruned.codebook is not None
    np.testing.assert_array_equal(pruned.codebook, inner.codebook[[3, 7, 250]])


def test_kept_codes_are_numbered_anew_in_both_directions() -> None:
    pruned = prune(OnACircle(), [KEPT])
    images = grey(250, 3, 7)
    codes = pruned.encode(images)
    assert codes.dtype == torch.int64
    assert codes[:, 0, 0].tolist() == [2, 0, 1]
    for dtype in (torch.int64, torch.uint8, torch.uint16):
        assert torch.equal(pruned.decode(codes.to(dtype)), images)
    assert codes[:, 0, 0].tolist() == [2, 0, 1], "decoding changed its input"


def test_a_code_that_was_not_kept_becomes_the_one_with_the_nearest_direction() -> None:
    """Let the vectors' lengths grow with the code: they count for nothing."""
    pruned = prune(OnACircle(), [KEPT])
    assert pruned.encode(grey(0, 4, 6, 100, 200, 255))[:, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_without_vectors_a_code_that_was_not_kept_is_refused_with_the_count() -> None:
    pruned = prune(WithoutVectors(), [KEPT])
    assert pruned.codebook is None
    assert pruned.encode(grey(7, 3))[:, 0, 0].tolist() == [1, 0]
    with pytest.raises(TokenizerError, match=r"brightness: 4 of 12 codes are not among the 3"):
        pruned.encode(grey(7, 8, 3))


def test_each_of_several_codebooks_has_its_own_kept_codes() -> None:
    pruned = prune(Digits(), [(0, 2, 15), (1, 9)])
    assert pruned.codebook_sizes == (3, 2)
    codes = pruned.encode(grey(2 * 16 + 9, 15 * 16 + 1))
    assert codes[:, :, 0, 0].tolist() == [[1, 1], [2, 0]]
    assert torch.equal(pruned.decode(codes), grey(2 * 16 + 9, 15 * 16 + 1))
    assert pruned.encode(grey(13 * 16 + 8))[0, :, 0, 0].tolist() == [2, 1]


def test_the_shorter_of_several_codebooks_is_filled_up_with_zeros() -> None:
    codebook = prune(Digits(), [(0, 2, 15), (1, 9)]).codebook
    assert codebook is not None
    np.testing.assert_array_equal(codebook[0], Digits.codebook[0, [0, 2, 15]])
    np.testing.assert_array_equal(codebook[1, :2], Digits.codebook[1, [1, 9]])
    np.testing.assert_array_equal(codebook[1, 2], 0)


def test_moved_to_another_device_it_stays_pruned() -> None:
    moved = prune(OnACircle(), [KEPT]).to("cpu")
    assert moved.encode(grey(250))[0, 0, 0] == 2


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.full((1, 2, 2), 3), r"0\.\.2, found 3\.\.3"),
        (torch.full((1, 2, 2), -1), r"0\.\.2, found -1\.\.-1"),
        (torch.zeros((1, 2, 2)), "integer dtype, found torch.float32"),
        (torch.zeros((1, 2, 2), dtype=torch.bool), "integer dtype, found torch.bool"),
    ],
)
def test_codes_outside_the_pruned_codebook_are_refused(codes: torch.Tensor, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        prune(OnACircle(), [KEPT]).decode(codes)


def test_codes_of_another_number_of_codebooks_are_refused() -> None:
    with pytest.raises(TokenizerError, match=r"\(B, 2, \.\.\.\), found \(1, 3, 2, 2\)"):
        prune(Digits(), [(0,), (1,)]).decode(torch.zeros((1, 3, 2, 2), dtype=torch.int64))
    with pytest.raises(TokenizerError, match=r"codes of codebook 1 in 0\.\.0, found 1\.\.1"):
        prune(Digits(), [(0, 1), (1,)]).decode(torch.ones((1, 2, 2, 2), dtype=torch.int64))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([(3, 256)], r"in 0\.\.255, each once, found 2 in 3\.\.256"),
        ([(-1, 3)], r"each once, found 2 in -1\.\.3"),
        ([(3, 3)], "each once"),
        ([(3,), (3,)], r"of 1 codebooks, found \[1, 1\]"),
        ([()], r"found \[0\]"),
    ],
)
def test_kept_codes_that_are_not_the_tokenizers_are_refused(
    kept: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        prune(OnACircle(), kept)


def test_an_empty_batch_stays_empty() -> None:
    pruned = prune(OnACircle(), [KEPT])
    assert pruned.encode(grey()).shape == (0, 2, 2)
    assert pruned.decode(torch.zeros((0, 2, 2), dtype=torch.int64)).shape == (0, 3, 16, 16)


def test_a_tokenizer_of_files_stays_one_with_its_columns() -> None:
    pytest.importorskip("jpeglib", reason="the extra jpeg is not installed")
    from tokenstore.tokenizers.kinds.dct import load

    dct = load("1")
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[:, None, None], (32, 32, 3))
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "JPEG", quality=60)
    decoder = dct.decoder(ImageOptions(32))
    inputs = np.empty((1, *decoder.shape), decoder.dtype)
    decoder.decode(file.getvalue(), inputs[0])
    own = dct.encode(torch.from_numpy(inputs))
    columns = {name: torch.from_numpy(values) for name, values in dct.column_values(inputs).items()}
    pruned = prune(dct, [np.unique(plane).tolist() for plane in own[0].numpy()])
    assert isinstance(pruned, FileTokenizer)
    assert not isinstance(prune(OnACircle(), [KEPT]), FileTokenizer)
    assert pruned.columns.keys() == columns.keys()
    assert pruned.decoder(ImageOptions(32)).shape == decoder.shape
    assert {name: values.tolist() for name, values in pruned.column_values(inputs).items()} == {
        name: values.tolist() for name, values in columns.items()
    }
    new = pruned.encode(torch.from_numpy(inputs))
    assert int(new.max()) < max(pruned.codebook_sizes) < 2048
    assert torch.equal(pruned.decode(new, **columns), dct.decode(own, **columns))
    assert not torch.equal(pruned.decode(new), dct.decode(own, **columns)), "the tables made no difference"
