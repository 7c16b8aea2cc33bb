"""A store in a bucket, read through a local cache: python remote_store.py s3://bucket/photos.zarr cache/."""

import sys

from tokenstore import Retries, TokenDataset, TokenLoader


def main(url: str, cache: str) -> None:
    """Read an epoch; each byte is fetched once, and the next epoch comes from the cache."""
    dataset = TokenDataset(
        url,
        cache_dir=cache,
        cache_limit="100GB",
        retries=Retries(deadline=120),  # seconds for which a request is retried
    )
    samples = sum(len(tokens) for tokens, *_ in TokenLoader(dataset, 256, shuffle=True))
    print(f"{samples:,} samples")


if __name__ == "__main__":
    main(*sys.argv[1:])
