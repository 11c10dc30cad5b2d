"""The table and the figure of the study, from its runs."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.lib import figures, page
from benchmarks.study.experiment import BATCH, TAUS, Protocol, read_out
from mi_jax import theory, training
from mi_jax.training import Study

_ORDER = [read_out(tau) for tau in TAUS]
# name in a table -> what it is called in a figure, and its line
VARIANCES = {
    "batch_variance": ("over batches, critic fixed", "-"),
    "seed_variance": ("over seeds, iteration fixed", "--"),
    "iteration_variance": ("over the iterations of a run", ":"),
}


def draw(protocol: Protocol, study: Study, out: Path, command: str) -> list[Path]:
    """The table and the figure; returns their paths."""
    missing = int((~study.finished).sum())
    if missing:
        text = f"{missing} of {study.finished.size} runs are not in {out / 'study'}"
        raise ValueError(f"{text}: where processes share no disk, bring their folders together and run this again")
    with figures.style():
        paths = figures.save(_figure(protocol, study), out / "study")
    return [*paths, page.write(out / "study.md", table(protocol, study, command))]


def _figure(protocol: Protocol, study: Study) -> Figure:
    """Variances above, biases below, a column for each MI; the learning rates are shades, the variances are lines."""
    figure = Figure(figsize=(10.5, 6.0), layout="constrained")
    panels = figure.subplots(2, len(protocol.mis), sharex=True, sharey="row", squeeze=False)
    for column, mi in enumerate(protocol.mis):
        _variances(panels[0, column], protocol, study, mi)
        _biases(panels[1, column], study, mi)
    panels[0, 0].set_ylabel("variance (nats²)")
    panels[1, 0].set_ylabel("bias (nats)")
    figures.legend(figure, panels[:, 0], column=2.6)
    return figure


def _variances(panel: Axes, protocol: Protocol, study: Study, mi: float) -> None:
    """The three variances against tau, a shade for each learning rate."""
    rates = _by_rate(study, mi)
    for color, summaries in zip(figures.shades(len(rates)), rates.values(), strict=True):
        for name, (_, line) in VARIANCES.items():
            values = [getattr(summary, name) for summary in summaries]
            panel.plot(range(len(TAUS)), values, line, color=color, marker=".", lw=1)
    for label, line in VARIANCES.values():
        panel.plot([], [], line, color="gray", lw=1, label=label)
    floor = theory.gaussian_log_ratio_variance(mi, protocol.dim) / BATCH
    panel.axhline(float(floor), color="black", lw=0.6, label="dρ²/n, n exact log ratios")
    panel.set(yscale="log", title=f"MI = {mi:g}")


def _biases(panel: Axes, study: Study, mi: float) -> None:
    """The bias against tau, with ± 2 standard errors over seeds, a shade for each learning rate."""
    rates = _by_rate(study, mi)
    for color, (rate, summaries) in zip(figures.shades(len(rates)), rates.items(), strict=True):
        bias, error = (np.array([getattr(summary, name) for summary in summaries]) for name in ("bias", "mean_error"))
        label = f"learning rate {rate:g}"
        panel.errorbar(range(len(TAUS)), bias, 2 * error, color=color, marker=".", lw=1, capsize=2, label=label)
    panel.axhline(0.0, color="black", lw=0.6)
    panel.set(xlabel="τ", xticks=range(len(TAUS)), xticklabels=[f"{tau:g}".replace("inf", "∞") for tau in TAUS])


def _by_rate(study: Study, mi: float) -> dict[float, list[training.Summary]]:
    """Learning rate -> the summaries at this MI, in the order of tau."""
    rates: dict[float, list[training.Summary]] = {}
    for row in sorted(study.summaries(), key=lambda row: _ORDER.index(row.read_out)):
        if row.settings["mi"] == float(np.float32(mi)):
            rates.setdefault(row.settings["learning_rate"], []).append(row)
    return rates


def table(protocol: Protocol, study: Study, command: str) -> list[str]:
    """Every number, as the parts of a page."""
    columns = ("mean", "mean_error", "bias", *VARIANCES, "mse", "runs", "left_out")
    lines = [
        [f"{row.settings['mi']:g}", f"{row.settings['learning_rate']:g}", row.read_out]
        + [f"{getattr(row, name):.3g}" for name in columns]
        for row in sorted(study.summaries(), key=lambda row: (*row.settings.values(), _ORDER.index(row.read_out)))
    ]
    head = ["MI", "learning rate", "read out", *(name.replace("_", " ") for name in columns)]
    return [
        "# SMILE by tau: one fixed critic, three variances",
        f"Written by `{command}`: the Gaussian task, d = {protocol.dim}, separable critic, {protocol.num_seeds} seeds,\n"
        f"{protocol.steps} steps of {BATCH} pairs. Estimates and bias are over the last {study.window} steps, in nats. The\n"
        "mean error is a standard error, by the spread over seeds. There are three variances:\n\n"
        f"- the batch variance is over {protocol.batches} fresh batches at the *final* critic of each run;\n"
        "- the seed variance is over seeds at one iteration, averaged over the iterations;\n"
        "- the iteration variance is over the iterations of one run, averaged over the seeds.\n\n"
        "The critics are the same along tau.",
        page.table(lines, head),
        "## Runs in no average",
        page.listing(study.left_out()),
    ]
