"""What the command lines of all benchmarks share: options, their types, and errors in one line."""

import argparse
import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.lib import machine, runner
from benchmarks.lib.runner import Experiment, Job
from mi_jax.training import hosts


def parser(name: str, documentation: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.NAME`; the first line of the module's documentation describes it."""
    first = (documentation or "").split("\n")[0].replace("%", "%%")
    return argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=first)


def add_preset(parser: argparse.ArgumentParser, presets: Iterable[str], text: str) -> None:
    """--preset, which chooses the cells; quick by default."""
    parser.add_argument("--preset", choices=list(presets), default="quick", help=text)


def add_run_options(parser: argparse.ArgumentParser, written: str, default: Path | None = None) -> None:
    """--out, which is required unless there is a default, --limit and --page-only."""
    parser.add_argument("--out", type=Path, required=default is None, default=default, help=f"folder for {written}")
    limit_help = "skip, and list, cells predicted to take more than this many minutes"
    parser.add_argument("--limit", type=minutes, default=math.inf, help=limit_help)
    add_page_only(parser)


def add_page_only(parser: argparse.ArgumentParser) -> None:
    """--page-only."""
    parser.add_argument("--page-only", action="store_true", help="run nothing; draw again from the rows that are there")


def add_seeds(parser: argparse.ArgumentParser, text: str) -> None:
    """--seeds."""
    parser.add_argument("--seeds", type=positive_int, help=text)


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


def join_hosts(options: argparse.Namespace) -> contextlib.AbstractContextManager[hosts.Host]:
    """The processes that the options name, as a context."""
    if options.coordinator is None:
        if options.processes is not None or options.process is not None:
            raise ValueError("--processes and --process need --coordinator, the host:port of process 0")
        return contextlib.nullcontext(hosts.host())
    coordinator = None if options.coordinator == "auto" else options.coordinator
    return hosts.hosts(coordinator, options.processes, options.process, heartbeat_timeout=options.heartbeat_timeout)


def run(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    experiment: Callable[[], Experiment],
    draw: Callable[[Path], Iterable[Path]],
    on_skipped: Callable[[Sequence[Job]], None] | None = None,
) -> None:
    """Run what is missing, unless --page-only, then draw; every command does this with its own experiment.

    Args:
      parser: the command's parser, which reports errors.
      options: out, limit and page_only, at least.
      experiment: makes the experiment; it is called once the devices are there.
      draw: writes pages and figures from the rows of an --out; returns their paths.
      on_skipped: is called with the jobs over the limit.
    """
    machine.use_all_cores()
    with clear_errors(parser):
        if not options.page_only:
            folder = options.out / "rows"
            folder.mkdir(parents=True, exist_ok=True)
            skipped = runner.run_missing(experiment(), folder, options.limit)
            if on_skipped is not None:
                on_skipped(skipped)
        if not (options.out / "rows").is_dir():
            raise ValueError(f"{options.out} has no folder of rows")
        for path in draw(options.out):
            print(path)


@contextlib.contextmanager
def clear_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Bad input and bad files end the command with one line and exit code 2; an interrupt says how to go on, with 130."""
    try:
        yield
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\ninterrupted; the rows of finished runs are kept, and the same command goes on from them\n")


def positive_int(text: str) -> int:
    """An option that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)


def positive_float(text: str) -> float:
    """An option that is a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def minutes(text: str) -> float:
    """An option in minutes, as seconds."""
    return 60.0 * positive_float(text)
