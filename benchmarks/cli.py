"""What the benchmarks' command lines share: types of options, and errors told in one line."""

import argparse
import contextlib
import math
from collections.abc import Iterator

from mi_jax.training import hosts as training_hosts


@contextlib.contextmanager
def clear_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Bad input and bad files end the command with one line and exit code 2; an interrupt with how to go on, and 130."""
    try:
        yield
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\ninterrupted; the rows of finished runs are kept, and the same command goes on from them\n")


def positive_int(text: str) -> int:
    """An option's whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)


def positive_float(text: str) -> float:
    """An option's number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def add_hosts(parser: argparse.ArgumentParser) -> None:
    """The options of a command that several processes share."""
    coordinator_help = (
        "host:port of process 0, to share the runs with other processes; auto: on a TPU pod, under Slurm or MPI"
    )
    parser.add_argument("--coordinator", help=coordinator_help)
    parser.add_argument("--processes", type=positive_int, help="how many processes; auto finds out")
    parser.add_argument("--process", type=int, help="the number of this one, from 0; auto finds out")
    heartbeat_help = "seconds without a sign of life after which a process counts as dead, and the others end"
    parser.add_argument("--heartbeat-timeout", type=positive_int, default=60, help=heartbeat_help)


def hosts(options: argparse.Namespace) -> contextlib.AbstractContextManager[training_hosts.Host]:
    """The processes that the options name, as a context."""
    if options.coordinator is None:
        if options.processes is not None or options.process is not None:
            raise ValueError("--processes and --process need --coordinator, the host:port of process 0")
        return contextlib.nullcontext(training_hosts.host())
    coordinator = None if options.coordinator == "auto" else options.coordinator
    return training_hosts.hosts(coordinator, options.processes, options.process, heartbeat_timeout=options.heartbeat_timeout)
