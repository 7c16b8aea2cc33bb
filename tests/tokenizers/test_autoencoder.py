"""A continuous autoencoder and a codebook learned over its latents: fitting, the file, the tokenizer."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tokenstore.errors import SourceError, TokenizerError
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSplit
from tokenstore.sources.images import ImageOptions
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.quantisers import nearest
from tokenstore.tokenizers.train import fitting
from tokenstore.tokenizers.train import kmeans as kmeans_module
from tokenstore.tokenizers.train.fitting import (
    FitOptions,
    Images,
    Reservoir,
    code_use,
    fit_quantiser,
    kmeans,
    kmeans_start,
    learn_codebook,
    relative_error,
)

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from tokenstore_cli.tokenizers.fit_codebook import fit_codebook as command  # noqa: E402

from tokenstore.tokenizers.kinds.autoencoder import (  # noqa: E402
    FORMAT,
    Autoencoder,
    AutoencoderTokenizer,
    load_autoencoder,
    write_codebook,
)

SIZE = 32
SMALL = FitOptions(codebook_size=32, iterations=20, batch_vectors=256)


def make_kl(**changes: object) -> torch.nn.Module:
    """Make an AutoencoderKL of stride 4 with 4 latent channels."""
    torch.manual_seed(3)
    config = {"block_out_channels": (8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    return diffusers.AutoencoderKL(**(config | kinds | changes))


def make_tiny(**changes: object) -> torch.nn.Module:
    """Make an AutoencoderTiny of stride 4 with 4 latent channels."""
    torch.manual_seed(4)
    widths = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    return diffusers.AutoencoderTiny(**(widths | blocks | changes))


def make_dc() -> torch.nn.Module:
    """Make an AutoencoderDC of stride 2 with 2 latent channels."""
    torch.manual_seed(5)
    blocks = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (
            ("block_types", "ResBlock"),
            ("block_out_channels", (8, 8)),
            ("layers_per_block", (1, 1)),
            ("qkv_multiscales", ((), ())),
        )
    }
    return diffusers.AutoencoderDC(latent_channels=2, attention_head_dim=4, **blocks)


def smooth_images(count: int, size: int = SIZE) -> torch.Tensor:
    """Random colours that run into each other, (count, 3, size, size) uint8."""
    coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(7)) * 255
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").to(torch.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, one of them not an image."""
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(smooth_images(12)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:02d}.png")
    (folder / "03.png").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="module")
def split(folder: Path) -> ImageSplit:
    return next(iter(open_source(folder).splits.values()))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save a folder for each class that can be used."""
    root = tmp_path_factory.mktemp("models")
    for name, make in (("kl", make_kl), ("tiny", make_tiny), ("dc", make_dc)):
        make().save_pretrained(root / name)
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def fitted(split: ImageSplit, models: dict[str, Path]) -> AutoencoderTokenizer:
    return fit(split, models["kl"])


@pytest.fixture(scope="module")
def kept_pair(
    fitted: AutoencoderTokenizer, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(models["kl"], folder / "model")
    named = load_autoencoder(str(models["kl"]))
    named.reference = "model"
    write_codebook(named.tokenizer(fitted.network.quantiser, SIZE), folder / "codebook.safetensors")
    return folder


@pytest.fixture
def pair(kept_pair: Path, tmp_path: Path) -> Path:
    """Copy a codebook file and its autoencoder, in the folder `model` beside it."""
    shutil.copytree(kept_pair, tmp_path, dirs_exist_ok=True)
    return tmp_path / "codebook.safetensors"


def fit(split: ImageSplit, model: Path, options: FitOptions = SMALL) -> AutoencoderTokenizer:
    return learn_codebook(split, load_autoencoder(str(model)), ImageOptions(SIZE), options)[0]


def rewrite(path: Path, change: Callable[[dict[str, object], dict[str, torch.Tensor]], None]) -> None:
    """Write a codebook file anew after a change to its config and tensors."""
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = load_file(path)
    change(config, tensors)
    save_file(tensors, path, {"format": FORMAT, "config": json.dumps(config)})


# ---- autoencoders


@pytest.mark.parametrize(("name", "stride", "channels"), [("kl", 4, 4), ("tiny", 4, 4), ("dc", 2, 2)])
def test_each_class_gives_latents_of_its_stride(
    models: dict[str, Path], name: str, stride: int, channels: int
) -> None:
    autoencoder = load_autoencoder(str(models[name]))
    latents = autoencoder.latents(smooth_images(2))
    assert (autoencoder.stride, autoencoder.channels) == (stride, channels)
    assert latents.shape == (2, channels, SIZE // stride, SIZE // stride)
    assert autoencoder.images(latents).shape == (2, 3, SIZE, SIZE)
    assert not any(weight.requires_grad for weight in autoencoder.parameters())


@torch.no_grad()
def test_latents_of_a_posterior_are_its_mean_of_pixels_from_minus_one_to_one(
    models: dict[str, Path],
) -> None:
    autoencoder, images = load_autoencoder(str(models["kl"])), smooth_images(3)
    model = autoencoder.model
    moments = model.quant_conv(model.encoder(images / 127.5 - 1))
    torch.testing.assert_close(autoencoder.latents(images), moments[:, :4])
    pixels = model.decoder(model.post_quant_conv(moments[:, :4])) * 127.5 + 127.5
    expected = pixels.round().clamp(0, 255)
    assert (autoencoder.images(moments[:, :4]) - expected).abs().max() <= 1


@torch.no_grad()
def test_a_tiny_autoencoder_sees_pixels_from_zero_to_one(models: dict[str, Path]) -> None:
    autoencoder, images = load_autoencoder(str(models["tiny"])), smooth_images(3)
    model = autoencoder.model
    latents = model.encoder.layers(images / 255)
    torch.testing.assert_close(autoencoder.latents(images), latents)
    expected = (model.decoder.layers(3 * torch.tanh(latents / 3)) * 255).round().clamp(0, 255)
    assert (autoencoder.images(latents) - expected).abs().max() <= 1


def test_an_autoencoder_inside_a_pipeline_is_found(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["kl"], tmp_path / "pipeline" / "vae")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    found = load_autoencoder(str(tmp_path / "pipeline"))
    assert found.fingerprint == load_autoencoder(str(models["kl"])).fingerprint


def test_loading_draws_nothing_from_the_global_generator(models: dict[str, Path]) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_autoencoder(str(models["kl"]))
    assert torch.equal(torch.rand(3), expected)


def test_other_classes_and_other_images_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["kl"], tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace("AutoencoderKL", "UNet2DModel"))
    with pytest.raises(TokenizerError, match="AutoencoderKL or AutoencoderTiny, found 'UNet2DModel'"):
        load_autoencoder(str(tmp_path / "other"))
    make_kl(in_channels=4, out_channels=4).save_pretrained(tmp_path / "rgba")
    with pytest.raises(TokenizerError, match="expected an autoencoder of RGB images"):
        load_autoencoder(str(tmp_path / "rgba"))
    make_tiny(upsampling_scaling_factor=1).save_pretrained(tmp_path / "smaller")
    with pytest.raises(TokenizerError, match="expected latents and an image of shapes"):
        load_autoencoder(str(tmp_path / "smaller"))


def test_only_what_decides_codes_is_in_the_fingerprint(models: dict[str, Path], tmp_path: Path) -> None:
    expected = load_autoencoder(str(models["kl"])).fingerprint
    for name, changes, same in (
        ("scaled", {"scaling_factor": 0.5, "sample_size": 64}, True),
        ("renamed", {"a_field_of_later_versions": 1}, True),
        ("grouped", {"norm_num_groups": 8}, False),
    ):
        shutil.copytree(models["kl"], tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(config | changes))
        assert (load_autoencoder(str(tmp_path / name)).fingerprint == expected) == same


# ---- fitting


def mixture(count: int, seed: int) -> torch.Tensor:
    """Vectors (count, 4) in clusters of unequal size and width."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(24, 4, generator=generator)
    picks = (24 * torch.rand(count, generator=generator) ** 2).long()
    return centres[picks] + torch.rand(count, 1, generator=generator) * torch.randn(
        count, 4, generator=generator
    )


def lloyd(rows: torch.Tensor, table: torch.Tensor, rounds: int = 100) -> torch.Tensor:
    """Full-batch k-means, plainly."""
    table = table.clone()
    for _ in range(rounds):
        codes = nearest(rows, table)
        for code in codes.unique():
            table[code] = rows[codes == code].mean(0)
    return table


def error(rows: torch.Tensor, table: torch.Tensor) -> float:
    return relative_error(rows, table[nearest(rows, table)])


@pytest.mark.parametrize("batch_size", [256, 10**6])
@pytest.mark.parametrize("seed", [0, 1])
def test_mini_batches_come_as_near_as_all_vectors_at_once(batch_size: int, seed: int) -> None:
    rows, generator = mixture(3000, seed), torch.Generator().manual_seed(seed)
    start = kmeans_start(rows, 32, generator)
    found = error(rows, kmeans(rows, start, 100, batch_size, generator))
    assert found < 1.1 * error(rows, lloyd(rows, start))
    assert found < 0.8 * error(rows, start)


def test_first_vectors_are_spread_better_than_random_ones() -> None:
    rows = mixture(3000, 0)
    chosen = kmeans_start(rows, 32, torch.Generator().manual_seed(0))
    assert len(chosen.unique(dim=0)) == 32
    assert (nearest(chosen, rows) >= 0).all()
    assert all((rows == vector).all(1).any() for vector in chosen)
    assert error(rows, chosen) < error(rows, rows[:32])


def test_dead_codes_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = mixture(3000, 0)
    start = torch.full((32, 4), 1000.0)
    start[0] = 0
    table = kmeans(rows, start, 60, 256, torch.Generator().manual_seed(0))
    assert len(nearest(rows, table).unique()) == 32
    good = kmeans_start(rows, 32, torch.Generator().manual_seed(0))
    assert error(rows, table) < 1.2 * error(rows, lloyd(rows, good))
    monkeypatch.setattr(kmeans_module, "DEAD_SHARE", 10**6)
    left_alone = kmeans(rows, start, 60, 256, torch.Generator().manual_seed(0))
    assert len(nearest(rows, left_alone).unique()) == 1


def test_fewer_distinct_vectors_than_codes_leave_codes_unused() -> None:
    rows = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(20, 1)
    quantiser = fit_quantiser(
        rows, FitOptions(codebook_size=8, iterations=5), torch.Generator().manual_seed(0)
    )
    table = torch.from_numpy(quantiser.codebook)
    assert table.isfinite().all()
    assert error(rows, table) == 0


def test_fewer_vectors_than_codes_are_refused() -> None:
    with pytest.raises(TokenizerError, match="at least 32 latent vectors for as many codes, found 31"):
        fit_quantiser(torch.zeros(31, 4), SMALL, torch.Generator())


def test_each_further_codebook_lowers_the_error() -> None:
    rows, errors = mixture(3000, 2), []
    for codebooks in (1, 2, 3, 4):
        quantiser = fit_quantiser(
            rows, replace(SMALL, codebook_size=16, codebooks=codebooks), torch.Generator().manual_seed(0)
        )
        assert quantiser.codebook_sizes == (16,) * codebooks
        latents = rows.T[None, :, :, None]
        found = quantiser.vectors(quantiser.codes(latents))
        errors.append(relative_error(latents[0, :, :, 0].T, found[0, :, :, 0].T))
    assert all(after < 0.6 * before for before, after in itertools.pairwise(errors))


def test_scales_of_levels_suit_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20000, 2, generator=generator) * torch.tensor([0.1, 30.0]) + torch.tensor([5.0, -70.0])
    quantiser = fitting.fit_levels(rows, (8, 5))
    torch.testing.assert_close(quantiser.mean, torch.tensor([5.0, -70.0]), rtol=0.01, atol=0)
    latents = rows.T[None, :, :, None]
    codes = quantiser.codes(latents)
    errors = (quantiser.vectors(codes) - latents).square().mean((0, 2, 3)) / rows.var(0)
    assert errors[0] < 0.045  # Max (1960): no quantiser of a normal variable gets below 0.0345 with 8 levels
    assert errors[1] < 0.1  # and 0.0799 with 5
    assert code_use(codes.flatten(), 40)[1] == 0


def test_levels_of_a_constant_channel_can_still_be_told_apart() -> None:
    rows = torch.tensor([[3.0, 0.0]]).repeat(10, 1)
    quantiser = fitting.fit_levels(rows, (256, 3))
    found = quantiser.vectors(quantiser.codes(rows.T[None, :, :, None]))[0, :, :, 0].T
    torch.testing.assert_close(found, rows, rtol=1e-3, atol=1e-3)


def test_the_use_of_codes_is_counted() -> None:
    perplexity, unused = code_use(torch.tensor([0, 0, 5, 5, 7, 7, 9, 9]), 12)
    assert (round(perplexity, 6), unused) == (4, 8)


def test_a_reservoir_keeps_a_uniform_sample() -> None:
    generator, counts = torch.Generator().manual_seed(0), np.zeros(600)
    for _ in range(200):
        reservoir = Reservoir(60, 1, generator)
        for part in torch.arange(600.0)[:, None].split([10, 100, 1, 289, 200]):
            reservoir.add(part)
        kept = reservoir.rows()[:, 0].numpy().astype(int)
        assert len(set(kept)) == 60
        assert reservoir.seen == 600
        counts[kept] += 1
    thirds = counts.reshape(6, 100).mean(1)  # 20 expected of each element, +- 0.42 for the mean of 100
    assert np.abs(thirds - 20).max() < 2


def test_a_reservoir_that_is_not_full_holds_everything_in_order() -> None:
    reservoir = Reservoir(50, 1, torch.Generator())
    for part in torch.arange(40.0)[:, None].split(7):
        reservoir.add(part)
    assert reservoir.rows()[:, 0].tolist() == list(range(40))


def test_images_are_spread_over_the_split_and_one_in_ten_is_held_out(split: ImageSplit) -> None:
    class Counted:
        def __len__(self) -> int:
            return 1000

    chosen = Images(Counted(), ImageOptions(SIZE), limit=100)  # type: ignore[arg-type]
    assert sorted(chosen._learned + chosen._held_out) == list(range(0, 1000, 10))
    assert chosen._held_out == list(range(50, 1000, 100))
    everything = Images(split, ImageOptions(SIZE))
    assert sum(len(batch) for batch in everything.learned()) == 10
    assert len(list(everything.held_out())) == 1
    assert [name for name, _ in everything.skipped] == ["03.png"]


@pytest.mark.parametrize("name", ["kl", "tiny", "dc"])
def test_a_fit_reports_what_it_learned(split: ImageSplit, models: dict[str, Path], name: str) -> None:
    told = []
    tokenizer, report = learn_codebook(
        split,
        load_autoencoder(str(models[name])),
        ImageOptions(SIZE),
        SMALL,
        on_progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    positions = (SIZE // tokenizer.stride) ** 2
    assert (report.images, report.vectors) == (10, 10 * positions)
    assert [name for name, _ in report.skipped] == ["03.png"]
    assert 0 < report.relative_error < 0.2
    assert 16 < report.perplexity[0] <= 32
    assert report.unused_codes == (0,)
    assert report.held_out is not None
    assert report.held_out.images == 1
    assert tokenizer.name == f"autoencoder-{name}-k32"
    codes = tokenizer.encode(smooth_images(12))
    assert codes.shape == (12, SIZE // tokenizer.stride, SIZE // tokenizer.stride)
    assert len(codes.unique()) > 16
    assert told[0] == ("encoding", 11, 11)
    assert ("codebook, k-means", 20, 20) in told
    assert told[-1] == ("evaluating", 1, 1)


def test_a_seed_gives_one_codebook(
    split: ImageSplit, models: dict[str, Path], fitted: AutoencoderTokenizer
) -> None:
    torch.manual_seed(99)
    assert fit(split, models["kl"]).fingerprint == fitted.fingerprint
    assert fit(split, models["kl"], replace(SMALL, seed=1)).fingerprint != fitted.fingerprint


def test_memory_for_vectors_is_bounded(split: ImageSplit, models: dict[str, Path]) -> None:
    options = replace(SMALL, max_vectors=100)
    report = learn_codebook(split, load_autoencoder(str(models["kl"])), ImageOptions(SIZE), options)[1]
    assert report.vectors == 640
    assert sum(report.perplexity) <= 32
    with pytest.raises(TokenizerError, match=r"at least 32 latent vectors .* found 20"):
        fit(split, models["kl"], replace(SMALL, max_vectors=20))


def test_what_cannot_be_fitted_is_refused(split: ImageSplit, models: dict[str, Path], tmp_path: Path) -> None:
    autoencoder = load_autoencoder(str(models["kl"]))
    with pytest.raises(TokenizerError, match=r"multiple of 4 for .*, found 30x30"):
        learn_codebook(split, autoencoder, ImageOptions(30), SMALL)
    with pytest.raises(TokenizerError, match=r"each of 4 latent channels of .*, found 3"):
        learn_codebook(split, autoencoder, ImageOptions(SIZE), FitOptions(levels=(8, 8, 8)))
    with pytest.raises(TokenizerError, match="iterations: expected at least 1, found 0"):
        FitOptions(iterations=0)
    (tmp_path / "bad.png").write_bytes(b"bad")
    bad = next(iter(open_source(tmp_path).splits.values()))
    with pytest.raises(TokenizerError, match=r"none that can be read.*bad\.png"):
        learn_codebook(bad, autoencoder, ImageOptions(SIZE), SMALL)  # type: ignore[arg-type]
    autoencoder.model.encoder.conv_in.weight *= float("inf")
    with pytest.raises(TokenizerError, match="expected finite latents"):
        learn_codebook(split, autoencoder, ImageOptions(SIZE), SMALL)


# ---- the tokenizer


RESIDUAL = replace(SMALL, codebook_size=16, codebooks=3)
OPTIONS = {
    "nearest": (SMALL, "autoencoder-kl-k32", (8, 8), (32, 4)),
    "residual": (
        replace(SMALL, codebook_size=16, codebooks=3),
        "autoencoder-kl-3xk16",
        (3, 8, 8),
        (3, 16, 4),
    ),
    "fsq": (replace(SMALL, levels=(4, 5, 2, 3)), "autoencoder-kl-fsq4x5x2x3", (8, 8), (120, 4)),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_was_fitted_is_a_tokenizer_that_loads_again(
    split: ImageSplit, models: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    options, name, grid, shape = OPTIONS[kind]
    tokenizer = fit(split, models["kl"], options)
    images = smooth_images(8)
    codes = tokenizer.encode(images)
    assert tokenizer.name == name
    assert tokenizer.image_size == SIZE
    assert codes.shape == (8, *grid) == (8, *tokenizer.grid((3, SIZE, SIZE)))
    assert tokenizer.codebook is not None
    assert tokenizer.codebook.shape == shape
    rebuilt = tokenizer.decode(codes)
    assert rebuilt.shape == images.shape
    assert rebuilt.dtype == torch.uint8
    write_codebook(tokenizer, tmp_path / "book.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["book.safetensors"]
    loaded = load_tokenizer(f"autoencoder:{tmp_path / 'book.safetensors'}")
    assert (loaded.name, loaded.fingerprint) == (name, tokenizer.fingerprint)
    assert (loaded.codebook_sizes, loaded.image_size) == (tokenizer.codebook_sizes, SIZE)
    np.testing.assert_array_equal(loaded.codebook, tokenizer.codebook)
    assert torch.equal(loaded.encode(images), codes)
    assert torch.equal(loaded.decode(codes), rebuilt)


@pytest.mark.parametrize("name", ["kl", "tiny", "dc"])
def test_codes_do_not_depend_on_the_batch(split: ImageSplit, models: dict[str, Path], name: str) -> None:
    tokenizer, images = fit(split, models[name]), smooth_images(9)
    expected = tokenizer.encode(images)
    for size in (1, 7):
        parts = [tokenizer.encode(part) for part in images.split(size)]
        assert torch.equal(torch.cat(parts), expected)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokenizer.encode(images[order]), expected[order])


def test_other_sizes_are_encoded_and_others_refused(fitted: AutoencoderTokenizer) -> None:
    assert fitted.encode(smooth_images(1, 64)[:, :, :40]).shape == (1, 10, 16)
    with pytest.raises(TokenizerError, match="multiples of 4, found"):
        fitted.encode(smooth_images(1)[:, :, :30])
    with pytest.raises(TokenizerError, match=r"codes in 0\.\.31"):
        fitted.decode(torch.full((1, 2, 2), 32))


def test_the_fingerprint_covers_autoencoder_and_codebook(
    split: ImageSplit, fitted: AutoencoderTokenizer, models: dict[str, Path], tmp_path: Path
) -> None:
    network = fitted.network
    assert network.autoencoder.tokenizer(network.quantiser, 64).fingerprint == fitted.fingerprint
    make_kl(scaling_factor=2.0).save_pretrained(tmp_path / "same")
    same = load_autoencoder(str(tmp_path / "same"))
    assert same.tokenizer(network.quantiser, SIZE).fingerprint == fitted.fingerprint
    other = Autoencoder(make_tiny(), "other").tokenizer(network.quantiser, SIZE)
    assert other.fingerprint != fitted.fingerprint
    levels = [
        fit(split, models["kl"], replace(SMALL, levels=levels)) for levels in ((2, 4, 2, 2), (4, 2, 2, 2))
    ]
    assert levels[0].fingerprint != levels[1].fingerprint


def test_an_autoencoder_of_other_channels_is_refused(
    fitted: AutoencoderTokenizer, models: dict[str, Path]
) -> None:
    with pytest.raises(TokenizerError, match=r"expected latents of 4 channels, .*found 2"):
        load_autoencoder(str(models["dc"])).tokenizer(fitted.network.quantiser, SIZE)


# ---- the file


def test_a_relative_autoencoder_is_found_from_here_or_beside_the_codebook(
    pair: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fitted: AutoencoderTokenizer
) -> None:
    assert load_tokenizer(f"autoencoder:{pair}").fingerprint == fitted.fingerprint
    (tmp_path / "elsewhere").mkdir()
    pair = pair.rename(tmp_path / "elsewhere" / "moved.safetensors")
    with pytest.raises(
        TokenizerError, match=r"model cannot be loaded; .* autoencoder:.*moved.safetensors@FOLDER"
    ):
        load_tokenizer(f"autoencoder:{pair}")
    monkeypatch.chdir(tmp_path)
    assert load_tokenizer("autoencoder:elsewhere/moved.safetensors").fingerprint == fitted.fingerprint


def test_an_autoencoder_that_moved_can_be_named_anew(
    pair: Path, tmp_path: Path, fitted: AutoencoderTokenizer
) -> None:
    (tmp_path / "model").rename(tmp_path / "a@b.safetensors")
    with pytest.raises(TokenizerError, match="@FOLDER"):
        load_tokenizer(f"autoencoder:{pair}")
    moved = load_tokenizer(f"autoencoder:{pair}@{tmp_path / 'a@b.safetensors'}")
    assert moved.fingerprint == fitted.fingerprint


@pytest.mark.parametrize("change", ["weights", "config", "class"])
def test_another_autoencoder_than_the_one_learned_for_is_refused(
    pair: Path, tmp_path: Path, models: dict[str, Path], change: str
) -> None:
    model = tmp_path / "model"
    if change == "weights":
        weights = load_file(model / "diffusion_pytorch_model.safetensors")
        weights["decoder.conv_out.bias"] += 1e-3
        save_file(weights, model / "diffusion_pytorch_model.safetensors")
    elif change == "config":
        config = json.loads((model / "config.json").read_text()) | {"norm_num_groups": 2}
        (model / "config.json").write_text(json.dumps(config))
    else:
        shutil.rmtree(model)
        shutil.copytree(models["tiny"], model)
    known = load_autoencoder(str(models["kl"])).fingerprint[:16]
    found = load_autoencoder(str(model)).fingerprint[:16]
    with pytest.raises(
        TokenizerError, match=rf"learned for \(model: AutoencoderKL {known}\), found .*{found} at"
    ):
        load_tokenizer(f"autoencoder:{pair}")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("quantiser", "vq", "quantiser to be one of nearest, residual, fsq, found 'vq'"),
        ("quantiser", ["nearest"], "quantiser to be one of"),
        ("quantiser", "residual", r"expected the tensors \['tables'\], found \['table'\]"),
        ("levels", [2.0], "levels to be null or a list"),
        ("levels", "88", "levels to be null or a list"),
        ("levels", [8, 8, 8, 8], "levels with fsq only"),
        ("autoencoder", "", "autoencoder to be text"),
        ("autoencoder", "a/b/c", "no such folder"),
        ("autoencoder_class", "UNet2DModel", "autoencoder_class to be one of"),
        ("autoencoder_fingerprint", 3, "autoencoder_fingerprint to be text"),
        ("latent_channels", 5, "expected vectors of 5 channels, found 4"),
        ("latent_channels", True, r"latent_channels to be in 1\.\."),
        ("image_size", 0, r"image_size to be in 1\.\.65536, found 0"),
        ("image_size", 10**30, r"image_size to be in 1\.\."),
        ("surprise", 1, "expected a config with the fields"),
    ],
)
def test_configs_that_make_no_sense_are_refused(pair: Path, field: str, value: object, message: str) -> None:
    rewrite(pair, lambda config, tensors: config.update({field: value}))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(f"autoencoder:{pair}")
    assert str(pair) in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "expected the tensors"),
        ({"table": torch.zeros(32, 4), "more": torch.zeros(1)}, "expected the tensors"),
        ({"table": torch.zeros(32, 3)}, "expected vectors of 4 channels, found 3"),
        ({"table": torch.zeros(32)}, "expected finite vectors"),
        ({"table": torch.zeros(0, 4)}, "expected finite vectors"),
        ({"table": torch.full((32, 4), float("nan"))}, "expected finite vectors"),
        ({"table": torch.zeros(32, 4, dtype=torch.float64)}, "expected float32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    pair: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    def change(config: dict[str, object], found: dict[str, torch.Tensor]) -> None:
        found.clear()
        found.update(tensors)

    rewrite(pair, change)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(f"autoencoder:{pair}")


@pytest.mark.parametrize("config", ["", "[]", "{", "3", "[" * 100_000])
def test_configs_that_are_no_objects_are_refused(pair: Path, config: str) -> None:
    save_file(load_file(pair), pair, {"format": FORMAT, "config": config})
    with pytest.raises(TokenizerError, match=r"expected a (config|JSON object)"):
        load_tokenizer(f"autoencoder:{pair}")


def test_files_of_another_format_damaged_or_absent_are_refused(pair: Path) -> None:
    tensors, whole = load_file(pair), pair.read_bytes()
    save_file(tensors, pair, {"format": "tokenstore.autoencoder_codebook.2"})
    with pytest.raises(TokenizerError, match=r"format 'tokenstore.autoencoder_codebook.1', found '.*\.2'"):
        load_tokenizer(f"autoencoder:{pair}")
    for damaged in (whole[:-1], whole[:100], b"", b"\x80\x04pickle"):
        pair.write_bytes(damaged)
        with pytest.raises(TokenizerError, match="found a damaged one"):
            load_tokenizer(f"autoencoder:{pair}")
    pair.unlink()
    with pytest.raises(TokenizerError, match="fit-codebook` wrote, found none"):
        load_tokenizer(f"autoencoder:{pair}")


# ---- the command


def run(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


@pytest.fixture
def words(folder: Path, models: dict[str, Path], tmp_path: Path) -> list[object]:
    out = tmp_path / "new" / "book.safetensors"
    small = ("--image-size", SIZE, "--iterations", 3)
    return [folder, "--autoencoder", models["tiny"], "--out", out, *small]


def test_the_command_learns_a_codebook_and_does_not_overwrite(words: list[object], tmp_path: Path) -> None:
    out = tmp_path / "new" / "book.safetensors"
    done = run(*words, "--codebook-size", 16)
    assert done.exit_code == 0, done.output
    assert "12 of 12 images" in done.output
    assert f"{out}: autoencoder-tiny-k16" in done.output
    assert "learned from 10 images, 640 latent vectors" in done.output
    assert "skipped 03.png: not an image" in done.output
    assert "of 16, 0 codes unused" in done.output
    assert "held out: 1 images: PSNR" in done.output
    assert load_tokenizer(f"autoencoder:{out}").encode(smooth_images(2)).shape == (2, 8, 8)
    before = out.read_bytes()
    refused = run(*words, "--codebook-size", 16)
    assert refused.exit_code == 1
    assert isinstance(refused.exception, TokenizerError)
    assert "is there already; name another file, or replace it with overwrite=True" in str(refused.exception)
    assert out.read_bytes() == before
    again = run(*words, "--codebook-size", 8, "--overwrite")
    assert again.exit_code == 0, again.output
    assert load_tokenizer(f"autoencoder:{out}").codebook_sizes == (8,)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--codebooks", 2, "--codebook-size", 8], "autoencoder-tiny-2xk8"),
        (["--levels", "3,2,4,2"], "autoencoder-tiny-fsq3x2x4x2"),
    ],
)
def test_the_command_learns_the_other_kinds(words: list[object], options: list[object], name: str) -> None:
    done = run(*words, *options, "--limit", 5)
    assert done.exit_code == 0, done.output
    assert name in done.output
    assert "5 of 12 images" in done.output
    assert "held out: nothing to measure with" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--levels", "2,2,2,2", "--codebook-size", 8],
            "--levels is instead of codebooks: it cannot go with --codebook-size",
        ),
        (["--levels", "2,2,2,2", "--codebooks", 1], "cannot go with --codebooks"),
        (["--levels", "8;8"], "expected numbers such as 8,8,8,8, found '8;8'"),
        (["--out", "book.pt"], "expected --out to end in .safetensors"),
    ],
)
def test_a_wrong_command_line_exits_with_2(words: list[object], options: list[object], message: str) -> None:
    refused = run(*words, *options)
    assert refused.exit_code == 2
    assert message in " ".join(refused.output.split())


def test_what_is_no_source_of_images_is_refused(words: list[object], tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", np.zeros((3, 4, 4), np.uint16))
    refused = run(tmp_path / "train.npy", *words[1:])
    assert isinstance(refused.exception, SourceError)
    assert "expected images to train on, found ready codes" in str(refused.exception)
    refused = run(*words, "--split", "val")
    assert isinstance(refused.exception, SourceError)
    assert "expected a split of train, found 'val'" in str(refused.exception)
    refused = run(*words, "--device", "nothing")
    assert isinstance(refused.exception, TokenizerError)
    assert "device 'nothing' cannot be used here" in str(refused.exception)


def test_without_diffusers_the_command_says_what_to_install(
    words: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tokenstore.tokenizers.kinds.autoencoder")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused = run(*words)
    assert isinstance(refused.exception, TokenizerError)
    assert r"pip install 'tokenstore[diffusers]'" in str(refused.exception)
