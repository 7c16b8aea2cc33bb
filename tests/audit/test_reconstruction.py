"""Samples become images again, and the images they were made from are found and compared."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.brightness import BrightnessTokenizer, write_grey_folder, write_grey_image
from helpers.stores import Samples, write_store
from PIL import Image

import tokenstore
from tokenstore.audit.originals import evenly_spaced, image_options, open_images, read_originals
from tokenstore.audit.quality import measure_quality
from tokenstore.audit.reconstruct import decode_samples
from tokenstore.audit.retokenization import retokenize
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import ManifestError, SourceError, TokenizerError
from tokenstore.format.manifest import Manifest, Preprocessing, TokenizerIdentity
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.tokenizers import registry
from tokenstore.tokenizers.registry import TokenizerKind, load_tokenizer
from tokenstore.tokenizers.store_tokenizer import tokenizer_of

LEVELS = 9
"""Images of the class folders: of level 0, 1, 2 ... in the order of the store."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_grey_folder(tmp_path / "images", 3)
    return tmp_path / "images"


@pytest.fixture
def store(images: Path, tmp_path: Path) -> tokenstore.TokenStore:
    return converted(images, tmp_path / "store")


@pytest.fixture
def brightness_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--tokenizer brightness`, and `brightness:other` with another fingerprint."""

    def load(argument: str | None) -> BrightnessTokenizer:
        tokenizer = BrightnessTokenizer()
        if argument is not None:
            tokenizer.fingerprint = "c" * 64  # type: ignore[misc]
        return tokenizer

    module = "tokenstore.tokenizers.kinds.brightness_of_a_test"
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(load=load))  # type: ignore[misc]
    kind = TokenizerKind(module, "", "", "", "", argument="X", argument_is_optional=True)
    monkeypatch.setitem(registry.TOKENIZERS, "brightness", kind)


def converted(source: Path, out: Path, tokenizer: Any = None, **options: Any) -> tokenstore.TokenStore:
    options = {"image_size": 16, "workers": 0, **options}
    tokenizer = tokenizer or BrightnessTokenizer()
    convert_source(open_source(source), out, tokenizer=tokenizer, options=ConvertOptions(**options))
    return tokenstore.open(out)


def levels(images: np.ndarray) -> list[int]:
    """Return the one level of each image."""
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


# ---- reconstruct


def test_samples_become_images_in_the_order_asked_for(store: tokenstore.TokenStore) -> None:
    found = decode_samples(store, "train", [5, 0, -1, 5], BrightnessTokenizer())
    assert (found.shape, found.dtype) == ((4, 16, 16, 3), np.uint8)
    assert levels(found) == [5, 0, 8, 5]


@pytest.mark.parametrize("batch", [1, 4, 9, 100])
def test_images_do_not_depend_on_the_batch(store: tokenstore.TokenStore, batch: int) -> None:
    assert levels(decode_samples(store, "train", range(LEVELS), BrightnessTokenizer(), batch)) == list(
        range(9)
    )


def test_no_indices_give_no_images(store: tokenstore.TokenStore) -> None:
    assert decode_samples(store, "train", [], BrightnessTokenizer()).shape == (0, 16, 16, 3)


def test_an_index_out_of_range_is_refused(store: tokenstore.TokenStore) -> None:
    with pytest.raises(IndexError, match="index 9 is out of range for 9 samples"):
        decode_samples(store, "train", [9], BrightnessTokenizer())


class Line(BrightnessTokenizer):
    """Brightness as a list of four codes."""

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (4,)

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        patches = inputs.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((1, 4, 5)).round().long()
        return patches.flatten(1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return super().decode(codes.reshape(-1, 2, 2))


class Film(BrightnessTokenizer):
    """Brightness of frames (T, H, W): video (B, T, 3, H, W) in and out."""

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        raise TokenizerError(f"expected video (T, 3, H, W), found {input_shape}")

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        grey = codes.to(torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)
        return grey[:, :, None].expand(-1, -1, 3, -1, -1)


class Digits(BrightnessTokenizer):
    """Brightness in two codes: sixteens, and what is left."""

    codebook_sizes = (16, 16)
    codebook = np.random.default_rng(0).random((2, 16, 4)).astype(np.float32)

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2, *super().grid(input_shape))

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        patches = inputs.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((1, 4, 5)).round().long()
        return torch.stack([patches // 16, patches % 16], dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return super().decode(codes[:, 0] * 16 + codes[:, 1])


@pytest.mark.parametrize("tokenizer", [Line(), Digits()], ids=["(L,)", "(n, H, W)"])
def test_grids_of_other_ranks_are_compared_like_any(images: Path, tmp_path: Path, tokenizer: Any) -> None:
    store = converted(images, tmp_path / "out", tokenizer)
    assert tokenizer_of_is_fitted(store.manifest, tokenizer)
    assert levels(decode_samples(store, "train", range(LEVELS), tokenizer)) == list(range(9))
    source = open_images(store.manifest)
    assert measure_quality(store, tokenizer, source, 9)["train"].psnr == 100
    write_grey_image(images / "class-0" / "000.png", 1)
    agreement = retokenize(store, tokenizer, source, 9).splits["train"]
    assert (agreement.equal_samples, agreement.samples) == (8, 9)
    changed = 4  # of the two planes of Digits only the second
    assert agreement.codes - agreement.equal_codes == changed


def tokenizer_of_is_fitted(manifest: Manifest, tokenizer: Any) -> bool:
    from tokenstore.tokenizers.store_tokenizer import fitted

    return fitted(manifest, tokenizer) is tokenizer


def test_video_keeps_its_frames(tmp_path: Path) -> None:
    codes = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3, 1, 1).repeat(2, 2).repeat(2, 3)
    write_store(
        tmp_path / "film", {"train": Samples(codes)}, 256, tokenizer=TokenizerIdentity("brightness", "b" * 64)
    )
    store = tokenstore.open(tmp_path / "film")
    assert tokenizer_of_is_fitted(store.manifest, Film())
    found = decode_samples(store, "train", [1, 0], Film())
    assert found.shape == (2, 3, 16, 16, 3)
    assert [levels(film) for film in found] == [[3, 4, 5], [0, 1, 2]]


def test_what_is_no_image_is_refused(store: tokenstore.TokenStore) -> None:
    class Floats(BrightnessTokenizer):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return super().decode(codes).float()

    with pytest.raises(TokenizerError, match=r"\(B, T, 3, H, W\) uint8 of decoding, found .* torch.float32"):
        decode_samples(store, "train", [0], Floats())


def test_a_tokenizer_of_files_gets_the_columns_that_the_store_keeps(tmp_path: Path) -> None:
    """JPEG files of the right size come back bit for bit, each by its own quantisation tables."""
    pytest.importorskip("jpeglib", reason="the extra jpeg is not installed")
    rng = np.random.default_rng(0)
    (tmp_path / "jpegs").mkdir()
    for number, quality in enumerate((30, 60, 90)):
        pixels = np.repeat(np.repeat(rng.integers(0, 256, (8, 8, 3), np.uint8), 4, 0), 4, 1)
        Image.fromarray(pixels).save(tmp_path / "jpegs" / f"{number}.jpg", quality=quality)
    tokenizer = load_tokenizer("dct:64,size=32")
    store = converted(tmp_path / "jpegs", tmp_path / "out", tokenizer, image_size=32)
    found = decode_samples(store, "train", [2, 0], tokenizer)
    for image, number in zip(found, (2, 0), strict=True):
        file = (tmp_path / "jpegs" / f"{number}.jpg").read_bytes()
        np.testing.assert_array_equal(image, decode_image(file, ImageOptions(32)).pixels)
    source = open_images(store.manifest)
    assert measure_quality(store, tokenizer, source, 3)["train"].psnr == 100
    again = retokenize(store, tokenizer, source, 3)
    assert (again.splits["train"].equal_samples, again.splits["train"].codes) == (3, 3 * 384 * 2 * 2)
    assert again.arithmetic == again.stored_arithmetic == "exact"


# ---- originals


def test_originals_are_the_images_as_the_tokenizer_saw_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(3):
        pixels = rng.integers(0, 256, (40, 30 + number, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    for resize in ("squash", "crop", "pad"):
        store = converted(tmp_path / "images", tmp_path / resize, resize=resize)
        found = read_originals(store, "train", [2, 0])
        assert (found.missing, found.reason, found.changed_files) == (0, None, 0)
        for image, number in zip(found.inputs, (2, 0), strict=True):
            data = (tmp_path / "images" / f"{number}.png").read_bytes()
            np.testing.assert_array_equal(image, decode_image(data, ImageOptions(16, resize)).pixels)


def test_originals_come_out_of_tar_shards(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        tar.add(images, ".")
    store = converted(tmp_path / "shard-0.tar", tmp_path / "of-tar")
    found = read_originals(store, "train", [4, 1])
    assert levels(np.stack(found.inputs)) == [store["train"][4][0, 0], store["train"][1][0, 0]]
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "shard-0.tar").rename(tmp_path / "elsewhere" / "shard-0.tar")
    assert read_originals(store, "train", [4]).missing == 1
    assert read_originals(store, "train", [4], moved).missing == 0


def test_a_source_that_is_gone_gives_none_and_says_why(store: tokenstore.TokenStore, images: Path) -> None:
    shutil.rmtree(images)
    found = read_originals(store, "train", [0, 3])
    assert found.inputs == [None, None]
    assert found.reason is not None
    assert str(images) in found.reason
    assert "images=..." in found.reason


def test_a_relative_source_is_found_from_the_folder_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_grey_folder(tmp_path / "images", 2)
    monkeypatch.chdir(tmp_path)
    convert_source(
        open_source("images"), "out", tokenizer=BrightnessTokenizer(), options=ConvertOptions(workers=0)
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store = tokenstore.open("../out")
    assert store.manifest.source_location == "images"
    assert read_originals(store, "train", [0, 1]).missing == 0


def test_a_source_that_was_moved_is_found_where_it_is_named(
    store: tokenstore.TokenStore, images: Path, tmp_path: Path
) -> None:
    moved = images.rename(tmp_path / "val")  # a folder of that name gives a split of that name
    for source in (moved, str(moved), open_source(moved)):
        assert levels(np.stack(read_originals(store, "train", [0, 8], source).inputs)) == [0, 8]
    wrong = read_originals(store, "train", [0], tmp_path / "nowhere")
    assert wrong.reason == f"{tmp_path / 'nowhere'}: no such file or folder"


def test_a_sample_is_found_by_its_name_where_files_were_added_or_removed(
    store: tokenstore.TokenStore, images: Path
) -> None:
    write_grey_image(images / "class-0" / "0000.png", 200)
    (images / "class-1" / "001.png").unlink()
    found = read_originals(store, "train", range(LEVELS))
    assert [None if image is None else image[0, 0, 0] for image in found.inputs] == [
        *range(4),
        None,
        *range(5, 9),
    ]
    assert (found.missing, found.changed_files) == (1, 0)
    assert found.reason == f"{images}: class-1/001.png: no longer there under this name"


def test_files_of_another_size_are_counted_and_bad_ones_are_missing(
    store: tokenstore.TokenStore, images: Path
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(
        images / "class-0" / "000.png"
    )
    (images / "class-0" / "001.png").write_bytes(b"")
    found = read_originals(store, "train", [0, 1, 2])
    assert (found.missing, found.changed_files) == (1, 1)
    assert found.reason == f"{images}: class-0/001.png: the file is empty"


def test_splits_are_kept_apart(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        write_grey_image(tmp_path / "images" / split / "a" / "x.png", 10 * number)
    store = converted(tmp_path / "images", tmp_path / "out")
    assert levels(np.stack(read_originals(store, "val", [0]).inputs)) == [10]
    shutil.rmtree(tmp_path / "images" / "val")
    found = read_originals(store, "val", [0])
    assert found.inputs == [None]
    assert found.reason == f"{tmp_path / 'images'}: expected a split 'val', found train"


def test_ready_codes_have_no_originals(tmp_path: Path, images: Path) -> None:
    np.save(tmp_path / "codes.npy", np.zeros((3, 2, 2), np.uint8))
    convert_source(open_source(tmp_path / "codes.npy"), tmp_path / "out")
    store = tokenstore.open(tmp_path / "out")
    for source in (None, images):
        found = read_originals(store, "train", [0], source)
        assert found.inputs == [None]
        assert "ready codes" in str(found.reason)


def test_a_manifest_that_names_no_place_asks_for_one(store: tokenstore.TokenStore, images: Path) -> None:
    manifest = replace(store.manifest, source_location=None)
    with pytest.raises(SourceError, match=r"does not say where its images were; name the place by images="):
        open_images(manifest)
    assert open_images(manifest, images).location == str(images)


def test_codes_are_not_taken_for_images(store: tokenstore.TokenStore, tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", np.zeros((3, 2, 2), np.uint8))
    with pytest.raises(SourceError, match=r"codes\.npy: expected the images that the store was made of"):
        open_images(replace(store.manifest, source_kind=None), tmp_path / "codes.npy")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (Preprocessing(16, 16, "shear"), "preprocessing: resize: expected one of squash"),
        (Preprocessing(16, 16, "squash", "lanczos"), "filter: expected 'bicubic', found 'lanczos'"),
    ],
)
def test_preprocessing_that_is_not_known_is_refused(
    store: tokenstore.TokenStore, steps: Preprocessing, message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        image_options(replace(store.manifest, preprocessing=steps))


# ---- the two compared


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (9, 4), (9, 9), (9, 100), (0, 5), (10**6, 7)])
def test_evenly_spaced_indices_are_spaced_evenly(samples: int, count: int) -> None:
    found = evenly_spaced(samples, count)
    assert len(found) == min(samples, count)
    if len(found):
        assert found[0] == 0
        assert found[-1] < samples
        gaps = np.diff([*found, samples])
        assert gaps.max() - gaps.min() <= 1


def test_codes_encoded_again_are_equal(store: tokenstore.TokenStore) -> None:
    again = retokenize(store, BrightnessTokenizer(), open_images(store.manifest), 100)
    found = again.splits["train"]
    assert (found.samples, found.equal_samples, found.codes, found.equal_codes) == (9, 9, 36, 36)
    assert again.must_agree
    assert again.differences == []


def test_changed_images_are_reported_with_the_right_shares(
    store: tokenstore.TokenStore, images: Path
) -> None:
    half = np.zeros((16, 16, 3), np.uint8)
    half[8:] = 200  # the upper two codes of image 0 stay as they were
    Image.fromarray(half).save(images / "class-0" / "000.png")
    write_grey_image(images / "class-2" / "001.png", 99)
    (images / "class-1" / "000.png").unlink()
    again = retokenize(store, BrightnessTokenizer(), open_images(store.manifest), 100)
    values = json.loads(json.dumps(again.to_dict()))["splits"]["train"]
    assert (values["samples"], values["missing"], values["changed_files"]) == (8, 1, 1)
    assert values["equal_samples_share"] == 6 / 8
    assert values["equal_codes_share"] == (6 * 4 + 2) / (8 * 4)
    (difference,) = again.differences
    assert "split train: 2 of 8 samples have other codes" in difference
    assert "1 of the image files another size" in difference


class OnAnotherDevice(BrightnessTokenizer):
    """Float arithmetic, here on the CPU."""

    dtype = torch.float32  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("device", "dtype", "must_agree"),
    [("cpu", "float32", True), ("cuda", "float32", False), ("cpu", "bfloat16", False), (None, None, False)],
)
def test_codes_have_to_agree_only_where_they_are_computed_as_they_were(
    images: Path, tmp_path: Path, device: str | None, dtype: str | None, must_agree: bool
) -> None:
    codes = np.zeros((1, 2, 2), np.uint8)
    write_store(
        tmp_path / "out",
        {"train": Samples(codes)},
        256,
        tokenizer=TokenizerIdentity("brightness", "b" * 64, device=device, dtype=dtype),
        preprocessing=Preprocessing(16, 16, "squash"),
    )
    (tmp_path / "one" / "train").mkdir(parents=True)
    write_grey_image(tmp_path / "one" / "train" / "0.png", 7)
    store = tokenstore.open(tmp_path / "out")
    again = retokenize(store, OnAnotherDevice(), open_images(store.manifest, tmp_path / "one"), 1)
    assert again.must_agree is must_agree
    assert len(again.differences) == 1
    assert again.arithmetic == "cpu float32"
    if not must_agree:
        assert f"in {again.stored_arithmetic} then and cpu float32 now" in again.differences[0]


def test_a_pruned_store_is_rebuilt_and_encoded_again_by_its_kept_codes(
    tmp_path: Path, brightness_by_name: None
) -> None:
    kept = (0, 2, 4, 6, 8)
    for number, level in enumerate(kept):
        write_grey_image(tmp_path / "images" / "train" / f"{number}.png", level)
    codes = np.arange(5, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    write_store(
        tmp_path / "out",
        {"train": Samples(codes)},
        len(kept),
        tokenizer=TokenizerIdentity("brightness", "b" * 64, kept_codes=(kept,), spec="brightness"),
        preprocessing=Preprocessing(16, 16, "squash"),
        source_kind="imagefolder",
        source_location=str(tmp_path / "images"),
    )
    store = tokenstore.open(tmp_path / "out")
    tokenizer = tokenizer_of(store.manifest)
    assert tokenizer.codebook_sizes == (5,)
    assert levels(decode_samples(store, "train", range(5), tokenizer)) == [0, 2, 4, 6, 8]
    source = open_images(store.manifest)
    assert measure_quality(store, tokenizer, source, 5)["train"].psnr == 100
    assert retokenize(store, tokenizer, source, 5).splits["train"].equal_samples == 5


def test_nothing_to_compare_with_is_an_error_with_the_reason(
    store: tokenstore.TokenStore, images: Path
) -> None:
    source = open_images(store.manifest)
    shutil.rmtree(images)
    for compare in (measure_quality, retokenize):
        with pytest.raises(
            SourceError, match=r"found none: .*class-0/000\.png: cannot be read: No such file"
        ):
            compare(store, BrightnessTokenizer(), source, 4)


def test_a_tokenizer_with_another_grid_is_refused(store: tokenstore.TokenStore) -> None:
    with pytest.raises(TokenizerError, match=r"expected a grid \(2, 2\) as the store has, found \(4,\)"):
        retokenize(store, Line(), open_images(store.manifest), 1)


# ---- which tokenizer


IDENTITY = TokenizerIdentity("brightness", "b" * 64)
OF_IMAGES = Manifest(
    IDENTITY,
    (2, 2),
    (256,),
    splits={},
    preprocessing=Preprocessing(16, 16, "squash"),
    source_kind="imagefolder",
)
READY = replace(OF_IMAGES, tokenizer=TokenizerIdentity("unknown"), preprocessing=None, source_kind="array")


def test_the_manifest_names_its_tokenizer(brightness_by_name: None) -> None:
    manifest = replace(OF_IMAGES, tokenizer=replace(IDENTITY, spec="brightness"))
    assert isinstance(tokenizer_of(manifest), BrightnessTokenizer)


def test_the_packaged_tokenizer_is_known_by_its_name() -> None:
    packaged = load_tokenizer("default")
    identity = TokenizerIdentity(packaged.name, packaged.fingerprint)
    manifest = replace(OF_IMAGES, tokenizer=identity, codebook_sizes=packaged.codebook_sizes)
    assert tokenizer_of(manifest).fingerprint == packaged.fingerprint
    with pytest.raises(TokenizerError, match=rf"fingerprint {'e' * 64}, but .* has {packaged.fingerprint}"):
        tokenizer_of(replace(manifest, tokenizer=replace(identity, fingerprint="e" * 64)))


@pytest.mark.parametrize("spec", [None, "brightness:other"])
def test_a_tokenizer_with_another_fingerprint_is_refused_with_both(
    brightness_by_name: None, spec: str | None
) -> None:
    manifest = replace(OF_IMAGES, tokenizer=replace(IDENTITY, spec="brightness:other"))
    with pytest.raises(TokenizerError, match=rf"fingerprint {'b' * 64}, but .*{'c' * 64}.* tokenizer="):
        tokenizer_of(manifest, spec)
    assert isinstance(tokenizer_of(manifest, "brightness"), BrightnessTokenizer)


def test_a_tokenizer_that_cannot_be_loaded_any_more_asks_for_another_name() -> None:
    manifest = replace(OF_IMAGES, tokenizer=replace(IDENTITY, spec="conv-vq:/gone/w.safetensors"))
    with pytest.raises(
        TokenizerError, match=r"names its tokenizer 'conv-vq:/gone.*nothing there.* tokenizer="
    ):
        tokenizer_of(manifest)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (READY, "does not know it; name the tokenizer by tokenizer='NAME"),
        (OF_IMAGES, "names it 'brightness'; name"),
    ],
)
def test_a_tokenizer_that_is_not_known_has_to_be_named(manifest: Manifest, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer_of(manifest)


@pytest.mark.parametrize("fingerprint", [None, "d" * 64], ids=["without fingerprint", "of a bare codebook"])
def test_ready_codes_take_the_tokenizer_that_is_named_if_it_fits(
    brightness_by_name: None, fingerprint: str | None
) -> None:
    manifest = replace(READY, tokenizer=TokenizerIdentity("unknown", fingerprint))
    assert isinstance(tokenizer_of(manifest, "brightness"), BrightnessTokenizer)
    with pytest.raises(TokenizerError, match=r"with 200 codes .* with 256.* codebook_size=256"):
        tokenizer_of(replace(manifest, codebook_sizes=(200,)), "brightness")
    with pytest.raises(TokenizerError, match=r"grids like the store's \(2, 2, 2\), found .* with \(2, 2\)"):
        tokenizer_of(replace(manifest, grid=(2, 2, 2)), "brightness")


def test_only_a_tokenizer_that_is_named_is_taken_without_a_fingerprint(brightness_by_name: None) -> None:
    manifest = replace(READY, tokenizer=TokenizerIdentity("unknown", spec="brightness"))
    with pytest.raises(TokenizerError, match="with fingerprint None, but 'brightness' has b"):
        tokenizer_of(manifest)


def test_images_of_a_size_the_tokenizer_makes_another_grid_of_are_refused(brightness_by_name: None) -> None:
    with pytest.raises(TokenizerError, match=r"grids like the store's \(3, 3\), found .* with \(2, 2\)"):
        tokenizer_of(replace(OF_IMAGES, grid=(3, 3)), "brightness")


def test_kept_codes_make_a_pruned_tokenizer_of_it(brightness_by_name: None) -> None:
    manifest = replace(OF_IMAGES, tokenizer=replace(IDENTITY, kept_codes=((4, 9),)), codebook_sizes=(2,))
    tokenizer = tokenizer_of(manifest, "brightness")
    assert tokenizer.codebook_sizes == (2,)
    assert tokenizer.fingerprint == "b" * 64
    assert levels(tokenizer.decode(torch.tensor([[[0]], [[1]]])).permute(0, 2, 3, 1).numpy()) == [4, 9]
