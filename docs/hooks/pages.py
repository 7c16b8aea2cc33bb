"""Pages of the site that are files elsewhere in the repository, and links that lead out of `docs/`.

`mkdocs.yml` names this module as a hook. A Markdown file has the links that work where it lies, in a clone
and on a code host; on the site they are those of its page. A link to a file that is no page is an error.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "FORMAT.md": "reference/format.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "tokenstore/codecs/context/README.md": "context-codec.md",
    "tokenstore/tokenizers/weights/MODEL_CARD.md": "reference/default-tokenizer.md",
    "tokenstore/tokenizers/weights/conv-vq-symmetric-8x-2k.md": "reference/symmetric-tokenizer-weights.md",
    "tokenstore/augment/weights/MODEL_CARD.md": "reference/default-tokenadapt.md",
}
"""The pages of files outside `docs/`, by the paths of these files."""
FILES = ("LICENSE", "CITATION.cff")
"""Files outside `docs/` that are on the site as they are."""
LINK = re.compile(r"(\]\(|^\[[^\]\n]+\]: )([^)\s]+)", re.MULTILINE)
"""A link, or the definition of one: what stands before its target, and the target."""

WIDGETS = re.compile(
    r"<script(?: type=\"application/vnd\.jupyter\.widget-(?:view|state)\+json\")?>"
    r"(?=[^<]*(?:addWidgetsRenderer|\"model_id\"|\"state\"))[^<]*(?:<(?!/script>)[^<]*)*</script>"
)
"""The scripts of a notebook's widgets: their values, and what fetches a program that draws them."""

log = logging.getLogger("mkdocs.hooks.pages")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and files that lie outside `docs/`."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / path).read_text()))
    for path in FILES:
        files.append(File.generated(config, f"{path}.txt", content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of a file into those of its page."""
    uri = page.file.src_uri
    if uri == "index.md":
        page.meta["hide"] = ["navigation"]  # a list of this one page alone
    source = next((path for path, name in PAGES.items() if name == uri), f"docs/{uri}")
    return LINK.sub(lambda match: match[1] + _on_site(match[2], source, uri), markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Take the widgets of notebooks out: what draws them would be fetched from a network."""
    return WIDGETS.sub("", output) if page.file.src_uri.endswith(".ipynb") else output


def _on_site(target: str, source: str, uri: str) -> str:
    """Return the target of a link in the file `source` as its page `uri` has it."""
    path, hash_, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return target
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if place in PAGES:
        page = PAGES[place]
    elif place in FILES:
        page = f"{place}.txt"
    elif place.startswith("docs/"):
        page = place.removeprefix("docs/")
    else:
        log.warning("%s: %s is no page of the site", source, target)
        return target
    return os.path.relpath(page, posixpath.dirname(uri) or ".") + hash_ + anchor
