"""`mi-jax`: mutual information of the columns or arrays of a file, from the command line."""

import contextlib
import inspect
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, get_args

import click
import jax

import mi_jax
from mi_jax import consistency, estimation, estimators, models, reports, tables
from mi_jax.cross_fitting import READ_OUTS
from mi_jax.estimation import CRITICS, Estimate
from mi_jax.preprocessing import Transform
from mi_jax.tables import Samples

TRANSFORMS = {
    "ranks": "Normal scores by rank, each column by itself: heavy tails do no harm, and MI stays what it is.",
    "standardize": "Mean 0 and standard deviation 1.",
    "none": "Nothing.",
}
# Options of `estimate`, whose signature has the defaults: type, and what the help says.
OPTIONS: Mapping[str, tuple[Any, str]] = {
    "estimator": (click.Choice(list(READ_OUTS)), "What is trained and read out."),
    "critic": (click.Choice(list(CRITICS)), "The network; by default gaussian, with over 1,000 columns separable."),
    "seeds": (int, "Splits and starts; 5 test each row once."),
    "transform": (click.Choice(get_args(Transform)), "What is done to each column first."),
    "tau": (float, "Where SMILE clips; by default the 95th percentile of T on validation pairs, at least 5."),
    "steps": (int, "Most steps of training."),
    "batch": (int, "Joint pairs a step; the default depends on estimator and critic."),
    "negatives": (int, "Rows of its batch each x is scored against; by default 7 or all."),
    "learning_rate": (float, "Adam's."),
    "patience": (int, "Steps without a better validation after which a seed stops."),
    "pairs": (int, "Pairs that the read-out of a seed may score."),
    "permutations": (int, "Permuted data sets, for a test of independence; 19 or more."),
    "confidence": (float, "Level of the interval."),
}
# What the errors of `estimate` and `self_consistency` begin with, if they are the user's.
BLAMED = re.compile(rf"(?P<option>{'|'.join([*OPTIONS, 'tolerance'])})\b|(x|y|g\(rows\)|h\(rows\)) ")


class Refused(click.ClickException):
    """Bad input: told in one line, with exit code 2."""

    exit_code = 2


class Commands(click.Group):
    """A group whose errors are one line on stderr, without Click's usage above it."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run, and exit."""
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
def commands(context: click.Context) -> None:
    """Mutual information from samples in files, with an interval, and warnings where the number means nothing."""
    if context.invoked_subcommand is None:
        raise Refused(f"a command is needed: {', '.join(commands.list_commands(context))}; see mi-jax --help")


def _keep_programs(context: click.Context, parameter: click.Parameter, folder: Path | None) -> None:
    """Keep every compiled program, however small, in a folder, and take it from there."""
    if folder is not None:
        try:  # JAX would warn of each program, and go on without
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise click.BadParameter(f"cannot write to {str(folder)!r}: {error.strerror}", context, parameter) from None
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _of_data(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments that say what to read, and how to tell of it."""
    x_help = (
        "Of x: the array of an .npz file, or columns: names with commas between them, patterns such as 'x*', and the "
        "option again for more. By default x."
    )
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, null for NaN, and no table."),
        click.option(
            "--compilation-cache",
            type=click.Path(path_type=Path, file_okay=False, writable=True),
            expose_value=False,
            callback=_keep_programs,
            help="A folder for compiled programs: data of a shape seen before are not compiled for again.",
        ),
        click.option("--drop-missing", is_flag=True, help="Leave out rows with an empty or NaN entry."),
        click.option("--y", multiple=True, metavar="NAMES", help="The same of y. By default y."),
        click.option("--x", multiple=True, metavar="NAMES", help=x_help),
        click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


def _of_estimate(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options of `estimate`, with its defaults."""
    defaults = inspect.signature(estimation.estimate).parameters

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name in reversed(names):
            kind, text = OPTIONS[name]
            flag, default = f"--{name.replace('_', '-')}", defaults[name].default
            command = click.option(flag, name, type=kind, default=default, show_default=True, help=text)(command)
        seed = click.IntRange(0, 2**32 - 1)
        return click.option("--seed", type=seed, default=0, show_default=True, help="Of all random numbers.")(command)

    return decorate


@commands.command()
@_of_data
@_of_estimate(*OPTIONS)
@click.option("--bits", is_flag=True, help="The estimate in bits; the diagnostics stay in nats.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw training and estimates into this file, .png or .pdf.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the estimate there, for mi_jax.estimation.load.")
@click.pass_obj
def estimate(
    imported: float | None,
    files: tuple[Path, ...],
    x: tuple[str, ...],
    y: tuple[str, ...],
    drop_missing: bool,
    as_json: bool,
    seed: int,
    bits: bool,
    plot: Path | None,
    save: Path | None,
    **options: Any,
) -> None:
    """Estimate the mutual information of x and y, from FILES: one .npz, .csv or .parquet, or two .npy.

    \b
    mi-jax estimate data.npz --x x --y y
    mi-jax estimate x.npy y.npy
    mi-jax estimate data.csv --x a,b --y 'c*'
    """  # noqa: D301 - Click's mark for lines to be kept
    watch = Watch(imported)
    _check_outputs(files, save=save, plot=plot)
    samples = _read(watch, files, x, y, drop_missing)
    with _refusing(files), reports.Progress("training") as progress:
        result = estimation.estimate(samples.x, samples.y, key=jax.random.key(seed), on_chunk=progress, **options)
    spent = result.seconds
    seconds = watch.seconds(compile=spent.compile, train=spent.train, **{"read out": spent.read_out})
    if as_json:
        click.echo(json.dumps(reports.as_json(result, samples, seconds, bits=bits), allow_nan=False))
    else:
        click.echo(reports.of_estimate(result, samples, seconds, bits=bits))
    # Last, so that a disk that is full costs no estimate.
    _write(result.in_bits() if bits else result, save=save, plot=plot)


@commands.command()
@_of_data
@_of_estimate(*(name for name in OPTIONS if name != "permutations"))
@click.option(
    "--tolerance", type=float, default=consistency.TOLERANCE, show_default=True, help="How far a ratio may be off."
)
@click.pass_obj
def check(
    imported: float | None,
    files: tuple[Path, ...],
    x: tuple[str, ...],
    y: tuple[str, ...],
    drop_missing: bool,
    as_json: bool,
    seed: int,
    **options: Any,
) -> None:
    """Whether the estimator has the properties of mutual information on these data; no true value is needed.

    It ought to vanish for shuffled pairs, not to grow by data processing, and to add up over independent copies. This takes
    seven estimates.
    """
    watch = Watch(imported)
    samples = _read(watch, files, x, y, drop_missing)
    with _refusing(files), watch("estimates"), reports.Progress("checking", "estimate") as progress:
        found = consistency.self_consistency(samples.x, samples.y, key=jax.random.key(seed), on_chunk=progress, **options)
    seconds = watch.seconds()
    if as_json:
        click.echo(json.dumps(reports.as_json(found, samples, seconds), allow_nan=False))
    else:
        click.echo(reports.of_consistency(found, samples, seconds))


@commands.command("list")
def list_() -> None:
    """The estimators, critics and transforms, with a line each."""
    builders = {name: getattr(estimators, name, None) or getattr(models, name) for name in READ_OUTS}
    sections = {
        "estimators": {name: _first_line(builder) for name, builder in builders.items()},
        "critics": {name: _first_line(critic) for name, critic in CRITICS.items()},
        "transforms": TRANSFORMS,
    }
    for title, lines in sections.items():
        click.echo(f"{title}:")
        for name, text in lines.items():
            click.echo(f"  {name:<13}{text}")


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


class Watch:
    """Where the seconds of a command go; of all, those for the imports before it."""

    def __init__(self, imported: float | None) -> None:
        self.start = time.perf_counter() - (imported or 0.0)
        self.parts = {} if imported is None else {"import": imported}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.parts[name] = time.perf_counter() - start

    def seconds(self, **parts: float) -> dict[str, float]:
        """Those of the parts, these beside them, what is left, and all."""
        parts, total = self.parts | parts, time.perf_counter() - self.start
        return parts | {"rest": max(0.0, total - sum(parts.values())), "in all": total}


def _read(watch: Watch, files: tuple[Path, ...], x: tuple[str, ...], y: tuple[str, ...], drop_missing: bool) -> Samples:
    try:
        with watch("read"):
            return tables.read(files, x, y, drop_missing=drop_missing)
    except ValueError as error:
        raise Refused(str(error)) from error


@contextlib.contextmanager
def _refusing(files: tuple[Path, ...]) -> Iterator[None]:
    """Errors that begin with an argument's name are the user's, told with the option's; others are bugs, told in full."""
    try:
        yield
    except (ValueError, TypeError) as error:
        blamed = BLAMED.match(str(error))
        if blamed is None:
            raise
        option = blamed["option"]
        named = f"--{option.replace('_', '-')}{str(error)[blamed.end() :]}" if option else None
        raise Refused(named or f"{', '.join(map(str, files))}: {error}") from error


def _check_outputs(files: tuple[Path, ...], **outputs: Path | None) -> None:
    """Refuse before the training what could not be written after it."""
    seen = {file.resolve() for file in files}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.resolve() in seen:
            raise Refused(f"--{option} must be a file of its own, got {path}")
        seen.add(path.resolve())
        try:
            _try_to_write(path)
        except OSError as error:
            raise Refused(f"--{option} {path} cannot be written ({error.strerror or error})") from error
    plot = outputs["plot"]
    if plot is not None:
        _check_plot(plot)


def _try_to_write(path: Path) -> None:
    path = path.resolve()  # or of a dangling link the link would be removed
    there = path.exists()
    with path.open("ab"):
        pass
    if not there:
        path.unlink()


def _check_plot(path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise Refused(f"--plot needs {error.name}: pip install 'mi-jax[plot]'") from error
    kinds = Figure().canvas.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in kinds:
        raise Refused(f"--plot must end in one of {', '.join(f'.{kind}' for kind in kinds)}, got {path}")


def _write(result: Estimate, *, save: Path | None, plot: Path | None) -> None:
    try:
        if save is not None:
            result.save(save)
        if plot is not None:
            result.plot().savefig(plot, dpi=150)
    except OSError as error:
        raise Refused(f"{error.filename or save or plot} cannot be written ({error.strerror or error})") from error
