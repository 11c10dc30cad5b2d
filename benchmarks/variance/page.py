"""The figure and the table of the law of variance, drawn from moments."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.lib import figures, page
from benchmarks.variance import results as results_
from benchmarks.variance.moments import Moments
from benchmarks.variance.results import Result
from mi_jax import theory

DESIGNS: dict[theory.Pairs, str] = {
    "independent": "n independent pairs from Q",
    "off_diagonal": "the n(n − 1) off-diagonal pairs of a batch",
}


def draw(out: Path) -> list[Path]:
    """Draw the figure and write the table; returns their paths."""
    results = sorted(results_.read(out / "rows"), key=lambda result: (result.pairs, result.n))
    with figures.style():
        paths = figures.save(_figure(results), out / "variance")
    return [*paths, page.write(out / "variance.md", table(results))]


def _figure(results: Sequence[Result]) -> Figure:
    """Partition and estimates in both designs, and the clipped partition."""
    figure = Figure(figsize=(12.0, 9.0), layout="constrained")
    panels = figure.subplots(2, 3)
    for design, line in zip(DESIGNS, panels, strict=True):
        of_design = [result for result in results if result.pairs == design]
        _partition(line[0], of_design, design)
        _estimates(line[1], of_design, design)
    largest = [result for result in results if result.pairs == "independent"][-1:]
    for result in largest:
        _clipped_variance(panels[0, 2], result)
        _clipped_bias(panels[1, 2], result)
    for panel in panels.flat:
        panel.set_xlabel("MI (nats)")
        figures.legend_below(panel)
    return figure


def _partition(panel: Axes, results: Sequence[Result], design: theory.Pairs) -> None:
    """Var[E_{Q_n}[r*]] against MI: measured, exact law and printed bound, a colour for each n."""
    for color, result in zip(figures.shades(len(results)), results, strict=True):
        mis, moments = np.array(result.mis), result.moments["partition"]
        fine = np.linspace(0.25, mis.max(), 200)
        law = theory.gaussian_partition_variance(fine, result.dim, result.n, pairs=result.pairs)
        panel.plot(fine, law, color=color, lw=1, label=f"n = {result.n}")
        panel.plot(fine, theory.partition_variance_bound(fine, result.n), color=color, lw=0.8, ls="--")
        seen, error = result.seen, np.where(result.with_interval, 1.96 * moments.variance_error, 0.0)
        panel.errorbar(mis[seen], moments.variance[seen], error[seen], color=color, ls="", marker="o", ms=3, capsize=2)
        panel.plot(mis[~seen], moments.variance[~seen], color=color, ls="", marker="o", ms=3, mfc="none")
        panel.axvline(_last_seen(result), color=color, lw=0.6, ls=":")
    panel.plot([], [], color="black", lw=1, label="exact law")
    panel.plot([], [], color="black", lw=0.8, ls="--", label="printed bound, Eq. 10")
    panel.plot([], [], color="black", ls="", marker="o", ms=3, label="measured")
    panel.plot([], [], color="black", ls="", marker="o", ms=3, mfc="none", label="measured, under 9/10 of the tail in reach")
    panel.plot([], [], color="black", lw=0.6, ls=":", label="pairs drawn = exp(2dρ²/(1 − ρ²)): half in reach")
    panel.set(yscale="log", ylabel="variance of $E_{Q_n}[r^*]$", title=DESIGNS[design])


def _last_seen(result: Result) -> float:
    """The MI at which the pairs looked at are just enough to sample the tail."""
    fine = np.linspace(0.01, 12.0, 2_000)
    return float(np.interp(np.log(result.pairs_drawn), np.log(theory.gaussian_tail_pairs(fine, result.dim)), fine))


def _estimates(panel: Axes, results: Sequence[Result], design: theory.Pairs) -> None:
    """The variance of each estimate against MI at one n, the batch size that is most like the paper's."""
    if not results:
        return
    result = min(results, key=lambda result: result.n)
    names = {"nwj": "NWJ", "dv": "DV = SMILE (τ = ∞)", **{f"smile_{tau:g}": f"SMILE (τ = {tau:g})" for tau in result.taus}}
    names |= {"infonce": "InfoNCE"}
    for name, label in ((name, label) for name, label in names.items() if name in result.moments):
        look = {**figures.look(name), "label": label}
        panel.plot(result.mis, result.moments[name].variance, **look)
    mis = np.array(result.mis)
    exact = theory.gaussian_nwj_variance(mis, result.dim, result.n, pairs=result.pairs)
    panel.plot(mis, exact, color="black", lw=0.9, label="NWJ, exact law")
    floor = np.asarray(theory.gaussian_log_ratio_variance(mis, result.dim)) / result.n
    panel.plot(mis, floor, color="black", ls=":", lw=0.9, label="dρ²/n, n exact log ratios")
    panel.set(yscale="log", ylabel="batch variance at the exact ratio (nats²)", title=f"{DESIGNS[design]}, n = {result.n}")


def _clipped_variance(panel: Axes, result: Result) -> None:
    """The clipped partition's variance times n, against Theorem 4 printed and corrected."""
    _against_tau(panel, result, lambda m: result.n * m.variance, lambda m: 1.96 * result.n * m.variance_error, "variance")
    for tau in result.taus:
        for printed, style in ((True, "--"), (False, "-.")):
            bound = float(theory.clipped_partition_variance_bound(tau, 1, printed=printed))
            panel.axhline(bound, color=_color(tau), lw=0.8, ls=style)
    panel.plot([], [], color="black", lw=0.8, ls="--", label="Theorem 4 as printed")
    panel.plot([], [], color="black", lw=0.8, ls="-.", label="Theorem 4 corrected")
    panel.set(yscale="log", ylabel="n · variance of $E_{Q_n}[r_τ]$", title=f"clipped partition, independent, n = {result.n}")


def _clipped_bias(panel: Axes, result: Result) -> None:
    """The clipped partition's bias, against Theorem 3."""
    _against_tau(panel, result, lambda m: np.abs(m.mean - 1.0), lambda m: 1.96 * m.mean_error, "bias")
    for tau in result.taus:
        panel.axhline(float(theory.clipped_partition_bias_bound(tau)), color=_color(tau), lw=0.8, ls="--")
    panel.plot([], [], color="black", lw=0.8, ls="--", label="Theorem 3")
    panel.set(ylabel="|E_Q[r_τ] − 1|", title="bias of the clipped partition", ylim=(0, 1.05))


def _color(tau: float) -> str:
    return str(figures.look(f"smile_{tau:g}")["color"])


def _against_tau(
    panel: Axes,
    result: Result,
    value: Callable[[Moments], np.ndarray],
    error: Callable[[Moments], np.ndarray],
    statistic: str,
) -> None:
    """Measured points with 95 % intervals, and the exact law, in the colour of SMILE at each tau."""
    fine = np.linspace(0.1, max(result.mis), 60)
    for tau in result.taus:
        color, moments = _color(tau), result.moments[f"clipped_{tau:g}"]
        laws = [theory.gaussian_clipped_moments(tau, mi, result.dim) for mi in fine]
        exact = [law.variance if statistic == "variance" else abs(law.mean - 1.0) for law in laws]
        panel.plot(fine, exact, color=color, lw=1, label=f"τ = {tau:g}, exact law")
        panel.errorbar(result.mis, value(moments), error(moments), color=color, ls="", marker="o", ms=3, capsize=2)


def table(results: Sequence[Result]) -> list[str]:
    """Measured over exact, and the estimates' bias and variance, as the parts of a page."""
    parts = [_HEAD]
    for result in results:
        header = ["", *(f"MI {mi:g}" for mi in result.mis)]
        heading = f"## With {DESIGNS[result.pairs]}, n = {result.n}, {result.replicates} replicates"
        parts += [heading, page.table(_lines(result), header)]
    return parts


def _lines(result: Result) -> list[list[str]]:
    mis, partition = np.array(result.mis), result.moments["partition"]
    ratio, error = partition.variance / result.law, partition.variance_error / result.law
    measured = [
        f"{r:.3f}" + (f" ± {1.96 * e:.3f}" if interval else "") + ("" if seen else " (tail not in reach)")
        for r, e, interval, seen in zip(ratio, error, result.with_interval, result.seen, strict=True)
    ]
    printed = partition.variance / theory.partition_variance_bound(mis, result.n)
    lines = [["Var E[r*]: measured / exact law", *measured], ["Var E[r*]: measured / printed bound", *map(_short, printed)]]
    for tau in result.taus if result.pairs == "independent" else ():
        moments = result.moments[f"clipped_{tau:g}"]
        bound = theory.clipped_partition_variance_bound(tau, result.n, printed=True)
        cells = [
            f"{v / bound:.3f} ± {1.96 * e / bound:.3f}"
            for v, e in zip(moments.variance, moments.variance_error, strict=True)
        ]
        lines.append([f"Var E[r_τ], τ = {tau:g}: measured / Theorem 4 as printed", *cells])
    estimates = ["nwj", "dv", *(f"smile_{tau:g}" for tau in result.taus), "infonce"]
    for name in (name for name in estimates if name in result.moments):
        moments = result.moments[name]
        lines.append([f"{name}: bias", *map(_short, moments.mean - mis)])
        lines.append([f"{name}: batch variance", *map(_short, moments.variance)])
    return lines


def _short(value: float) -> str:
    return page.minus(f"{value:.3g}")


_HEAD = """# The law of variance, measured at the exact log ratio

Written by `python -m benchmarks.variance` from the rows beside it. Gaussian task, no training: every figure is a *batch
variance at a fixed critic*, the exact log ratio.

- **Measured / exact law** ought to be 1. If the pairs drawn are too few for the tail that holds the variance, the measured
  variance is too small; that is no good news. "Tail not in reach" means that they reach less than nine tenths of
  E_Q[r*²]; at the dotted line of the figure, exp(2dρ²/(1 − ρ²)) pairs, they reach half
  (`theory.gaussian_tail_pairs`).
- An interval (95 %) is given only where r* has a fourth moment (ρ < 1/3) and its tail is in reach; elsewhere it would mean
  nothing. Clipped ratios are bounded, so they have intervals everywhere.
- The printed bound (Theorem 2, Eq. 10) is about n independent pairs. Off-diagonal pairs have a law of their own, and at
  small MI lie below the bound read with n as the batch size.
- Theorem 4 as printed is broken where measured / printed exceeds 1.
"""
