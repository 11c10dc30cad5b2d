import jax
import numpy as np
import pytest

from mi_jax import tasks
from mi_jax.estimation.coordinates import choose_coordinates, list_coordinates
from mi_jax.estimation.units import make_units

N = 1_000
AS_PAIRED, ROWS = np.arange(N), make_units(N)
TURNED = tasks.rotated(tasks.cubic(3, 1.5), jax.random.key(17))  # y is turned


def choose(x, y, order=AS_PAIRED, transform=None):
    """Which of x and y are unmixed."""
    possible = list_coordinates(x, y, transform)
    chosen = possible[choose_coordinates(possible, order, ROWS)]
    return tuple(columns.unmixing is not None for columns in chosen.columns)


def test_columns_of_few_values_stay_as_they_are():
    x, y = map(np.asarray, TURNED.sample(jax.random.key(0), N))
    label = np.random.default_rng(0).integers(2, size=(N, 1))
    assert choose(x, np.hstack([label, y])) == (False, True)
    unmixing = list_coordinates(x, np.hstack([label, y]), None)[1].columns[1].unmixing
    np.testing.assert_array_equal(unmixing[0], [1, 0, 0, 0])
    np.testing.assert_array_equal(unmixing[1:, 0], 0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rows_of_a_group_count_as_one(seed):
    """Rows that stand ten times tell as little as one of them."""
    x, y = (np.repeat(np.asarray(side), 10, axis=0) for side in TURNED.sample(jax.random.key(seed), N // 10))
    x, y = (side + 1e-6 * np.random.default_rng(0).standard_normal(side.shape) for side in (x, y))
    possible, groups = list_coordinates(x, y, None), make_units(N, groups=np.arange(N) // 10)
    assert choose_coordinates(possible, AS_PAIRED, groups) == 0 < choose_coordinates(possible, AS_PAIRED, ROWS)


@pytest.mark.parametrize("seed", range(3))
def test_components_of_what_is_mixed(seed):
    x, y = map(np.asarray, TURNED.sample(jax.random.key(seed), N))
    assert choose(x, y) == (False, True)
    assert choose(y, x) == (True, False)
    assert choose(x**3 @ np.array([[2.0, 1.0, 0.0], [0.0, 1.0, -1.0], [1.0, 0.0, 1.0]]), y) == (True, True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "task",
    [
        tasks.gaussian(4, 0.0),
        tasks.gaussian(4, 2.0),
        tasks.cubic(4, 2.0),
        tasks.student(3, 1.0, 3.0),
        tasks.uniform_noise(3, 0.3),
    ],
    ids=["independent", "gaussian", "cubic", "student", "uniform noise"],
)
def test_ranks_where_columns_serve_as_well(task, seed):
    assert choose(*task.sample(jax.random.key(seed), N)) == (False, False)


@pytest.mark.parametrize("seed", range(3))
def test_ranks_where_the_relation_is_one_of_columns(seed):
    """x mixes independent variables, but y is its columns and noise."""
    rng = np.random.default_rng(seed)
    x = rng.laplace(size=(N, 4)) @ rng.standard_normal((4, 4))
    assert choose(x, x + np.std(x, axis=0) * rng.standard_normal((N, 4))) == (False, False)


def test_a_permuted_set_chooses_for_itself():
    x, y = TURNED.sample(jax.random.key(0), N)
    assert choose(x, y, np.random.default_rng(0).permutation(N)) == (False, False)


x, y = map(np.asarray, TURNED.sample(jax.random.key(0), N))
NOT_TRIED = {
    "a transform was asked for": (x, y, "ranks"),
    "single columns": (x[:, :1], y[:, 0], None),
    "labels": (x > 0, y.round(1), None),
    "few rows": (x[:11], y[:11], None),
    "columns that depend on one another": (x @ [[1, 0, 1], [0, 1, 1], [0, 0, 0]], y[:, :1], None),
    "values too small to unmix": (1e-310 * np.float64(x), y[:, :1], None),
}


@pytest.mark.parametrize("name", NOT_TRIED)
def test_components_are_not_tried(name):
    assert len(list_coordinates(*NOT_TRIED[name])) == 1


def test_what_is_tried():
    assert [tuple(columns.unmixing is not None for columns in each.columns) for each in list_coordinates(x, y, None)] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    assert len(list_coordinates(x, y[:, 0], None)) == 2
    assert choose(x, y, transform="components") == (True, True)
    for each in list_coordinates(x, y, None):
        np.testing.assert_array_equal(each.x, each.columns[0](x))
        np.testing.assert_array_equal(each.y, each.columns[1](y))
