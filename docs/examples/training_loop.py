"""A training loop that can be stopped anywhere: python training_loop.py photos.zarr state.pt."""

import sys
from pathlib import Path

import torch

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.augment import CroppedEmbedding, RandomResizedCrop


def main(store: str, state: str, epochs: str = "2") -> None:
    """Train a linear classifier on cropped codebook vectors, or go on from `state`."""
    dataset = TokenDataset(store)
    codebook = tokenstore.open(store).codebook
    side = max(1, dataset[0][0].shape[-1] * 7 // 8)
    crop = CroppedEmbedding(codebook, RandomResizedCrop(side))

    def training_input(tokens, labels, *, generator):  # in the loader's threads, a generator a batch
        return crop(tokens, generator=generator), labels  # (B, D, side, side) float32

    loader = TokenLoader(dataset, 64, shuffle=True, batch_transform=training_input)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(codebook.shape[1] * side**2, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    if Path(state).exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        loader.load_state_dict(saved["loader"])
    for epoch in range(loader.epoch, int(epochs)):
        for step, (vectors, labels) in enumerate(loader):
            loss = torch.nn.functional.cross_entropy(model(vectors), labels)
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            torch.save({"model": model.state_dict(), "loader": loader.state_dict()}, state)
            print(f"epoch {epoch}, step {step}: loss {loss:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
