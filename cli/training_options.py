"""The options that commands which train networks share; `options` has those of other commands too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from . import options
from .options import Decorator, option
from .parameters import Choice, NumberOrName

_SHARE = click.FloatRange(0, 1)


def training_options(
    *, steps: int, held_out: float, learning_rate: float, evaluate_every: int, images: int, resumed: str
) -> Decorator[Any]:
    """Return the options of a command that trains on images, with its defaults.

    Evaluations come after every `evaluate_every` steps and take `images` of the held-out images; `resumed`
    names the run that --resume continues.
    """
    return options.together(
        steps_option(steps),
        held_out_option(
            held_out, "those whose file names' hash says so; splits named val or test are held out whole"
        ),
        learning_rate_option(learning_rate),
        options.seed(),
        options.precision("bf16"),
        options.device(),
        options.threads(),
        evaluate_steps(evaluate_every),
        evaluate_images(images),
        checkpoint_minutes(),
        options.resume(resumed),
    )


def steps_option(default: int) -> Decorator[Any]:
    """Return --steps, the length of a run."""
    return option("--steps", metavar="N", type=click.IntRange(1), default=default, help="Steps in all.")


def held_out_option(default: float, how: str) -> Decorator[Any]:
    """Return --held-out, the share of the samples that is not trained on but evaluated on."""
    return option(
        "--held-out",
        metavar="SHARE",
        type=click.FloatRange(0, 1, max_open=True),
        default=default,
        help=f"Share of the samples to evaluate on instead of training on them: {how}.",
    )


def learning_rate_option(default: float) -> Decorator[Any]:
    """Return --learning-rate, the peak of the schedule."""
    return option(
        "--learning-rate",
        metavar="RATE",
        type=click.FloatRange(0, min_open=True),
        default=default,
        help="The peak of AdamW's learning rate.",
    )


def evaluate_steps(default: int) -> Decorator[Any]:
    """Return --evaluate-steps, the steps from one evaluation to the next."""
    return option(
        "--evaluate-steps",
        metavar="N",
        type=click.IntRange(0),
        default=default,
        help="Steps from one evaluation to the next; 0: only at the end.",
    )


def evaluate_images(default: int) -> Decorator[Any]:
    """Return --evaluate-images, the number of held-out images that an evaluation takes."""
    return option(
        "--evaluate-images",
        metavar="N",
        type=click.IntRange(1),
        default=default,
        help="Held-out images that an evaluation takes.",
    )


def checkpoint_minutes() -> Decorator[Any]:
    """Return --checkpoint-minutes, the time from one checkpoint to the next."""
    return option(
        "--checkpoint-minutes",
        metavar="MINUTES",
        type=click.FloatRange(0),
        default=3.0,
        help="Minutes from one checkpoint to the next, which is what a crash may lose.",
    )


def augment(choices: Sequence[str], meanings: str, *, default: str | None = None) -> Decorator[Any]:
    """Return --augment, the augmentation of a command that has a choice of several."""
    return option(
        "--augment",
        type=Choice(choices),
        default=default,
        help=f"The augmentation of tokens: {meanings}.",
    )


def adapter(default: str) -> Decorator[Any]:
    """Return --adapter, the TokenAdapt of an augmentation."""
    return option(
        "--adapter",
        metavar="NAME|FILE",
        default=default,
        help="The TokenAdapt that augments: a file of weights; default, the packaged one, for the default "
        "tokenizer; or none, where the command can do without.",
    )


def grid_size() -> Decorator[Any]:
    """Return --grid-size, the side in tokens of what a network sees of a sample."""
    return click.option(
        "--grid-size",
        metavar="TOKENS",
        type=click.IntRange(1),
        help="Tokens a side that the network sees. [default: 7/8 of the grid]",
    )


def classes(*, least: int, otherwise: str = "") -> Decorator[Any]:
    """Return --classes, the number of classes that a network tells apart."""
    return option(
        "--classes",
        metavar="N",
        type=click.IntRange(least),
        otherwise=otherwise,
        help="Classes that the network tells apart.",
    )


def decoder_width(default: int | None = None) -> Decorator[Any]:
    """Return --decoder-width, the channels of a decoder after the ViT."""
    return option(
        "--decoder-width",
        metavar="CHANNELS",
        type=click.IntRange(8),
        default=default,
        otherwise="the model's",
        help="Channels of the decoder.",
    )


def smoothing(default: float, which: str) -> Decorator[Any]:
    """Return --smoothing, the share of a label's probability that goes to all classes alike."""
    return option(
        "--smoothing",
        metavar="SHARE",
        type=click.FloatRange(0, 1),
        default=default,
        help=f"Label smoothing: {which}.",
    )


def colours() -> Decorator[Any]:
    """Return --emb-noise, --noise and --color-adapt, which change the vectors of codes, and --flip."""
    return options.together(
        _ingredient("--emb-noise", "PROBABILITY", _SHARE, "Probability that a batch gets Emb-Noise."),
        noise(),
        _ingredient("--color-adapt", "PROBABILITY", _SHARE, "Probability that a batch gets ColorAdapt."),
        option(
            "--flip",
            type=Choice(["exact", "naive", "none"]),
            otherwise="exact where the codes have that symmetry, else TokenAdapt's own",
            help="Flip of half of all samples. exact: by the symmetry of the store's codes; naive: codes "
            "change places; none: nothing is flipped, not by TokenAdapt either.",
        ),
    )


def adapter_draws() -> Decorator[Any]:
    """Return --adapter-draws, the samples that share a flip and an affine map of TokenAdapt."""
    return option(
        "--adapter-draws",
        type=Choice(["sample", "batch"]),
        otherwise="as --augment",
        help="Samples with one flip and one affine map of TokenAdapt. sample: each has its own; batch: all "
        "of a process's half batch have one, as the published runs draw.",
    )


def token_eda() -> Decorator[Any]:
    """Return --token-eda and --no-token-eda."""
    return option(
        "--token-eda/--no-token-eda",
        default=None,
        otherwise="as --augment",
        help="Token-EDA: for each sample synonyms, swapped patches, or neither.",
    )


def mixing() -> Decorator[Any]:
    """Return --cutmix and --mixup."""
    alpha = click.FloatRange(0)
    return options.together(
        _ingredient("--cutmix", "ALPHA", alpha, "Alpha of CutMix; 0: none."),
        _ingredient(
            "--mixup", "ALPHA", alpha, "Alpha of Mixup in the half that TokenAdapt augments; 0: none."
        ),
    )


def _ingredient(name: str, metavar: str, kind: click.ParamType[Any], help: str) -> Decorator[Any]:
    return option(name, metavar=metavar, type=kind, otherwise="as --augment", help=help)


def noise() -> Decorator[Any]:
    """Return --noise, the strength of Emb-Noise."""
    return click.option(
        "--noise",
        metavar="STRENGTH|published",
        type=NumberOrName(click.FloatRange(0), ("published",)),
        help="Strength of Emb-Noise. published: 1.0, for the vectors of the published tokenizer. [default: "
        "the standard deviation of the numbers of the codebook's vectors]",
    )
