"""The copies of names and defaults, which the command line holds so that it need not import JAX, equal their originals."""

import inspect
from typing import get_args

import pytest

import mi_jax
from mi_jax.cli import options
from mi_jax.estimation.columns import Transform
from mi_jax.estimation.config import CRITICS, READ_OUTS


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        (options.ESTIMATORS, READ_OUTS),
        (options.CRITICS, CRITICS),
        (options.TRANSFORMS, get_args(Transform)),
    ],
    ids=["estimators", "critics", "transforms"],
)
def test_names_are_those_of_the_library(copy, original):
    assert list(copy) == list(original)


def test_options_are_those_of_estimate():
    """All but the data, also that of groups, the key, for which there is `--seed`, and what only a program can give."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(mi_jax.estimate).parameters.items()}
    for name in ("x", "y", "groups", "key", "devices", "on_chunk"):
        defaults.pop(name)
    assert {name: option.default for name, option in options.OPTIONS.items()} == defaults


def test_tolerance_is_that_of_self_consistency():
    assert inspect.signature(mi_jax.self_consistency).parameters["tolerance"].default == options.TOLERANCE
