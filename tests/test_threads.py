import threading
import time

import numpy as np
from threadpoolctl import threadpool_info

from mi_jax import _threads


def count_threads():
    """How many threads each BLAS of this process may use."""
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_one_thread_while_it_lasts():
    before = count_threads()
    with _threads.one_thread():
        assert count_threads() <= {1}
    assert count_threads() == before


def test_blocks_that_overlap_end_together():
    before, first, second = count_threads(), _threads.one_thread(), _threads.one_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert count_threads() <= {1}
    second.__exit__(None, None, None)
    assert count_threads() == before


def test_results_come_in_the_order_of_the_tasks():
    def wait(number):
        time.sleep(0.02 * (3 - number))
        return number, threading.get_ident()

    found = _threads.run_beside([lambda number=number: wait(number) for number in range(3)])
    assert [number for number, _ in found] == [0, 1, 2]
    assert threading.get_ident() not in {ident for _, ident in found}
    assert _threads.run_beside([]) == []


def test_linear_algebra_in_threads():
    matrices = np.random.default_rng(0).standard_normal((4, 50, 50))
    ours = _threads.run_beside([lambda one=one: one @ one for one in matrices])
    np.testing.assert_allclose(ours, matrices @ matrices, atol=1e-12)
