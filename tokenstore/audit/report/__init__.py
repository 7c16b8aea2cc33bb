"""The report: one page that shows a store, made of what the other audits find.

`report.py` is the front door, `tokenstore.report`. `gathering.py` asks the other audits for a store's
`figures.py`: `observing.py` watches the one pass over the codes, `predictability.py` measures samples under a
context model, `tables.py` has columns, skipped samples and duplicates, `pictures.py` the samples that are
shown. `store_page.py` turns figures into what the template `templates/store.html` names. `page.py` and
`charts.py` know no store: they make a page of any template, and charts in a page's colours.

Other packages make pages by `render_page` and `write_page`. May import all that `audit` may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from tokenstore.audit.report.charts import (
        Chart,
        Line,
        heat_map,
        histogram,
        line_chart,
        require_matplotlib,
    )
    from tokenstore.audit.report.figures import StoreFigures
    from tokenstore.audit.report.page import page_path, render_page, write_page
    from tokenstore.audit.report.report import Report

__all__ = [
    "Chart",
    "Line",
    "Report",
    "StoreFigures",
    "heat_map",
    "histogram",
    "line_chart",
    "page_path",
    "render_page",
    "require_matplotlib",
    "write_page",
]

_HOMES = {
    "Chart": "charts",
    "Line": "charts",
    "Report": "report",
    "StoreFigures": "figures",
    "heat_map": "charts",
    "histogram": "charts",
    "line_chart": "charts",
    "page_path": "page",
    "render_page": "page",
    "require_matplotlib": "charts",
    "write_page": "page",
}


# imported on first use, so that charts alone need no torch
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
