"""The models of other libraries, in a local folder or on the Hugging Face hub: opened, read and checked.

Only JSON and safetensors files are read: no pickles, and no code that comes with a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import safetensors
import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from torch import Tensor

from tokenstore.errors import TokenizerError
from tokenstore.networks.checkpoints import SUFFIXES
from tokenstore.texts import shortened
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer

CONFIG = "config.json"
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
HUB_TIMEOUT = 10.0
"""The seconds to wait for the hub's first answer before only its local cache is used."""


class Files(Protocol):
    """The files of a local folder or of a repository."""

    @property
    def where(self) -> str:
        """The user's name for the files."""

    def get(self, name: str) -> Path | None:
        """Return the local path of a file, fetched if need be; None if the file does not exist."""

    def listing(self) -> str:
        """Return the known contents, for error messages."""


@dataclass(frozen=True)
class LocalFiles:
    """The files of a local folder."""

    root: Path
    where: str

    def get(self, name: str) -> Path | None:
        """Return the local path of a file; None if the file does not exist."""
        path = self.root / name
        return path if path.is_file() else None

    def listing(self) -> str:
        """Return the known contents, for error messages."""
        return shortened(sorted(path.name for path in self.root.iterdir()), 12) or "nothing"


@dataclass(frozen=True)
class HubFiles:
    """The files of a repository of the Hugging Face hub, each fetched when it is requested."""

    where: str

    def get(self, name: str) -> Path | None:
        """Return the local path of a fetched file; None if the file does not exist."""
        try:
            return Path(hf_hub_download(self.where, name))
        except Exception as error:  # the client's errors are of many classes that change
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                return None
            raise TokenizerError(
                f"{self.where}: expected {name} from the Hugging Face hub, found that it could not be "
                f"fetched ({reason(error)}); try again, or name a local folder"
            ) from error

    def listing(self) -> str:
        """Return the known contents, for error messages."""
        return "no such file on the Hugging Face hub"


def _hub_files(repository: str) -> Files:
    """Return the files on the hub, or in its local cache if the hub does not answer."""
    # subtle: asked for this first, because for a file the client tries again for half a minute
    try:
        HfApi().model_info(repository, timeout=HUB_TIMEOUT)
        return HubFiles(repository)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise TokenizerError(
            f"{repository}: expected a local folder or a model on the Hugging Face hub that you may read, "
            f"found neither ({reason(error)}); check the name, or log in with `hf auth login`"
        ) from error
    except Exception as error:  # as above
        root = _cached(repository)
        if root is None:
            raise TokenizerError(
                f"{repository}: expected a local folder or a model on the Hugging Face hub, found no such "
                f"folder, none in the hub's local cache, and no answer of the hub ({reason(error)}); name "
                "the folder that holds the model, or fetch it where there is a network"
            ) from error
        return LocalFiles(root, f"{repository} (as cached: the Hugging Face hub does not answer)")


def _cached(repository: str) -> Path | None:
    """Return the folder of a repository in the hub's local cache; None if it is not there."""
    try:
        return Path(snapshot_download(repository, ignore_patterns="*", local_files_only=True))
    except Exception:  # the client's errors are of many classes that change
        return None


@dataclass(frozen=True)
class ModelFolder:
    """The folder of a model: its config and the files beside."""

    files: Files
    subfolder: str
    path: Path
    """The local folder of the config, and of other files once they were requested."""
    config: Mapping[str, Any]

    @property
    def where(self) -> str:
        """The user's name for the folder."""
        return f"{self.files.where}#{self.subfolder}" if self.subfolder else self.files.where

    def get(self, name: str) -> Path | None:
        """Return the local path of a file beside the config; None if it does not exist."""
        return self.files.get(str(PurePosixPath(self.subfolder) / name))


def open_model(
    argument: str,
    key: str,
    expected: Collection[str] | None,
    subfolders: Sequence[str] = (),
    *,
    fetch: bool = True,
) -> ModelFolder:
    """Open the model at `FOLDER`, `ORG/NAME` on the hub, or in a sub-folder of either, `...#SUBFOLDER`.

    Without `#SUBFOLDER` the first of the folder itself and `subfolders` is taken whose config has one of
    the expected values at `key`, or any where None are expected. Without `fetch`, only the hub's local cache
    is looked into. Raises TokenizerError where there is none.
    """
    files, subfolder = _files_of(argument, fetch)
    others = []
    for place in ("", *subfolders) if subfolder is None else (subfolder,):
        path = files.get(str(PurePosixPath(place) / CONFIG))
        if path is None:
            continue
        config = read_json(path)
        kind = config.get(key)
        if (expected is None and key in config) or (isinstance(kind, str) and kind in (expected or ())):
            return ModelFolder(files, place, path.parent, config)
        others.append(f"{kind!r} in {PurePosixPath(place) / CONFIG}")
    if others:
        raise TokenizerError(
            f"{files.where}: expected a config with {key} {' or '.join(sorted(expected or ())) or 'in it'}, "
            f"found {', '.join(others)}; name a folder that holds such a model"
        )
    tried = f"{subfolder}/{CONFIG}" if subfolder else CONFIG
    if subfolder is None and subfolders:
        tried += f", there or in {'/, '.join(subfolders)}/"
    raise TokenizerError(
        f"{files.where}: expected {tried}, found {files.listing()}; name the folder that save_pretrained "
        "wrote"
    )


def _files_of(argument: str, fetch: bool = True) -> tuple[Files, str | None]:
    """Return a model's files, and the requested sub-folder; from the hub only if it may `fetch`."""
    whole = Path(argument).expanduser()
    if whole.is_dir():
        return LocalFiles(whole, argument), None
    name, _, subfolder = argument.rpartition("#") if "#" in argument else (argument, "", "")
    if ".." in PurePosixPath(subfolder).parts or subfolder.startswith("/"):
        raise TokenizerError(f"{argument}: expected a sub-folder behind the #, found {subfolder!r}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return LocalFiles(folder, name), subfolder or None
    if folder.exists():
        raise TokenizerError(f"{name}: expected the folder of a model, found a file; name its folder")
    if not HUB_ID.fullmatch(name):
        raise TokenizerError(
            f"{name}: expected the folder of a model or the id ORG/NAME of one on the Hugging Face hub, "
            "found no such folder; check the path"
        )
    if fetch:
        return _hub_files(name), subfolder or None
    root = _cached(name)
    if root is None:
        raise TokenizerError(
            f"{name}: expected the folder of a model, or one in the local cache of the Hugging Face hub, "
            "found neither; a file names it, and nothing is fetched because a file says so"
        )
    return LocalFiles(root, f"{name} (as cached)"), subfolder or None


def checkpoint_at(argument: str) -> Path:
    """Return the local path of a checkpoint: a file, the only one in a folder, or FOLDER#FILE or HUB-ID#FILE.

    Raises TokenizerError for a folder with none or several, and where folder or hub has no such file. Any
    other path is returned as it is, whatever is there.
    """
    path = Path(argument).expanduser()
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if len(names) != 1:
            raise TokenizerError(
                f"{argument}: expected a checkpoint file, or a folder with one, found "
                f"{shortened(names) or 'none'}; name the file in it"
            )
        return path / names[0]
    if path.exists() or "#" not in argument:
        return path
    files, name = _files_of(argument)
    fetched = None if name is None else files.get(name)
    if fetched is None:
        raise TokenizerError(f"{argument}: expected a file {name!r} there, found {files.listing()}")
    return fetched


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; raise TokenizerError if the file holds anything else."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: expected JSON, found something else ({reason(error)})") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def weight_files(folder: ModelFolder, stem: str, part: str = "") -> list[Path]:
    """Return local paths of a model's safetensors files: one, or the shards that its index names.

    Of several shards only those are fetched that hold tensors with `part` in their names. Raises
    TokenizerError where there are none.
    """
    single = folder.get(f"{stem}.safetensors")
    if single is not None:
        return [single]
    index = folder.get(f"{stem}.safetensors.index.json")
    if index is None:
        others = sorted(path.name for path in folder.path.iterdir() if path.name != CONFIG)
        raise TokenizerError(
            f"{folder.where}: expected weights {stem}.safetensors, found {shortened(others) or 'none'}; "
            "pickles (.bin) are never read: save the model again with save_pretrained(..., "
            "safe_serialization=True)"
        )
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(shard, str) for shard in names.values()):
        raise TokenizerError(f"{index}: expected a weight_map of tensors to files, found {names!r:.80}")
    shards = []
    for shard in sorted({shard for name, shard in names.items() if part in name}):
        path = folder.get(shard) if Path(shard).name == shard else None
        if path is None:
            raise TokenizerError(
                f"{folder.where}: expected the shard {shard!r} that its index names, found none"
            )
        shards.append(path)
    return shards


def read_tensors(folder: ModelFolder, stem: str, part: str = "") -> dict[str, Tensor]:
    """Read the tensors of a model's safetensors files by name, those of floats in float32.

    Of a larger model only those with `part` in their names, by what stands behind it. Raises
    TokenizerError where there are none, or where one is damaged or not finite.
    """
    tensors = {}
    for path in weight_files(folder, stem, part):
        with open_safetensors(path) as file:
            for name in file.keys():  # noqa: SIM118
                if part not in name:
                    continue
                tensor = file.get_tensor(name)
                if tensor.is_floating_point():
                    tensor = tensor.float()
                tensors[name.partition(part)[2] if part else name] = tensor
    check_finite(folder.where, tensors)
    return tensors


@contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file; raise TokenizerError if it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        raise TokenizerError(
            f"{path}: expected a safetensors file, found a damaged one ({reason(error)}); fetch or save it "
            "again"
        ) from error


def load_diffusers(folder: ModelFolder, model_class: Any) -> Any:
    """Load a diffusers model of that class from its folder, in float32 and eval mode.

    Raises TokenizerError where weights are absent, damaged, not finite, or not those its config asks for.
    """
    if folder.config.get("quantization_config"):
        raise TokenizerError(
            f"{folder.where}: expected plain weights, found quantised ones; use the original"
        )
    stored_nbytes = 0
    for path in weight_files(folder, "diffusion_pytorch_model"):
        stored_nbytes += path.stat().st_size
        with open_safetensors(path):
            pass
    try:
        with torch.device("meta"):  # subtle: a few bytes of config can ask for any amount of memory
            asked = model_class.from_config(dict(folder.config)).state_dict()
        numbers = sum(tensor.numel() for tensor in asked.values())
        if numbers > stored_nbytes:
            raise ValueError(
                f"{CONFIG} asks for {numbers:,} numbers, the weights have {stored_nbytes:,} bytes"
            )
        with torch.random.fork_rng(devices=[]):  # subtle: weights are drawn before they are read
            model, report = model_class.from_pretrained(
                str(folder.path),
                local_files_only=True,
                use_safetensors=True,
                torch_dtype=torch.float32,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
    except Exception as error:  # a config that makes no sense is answered with nearly any exception
        raise TokenizerError(
            f"{folder.where}: expected a {model_class.__name__} whose weights fit its config, found one that "
            f"cannot be loaded ({reason(error)})"
        ) from error
    check_names(folder.where, report["missing_keys"], report["unexpected_keys"])
    check_finite(folder.where, model.state_dict())
    return model.eval()


def check_names(where: str, missing: Collection[str], unexpected: Collection[str]) -> None:
    """Raise TokenizerError unless weights lack no tensor and have none too many."""
    if missing or unexpected:
        raise TokenizerError(
            f"{where}: expected the tensors that {CONFIG} asks for, found {len(missing)} missing "
            f"({shortened(sorted(missing))}) and {len(unexpected)} unexpected "
            f"({shortened(sorted(unexpected))}); config and weights are of different models"
        )


def check_finite(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise TokenizerError where a tensor holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise TokenizerError(
                f"{where}: tensor {name!r}: expected finite numbers, found NaN or infinity; the weights are "
                "damaged or overflowed in half precision"
            )


def try_out(tokenizer: ImageTokenizer, where: str, decodes: bool = True) -> None:
    """Raise TokenizerError unless an image of two positions is encoded, and decoded if it can be."""
    side = tokenizer.stride
    image = torch.zeros((1, 3, 2 * side, side), dtype=torch.uint8)
    try:
        codes = tokenizer.encode(image)
        shapes = [tuple(codes.shape)] + ([tuple(tokenizer.decode(codes).shape)] if decodes else [])
    except Exception as error:  # of whatever class the library's layers raise
        raise TokenizerError(
            f"{where}: expected a model of RGB images with a code for {side}x{side} pixels, found one that "
            f"cannot take them ({reason(error)})"
        ) from error
    expected = [(1, 2, 1), tuple(image.shape)][: len(shapes)]
    if shapes != expected:
        raise TokenizerError(f"{where}: expected codes and an image of shapes {expected}, found {shapes}")


def whole_positions(side: int, stride: int) -> int:
    """Return the least multiple of the stride that is not smaller than a side in pixels."""
    return max(1, -(-side // stride)) * stride


def reason(error: BaseException) -> str:
    """Return an exception of another library as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
