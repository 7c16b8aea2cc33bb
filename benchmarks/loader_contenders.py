"""The contenders of `bench_loaders.py`, their environments and their samples."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenstore.sources import CodeSource, open_source

HERE = Path(__file__).parent
CONSTRAINTS = HERE.parent / "constraints.txt"
DATA, INDEX, LABELS = "-token.data.bin.gz", "-token.index.npy.gz", "-label.txt"
ESCAPE = 255


@dataclass(frozen=True)
class Contender:
    """A way to read shuffled batches."""

    name: str
    module: str
    """A file in `loader_peers/`."""
    variant: str
    files: str
    """The folder of what it reads; contenders may share one."""
    shuffle: str
    """The distance that a sample can get from where it was written, in words."""
    environment: str | None = None
    """None: the environment that runs the benchmark."""
    yields_codes: bool = True


def _ours(codec: str, how: str) -> Contender:
    return Contender(f"ours, {codec}, {how}", "own", f"{codec} {how}", f"store-{codec}", "full")


CONTENDERS = (
    Contender("numpy memmap, uint16", "arrays", "", "arrays", "full"),
    *(
        _ours(codec, how)
        for codec in ("bitpack", "context", "zstd")
        for how in ("ram", "local", "DataLoader")
    ),
    Contender("SeiT layout", "seit", "", "source/seit", "full"),
    Contender("zarr-python on our zstd", "zarr_python", "", "store-zstd", "full"),
    Contender("TensorStore on our zstd", "tensor_store", "", "store-zstd", "full", "tensorstore"),
    Contender("Parquet, lists", "parquet_groups", "lists", "parquet-lists", "16 groups"),
    Contender("Parquet, binary", "parquet_groups", "binary", "parquet-binary", "16 groups"),
    Contender("LitData, TokensLoader", "lit_data", "", "litdata", "in chunks", "litdata"),
    Contender("MosaicML Streaming", "mosaic", "", "mds", "block", "streaming"),
    Contender("WebDataset", "web_dataset", "", "webdataset", "5,000", "webdataset"),
    Contender("HF datasets, Array2D", "hugging_face", "Array2D torch", "hf-array", "full", "datasets"),
    Contender("HF datasets, List", "hugging_face", "List numpy", "hf-list", "full", "datasets"),
    Contender("HF datasets, Arrow", "hugging_face", "List arrow", "hf-list", "full", "datasets"),
    Contender("Lance take", "lance_take", "", "lance", "full", "lance"),
    Contender("ArrayRecord, Grain", "array_record_grain", "samples", "array_record", "full", "array_record"),
    Contender(
        "ArrayRecord, batches", "array_record_grain", "batches", "array_record", "full", "array_record"
    ),
    Contender("FFCV", "ffcv_loader", "", "ffcv", "full", "ffcv"),
    Contender("SeiT layout, training", "seit", "training", "source/seit", "full", None, False),
    Contender("ours, bitpack, training", "own", "bitpack training", "store-bitpack", "full", None, False),
)

ENVIRONMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    # It imports torchvision, and a late one wants to be built for the very torch: last, one that does not.
    "streaming": (("mosaicml-streaming", "numpy<2.2", "torch"), ("--no-deps", "torchvision==0.16.2")),
    "litdata": (("litdata", "torch"),),
    "webdataset": (("webdataset", "torch", "numpy"),),
    "datasets": (("datasets", "torch"),),
    "lance": (("pylance", "torch", "numpy"),),
    "tensorstore": (("tensorstore", "numpy"),),
    "array_record": (("array_record", "grain", "numpy"),),
    # It builds itself, and asks for an OpenCV that wants a display: first what it needs, then it alone.
    "ffcv": (
        ("setuptools", "wheel", "torch", "numba", "numpy", "pillow", "opencv-python-headless", "psutil"),
        ("terminaltables", "pytorch_pfn_extras", "fastargs", "assertpy", "tqdm"),
        ("--no-deps", "--no-build-isolation", "ffcv"),
    ),
}
"""The packages of each environment, installed by one pip after the other."""


class NotRunError(Exception):
    """A contender cannot take part; the message is the reason."""


def python_of(environment: str | None, folder: Path | None) -> Path:
    """Return the interpreter of an environment. Raises NotRunError if it does not exist."""
    if environment is None:
        return Path(sys.executable)
    if folder is None:
        raise NotRunError("no environment: name a folder by --environments")
    python = folder / environment / "bin" / "python"
    if not python.exists():
        raise NotRunError(f"no environment {python.parent.parent}: make it by --make-environments")
    return python


def make_environment(environment: str, folder: Path) -> None:
    """Make an environment unless it is there. Raises NotRunError with pip's reason where that fails."""
    home = folder / environment
    if home.exists():
        return
    try:
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        for packages in ENVIRONMENTS[environment]:
            pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS]
            done = subprocess.run([*pip, *packages], capture_output=True, text=True)
            if done.returncode:
                raise NotRunError(f"cannot be installed: {_reason(done.stderr)}")
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)  # half an environment would be taken for a whole one
        raise


def _reason(log: str) -> str:
    """Return the last line that names an error, or the last line."""
    lines = log.strip().splitlines() or ["no reason was given"]
    return next((line.strip() for line in reversed(lines) if "Error" in line), lines[-1])


def tile(seit: Path, source: Path, samples: int) -> int:
    """Write the samples of all splits again and again as arrays and as one split in the release's layout.

    Returns how many different samples there are. Nothing happens where that was done before.
    """
    opened = open_source(str(seit))
    if not isinstance(opened, CodeSource):
        raise ValueError(f"{seit}: expected a folder in the layout of the SeiT release, found {opened.kind}")
    splits = opened.splits.values()
    codes = np.concatenate([split.codes(0, len(split)) for split in splits])
    labels = np.concatenate([split.labels(0, len(split)) for split in splits])
    distinct = min(samples, len(codes))
    if source.exists():
        return distinct
    unfinished = source.with_name("unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "seit").mkdir(parents=True)
    rows = np.arange(samples) % len(codes)
    tiled = np.lib.format.open_memmap(unfinished / "codes.npy", "w+", np.uint16, (samples, *codes.shape[1:]))
    for start in range(0, samples, len(codes)):
        tiled[start : start + len(codes)] = codes[rows[start : start + len(codes)]]
    tiled.flush()
    np.save(unfinished / "labels.npy", labels[rows])
    _write_seit(unfinished / "seit", codes, labels[rows])
    for name in ("codebook.ckpt", "synonyms.json"):
        shutil.copyfile(seit / name, unfinished / "seit" / name)
    unfinished.replace(source)
    return distinct


def _write_seit(folder: Path, codes: np.ndarray, labels: np.ndarray) -> None:
    """Write one split: the samples of `codes` (n, H, W) in a circle, as many as there are labels."""
    streams = []
    for sample in codes.reshape(len(codes), -1):
        is_large = sample >= ESCAPE
        stored = np.repeat(np.where(is_large, ESCAPE, sample), 1 + is_large)
        stored[np.cumsum(1 + is_large)[is_large] - 1] = sample[is_large] - ESCAPE
        streams.append(stored.astype(np.uint8).tobytes())
    whole, rest = divmod(len(labels), len(codes))
    # a gzip file may be several, one after the other: each round of the circle is compressed alike
    data = gzip.compress(b"".join(streams), mtime=0) * whole + gzip.compress(
        b"".join(streams[:rest]), mtime=0
    )
    lengths = np.array(list(map(len, streams)))[np.arange(len(labels)) % len(codes)]
    index = io.BytesIO()
    np.save(index, np.concatenate(([0], np.cumsum(lengths))))
    name = "imagenet1k-train"
    (folder / f"{name}{DATA}").write_bytes(data)
    (folder / f"{name}{INDEX}").write_bytes(gzip.compress(index.getvalue(), mtime=0))
    (folder / f"{name}{LABELS}").write_text("".join(f"{label}\n" for label in labels.tolist()))


def warm_nbytes(folder: Path) -> int:
    """Read all files of a folder, so that they lie in the page cache; return their bytes."""
    nbytes = 0
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while block := file.read(2**22):
                    nbytes += len(block)
    return nbytes


def call(python: Path, action: str, specification: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Run `loader_peers/measure.py` in a process of its own. Raises NotRunError with the reason it gave."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "result.json")
        log = Path(scratch, "log")
        command = [python, HERE / "loader_peers" / "measure.py", action, json.dumps(specification), result]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                if not result.exists():
                    raise NotRunError(f"hung: no result of {action} after {seconds:.0f} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its workers, and itself where it hangs
                process.wait()
        if result.exists():
            answer: dict[str, Any] = json.loads(result.read_text())
            return answer
        raise NotRunError(_reason(log.read_text(errors="replace")))
