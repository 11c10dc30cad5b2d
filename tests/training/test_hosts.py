from mi_jax.training import hosts


def test_alone_this_process_has_everything():
    host = hosts.host()
    assert (host.process, host.processes) == (0, 1)
    assert host.share([1, 2, 3]) == [1, 2, 3]
    assert [hosts.Host(place, 3).share(range(8)) for place in range(3)] == [[0, 3, 6], [1, 4, 7], [2, 5]]
