"""The state of a loader, which goes on in the middle of an epoch: python resume.py photos.zarr."""

import json
import sys

from tokenstore import TokenDataset, TokenLoader


def main(store: str) -> None:
    """Stop after two batches, and go on with other batches exactly where the first loader stood."""
    dataset = TokenDataset(store)
    loader = TokenLoader(dataset, batch_size=16, shuffle=True, seed=7)
    given = []
    for number, _ in enumerate(loader, 1):
        given += loader.last_rows.tolist()
        if number == 2:
            break
    state = json.dumps(loader.state_dict())  # eight numbers and texts, however large the store is

    again = TokenLoader(dataset, batch_size=5, shuffle=True, seed=7)
    again.load_state_dict(json.loads(state))
    for _ in again:
        given += again.last_rows.tolist()
    assert sorted(given) == list(range(len(dataset)))  # each sample once
    print(f"{len(given)} samples, each once; the order begins {given[:8]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
