"""What the commands that train networks on a store have in common: devices, the network, and the run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from click.core import ParameterSource
from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.on_stores import evaluate_store
from seitpp_models.networks.mtm import MaskedTokenModel
from seitpp_models.networks.sizes import SIZES
from seitpp_models.networks.store_sizes import seen_grid
from seitpp_models.networks.vit import TokenViT
from seitpp_models.training.inputs import codebook_of
from seitpp_models.training.network_run import WEIGHTS, NetworkRun, NetworkStep, OptimiserConfig
from seitpp_models.training.network_training import train_network
from seitpp_models.training.tasks import Task
from seitpp_models.weights.files import TrainedModel, build_model
from seitpp_models.weights.transfer import backbone_arguments, pretrained_network, start_from
from tokenstore.augment.adapters import load_adapter
from tokenstore.augment.devices import has_bfloat16
from tokenstore.augment.token_adapt import TokenAdapt
from tokenstore.loading.dataset import TokenDataset
from tokenstore.loading.loader import TokenLoader
from tokenstore.machine import available_cores
from tokenstore.networks.runs import STATE
from tokenstore.reading import TokenStore

from ..console import refuse_idle_options
from ..training import shown
from .network_options import PRECISIONS, NetworkOptions

_KINDS = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


def network_grid(
    store_grid: tuple[int, int], patch: int | None, size: int | tuple[int, int] | None
) -> tuple[tuple[int, int], int]:
    """What a network sees of a store's grid, `size` or the usual part, and its patch."""
    grid, patch = seen_grid(store_grid, patch)
    if size is not None:
        grid = (size, size) if isinstance(size, int) else size
    if any(side > most or side % patch for side, most in zip(grid, store_grid, strict=True)):
        raise ModelError(
            f"--size, --patch: expected whole patches within the store's grid of {store_grid}, found {grid} "
            f"in patches of {patch}"
        )
    return grid, patch


@dataclass(frozen=True)
class Backbone:
    """A network to train, and how it was built."""

    model: nn.Module
    kind: str
    arguments: dict[str, Any]
    grid: tuple[int, int]
    """Of the codes that it sees."""
    takes_codes: bool


def vit_to_train(
    common: NetworkOptions,
    store: TokenStore,
    where: str,
    begin: Path | None,
    form: str,
    size: int | tuple[int, int] | None,
    arguments: Mapping[str, Any],
) -> Backbone:
    """A ViT with the weights in `begin`, or an untrained one of --model, which timm may know too.

    `arguments` are the head's and the like. Raises ModelError where `begin` is of other codes.
    """
    torch.manual_seed(common.seed)
    codebook = codebook_of(store)
    store_grid = store.manifest.grid
    before = None if begin is None else _network_for(begin, store, where)
    refuse_idle_options(
        {"model": "--model", "depth": "--depth", "patch": "--patch", "form": "--input"},
        "networks from scratch, without --from",
        before is not None,
    )
    if before is None and common.model not in SIZES:
        grid, _ = network_grid(store_grid, common.patch, size)
        refuse_idle_options({"depth": "--depth", "patch": "--patch"}, "ViTs of this package", True)
        chosen = {"name": common.model, "channels": codebook.shape[1], "grid": grid, **arguments}
        if not chosen["drop_path_rate"]:
            del chosen["drop_path_rate"]  # which not every backbone has
        chosen["codebook_size"] = len(codebook) if form == "codes" else None
        return Backbone(build_model("timm", chosen), "timm", chosen, grid, form == "codes")
    if before is None:
        grid, patch = network_grid(store_grid, common.patch, size)
        sizes: dict[str, Any] = {"size": common.model, "patch": patch, "channels": codebook.shape[1]}
        sizes["codebook_size"] = len(codebook) if form == "codes" else None
        if common.depth is not None:
            sizes["depth"] = common.depth
    else:
        sizes = backbone_arguments(before)
        fits = sizes["grid"] if max(sizes["grid"]) <= min(store_grid) else None
        wanted = size if size is not None else fits
        grid, _ = network_grid(store_grid, sizes["patch"], wanted)
    chosen = {**sizes, "grid": grid, **arguments}
    model = build_model("vit", chosen)
    assert isinstance(model, TokenViT)
    if before is not None:
        start_from(model, before)
    return Backbone(model, "vit", chosen, grid, sizes["codebook_size"] is not None)


def masked_model(path: Path, store: TokenStore, where: str) -> MaskedTokenModel:
    """The masked-token model in a file, to go on with; raises ModelError where it is none for such codes."""
    found = _network_for(path, store, where)
    if not isinstance(found, MaskedTokenModel):
        raise ModelError(
            f"{path}: expected a masked-token model to begin with, found a {type(found).__name__}"
        )
    return found


def _network_for(path: Path, store: TokenStore, where: str) -> MaskedTokenModel | TokenViT:
    """The network in a file to begin with; raises ModelError where it is of other codes than a store's."""
    found = pretrained_network(path, store.manifest.tokenizer, where)
    codes = found.shape.codebook_size
    if codes not in (None, store.manifest.codebook_size):
        raise ModelError(
            f"{where}: expected a store of {codes} codes, which {path} was trained on, found "
            f"{store.manifest.codebook_size}"
        )
    return found


def chosen_adapter(
    common: NetworkOptions, store: TokenStore, device: torch.device, *, used: bool = True
) -> TokenAdapt | None:
    """The TokenAdapt of --adapter; raises AdapterError where it is another tokenizer's.

    Where it is not `used`, a default is none, and one that was asked for is refused.
    """
    source = click.get_current_context().get_parameter_source("adapter")
    if common.adapter == "none" or (not used and source is ParameterSource.DEFAULT):
        return None
    if not used:
        raise ModelError(f"--adapter: expected none with this --augment, found {common.adapter}")
    return load_adapter(common.adapter, tokenizer=store.manifest.tokenizer).to(device)


def content_of(path: Path | None) -> str | None:
    """A digest that tells a file from others, whatever it is called; None where there is none."""
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def accelerator(common: NetworkOptions) -> Accelerator:
    """Devices and processes as the options and the launcher say."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(common.threads or max(1, available_cores() // processes))
    device = torch.device("cuda" if common.device == "auto" and torch.cuda.is_available() else "cpu")
    precision = common.precision
    if precision == "auto":
        precision = "bf16" if has_bfloat16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ModelError("--precision: expected fp32 or bf16 on a CPU, found fp16")
    devices = Accelerator(cpu=common.device == "cpu", mixed_precision=PRECISIONS[precision])
    if devices.distributed_type not in _KINDS:
        raise ModelError(
            f"expected one process, or several by DDP, found {devices.distributed_type}; launch them by "
            "torchrun"
        )
    return devices


def refuse_missing_split(common: NetworkOptions, store: TokenStore) -> None:
    """Raises ModelError where an --evaluate-split was asked for that the store does not have."""
    source = click.get_current_context().get_parameter_source("evaluate_split")
    if common.evaluate_split not in store.splits and source is not ParameterSource.DEFAULT:
        raise ModelError(
            f"--evaluate-split: expected one of {', '.join(store.splits)}, found {common.evaluate_split}"
        )


def run_training(
    common: NetworkOptions,
    network: TrainedModel,
    task: Task,
    samples: TokenDataset,
    settings: Mapping[str, Any],
    devices: Accelerator,
    store: TokenStore,
    evaluation: Mapping[str, Any],
    *,
    reference: tuple[str, float] | None = None,
    whole_batches: bool = False,
) -> None:
    """Train as the options say, show it, and name what came of it.

    `evaluation` are further arguments of `evaluate_store`; with `rows`, these of the split that is trained on
    are evaluated, else the other split of `store`. `whole_batches` fills the last batch of an epoch up.
    """
    each, rest = divmod(common.batch_size, devices.num_processes)
    if rest or each < common.accumulation:
        raise ModelError(
            f"--batch-size: expected a multiple of {devices.num_processes} processes, at least "
            f"{devices.num_processes * common.accumulation}, found {common.batch_size}"
        )
    loader = TokenLoader(
        samples,
        each,
        shuffle=True,
        seed=common.seed,
        rank=devices.process_index,
        world_size=devices.num_processes,
        num_threads=common.loader_threads,
        device=devices.device,
        pad=whole_batches,
        resident=None if common.resident == "none" else common.resident,  # type: ignore[arg-type]
    )
    config = OptimiserConfig(
        epochs=common.epochs,
        batch_size=common.batch_size,
        learning_rate=common.learning_rate,
        steps=common.epochs * len(loader),
        warmup_steps=round(common.warmup_epochs * len(loader)),
        betas=(0.9, common.beta2),
        weight_decay=common.weight_decay,
        layer_decay=common.layer_decay,
        clip=common.clip,
        average_decay=common.ema,
        accumulation=common.accumulation,
        seed=common.seed,
    )
    if devices.num_processes > 1 and devices.device.type == "cuda":
        synchronised: Any = nn.SyncBatchNorm
        network = replace(network, model=synchronised.convert_sync_batchnorm(network.model))
    if common.compile:
        network.model.compile()
    every = {
        "precision": devices.mixed_precision,
        "adapter": content_of(Path(common.adapter)) or common.adapter,
        "store": samples.fingerprint,
    }
    chosen = {name: str(value) for name, value in {**every, **settings}.items()}
    run = NetworkRun(config, network, task, loader, common.out, chosen, devices)

    def evaluate() -> Mapping[str, Any]:
        split = common.split if "rows" in evaluation else common.evaluate_split
        if split not in store.splits or (split == common.split and "rows" not in evaluation):
            return {}
        evaluated = replace(network, model=run.evaluated)
        return evaluate_store(
            evaluated,
            store,
            split,
            batch_size=each,
            threads=common.loader_threads,
            device=devices.device,
            **evaluation,
        )

    if run.writes:
        count = sum(parameter.numel() for parameter in network.model.parameters())
        click.echo(
            f"{count / 1e6:.1f} M parameters, {len(samples):,} samples, {config.steps:,} steps of "
            f"{common.batch_size} on {devices.num_processes} x {devices.device}, "
            f"{devices.mixed_precision.replace('no', 'fp32')}"
        )

    def train(on_step: Callable[[NetworkStep], None]) -> None:
        train_network(
            run,
            resume=common.resume == "auto" and (common.out / STATE).exists(),
            checkpoint_seconds=60 * common.checkpoint_minutes,
            evaluate_steps=common.evaluate_every * len(loader),
            evaluate=evaluate,
            on_step=on_step,
            on_evaluation=lambda step, figures: _tell(run, step, figures),
            reference=reference,
        )

    others = set(store.splits) - {common.split}
    if run.writes and "rows" not in evaluation and common.evaluate_split not in others:
        click.echo(f"note: nothing is evaluated, since the store has no other split {common.evaluate_split}")
    if run.writes and reference is not None:
        click.echo(f"{reference[0]}: {reference[1]:.4f} nats")
    shown(run, train, _described)
    if run.writes:
        click.echo(f"{run.step:,} steps in {run.seconds / 60:.1f} minutes: {common.out / WEIGHTS}")


def _described(result: NetworkStep) -> str:
    return f"epoch {result.epoch:.2f}, loss {result.loss:.4f}, {100 * result.right:.1f} % right"


def _tell(run: NetworkRun, step: int, figures: Mapping[str, Any]) -> None:
    if run.writes and figures:
        shown_figures = [f"{name} {value:.4f}" for name, value in figures.items() if isinstance(value, float)]
        click.echo(f"step {step:,}: {', '.join(shown_figures)}")
