"""The drawing docs/pictures/concepts.svg: from an image to a store.

python docs/pictures/concepts.py
"""

from __future__ import annotations

from pathlib import Path

OUT = Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT = 880, 400
INK, QUIET, LINE, PAPER = "#1f2328", "#57606a", "#8c959f", "#ffffff"
COLOURS = ("#f2a65a", "#5b8e7d", "#4f6d9a", "#c8553d", "#9bc1bc", "#e8d5a3", "#7d5ba6", "#6b8f3c")
CODES = ((412, 7, 7, 1033), (88, 1960, 640, 7), (88, 512, 513, 301), (5, 5, 299, 300))
"""A grid of codes, far smaller than a real one."""


def text(x: float, y: float, words: str, size: int = 13, colour: str = INK, anchor: str = "middle") -> str:
    """Return a line of text."""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{words}</text>'


def box(x: float, y: float, width: float, height: float, fill: str = PAPER, line: str = LINE) -> str:
    """Return a rectangle."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="{fill}" stroke="{line}"/>'


def arrow(x: float, y: float, to: float, words: str = "") -> str:
    """Return an arrow to the right, with words above it."""
    head = f'<path d="M{to - 8} {y - 5} L{to} {y} L{to - 8} {y + 5}" fill="none" stroke="{QUIET}"/>'
    return f'<path d="M{x} {y} H{to}" stroke="{QUIET}"/>{head}' + text((x + to) / 2, y - 8, words, 12, QUIET)


def colour(code: int) -> str:
    """Return the colour that a code is drawn in."""
    return COLOURS[code % len(COLOURS)]


def image() -> list[str]:
    """Return the image, its codes and the codebook."""
    parts = [text(80, 30, "image"), text(80, 196, "256 x 256 pixels", 12, QUIET)]
    parts += [box(20, 46, 120, 130, "#cfe3f5"), '<circle cx="108" cy="80" r="15" fill="#f2a65a"/>']
    parts.append('<path d="M20 176 V140 L62 96 L98 142 L116 122 L140 148 V176 Z" fill="#5b8e7d"/>')
    parts += [arrow(152, 111, 262, "tokenizer"), text(335, 30, "tokens: a grid of codes")]
    for row, codes in enumerate(CODES):
        for column, code in enumerate(codes):
            parts.append(box(275 + 30 * column, 46 + 32 * row, 30, 32, colour(code)))
            parts.append(text(290 + 30 * column, 66 + 32 * row, str(code), 10))
    parts.append(text(335, 196, "32 x 32 of them", 12, QUIET))
    parts += [arrow(412, 111, 512, "look-up"), text(660, 30, "codebook: a vector for each code")]
    for row, code in enumerate((5, 7, 88, 299)):
        parts += [text(540, 68 + 32 * row, str(code), 12), box(560, 50 + 32 * row, 200, 26, colour(code))]
        numbers = (f"{((code * step) % 199 - 99) / 100:.2f}" for step in (3, 17, 29))
        parts.append(text(660, 68 + 32 * row, ", ".join(numbers) + ", ...", 12))
    parts.append(text(660, 196, "2,048 rows, once in a store", 12, QUIET))
    return parts


def store() -> list[str]:
    """Return how samples make a chunk, a shard, a split and a store."""
    parts = [
        text(80, 246, "sample"),
        box(60, 262, 40, 40, COLOURS[0]),
        text(80, 336, "decodes alone", 12, QUIET),
    ]
    parts += [arrow(122, 282, 182), text(248, 246, "chunk of 64 samples")]
    parts += [box(196 + 13 * (n % 8), 256 + 13 * (n // 8), 13, 13, COLOURS[n * 5 % 7]) for n in range(64)]
    parts.append(text(248, 380, "is checked and fetched", 12, QUIET))
    parts += [arrow(318, 282, 388), text(460, 246, "shard: one file")]
    parts += [box(402 + 30 * (n % 4), 258 + 24 * (n // 4), 28, 22, COLOURS[n % 8]) for n in range(12)]
    parts += [box(402, 332, 118, 14, "#eaeef2"), text(461, 343, "index", 10, QUIET)]
    parts.append(text(460, 380, "is written whole, never changed", 12, QUIET))
    parts += [arrow(540, 282, 606), text(740, 246, "store"), box(620, 256, 240, 104, "#f6f8fa")]
    for row, (name, shards) in enumerate((("train", 4), ("val", 1))):
        parts.append(text(634, 280 + 30 * row, name, 12, INK, "start"))
        parts += [box(680 + 32 * n, 266 + 30 * row, 26, 20, COLOURS[(n + 2) % 8]) for n in range(shards)]
    parts += [text(634, 346, "manifest, labels, codebook", 12, INK, "start")]
    parts.append(text(740, 380, "is complete when its manifest is written", 12, QUIET))
    return parts


def draw() -> None:
    """Write the drawing beside this file."""
    parts = [box(0.5, 0.5, WIDTH - 1, HEIGHT - 1, PAPER, "#d0d7de"), *image(), *store()]
    OUT.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" stroke-width="1">\n{chr(10).join(parts)}\n</svg>\n'
    )


if __name__ == "__main__":
    draw()
