"""The docstrings of public calls of many arguments: each argument is described, and its default is true."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

DOORS = [
    "tokenstore.audit.preview.preview",
    "tokenstore.audit.report.report.report",
    "tokenstore.audit.stats.stats",
    "tokenstore.conversion.convert.convert",
    "tokenstore.conversion.dry_run.plan",
    "tokenstore.writing.recode.recode",
    "tokenstore.tokenizers.train.run.train_tokenizer",
    "tokenstore.tokenizers.train.fit.fit_codebook",
    "seitpp_models.adapter.run.train_tokenadapt",
    "seitpp_models.evaluation.evaluating.evaluate",
    "seitpp_models.training.pretraining.pretrain",
    "seitpp_models.training.finetuning.finetune",
    "seitpp_models.training.segmenting.segment",
]


def called(name: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(".")
    call: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return call


def described(call: Callable[..., Any]) -> dict[str, str]:
    """Return the text of each argument in the section Args of a docstring."""
    section = re.search(r"\nArgs:\n((?:    .*\n|\n)+)", inspect.getdoc(call) or "")
    assert section is not None
    parts = re.split(r"^    (\**\w+): ", section[1], flags=re.MULTILINE)[1:]
    return {
        name.lstrip("*"): " ".join(text.split()) for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


@pytest.mark.parametrize("name", DOORS)
def test_every_argument_is_described_in_order(name: str) -> None:
    call = called(name)
    assert list(described(call)) == list(inspect.signature(call).parameters)


@pytest.mark.parametrize("name", DOORS)
def test_a_number_that_is_said_to_be_the_default_is_the_default(name: str) -> None:
    call = called(name)
    defaults = {name: parameter.default for name, parameter in inspect.signature(call).parameters.items()}
    for argument, text in described(call).items():
        if stated := re.search(r"by default (\d[\d.]*\d|\d)", text):
            assert float(stated[1]) == defaults[argument], argument
