"""A headless Chromium for tests of pages, and what a page does in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers.waiting import HANG

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""The programs that are looked for."""


@dataclass
class Visit:
    """A page in a browser, and what it has done so far."""

    page: Any
    errors: list[str] = field(default_factory=list)
    """The errors of its scripts and its policy."""
    requests: list[str] = field(default_factory=list)
    """The addresses that it asked for, but the page itself and what is in it."""

    def serious(self) -> list[str]:
        """Return what axe-core calls serious or critical, with the elements."""
        import axe_playwright_python

        script = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
        self.page.evaluate(script)
        # style sheets are not fetched again, which a page of a file may not do
        found = self.page.evaluate("axe.run(document, {preload: false})")["violations"]
        return [
            f"{each['id']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]

    def width(self) -> int:
        """Return the width in pixels that the page takes."""
        width: int = self.page.evaluate("document.documentElement.scrollWidth")
        return width


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a browser for the block; skips the test, with the reason, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("axe_playwright_python", reason="axe-core is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium on this machine: none of {', '.join(NAMES)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"], timeout=1000 * HANG
        )
        yield browser
        browser.close()


@contextmanager
def visit(browser: Any, path: Path, width: int = 1400, scheme: str = "light") -> Iterator[Visit]:
    """Open a page of this machine in a window of a width, in a light or a dark scheme."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(1000 * HANG)
    seen = Visit(page)
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(path.as_uri())
    seen.requests = [url for url in seen.requests if url != path.as_uri() and not url.startswith("data:")]
    yield seen
    context.close()
