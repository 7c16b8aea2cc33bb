"""Pages of the site that `make docs` built, in a browser: quiet, and readable by everybody on any screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.browser import chromium, visit
from helpers.paths import ROOT

SITE = ROOT / "site"
PAGES = (
    "index.html",
    "concepts.html",
    "benchmarks.html",
    "reference/tokenstore.html",
    "reference/api/stores.html",
    "notebooks/store.html",
)
"""A page of each kind: the front, drawings, wide tables, commands, Python names, a notebook."""

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    built = SITE / "site.css"
    if not built.is_file() or built.read_bytes() != (ROOT / "docs" / "site.css").read_bytes():
        pytest.skip("no site of these pages: make docs builds it")
    with chromium() as opened:
        yield opened


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "dark"), (390, "light"), (1400, "dark"), (1400, "light")]
)
def test_a_page_is_quiet_fits_and_has_no_serious_fault(
    browser: Any, page: str, width: int, scheme: str
) -> None:
    with visit(browser, SITE / page, width, scheme) as seen:
        assert seen.errors == []
        assert [url for url in seen.requests if not url.startswith(("file:", "blob:"))] == []
        assert seen.width() <= width
        assert seen.serious() == []


@pytest.mark.parametrize("page", ["index.html", "reference/api/stores.html"])
def test_a_site_that_is_opened_from_disk_can_be_searched(browser: Any, page: str) -> None:
    asked: list[str] = []
    with visit(browser, SITE / page) as seen:
        seen.page.on("request", lambda request: asked.append(request.url))
        seen.page.locator("input.md-search__input").press_sequentially("relabel")
        first = seen.page.locator("a.md-search-result__link").first
        first.wait_for()
        assert "tokenstore" in first.inner_text()
        first.click()
        seen.page.wait_for_url("**/reference/tokenstore.html*")
        assert seen.errors == []
        assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []
