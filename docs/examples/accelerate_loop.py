"""A training loop under Accelerate: accelerate launch accelerate_loop.py photos.zarr checkpoint/."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from tokenstore import TokenDataset, TokenLoader


def main(store: str, checkpoint: str, codes: str = "2048") -> None:
    """Train on whatever Accelerate was started with; each rank's loader gives that rank's batches."""
    accelerator = Accelerator()
    dataset = TokenDataset(store)
    loader = TokenLoader(dataset, 64, shuffle=True, device=accelerator.device)
    embedding = torch.nn.EmbeddingBag(int(codes), 32)
    model = torch.nn.Sequential(torch.nn.Flatten(), embedding, torch.nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model, optimizer = accelerator.prepare(model, optimizer)  # not the loader, which knows its rank
    accelerator.register_for_checkpointing(loader)
    if Path(checkpoint).exists():
        accelerator.load_state(checkpoint)
    for tokens, labels in loader:
        loss = torch.nn.functional.cross_entropy(model(tokens), labels)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    accelerator.save_state(checkpoint)
    print(f"loss {loss:.3f}; the next epoch is {loader.epoch}")


if __name__ == "__main__":
    main(*sys.argv[1:])
