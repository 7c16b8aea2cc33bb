"""The page that describes an exported data set: README.md with the facts of the store's manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping

from tokenstore.format import TOKENS
from tokenstore.texts import printable
from tokenstore.writing.export.base import Exported, Layout
from tokenstore.writing.export.contents import IMAGE

__all__ = ["CARD", "card_of"]

CARD = "README.md"
_MOST_CLASSES = 20
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_LARGER = ((10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))
_LOADING = {
    "parquet": """from datasets import load_dataset

rows = load_dataset("parquet", data_files={files})["{split}"]
rows[0]["tokens"]  # {shape} codes""",
    "hf": """from datasets import load_from_disk

rows = load_from_disk("path/to/this/folder")["{split}"]
rows[0]["tokens"]  # {shape} codes""",
    "webdataset": """import webdataset

samples = webdataset.WebDataset("{split}-{{000000..{last}}}.tar", shardshuffle=False).decode()
for sample in samples:
    sample["tokens.npy"]  # {shape} codes
    sample["json"]""",
}


def card_of(layout: Layout, exported: Exported, named: Mapping[str, str]) -> bytes:
    """Return the page of a data set, for the licence and the origin to be filled in.

    `named` are the layout's own names of columns.
    """
    files = Counter(unit.split for unit in layout.units(exported))
    page = [*_header(exported, layout.name), *_facts(exported), *_splits(exported, named)]
    page += [*_classes(exported), *_loading(exported, layout.name, files)]
    return ("\n".join(page) + "\n").encode()


def _header(exported: Exported, layout: str) -> Iterator[str]:
    samples = sum(map(len, exported.splits.values()))
    sizes = (*_SIZES, *_LARGER)
    category = next((name for most, name in sizes if samples < most), "n>1B")
    yield from ("---", "license: other  # fill in: the licence of the images, and of the tokenizer", "tags:")
    yield from ("- image-tokens", "- tokenstore", "size_categories:", f"- {category}")
    if layout == "parquet":
        yield from ("configs:", "- config_name: default", "  data_files:")
        for split in exported.splits:
            yield from (f"  - split: {split}", f"    path: data/{split}-*")
    yield from ("---", "")


def _facts(exported: Exported) -> Iterator[str]:
    manifest = exported.manifest
    identity, steps = manifest.tokenizer, manifest.preprocessing
    yield from (
        "# Image tokens",
        "",
        "Each sample is a grid of discrete codes of a tokenizer, not an image.",
        "",
    )
    yield from ("**To fill in:** where the images are from, their licence, and how to cite them.", "")
    sizes = manifest.codebook_sizes
    several = f"{len(sizes)} codebooks of " if len(sizes) > 1 else ""
    facts = {
        "tokenizer": identity.name,
        "its fingerprint (SHA-256)": identity.fingerprint or "unknown",
        "codes of a sample": _shape(exported),
        "codebook": several + " and ".join(f"{size:,}" for size in dict.fromkeys(sizes)) + " codes",
        "images": "unknown" if steps is None else str(steps),
    }
    if manifest.views is not None:
        facts["views of a sample"] = str(manifest.views.count)
    if exported.store.codebook is not None:
        facts["vectors of the codebook"] = f"codebook.npy {exported.store.codebook.shape}"
    yield from ("| fact | value |", "|---|---|")
    for name, value in facts.items():
        yield f"| {name} | {_cell(value)} |"


def _splits(exported: Exported, named: Mapping[str, str]) -> Iterator[str]:
    yield from ("", "## Splits", "", "| split | samples | columns |", "|---|---|---|")
    for split, contents in exported.splits.items():
        kinds = [f"{named.get(name, name)} ({kind})" for name, kind in contents.kinds.items()]
        kinds += [IMAGE] if IMAGE in contents.names else []
        yield f"| {split} | {len(contents):,} | {_cell(', '.join(kinds))} |"
    if any(IMAGE in contents.names for contents in exported.splits.values()):
        yield from ("", f"The column `{IMAGE}` has pictures that were decoded from the codes: no originals.")


def _classes(exported: Exported) -> Iterator[str]:
    names = exported.manifest.class_names
    if names is None:
        return
    yield from ("", "## Classes", "", f"{len(names):,} classes:", "")
    for label, name in enumerate(names[:_MOST_CLASSES]):
        yield f"- {label}: {_cell(name)}"
    if len(names) > _MOST_CLASSES:
        yield from ("", f"and {len(names) - _MOST_CLASSES:,} more, in `tokenstore-export.json`.")


def _loading(exported: Exported, layout: str, files: Mapping[str, int]) -> Iterator[str]:
    split = next(iter(exported.splits))
    patterns = json.dumps({name: f"data/{name}-*.parquet" for name in exported.splits})
    last = f"{files[split] - 1:06d}"
    code = _LOADING[layout].format(split=split, shape=_shape(exported), files=patterns, last=last)
    yield from ("", "## How to load it", "", "```python", *code.splitlines(), "```", "")
    yield "`tokenstore-export.json` lists all files with their digests, and has the tokenizer's identity."


def _shape(exported: Exported) -> str:
    shape = next(iter(exported.splits.values())).kind(TOKENS).shape
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _cell(text: str) -> str:
    """Return a text for a cell of a table or an item of a list in Markdown, in one line."""
    return printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
