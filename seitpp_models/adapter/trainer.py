"""The trainer of TokenAdapt, without the folder of images and the callbacks that `run` adds.

f and g learn from pairs (T_x, T_A(x)): the same augmentation A is applied to the image and to f's map. The
loss is the cross-entropy of g(A(f(T_x))) against T_A(x), or of tokens that are numbers the squared error.
SeiT++, https://arxiv.org/abs/2312.10105, section 3.2. The recipe was not published, so learning rates and
sizes of batches are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from seitpp_models.adapter.pairs import Pairs, PairsBatch, Pictures
from seitpp_models.adapter.start import start_from_pairs, start_from_vectors
from seitpp_models.adapter.tokens import AdapterTokens, tokens_of
from tokenstore.augment import (
    PATCH_SIDE,
    AdapterConfig,
    TokenAdapt,
    adapter_geometry,
    save_adapter,
)
from tokenstore.errors import AdapterError
from tokenstore.format import TokenizerIdentity
from tokenstore.networks.runs import ResumableRun
from tokenstore.networks.states import load_optimizer
from tokenstore.sources.images import ImageOptions, Resize
from tokenstore.tokenizers import Tokenizer
from tokenstore.tokenizers.train.images import ImageSet

__all__ = ["AdapterTrainer", "AdapterTrainingConfig", "StepResult"]

WEIGHTS = "adapter.safetensors"
"""The file in a run's folder with the averaged weights."""
_SCALE_BATCHES = 2
"""The batches by which numbers are scaled."""
_START_BATCHES = 8
"""The batches that the linear parts are fitted to; none of them is trained on."""


@dataclass(frozen=True)
class AdapterTrainingConfig:
    """The settings of a TokenAdapt's training; equal ones, images and threads give equal weights on a CPU.

    Raises AdapterError for a width that is not a multiple of 64, and for sizes below 1.
    """

    steps: int = 4000
    seed: int = 0
    batch_size: int = 16
    width: int = 384
    depth: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    average_decay: float = 0.999
    uncropped_every: int = 2
    """The number of batches of which one has the whole grid; 0: none has."""
    scale: tuple[float, float] = (0.08, 1.0)
    """The range of the share of the area that a crop has."""
    bfloat16: bool = True
    image_size: int | None = None
    """The side in pixels of the square that an image becomes; None: the tokenizer's."""
    resize: Resize = "squash"
    """The way an image becomes a square."""

    def options(self, tokenizer: Tokenizer) -> ImageOptions:
        """Return the options that prepare images for a tokenizer."""
        return ImageOptions(self.image_size or tokenizer.image_size, self.resize)

    def of_adapter(self, tokens: AdapterTokens, size: tuple[int, int]) -> AdapterConfig:
        """Return the sizes of an adapter of tokens whose g gives grids of `size`."""
        return AdapterConfig(
            codebook_size=tokens.codebook_size,
            channels=tokens.vectors.channels,
            grid=tokens.form.grid,
            size=size,
            width=self.width,
            heads=self.width // 64,
            mlp=4 * self.width,
            depth=self.depth,
            scales=tokens.scales,
        )

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(self.scale))
        if self.width % 64 or self.width < 64 or min(self.steps, self.batch_size, self.depth) < 1:
            raise AdapterError(f"expected a width that is a multiple of 64 and positive sizes, found {self}")


@dataclass(frozen=True)
class StepResult:
    """A step of training, with the figures of its batch."""

    step: int
    """The number of steps done."""
    loss: float
    """The cross-entropy in nats; of numbers, the mean squared error."""
    accuracy: float
    """The share of codes that are equal to those of the augmented images; of numbers, of their square."""
    learning_rate: float
    seconds: float
    """The seconds of training so far."""


class AdapterTrainer(ResumableRun[PairsBatch, StepResult]):
    """A run that trains f and g for a tokenizer, and its state in a folder."""

    error = AdapterError
    config: AdapterTrainingConfig

    def __init__(
        self,
        config: AdapterTrainingConfig,
        images: ImageSet,
        tokenizer: Tokenizer,
        out: Path,
        *,
        workers: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        """Prepare a run in the folder `out`, with `workers` processes that make pairs.

        Raises AdapterError for a tokenizer of lists, or whose codes have no vectors and are no numbers.
        """
        inputs = {
            "images": ("the list of images", images.digest),
            "tokenizer": ("the tokenizer", tokenizer.fingerprint),
        }
        super().__init__(config, out, inputs)
        self.device, self._images = torch.device(device), images
        self.tokenizer = tokenizer
        self.options = config.options(tokenizer)
        grid = tokenizer.grid((3, self.options.height, self.options.width))
        rows, columns = tokens_of(tokenizer, grid).form.grid
        size = rows * 7 // 8, columns * 7 // 8
        self.identity = TokenizerIdentity(tokenizer.name, tokenizer.fingerprint)
        self.pairs = Pairs(
            Pictures([*images.photographs, *images.thumbnails], self.options),
            tokenizer,
            adapter_geometry(size, config.scale),
            (PATCH_SIDE * rows, PATCH_SIDE * columns),
            config.batch_size,
            config.uncropped_every,
            config.seed,
        )
        self.tokens = tokens_of(tokenizer, grid, (batch.codes for batch in self._untrained(_SCALE_BATCHES)))
        self.adapter_config = config.of_adapter(self.tokens, size)
        self._workers = workers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # layers draw their initial weights from the global generator
            model = TokenAdapt(self.adapter_config, tokenizer=self.identity)
            start_from_vectors(model, self.tokens.vectors)
        self.tokens.to(self.device)
        self.model = model.to(self.device).train().requires_grad_(True)
        # with this warm-up, the decay of step n is (n + 1) / (n + 10), up to the config's
        self.ema = ModelEmaV3(
            self.model, config.average_decay, use_warmup=True, warmup_gamma=9, warmup_power=1
        ).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.learning_rate, (0.9, 0.98), weight_decay=config.weight_decay
        )

    @property
    def average(self) -> TokenAdapt:
        """The network with the average of the weights, which is evaluated and saved."""
        average: TokenAdapt = self.ema.module
        return average

    @property
    @override
    def facts(self) -> Mapping[str, Any]:
        return {
            "images": self._images.locations,
            "tokenizer": self.tokenizer.name,
            "device": str(self.device),
        }

    @override
    def batches(self) -> Iterable[PairsBatch]:
        if not self.step:
            start_from_pairs(self.model, self.tokenizer, self.tokens, self._untrained(_START_BATCHES))
            self.average.load_state_dict(self.model.state_dict())
        return DataLoader(
            self.pairs,
            batch_size=None,
            sampler=range(self.step, self.config.steps),
            num_workers=self._workers,
            worker_init_fn=_one_thread,
        )

    def _untrained(self, count: int) -> Iterator[PairsBatch]:
        """Yield some batches that are not trained on."""
        return (self.pairs[step] for step in range(self.config.steps, self.config.steps + count))

    @override
    def train_on(self, batch: PairsBatch) -> Callable[[int, float], StepResult]:
        loss, accuracy, rate = self.train_step(batch)
        return lambda step, seconds: StepResult(step, loss, accuracy, rate, seconds)

    def train_step(self, batch: PairsBatch) -> tuple[float, float, float]:
        """Do one step, and return the cross-entropy, the share of right codes and the learning rate.

        Raises AdapterError if the loss is not finite.
        """
        rate = self.set_learning_rate(self.optimizer)
        self.optimizer.zero_grad()
        logits = self._logits(self.model, batch)
        targets = self.tokens.tokens(batch.targets.to(self.device))
        loss = self.tokens.loss(logits, targets)
        value = float(loss.detach())
        self.refuse_unless_finite("loss", value)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update(self.model, self.step + 2)
        return value, float(self.tokens.right(logits.detach(), targets)), rate

    def _logits(self, model: TokenAdapt, batch: PairsBatch) -> Tensor:
        embeddings = self.tokens.embeddings(batch.codes.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            return model.to_logits(model.drawn(embeddings, batch.geometry)).float()

    @override
    def save_weights(self) -> None:
        save_adapter(self.average, self.out / WEIGHTS)

    @override
    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    @override
    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        load_optimizer(self.optimizer, state["optimizer"])


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
