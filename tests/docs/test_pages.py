"""The pages of the documentation: what they must have, and links that lead somewhere."""

from __future__ import annotations

import importlib
import posixpath
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import ROOT
from tokenstore_cli.main import _COMMANDS as STORE_COMMANDS
from tokenstore_cli.seitpp import _COMMANDS as NETWORK_COMMANDS

from tokenstore import errors

DOCS = ROOT / "docs"
API = "\n".join(path.read_text() for path in sorted((DOCS / "reference" / "api").glob("*.md")))
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(path for name in ("docs", "tokenstore", "benchmarks") for path in (ROOT / name).rglob("*.md")),
    ]
)
DOORS = [
    "tokenstore",
    "tokenstore.augment",
    "tokenstore.tokenizers",
    "tokenstore.tokenizers.train",
    "seitpp_models",
    "seitpp_models.training",
    "seitpp_models.evaluation",
    "seitpp_models.adapter",
    "seitpp_models.reporting",
]
"""The modules whose public names are all in the reference."""
NOT_CALLED = {"tokenstore.__version__", "tokenstore.TokenstoreError", "tokenstore.augment.recipes"}
"""Public names that have a place elsewhere in the reference."""
LINK = re.compile(r"(?:\]\(|^\[[^\]\n]+\]: )([^)\s]+)", re.MULTILINE)
README_LINES, README_WIDTH = 130, 120


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """Give the names of the generator of the commands' pages."""
    return runpy.run_path(str(DOCS / "hooks" / "cli_reference.py"))


@pytest.mark.parametrize("program", ["tokenstore", "seitpp"])
def test_the_page_of_a_program_is_what_help_shows(program: str, reference: dict[str, Any]) -> None:
    found = (DOCS / "reference" / f"{program}.md").read_text()
    assert found == reference["page"](program), "run: .venv/bin/python docs/hooks/cli_reference.py"


def test_every_option_is_on_the_page(reference: dict[str, Any]) -> None:
    page = reference["page"]("tokenstore")
    for option in ("--prune-codebook", "--where", "--min-decode-rate"):
        assert f"`{option}" in page


@pytest.mark.parametrize("door", DOORS)
def test_every_public_name_is_in_the_reference(door: str) -> None:
    names = {f"{door}.{name}" for name in importlib.import_module(door).__all__} - NOT_CALLED
    assert sorted(names - set(re.findall(r"^::: (\S+)", API, re.MULTILINE))) == []


def test_the_reference_has_no_name_that_is_gone() -> None:
    for name in re.findall(r"^::: (\S+)", API, re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_every_error_has_its_cause_and_cure() -> None:
    page = (DOCS / "reference" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE))
    named = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.TokenstoreError)
    }
    assert named - {"TokenstoreError"} | {"ModelError"} == set(rows)


@pytest.mark.parametrize(
    "words",
    [f"tokenstore {name}" for name in STORE_COMMANDS] + [f"seitpp {name}" for name in NETWORK_COMMANDS],
)
def test_a_guide_names_every_command(words: str) -> None:
    guides = [*(DOCS / "how-to").glob("*.md"), DOCS / "quickstart.md", DOCS / "cluster.md"]
    assert any(words in path.read_text() for path in guides)


def test_every_recipe_is_on_its_page() -> None:
    page = (DOCS / "reference" / "recipes.md").read_text()
    for path in (ROOT / "seitpp_models" / "recipes").glob("*.yaml"):
        assert f"seitpp_models/recipes/{path.name}" in page


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [path.relative_to(DOCS).as_posix() for path in [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]]
    assert [page for page in pages if page not in navigation] == []


def test_the_readme_is_read_in_a_minute() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES
    assert [line for line in lines if len(line) > README_WIDTH] == []
    assert "make demo" in "\n".join(lines[:25])
    assert "make test" in "\n".join(lines[:25])


def links(path: Path) -> Iterator[str]:
    """Yield the targets of links in a Markdown file, outside its blocks of code."""
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    yield from LINK.findall(re.sub(r"`[^`\n]*`", "", text))


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a Markdown file, as code hosts and the site make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {word.replace(" ", "-") for word in words}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for target in links(path):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = path if not place else Path(posixpath.normpath(path.parent / place))
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), target
