from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks.lib import machine


@pytest.fixture(autouse=True)
def _devices_as_they_are(monkeypatch):
    monkeypatch.setattr(machine, "use_all_cores", lambda: None)  # the tests have their devices already


def _sketch(figure, path, **_):
    """Set all text and lines, as `Figure.savefig` does, and leave an empty file: drawing takes much longer."""
    if path.suffix == ".png":
        figure.set_layout_engine("none")
        figure.draw_without_rendering()
    Path(path).touch()


@pytest.fixture(autouse=True)
def savefig(monkeypatch):
    """The files of figures are empty; tests/benchmarks/test_figures.py, which looks at files, has the true `savefig`."""
    monkeypatch.setattr(Figure, "savefig", _sketch)


@pytest.fixture
def stopped(capsys):
    """Calls a command that ends early; gives its exit code and the last line that it prints."""

    def call(main, arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return stop.value.code, capsys.readouterr().err.strip().split("\n")[-1]

    return call
