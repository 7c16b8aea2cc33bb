"""Data sets as the `datasets` library saves them: streams of Arrow, named by a file of state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.code_sources import converted, opened, read_everywhere
from helpers.layout_files import put_saved, random_codes

from tokenstore.errors import SourceError
from tokenstore.sources import open_source

CODES = random_codes(13, 4, 5)
LABELS = np.arange(13) % 3
FEATURES = {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
TABLE = pa.table(
    {
        "tokens": pa.array(CODES.tolist(), pa.list_(pa.list_(pa.int32(), 5))),
        "label": LABELS,
        "caption": [f"photo {row}" for row in range(13)],
    }
)


def test_the_files_of_one_split_become_a_store_with_names_and_captions(tmp_path: Path) -> None:
    path = put_saved(tmp_path / "src", TABLE, [7, 1, 5], FEATURES)
    read_everywhere(opened(path, "datasets").splits["train"], CODES)
    store = converted(path, tmp_path / "out", columns=["caption"])
    assert np.array_equal(store["train"].read("tokens", range(13)), CODES)
    assert np.array_equal(store["train"].read("labels", range(13)), LABELS)
    assert store["train"].read("caption", [0, 7, 12]).tolist() == ["photo 0", "photo 7", "photo 12"]
    assert store.manifest.class_names == ("a", "b", "c")


def test_splits_and_single_files_are_sources_too(tmp_path: Path) -> None:
    for split in ("train", "validation", "extra"):
        put_saved(tmp_path / "src" / split, TABLE.select(["tokens"]), [13])
    (tmp_path / "src/dataset_dict.json").write_text('{"splits": ["train", "validation", "extra"]}')
    source = opened(tmp_path / "src", "datasets")
    assert list(source.splits) == ["train", "val", "extra"]
    read_everywhere(source.splits["extra"], CODES)
    file = tmp_path / "src/train/data-00000-of-00001.arrow"
    read_everywhere(opened(file, "datasets", grid=(20,)).splits["train"], CODES.reshape(13, 20))


def test_the_library_itself_writes_what_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    whole = datasets.Dataset.from_dict({"tokens": CODES.tolist(), "label": LABELS.tolist()})
    whole.save_to_disk(tmp_path / "src")
    read_everywhere(opened(tmp_path / "src", "datasets").splits["train"], CODES)


def with_state(state: Any) -> Any:
    return lambda path: (path / "state.json").write_text(json.dumps(state))


def cut(nbytes: int) -> Any:
    def change(path: Path) -> None:
        file = path / "data-00000-of-00001.arrow"
        file.write_bytes(file.read_bytes()[:-nbytes])

    return change


def without_schema(path: Path) -> None:
    file = path / "data-00000-of-00001.arrow"
    data = file.read_bytes()
    file.write_bytes(data[8 + int.from_bytes(data[4:8], "little") :])


def files(*names: Any) -> dict[str, Any]:
    return {"_data_files": [{"filename": name} for name in names]}


NAME = "data-00000-of-00001.arrow"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_state(files("../x.arrow")), "expected the names of files in its own folder, each once"),
        (with_state(files("/etc/passwd")), "expected the names of files in its own folder"),
        (with_state(files(NAME, NAME)), "expected the names of files in its own folder, each once"),
        (with_state(files(3)), "expected the names of files in its own folder"),
        (with_state({}), "expected the names of files in its own folder"),
        (with_state([]), "expected an object in JSON: a list"),
        (with_state(files("gone.arrow")), "gone.arrow: no such file, which state.json names"),
        (with_state(files(NAME) | {"_indices_data_files": [1]}), "save it after flatten_indices"),
        (cut(1), "expected a stream of Arrow"),
        (cut(8), "cut off: it ends without the mark of a stream's end"),
        (cut(300), "expected a stream of Arrow"),
        (cut(1500), "expected a stream of Arrow"),
        (without_schema, "expected a message of the type 'schema' at byte 0, found 'record batch'"),
        (with_state(files("x" * 300)), "expected the names of files in its own folder"),
    ],
)
def test_damaged_data_sets_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    change(put_saved(tmp_path / "x", TABLE, [13]))
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tokens": [[1, 2], [3]]}, "expected lists of one length in all rows, found several"),
        ({"tokens": [[1, None], [3, 4]]}, "null"),
        ({"z": [[0.5], [1.5]]}, "expected a column of codes, lists of whole numbers, found z"),
        ({"tokens": [[1], [2]], "label": [1, None]}, "1 labels are null"),
        ({"tokens": [[1], [2]], "label": [1, -5]}, "expected labels 0"),
        ({"tokens": pa.array([], pa.list_(pa.int64()))}, "split train has no rows"),
        ({"tokens": [[1], [2]], "word": pa.array(["a", "b"]).dictionary_encode()}, "columns of dictionaries"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    table = pa.table(columns)
    with pytest.raises(SourceError, match=message):
        open_source(put_saved(tmp_path / "x", table, [len(table)]))


def test_negative_codes_and_replaced_files_end_the_conversion(tmp_path: Path) -> None:
    path = put_saved(tmp_path / "x", pa.table({"tokens": [[1, 2], [3, -4]]}), [2])
    split: Any = open_source(path).splits["train"]
    with pytest.raises(SourceError, match=r"sample 1: expected codes 0.*found -4"):
        split.codes(0, 2)
    (path / NAME).write_bytes((path / NAME).read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"was replaced after it was listed"):
        split.codes(0, 2)


def test_arrows_file_format_is_said_to_be_another(tmp_path: Path) -> None:
    with (tmp_path / "x.arrow").open("wb") as file, pa.ipc.new_file(file, TABLE.schema) as writer:
        writer.write_table(TABLE)
    with pytest.raises(SourceError, match=r"found Arrow's file format; write it as Parquet"):
        open_source(tmp_path / "x.arrow")
