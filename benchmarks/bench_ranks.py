"""How many bytes do all ranks together fetch in an epoch, how well are samples mixed, and what does it cost?

    python benchmarks/bench_ranks.py [--samples N] [--batch-size B] [--window RUNS]

No network and no store: the orders and the steps that TokenLoader uses say which runs each rank reads. The
shards are those of 32x32 codes of 11 bits: 23,872 samples, cut into runs of 64. The second table is of a view
whose runs are joined, as those of 5 billion samples are: `--joined` of them count as one.
"""

from __future__ import annotations

import argparse
import math
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from tokenstore.loading.sampling import (
    BlockShuffle,
    EqualRuns,
    LaneShuffle,
    Order,
    Steps,
    bounded_starts,
    shuffle_quality,
)

SHARD, RUN, CLASSES = 23_872, 64, 1000
WORLDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 384, 5, 7, 10, 20, 40, 56, 72, 80, 256, 512)
MOST_RANKS = 4
"""The ranks of each number that are measured: others read as many runs."""


def times_fetched(order: Order, runs: EqualRuns, world_size: int, batch_size: int, window: int) -> float:
    """Return how often all ranks together fetch each run, where a rank keeps a run for two windows."""
    steps = Steps(len(order), batch_size, world_size, lanes=order.lanes, lane_keys=order.lane_keys)
    fetched, ranks = 0, np.linspace(0, world_size - 1, min(world_size, MOST_RANKS)).astype(int).tolist()
    per_shard = -(-SHARD // RUN)
    for rank in ranks:
        mine = np.concatenate([steps.positions(step, rank) for step in range(len(steps))])
        rows = order(mine)
        run = rows // SHARD * per_shard + rows % SHARD // RUN
        # A run that comes again a window later was not kept.
        by_run = np.lexsort((mine, run))
        new = np.diff(run[by_run], prepend=-1) != 0
        late = np.diff(mine[by_run], prepend=0) > 2 * window
        fetched += int((new | late).sum())
    return fetched / len(ranks) * world_size / len(runs)


def cpu_and_memory(make: Callable[[], Order], batch_size: int) -> tuple[float, float, float]:
    """Return milliseconds to make an order, microseconds a batch, and megabytes."""
    make()(np.arange(batch_size))  # compiles
    tracemalloc.start()
    order = make()
    order(np.arange(batch_size))
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    start = time.process_time()
    order = make()
    order(np.arange(batch_size))
    made = time.process_time() - start
    best = math.inf
    for first in np.linspace(0, len(order) - batch_size, 10).astype(np.int64).tolist():
        positions = np.arange(first, first + batch_size)
        start = time.process_time()
        for _ in range(200):
            order(positions)
        best = min(best, (time.process_time() - start) / 200)
    return made * 1e3, best * 1e6, megabytes


def print_joined(runs: EqualRuns, joined: int, window: int, batch_size: int) -> None:
    """Print how often ranks fetch the runs of a view that joins them, and how many are in a batch."""
    starts = bounded_starts(runs.starts, len(runs) // joined)
    orders = {
        "read whole": LaneShuffle(starts, round(window / joined), 0, 0),
        "read in parts": LaneShuffle(starts, window, 0, 0, joined),
    }
    print(f"\nA view in which {joined} runs are joined to a block:\n")
    print("| blocks are | lanes | blocks in a batch | runs fetched by 1 rank, times | by 8 | by 64 |")
    print("|---|---|---|---|---|---|")
    for name, order in orders.items():
        found = shuffle_quality(order, starts, batch_size, 100)
        times = [times_fetched(order, runs, world, batch_size, window * RUN) for world in (1, 8, 64)]
        print(
            f"| {name} | {order.lanes} | {found.blocks:.0f} | {' | '.join(f'{each:.2f}' for each in times)} |"
        )


def main() -> None:
    """Print the four tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--window", type=int, default=745, help="the runs of a window, by default of 64 MB")
    parser.add_argument("--joined", type=int, default=50, help="the runs that count as one in a view")
    options = parser.parse_args()
    runs = EqualRuns(options.samples, SHARD, RUN)
    window = options.window * RUN
    orders = {
        "block": BlockShuffle(runs.starts, options.window, 0, 0),
        "lanes": LaneShuffle(runs, options.window, 0, 0),
    }
    print(f"{len(runs):,} runs, batches of {options.batch_size} a rank; each run is fetched, times:\n")
    print("| ranks | block | lanes |\n|---|---|---|")
    for world_size in WORLDS:
        times = [
            times_fetched(order, runs, world_size, options.batch_size, window) for order in orders.values()
        ]
        print(f"| {world_size} | {times[0]:.2f} | {times[1]:.2f} |")
    print_joined(runs, options.joined, options.window, options.batch_size)
    labels = np.arange(options.samples) * CLASSES // options.samples
    print("\nQuality of the shuffle, of samples sorted by class:\n")
    print("| batch | order | runs | of expected | classes | of expected | figure |")
    print("|---|---|---|---|---|---|---|")
    for batch_size in (64, 256, 1024, 4096, 16_384):
        for name, order in orders.items():
            found = shuffle_quality(order, runs.starts, batch_size, 100, labels)
            print(
                f"| {batch_size:,} | {name} | {found.blocks:.0f} | {found.blocks_expected:.0f} | "
                f"{found.classes:.0f} | {found.classes_expected:.0f} | {found.figure:.3f} |"
            )
    print("\nCost of an order:\n")
    print("| samples | made in, ms | a batch of 256, us | memory, MB |\n|---|---|---|---|")
    for samples in (10**6, 10**9, 5 * 10**9):
        many = EqualRuns(samples, SHARD, RUN)
        made, batch, megabytes = cpu_and_memory(lambda: LaneShuffle(many, options.window, 0, 0), 256)  # noqa: B023
        print(f"| {samples:,} | {made:.2f} | {batch:.0f} | {megabytes:.2f} |")


if __name__ == "__main__":
    main()
