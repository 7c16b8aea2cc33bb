"""The charts of a page: matplotlib's SVG, small, with real text, in the page's own colours.

A chart is drawn in marker colours, which then become the page's CSS variables, so that one drawing is
right on a light page and on a dark one. Every chart has a text that says what it shows.
"""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tokenstore.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Chart", "Line", "heat_map", "histogram", "line_chart", "require_matplotlib"]

SERIES = 8
"""The colours of series, after which they repeat."""

_INK, _MUTED, _RULE = "#010101", "#020202", "#030303"
_COLOURS = tuple(f"#0{number}0a0a" for number in range(SERIES))
_VARIABLES = {
    marker: f"var({2 * '-'}{name})"
    for marker, name in {
        _INK: "ink",
        _MUTED: "muted",
        _RULE: "rule",
        **{colour: f"series-{number}" for number, colour in enumerate(_COLOURS)},
    }.items()
}
_FAMILY = f"var({2 * '-'}font)"
_SIZE = (4.6, 2.7)
_POINTS = 72
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may have dollar signs
    "svg.hashsalt": "tokenstore",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
_FONT = re.compile(r"font: ([\d.]+)px [^;\"]*")


@dataclass(frozen=True)
class Chart:
    """A drawn chart and the sentence that says what it shows."""

    svg: str
    text: str


@dataclass(frozen=True)
class Line:
    """One line of a chart: points (n,) and the name in the legend, empty for none."""

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    dashed: bool = False
    marked: bool = False
    """True to mark each point."""
    series: int | None = None
    """The number of its colour, by default its place among the lines."""


def require_matplotlib() -> None:
    """Raise ArgumentError if charts cannot be drawn, before hours go into what they would show."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ArgumentError("the charts of a page need matplotlib: pip install 'tokenstore[report]'")


def line_chart(
    lines: Iterable[Line],
    text: str,
    *,
    x: str,
    y: str,
    log: str = "",
    wide: bool = False,
    percent: bool = False,
) -> Chart:
    """Draw lines over axes named `x` and `y`; `log` has the letters of the axes in logarithmic scale.

    With `percent`, values of y are shares. A `wide` chart takes twice the room. Raises ArgumentError without
    matplotlib.
    """
    with _drawn(text, wide) as (axes, chart):
        named = 0
        for place, line in enumerate(lines):
            number = (place if line.series is None else line.series) % SERIES
            axes.plot(
                list(line.x),
                list(line.y),
                color=_COLOURS[number],
                label=line.name or "_nolegend_",
                linestyle="--" if line.dashed else "-",
                marker="o" if line.marked else None,
                markersize=3,
            )
            named += bool(line.name)
        if "x" in log:
            axes.set_xscale("log")
        if "y" in log:
            axes.set_yscale("log")
        axes.grid(axis="y")
        _name_axes(axes, x, y, percent=percent)
        if named > 1:
            axes.legend(fontsize=8, handlelength=1.4)
    return chart[0]


def histogram(
    counts: Sequence[int], edges: Sequence[float], text: str, *, x: str, y: str = "samples"
) -> Chart:
    """Draw the counts (n,) of bins with edges (n + 1,); raises ArgumentError without matplotlib."""
    with _drawn(text) as (axes, chart):
        axes.stairs(counts, edges, fill=True, color=_COLOURS[0])
        axes.grid(axis="y")
        axes.set_ylim(bottom=0)
        _name_axes(axes, x, y)
    return chart[0]


def heat_map(
    values: npt.NDArray[Any],
    text: str,
    *,
    bar: str,
    x: str = "",
    y: str = "",
    whole: bool = True,
    names: Sequence[str] | None = None,
) -> Chart:
    """Draw values (rows, columns) as colours, with a bar named `bar`; `names` are those of rows and columns.

    Unless `whole`, the axes have the names `x` and `y` and no numbers. Raises ArgumentError without
    matplotlib.
    """
    with _drawn(text, square=values.shape[0] > 1) as (axes, chart):
        axes.grid(visible=False)
        aspect: Literal["equal", "auto"] = "equal" if values.shape[0] > 1 else "auto"
        image = axes.imshow(values, cmap="viridis", aspect=aspect, interpolation="nearest")
        figure: Any = axes.figure
        colours = figure.colorbar(image, ax=axes, label=bar, shrink=0.85, pad=0.03)
        colours.outline.set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
        colours.ax.tick_params(length=0)
        if names is not None:
            axes.set_xticks(range(len(names)), [_short(name) for name in names], rotation=90)
            axes.set_yticks(range(len(names)), [_short(name) for name in names])
        elif values.shape[0] == 1:
            axes.set_yticks([])
        _name_axes(axes, x, y)
        if not whole:
            axes.set_xticks([])
            axes.set_yticks([])
    return chart[0]


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:8]}…{name[-5:]}"


def _name_axes(axes: Axes, x: str, y: str, *, percent: bool = False) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    from matplotlib.ticker import FuncFormatter, LogFormatter, PercentFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "linear" and not isinstance(axis.get_major_formatter(), PercentFormatter):
            continue
        if isinstance(axis.get_major_formatter(), LogFormatter) or axis.get_scale() == "log":
            axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
            axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _number(value: float) -> str:
    """Return a value of a logarithmic axis as people write it."""
    return f"{value:,.0f}" if value >= 1 else f"{value:.10f}".rstrip("0")


@contextmanager
def _drawn(text: str, wide: bool = False, *, square: bool = False) -> Iterator[tuple[Axes, list[Chart]]]:
    """Give the axes of a new chart; after the block, the chart is in the list."""
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure  # rather than pyplot, whose backend belongs to the whole process

    chart: list[Chart] = []
    width, height = _SIZE
    size = (width * 2, height * 1.15) if wide else (width, height * 1.3) if square else (width, height)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure.subplots(), chart
        chart.append(Chart(_themed(figure), text))


def _themed(figure: Figure) -> str:
    """Return a figure as an SVG element in the page's colours."""
    file = io.StringIO()
    with warnings.catch_warnings():
        # the browser has the letters that the font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = _FONT.sub(rf"font: \1px {_FAMILY}", svg)
    width, height = (round(float(side) * _POINTS) for side in figure.get_size_inches())
    svg = re.sub(r"<svg[^>]*>", f'<svg viewBox="0 0 {width} {height}" role="presentation">', svg, count=1)
    return re.sub(r">\s+<", "><", svg).strip()


def numbered(svg: str, number: int) -> str:
    """Return an SVG element whose ids are its own, so that a page can have several."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="c{number}-\1"', svg)
    return re.sub(r'(url\(#|href="#)', rf"\1c{number}-", svg)


def spread(values: npt.NDArray[Any], most: int = 160) -> tuple[list[float], list[float]]:
    """Return places from 1 on, and the values (n,) there, at most so many of them."""
    places = np.unique(np.linspace(0, len(values) - 1, min(len(values), most)).round().astype(int))
    return (places + 1).tolist(), values[places].tolist()
