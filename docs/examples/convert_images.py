"""A conversion of images to a checked store: python convert_images.py photos/ photos.zarr."""

import sys

import tokenstore


def main(images: str, store: str) -> None:
    """Convert a folder of images, or go on where an earlier call was stopped, and look at the result."""
    conversion = tokenstore.convert(images, store, resume=True, on_error="skip")
    for split, skipped in conversion.skipped.items():
        for each in skipped:
            print(f"{split}: {each.source} was left out: {each.reason}")

    report = tokenstore.verify(store)
    assert report.ok, report.problems
    opened = tokenstore.open(store)
    for split in opened.splits:
        print(f"{split}: {len(opened[split]):,} samples of {opened[split].column('tokens').shape} codes")
    print(f"{conversion.nbytes:,} bytes")


if __name__ == "__main__":  # images are decoded in processes of their own, which import this file
    main(*sys.argv[1:])
