"""Codes of a GPU beside those of a CPU, for the packaged tokenizers and real photographs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tokenstore.format import FLIP
from tokenstore.tokenizers import load_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
NAMES = ["conv-vq-8x-2k", "conv-vq-symmetric-8x-2k"]
LEAST = 0.999
"""The least share of equal codes."""


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Cut 40 parts of two photographs, more than a pass: (40, 3, 256, 256) uint8."""
    photos = pytest.importorskip("sklearn.datasets").load_sample_images().images
    parts = [
        torch.from_numpy(photo[top : top + 256, left : left + 256].copy())
        for photo in photos
        for top in (0, 50, 100, 150)
        for left in range(0, 375, 75)
    ]
    return torch.stack(parts).permute(0, 3, 1, 2)


def share(codes: Tensor, others: Tensor) -> float:
    return float((codes.cpu() == others.cpu()).double().mean())


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_images_are_those_of_a_cpu(name: str, photographs: Tensor) -> None:
    here = load_tokenizer(name)
    there = load_tokenizer(name, "cuda")
    codes = here.encode(photographs[:12])
    found = there.encode(photographs[:12])
    assert found.device.type == "cuda"
    assert share(found, codes) >= LEAST
    difference = there.decode(codes).cpu().int() - here.decode(codes).int()
    assert int(difference.abs().max()) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_codes_do_not_depend_on_the_batch_nor_on_how_images_lie(name: str, photographs: Tensor) -> None:
    there = load_tokenizer(name, "cuda")
    whole = there.encode(photographs)
    assert torch.equal(torch.cat([there.encode(part) for part in photographs.split(7)]), whole)
    assert torch.equal(there.encode(photographs.contiguous()), whole)
    assert torch.equal(there.encode(photographs.to("cuda")), whole)


@pytest.mark.parametrize("side", [64, 128, 256])
def test_codes_of_mirror_images_are_the_permuted_mirrored_codes(side: int, photographs: Tensor) -> None:
    there = load_tokenizer("conv-vq-symmetric-8x-2k", "cuda")
    images = photographs[:, :, :side, :side]
    flip = torch.from_numpy(there.symmetries[FLIP]).to("cuda")  # type: ignore[attr-defined]
    assert share(there.encode(images.flip(3)), flip[there.encode(images)].flip(2)) >= LEAST


@pytest.mark.parametrize("name", NAMES)
def test_encoding_waits_for_the_device_nowhere(name: str, photographs: Tensor) -> None:
    there = load_tokenizer(name, "cuda")
    there.encode(photographs)  # the first call loads kernels
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        there.encode(photographs)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_network_gives_nearly_all_codes_of_the_plain_one(name: str, photographs: Tensor) -> None:
    there = load_tokenizer(name, "cuda")
    assert share(there.compiled().encode(photographs), there.encode(photographs)) >= LEAST  # type: ignore[attr-defined]
