"""The symmetries of codes: written by conversions, and kept by whatever makes a store of stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from helpers.pictures import write_images
from helpers.stores import write_store
from helpers.symmetric_models import random_tokenizer
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.errors import StoreError, TokenizerError
from tokenstore.format import FLIP, TokenizerIdentity
from tokenstore.storage import open_storage
from tokenstore.tokenizers.encoder import symmetries_of
from tokenstore.tokenizers.pruned import prune
from tokenstore.writing.prune import prune_codebook

PARTNERS = np.array([0, 2, 1, 4, 3, 6, 5], np.int32)
CODES = np.array([[[0, 1], [3, 3]], [[1, 1], [6, 0]]] * 3, np.uint8)


def write_symmetric(place: Path, codes: npt.NDArray[np.uint8] = CODES, **spec: object) -> Path:
    vectors = np.arange(14, dtype=np.float32).reshape(7, 2)
    fields = {"symmetries": (FLIP,), "permutations": PARTNERS[None], **spec}
    identity = TokenizerIdentity("test", "ab" * 32)
    write_store(place, {"train": (codes,)}, 7, codebook=vectors, tokenizer=identity, **fields)
    return place


def flip_of(place: Path) -> list[int]:
    assert verify(str(place)).ok
    return tokenstore.open(place).symmetries[FLIP].tolist()


def test_copies_recoded_selected_and_merged_stores_keep_their_symmetries(tmp_path: Path) -> None:
    store = write_symmetric(tmp_path / "store")
    tokenstore.copy(store, tmp_path / "copied")
    tokenstore.recode(store, tmp_path / "recoded", codec="zstd")
    tokenstore.select(store, tmp_path / "selected", indices=[0, 2])
    tokenstore.merge(tmp_path / "merged", [store, tmp_path / "recoded"])
    tokenstore.copy(store, tmp_path / "appended")
    tokenstore.append(tmp_path / "appended", tmp_path / "selected")
    for name in ("appended", "copied", "recoded", "selected", "merged"):
        assert flip_of(tmp_path / name) == PARTNERS.tolist()


def test_info_names_the_symmetries_of_a_store(tmp_path: Path) -> None:
    store = write_symmetric(tmp_path / "store")
    shown = CliRunner().invoke(cli, ["info", str(store)])
    assert "flip: exact on tokens" in shown.output
    assert tokenstore.info(store).to_dict()["manifest"]["symmetries"] == ["flip"]


def test_stores_of_other_symmetries_are_not_merged_but_those_of_none_are(tmp_path: Path) -> None:
    one = write_symmetric(tmp_path / "one")
    other = write_symmetric(tmp_path / "other", permutations=np.arange(7, dtype=np.int32)[None])
    none = write_symmetric(tmp_path / "none", symmetries=(), permutations=None)
    with pytest.raises(StoreError, match="symmetries is"):
        tokenstore.merge(tmp_path / "wrong", [one, other])
    tokenstore.merge(tmp_path / "merged", [none, one])
    assert flip_of(tmp_path / "merged") == PARTNERS.tolist()


def test_pruning_keeps_the_partners_of_codes_that_occur(tmp_path: Path) -> None:
    store = write_symmetric(tmp_path / "store")
    prune_codebook(tokenstore.open(store), open_storage(tmp_path / "pruned"))
    pruned = tokenstore.open(tmp_path / "pruned")
    assert set(np.unique(CODES).tolist()) == {0, 1, 3, 6}
    assert pruned.manifest.tokenizer.kept_codes == ((0, 1, 2, 3, 4, 5, 6),)
    fewer = write_symmetric(tmp_path / "few", CODES[:, :1] % 2)
    prune_codebook(tokenstore.open(fewer), open_storage(tmp_path / "fewer"))
    assert tokenstore.open(tmp_path / "fewer").manifest.tokenizer.kept_codes == ((0, 1, 2),)
    assert flip_of(tmp_path / "fewer") == [0, 2, 1]


def test_a_conversion_stores_the_symmetries_of_its_tokenizer_and_pruned_it_keeps_them(tmp_path: Path) -> None:
    tokenizer = random_tokenizer()
    images = write_images(tmp_path / "images", 3, (64, 64))
    for pruned in (False, True):
        place = tmp_path / f"store{pruned}.zarr"
        tokenstore.convert(
            images,
            place,
            tokenizer=tokenizer,
            image_size=64,
            workers=0,
            no_labels=True,
            prune_codebook=pruned,
        )
        store = tokenstore.open(place)
        partners = torch.from_numpy(store.symmetries[FLIP].copy()).long()
        of_store = tokenizer
        if store.manifest.tokenizer.kept_codes is not None:
            of_store = prune(tokenizer, store.manifest.tokenizer.kept_codes)
            assert of_store.symmetries[FLIP].tolist() == partners.tolist()
        codes = torch.from_numpy(store["train"][:].astype(np.int64))
        mirrored = of_store.encode(of_store.decode(codes).flip(3))
        again = of_store.encode(of_store.decode(codes))
        assert torch.equal(mirrored, partners[again].flip(2))


def test_symmetries_of_kept_codes_that_lead_outside_are_none() -> None:
    tokenizer = random_tokenizer()
    assert symmetries_of(tokenizer)[0] == (FLIP,)
    assert symmetries_of(tokenizer, [[0, 1, 12, 13]])[1].tolist() == [[0, 1, 3, 2]]
    assert symmetries_of(tokenizer, [[0, 1, 12]]) == ((), None)
    assert dict(prune(tokenizer, [[0, 1, 12]]).symmetries) == {}


def test_written_codes_have_the_symmetries_of_their_tokenizer(tmp_path: Path) -> None:
    tokenizer = random_tokenizer()
    codes = np.zeros((2, 8, 8), np.uint8)
    tokenstore.write(tmp_path / "a", codes, tokenizer=tokenizer)
    assert tokenstore.open(tmp_path / "a").symmetries[FLIP].tolist() == tokenizer.symmetries[FLIP].tolist()
    tokenstore.write(tmp_path / "b", codes, codebook_size=60)
    assert dict(tokenstore.open(tmp_path / "b").symmetries) == {}


def test_ready_codes_that_are_related_to_a_tokenizer_get_its_symmetries(tmp_path: Path) -> None:
    tokenizer = random_tokenizer()
    codes = np.zeros((2, 8, 8), np.uint8)
    tokenstore.write(tmp_path / "ready", codes, codebook=tokenizer.codebook)
    for _ in range(2):
        tokenstore.relate(tmp_path / "ready", tokenizer)
        assert flip_of(tmp_path / "ready") == tokenizer.symmetries[FLIP].tolist()
    tokenstore.write(tmp_path / "some", codes, codebook=tokenizer.codebook[[0, 1, 12]])
    tokenstore.relate(tmp_path / "some", tokenizer)
    assert dict(tokenstore.open(tmp_path / "some").symmetries) == {}
    assert verify(str(tmp_path / "some")).ok


def test_a_tokenizer_of_wrong_symmetries_is_refused() -> None:
    class Wrong(type(random_tokenizer())):  # type: ignore[misc]
        @property
        def symmetries(self) -> dict[str, npt.NDArray[np.int32]]:
            return {FLIP: np.zeros(60, np.int32)}

    wrong = Wrong(random_tokenizer().network)
    with pytest.raises(TokenizerError, match="symmetries: flip: expected each code below 60"):
        symmetries_of(wrong)
