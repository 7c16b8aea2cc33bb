"""A benchmark: how fast a step of training is, in how much memory, beside the published order of work.

    bench_train.py [--task mtm --task seit] [--batch 4] [--device cpu] [--compile]

A step takes codes (B, 32, 32) of 391 to updated weights: recipe, network, loss, backward pass, AdamW. `mtm`
pre-trains a ViT by masked token modelling, `seit` trains one on vectors, `finetune` one on codes. Recipes are
those of `tokenstore.augment.recipes` without TokenAdapt, which bench_augment.py measures. Both ways get the
same weights; in float32, with the same mask, their losses must agree to 1e-4 and their gradients to 1e-3
before anything is timed.

What the plain way does as the descriptions read, and ours does not:

- it crops and resizes one-hot maps (B, 391, 32, 32), a sample at a time, and multiplies them by the codebook
  (SeiT's input pipeline, step 1); ours crops the vectors;
- Token-EDA, ColorAdapt and Emb-Noise go through the samples one by one (they are defined by sample);
- attention is softmax(Q K^T / sqrt(d)) V with all similarities in memory (the transformer's definition, which
  is all the description says); ours is torch's fused attention;
- the MTM head gives logits of all 28x28 tokens, the loss is computed for each, and those of patches that are
  not masked are dropped afterwards ("mean over masked patches only"); ours gathers masked patches first;
- dropout, GELU and LayerNorm keep what autograd keeps of them; ours computes them again (`LeanBlock`);
- AdamW is torch's by default; ours is what the trainer asks for.

Both drop 40 % of the patches from the encoder, as published: nine tenths of the arithmetic are the same
products. Ways take turns, medians count. Arithmetic is each way's own matrix products, counted by torch.
Activations are the most that was allocated in recipe, forward and backward pass, above weights, gradients
and AdamW's state.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import click
import torch
from bench_augment import plain_colour, plain_crop
from plain_networks import PlainClassifier, PlainMaskedModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from seitpp_models import MaskedTokenConfig, MaskedTokenModel, MaskRatio, TokenViT, draw_mask
from seitpp_models.training.tasks import Classification, MaskedTokens, StepRandom, Task
from seitpp_models.weights.official import to_official
from tokenstore.augment import nearest_codes, recipes
from tokenstore.networks.precision import has_bfloat16

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
CODES, CHANNELS, GRID, SIZE, CLASSES = 391, 32, 32, 28, 1000
PATCHES = (SIZE // 2) ** 2
DROPPED = 0.4
SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
TASKS = ("mtm", "seit", "finetune")
RATE, DECAY, BETAS = 1e-4, 0.05, (0.9, 0.95)
PEAKS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0}
"""Dense bfloat16 products, TFLOP/s, by what a device's name holds."""

Step = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(network, codes, labels) to a loss."""


@dataclass(frozen=True)
class Way:
    """One line of the table: a network, its optimiser and its loss."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Step
    precision: AbstractContextManager[object]

    def forward_and_back(self, codes: Tensor, labels: Tensor) -> None:
        """Compute the loss and its gradients."""
        self.optimizer.zero_grad(set_to_none=False)
        with self.precision:
            loss = self.loss(self.network, codes, labels)
        loss.backward()


# ---- the plain recipes


def plain_vectors(codes: Tensor, codebook: Tensor, scale: tuple[float, float]) -> Tensor:
    """Crop one-hot maps of codes (B, H, W) and multiply them by the codebook: (B, C, H, W)."""
    one_hot = F.one_hot(codes, CODES).permute(0, 3, 1, 2).float()
    cropped = torch.stack([plain_crop(sample, SIZE, scale) for sample in one_hot])
    return torch.einsum("bkhw,kc->bchw", cropped, codebook)


def plain_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the codes nearest to vectors (B, C, H, W)."""
    rows = F.normalize(vectors.movedim(1, -1).reshape(-1, CHANNELS), dim=1)
    return (rows @ F.normalize(codebook, dim=1).T).argmax(1).view(len(vectors), SIZE, SIZE)


def plain_eda(codes: Tensor, synonyms: Tensor) -> Tensor:
    """Replace codes by synonyms and swap patches, each for one batch in four."""
    codes = codes.clone()
    if random.random() < 0.25:
        for sample in codes:
            changed = torch.rand(sample.shape, device=sample.device) < 0.25
            drawn = torch.randint(0, synonyms.shape[1], sample.shape, device=sample.device)
            sample[changed] = synonyms[sample, drawn][changed]
    if random.random() < 0.25:
        for sample in codes:
            side = random.randint(1, GRID // 4)
            tops, lefts = ([random.randint(0, GRID - side) for _ in range(2)] for _ in range(2))
            while abs(tops[0] - tops[1]) < side and abs(lefts[0] - lefts[1]) < side:
                tops[1], lefts[1] = random.randint(0, GRID - side), random.randint(0, GRID - side)
            one, other = (
                (slice(top, top + side), slice(left, left + side))
                for top, left in zip(tops, lefts, strict=True)
            )
            sample[one], sample[other] = sample[other].clone(), sample[one].clone()
    return codes


def plain_noise(vectors: Tensor) -> Tensor:
    """Add Emb-Noise, sample by sample."""
    noisy = list(vectors)
    for number in random.sample(range(len(vectors)), len(vectors) // 2):
        sample = vectors[number]
        noisy[number] = sample + torch.randn_like(sample) + torch.randn_like(sample[:, :1, :1])
    return torch.stack(noisy)


def plain_cutmix(vectors: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mix a batch by CutMix, as its paper writes the operations."""
    side = int(SIZE * (1 - random.random()) ** 0.5)
    top, left = random.randint(0, SIZE - side), random.randint(0, SIZE - side)
    mixed = vectors.clone()
    mixed[:, :, top : top + side, left : left + side] = vectors.flip(0)[
        :, :, top : top + side, left : left + side
    ]
    share = 1 - side**2 / SIZE**2
    return mixed, share * targets + (1 - share) * targets.flip(0)


# ---- the two ways of each task


def plain_losses(codebook: Tensor, ratio: float, generator: torch.Generator) -> dict[str, Step]:
    """Return the plain step of each task."""
    synonyms = nearest_codes(codebook)

    def mtm(network: nn.Module, codes: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            vectors = plain_colour(plain_vectors(codes, codebook, (0.2, 1.0)))
            inputs = plain_codes(vectors, codebook)
        mask = draw_mask(len(codes), PATCHES, ratio, DROPPED, generator)
        loss: Tensor = network(inputs, mask.visible, mask.masked)
        return loss

    def classified(network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return -(targets * network(inputs).float().log_softmax(1)).sum(1).mean()

    def seit(network: nn.Module, codes: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            vectors = plain_vectors(plain_eda(codes, synonyms), codebook, (0.08, 1.0))
            targets = F.one_hot(labels, CLASSES).float()
            inputs, targets = plain_cutmix(plain_noise(vectors), targets)
        return classified(network, inputs, targets)

    def finetune(network: nn.Module, codes: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            vectors = plain_colour(plain_vectors(codes, codebook, (0.08, 1.0)))
            targets = F.one_hot(labels, CLASSES) * 0.9 + 0.1 / CLASSES
            inputs, targets = plain_cutmix(vectors, targets)
            inputs = plain_codes(inputs, codebook)
        return classified(network, inputs, targets)

    return {"mtm": mtm, "seit": seit, "finetune": finetune}


def our_losses(codebook: Tensor, ratio: float, generator: torch.Generator) -> dict[str, Step]:
    """Return our step of each task."""
    device = generator.device
    draws = StepRandom(generator, torch.Generator().manual_seed(0), rank=0, world_size=1)
    fixed = MaskRatio(mean=ratio, deviation=1e-9, low=DROPPED)  # so that each step is as much work
    tasks: dict[str, Task] = {
        "mtm": MaskedTokens(recipes.mtm_pretrain(codebook, None).to(device), PATCHES, fixed),
        "seit": Classification(recipes.seit(codebook, CLASSES).to(device)),
        "finetune": Classification(recipes.finetune(codebook, None, CLASSES).to(device)),
    }

    def step(task: Task) -> Step:
        def loss(network: nn.Module, codes: Tensor, labels: Tensor) -> Tensor:
            batch = [codes, labels][: len(task.columns)]
            return task.loss(network, batch, draws).value

        return loss

    return {name: step(task) for name, task in tasks.items()}


def networks(task: str, size: str) -> tuple[nn.Module, nn.Module]:
    """Return the plain network and ours with the same weights.

    ViT-B is fine-tuned without drop-path in both.
    """
    width, heads = SIZES[size]
    ours: MaskedTokenModel | TokenViT
    plain: nn.Module
    if task == "mtm":
        ours = MaskedTokenModel(MaskedTokenConfig(CODES, CHANNELS, (SIZE, SIZE), width=width, heads=heads))
        plain = PlainMaskedModel(CODES, CHANNELS, SIZE, width, heads)
    else:
        codes = None if task == "seit" else CODES
        ours = TokenViT((SIZE, SIZE), CHANNELS, codes, num_classes=CLASSES, embed_dim=width, num_heads=heads)
        plain = PlainClassifier(codes, CHANNELS, SIZE, width, heads, CLASSES)
    tensors = to_official(ours)
    plain.load_state_dict({name: tensors[name] for name in plain.state_dict()})
    return plain, ours


def check_equal(task: str, plain: nn.Module, ours: nn.Module, ratio: float, device: torch.device) -> None:
    """Compare losses and gradients of two samples, without dropout; raises AssertionError on a difference."""
    generator = torch.Generator(device).manual_seed(1)
    codes = torch.randint(0, CODES, (2, SIZE, SIZE), generator=generator, device=device)
    plain.eval()
    ours.eval()
    if task == "mtm":
        mask = draw_mask(2, PATCHES, ratio, DROPPED, generator)
        losses = plain(codes, mask.visible, mask.masked), ours(codes, mask).loss
    else:
        shape = (2, CHANNELS, SIZE, SIZE)
        inputs = codes if task == "finetune" else torch.randn(shape, generator=generator, device=device)
        labels = torch.tensor([3, 5], device=device)
        losses = tuple(F.cross_entropy(network(inputs), labels) for network in (plain, ours))
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-4)
    for loss in losses:
        loss.backward()
    norms = [
        torch.stack([parameter.grad.norm() for parameter in network.parameters()]).norm()
        for network in (plain, ours)
    ]
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-3, atol=0)
    for network in (plain, ours):
        network.zero_grad()
        network.train()


# ---- measuring


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(way: Way, codes: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the seconds of a step, and of AdamW in the step."""
    synchronise(codes.device)
    start = time.perf_counter()
    way.forward_and_back(codes, labels)
    synchronise(codes.device)
    between = time.perf_counter()
    way.optimizer.step()
    synchronise(codes.device)
    end = time.perf_counter()
    return end - start, end - between


def activations(way: Way, codes: Tensor, labels: Tensor) -> int:
    """Return the most bytes allocated on top of weights, gradients and AdamW's state."""
    device = codes.device
    if device.type == "cuda":
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        way.forward_and_back(codes, labels)
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        way.forward_and_back(codes, labels)
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    events.sort(key=lambda event: event[0])
    allocated = most = 0
    for _, size in events:
        allocated += size
        most = max(most, allocated)
    return most


def products(way: Way, codes: Tensor, labels: Tensor) -> int:
    """Count the operations in the matrix products of a step of a network that is not compiled."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        way.forward_and_back(codes[:1], labels[:1])
    return counter.get_total_flops() * len(codes)


def measured(
    ways: Sequence[Way], codes: Tensor, labels: Tensor, repeats: int
) -> tuple[list[list[tuple[float, float]]], list[int]]:
    """Return seconds of steps and of their AdamW, and peak bytes, of each way."""
    memory = []
    for way in ways:
        seconds(way, codes, labels)
        memory.append(activations(way, codes, labels))
    durations: list[list[tuple[float, float]]] = [[] for _ in ways]
    for _ in range(repeats):
        for mine, way in zip(durations, ways, strict=True):
            mine.append(seconds(way, codes, labels))
    return durations, memory


def peak_of(device: torch.device) -> float | None:
    """Return a device's dense bfloat16 products in TFLOP/s by its name; None for an unknown device."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


@click.command()
@click.option("--task", "tasks", multiple=True, type=click.Choice(TASKS), default=("mtm", "seit"))
@click.option("--size", type=click.Choice(list(SIZES)), default="base", show_default=True)
@click.option("--batch", default=4, show_default=True)
@click.option("--ratio", default=0.6, show_default=True, help="Of masked patches; 0.61 is the mean drawn.")
@click.option("--device", "device_name", default="cpu", show_default=True)
@click.option("--threads", default=torch.get_num_threads(), show_default=True, help="Of the CPU.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Ours compiled by torch, too; takes minutes.")
@click.option("--peak-tflops", type=float, help="Of the device in bfloat16; known for H100, H200, A100.")
def main(
    tasks: Sequence[str],
    size: str,
    batch: int,
    ratio: float,
    device_name: str,
    threads: int,
    repeats: int,
    compiled: bool,
    peak_tflops: float | None,
) -> None:
    """Measure steps of training and print a table for each task."""
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    peak = peak_tflops or peak_of(device)
    for task in tasks:
        torch.manual_seed(0)
        random.seed(0)
        codebook = torch.randn(CODES, CHANNELS)
        plain, ours = (network.to(device) for network in networks(task, size))
        check_equal(task, plain, ours, ratio, device)
        generator = torch.Generator(device).manual_seed(0)
        theirs = plain_losses(codebook.to(device), ratio, generator)[task]
        mine = our_losses(codebook, ratio, generator)[task]
        plain_adamw = torch.optim.AdamW(plain.parameters(), RATE, BETAS, weight_decay=DECAY)
        our_adamw = torch.optim.AdamW(ours.parameters(), RATE, BETAS, weight_decay=DECAY, fused=True)
        precisions = ["float32", "bfloat16"] if has_bfloat16(device) else ["float32"]
        ways = []
        for precision in precisions:
            context = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
            ways.append(Way(f"plain, {precision}", plain, plain_adamw, theirs, context))
            ways.append(Way(f"ours, {precision}", ours, our_adamw, mine, context))
            if compiled:
                network = torch.compile(ours, fullgraph=True)
                ways.append(Way(f"ours, {precision}, compiled", network, our_adamw, mine, context))
        codes = torch.randint(0, CODES, (batch, GRID, GRID), device=device)
        labels = torch.randint(0, CLASSES, (batch,), device=device)
        work = {way.network: products(way, codes, labels) for way in ways[:2]}
        durations, memory = measured(ways, codes, labels, repeats)
        used = f", threads: {threads}" if device.type == "cpu" else ""
        title = f"{task}, ViT-{size}, batches of {batch}, {device_name}{used}"
        table = Table(title=title)
        columns = ["way", "step, ms", "of it AdamW", "x", "samples/s", "TFLOP/s", "activations, MB", "x"]
        if peak is not None:
            columns.insert(6, f"of {peak:,.0f}")
        for column in columns:
            table.add_column(column, justify="left" if column == "way" else "right")
        whole = [statistics.median(step for step, _ in mine) for mine in durations]
        for way, own_durations, step, peak_bytes in zip(ways, durations, whole, memory, strict=True):
            own = work.get(way.network, work[ours])
            rate = own / step / 1e12
            optimiser = statistics.median(part for _, part in own_durations)
            cells = [way.name, f"{1e3 * step:,.0f}", f"{1e3 * optimiser:,.0f}", f"{whole[0] / step:.2f}"]
            cells += [f"{batch / step:,.1f}", f"{rate:,.3f}"]
            cells += [] if peak is None else [f"{rate / peak:.1%}"]
            table.add_row(*cells, f"{peak_bytes / 1e6:,.0f}", f"{peak_bytes / memory[0]:.2f}")
        Console(width=130).print(table)


if __name__ == "__main__":
    main()
