import pytest

from benchmarks.lib import machine


@pytest.fixture(autouse=True)
def _devices_as_they_are(monkeypatch):
    monkeypatch.setattr(machine, "use_all_cores", lambda: None)  # the tests have their devices already


@pytest.fixture
def stopped(capsys):
    """Calls a command that ends early; gives its exit code and the last line that it prints."""

    def call(main, arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return stop.value.code, capsys.readouterr().err.strip().split("\n")[-1]

    return call
