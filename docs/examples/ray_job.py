"""A conversion as a Ray job: python ray_job.py SRC OUT [ACTORS [DEVICE [ADDRESS]]]."""

from __future__ import annotations

import sys

import tokenstore
from tokenstore.conversion import Progress, RayExecutor


def report(progress: Progress) -> None:
    """Print how far the conversion is, for the job's log."""
    print(
        f"{progress.split}: {progress.done:,} of {progress.total:,}, {progress.skipped:,} skipped", flush=True
    )


def main(src: str, out: str, actors: str = "1", device: str = "cpu", address: str = "auto") -> None:
    """Convert `src` to `out` by `actors` actors, or go on where an earlier job stopped."""
    executor = RayExecutor(address, actors=int(actors), cpus_per_actor=4 if device != "cpu" else 1)
    conversion = tokenstore.convert(
        src, out, device=device, executor=executor, resume=True, on_error="skip", on_progress=report
    )
    print(f"{out}: {conversion.nbytes:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
