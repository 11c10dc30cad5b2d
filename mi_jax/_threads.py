"""NumPy's linear algebra in one thread: its own threads wait for one another busily, ten times longer on a busy machine."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


_LOCK = threading.Lock()
_held: list[Any] = []  # the limit, and then one None for each further block that runs now


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Holds the BLAS of this process to one thread, until the last of such blocks, in any thread, has ended."""
    from threadpoolctl import threadpool_limits  # slow to import

    with _LOCK:
        _held.append(None if _held else threadpool_limits(1, user_api="blas"))
    try:
        yield
    finally:
        with _LOCK:
            limit = _held.pop()
            if limit is not None:
                limit.restore_original_limits()


def run_beside(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """The results of independent tasks in NumPy, each in a thread of its own, as many at once as there are processors."""
    with one_thread(), ThreadPoolExecutor(max(1, min(len(tasks), os.cpu_count() or 1))) as pool:
        return list(pool.map(lambda task: task(), tasks))
