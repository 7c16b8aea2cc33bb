"""A Lightning training on a TokenLoader: python lightning_loop.py photos.zarr."""

import sys

import pytorch_lightning as lightning
import torch

from tokenstore import TokenDataset, TokenLoader


class Classifier(lightning.LightningModule):
    """A bag of codes and a linear layer."""

    def __init__(self, codes: int, classes: int) -> None:
        super().__init__()
        bag = torch.nn.EmbeddingBag(codes, 32)
        self.model = torch.nn.Sequential(torch.nn.Flatten(), bag, torch.nn.Linear(32, classes))

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss of a batch."""
        return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over all weights."""
        return torch.optim.AdamW(self.parameters(), 1e-3)


def main(store: str, epochs: str = "2", folder: str = ".") -> None:
    """Train; Lightning's checkpoints hold the loader's state, and go on in the middle of an epoch."""
    loader = TokenLoader(TokenDataset(store), 64, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=int(epochs), accelerator="auto", default_root_dir=folder, logger=False
    )
    trainer.fit(Classifier(codes=2048, classes=10), train_dataloaders=loader)


if __name__ == "__main__":
    main(*sys.argv[1:])
