"""A report has the figures of the other commands, in a page that needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.brightness import BrightnessTokenizer
from helpers.brightness_stores import converted
from helpers.stores import Samples, random_codes, write_store
from PIL import Image
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.audit.columns import StatsOptions
from tokenstore.audit.originals import open_images
from tokenstore.audit.quality import measure_quality
from tokenstore.audit.report import gathering, observing, page
from tokenstore.audit.report import report as report_module
from tokenstore.audit.stats import audit_store
from tokenstore.errors import ArgumentError, DamageError, SourceError, StoreError, TokenizerError
from tokenstore.format.store_fields import TokenizerIdentity
from tokenstore.format.tables import Skip

HOSTILE = "</script><script>alert(1)</script>"


def plain(values: Any) -> Any:
    """Return values as JSON gives them back."""
    return json.loads(json.dumps(values))


@pytest.fixture
def codes_store(tmp_path: Path) -> Path:
    """Write a store of codes with a leak from train into val, skipped samples and a column."""
    train, val = random_codes(300, (8, 8), 391), random_codes(80, (8, 8), 391, seed=1)
    val[7], train[20] = train[5], train[3]
    train[21] = train[3]
    train[21, 0, 0] ^= 1  # one code of 64 is another: a near pair
    skipped = [Skip(300 + n, f"train/bad{n}.png", f"broken at byte {n}") for n in range(3)]
    column = {"weight": np.linspace(-1, 2, 300, dtype=np.float32)}
    write_store(
        tmp_path / "codes",
        {
            "train": Samples(train, (np.arange(300) % 7).astype(np.int32), column, skipped),
            "val": Samples(val, (np.arange(80) % 5).astype(np.int32)),
        },
        391,
        class_names=(HOSTILE, *(f"class {n}" for n in range(7))),
    )
    return tmp_path / "codes"


def test_the_figures_are_those_of_the_other_calls(codes_store: Path) -> None:
    made = tokenstore.report(codes_store, verify=True)
    (found,) = plain(made.to_dict())["stores"]
    assert found["stats"] == plain(tokenstore.stats(codes_store, shuffle=True).to_dict())
    assert found["verify"] == plain(tokenstore.verify(codes_store).to_dict())
    manifest = plain(tokenstore.info(codes_store).to_dict()["manifest"])
    assert found["manifest"] == {name: value for name, value in manifest.items() if name != "files"}
    duplicates = tokenstore.dedupe(codes_store, near=0.9)
    counts = duplicates.duplicates.counts(duplicates.duplicates.exact)
    assert {(e["first_split"], e["second_split"]): e["pairs"] for e in found["duplicates"]["exact"]} == counts
    assert counts == {("train", "train"): 1, ("train", "val"): 1}
    assert found["duplicates"]["removed"] == dict(duplicates.removed)
    assert [each["pairs"] for each in found["duplicates"]["near_pairs"]] == [1]
    assert found["duplicates"]["examples"][0] == {
        "first_split": "train",
        "first_row": 5,
        "second_split": "val",
        "second_row": 7,
        "share": 1.0,
    }


def test_reconstructions_are_compared_as_stats_compares_them(
    store: tokenstore.TokenStore, images: Path
) -> None:
    tokenizer = BrightnessTokenizer()
    made = tokenstore.report(store, tokenizer=tokenizer, quality=5)
    source = open_images(store.manifest, images)
    expected = measure_quality(store, tokenizer, source, 5)
    (found,) = made.to_dict()["stores"]
    assert found["quality"] == {name: dict(vars(split)) for name, split in expected.items()}
    assert len(made.stores[0].pictures.worst) == 5
    sheet = made.stores[0].pictures.sheet
    assert [picture.row for picture in sheet] == list(range(9))
    assert all((picture.rebuilt == picture.row).all() for picture in sheet)
    assert all((picture.original == picture.row).all() for picture in sheet)


def test_the_page_is_one_file_that_loads_nothing_and_escapes_names(codes_store: Path, tmp_path: Path) -> None:
    made = tokenstore.report(codes_store, out=tmp_path / "page.html", verify=True)
    text = (tmp_path / "page.html").read_text()
    assert made.nbytes == len(text.encode()) <= page.MAX_NBYTES
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)""", text)
    assert "url(http" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert HOSTILE not in text
    assert "&lt;/script&gt;" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    targets = {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)}
    assert targets <= set(ids)
    assert "broken at byte 0" in text
    assert "Every byte is as it was written" in text


def test_what_cannot_be_had_is_missing_with_its_reason(codes_store: Path) -> None:
    made = tokenstore.report(codes_store, augment="seitpp")
    (store,) = made.stores
    assert store.pictures.sheet == []
    assert "tokenizer" in store.reasons["pictures"]
    assert "ready codes" in store.reasons["originals"]
    assert "No pictures: which tokenizer made the codes?" in made.html()
    assert made.to_dict()["stores"][0]["missing"] == store.reasons


def test_what_the_caller_names_has_to_be_there(
    store: tokenstore.TokenStore, tmp_path: Path, codes_store: Path
) -> None:
    with pytest.raises(SourceError, match="ready codes"):
        tokenstore.report(codes_store, images=tmp_path)
    with pytest.raises(SourceError):
        tokenstore.report(store, images=tmp_path / "nowhere", tokenizer=BrightnessTokenizer())
    (tmp_path / "others").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "others" / "other.png")
    with pytest.raises(SourceError, match="expected images to compare the store with, found none"):
        tokenstore.report(store, images=tmp_path / "others", tokenizer=BrightnessTokenizer())
    with pytest.raises(TokenizerError):
        tokenstore.report(store, tokenizer="default")


def test_two_stores_are_side_by_side(codes_store: Path, store: tokenstore.TokenStore) -> None:
    made = tokenstore.report(codes_store, store, tokenizer=None)
    text = made.html()
    assert [each["location"] for each in made.to_dict()["stores"]] == [
        str(codes_store),
        str(store.files.storage),
    ]
    assert text.count('<span class="badge">A</span>') == text.count('<span class="badge">B</span>') > 5
    assert "codes and store" in text


def test_of_many_codes_a_part_is_counted_and_the_page_says_so(
    codes_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MOST_CODES", 64 * 190)
    monkeypatch.setattr(observing, "ENTROPY_CODES", 64 * 200)
    seen: dict[str, tuple[int, int]] = {}
    made = tokenstore.report(
        codes_store, on_progress=lambda step, done, total: seen.update({step: (done, total)})
    )
    assert all(done == total for done, total in seen.values())
    (store,) = made.stores
    assert store.is_sampled
    assert store.stats.splits["train"].counted_samples == 128
    assert "128 of 300 in train" in made.html()
    entropy = store.splits["train"].entropy
    assert entropy is not None
    assert entropy.samples == 128  # all that were counted, since so many are wanted
    assert (
        store.stats.splits["train"].class_counts == tokenstore.stats(codes_store).splits["train"].class_counts
    )


def test_pictures_get_smaller_until_the_page_is_small_enough(
    store: tokenstore.TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tokenstore.report(store, tokenizer=BrightnessTokenizer())
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    large = [
        picture.__class__(**{**vars(picture), "rebuilt": noise}) for picture in made.stores[0].pictures.sheet
    ]
    made.stores[0].pictures.sheet[:] = large
    whole = len(made.html())
    monkeypatch.setattr(page, "MAX_NBYTES", whole // 2)
    assert len(made.html()) <= whole // 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"samples": 0},
        {"quality": -1},
        {"adapter": "file"},
        {"augment": "all"},
        {"near": 2},
        {"out": "page.txt"},
    ],
)
def test_arguments_without_use_are_refused(codes_store: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        tokenstore.report(codes_store, **arguments)


def test_a_report_of_no_store_or_of_three_is_refused(codes_store: Path) -> None:
    for stores in ([], [codes_store] * 3):
        with pytest.raises(ArgumentError, match="one store, or two"):
            tokenstore.report(*stores)


def damage(folder: Path, offset: int = 10) -> None:
    """Change a byte of the one shard of an array in a folder."""
    (shard,) = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    data = bytearray(shard.read_bytes())
    data[offset] ^= 255
    shard.write_bytes(data)


def test_a_damaged_chunk_is_named_and_all_others_are_counted(codes_store: Path, tmp_path: Path) -> None:
    sound = tokenstore.stats(codes_store).splits
    damage(codes_store / "train" / "tokens")
    with pytest.raises(DamageError):
        tokenstore.stats(codes_store)
    made = tokenstore.report(codes_store, out=tmp_path / "page.html", verify=True)
    (store,) = made.stores
    codes = tokenstore.open(codes_store)["train"].read("tokens", np.arange(64, 300))
    (use,) = store.stats.splits["train"].codebooks
    assert store.stats.splits["train"].counted_samples == 300 - 64
    assert sum(count for _, count in use.top_codes) == np.sort(np.bincount(codes.ravel()))[-10:].sum()
    assert use.used == len(np.unique(codes))
    assert store.stats.splits["val"].codebooks == sound["val"].codebooks
    assert store.stats.splits["train"].class_counts == sound["train"].class_counts
    assert [column.name for column in store.splits["train"].columns] == ["weight"]
    assert store.duplicates is None
    assert all("train/tokens" in problem for problem in store.damage)
    assert store.verification is not None
    assert set(store.verification.problems) <= set(made.problems)
    page = (tmp_path / "page.html").read_text()
    for part in (
        "This store is damaged",
        "236 of 300 in train",
        "Duplicates were not looked for",
    ):
        assert part in page
    assert made.to_dict()["stores"][0]["damage"] == list(store.damage)


def test_each_damaged_chunk_is_told_once(codes_store: Path) -> None:
    damage(codes_store / "train" / "tokens")
    told: list[DamageError] = []
    audit = audit_store(tokenstore.open(codes_store), StatsOptions(), on_damage=told.append)
    assert audit.splits["train"].counted_samples == 300 - 64
    assert len(told) == 1


@pytest.mark.parametrize(
    ("place", "words"),
    [("labels", "The labels of train cannot be read"), ("weight", "The columns cannot be read")],
)
def test_damaged_labels_and_columns_are_named(codes_store: Path, place: str, words: str) -> None:
    damage(codes_store / "train" / place, 3)
    made = tokenstore.report(codes_store)
    assert any(f"train/{place}" in str(problem) for problem in made.problems)
    assert made.stores[0].stats.splits["train"].counted_samples == 300
    assert words in made.html()


def test_sound_samples_of_a_damaged_store_are_drawn(images: Path, tmp_path: Path) -> None:
    converted(images, tmp_path / "chunks", chunk_samples=3)
    damage(tmp_path / "chunks" / "train" / "tokens", 0)
    made = tokenstore.report(tmp_path / "chunks", tokenizer=BrightnessTokenizer(), augment="seitpp")
    sheet = made.stores[0].pictures.sheet
    assert [picture.row for picture in sheet] == [3, 4, 5, 6, 7, 8]
    assert all((picture.rebuilt == picture.row).all() for picture in sheet)
    assert made.problems
    assert "Reconstructions were not compared" in made.html()


def test_one_store_of_two_is_shown_if_the_other_cannot_be_opened(codes_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    made = tokenstore.report(tmp_path / "nothing", codes_store, out=out)
    assert [store.info.location for store in made.stores] == [str(codes_store)]
    assert list(made.unread) == [str(tmp_path / "nothing")]
    assert "nothing cannot be shown" in out.read_text()
    assert made.to_dict()["unread"] == {place: str(error) for place, error in made.unread.items()}
    (codes_store / "val" / "zarr.json").write_text("{}")
    (codes_store / "zarr.json").write_text("{}")
    out.write_text("old")
    with pytest.raises(StoreError):
        tokenstore.report(tmp_path / "nothing", codes_store, out=out)
    assert out.read_text() == "old"


def test_the_command_says_what_is_wrong_and_exits_with_1(codes_store: Path, tmp_path: Path) -> None:
    damage(codes_store / "train" / "tokens")
    out = tmp_path / "page.html"
    result = CliRunner().invoke(cli, ["report", str(codes_store), "-o", str(out)])
    assert result.exit_code == 1
    assert "open it in a browser" in result.stdout
    assert "problem: " in result.stderr
    assert "train/tokens" in result.stderr
    result = CliRunner().invoke(cli, ["report", str(codes_store), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["stores"][0]["damage"][0] in result.stderr


def test_a_store_without_samples_has_a_page(tmp_path: Path) -> None:
    write_store(tmp_path / "empty", {"train": (np.empty((0, 4, 4), np.uint8),)}, 16)
    assert "the store has no samples" in tokenstore.report(tmp_path / "empty").html()


def test_lists_video_and_several_codebooks_have_pages(tmp_path: Path) -> None:
    for name, grid, sizes in (("list", (30,), 64), ("video", (3, 4, 5), 64), ("books", (2, 4, 4), (64, 8))):
        write_store(tmp_path / name, {"train": (random_codes(40, grid, sizes),)}, sizes)
        (found,) = tokenstore.report(tmp_path / name).stores
        entropy = found.splits["train"].entropy
        assert entropy is not None
        assert entropy.bits.shape == {"list": (1, 30), "video": (4, 15), "books": (4, 4)}[name]
    assert len(found.splits["train"].curves) == 2


def test_the_command_makes_the_page_of_the_call_and_its_figures(codes_store: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["report", str(codes_store), "-o", str(tmp_path / "a.html")])
    assert result.exit_code == 0, result.output
    assert "open it in a browser" in result.output
    tokenstore.report(codes_store, out=tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    printed = CliRunner().invoke(cli, ["report", str(codes_store), "--json", "--near", "0.8"]).stdout
    assert json.loads(printed) == plain(tokenstore.report(codes_store, near=0.8).to_dict())
    assert json.loads(printed)["schema_version"] == report_module.SCHEMA_VERSION == 1
    wrong = CliRunner().invoke(cli, ["report", str(codes_store), "-o", str(tmp_path / "a.txt")])
    assert wrong.exit_code == 2
    assert ".html" in wrong.output


def test_steps_of_the_work_are_reported(codes_store: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    tokenstore.report(codes_store, on_progress=lambda step, done, total: seen.update({step: (done, total)}))
    assert {"counting codes", "columns", "bits of samples", "reading codes"} <= set(seen)
    assert all(done == total for done, total in seen.values())
    assert TokenizerIdentity("test") == tokenstore.open(codes_store).manifest.tokenizer
