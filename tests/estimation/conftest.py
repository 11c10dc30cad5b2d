"""What the tests of `estimate` share: data, and estimates of them, made once a file."""

import pytest

from mi_jax import tasks
from tests.quick import draw, light, quick


@pytest.fixture(scope="module")
def task():
    return tasks.gaussian(dim=2, mi=1.0)


@pytest.fixture(scope="module")
def data(task):
    return draw(task)


@pytest.fixture(scope="module")
def reports():
    """The reports that `found` gave while it trained."""
    return []


@pytest.fixture(scope="module")
def found(data, reports):
    return quick(*data, on_chunk=reports.append)


@pytest.fixture(scope="module")
def barely_trained(data):
    return light(*data)
