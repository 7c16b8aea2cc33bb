"""The images that tokenizers are trained on."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenstore.errors import SourceError
from tokenstore.tokenizers.train.images import open_images


def test_images_to_train_on_need_no_labels(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"a", b"b"], "label": [0, None]}), tmp_path / "x.parquet")
    assert len(open_images(tmp_path / "x.parquet").splits["train"]) == 2
    with pytest.raises(SourceError, match="no such file"):
        open_images(tmp_path / "y.parquet")
