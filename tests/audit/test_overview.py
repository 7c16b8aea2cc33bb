"""The overview that `stats` prints and a report shows first is one, and of plain divisions."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.stores import Samples, edit_root, random_codes, write_store
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.texts import counted, human_bytes, percent


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Write a store of two splits and three classes."""
    codes, labels = random_codes(1200, (4, 6), 100), (np.arange(1200) % 3).astype(np.int32)
    splits = {"train": Samples(codes, labels), "val": Samples(codes[:1], labels[:1])}
    write_store(tmp_path / "codes.zarr", splits, 100, class_names=("a", "b", "c"))
    return tmp_path / "codes.zarr"


def words(text: str) -> str:
    """Return a text with single spaces between its words."""
    return " ".join(text.split())


def test_the_command_and_the_page_show_every_part_of_it(place: Path) -> None:
    shown = tokenstore.stats(place).overview
    printed = words(CliRunner().invoke(cli, ["stats", str(place)]).output)
    page = tokenstore.report(place, samples=1, near=None).html()
    read = words(html.unescape(re.sub(r"<[^>]*>", " ", page)))
    texts = [shown.headline, *(text for figure in shown.figures for text in figure)]
    texts += [f"{name} {value}" for name, value in shown.facts.items()]
    texts += [human_bytes(bar.value) for bar in shown.parts]
    assert len(shown.figures) == 4  # the size, that of a million, bits a code, and used codes
    assert [text for text in texts if words(text) not in printed] == []
    assert [text for text in texts if words(text) not in read] == []
    assert printed.startswith(shown.headline)


def test_json_has_its_figures(place: Path) -> None:
    audit = tokenstore.stats(place)
    values = json.loads(CliRunner().invoke(cli, ["stats", str(place), "--json"]).output)
    assert values == json.loads(json.dumps(audit.to_dict()))
    shown, train = values["overview"], values["splits"]["train"]
    assert shown["headline"] == (
        "1,201 samples of 3 classes (1,200 in train, 1 in val): grids of 4 x 6 codes by test"
    )
    assert shown["facts"]["place"] == str(place)
    assert shown["facts"]["codec"] == values["codec"]
    assert shown["source_share"] is None
    assert sum(shown["part_shares"].values()) == pytest.approx(1)
    assert shown["bits_per_code"]["train"] == {
        "stored": train["bits_per_code"],
        "order-0 entropy": train["entropy_bits"],
        "fixed width": train["fixed_width_bits"],
    }


def test_shares_are_those_of_the_images_of_fixed_width_and_of_the_entropy(
    store: tokenstore.TokenStore, images: Path
) -> None:
    audit = tokenstore.stats(store)
    nbytes = sum(path.stat().st_size for path in images.rglob("*.png"))
    shown = audit.overview
    assert shown.source_share == pytest.approx(audit.nbytes / nbytes)
    assert [(bar.name, bar.value) for bar in shown.sizes] == [
        ("source images", nbytes),
        ("this store", audit.nbytes),
    ]
    split = audit.splits["train"]
    figures = {figure.name: figure for figure in shown.figures}
    assert figures["of the images"].value == percent(audit.nbytes / nbytes, 2)
    assert percent(split.bits_per_code / 8) in figures["bits a code"].remark
    assert percent(split.bits_per_code / split.entropy_bits) in figures["bits a code"].remark
    assert [bar.share for bar in shown.bits["train"]] == pytest.approx(
        [bits / max(split.bits_per_code, 8) for bits in (split.bits_per_code, split.entropy_bits, 8)]
    )


def test_a_store_without_samples_has_an_overview(tmp_path: Path) -> None:
    write_store(tmp_path / "empty", {"train": (np.empty((0, 4, 4), np.uint8),)}, 16)
    shown = tokenstore.stats(tmp_path / "empty").overview
    assert shown.headline == "0 samples (0 in train): grids of 4 x 4 codes by test"
    assert shown.bits == {}
    assert [figure.name for figure in shown.figures] == ["size"]
    assert CliRunner().invoke(cli, ["stats", str(tmp_path / "empty")]).exit_code == 0


def test_nouns_agree_with_their_numbers_and_small_shares_stay_visible() -> None:
    assert [counted(number, "file") for number in (0, 1, 2, 1234)] == [
        "0 files",
        "1 file",
        "2 files",
        "1,234 files",
    ]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]
    assert [percent(share, 2) for share in (0.01234, 0.00001, 0, 1)] == [
        "1.23 %",
        "0.001 %",
        "0.00 %",
        "100.00 %",
    ]


@pytest.mark.parametrize(
    ("known", "expected"), [({"train": 900, "val": 100}, 1000), ({"train": 900}, None), ({}, None)]
)
def test_the_images_bytes_are_known_if_every_split_knows_its_own(
    place: Path, known: dict[str, int], expected: int | None
) -> None:
    def enter(root: dict[str, Any]) -> None:
        for name, split in root["attributes"]["tokenstore"]["splits"].items():
            split["source_bytes"] = known.get(name)

    edit_root(place, enter)
    audit = tokenstore.stats(place)
    assert audit.source_nbytes == expected
    share = audit.overview.source_share
    assert share == (None if expected is None else audit.nbytes / expected)
    assert ("of the images" in [figure.name for figure in audit.overview.figures]) == (expected is not None)
