"""Which cases of a parametrised test belong to the default run."""

import pytest


def select_default(*default, of):
    """All of these names; those that are not default ones are slow tests."""
    marks = {name: () if name in default else pytest.mark.slow for name in of}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=mark) for name, mark in marks.items()])
