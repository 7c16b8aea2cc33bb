"""What the commands that train networks on a store have in common: options, and recipe files of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

import seitpp_models

RECIPES = Path(seitpp_models.__file__).parent / "recipes"

_Command = TypeVar("_Command", bound=Callable[..., Any])
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""By our names, Accelerate's."""


@dataclass(frozen=True)
class NetworkOptions:
    """The options of every command that trains a network on a store, by their names."""

    out: Path
    split: str
    evaluate_split: str
    model: str
    depth: int | None
    patch: int | None
    epochs: int
    batch_size: int
    accumulation: int
    learning_rate: float
    warmup_epochs: float
    weight_decay: float
    beta2: float
    layer_decay: float
    clip: float
    ema: float
    seed: int
    adapter: str
    precision: str
    device: str
    threads: int | None
    loader_threads: int | None
    resident: str
    compile: bool
    evaluate_every: int
    checkpoint_minutes: float
    resume: str


def network_options(**defaults: Any) -> Callable[[_Command], _Command]:
    """The options of `NetworkOptions`, with a command's defaults; it gets them as its argument `common`."""
    positive, share = click.FloatRange(0, min_open=True), click.FloatRange(0, 1)
    options = (
        click.option(
            "--config",
            is_eager=True,
            callback=_take_config,
            expose_value=False,
            metavar="NAME|FILE",
            help="A YAML file of options by their names, which those on the command line override; or a "
            f"recipe of the package: {', '.join(sorted(path.stem for path in RECIPES.glob('*.yaml')))}.",
        ),
        click.option(
            "--out",
            required=True,
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder of the run.",
        ),
        click.option("--split", default="train", show_default=True, help="To train on."),
        click.option(
            "--evaluate-split", default="val", show_default=True, help="To evaluate on, if the store has it."
        ),
        click.option(
            "--model",
            default="base",
            show_default=True,
            help="Of the ViT: tiny, small, base or large; to classify, also any name that timm knows.",
        ),
        click.option(
            "--depth", type=click.IntRange(1), help="Blocks of the ViT. [default: the model's, 12 or 24]"
        ),
        click.option(
            "--patch",
            type=click.IntRange(1),
            help="Tokens along a patch's side. [default: 2, or 1 for grids smaller than 16]",
        ),
        click.option("--epochs", type=click.IntRange(1), show_default=True, help="Passes over the split."),
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            show_default=True,
            help="Samples a step, of all processes.",
        ),
        click.option(
            "--accumulation",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Parts that each process computes its share of a step in, for less memory.",
        ),
        click.option("--learning-rate", type=positive, show_default=True, help="Of AdamW, at its highest."),
        click.option(
            "--warmup-epochs",
            type=click.FloatRange(0),
            show_default=True,
            help="Before the cosine begins to fall.",
        ),
        click.option("--weight-decay", type=click.FloatRange(0), show_default=True, help="Of AdamW."),
        click.option("--beta2", type=share, show_default=True, help="Of AdamW."),
        click.option(
            "--layer-decay",
            type=click.FloatRange(0, 1, min_open=True),
            default=1.0,
            show_default=True,
            help="Factor of the learning rate from each layer to the one before it.",
        ),
        click.option(
            "--clip",
            type=click.FloatRange(0),
            default=0.0,
            show_default=True,
            help="Largest norm of the gradients; 0: any.",
        ),
        click.option(
            "--ema",
            type=click.FloatRange(0, 1, max_open=True),
            default=0.0,
            show_default=True,
            help="Decay of the average of the weights that is kept and evaluated; 0: none.",
        ),
        click.option("--seed", default=0, show_default=True, help="Decides everything random."),
        click.option(
            "--adapter",
            default="none",
            show_default=True,
            metavar="none|default|FILE",
            help="TokenAdapt that augments half of each batch.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", *PRECISIONS]),
            default="auto",
            show_default=True,
            help="Arithmetic of the networks; auto: bf16 where the device multiplies it natively, else fp32. "
            "Weights are kept in float32.",
        ),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu"]),
            default="auto",
            show_default=True,
            help="auto: what Accelerate finds, as `accelerate launch` or torchrun say.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="Of each process, on a CPU. [default: one a core, shared by the processes here]",
        ),
        click.option(
            "--loader-threads",
            type=click.IntRange(0),
            help="That decode batches. [default: one a core; 0: the training's own]",
        ),
        click.option(
            "--resident",
            type=click.Choice(["none", "ram", "gpu"]),
            default="ram",
            show_default=True,
            help="Where the compressed split is kept.",
        ),
        click.option("--compile", is_flag=True, help="Compile the network by torch.compile."),
        click.option(
            "--evaluate-every",
            type=click.IntRange(0),
            default=1,
            show_default=True,
            help="Epochs from one evaluation to the next; 0: at the end only.",
        ),
        click.option(
            "--checkpoint-minutes",
            type=click.FloatRange(0),
            default=3.0,
            show_default=True,
            help="What a crash may lose.",
        ),
        click.option(
            "--resume",
            type=click.Choice(["auto", "never"]),
            default="never",
            show_default=True,
            help="auto: go on with the run in OUT, given the same options, if there is one.",
        ),
    )

    def decorated(command: _Command) -> _Command:
        @functools.wraps(command)
        def collected(**given: Any) -> Any:
            common = NetworkOptions(**{field.name: given.pop(field.name) for field in fields(NetworkOptions)})
            return command(common=common, **given)

        wrapped: Any = collected
        for option in reversed(options):
            wrapped = option(wrapped)
        for parameter in wrapped.__click_params__:
            if parameter.name in defaults:
                parameter.default = defaults[parameter.name]
        return wrapped  # type: ignore[no-any-return]

    return decorated


def begin_option(kind: str, commands: str) -> Callable[[_Command], _Command]:
    """The option --from, which names a network of a `kind` that `commands` train."""
    return click.option(
        "--from",
        "begin",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"A {kind} to begin with: of {commands}, or a published checkpoint (.pth, .ckpt). Its sizes "
        "count.",
    )


def vit_options(command: _Command) -> _Command:
    """The options --from, --input and --drop-path of commands that train a ViT further."""
    options = (
        begin_option("network", "`seitpp pretrain` or `finetune`"),
        click.option(
            "--input",
            "form",
            type=click.Choice(["codes", "vectors"]),
            default="codes",
            show_default=True,
            help="codes: re-quantised, with a learned embedding; vectors: the codebook's, as plain SeiT has "
            "them.",
        ),
        click.option(
            "--drop-path",
            type=click.FloatRange(0, 1),
            default=0.1,
            show_default=True,
            help="Of the ViT's blocks.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _take_config(context: click.Context, _: click.Parameter, value: str | None) -> None:
    """Make a recipe's options the command's defaults; raises click.BadParameter where it is none."""
    if value is None:
        return
    packaged = RECIPES / f"{value}.yaml"
    path = packaged if packaged.exists() else Path(value)
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise click.BadParameter(f"expected a YAML file or one of {known}, found {value}: {error}") from error
    if not isinstance(values, dict):
        raise click.BadParameter(f"{path}: expected options by their names, found {values!r:.80}")
    names = {
        option.removeprefix("--"): parameter.name
        for parameter in context.command.params
        for option in parameter.opts
        if option.startswith("--") and parameter.name != "config"
    }
    given = {str(name).replace("_", "-"): setting for name, setting in values.items()}
    for name, setting in given.items():
        if not isinstance(setting, (str, int, float)):
            raise click.BadParameter(f"{path}: {name}: expected one value, found {setting!r:.80}")
    unknown = sorted(given.keys() - names.keys())
    if unknown:
        raise click.BadParameter(
            f"{path}: {context.command.name} has no option {', '.join(unknown)}; it has "
            f"{', '.join(sorted(names))}"
        )
    settings = {names[name] or name: setting for name, setting in given.items()}
    context.default_map = {**settings, **(context.default_map or {})}
