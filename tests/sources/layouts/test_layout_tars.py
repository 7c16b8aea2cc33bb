"""Codes in tar files, as beside images; and pickles and raw buffers, which are refused with what to do."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from helpers.code_sources import converted, opened, read_everywhere
from helpers.layout_files import npy_bytes, random_codes, tar_bytes

from tokenstore.errors import SourceError
from tokenstore.sources import ImageSource, open_source

CODES = random_codes(9, 4, 5)


def members(codes: np.ndarray, ending: str = "tokens.npy", **more: Any) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for row, sample in enumerate(codes):
        found[f"{row:03}.{ending}"] = npy_bytes(sample.astype(np.int16))
        found[f"{row:03}.cls"] = b"%d" % (row % 3)
        found[f"{row:03}.json"] = b'{"caption": "photo %d"}' % row
        found |= {f"{row:03}.{name}": values[row] for name, values in more.items()}
    return found


def put(path: Path, content: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(content))
    return path


def test_members_of_codes_become_a_store_with_labels_and_columns(tmp_path: Path) -> None:
    for split in ("train", "val"):
        put(tmp_path / f"src/{split}-0.tar", members(CODES[:5]))
        put(tmp_path / f"src/{split}-1.tar", members(CODES[5:]))
    source = opened(tmp_path / "src", "tar")
    read_everywhere(source.splits["val"], CODES)
    store = converted(tmp_path / "src", tmp_path / "out", columns=["caption"])
    assert np.array_equal(store["val"].read("tokens", range(9)), CODES)
    assert store["val"].read("labels", range(9)).tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 0]
    assert store["val"].read("caption", [4, 5]).tolist() == ["photo 4", "photo 0"]


def test_another_member_is_taken_by_its_name_and_at_a_url(tmp_path: Path) -> None:
    path = put(tmp_path / "x.tar", members(CODES, "vq_feat.npy"))
    with pytest.raises(
        SourceError, match=r"found members .vq_feat.npy, .cls, .json. token_column='vq_feat.npy'"
    ):
        open_source(path)
    read_everywhere(opened(path, "tar", token_column="vq_feat").splits["train"], CODES)
    fsspec.filesystem("memory").pipe_file("memory://layouts/x.tar", path.read_bytes())
    read_everywhere(
        opened("memory://layouts/x.tar", "tar", token_column="vq_feat.npy").splits["train"], CODES
    )


def test_images_beside_codes_are_images_unless_the_codes_are_named(tmp_path: Path) -> None:
    path = put(tmp_path / "x.tar", members(CODES, jpg=[b"x"] * 9))
    assert isinstance(open_source(path), ImageSource)
    read_everywhere(opened(path, "tar", token_column="tokens").splits["train"], CODES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"003.tokens.npy": npy_bytes(CODES[0][:2].astype(np.int16))},
            "expected arrays of one shape|several",
        ),
        ({"003.tokens.npy": npy_bytes(CODES[0])}, "differ in their first size alone"),
        ({"003.tokens.npy": npy_bytes(np.array([None]))}, "003.tokens.npy: holds Python objects"),
        ({"003.tokens.npy": b"\x80\x04K\x01."}, "003.tokens.npy: expected the .npy format"),
        ({"000.tokens.npy": np.ones(20, "f2").tobytes()}, "a buffer without its header, as MaskGen writes"),
        ({"003.tokens.npy": None}, "sample '003' has no member .tokens.npy, unlike the first one"),
        ({"003.cls": None}, "samples without a label"),
        (
            {"003.tokens.npy": npy_bytes(CODES[0].astype(np.int16) - 2000)},
            "sample 3: expected codes 0.*found -",
        ),
    ],
)
def test_members_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, bytes | None], message: str
) -> None:
    content = {name: data for name, data in (members(CODES) | change).items() if data is not None}
    with pytest.raises(SourceError, match=message):
        open_source(put(tmp_path / "x.tar", content)).splits["train"].codes(0, 9)  # type: ignore[union-attr]


def test_latents_of_floats_are_no_codes(tmp_path: Path) -> None:
    content = {f"{row}.tokens.npy": npy_bytes(np.zeros((4, 4), "f4")) for row in range(3)}
    with pytest.raises(SourceError, match=r"float32 .*: latents, which are no codes"):
        open_source(put(tmp_path / "x.tar", content))


def run_line(message: str, folder: Path, out: Path) -> None:
    """Run the program in the line of an error, in a folder of its own."""
    program = message.partition('python -c "')[2].removesuffix('"').replace("FOLDER", str(folder))
    out.mkdir()
    with contextlib.chdir(out):  # a process of its own would import torch again
        exec(program, {})


def test_halton_maskgits_pickles_are_refused_with_a_line_that_converts_them(tmp_path: Path) -> None:
    folder = tmp_path / "codes/Train"
    folder.mkdir(parents=True)
    for row, sample in enumerate(CODES):
        (folder / f"{row:07}.pth").write_bytes(b"")
        torch.save((sample.astype(np.uint16), row % 3), folder / f"{row:07}.pth")
    for place in (folder, folder / "0000000.pth", folder.parent):
        with pytest.raises(SourceError, match=r"never opened.*Halton-MaskGIT") as caught:
            open_source(place)
    run_line(str(caught.value), folder, tmp_path / "out")
    source = opened(tmp_path / "out", "array")
    read_everywhere(source.splits["train"], CODES)
    assert source.splits["train"].labels(0, 9).tolist() == [row % 3 for row in range(9)]


def test_emu3s_and_open_muses_pickles_are_named_and_convert_too(tmp_path: Path) -> None:
    feature = tmp_path / "emu/feature"
    feature.mkdir(parents=True)
    for row, sample in enumerate(CODES):
        torch.save({"name": f"{row}", "images": torch.tensor(sample)}, feature / f"{row}.pth")
    with pytest.raises(SourceError, match=r"never opened.*Emu3") as caught:
        open_source(tmp_path / "emu")
    run_line(str(caught.value), feature, tmp_path / "out-emu")
    read_everywhere(opened(tmp_path / "out-emu", "array").splits["train"], CODES)
    muse = tmp_path / "muse"
    muse.mkdir()
    for row, sample in enumerate(CODES):
        torch.save(torch.tensor(sample), muse / f"{row}.codes.pth")
    content = {path.name: path.read_bytes() for path in sorted(muse.iterdir())}
    with pytest.raises(SourceError, match=r"never opened.*open-muse") as caught:
        open_source(put(tmp_path / "x.tar", content))
    run_line(str(caught.value), muse, tmp_path / "out-muse")
    read_everywhere(opened(tmp_path / "out-muse", "array").splits["train"], CODES)


def test_no_pickle_is_opened_on_the_way_to_its_refusal(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "opened",))

    for name in ("a.pkl", "a.pt", "a.pickle"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(SourceError, match=r"never opened"):
            open_source(tmp_path / name)
    assert not (tmp_path / "opened").exists()
