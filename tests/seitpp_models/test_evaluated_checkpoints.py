"""Published checkpoints, measured as they are: on stores, and on images by an encoder and a codebook."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pictures import write_images
from helpers.stores import random_codes, write_store
from helpers.vit_vqgan_models import TINY, loaded, random_tensors
from torch import Tensor, nn

from seitpp_models.errors import ModelError
from seitpp_models.evaluation import evaluate
from seitpp_models.networks.vit import TokenViT
from seitpp_models.weights.files import TrainedModel, save_model
from seitpp_models.weights.official import to_official
from seitpp_models.weights.transfer import trained_network
from tokenstore.errors import ArgumentError, TokenizerError
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.sources import imagenet_classes
from tokenstore.tokenizers import load_tokenizer

SIDE, CHANNELS, K = TINY.grid, TINY.code_dim, 20


def network(classes: int = 1000, codebook_size: int | None = None) -> TokenViT:
    """Return a small network of the published kind, with random weights."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 64, "depth": 1, "num_heads": 1, "num_classes": classes}
    model = TokenViT((SIDE, SIDE), CHANNELS, codebook_size, **sizes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def codebook() -> Tensor:
    return 3 * torch.randn(K, CHANNELS, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint of a whole run, whose average is another network."""
    path = tmp_path_factory.mktemp("published") / "seit.pth"
    tensors = to_official(network())
    average = {name: tensor.flip(0) if name == "head.weight" else tensor for name, tensor in tensors.items()}
    torch.save({"model": tensors, "model_ema": average, "epoch": 300}, path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "store"
    labels = (np.arange(24) % 1000).astype(np.int32)
    codes = random_codes(24, (SIDE, SIDE), K)
    names = imagenet_classes()
    write_store(path, {"val": (codes, labels)}, K, codebook=codebook().numpy(), class_names=names)
    return path


def test_a_checkpoint_has_the_figures_of_its_network(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    found = evaluate(checkpoint, store=store, threads=1, workers=0)
    same = TrainedModel(network(), "vit", {}, TokenizerIdentity("any"), imagenet_classes())
    assert found.figures == evaluate(same, store=store, threads=1, workers=0).figures
    assert found.class_names == imagenet_classes()
    average = evaluate(checkpoint, store=store, threads=1, workers=0, average=True)
    assert average.figures != found.figures
    saved = tmp_path / "model.safetensors"
    save_model(trained_network(checkpoint), saved)
    assert evaluate(saved, store=store, threads=1, workers=0).figures == found.figures


def test_an_average_that_is_not_there_is_refused(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.pth"
    torch.save({"model": to_official(network())}, alone)
    with pytest.raises(ModelError, match="expected tensors under the key 'model_ema', found model"):
        trained_network(alone, average=True)
    own = tmp_path / "own.safetensors"
    save_model(trained_network(checkpoint), own)
    with pytest.raises(ModelError, match="expected a published checkpoint with an average"):
        trained_network(own, average=True)
    with pytest.raises(ArgumentError, match="goes with a published checkpoint"):
        evaluate(trained_network(own), store=store, average=True)
    with pytest.raises(ModelError, match="expected a checkpoint of SeiT or SeiT"):
        trained_network(tmp_path / "none.pth")


def test_networks_of_other_classes_have_no_names(tmp_path: Path) -> None:
    path = tmp_path / "seven.pth"
    torch.save(to_official(network(7, codebook_size=K)), path)
    trained = trained_network(path)
    assert (trained.labels, trained.shape.classes, trained.shape.codebook_size) == (None, 7, K)


def encoder(tmp_path: Path, table: Tensor) -> str:
    """Write an encoder and a codebook, and return the name of their tokenizer."""
    parts = {
        name: tensor
        for name, tensor in random_tensors().items()
        if name.startswith(("encoder.", "pre_quant."))
    }
    torch.save(parts, tmp_path / "encoder.pth")
    torch.save(table, tmp_path / "codebook.ckpt")
    return f"vit-vqgan:{tmp_path / 'encoder.pth'}#{tmp_path / 'codebook.ckpt'}"


def test_an_encoder_and_a_codebook_give_the_codes_of_the_nearest_vectors(tmp_path: Path) -> None:
    whole = loaded(tmp_path / "whole.pt", random_tensors())
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    own = load_tokenizer(encoder(tmp_path, 5 * torch.from_numpy(whole.codebook)))
    assert torch.equal(own.encode(images), whole.encode(images)), "only directions count"
    table = codebook()
    tokenizer = load_tokenizer(encoder(tmp_path, table))
    assert tokenizer.codebook_sizes == (K,)
    assert np.array_equal(tokenizer.codebook, table.numpy())
    latents = whole.network.latents(images.float() / 255)
    expected = (latents @ nn.functional.normalize(table, dim=1).T).argmax(2).view(3, SIDE, SIDE)
    assert torch.equal(tokenizer.encode(images), expected)
    assert tokenizer.fingerprint != load_tokenizer(encoder(tmp_path, table + 1)).fingerprint
    with pytest.raises(TokenizerError, match="expected a tokenizer with a decoder, found an encoder"):
        tokenizer.decode(expected)


def test_an_encoder_of_other_parts_or_a_codebook_of_other_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"encoder\.pth: .*expected shape|pre_quant"):
        load_tokenizer(encoder(tmp_path, codebook()[:, :5]))
    torch.save({"head.weight": torch.zeros(2, 2)}, tmp_path / "encoder.pth")
    name = f"vit-vqgan:{tmp_path / 'encoder.pth'}#{tmp_path / 'codebook.ckpt'}"
    with pytest.raises(TokenizerError, match=r"expected an encoder \(encoder\.\*, pre_quant\.\*\)"):
        load_tokenizer(name)


def test_images_of_some_classes_are_measured_by_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    names = (imagenet_classes()[7], imagenet_classes()[3])
    for name in names:
        write_images(tmp_path / "images" / name, 2, (32, 32))
    with pytest.raises(TokenizerError, match="which tokenizer made the codes"):
        evaluate(checkpoint, images=tmp_path / "images", threads=1, workers=0)
    tokenizer = encoder(tmp_path, codebook())
    found = evaluate(checkpoint, images=tmp_path / "images", tokenizer=tokenizer, threads=1, workers=0)
    assert found.samples == 4
    of_all = evaluate(
        checkpoint,
        images=tmp_path / "images",
        tokenizer=tokenizer,
        threads=1,
        workers=0,
        all_classes=True,
    )
    two, thousand = found.figures, of_all.figures
    assert two["loss"] < thousand["loss"], "998 classes that the images do not have count for nothing"
