"""The processes that share a study: `hosts` joins them. This is the only file that names `jax.distributed`."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from mi_jax.training import checkpoints

# Processes meet before they shut down. A longer wait means that one of them has failed; then the others end too.
SHUTDOWN_SECONDS = 30


class Host(NamedTuple):
    """This process among those that share a study: its number, from 0, and how many there are."""

    process: int
    processes: int

    def share(self, items: Sequence[Any]) -> list[Any]:
        """Every `processes`-th item, starting at `process`."""
        return list(items[self.process :: self.processes])


def host() -> Host:
    """This process among those that `hosts` joined; if it joined none, it is the only one."""
    return Host(jax.process_index(), jax.process_count())


@contextlib.contextmanager
def hosts(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process: int | None = None,
    *,
    heartbeat_timeout: int = 60,
    finish_timeout: int = 7 * 24 * 3600,
) -> Iterator[Host]:
    """Join the processes that share a study, as a context; call it before anything runs on a device.

    Each process trains its share of the runs on its own devices and writes its own files. The processes only tell one
    another that they are alive. If one dies, the others end with an error: finished runs are on disk, and the same command
    continues from there. A process that has done its share waits for the others.

    Args:
      coordinator: `host:port` of process 0. On a TPU pod, under Slurm and under Open MPI JAX finds it.
      num_processes: how many processes there are; JAX finds this likewise.
      process: the number of this process; JAX finds this likewise.
      heartbeat_timeout: seconds without a sign of life after which a process counts as dead.
      finish_timeout: seconds that a finished process waits for the others; a week by default.

    Yields:
      A `Host`.

    Raises:
      ValueError: if JAX cannot find out what is not given.
      RuntimeError: if the processes do not find one another.
    """
    timeouts: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat_timeout, "shutdown_timeout_seconds": SHUTDOWN_SECONDS}
    try:
        jax.distributed.initialize(coordinator, num_processes, process, **timeouts)
    except ValueError as error:
        text = (
            "coordinator, num_processes and process must be given: JAX found no TPU pod, Slurm or Open MPI that names them"
        )
        raise ValueError(f"{text} ({error})") from error
    yield host()
    # We skip this after an error: waiting would hide the error, and the others learn of it when this process ends.
    checkpoints.meet(jax.process_count(), finish_timeout)
    jax.distributed.shutdown()
