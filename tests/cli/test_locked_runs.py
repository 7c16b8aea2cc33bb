"""Commands that train refuse a folder, or a file, that another process trains into."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.commands import PROGRAMS
from helpers.network_commands import PRETRAIN
from helpers.network_stores import write_labelled
from helpers.pictures import write_images

from tokenstore.locks import PlaceLock


@pytest.mark.parametrize(
    ("command", "options", "written", "expected"),
    [
        ("seitpp pretrain STORE", PRETRAIN, "out", "out: another process is writing this run"),
        ("tokenstore train-tokenizer IMAGES", [], "out", "out: another process is writing this run"),
        ("seitpp train-tokenadapt --images IMAGES", ["--width", "64"], "out.run", "out.run: another process"),
        (
            "tokenstore fit-codebook IMAGES --autoencoder none",
            [],
            "out.safetensors",
            "out.safetensors: another process is writing this codebook",
        ),
    ],
)
def test_two_runs_never_share_what_they_write(
    tmp_path: Path, command: str, options: list[str], written: str, expected: str
) -> None:
    program, *words = command.split()
    places = {"STORE": tmp_path / "store", "IMAGES": tmp_path / "images"}
    write_images(places["IMAGES"], 4, (40, 40))
    if "STORE" in words:
        write_labelled(places["STORE"], samples=32)
    out = tmp_path / ("out" if written == "out.run" else written)
    words = [str(places.get(word, word)) for word in words]
    with PlaceLock(tmp_path / written):
        refused = CliRunner().invoke(PROGRAMS[program], [*words, "--out", str(out), *options])
    assert refused.exit_code == 1
    assert expected in refused.output
    assert not out.exists()
    assert "parameters" not in refused.output  # the plan of a run that does not begin
