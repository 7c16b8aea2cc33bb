"""The command `tokenstore copy`."""

from __future__ import annotations

import time
from typing import Any

import click

import tokenstore
from tokenstore.writing.choices import COPY_JOBS

from .. import options
from ..console import counted, finished, human_bytes
from ..main import EXIT_CODES


@click.command(epilog=EXIT_CODES)
@options.existing_store("src")
@click.argument("dst")
@options.jobs("files", default=COPY_JOBS)
@options.resume("the interrupted copy to DST")
@options.storage_options(of="store, or for DST if SRC is local")
@options.storage_options("--target-storage-options", of="target, which is DST")
def copy(src: str, dst: str, **settings: Any) -> None:
    """Copy the store SRC to DST: folders, zip files and fsspec URLs, in any direction.

    Every file is checked against the manifest while it is read, and read back after it was written. What an
    interrupted copy leaves behind does not open as a store; --resume continues the copy.

    \b
    Examples:
      tokenstore copy photos.zarr s3://bucket/photos.zarr
      tokenstore copy s3://bucket/photos.zarr /data/photos.zarr --resume
      tokenstore copy photos.zarr photos.zip
      tokenstore copy photos.zarr s3://bucket/photos.zarr --jobs 16
      tokenstore copy gs://bucket/a.zarr s3://bucket/a.zarr --target-storage-options '{"profile": "lab"}'
    """
    started = time.monotonic()
    from ..progress import progress_bar

    with progress_bar("bytes") as bar:
        task = bar.add_task("copying", total=None, note="")
        copied = tokenstore.copy(
            src,
            dst,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            **settings,
        )
    facts = f"{counted(copied.files, 'file')}, {human_bytes(copied.nbytes)}, verified"
    finished(copied.location, facts, started, ("tokenstore", "info", copied.location))
