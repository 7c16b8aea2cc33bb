"""Label maps beside tokens: python segmentation.py images/ maps/ scenes.zarr."""

import sys

import tokenstore
from tokenstore import TokenDataset, TokenLoader


def main(images: str, maps: str, store: str) -> None:
    """Convert images with the PNG files of their label maps, and read batches of both."""
    tokenstore.convert(images, store, masks=maps, ignore_index=255)
    opened = tokenstore.open(store)
    print("ignored label:", opened.manifest.ignore_index)

    dataset = TokenDataset(opened, opened.splits[0], columns=("tokens", "masks"))
    for tokens, masks in TokenLoader(dataset, batch_size=2, shuffle=True):
        print(tuple(tokens.shape), tuple(masks.shape), masks.dtype)  # (2, 32, 32) (2, 256, 256) uint8
        break


if __name__ == "__main__":
    main(*sys.argv[1:])
