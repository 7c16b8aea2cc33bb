"""Read all that a store holds: python read_store.py photos.zarr."""

import sys

import zarr

import tokenstore


def main(path: str) -> None:
    """Read codes, labels, vectors and the origin of samples."""
    store = tokenstore.open(path)  # also s3://bucket/photos.zarr, hf://..., photos.zip
    split = store[store.splits[0]]
    codes = split.read("tokens", [0, 1, -1])  # (3, *grid); a slice, one index or None for all work too
    print(f"{codes.shape} {codes.dtype}; {len(split):,} samples in {split.name}")
    if split.labels is not None and store.class_names is not None:
        print("classes:", [store.class_names[label] for label in split.labels[[0, 1, -1]]])
    if store.codebook is not None:
        print("vectors of the first sample:", store.codebook[codes[0]].shape)  # (*grid, D) float32
    print(split.samples_table().slice(0, 3).to_pylist())  # names, sizes and bytes of the source's files

    # Any reader of Zarr sees the same codes, without importing tokenstore:
    print((zarr.open(path, mode="r")[f"{split.name}/tokens"][0] == codes[0]).all())


if __name__ == "__main__":
    main(*sys.argv[1:])
