"""What all figures share: their style, and one legend for many panels."""

import contextlib
from collections.abc import Iterable

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def style() -> contextlib.AbstractContextManager[None]:
    """The style of the figures, as a context."""
    return mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 130})


def legend(figure: Figure, panels: Iterable[Axes], column: float = 3.6) -> None:
    """One legend below all the panels, each label once, in columns of this many inches."""
    handles = [panel.get_legend_handles_labels() for panel in panels]
    entries = {label: handle for pair in handles for handle, label in zip(*pair, strict=True)}
    if entries:
        columns = min(len(entries), max(1, int(figure.get_figwidth() // column)))
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns, frameon=False)
