"""The presets of the image experiment."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.images.cells import DISCRIMINATIVE, OBJECTIVES, SETTINGS, Cell
from benchmarks.images.results import LESS


def grid(cell: Cell, ts: Sequence[int], objectives: Sequence[str] = OBJECTIVES) -> list[Cell]:
    """All settings and objectives at these t; labels in the first setting alone, data processing where h(Y) has rows."""
    cells = []
    for objective in objectives:
        for setting in SETTINGS[:1] if objective == "labels" else SETTINGS:
            least = {"rows": 0, "processing": LESS + 1, "additivity": 1}[setting]
            cells += [replace(cell, objective=objective, setting=setting, t=t) for t in ts if t >= least]
    return cells


def preset(name: str, data: str) -> tuple[list[Cell], int]:
    """The cells and the seeds of a preset."""
    height = 28 if data == "mnist" else 32
    # As many test images of CIFAR-10's subset are used as make two halves of whole batches.
    whole = Cell(data=data, images=60_000 if data == "mnist" else 10_000, tests=10_000 if data == "mnist" else 1_920)
    if name == "paper":
        return grid(replace(whole, critic="joint"), range(0, height + 1, 2)), 5
    few = replace(whole, tests=min(whole.tests, 2_048))
    ts, seeds = (0, height // 4, height // 2, height), 5 if data == "mnist" else 3
    if name == "cpu":
        return grid(replace(few, images=min(whole.images, 20_000)), ts), seeds
    narrow = replace(few, channels=(16, 32), hidden=(128,), learning_rate=1e-3)
    if name == "narrow":
        trained = grid(narrow, ts, (*DISCRIMINATIVE, "labels"))
        return trained + grid(replace(narrow, images=min(whole.images, 20_000)), ts, ["gm"]), seeds
    small = replace(narrow, images=8_000, epochs_gm=2)
    if name == "vaes":
        return grid(replace(small, images=min(whole.images, 20_000), epochs_gm=10), (height,), ["gm"]), 4
    critics = grid(small, (0, 7, 14, height), (*DISCRIMINATIVE, "labels"))
    critics = [cell for cell in critics if cell.setting == "rows" or cell.t != 7]
    # VAEs trained so little say nothing about ratios; but they show how far from 0 an estimate is at t = 0.
    return critics + [replace(small, objective="gm", t=t) for t in (0, height)], 4


PRESETS = ("quick", "vaes", "narrow", "cpu", "paper")
