"""The default tokenizer: its codes, its weights file, its quality, its trainer; and codebook files."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import SHARED
from helpers.tiny_tokenizer import TINY
from PIL import Image
from safetensors.torch import load_file, save_file

from tokenstore.errors import TokenizerError
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.tokenizers import TOKENIZERS, load_codebook, load_tokenizer
from tokenstore.tokenizers.kinds.conv_vq import (
    DEFAULT_WEIGHTS,
    FORMAT,
    ConvVQ,
    ConvVQTokenizer,
    save_weights,
)

FINGERPRINT = "5119381817ea056acf67a88d698557de40ac08fe383d6d62f6cd2a55ba146680"
RELEASED_CODEBOOK = SHARED / "data" / "seit-sample" / "codebook.ckpt"


@pytest.fixture(scope="module")
def tokenizer() -> ConvVQTokenizer:
    return ConvVQTokenizer.load(DEFAULT_WEIGHTS)


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_weights(ConvVQ(TINY), path)
    return path


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Blotches of colour with grain: neither flat nor white noise."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels, height, width = shape
    coarse = torch.rand((batch, channels, height // 8, width // 8), generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    grain = 10 * torch.randn(shape, generator=generator)
    return (smooth + grain).round().clamp(0, 255).to(torch.uint8)


# ---- codes


def test_the_default_tokenizer_says_what_it_is(tokenizer: ConvVQTokenizer) -> None:
    assert tokenizer.name == "conv-vq-8x-2k"
    assert tokenizer.codebook_sizes == (2048,)
    assert tokenizer.image_size == 256
    assert tokenizer.grid((3, 256, 256)) == (32, 32)
    assert tokenizer.codebook.shape == (2048, 32)
    assert tokenizer.codebook.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(tokenizer.codebook, axis=1), 1, atol=1e-5)


def test_a_weights_file_is_named_by_its_path(tiny_weights: Path) -> None:
    assert load_tokenizer(f"conv-vq:{tiny_weights}").name == "tiny"


def test_a_tokenizer_says_where_and_in_what_it_computes(tokenizer: ConvVQTokenizer) -> None:
    assert tokenizer.device == torch.device("cpu")
    assert tokenizer.dtype == torch.float32


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "found ''"),
        ("default:", "expected default, found 'default:'"),
        ("default:x.safetensors", "expected default, found 'default:x.safetensors'"),
        ("conv-vq", r"expected conv-vq:WEIGHTS.safetensors, found 'conv-vq' without WEIGHTS.safetensors"),
        ("conv-vq:", "expected conv-vq:WEIGHTS.safetensors, found 'conv-vq:'"),
    ],
)
def test_specs_that_make_no_sense_are_refused(spec: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(spec)


def test_a_package_that_is_not_installed_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, kind in TOKENIZERS.items():
        if kind.packages:
            with pytest.raises(
                TokenizerError, match=rf"{kind.packages[0]}; pip install 'tokenstore\[{kind.extra}\]'"
            ):
                load_tokenizer(f"{name}:x")


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(TokenizerError, match="device 'nonsense' cannot be used here"):
        load_tokenizer("default", "nonsense")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TokenizerError, match=r"default.*found 'vqgan-of-mine'"):
        load_tokenizer("vqgan-of-mine")


def test_the_fingerprint_is_that_of_the_released_weights(tokenizer: ConvVQTokenizer) -> None:
    """Stores hold this number: weights may only change together with the tokenizer's name."""
    assert tokenizer.fingerprint == FINGERPRINT


def test_the_weights_are_small_enough_to_ship() -> None:
    assert DEFAULT_WEIGHTS.stat().st_size < 16_000_000


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (64, 40), (256, 256)])
def test_any_multiple_of_the_patch_is_encoded_and_decoded(
    tokenizer: ConvVQTokenizer, height: int, width: int
) -> None:
    codes = tokenizer.encode(noise(2, 3, height, width))
    assert codes.dtype == torch.int64
    assert codes.shape == (2, height // 8, width // 8) == (2, *tokenizer.grid((3, height, width)))
    assert 0 <= int(codes.min()) <= int(codes.max()) < 2048
    rebuilt = tokenizer.decode(codes)
    assert rebuilt.dtype == torch.uint8
    assert rebuilt.shape == (2, 3, height, width)


def test_codes_do_not_depend_on_the_batch(tokenizer: ConvVQTokenizer) -> None:
    images = noise(33, 3, 64, 64)
    expected = torch.cat([tokenizer.encode(images[i : i + 1]) for i in range(33)])
    for size in (7, 32, 33):
        found = torch.cat([tokenizer.encode(images[i : i + size]) for i in range(0, 33, size)])
        assert torch.equal(found, expected)


def test_codes_do_not_depend_on_memory_layout(tokenizer: ConvVQTokenizer) -> None:
    images = noise(3, 3, 64, 64)
    channels_last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(tokenizer.encode(channels_last), tokenizer.encode(images))


def test_single_passes_agree_with_a_pass_over_the_whole_batch(tokenizer: ConvVQTokenizer) -> None:
    """Up to a few codes between two nearly equal entries, which float rounding may tip."""
    images = noise(16, 3, 128, 128)
    agreement = (tokenizer.encode(images) == tokenizer.encode_pass(images)).float().mean()
    assert agreement > 0.999


def test_a_part_filled_pass_gives_the_codes_of_a_full_one(tokenizer: ConvVQTokenizer) -> None:
    images = noise(8, 3, 64, 64)
    full, part = (tokenizer._filled_pass(tokenizer.encode_pass, batch) for batch in (images, images[:3]))
    assert torch.equal(part, full[:3])


def test_encoding_leaves_its_input_alone_and_records_no_gradients(tokenizer: ConvVQTokenizer) -> None:
    images = noise(1, 3, 64, 64)
    before = images.clone()
    assert not tokenizer.decode(tokenizer.encode(images)).requires_grad
    assert torch.equal(images, before)


def test_codes_can_be_trained_on_at_once(tokenizer: ConvVQTokenizer) -> None:
    """Tensors made under inference_mode could not: autograd refuses to keep them."""
    table = torch.zeros(2048, 4, requires_grad=True)
    torch.nn.functional.embedding(tokenizer.encode(noise(1, 3, 32, 32)), table).sum().backward()
    assert table.grad is not None


def test_empty_batches_stay_empty(tokenizer: ConvVQTokenizer) -> None:
    codes = tokenizer.encode(torch.zeros((0, 3, 32, 16), dtype=torch.uint8))
    assert codes.shape == (0, 4, 2)
    assert codes.dtype == torch.int64
    assert tokenizer.decode(codes).shape == (0, 3, 32, 16)


def test_codes_of_any_integer_dtype_decode_alike(tokenizer: ConvVQTokenizer) -> None:
    codes = tokenizer.encode(noise(1, 3, 32, 32))
    for dtype in (torch.uint16, torch.int16, torch.int32):
        assert torch.equal(tokenizer.decode(codes.to(dtype)), tokenizer.decode(codes))


def test_a_tokenizer_moved_to_another_device_is_the_same(tokenizer: ConvVQTokenizer) -> None:
    moved = tokenizer.to("cpu")
    assert moved.fingerprint == tokenizer.fingerprint
    images = noise(1, 3, 32, 32)
    assert torch.equal(moved.encode(images), tokenizer.encode(images))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 250, 256), r"multiples of 8, found \(250, 256\)"),
        ((1, 3, 256, 4), r"multiples of 8, found \(256, 4\)"),
        ((1, 3, 0, 8), r"multiples of 8, found \(0, 8\)"),
        ((1, 1, 64, 64), r"\(3, H, W\), found shape \(1, 64, 64\)"),
        ((1, 64, 64, 3), r"\(3, H, W\), found shape \(64, 64, 3\)"),
        ((3, 64, 64), r"\(B, 3, H, W\) uint8, found \(3, 64, 64\)"),
    ],
)
def test_images_of_a_wrong_shape_are_refused(
    tokenizer: ConvVQTokenizer, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer.encode(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_images_of_a_wrong_dtype_are_refused(tokenizer: ConvVQTokenizer, dtype: torch.dtype) -> None:
    with pytest.raises(TokenizerError, match=f"uint8, found .* {dtype}"):
        tokenizer.encode(torch.zeros((1, 3, 64, 64), dtype=dtype))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros((4, 4), dtype=torch.int64), r"\(B, H, W\) of an integer dtype, found \(4, 4\)"),
        (torch.zeros((1, 4, 4)), "integer dtype, found .* torch.float32"),
        (torch.zeros((1, 4, 4), dtype=torch.bool), "integer dtype, found .* torch.bool"),
        (torch.full((1, 4, 4), 2048), r"0\.\.2047, found 2048\.\.2048"),
        (torch.full((1, 4, 4), -1), r"0\.\.2047, found -1\.\.-1"),
    ],
)
def test_codes_that_are_none_are_refused(
    tokenizer: ConvVQTokenizer, codes: torch.Tensor, message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer.decode(codes)


# ---- quality


def test_photographs_are_rebuilt_well_with_many_different_codes(tokenizer: ConvVQTokenizer) -> None:
    """Floors are a little under what the released weights reach: 23.3 and 26.3 dB, 724 codes."""
    datasets = pytest.importorskip("sklearn.datasets")
    images = torch.stack([squashed(photo) for photo in datasets.load_sample_images().images])
    codes = tokenizer.encode(images)
    error = (images.double() - tokenizer.decode(codes)).square().mean((1, 2, 3))
    church, flower = (10 * torch.log10(255**2 / error)).tolist()
    assert church > 22.8
    assert flower > 25.8
    assert torch.unique(codes).numel() > 650


def squashed(photo: np.ndarray) -> torch.Tensor:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    pixels = decode_image(file.getvalue(), ImageOptions(256)).pixels
    return torch.from_numpy(pixels).permute(2, 0, 1)


# ---- weights files


def spoil(
    path: Path, tensors: dict[str, torch.Tensor] | None = None, config: object = None, form: str = FORMAT
) -> None:
    """Write the weights again with other tensors, config or format."""
    config = json.loads(TINY.to_json()) if config is None else config
    metadata = {"format": form, "config": json.dumps(config)}
    save_file(load_file(path) if tensors is None else tensors, path, metadata=metadata)


def test_weights_survive_saving_and_loading(tiny_weights: Path) -> None:
    first = ConvVQTokenizer.load(tiny_weights)
    save_weights(first.network, tiny_weights)
    again = ConvVQTokenizer.load(tiny_weights)
    assert again.fingerprint == first.fingerprint
    images = noise(1, 3, 32, 32)
    assert torch.equal(again.encode(images), first.encode(images))


def test_any_change_of_weights_or_config_changes_the_fingerprint(tiny_weights: Path) -> None:
    seen = {ConvVQTokenizer.load(tiny_weights).fingerprint}
    for name, tensor in load_file(tiny_weights).items():
        changed = load_file(tiny_weights)
        changed[name] = tensor + 0.125
        path = tiny_weights.with_name("changed.safetensors")
        spoil(path, changed)
        seen.add(ConvVQTokenizer.load(path).fingerprint)
    spoil(tiny_weights, config=json.loads(TINY.to_json()) | {"name": "renamed"})
    seen.add(ConvVQTokenizer.load(tiny_weights).fingerprint)
    assert len(seen) == len(load_file(tiny_weights)) + 2


def test_absent_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"none\.safetensors: expected a weights file"):
        load_tokenizer(f"conv-vq:{tmp_path / 'none.safetensors'}")


def test_a_folder_is_refused_as_weights(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(TokenizerError, match=r"folder\.safetensors"):
        load_tokenizer(f"conv-vq:{tmp_path / 'folder.safetensors'}")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_cut_off_weights_are_refused(tiny_weights: Path, kept: int) -> None:
    tiny_weights.write_bytes(tiny_weights.read_bytes()[:kept])
    with pytest.raises(TokenizerError, match="damaged"):
        ConvVQTokenizer.load(tiny_weights)


def test_bytes_that_are_no_weights_are_refused(tiny_weights: Path) -> None:
    tiny_weights.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(TokenizerError, match="damaged"):
        ConvVQTokenizer.load(tiny_weights)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("codebook", torch.zeros(16, 9), r"expected shape \(16, 8\), found \(16, 9\)"),
        ("codebook", torch.zeros(16, 8, dtype=torch.int32), "float16 or float32, found torch.int32"),
        ("codebook", torch.full((16, 8), torch.nan), "expected finite numbers"),
        ("decoder.9.weight", torch.zeros(1), r"expected shape absent, found \(1,\)"),
        ("encoder.1.bias", None, r"expected shape \(16,\), found absent"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(
    tiny_weights: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    tensors = load_file(tiny_weights) | ({} if tensor is None else {name: tensor})
    if tensor is None:
        del tensors[name]
    spoil(tiny_weights, tensors)
    with pytest.raises(TokenizerError, match=f"tensor '{name}': .*{message}"):
        ConvVQTokenizer.load(tiny_weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook_size": 0}, r"codebook_size to be in 1\.\.65536, found 0"),
        ({"patch": 2.0}, "patch to be .* found 2.0"),
        ({"patch": True}, "patch to be .* found True"),
        ({"decoder_blocks": 10**12}, "decoder_blocks to be"),
        ({"decoder_blocks": 60000}, "more blocks than the file's"),
        ({"encoder_width": 65536, "decoder_width": 65536}, "expected shape"),
        ({"name": 3}, "name to be text"),
        ({"surprise": 1}, "expected a config with the fields"),
    ],
)
def test_configs_that_make_no_sense_are_refused(
    tiny_weights: Path, change: dict[str, object], message: str
) -> None:
    spoil(tiny_weights, config=json.loads(TINY.to_json()) | change)
    with pytest.raises(TokenizerError, match=message):
        ConvVQTokenizer.load(tiny_weights)


@pytest.mark.parametrize("config", [[], "text", 3])
def test_configs_that_are_no_objects_are_refused(tiny_weights: Path, config: object) -> None:
    spoil(tiny_weights, config=config)
    with pytest.raises(TokenizerError, match="expected a config with the fields"):
        ConvVQTokenizer.load(tiny_weights)


def test_weights_of_another_format_are_refused(tiny_weights: Path) -> None:
    spoil(tiny_weights, form="tokenstore.conv_vq.2")
    with pytest.raises(TokenizerError, match=r"expected .*conv_vq\.1', found '.*conv_vq\.2'"):
        ConvVQTokenizer.load(tiny_weights)
    save_file({"weight": torch.zeros(2)}, tiny_weights)
    with pytest.raises(TokenizerError, match="found None"):
        ConvVQTokenizer.load(tiny_weights)


# ---- codebook files


VECTORS = torch.arange(12, dtype=torch.float32).view(4, 3)


def test_codebooks_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    torch.save(VECTORS, tmp_path / "a.ckpt")
    torch.save({"embed": VECTORS.double(), "step": torch.tensor(3), "note": "x"}, tmp_path / "b.pt")
    torch.save(torch.nn.Parameter(VECTORS.T.contiguous().T), tmp_path / "c.pth")
    np.save(tmp_path / "d.npy", VECTORS.numpy())
    np.save(tmp_path / "e.npy", VECTORS.numpy().astype(">f8"))
    save_file({"codebook": VECTORS.half()}, tmp_path / "f.safetensors")
    for path in sorted(tmp_path.iterdir()):
        codebook = load_codebook(path)
        assert codebook.dtype == np.float32
        np.testing.assert_array_equal(codebook, VECTORS.numpy())


@pytest.mark.skipif(not RELEASED_CODEBOOK.exists(), reason="the SeiT release sample is not on this machine")
def test_the_released_codebook_is_read() -> None:
    codebook = load_codebook(RELEASED_CODEBOOK)
    assert codebook.shape == (391, 32)
    assert codebook.dtype == np.float32


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".npy"])
def test_pickled_objects_are_refused_and_not_run(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "ran"
    path = tmp_path / f"hostile{suffix}"
    if suffix == ".npy":
        np.save(path, np.array([Hostile(target)], dtype=object), allow_pickle=True)
    else:
        torch.save({"codebook": VECTORS, "extra": Hostile(target)}, path)
    with pytest.raises(TokenizerError, match="nothing else"):
        load_codebook(path)
    path.write_bytes(pickle.dumps(Hostile(target)))
    with pytest.raises(TokenizerError, match="nothing else"):
        load_codebook(path)
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".npy", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"PK\x03\x04junk", b"\x93NUMPY\x01\x00", bytes(999)])
def test_damaged_codebook_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"codebook{suffix}"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"codebook\."):
        load_codebook(path)


def test_cut_off_codebook_files_are_refused(tmp_path: Path) -> None:
    torch.save(VECTORS, tmp_path / "a.ckpt")
    np.save(tmp_path / "b.npy", VECTORS.numpy())
    save_file({"codebook": VECTORS}, tmp_path / "c.safetensors")
    for path in sorted(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(TokenizerError, match="damage"):
            load_codebook(path)


@pytest.mark.parametrize(
    "content",
    [
        VECTORS[0],
        VECTORS[None],
        VECTORS.int(),
        VECTORS[:0],
        {"a": VECTORS, "b": VECTORS},
        {"state_dict": {"codebook": VECTORS}},
        {},
        "text",
        None,
    ],
    ids=["1-D", "3-D", "integers", "no vectors", "two tables", "nested", "no entries", "text", "None"],
)
def test_files_without_exactly_one_table_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "codebook.pt")
    with pytest.raises(TokenizerError, match="expected one 2-D float array"):
        load_codebook(tmp_path / "codebook.pt")


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "codebook.npy", np.array([[1.0, np.inf]]))
    with pytest.raises(TokenizerError, match="finite"):
        load_codebook(tmp_path / "codebook.npy")


def test_tables_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(1, 1).expand(10**9, 10**6), tmp_path / "codebook.pt")
    with pytest.raises(TokenizerError, match="dense"):
        load_codebook(tmp_path / "codebook.pt")


def test_codebooks_of_an_unknown_kind_or_absent_are_refused(tmp_path: Path) -> None:
    (tmp_path / "codebook.bin").write_bytes(b"x")
    with pytest.raises(TokenizerError, match="expected a file ending in"):
        load_codebook(tmp_path / "codebook.bin")
    with pytest.raises(TokenizerError, match="found nothing there"):
        load_codebook(tmp_path / "absent.npy")
