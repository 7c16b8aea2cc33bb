"""The settings of training runs: the keywords of the front doors, and the small groups that the library uses.

A setting is an argument of `pretrain`, `finetune` or `segment`, or a line of a recipe; `defaults.yaml` has
the defaults. `resolving.resolve` brings the three together. `Settings.group` then takes a group of them out,
as a frozen dataclass, so that no function gets settings that it does not use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypedDict

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
    "TrainingSettings",
]


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
_NotNegative = Annotated[float, Range(0)]


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
    min_lr: _NotNegative
    """The learning rate that the cosine ends at."""
    warmup_lr: _NotNegative
    """The learning rate that the warm-up begins at."""
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
    """The decay of the average of the weights; 0: no average."""
    evaluate_ema: bool
    """True to save the average as the network; False to save it beside the network. Both are evaluated."""
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
    keep_best: bool
    """True to keep the weights of the best evaluation, as `best.safetensors`."""
    keep_last: Annotated[int, Range(0)]
    """The number of last epochs whose weights are kept, as `epoch-N.safetensors`."""
    keep_every: Annotated[int, Range(0)]
    """The epochs from one kept file of weights to the next; 0: none."""
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
    """The augmentation. mtm: crops, and TokenAdapt by `adapter`; none: the central part."""
    token_eda: bool | None
    """True for Token-EDA: synonyms, swapped patches, or neither, for each sample; by default as `augment`."""
    emb_noise: _Share | None
    """The probability that a batch gets Emb-Noise; by default that of `augment`."""
    color_adapt: _Share | None
    """The probability that a batch gets ColorAdapt; by default that of `augment`."""
    adapter_draws: Literal["sample", "batch"] | None
    """The samples that share a flip and an affine map of TokenAdapt. sample: each has its own; batch: one for
    all of a process's half batch, as the published runs draw; by default that of `augment`."""
    flip: Literal["exact", "naive", "none"] | None
    """The flip of half of all samples. exact: by the symmetry of the store's codes; naive: codes change
    places; none: nothing is flipped, not by TokenAdapt either. By default exact where the store has the
    symmetry, else TokenAdapt's own."""
    noise: Annotated[float, Range(0)] | Literal["published"] | None
    """The strength of Emb-Noise: a number, or "published", which is 1.0, for the published tokenizer; by
    default the standard deviation of the numbers of the codebook's vectors."""


class FinetuneSettings(TrainingSettings, total=False):
    """The settings of `finetune`."""

    input: Literal["codes", "vectors"]
    """The network's input. codes: with a learned embedding; vectors: the codebook's, as in plain SeiT.
    DCT coefficients are taken as numbers, unless codes are asked for."""
    combination: Literal["sum", "concatenate"]
    """The way in which the vectors of several codes a position become one. sum: as residual codebooks mean
    them; concatenate: each has channels of its own."""
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
    """The label smoothing."""
    loss: Literal["cross-entropy", "bce"]
    """The loss. bce: binary cross-entropy of each class by itself, for labels that are mixed and smoothed."""
    attn_only: bool
    """True to train the blocks' attention, the positions and the head alone."""
    keep_head: bool
    """True to begin with the head of `start` too, a classifier of the same classes."""
    augment: Literal["finetune", "seit", "none"]
    """The augmentation. finetune: SeiT++'s; seit: SeiT's; none: the central part."""
    token_eda: bool | None
    """True for Token-EDA: synonyms, swapped patches, or neither, for each sample; by default as `augment`."""
    emb_noise: _Share | None
    """The probability that a batch gets Emb-Noise; by default that of `augment`."""
    color_adapt: _Share | None
    """The probability that a batch gets ColorAdapt; by default that of `augment`."""
    adapter_draws: Literal["sample", "batch"] | None
    """The samples that share a flip and an affine map of TokenAdapt. sample: each has its own; batch: one for
    all of a process's half batch, as the published runs draw; by default that of `augment`."""
    flip: Literal["exact", "naive", "none"] | None
    """The flip of half of all samples. exact: by the symmetry of the store's codes; naive: codes change
    places; none: nothing is flipped, not by TokenAdapt either. By default exact where the store has the
    symmetry, else TokenAdapt's own."""
    cutmix: _NotNegative | None
    """The alpha of CutMix, 0 for none; by default that of `augment`."""
    mixup: _NotNegative | None
    """The alpha of Mixup in the half that TokenAdapt augments, 0 for none; by default that of `augment`."""
    noise: Annotated[float, Range(0)] | Literal["published"] | None
    """The strength of Emb-Noise: a number, or "published", which is 1.0, for the published tokenizer; by
    default the standard deviation of the numbers of the codebook's vectors."""


class SegmentSettings(TrainingSettings, total=False):
    """The settings of `segment`."""

    input: Literal["codes", "vectors"]
    """The network's input. codes: with a learned embedding; vectors: the codebook's. DCT
    coefficients are taken as numbers, unless codes are asked for."""
    combination: Literal["sum", "concatenate"]
    """The way in which the vectors of several codes a position become one. sum: as residual codebooks mean
    them; concatenate: each has channels of its own."""
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
    emb_noise: _Share | None
    """The probability that a batch gets Emb-Noise; by default that of `augment`."""
    color_adapt: _Share | None
    """The probability that a batch gets ColorAdapt; by default that of `augment`."""
    flip: Literal["exact", "naive", "none"] | None
    """The flip of half of all samples. exact: by the symmetry of the store's codes; naive: codes change
    places; none: nothing is flipped, not by TokenAdapt either. By default exact where the store has the
    symmetry, else TokenAdapt's own."""
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
    min_lr: float
    warmup_lr: float
    warmup_epochs: float
    weight_decay: float
    beta2: float
    layer_decay: float
    clip: float
    ema: float
    evaluate_ema: bool
    seed: int


@dataclass(frozen=True)
class RunSettings:
    """The evaluations and checkpoints of a run."""

    evaluate_every: int
    checkpoint_minutes: float
    keep_best: bool
    keep_last: int
    keep_every: int
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
