"""The options that commands which train networks on a store share.

Their defaults are the library's, from `seitpp_models/training/defaults.yaml`: read as a file, since importing
`seitpp_models` imports torch. A command passes on only what was given on the command line (`given_options`),
so that a recipe's settings come before defaults.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .. import options, training_options
from ..options import Decorator, option
from ..parameters import Choice, ExistingPlace

_POSITIVE, _SHARE = click.FloatRange(0, min_open=True), click.FloatRange(0, 1)


def package_file(*parts: str) -> Path:
    """Return the path of a data file of seitpp_models, which is not imported for it."""
    package = find_spec("seitpp_models")
    assert package is not None  # it is installed with this program
    assert package.origin is not None
    return Path(package.origin).parent.joinpath(*parts)


@functools.cache
def defaults(command: str) -> dict[str, Any]:
    """Return the library's defaults of a command's settings, by name."""
    import yaml

    settings: dict[str, Any] = yaml.safe_load(package_file("training", "defaults.yaml").read_text())[command]
    return settings


def explicit_options(context: click.Context) -> dict[str, Any]:
    """Return the options that were given on the command line, by the names of the library's parameters."""
    sources = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    return {
        name: value for name, value in context.params.items() if context.get_parameter_source(name) in sources
    }


class _Recipe(click.ParamType[str]):
    """The name of a packaged recipe, or a file that exists."""

    name = "NAME|FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the recipe as it was given; fail if there is none."""
        if str(value) not in _recipe_names() and not Path(value).is_file():
            self.fail(f"expected a YAML file or one of {', '.join(_recipe_names())}, found {value}")
        return str(value)


def _recipe_names() -> list[str]:
    return sorted(path.stem for path in package_file("recipes").glob("*.yaml"))


def network_options(command: str) -> Decorator[Any]:
    """Return the options of every command that trains a network on a store, with the command's defaults."""
    default = defaults(command)
    return options.together(
        click.argument("store", type=ExistingPlace("token store"), required=False),
        option(
            "--config",
            type=_Recipe(),
            metavar="NAME|FILE",
            help="A YAML file of settings, which options override; or a recipe of the package: "
            f"{', '.join(_recipe_names())}.",
        ),
        options.out("the folder of the run", folder=True, required=False),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Write nothing: print every setting, as a YAML file that --config takes, and with STORE the "
            "plan of the run, the groups of parameters and the steps of the augmentation.",
        ),
        options.split(default=default["split"]),
        option(
            "--evaluate-split",
            metavar="NAME",
            default=default["evaluate_split"],
            help="The split to evaluate on, if the store has it.",
        ),
        _network(command),
        _optimiser(command),
        options.seed(),
        training_options.adapter(default["adapter"]),
        _devices(),
        option(
            "--evaluate-every",
            metavar="EPOCHS",
            type=click.IntRange(0),
            default=default["evaluate_every"],
            help="Epochs from one evaluation to the next; 0: only at the end.",
        ),
        training_options.checkpoint_minutes(),
        _kept_weights(command),
        options.resume("the run in OUT"),
    )


def _kept_weights(command: str) -> Decorator[Any]:
    default = defaults(command)
    return options.together(
        option(
            "--keep-best", is_flag=True, help="Keep the weights of the best evaluation (best.safetensors)."
        ),
        option(
            "--keep-last",
            metavar="N",
            type=click.IntRange(0),
            default=default["keep_last"],
            help="Last epochs whose weights are kept (epoch-N.safetensors).",
        ),
        option(
            "--keep-every",
            metavar="EPOCHS",
            type=click.IntRange(0),
            default=default["keep_every"],
            help="Epochs from one kept file of weights to the next; 0: none.",
        ),
    )


def _network(command: str) -> Decorator[Any]:
    default = defaults(command)
    return options.together(
        option(
            "--model",
            metavar="NAME",
            default=default["model"],
            help="The ViT: tiny, small, base or large; to classify, also any name that timm knows.",
        ),
        option(
            "--depth",
            metavar="BLOCKS",
            type=click.IntRange(1),
            otherwise="the model's, 12 or 24",
            help="Blocks of the ViT.",
        ),
        option(
            "--patch",
            metavar="TOKENS",
            type=click.IntRange(1),
            otherwise="2, or 1 for grids smaller than 16",
            help="Side of a patch in tokens.",
        ),
    )


def _optimiser(command: str) -> Decorator[Any]:
    default = defaults(command)

    def number(name: str, kind: click.ParamType[Any], metavar: str, help: str) -> Decorator[Any]:
        setting = default[name.replace("-", "_")]
        return option(f"--{name}", type=kind, metavar=metavar, default=setting, help=help)

    at_least_one = click.IntRange(1)
    return options.together(
        number("epochs", at_least_one, "N", "Passes over the split."),
        options.batch_size(default["batch_size"], "of a step, of all processes together"),
        number("accumulation", at_least_one, "N", "Parts of a process's share of a step, for less memory."),
        training_options.learning_rate_option(default["learning_rate"]),
        number("min-lr", click.FloatRange(0), "RATE", "Learning rate that the cosine ends at."),
        number("warmup-lr", click.FloatRange(0), "RATE", "Learning rate that the warm-up begins at."),
        number("warmup-epochs", click.FloatRange(0), "EPOCHS", "Epochs before the cosine begins to fall."),
        number("weight-decay", click.FloatRange(0), "DECAY", "Weight decay of AdamW."),
        number("beta2", _SHARE, "DECAY", "Decay of AdamW's second moment."),
        number(
            "layer-decay",
            click.FloatRange(0, 1, min_open=True),
            "FACTOR",
            "Factor of the learning rate from each layer to the one before it.",
        ),
        number("clip", click.FloatRange(0), "NORM", "Largest norm of the gradients; 0: any."),
        number(
            "ema",
            click.FloatRange(0, 1, max_open=True),
            "DECAY",
            "Decay of the average of the weights; 0: no average.",
        ),
        option(
            "--evaluate-ema/--no-evaluate-ema",
            default=default["evaluate_ema"],
            help="Evaluate the average and save it as the network, or save it beside the network.",
        ),
    )


def _devices() -> Decorator[Any]:
    return options.together(
        options.precision(),
        options.device(None, otherwise="the one that Accelerate and torchrun choose"),
        option(
            "--threads",
            metavar="N",
            type=click.IntRange(1),
            otherwise="one a core, shared by the processes here",
            help="Threads that compute on a CPU, of each process.",
        ),
        option(
            "--loader-threads",
            metavar="N",
            type=click.IntRange(0),
            otherwise="one a core; 0: the training's own",
            help="Threads that decode batches.",
        ),
        option(
            "--resident",
            type=Choice(["none", "ram", "gpu"]),
            default="ram",
            help="Memory that the compressed split is in.",
        ),
        option("--compile", is_flag=True, help="Compile the network by torch.compile."),
    )


def start_option(kind: str, commands: str) -> Decorator[Any]:
    """Return --from, a network of a `kind` that `commands` train; the parameter is `start`."""
    return option(
        "--from",
        "start",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help=f"A network to begin with: a {kind} of {commands}, or a published checkpoint (.pth, .ckpt). Its "
        "sizes count.",
    )


def vit_options(command: str) -> Decorator[Any]:
    """Return --from, --input and --drop-path of commands that train a ViT further."""
    default = defaults(command)
    return options.together(
        start_option("network", "`seitpp pretrain` or `finetune`"),
        option(
            "--input",
            type=Choice(["codes", "vectors"]),
            default=default["input"],
            help="Input of the network. codes: with a learned embedding; vectors: the codebook's, as in "
            "plain SeiT. DCT coefficients are taken as numbers, unless codes are asked for.",
        ),
        option(
            "--combination",
            type=Choice(["sum", "concatenate"]),
            default=default["combination"],
            help="How vectors of several codes a position become one. sum: as residual codebooks mean them; "
            "concatenate: each has channels of its own.",
        ),
        option(
            "--drop-path",
            metavar="RATE",
            type=_SHARE,
            default=default["drop_path"],
            help="Drop-path rate of the ViT's blocks.",
        ),
    )


def mask_options() -> Decorator[Any]:
    """Return the options of the masked share: a normal distribution that is cut at both ends."""
    default = defaults("pretrain")
    share = click.FloatRange(0, 1, min_open=True)
    kinds: dict[str, tuple[click.ParamType[Any], str]] = {
        "mean": (click.FLOAT, "Mean of the masked share."),
        "deviation": (_POSITIVE, "Standard deviation of the masked share."),
        "low": (share, "Least masked share; the encoder never sees so many of the patches."),
        "high": (share, "Largest masked share."),
    }
    return options.together(
        *(
            option(f"--mask-{name}", metavar="SHARE", type=kind, default=default[f"mask_{name}"], help=text)
            for name, (kind, text) in kinds.items()
        )
    )
