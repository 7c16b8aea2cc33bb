"""A report's page in a browser: quiet, self-contained, sortable, for everybody, on any screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.brightness_stores import converted
from helpers.browser import chromium, visit
from helpers.stores import Samples, random_codes, write_store

import tokenstore


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the page of a store with everything, and that of two stores."""
    folder = tmp_path_factory.mktemp("pages")
    write_grey_folder(folder / "images", 4)
    store = converted(folder / "images", folder / "grey")
    codes, labels = random_codes(200, (8, 8), 64), (np.arange(200) % 12).astype(np.int32)
    codes[9] = codes[4]
    weight = {"weight": np.linspace(0, 1, 200, dtype=np.float32)}
    write_store(folder / "codes", {"train": Samples(codes, labels, weight)}, 64)
    tokenizer = BrightnessTokenizer()
    tokenstore.report(store, out=folder / "one.html", tokenizer=tokenizer, verify=True)
    tokenstore.report(folder / "codes", folder / "codes", out=folder / "two.html")
    return {name: folder / f"{name}.html" for name in ("one", "two")}


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
def test_a_page_is_quiet_fits_and_has_no_serious_fault(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    with visit(browser, pages[name], width, scheme) as seen:
        assert seen.errors == []
        assert seen.requests == []
        assert seen.width() <= width
        assert seen.serious() == []
        texts = seen.page.eval_on_selector_all("img", "all => all.map(each => each.alt)")
        assert all(texts)
        assert bool(texts) == (name == "one")
        unnamed = seen.page.eval_on_selector_all(
            "svg", "all => all.filter(each => !each.closest('[role=img][aria-label]')).length"
        )
        assert unnamed == 0


def test_tables_sort_by_a_click_and_by_the_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    with visit(browser, pages["two"]) as seen:
        table = seen.page.locator("#labels table").first
        button = table.locator("thead button").nth(2)
        column = "rows => rows.map(row => Number(row.cells[2].dataset.value))"
        button.click()
        values = table.locator("tbody tr").evaluate_all(column)
        assert values == sorted(values)
        assert table.locator("th").nth(2).get_attribute("aria-sort") == "ascending"
        button.focus()
        seen.page.keyboard.press("Enter")
        assert table.locator("tbody tr").evaluate_all(column) == values[::-1]
        assert table.locator("th").nth(2).get_attribute("aria-sort") == "descending"
