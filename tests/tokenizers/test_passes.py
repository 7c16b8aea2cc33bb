"""The passes of a network: full ones on a GPU, that nothing waits for, and ones that torch compiles."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import magvit_models, maskgit_models, titok_models, vqgan_models
from helpers.brightness import BrightnessTokenizer
from helpers.symmetric_models import random_tokenizer, smooth_images
from helpers.vit_vqgan_models import random_tensors, saved
from torch import Tensor, nn
from torch.nn import functional as F

from tokenstore.errors import Parameter, TokenizerError
from tokenstore.tokenizers import load_tokenizer, passes
from tokenstore.tokenizers.encoder import compiled_tokenizer, identity_of
from tokenstore.tokenizers.passes import ACCELERATOR_BATCH, full_pass, full_passes, lay_weights

CPU = torch.device("cpu")


def images(count: int, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


@pytest.mark.parametrize("lies", ["channels first", "channels last", "cut from others"])
@pytest.mark.parametrize("count", [1, 5, ACCELERATOR_BATCH])
def test_a_full_pass_is_the_inputs_and_zeros_behind_them_however_they_lie_in_memory(
    lies: str, count: int
) -> None:
    part = images(count)
    if lies == "channels last":
        part = part.contiguous(memory_format=torch.channels_last)
    elif lies == "cut from others":
        part = images(2 * count, 64)[::2, :, ::2, 32:]
    full = full_pass(part, CPU)
    assert full.is_contiguous()
    assert torch.equal(full, F.pad(part, [0] * 7 + [ACCELERATOR_BATCH - count]))


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 2, 4, 4), (3, 7), (3, 2, 3, 4, 4)])
def test_codes_of_any_grid_fill_a_pass(shape: tuple[int, ...]) -> None:
    codes = torch.randint(0, 2**40, shape)
    full = full_pass(codes, CPU)
    assert full.shape == (ACCELERATOR_BATCH, *shape[1:])
    assert torch.equal(full[:3], codes)
    assert not full[3:].any()


@pytest.mark.parametrize("size", [ACCELERATOR_BATCH, 1])
def test_full_passes_give_a_row_for_each_input(size: int) -> None:
    batch = images(2 * size + 3)
    sizes = []

    def means(part: Tensor) -> Tensor:
        sizes.append(len(part))
        return part.double().mean((1, 2, 3))

    assert torch.equal(full_passes(means, batch, CPU, size), batch.double().mean((1, 2, 3)))
    assert sizes == [size] * (3 if size > 1 else 5)


class TorchOfAGpu:
    """The module torch, whose `empty` notes what it was asked for, since only a GPU pins memory."""

    def __init__(self) -> None:
        self.made: list[tuple[bool, torch.memory_format]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(
        self, *shape: Any, pin_memory: bool, memory_format: torch.memory_format, dtype: torch.dtype
    ) -> Tensor:
        self.made.append((pin_memory, memory_format))
        return torch.empty(*shape, dtype=dtype, memory_format=memory_format)


def test_a_device_that_copies_meanwhile_gets_pixels_from_pinned_memory_as_they_lie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake, copied = TorchOfAGpu(), []

    def noted_to(tensor: Tensor, device: torch.device, *, non_blocking: bool) -> Tensor:
        copied.append((device.type, non_blocking, tensor.stride()))
        return tensor

    monkeypatch.setattr(Tensor, "to", noted_to)
    monkeypatch.setattr(passes, "torch", fake)
    decoded = torch.zeros(3, 8, 8, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for part, device in (
        (decoded, torch.device("cuda")),
        (torch.zeros(3, 4, 4, dtype=torch.int64), torch.device("cuda", 1)),
        (decoded, torch.device("mps")),
    ):
        assert full_pass(part, device).is_contiguous()
    assert fake.made == [
        (True, torch.channels_last),
        (True, torch.contiguous_format),
        (False, torch.channels_last),
    ]
    assert copied == [
        ("cuda", True, (192, 1, 24, 3)),
        ("cuda", True, (16, 4, 1)),
        ("mps", False, (192, 1, 24, 3)),
    ]


def vit_vqgan(folder: Path) -> str:
    return f"vit-vqgan:{saved(folder / 'model.ckpt', {'state_dict': random_tensors()})}"


def diffusers(folder: Path) -> str:
    pytest.importorskip("helpers.diffusers_models").build().save_pretrained(folder / "model")
    return f"diffusers:{folder / 'model'}"


SPECS: dict[str, Callable[[Path], str]] = {
    "conv-vq-8x-2k": lambda _: "conv-vq-8x-2k",
    "conv-vq-symmetric-8x-2k": lambda _: "conv-vq-symmetric-8x-2k",
    "vit-vqgan": vit_vqgan,
    "vqgan": lambda folder: f"vqgan:{vqgan_models.write_checkpoint(folder / 'model.ckpt')}",
    "maskgit-vqgan": lambda folder: f"maskgit-vqgan:{maskgit_models.write_checkpoint(folder / 'model.bin')}",
    "titok": lambda folder: f"titok:{titok_models.write_folder(folder / 'model')}",
    "open-magvit2": lambda folder: f"open-magvit2:{magvit_models.write_checkpoint(folder / 'model.ckpt')}",
    "diffusers": diffusers,
}


def test_weights_of_convolutions_lie_channels_last_on_a_gpu_and_as_ever_on_a_cpu(tmp_path: Path) -> None:
    tokenizer: Any = load_tokenizer(SPECS["vqgan"](tmp_path))
    batch = images(2, 8 * tokenizer.stride)
    codes = tokenizer.encode(batch)

    def lying(network: nn.Module, order: torch.memory_format) -> list[bool]:
        kernels = [weight for weight in network.parameters() if weight.ndim == 4 and weight.shape[-1] > 1]
        assert len(kernels) > 10
        return [weight.is_contiguous(memory_format=order) for weight in kernels]

    assert all(lying(tokenizer.to("meta").network, torch.channels_last))
    assert all(lying(tokenizer.network, torch.contiguous_format))
    elsewhere = copy.deepcopy(tokenizer)
    lay_weights(elsewhere.network, torch.device("cuda"))
    assert not any(lying(elsewhere.network, torch.contiguous_format))
    assert (elsewhere.encode(batch) == codes).double().mean() > 0.99, "the numbers are others"
    assert all(lying(elsewhere.to("cpu").network, torch.contiguous_format))
    assert torch.equal(elsewhere.to("cpu").encode(batch), codes)


ASKING = ("vqgan", "maskgit-vqgan")
"""Kinds that look up by distances, and ask once a pass which rows rounding leaves open."""


@pytest.mark.parametrize("kind", [kind for kind in SPECS if kind not in ASKING])
def test_no_pass_asks_a_device_for_values(kind: str, tmp_path: Path) -> None:
    """Encode on the meta device, which has no values: a pass that asks for one, as if of a GPU, raises."""
    tokenizer = load_tokenizer(SPECS[kind](tmp_path))
    side = tokenizer.image_size if kind in ("titok", "vit-vqgan") else 8 * tokenizer.stride
    grid = tokenizer.grid((3, side, side))
    codes = tokenizer.to("meta").encode(images(3, side))
    assert (codes.device.type, codes.dtype, codes.shape) == ("meta", torch.int64, (3, *grid))


def test_latents_between_two_codes_get_the_same_codes_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way of a GPU on the CPU, for images whose white margins lie between all partners."""
    tokenizer = random_tokenizer()
    network, batch = tokenizer.network, smooth_images(4, 64, 64)
    latents = network.latents(batch.float() / 127.5 - 1)
    asked = network.nearest(latents)
    products = passes_products(network, latents)
    assert torch.equal(network._nearest(products.clone(), asks=False).view_as(asked), asked)
    assert torch.equal(network._nearest(products.clone(), asks=True).view_as(asked), asked)


def passes_products(network: Any, latents: Tensor) -> Tensor:
    """Return the products (K, n) that `nearest` compares."""
    a, b = latents.permute(0, 2, 3, 1).flatten(0, 2).chunk(2, dim=1)
    return network._sums_and_differences @ torch.cat((a + b, a - b), dim=1).T


# Compiled passes


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("kind", ["conv-vq-8x-2k", "conv-vq-symmetric-8x-2k", "vqgan"])
def test_a_compiled_network_gives_the_codes_and_images_of_the_plain_one(
    kind: str, backend: str, tmp_path: Path
) -> None:
    plain = load_tokenizer(SPECS[kind](tmp_path))
    compiled = plain.compiled(backend)
    batch = smooth_images(3, 64, 64)
    codes = plain.encode(batch)
    assert torch.equal(compiled.encode(batch), codes)
    assert torch.equal(compiled.decode(codes), plain.decode(codes))
    assert (compiled.is_compiled, plain.is_compiled) == (True, False)
    assert compiled.fingerprint == plain.fingerprint


@pytest.mark.parametrize("name", ["conv-vq-8x-2k", "conv-vq-symmetric-8x-2k"])
def test_encoding_by_a_packaged_tokenizer_compiles_in_one_piece(name: str) -> None:
    tokenizer: Any = load_tokenizer(name)
    batch = smooth_images(1, 256, 256)
    whole: Any = torch.compile(tokenizer.encode_pass, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(whole(batch), tokenizer.encode_pass(batch))


def test_a_compiled_tokenizer_is_copied_moved_and_pickled_as_one_whose_network_is_compiled_anew() -> None:
    compiled = random_tokenizer().compiled("eager")
    batch = smooth_images(2, 64, 64)
    codes = compiled.encode(batch)
    for other in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled)), compiled.to("cpu")):
        assert other.is_compiled
        assert torch.equal(other.encode(batch), codes)
        with torch.no_grad():
            other.network.codebook.zero_()
        assert not torch.equal(other.encode(batch), codes), "it still runs another network"
    assert torch.equal(compiled.encode(batch), codes)


def test_identities_say_that_a_network_was_compiled_and_mean_the_same_codes() -> None:
    plain = random_tokenizer()
    identity, compiled = identity_of(plain), identity_of(compiled_tokenizer(plain))
    assert (identity.arithmetic, compiled.arithmetic) == ("cpu float32", "cpu float32, compiled")
    assert compiled == identity
    assert "compiled" not in identity.to_dict()
    assert compiled.to_dict()["compiled"] is True
    assert type(identity).from_dict(compiled.to_dict(), "here").compiled is True


def test_what_no_network_computes_is_not_compiled() -> None:
    pytest.importorskip("jpeglib")
    for tokenizer in (BrightnessTokenizer(), load_tokenizer("dct")):
        with pytest.raises(TokenizerError, match=r"compile=True: the tokenizer .* has no network") as refused:
            compiled_tokenizer(tokenizer)
        assert refused.value.parameters == (Parameter("compile", True),)


def test_a_network_that_cannot_be_compiled_here_is_one_clear_error() -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("no C++ compiler\nlines of its own")

    compiled = random_tokenizer().compiled(broken)  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match="cannot compile the tokenizer small-symmetric") as refused:
        compiled.encode(smooth_images(1, 64, 64))
    assert "no C++ compiler" in str(refused.value)
    assert "lines of its own" not in str(refused.value)
    assert refused.value.parameters == (Parameter("compile", True),)


def test_an_error_of_a_network_that_was_compiled_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fails_later(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        if len(calls) > 1:
            raise RuntimeError("the device is gone")
        return batch

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    function = passes.compiled_pass(fails_later, "mine", "eager")
    function(images(1))
    with pytest.raises(RuntimeError, match="the device is gone"):
        function(images(1))
