import sys
import time

import pytest

from mi_jax import __main__ as main_module


@pytest.mark.parametrize("name", main_module.PACKAGES)
def test_what_to_install_is_said_in_one_line(monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as end:
        main_module.main()
    assert end.value.code == 2
    assert capsys.readouterr() == ("", f"error: the mi-jax command needs {name}: pip install 'mi-jax[cli]'\n")


def test_what_else_cannot_be_imported_is_a_bug(monkeypatch):
    for module in ("commands", "files"):
        monkeypatch.delitem(sys.modules, f"mi_jax.cli.{module}", raising=False)
    monkeypatch.delattr("mi_jax.cli.commands", raising=False)
    monkeypatch.delattr("mi_jax.cli.files", raising=False)
    monkeypatch.setitem(sys.modules, "mi_jax.cli.files", None)
    with pytest.raises(ImportError):
        main_module.main()


def test_seconds_since_the_start_go_on():
    first = main_module.seconds_since_start()
    time.sleep(0.05)
    assert 0.04 < main_module.seconds_since_start() - first < 5
    assert first > 0


def test_seconds_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(main_module, "Path", lambda _: tmp_path / "missing")
    assert main_module.seconds_since_start() == pytest.approx(time.process_time(), abs=0.5)
