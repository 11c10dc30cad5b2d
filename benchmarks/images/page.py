"""Figures 3 to 6 and the verdicts of the image experiment, drawn from its rows."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.images import datasets, verdicts
from benchmarks.images.results import DATASETS, LESS, PROPERTIES, READ_OUTS, Results
from benchmarks.images.verdicts import Ratio
from benchmarks.lib import figures, machine, page, rows


def draw(data: Mapping[str, datasets.Dataset], command: str, folder: Path) -> list[Path]:
    """Write the figures that have something to show, and the page; returns their paths.

    Args:
      data: name -> dataset, whose images Figure 3 shows.
      command: what the page names as the command that made it.
      folder: has the rows; figures and page go there.

    Raises:
      ValueError: if there are no rows.
    """
    found = rows.read_all(folder / "rows", "images")
    if not found:
        raise ValueError(f"there are no rows in {folder} to draw; run the benchmark first")
    results = {name: Results([row for row in found if row.config["data"] == name]) for name in DATASETS}
    results = {name: of_data for name, of_data in results.items() if of_data.rows}
    written = []
    with figures.style():
        drawn: dict[str, Figure | None] = {f"figure3-{name}": settings_figure(images) for name, images in data.items()}
        drawn["figure4"] = estimates_figure(results)
        drawn["figure5"] = ratios_figure(results, "processing")
        drawn["figure6"] = ratios_figure(results, "additivity")
        for name, figure in drawn.items():
            for old in folder.glob(f"{name}.*"):
                old.unlink()
            written += figures.save(figure, folder / name) if figure is not None else []
    return [*written, page.write(folder / "images.md", report(results, command))]


def settings_figure(data: datasets.Dataset) -> Figure:
    """Figure 3: the three settings, with real images."""
    height = data.test.images.shape[1]
    t, less = height // 2, height // 2 - LESS
    first, second = data.test.images[0], data.test.images[1]
    top = lambda image, rows: np.where(np.arange(height)[:, None, None] < rows, image, 0)  # noqa: E731
    settings = {
        f"1: X and its top {t} rows": ([first], [top(first, t)]),
        f"2: [X, X] and the top {t} and {less} rows": ([first, first], [top(first, t), top(first, less)]),
        f"3: [X₁, X₂] and the top {t} rows of each": ([first, second], [top(first, t), top(second, t)]),
    }
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    parts: Any = figure.subfigures(1, 3, width_ratios=(1.4, 2, 2))
    for part, (title, pair) in zip(parts, settings.items(), strict=True):
        part.suptitle(title)
        panels = part.subplots(2, len(pair[0]), squeeze=False)
        for line, name, images in zip(panels, "XY", pair, strict=True):
            line[0].set_ylabel(name, rotation=0)
            for panel, image in zip(line, images, strict=True):
                panel.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
                panel.set(xticks=[], yticks=[])
    return figure


def estimates_figure(results: Mapping[str, Results]) -> Figure:
    """Figure 4: I(X; Y) against t, and how well a classifier reads the label off the same rows."""
    labels = any(found.ts("rows", "accuracy") for found in results.values())
    figure = Figure(figsize=(4.6 * len(results), 5.6 if labels else 3.8), layout="constrained")
    panels = figure.subplots(1 + labels, len(results), squeeze=False, height_ratios=(2, 1)[: 1 + labels])
    for column, (data, found) in enumerate(results.items()):
        upper, lower = panels[0, column], panels[-1, column]
        for name in READ_OUTS:
            _line(upper, found.ts("rows", name), [found.values("rows", name, t) for t in found.ts("rows", name)], name)
        if labels:
            accuracy = found.ts("rows", "accuracy")
            _line(lower, accuracy, [found.values("rows", "accuracy", t) for t in accuracy], "accuracy")
            lower.set(ylabel="label accuracy", ylim=(0, 1))
        upper.set_yscale("symlog", linthresh=1.0)
        upper.set(title=DATASETS[data], ylabel="estimate of I(X; Y) (nats)")
        upper.axhline(0.0, color="black", lw=0.5)
        lower.set(xlabel="t, rows of the image in Y")
    figures.legend(figure, panels[0], column=2.2)
    return figure


def ratios_figure(results: Mapping[str, Results], kind: str) -> Figure | None:
    """Figures 5 and 6: a ratio against t, with the interval that its verdict rests on; None if no ratio has one."""
    known = {
        data: {name: {t: ratio for t, ratio in found.ratios(name, kind).items() if _is_known(ratio)} for name in READ_OUTS}
        for data, found in results.items()
    }
    if not any(ratios for of_data in known.values() for ratios in of_data.values()):
        return None
    ideal = PROPERTIES[kind].ideal
    figure = Figure(figsize=(4.6 * len(results), 3.6), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for panel, (data, of_data) in zip(panels, known.items(), strict=True):
        panel.axhspan(*PROPERTIES[kind].accepted, color="0.93", zorder=0)
        for name, ratios in of_data.items():
            if ratios:
                centre = np.array([ratio.ratio for ratio in ratios.values()])
                ends = np.abs(np.array([ratio.interval for ratio in ratios.values()]).T - centre)
                offset = 0.15 * (list(READ_OUTS).index(name) - 2.5)  # so that intervals do not hide one another
                panel.errorbar(np.array(list(ratios)) + offset, centre, ends, **_style(name))
        panel.axhline(ideal, color="black", lw=0.7, ls=":")
        panel.set(title=DATASETS[data], xlabel="t", ylabel=PROPERTIES[kind].says, ylim=(-0.2, ideal + 1.2))
    figures.legend(figure, panels, column=2.2)
    return figure


def _is_known(ratio: Ratio) -> bool:
    """Whether it has an interval; else I(X; Y) is not known to be above 0, and no ratio means anything."""
    return math.isfinite(ratio.interval[0])


def _style(name: str) -> dict[str, Any]:
    return {**figures.look(name), "label": READ_OUTS.get(name, name), "capsize": 1.5}


def _line(panel: Axes, ts: Sequence[int], values: Sequence[np.ndarray], name: str) -> None:
    """The mean over seeds, and their range."""
    if ts:
        panel.errorbar(ts, *figures.spread(values), **_style(name))


def report(results: Mapping[str, Results], command: str) -> list[str]:
    """Every number, the verdicts, and the runs left out, as the parts of a page."""
    parts = ["# Self-consistency on images", f"`{command}`; {_machines(results)}.", _ABOUT]
    for data, found in results.items():
        note = "; not the official pixels: these went through JPEG once" if data == "cifar10" else ""
        parts += [f"## {DATASETS[data]}", f"{_protocol(found)}{note}."]
        for setting, title in (
            ("rows", "I(X; Y)"),
            ("processing", "I([X, X]; [Y, h(Y)])"),
            ("additivity", "I([X1, X2]; [Y1, Y2])"),
        ):
            names = [name for name in (*READ_OUTS, "accuracy") if found.ts(setting, name)]
            ts = sorted({t for name in names for t in found.ts(setting, name)})
            if names:
                lines = [[READ_OUTS.get(name, name), *(_cell(found, setting, name, t) for t in ts)] for name in names]
                parts += [f"### {title}", page.table(lines, ["", *(f"t = {t}" for t in ts)])]
        parts += ["### The paper's claims", page.table(_claims(found))]
        header = ["", "property", "t", "ratio", "interval", "verdict", "seeds that would tell"]
        parts += ["### Verdicts", page.table(_verdicts(found), header)]
        parts += [
            "### Bounds of the VAEs",
            page.table(_bounds(found), ["t", "setting", "density", "ELBO", "importance-weighted"]),
        ]
        parts += ["### Runs left out", page.listing(found.left_out, "None: every run stayed finite.")]
    return parts


def _protocol(found: Results) -> str:
    """The settings of the rows: the values that they share, and those in which they differ."""
    shown = ("critic", "channels", "hidden", "batch", "group", "images", "tests", "epochs", "epochs_gm", "learning_rate")
    seen = {name: {json.dumps(row.config[name]) for row in found.rows} for name in shown}
    seeds = len({row.config["seed"] for row in found.rows})
    return f"{seeds} seeds; " + ", ".join(f"{name} {' or '.join(sorted(values))}" for name, values in seen.items())


def _machines(results: Mapping[str, Results]) -> str:
    return machine.description(*(row.environment for found in results.values() for row in found.rows))


def _cell(found: Results, setting: str, name: str, t: int) -> str:
    if t not in found.ts(setting, name):
        return ""
    measured, values = found.measured(setting, name, t), found.values(setting, name, t)
    spread = f", seeds {values.min():.2f} to {values.max():.2f}" if len(values) > 1 else ""
    return f"{measured.mi:.2f} ± {(measured.high - measured.low) / 2:.2f}{spread}"


def _claims(found: Results) -> list[dict[str, str]]:
    """What the paper says of each property beside our verdicts, by t."""
    lines = []
    for kind, each in PROPERTIES.items():
        line = {"property": kind, "the paper": each.claim}
        for name, label in READ_OUTS.items():
            by_verdict: dict[str, list[str]] = {}
            for t, ratio in found.ratios(name, kind).items():
                by_verdict.setdefault(ratio.verdict, []).append(f"{t}")
            if found.ts("rows", name):
                line[label] = "; ".join(f"{verdict} at {', '.join(ts)}" for verdict, ts in by_verdict.items())
        lines.append(line)
    return lines


def _verdicts(found: Results) -> list[list[str]]:
    lines = []
    for name, label in READ_OUTS.items():
        for kind in PROPERTIES:
            for t, ratio in found.ratios(name, kind).items():
                known = _is_known(ratio)
                interval = f"{ratio.interval[0]:.2f} to {ratio.interval[1]:.2f}" if known else "any"
                ratio_text = f"{ratio.ratio:.2f}" if math.isfinite(ratio.ratio) else "–"
                lines.append([label, kind, f"{t}", ratio_text, interval, ratio.verdict, _needed(ratio)])
    return lines


def _accepted(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g} to {ends[1]:g}" if math.isfinite(ends[0]) else f"at most {ends[1]:g}"


def _needed(ratio: Ratio) -> str:
    """How many seeds would tell, where these do not."""
    if ratio.verdict != "cannot tell":
        return ""
    if math.isnan(ratio.needed):
        return "one seed tells nothing"
    return f"about {ratio.needed:g}" if math.isfinite(ratio.needed) else f"over {verdicts.MOST_SEEDS:,}"


def _bounds(found: Results) -> list[list[str]]:
    """The ELBO of each density beside its importance-weighted bound: how much of a GM estimate's error the bound is."""
    lines = []
    for setting in ("rows", "processing", "additivity"):
        for t in found.ts(setting, "gm"):
            for role in ("joint", "marginal_x", "marginal_y"):
                both = [found.measured(setting, f"{name}_{role}", t) for name in ("gm", "gm_iw")]
                lines.append([f"{t}", setting, role, *(f"{one.mi:.1f} ± {(one.high - one.low) / 2:.1f}" for one in both)])
    return lines


_ABOUT = f"""Estimates in nats on test images, mean over seeds. X is an image and Y its top t rows. ± is a 95 % interval,
from the standard error on the test images and, by Student's t, from the spread of the seeds (none, with one seed). Y is a
function of X, so I(X; Y) is the entropy of the rows, hundreds of nats. No estimate here comes near it: what is tested is
whether they are consistent with themselves. CPC's ceiling is the log of the pairs a row is contrasted with, the batch or
group. One half of the test images are X, or X1; the other half is X2. Importance-weighted bounds are of the first 512 of the
images that the ELBOs are of.

Verdicts are on ratios:

{page.listing(f"**{each.name}**: {each.says}; {_accepted(each.accepted)} passes." for each in PROPERTIES.values())}

The interval of a ratio is Fieller's, of runs with the same seed, which start alike and see the same images. "Seeds that
would tell" is about how many would give a verdict if they varied as these do."""
