"""The augmentation of SeiT++ on a batch of codes: python augment.py photos.zarr."""

import sys

import torch

import tokenstore
from tokenstore.augment import load_adapter, recipes


def main(path: str) -> None:
    """Augment the first eight samples of a store, as trainings of `seitpp` do it."""
    store = tokenstore.open(path)
    dataset = tokenstore.TokenDataset(store)
    adapter = load_adapter(tokenizer=store.manifest.tokenizer)  # the packaged TokenAdapt
    recipe = recipes.finetune(store.codebook, adapter, classes=10, symmetries=store.symmetries)

    codes, labels = dataset[0:8]
    inputs, targets = recipe(codes, labels, generator=torch.Generator().manual_seed(0))
    print(f"{tuple(codes.shape)} -> {tuple(inputs.shape)}; soft targets {tuple(targets.shape)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
