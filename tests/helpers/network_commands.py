"""Commands that train small networks, and the logs that they write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from tokenstore_cli.seitpp import cli

from tokenstore.networks.runs import LOG

SMALL = ["--model", "tiny", "--depth", "1", "--threads", "1", "--loader-threads", "0"]
QUICK = [*SMALL, "--adapter", "none", "--batch-size", "32", "--warmup-epochs", "0.5"]
QUICK += ["--learning-rate", "0.002", "--device", "cpu"]
PRETRAIN = [*QUICK, "--decoder-width", "32", "--decoder-depth", "1"]


def seitpp(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in lines(run / LOG)]


def refused(*arguments: object) -> str:
    result = seitpp(*arguments)
    assert result.exit_code == 1, result.output
    return result.output
