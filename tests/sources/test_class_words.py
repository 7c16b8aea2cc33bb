"""Targets that are no classes, in the places where labels are read from: measured numbers, several labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.image_folders import fill, jpeg
from helpers.tar_files import write_tar

from tokenstore.errors import SourceError
from tokenstore.sources import Source, open_source

Targets = Sequence[str]


def in_csv(folder: Path, targets: Targets) -> Source:
    """Open a folder of images whose file of labels has these."""
    fill(folder / "images", *(f"{number}.jpg" for number in range(len(targets))))
    rows = "".join(f'{number}.jpg,"{target}"\n' for number, target in enumerate(targets))
    (folder / "labels.csv").write_text(f"path,label\n{rows}")
    return open_source(folder / "images", labels=folder / "labels.csv")


def in_tar(folder: Path, targets: Targets) -> Source:
    """Open a tar file whose `.cls` members have these."""
    members: dict[str, bytes | str | int] = {}
    for number, target in enumerate(targets):
        members |= {f"{number}.jpg": jpeg(), f"{number}.cls": target}
    return open_source(write_tar(folder / "shard.tar", members))


def in_parquet(folder: Path, targets: Targets) -> Source:
    """Open a Parquet file with a column of these as texts."""
    table = pa.table({"image": [jpeg()] * len(targets), "label": list(targets)})
    pq.write_table(table, folder / "images.parquet")
    return open_source(folder / "images.parquet")


PLACES = pytest.mark.parametrize("place", [in_csv, in_tar, in_parquet])


@PLACES
@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (["0.8145", "0.25", "-1.5"], "numbers that are not whole, such as '0.8145'"),
        (["1e-3", "2", ".5"], "numbers that are not whole, such as '1e-3'"),
        (["0.8145", "0.25", "unknown"], "numbers that are not whole, such as '0.8145'"),
        (["1.0", "nan", "3.0"], "whole numbers with gaps, such as 'nan'"),
        (["cat", "cat;dog", "bird"], "several labels of one sample, such as 'cat;dog'"),
        (["cat", "cat | dog", "bird"], "several labels of one sample, such as 'cat | dog'"),
        (["cat", "cat,dog", "bird"], "several labels of one sample, such as 'cat,dog'"),
        (["3", "1 3", "2"], "several labels of one sample, such as '1 3'"),
        (["3", "1,3", "2"], "several labels of one sample, such as '1,3'"),
        (["['cat', 'dog']", "['cat']", "[]"], "several labels of one sample"),
        (["cat\ndog", "cat", "dog"], "several labels of one sample"),
    ],
)
def test_targets_that_are_no_classes_are_refused(
    tmp_path: Path, place: Callable[[Path, Targets], Source], targets: Targets, found: str
) -> None:
    with pytest.raises(SourceError, match="expected a class as each label") as caught:
        place(tmp_path, targets)
    assert found in str(caught.value)
    assert "no_labels=True" in str(caught.value)
    assert [parameter.name for parameter in caught.value.parameters][-1] == "no_labels"


@PLACES
@pytest.mark.parametrize(
    "names",
    [
        ["maillot", "maillot, tank suit", "tench, Tinca tinca"],
        ["v1.0", "v2.5", "v3"],
        ["B, 52", "747-400", "7 up"],
        ["none", "cat", "1"],
        ["no;", "|", "cat"],
        ["0.5mm", "1.5mm", "2 mm"],
    ],
)
def test_names_of_classes_are_left_alone(
    tmp_path: Path, place: Callable[[Path, Targets], Source], names: Targets
) -> None:
    assert place(tmp_path, names).class_names == tuple(sorted(names))


@PLACES
def test_whole_floats_are_classes(tmp_path: Path, place: Callable[[Path, Targets], Source]) -> None:
    source = place(tmp_path, ["3.0", "0.", "1"])
    labels = source.splits["train"].labels(0, 3)
    assert labels is not None
    assert (labels.tolist(), source.class_names) == ([3, 0, 1], None)


def test_a_folder_is_a_class_whatever_its_name(tmp_path: Path) -> None:
    fill(tmp_path, "0.5/a.jpg", "1.5/b.jpg", "cat;dog/c.jpg")
    assert open_source(tmp_path).class_names == ("0.5", "1.5", "cat;dog")
