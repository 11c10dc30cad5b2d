"""The commands `mi-jax estimate`, `mi-jax check` and `mi-jax list`.

JAX is imported inside the commands, after the options are checked and the files are read.
"""

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import mi_jax
from mi_jax.cli import files as reading
from mi_jax.cli import programs
from mi_jax.cli.options import CRITICS, ESTIMATORS, OPTIONS, TOLERANCE, TRANSFORMS, add_data_options, add_estimate_options
from mi_jax.cli.samples import Samples

if TYPE_CHECKING:
    from mi_jax.estimation import Estimate

# How an error of the library begins if the user caused it: with the name of an option, or of x or y.
USER_ERROR = re.compile(rf"(?P<option>{'|'.join([*OPTIONS, 'groups', 'tolerance'])})\b|(x|y|g\(rows\)|h\(rows\)) ")


class Refused(click.ClickException):
    """Bad input. The user reads one line, and the exit code is 2."""

    exit_code = 2


class Commands(click.Group):
    """A group that prints an error as one line on stderr, without the usage that Click prints above it."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run a command and exit."""
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except click.ClickException as error:
            click.echo(f"error: {' '.join(error.format_message().split())}", err=True)
            sys.exit(2)
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mi_jax.__version__, prog_name="mi-jax")
@click.pass_context
def program(context: click.Context) -> None:
    """Estimate the mutual information of x and y, which are columns or arrays in files.

    Mutual information says how much x tells about y. It is 0 if they are independent, and the larger, the more they depend
    on each other, in whatever form.
    """
    if context.invoked_subcommand is None:
        raise Refused(f"a command is needed: {', '.join(program.list_commands(context))}; see mi-jax --help")


@program.command(short_help="Estimate the mutual information of x and y.")
@add_data_options
@click.option("--groups", metavar="COLUMN", help="The column of labels of rows that belong together, such as one subject's.")
@click.option("--bits", is_flag=True, help="Print the estimate in bits; 1 nat is 1.44 bits. The diagnostics stay in nats.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw training and estimates into this .png or .pdf file.")
@click.option("--save", type=click.Path(path_type=Path), help="Save the estimate to this file, for mi_jax.load.")
@add_estimate_options(*OPTIONS)
@click.pass_obj
def estimate(
    started: float | None,
    files: tuple[Path, ...],
    x: tuple[str, ...],
    y: tuple[str, ...],
    drop_missing: bool,
    compilation_cache: Path | None,
    no_compilation_cache: bool,
    as_json: bool,
    verbose: bool,
    seed: int,
    groups: str | None,
    bits: bool,
    plot: Path | None,
    save: Path | None,
    **options: Any,
) -> None:
    """Estimate the mutual information of x and y, with an interval and a verdict.

    FILES is one .npz, .csv or .parquet file, or two .npy files. This takes from seconds to minutes.

    \b
    mi-jax estimate data.csv --x a,b --y 'c*'
    mi-jax estimate data.npz --x x --y y
    mi-jax estimate x.npy y.npy
    """  # noqa: D301 - Click keeps the lines after this mark as they are
    watch = Watch(started)
    _check_outputs(files, save=save, plot=plot)
    samples = _read_samples(watch, files, x, y, drop_missing, groups)
    if plot is not None:
        _check_plot(plot)
    with watch("import"):
        import jax

        from mi_jax import estimation
        from mi_jax.cli import output, progress
    programs.keep(compilation_cache, off=no_compilation_cache)
    counter = programs.Counter()
    with _refuse_user_errors(files), progress.Progress("training") as bar:
        key = jax.random.key(seed)
        result = estimation.estimate(samples.x, samples.y, groups=samples.groups, key=key, on_chunk=bar, **options)
    spent = result.seconds
    seconds = watch.total(compile=spent.compile, train=spent.train, **{"read out": spent.read_out})
    if as_json:
        click.echo(json.dumps(output.to_json(result, samples, seconds, counter.count(), bits=bits), allow_nan=False))
    else:
        click.echo(output.format_estimate(result, samples, seconds, counter.count(), bits=bits, verbose=verbose))
    # Written last, so that the user sees the estimate even if the disk is full.
    _write_outputs(result.in_bits() if bits else result, save=save, plot=plot)


@program.command(short_help="Test whether the estimator can be trusted on these data.")
@add_data_options
@add_estimate_options(*(name for name in OPTIONS if name not in ("permutations", "retrain", "blocks")))
@click.option(
    "--tolerance", type=float, default=TOLERANCE, show_default=True, help="How far a ratio may be from what it should be."
)
@click.pass_obj
def check(
    started: float | None,
    files: tuple[Path, ...],
    x: tuple[str, ...],
    y: tuple[str, ...],
    drop_missing: bool,
    compilation_cache: Path | None,
    no_compilation_cache: bool,
    as_json: bool,
    verbose: bool,
    seed: int,
    **options: Any,
) -> None:
    """Test whether the estimator can be trusted on these data. You need not know the true mutual information.

    The command makes seven estimates, on changed versions of the data, and compares them. Shuffled pairs must share nothing;
    functions of x and y must share no more than x and y do; and two independent copies must share twice as much as one.

    FILES is one .npz, .csv or .parquet file, or two .npy files.
    """
    watch = Watch(started)
    samples = _read_samples(watch, files, x, y, drop_missing)
    with watch("import"):
        import jax

        from mi_jax import consistency
        from mi_jax.cli import output, progress
    programs.keep(compilation_cache, off=no_compilation_cache)
    counter = programs.Counter()
    with _refuse_user_errors(files), watch("estimates"), progress.Progress("checking", "estimate") as bar:
        result = consistency.self_consistency(samples.x, samples.y, key=jax.random.key(seed), on_chunk=bar, **options)
    seconds = watch.total()
    if as_json:
        click.echo(json.dumps(output.to_json(result, samples, seconds, counter.count()), allow_nan=False))
    else:
        click.echo(output.format_check(result, samples, seconds, counter.count(), verbose=verbose))


@program.command("list")
def list_() -> None:
    """Explain the estimators, critics and transforms, in a line each."""
    sections = {
        "estimators": ESTIMATORS,
        "critics": CRITICS,
        "transforms (none of them changes the true mutual information)": TRANSFORMS,
    }
    for title, lines in sections.items():
        click.echo(f"{title}:")
        for name, text in lines.items():
            click.echo(f"  {name:<13}{text}")


class Watch:
    """A stopwatch for the parts of a command.

    Attributes:
      start: when the process started, or else the command.
      parts: part -> seconds. "import" begins with the seconds from the start of the process to that of the command.
    """

    def __init__(self, started: float | None) -> None:
        self.start = time.perf_counter() - (started or 0.0)
        self.parts = {"import": started or 0.0}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - start

    def total(self, **parts: float) -> dict[str, float]:
        """The measured parts, further parts that the caller knows, the rest, and all together."""
        parts, total = self.parts | parts, time.perf_counter() - self.start
        return parts | {"rest": max(0.0, total - sum(parts.values())), "in all": total}


def _read_samples(
    watch: Watch,
    files: tuple[Path, ...],
    x: tuple[str, ...],
    y: tuple[str, ...],
    drop_missing: bool,
    groups: str | None = None,
) -> Samples:
    try:
        with watch("read"):
            return reading.read_samples(files, x, y, groups=groups, drop_missing=drop_missing)
    except ValueError as error:
        raise Refused(str(error)) from error


@contextlib.contextmanager
def _refuse_user_errors(files: tuple[Path, ...]) -> Iterator[None]:
    """Refuse the input if an error of the library begins with the name of an argument. Other errors are bugs of ours."""
    try:
        yield
    except (ValueError, TypeError) as error:
        match = USER_ERROR.match(str(error))
        if match is None:
            raise
        option = match["option"]
        if option:
            raise Refused(f"--{option.replace('_', '-')}{str(error)[match.end() :]}") from error
        raise Refused(f"{', '.join(map(str, files))}: {error}") from error


def _check_outputs(files: tuple[Path, ...], **outputs: Path | None) -> None:
    """Before the training, refuse a path that could not be written after it, or that would overwrite another file."""
    taken = {file.resolve() for file in files}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.resolve() in taken:
            raise Refused(f"--{option} must be a file of its own, got {path}")
        taken.add(path.resolve())
        try:
            _try_to_write(path)
        except OSError as error:
            raise Refused(f"--{option} {path} cannot be written ({error.strerror or error})") from error


def _try_to_write(path: Path) -> None:
    """Open a file for writing, and leave everything as it was."""
    path = path.resolve()  # otherwise `unlink` would remove a dangling link instead of the file that `open` made
    existed = path.exists()
    with path.open("ab"):
        pass
    if not existed:
        path.unlink()


def _check_plot(path: Path) -> None:
    """Refuse a plot that Matplotlib cannot write. Importing Matplotlib takes a second, so files are read before this."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise Refused(f"--plot needs {error.name}: pip install 'mi-jax[plot]'") from error
    suffixes = Figure().canvas.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in suffixes:
        raise Refused(f"--plot must end in one of {', '.join(f'.{suffix}' for suffix in suffixes)}, got {path}")


def _write_outputs(result: "Estimate", *, save: Path | None, plot: Path | None) -> None:
    try:
        if save is not None:
            result.save(save)
        if plot is not None:
            result.plot().savefig(plot, dpi=150)
    except OSError as error:
        raise Refused(f"{error.filename or save or plot} cannot be written ({error.strerror or error})") from error
