"""What every figure keeps to: SVG beside PNG, one look for each estimator that can be told in grey, no legend over data."""

import itertools

import matplotlib.colors
import pytest
from matplotlib.figure import Figure

from benchmarks.lib import figures


@pytest.fixture(autouse=True)
def savefig():
    """The true one."""


def lightness(color):
    red, green, blue = matplotlib.colors.to_rgb(color)
    return 0.3 * red + 0.59 * green + 0.11 * blue


def test_estimators_can_be_told_apart_in_grey():
    """By their lightness or by their marker; names of one and the same estimator look the same."""
    same = [{"cpc", "infonce"}, {"dv", "smile_inf"}]
    for one, other in itertools.combinations(figures.NAMES, 2):
        ours, theirs = figures.look(one), figures.look(other)
        if {one, other} in same:
            assert (ours["color"], ours["marker"]) == (theirs["color"], theirs["marker"])
        else:
            assert ours["color"] != theirs["color"]
            assert ours["marker"] != theirs["marker"] or abs(lightness(ours["color"]) - lightness(theirs["color"])) > 0.1


@pytest.mark.parametrize("colors", [figures.shades(5), list(figures.NETWORK_COLORS.values())])
def test_lines_without_markers_differ_in_lightness(colors):
    values = sorted(map(lightness, colors))
    assert min(second - first for first, second in itertools.pairwise(values)) > 0.05


def draw():
    with figures.style():
        figure = Figure(layout="constrained")
        panels = figure.subplots(1, 2)
        for panel in panels:
            panel.plot([0, 1], [0, 1], **figures.look("nwj"))
        figures.legend_below(panels[1])
        figures.legend(figure, panels[:1])
        return figure, panels


def test_a_figure_is_written_twice_and_the_same_each_time(tmp_path):
    with figures.style():
        first = [path.read_bytes() for path in figures.save(draw()[0], tmp_path / "figure1-2x256")]
        again = [path.read_bytes() for path in figures.save(draw()[0], tmp_path / "figure1-2x256")]
    assert first == again
    assert {path.name for path in tmp_path.iterdir()} == {"figure1-2x256.png", "figure1-2x256.svg"}


def test_legends_stand_beside_the_data():
    figure, panels = draw()
    figure.draw_without_rendering()
    for legend in (figure.legends[0], panels[1].get_legend()):
        box = legend.get_window_extent()
        assert not any(box.overlaps(panel.get_window_extent()) for panel in panels)
    (label,) = (text.get_text() for text in figure.legends[0].get_texts())
    assert label == "NWJ"
