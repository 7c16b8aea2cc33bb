"""A source of one's own, images in a zip file: python own_source.py photos.zip photos.zarr."""

import hashlib
import sys
import zipfile

import pyarrow as pa

import tokenstore
from tokenstore.sources.base import FetchedRequest, ImageSource


class ZipSplit:
    """The images of a zip file in the order of their names, without labels."""

    def __init__(self, path: str) -> None:
        self.archive = zipfile.ZipFile(path)
        self.files = sorted(self.archive.namelist())

    def __len__(self) -> int:
        return len(self.files)

    def names(self, start, stop):  # stored beside the samples
        return pa.array(self.files[start:stop], pa.string())

    def labels(self, start, stop):  # or int32 (stop - start,)
        return None

    def fingerprint(self):  # what a resumed conversion compares
        return hashlib.sha256("\0".join(self.files).encode()).hexdigest()

    def request(self, start, stop):  # the bytes of encoded images; a SampleError stands for a bad one
        return FetchedRequest([self.archive.read(name) for name in self.files[start:stop]])


if __name__ == "__main__":
    path, store = sys.argv[1:]
    tokenstore.convert(ImageSource("zip", path, {"train": ZipSplit(path)}), store)
