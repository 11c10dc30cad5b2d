import sys
import time

import pytest

import mi_jax
from mi_jax import __main__ as main_module


def test_what_to_install_is_said_in_one_line(monkeypatch, capsys):
    for name in main_module.NEEDS:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            for module in ("cli", "reports"):
                patch.delitem(sys.modules, f"mi_jax.{module}", raising=False)
                patch.delattr(mi_jax, module, raising=False)
            with pytest.raises(SystemExit) as end:
                main_module.main()
        assert end.value.code == 2
        assert capsys.readouterr() == ("", f"error: the mi-jax command needs {name}: pip install 'mi-jax[cli]'\n")


def test_what_else_cannot_be_imported_is_a_bug(monkeypatch):
    monkeypatch.setitem(sys.modules, "mi_jax.tables", None)
    for module in ("cli", "reports", "tables"):
        monkeypatch.delattr(mi_jax, module, raising=False)
        if module != "tables":
            monkeypatch.delitem(sys.modules, f"mi_jax.{module}", raising=False)
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
