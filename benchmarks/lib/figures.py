"""How a figure is drawn and written: one style, one look for each estimator, legends beside the data, SVG beside PNG."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The names that people know the read-outs by.
NAMES = {
    "cpc": "CPC",
    "infonce": "InfoNCE",
    "nwj": "NWJ",
    "mine": "MINE",
    "js": "JS",
    "dv": "DV",
    "smile_1": "SMILE (τ = 1)",
    "smile_5": "SMILE (τ = 5)",
    "smile_10": "SMILE (τ = 10)",
    "smile_inf": "SMILE (τ = ∞)",
    "gm": "GM",
    "gm_iw": "GM (importance-weighted)",
    "ba": "BA",
    "doe": "DoE",
}
# The colour and marker of a read-out, the same in every figure. SMILE darkens as tau grows, and no two estimators that share
# a panel have both the same lightness and the same marker, so that figures can be read in grey.
_LOOKS = {
    "cpc": ("#0072b2", "o"),
    "infonce": ("#0072b2", "o"),
    "nwj": ("#d55e00", "s"),
    "mine": ("#cc79a7", "^"),
    "js": ("#9a9a9a", "v"),
    "smile_1": ("#a6d96a", "D"),
    "smile_5": ("#3fa34d", "P"),
    "smile_10": ("#136f3a", "X"),
    "smile_inf": ("#04301a", "*"),
    "dv": ("#04301a", "*"),
    "gm": ("#8c510a", "h"),
    "gm_iw": ("#e0a84e", "p"),
    "ba": ("#542788", "<"),
    "doe": ("#b2a1d9", ">"),
}
# Networks have colours of their own: in Figure 1 each panel is one estimator's.
NETWORK_COLORS = {"joint": "#1b2a6b", "separable": "#e8890c", "realnvp": "#2a9d8f"}


def look(name: str) -> dict[str, Any]:
    """The colour and marker of a read-out, as keywords of a plot; black for a name that is not in the table."""
    color, marker = _LOOKS.get(name, ("black", "."))
    return {"color": color, "marker": marker, "markersize": 3.5, "linewidth": 1.0, "label": NAMES.get(name, name)}


def shades(number: int) -> list[Any]:
    """Colours for the values of a quantity that grows, from light to dark."""
    return [mpl.colormaps["viridis_r"](place) for place in np.linspace(0.15, 0.95, number)]


def style() -> contextlib.AbstractContextManager[None]:
    """The style of all figures, as a context; the text of an SVG stays text, and its identifiers do not change."""
    options: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 130}
    return mpl.rc_context(options | {"svg.fonttype": "none", "svg.hashsalt": "mi_jax"})


def legend(figure: Figure, panels: Iterable[Axes], column: float = 3.6) -> None:
    """One legend below all the panels, each label once, in columns of this many inches."""
    handles = [panel.get_legend_handles_labels() for panel in panels]
    entries = {label: handle for pair in handles for handle, label in zip(*pair, strict=True)}
    if entries:
        columns = min(len(entries), max(1, int(figure.get_figwidth() // column)))
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns, frameon=False)


def legend_below(panel: Axes, columns: int = 2) -> None:
    """The legend of one panel, below its axis, where it hides no data."""
    if panel.get_legend_handles_labels()[1]:
        panel.legend(frameon=False, fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and, beside it, as SVG; returns both paths.

    Args:
      figure: the figure.
      path: where it goes, without a suffix: `results/figure1-2x256`.
    """
    paths = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    figure.savefig(paths[0])
    figure.set_layout_engine("none")  # the layout is found; finding it again takes as long as drawing
    figure.savefig(paths[1], metadata={"Date": None})
    return paths


def spread(values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each point's seeds, and how far the seeds reach below and above it, (2, points), as error bars have it."""
    center = np.array([seeds.mean() for seeds in values])
    ends = [[mean - seeds.min(), seeds.max() - mean] for mean, seeds in zip(center, values, strict=True)]
    return center, np.array(ends).T
