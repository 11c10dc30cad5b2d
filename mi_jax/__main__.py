"""`python -m mi_jax` and `mi-jax`: run the command line, or say what to install for it."""

import importlib.util
import os
import sys
import time
from pathlib import Path

PACKAGES = ("click", "filelock", "platformdirs", "tabulate", "tqdm")


def main() -> None:
    """Run the command line. Exit with code 2 if a package that it needs is not installed."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            print(f"error: the mi-jax command needs {name}: pip install 'mi-jax[cli]'", file=sys.stderr)
            sys.exit(2)
    from mi_jax.cli import commands

    commands.program(prog_name="mi-jax", obj=seconds_since_start())


def seconds_since_start() -> float:
    """Seconds since this process started. Where the system does not say, the CPU seconds that it has used."""
    try:
        # A clock of our own would miss the start of the interpreter and the imports before this file.
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, ValueError, IndexError):
        return time.process_time()


if __name__ == "__main__":
    main()
