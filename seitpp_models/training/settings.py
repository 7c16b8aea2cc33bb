"""The settings of training runs: the keywords of the front doors, and the small groups that the library uses.

A setting is an argument of `pretrain`, `finetune` or `segment`, or a line of a recipe; `defaults.yaml` has
the defaults. `resolve` brings the three together. `Settings.group` then takes a group of them out, as a
frozen dataclass, so that no function gets settings that it does not use.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, TypeVar, get_args, get_origin

from seitpp_models.recipes import read_recipe, read_run
from tokenstore.errors import ArgumentError, Parameter, did_you_mean

__all__ = [
    "BackboneSettings",
    "DataSettings",
    "DeviceSettings",
    "FinetuneSettings",
    "LearningSettings",
    "PretrainSettings",
    "Range",
    "RunSettings",
    "SegmentSettings",
    "Settings",
    "TrainingSettings",
    "resolve",
]

_DEFAULTS = Path(__file__).with_name("defaults.yaml")
_LONGEST = 200
"""The most characters of a value that a message repeats."""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have, from `least` to `most`; with `open`, not the ends themselves."""

    least: float
    most: float = float("inf")
    open: Literal["", "least", "most"] = ""

    def holds(self, value: float) -> bool:
        """Return True if a value lies in the range."""
        above = self.least < value if self.open == "least" else self.least <= value
        return above and (value < self.most if self.open == "most" else value <= self.most)

    def __str__(self) -> str:
        least = f"above {self.least:g}" if self.open == "least" else f"from {self.least:g}"
        if self.most == float("inf"):
            return least
        return f"{least} {'to below' if self.open == 'most' else 'to'} {self.most:g}"


_Count = Annotated[int, Range(1)]
_Share = Annotated[float, Range(0, 1)]
_Positive = Annotated[float, Range(0, open="least")]


class TrainingSettings(TypedDict, total=False):
    """The settings that every training run has."""

    split: str
    """The split to train on."""
    evaluate_split: str
    """The split to evaluate on, if the store has it; the plan of a run says what is done if it has not."""
    model: str
    """The size of the ViT, tiny, small, base or large; to classify, also any name that timm knows."""
    depth: _Count | None
    """The number of blocks of the ViT; by default the model's, 12 or 24."""
    patch: _Count | None
    """The side of a patch in tokens; by default 2, or 1 for grids smaller than 16."""
    start: str | Path | None
    """A file of a network to begin with. Its sizes count."""
    epochs: _Count
    """The number of passes over the split."""
    batch_size: _Count
    """The samples of a step, of all processes together."""
    accumulation: _Count
    """The number of parts that each process computes its share of a step in, for less memory."""
    learning_rate: _Positive
    """The peak of AdamW's learning rate."""
    warmup_epochs: Annotated[float, Range(0)]
    """The epochs in which the learning rate rises, before the cosine begins to fall."""
    weight_decay: Annotated[float, Range(0)]
    """The weight decay of AdamW."""
    beta2: _Share
    """The second moment's decay of AdamW."""
    layer_decay: Annotated[float, Range(0, 1, open="least")]
    """The factor of the learning rate from each layer to the one before it."""
    clip: Annotated[float, Range(0)]
    """The largest norm of the gradients; 0: any."""
    ema: Annotated[float, Range(0, 1, open="most")]
    """The decay of the average of the weights that is evaluated and saved; 0: no average."""
    seed: int
    """The seed of everything random."""
    adapter: str
    """The TokenAdapt that augments half of each batch: none, default or a file."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """The arithmetic of the network; auto: bf16 where the device multiplies it natively, else fp32."""
    device: str | None
    """The device, cpu or cuda; by default the one that Accelerate and the launcher choose."""
    threads: _Count | None
    """The threads of each process on a CPU; by default one a core, shared by the processes of a machine."""
    loader_threads: Annotated[int, Range(0)] | None
    """The threads that decode batches; by default one a core; 0: the training's own."""
    resident: Literal["none", "ram", "gpu"]
    """The memory that the compressed split is kept in."""
    compile: bool
    """True to compile the network by torch.compile."""
    evaluate_every: Annotated[int, Range(0)]
    """The epochs from one evaluation to the next; 0: only at the end."""
    checkpoint_minutes: Annotated[float, Range(0)]
    """The minutes from one checkpoint to the next, which is what a crash may lose."""
    resume: bool
    """True to resume the run in `out`, given the same settings; the run begins if `out` has none."""


class PretrainSettings(TrainingSettings, total=False):
    """The settings of `pretrain`."""

    grid_size: _Count | None
    """The tokens a side that the network sees; by default 7/8 of the grid."""
    decoder_width: Annotated[int, Range(8)] | None
    """The channels of the decoder; by default the model's."""
    decoder_depth: _Count
    """The number of blocks of the decoder."""
    mask_mean: float
    """The mean of the masked share's normal distribution, before it is cut."""
    mask_deviation: _Positive
    """The standard deviation of the masked share."""
    mask_low: Annotated[float, Range(0, 1, open="least")]
    """The least masked share; the encoder never sees so many of the patches."""
    mask_high: Annotated[float, Range(0, 1, open="least")]
    """The largest masked share."""
    smoothing: _Share
    """The label smoothing of the codes to predict."""
    augment: Literal["mtm", "none"]
    """The augmentation. mtm: crops, ColorAdapt and Emb-Noise; none: the central part."""
    noise: Annotated[float, Range(0)] | Literal["published"] | None
    """The strength of Emb-Noise: a number, or "published", which is 1.0, for the published tokenizer; by
    default the standard deviation of the numbers of the codebook's vectors."""


class FinetuneSettings(TrainingSettings, total=False):
    """The settings of `finetune`."""

    input: Literal["codes", "vectors"]
    """The network's input. codes: with a learned embedding; vectors: the codebook's, as in plain SeiT."""
    drop_path: _Share
    """The drop-path rate of the ViT's blocks."""
    grid_size: _Count | None
    """The tokens a side that the network sees; by default 7/8 of the grid."""
    classes: _Count | None
    """The number of classes; by default the store's."""
    share: Annotated[float, Range(0, 1, open="least")]
    """The share of each class's samples that are trained on, drawn by `share_seed`."""
    share_seed: int
    """The seed of the samples that `share` draws."""
    held_out: Annotated[float, Range(0, 1, open="most")]
    """The share of the samples to evaluate on, if the store has no `evaluate_split`."""
    smoothing: _Share
    """The label smoothing, for `augment` none; the other recipes mix labels."""
    augment: Literal["finetune", "seit", "none"]
    """The augmentation. finetune: SeiT++'s; seit: SeiT's; none: the central part."""
    noise: Annotated[float, Range(0)] | Literal["published"] | None
    """The strength of Emb-Noise: a number, or "published", which is 1.0, for the published tokenizer; by
    default the standard deviation of the numbers of the codebook's vectors."""


class SegmentSettings(TrainingSettings, total=False):
    """The settings of `segment`."""

    input: Literal["codes", "vectors"]
    """The network's input. codes: with a learned embedding; vectors: the codebook's."""
    drop_path: _Share
    """The drop-path rate of the ViT's blocks."""
    head: Literal["linear", "upernet"]
    """The head. linear: a class for each patch; upernet: UPerNet's decoder over four depths."""
    decoder_width: Annotated[int, Range(8)]
    """The channels of UPerNet's decoder."""
    classes: Annotated[int, Range(2)]
    """The number of classes of the label maps, without the ignored label. Required."""
    ignore_index: int | None
    """The label that counts nowhere; by default the store's."""
    augment: Literal["crops", "none"]
    """The augmentation. crops: random parts of the grid and colours; none: the whole grid."""
    noise: Annotated[float, Range(0)] | Literal["published"] | None
    """The strength of Emb-Noise: a number, or "published", which is 1.0, for the published tokenizer; by
    default the standard deviation of the numbers of the codebook's vectors."""


@dataclass(frozen=True)
class DataSettings:
    """The samples to learn from, and how they are read."""

    split: str
    evaluate_split: str
    resident: str
    loader_threads: int | None


@dataclass(frozen=True)
class DeviceSettings:
    """The device, the precision and the threads of a run."""

    device: str | None
    precision: str
    threads: int | None


@dataclass(frozen=True)
class LearningSettings:
    """The optimiser and its schedule, in epochs."""

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


@dataclass(frozen=True)
class RunSettings:
    """The evaluations and checkpoints of a run."""

    evaluate_every: int
    checkpoint_minutes: float
    resume: bool
    compile: bool


@dataclass(frozen=True)
class BackboneSettings:
    """The sizes of a network, or the file that it begins with."""

    model: str
    depth: int | None
    patch: int | None
    start: Path | None
    seed: int


_Group = TypeVar("_Group")


@dataclass(frozen=True)
class Settings:
    """The settings of one run by their names, and which of them somebody asked for."""

    values: Mapping[str, Any]
    arguments: frozenset[str]
    """The names of the settings that were given as arguments."""
    requested: frozenset[str]
    """The names of the settings that were given as arguments or by the recipe."""
    command: str
    """The name of the front door: pretrain, finetune or segment."""

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def group(self, group: type[_Group]) -> _Group:
        """Return a group of the settings: a frozen dataclass whose fields are names of settings."""
        return group(**{field.name: self.values[field.name] for field in fields(group)})  # type: ignore[arg-type]

    def refuse_idle(self, names: Collection[str], needed: str, idle: bool, *others: Parameter) -> None:
        """Raise ArgumentError if an argument has no effect in this run.

        `needed` says what the argument goes with; `others` are the parameters that `needed` names.
        """
        for name in names:
            if idle and name in self.arguments:
                parameter = Parameter(name)
                raise ArgumentError(f"{parameter} goes with {needed}", parameters=[parameter, *others])


def resolve(
    command: str, kinds: type[Any], config: str | Path | None, arguments: Mapping[str, Any]
) -> Settings:
    """Return the settings of a run: the defaults of `command`, then the recipe's, then the arguments.

    `kinds` is the command's TypedDict. A recipe may be the record of a run (`records.RunRecord`) of the same
    command: what was asked for there is asked for here. Raises TypeError for an argument that is no setting,
    and ArgumentError for a recipe that cannot be read or has other settings, and for values out of range.
    """
    hints = typing.get_type_hints(kinds, include_extras=True)
    unknown = sorted(arguments.keys() - hints.keys())
    if unknown:
        near = did_you_mean(unknown[0], hints)
        raise TypeError(f"{command}() got an unexpected keyword argument {unknown[0]!r}{near}")
    recipe = {} if config is None else read_recipe(config)
    run = None if config is None else read_run(config)
    if run is not None and run.get("command") != command:
        raise ArgumentError(
            f"{config}: expected the record of {command}, found one of {run.get('command')!s:.80}"
        )
    recipe = {name: value for name, value in recipe.items() if value is not None}
    strangers = sorted(recipe.keys() - hints.keys())
    if strangers:
        raise ArgumentError(
            f"{config}: {command} has no setting {', '.join(strangers):.500}; it has "
            f"{', '.join(sorted(hints))}"
            f"{did_you_mean(strangers[0], hints)}"
        )
    explicit = {name: value for name, value in arguments.items() if value is not None}
    requested = {name: _checked(name, value, hints[name]) for name, value in {**recipe, **explicit}.items()}
    values = {**_defaults()[command], **requested}
    values["start"] = None if values["start"] is None else Path(values["start"])
    given = requested.keys() if run is None else {*explicit, *_given(run)} & requested.keys()
    return Settings(values, frozenset(explicit), frozenset(given), command)


def _given(run: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that somebody asked for in the run that a record is of."""
    given = run.get("given")
    return [str(name) for name in given] if isinstance(given, list) else []


@functools.cache
def _defaults() -> dict[str, dict[str, Any]]:
    import yaml

    defaults: dict[str, dict[str, Any]] = yaml.safe_load(_DEFAULTS.read_text())
    return defaults


def _checked(name: str, value: Any, hint: Any) -> Any:
    """Return a value as the type that its setting has; raise ArgumentError if it has another."""
    names: list[Any] = []
    if get_origin(hint) in (typing.Union, types.UnionType):
        hint, *others = (part for part in get_args(hint) if part is not types.NoneType)
        names = [known for part in others for known in get_args(part)]
        if value in names:
            return value
    or_name = "".join(f" or {known!r}" for known in names)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise _refusal(name, value, f"one of {', '.join(get_args(hint))}")
        return value
    span = None
    if get_origin(hint) is Annotated:
        hint, span = get_args(hint)
    if hint is bool:
        if not isinstance(value, bool):
            raise _refusal(name, value, "true or false")
        return value
    if hint is str:
        return str(value)
    try:
        number = hint(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _refusal(name, value, f"a number ({hint.__name__}){or_name}") from error
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise _refusal(name, value, f"a number ({hint.__name__}){or_name}")
    if span is not None and not span.holds(number):
        raise _refusal(name, value, f"a number {span}{or_name}")
    return number


def _refusal(name: str, value: Any, expected: str) -> ArgumentError:
    long = isinstance(value, str) and len(value) > _LONGEST
    parameter = Parameter(name, f"{value[:_LONGEST]}..." if long else value)
    return ArgumentError(f"{parameter}: expected {expected}", parameters=[parameter])
