"""The options of `mi-jax`, with their names, defaults and help.

The names and defaults are copies of those of `mi_jax.estimate` and `mi_jax.self_consistency`, because importing the
originals would import JAX. A test compares the copies with the originals.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import click

from mi_jax.cli import programs

Command: TypeAlias = Callable[..., None]

ESTIMATORS = {
    "smile": "Trains a critic to tell true pairs from shuffled ones, and clips extreme ratios. The default.",
    "js": "Trains the same critic as smile, and does not clip.",
    "infonce": "Trains a critic to find the true partner among others. Cannot exceed the log of their number.",
    "cpc": "Another name for infonce.",
    "dv": "The bound of Donsker and Varadhan. Noisy where the mutual information is high.",
    "mine": "Like dv, but trains with a moving average, which makes the gradient less biased.",
    "nwj": "The bound of Nguyen, Wainwright and Jordan. Noisy where the mutual information is high.",
    "tuba": "Like nwj, with a baseline that is learned for each x.",
    "gm": "Learns the densities of x, of y and of both together. Takes no critic.",
    "doe": "Learns the densities of x and of x given y. Takes no critic.",
}
CRITICS = {
    "stacked": "The two that follow, weighed by rows that neither trained on. The default from 2 columns a side on.",
    "gaussian": "Starts from the exact answer for Gaussian data, and learns the rest.",
    "canonical": "Learns variables of x and of y whose relation is Gaussian. Good at bent relations in many columns.",
    "joint": "One network that sees x and y together. Slow, because it runs on every pair.",
    "separable": "One network for x, one for y, and the inner product of what they return. Fast.",
    "bilinear": "x times a matrix times y. The simplest.",
}
TRANSFORMS = {
    "ranks": "Replaces each column by its ranks, spread like a normal variable. Outliers do no harm.",
    "components": "Treats the columns as linear mixtures of independent variables, and ranks those.",
    "standardize": "Brings each column to mean 0 and standard deviation 1.",
    "none": "Changes nothing.",
}
TOLERANCE = 0.1


class Option(NamedTuple):
    """An option of `mi_jax.estimate`.

    Attributes:
      kind: its type, for Click.
      default: its default; None if the default depends on the data or on other options.
      help: what `--help` says.
    """

    kind: Any
    default: Any
    help: str


OPTIONS: Mapping[str, Option] = {
    "estimator": Option(click.Choice(list(ESTIMATORS)), "smile", "How to estimate; `mi-jax list` explains the choices."),
    "critic": Option(
        click.Choice(list(CRITICS)),
        None,
        "The network that scores pairs; `mi-jax list` explains the choices. By default stacked; gaussian for a single "
        "column or more than 200 in all, and separable with more than 1,000.",
    ),
    "folds": Option(int, 5, "Into how many parts to cut the rows. Each part is tested by a fit to the others."),
    "repeats": Option(int, 1, "How often to cut the rows anew, and average the results."),
    "transform": Option(
        click.Choice(list(TRANSFORMS)),
        None,
        "What to do to the columns first; `mi-jax list` explains the choices. By default ranks; or components, where these "
        "show a clearly stronger Gaussian relation.",
    ),
    "tau": Option(
        float,
        None,
        "Where smile clips the log ratio. By default the 95th percentile of the scores of true pairs, but at least 5.",
    ),
    "steps": Option(int, 2_500, "The most training steps of a fold."),
    "batch_size": Option(
        int, None, "How many pairs a training step sees. The default depends on the estimator and the critic."
    ),
    "num_negatives": Option(
        int,
        None,
        "With how many other rows of the batch each x is paired. By default 3 or all, depending on the estimator and the "
        "critic.",
    ),
    "learning_rate": Option(float, 2e-3, "The learning rate of the Adam optimiser."),
    "patience": Option(int, 300, "After how many steps without improvement on its validation rows a fold stops."),
    "max_pairs": Option(int, 2**22, "The most pairs that each fold scores for its estimate."),
    "permutations": Option(
        int,
        0,
        "Also test whether x and y are independent, by shuffling rows so often. Take 999; it costs about one estimate more.",
    ),
    "retrain": Option(
        bool,
        False,
        "Let each shuffled data set go through the whole estimate, which costs as many estimates. Then take 19.",
    ),
    "blocks": Option(
        int,
        None,
        "The rows are a series in order; so many count as one. Take well more than the series remembers.",
    ),
    "confidence": Option(float, 0.95, "The confidence level of the interval."),
}


def _check_folder(context: click.Context, parameter: click.Parameter, folder: Path | None) -> Path | None:
    """Refuse a folder that cannot be written to; JAX would only warn about each program that it cannot keep."""
    if folder is not None:
        try:
            programs.check_folder(folder)
        except OSError as error:
            raise click.BadParameter(f"cannot write to {str(folder)!r}: {error.strerror}", context, parameter) from None
    return folder


def add_data_options(command: Command) -> Command:
    """Add the options that both commands share: what to read, and how to print."""
    x_help = (
        "The columns of x: names separated by commas, or patterns such as 'x*'; repeat the option to add more. In an .npz "
        "file, the name of one array.  [default: x]"
    )
    for decorate in (
        click.option(
            "--verbose", is_flag=True, help="Also print how the numbers came about: data, fit, diagnostics, seconds."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object, with null for NaN."),
        click.option(
            "--compilation-cache",
            type=click.Path(path_type=Path, file_okay=False, writable=True),
            callback=_check_folder,
            help="The folder of compiled programs, with which later runs on the same columns and about as many rows start "
            "sooner. By default one in your cache folder, of at most half a gigabyte.",
        ),
        click.option("--no-compilation-cache", is_flag=True, help="Neither keep nor use compiled programs."),
        click.option(
            "--drop-missing",
            is_flag=True,
            help="Leave out rows with an empty or NaN entry. Otherwise such rows are refused.",
        ),
        click.option("--y", multiple=True, metavar="NAMES", help="The same for y.  [default: y]"),
        click.option("--x", multiple=True, metavar="NAMES", help=x_help),
        click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path)),
    ):
        command = decorate(command)
    return command


def add_estimate_options(*names: str) -> Callable[[Command], Command]:
    """Add these options of `mi_jax.estimate`, and the seed."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            option = OPTIONS[name]
            flag = f"--{name.replace('_', '-')}"
            kind = {"is_flag": True} if option.kind is bool else {"type": option.kind}
            command = click.option(flag, name, default=option.default, show_default=True, help=option.help, **kind)(command)
        seed = click.IntRange(0, 2**32 - 1)
        return click.option(
            "--seed", type=seed, default=0, show_default=True, help="The same seed and data give the same result."
        )(command)

    return decorate
