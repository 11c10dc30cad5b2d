"""`python -m mi_jax` and `mi-jax`: the command line, or what to install for it."""

import os
import sys
import time
from pathlib import Path

NEEDS = ("click", "tabulate", "tqdm")


def main() -> None:
    """Run the command line; end with exit code 2 if what it needs is not installed."""
    try:
        from mi_jax import cli
    except ModuleNotFoundError as error:
        if error.name not in NEEDS:
            raise
        print(f"error: the mi-jax command needs {error.name}: pip install 'mi-jax[cli]'", file=sys.stderr)
        sys.exit(2)
    cli.commands(prog_name="mi-jax", obj=seconds_since_start())


def seconds_since_start() -> float:
    """Wall-clock seconds since this process began; where the system does not tell, the seconds that it computed."""
    try:
        # The package was imported before any line of this file ran, so no clock of its own could tell how long that took.
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, ValueError, IndexError):
        return time.process_time()


if __name__ == "__main__":
    main()
