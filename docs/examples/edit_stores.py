"""Edits that make new stores of a store: python edit_stores.py photos.zarr folder/."""

import sys
from pathlib import Path

import tokenstore


def main(store: str, folder: str) -> None:
    """Select, split, recode and export; the store that is read stays as it is."""
    out = Path(folder)
    tokenstore.select(store, out / "tenth.zarr", share=0.1, seed=1)
    tokenstore.split(store, out / "divided.zarr", shares={"val": 0.2}, stratified=True)
    print(tokenstore.open(out / "divided.zarr"))

    tokenstore.recode(store, out / "plain.zarr", codec="zstd")  # any reader of Zarr reads it
    print([each.what for each in tokenstore.diff(store, out / "plain.zarr").differences])  # no samples

    tokenstore.export(out / "tenth.zarr", out / "tenth", to="parquet")
    print(sorted(path.name for path in (out / "tenth").rglob("*.parquet")))


if __name__ == "__main__":
    main(*sys.argv[1:])
