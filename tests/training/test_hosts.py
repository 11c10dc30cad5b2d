import jax
import pytest

from mi_jax.training import hosts


def test_alone_this_process_has_everything():
    host = hosts.host()
    assert (host.process, host.processes) == (0, 1)
    assert host.share([1, 2, 3]) == [1, 2, 3]
    assert [hosts.Host(place, 3).share(range(8)) for place in range(3)] == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_what_is_given_reaches_jax_and_the_wait_for_the_others(monkeypatch):
    calls = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *where, **timeouts: calls.update(where=where, **timeouts))
    monkeypatch.setattr(hosts.checkpoints, "meet", lambda processes, timeout: calls.update(meet=(processes, timeout)))
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: calls.update(down=True))
    with hosts.hosts("there:1", 2, 1, heartbeat_timeout=7) as host:
        assert "meet" not in calls
    assert host == hosts.Host(0, 1)  # of a JAX that did not join anything
    assert calls["where"] == ("there:1", 2, 1)
    assert calls["heartbeat_timeout_seconds"] == 7
    assert calls["meet"] == (1, 604_800)  # a week of seconds
    assert calls["down"]
    with hosts.hosts(finish_timeout=5):
        pass
    assert calls["meet"] == (1, 5)


def test_after_an_error_nobody_waits(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *where, **timeouts: None)
    monkeypatch.setattr(hosts.checkpoints, "meet", lambda *_: pytest.fail("it waits"))
    with pytest.raises(ZeroDivisionError), hosts.hosts():
        raise ZeroDivisionError
