import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mi_jax import tasks
from mi_jax.tasks.maps import NORMAL_CDF, ROLL, turn_by_length
from tests.laws import passes


def test_rotated_is_the_task_turned():
    task = tasks.gaussian(6, 2.0)
    turned = tasks.rotated(task, jax.random.key(1))
    # Each from a key of its own making, as the key-reuse checker takes a key for used after the first.
    (x, y), (same_x, turned_y) = (jax.jit(lambda key, t=t: t.sample(key, 500))(jax.random.key(0)) for t in (task, turned))
    np.testing.assert_array_equal(x, same_x)
    matrix = np.linalg.lstsq(np.float64(y), np.float64(turned_y))[0]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(6), atol=1e-5)
    assert np.abs(matrix - np.eye(6)).max() > 0.1
    np.testing.assert_allclose(jax.jit(turned.log_ratio)(x, turned_y), jax.jit(task.log_ratio)(x, y), rtol=1e-4, atol=1e-4)
    assert turned.mi == task.mi


def test_rotations_are_uniform():
    """A row of Q is uniform on the sphere; in three dimensions each coordinate then is, on (-1, 1) (Archimedes)."""
    identity = tasks.Task(lambda key, n: (jnp.eye(3), jnp.eye(3)), 0.0, lambda x, y: 0.0)
    keys = jax.random.split(jax.random.key(0), 20_000)
    matrices = np.asarray(jax.jit(jax.vmap(lambda key: tasks.rotated(identity, key).sample(key, 3)[1]))(keys))
    assert all(passes(entry, stats.uniform(-1, 2)) for entry in matrices.reshape(-1, 9).T)
    signs = np.linalg.det(matrices)
    np.testing.assert_allclose(np.abs(signs), 1.0, atol=1e-5)
    assert abs(signs.mean()) < 4 / np.sqrt(20_000)  # as many reflections as rotations


def assert_comes_back(bijection, rows, atol):
    """inverse(forward(rows)) is rows, to what float32 holds."""
    back = jax.jit(lambda rows: bijection.inverse(bijection.forward(rows)))(rows)
    assert back.shape == rows.shape
    assert (np.abs(np.asarray(back) - rows) <= atol).all()


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("speed", [1 / 3, -2.0])
def test_a_spiral_comes_back_and_keeps_lengths_and_volumes(first, speed):
    bijection = turn_by_length(speed, first)
    rows = np.random.default_rng(0).normal(0.0, 2.0, (500, 4)).astype(np.float32)
    squares = (rows**2).sum(axis=1, keepdims=True)
    # The angle of a row is rounded to eps of itself, and moves the row by so much times its length.
    assert_comes_back(bijection, rows, 1e-6 * (1 + abs(speed) * squares) * np.sqrt(squares))
    turned = np.asarray(bijection.forward(rows))
    np.testing.assert_allclose((turned**2).sum(axis=1, keepdims=True), squares, rtol=1e-5)
    still = [place for place in range(4) if place not in (first, first + 1)]
    np.testing.assert_array_equal(turned[:, still], rows[:, still])
    angle = np.angle(np.exp(1j * speed * squares[:, 0]) * (rows[:, first] + 1j * rows[:, first + 1]))
    np.testing.assert_allclose(
        np.exp(1j * np.angle(turned[:, first] + 1j * turned[:, first + 1])), np.exp(1j * angle), atol=2e-3
    )
    slopes = jax.vmap(jax.jacfwd(bijection.forward))(rows[:50] / 4)
    np.testing.assert_allclose(np.linalg.det(np.float64(slopes)), 1.0, atol=1e-4)


def test_the_spiral_turns_other_planes_of_x_and_of_y():
    (x, y), (bent_x, bent_y) = (
        task.sample(jax.random.key(0), 100) for task in (tasks.gaussian(3, 1.0), tasks.spiral(tasks.gaussian(3, 1.0)))
    )
    np.testing.assert_array_equal(bent_x[:, 2], x[:, 2])
    np.testing.assert_array_equal(bent_y[:, 0], y[:, 0])
    assert (np.abs(bent_x[:, :2] - x[:, :2]).max(axis=0) > 0.1).all()
    assert (np.abs(bent_y[:, 1:] - y[:, 1:]).max(axis=0) > 0.1).all()


def test_uniform_margins_come_back():
    rows = np.linspace(-5, 5, 2001, dtype=np.float32)[:, None]
    # An eps beside 1 is eps / density beside the upper end; tails that are small numbers are held exactly.
    assert_comes_back(NORMAL_CDF, rows, 1e-5 + 2e-7 / stats.norm.pdf(rows) * (rows > 0))
    far = np.array([[-40.0], [40.0]], np.float32)
    there = np.asarray(NORMAL_CDF.forward(far))
    assert ((there > 0) & (there < 1)).all()
    assert np.isfinite(NORMAL_CDF.inverse(there)).all()


def test_the_margins_are_uniform():
    for rows in tasks.uniform_margins(tasks.gaussian(2, 1.0)).sample(jax.random.key(0), 20_000):
        assert all(passes(column, stats.uniform()) for column in rows.T)


def test_the_swiss_roll_comes_back_and_is_rolled_up():
    rows = np.linspace(-4, 4, 2001, dtype=np.float32)[:, None]
    assert_comes_back(ROLL, rows, 1e-5 + 1e-6 / stats.norm.pdf(rows))
    plane = np.float64(ROLL.forward(rows))
    angle = np.unwrap(np.arctan2(plane[:, 1], plane[:, 0]))
    assert angle[-1] - angle[0] == pytest.approx(3 * np.pi, rel=1e-3)  # one and a half times around
    np.testing.assert_allclose(21 * np.hypot(*plane.T), 1.5 * np.pi * (1 + 2 * stats.norm.cdf(rows[:, 0])), rtol=1e-5)
    assert np.isfinite(ROLL.inverse(ROLL.forward(np.array([[-40.0], [40.0]], np.float32)))).all()


def test_widened_adds_columns_that_tell_nothing():
    task = tasks.widened(tasks.gaussian(2, 1.0), 4)
    x, y = map(np.asarray, task.sample(jax.random.key(0), 20_000))
    correlations = np.corrcoef(x.T, y.T)
    expected = np.eye(8) + np.diag([float(tasks.mi_to_rho(1.0, 2))] * 2 + [0.0] * 2, 4)
    expected = np.maximum(expected, expected.T)
    assert np.abs(correlations - expected).max() < 5 / np.sqrt(len(x))
    narrow = tasks.gaussian(2, 1.0)
    np.testing.assert_array_equal(task.log_ratio(x, y), narrow.log_ratio(x[:, :2], y[:, :2]))
    rolled = tasks.widened(tasks.swiss_roll(tasks.gaussian(1, 1.0)), 2).sample(jax.random.key(0), 3)
    assert [rows.shape for rows in rolled] == [(3, 2), (3, 2)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tasks.rotated(tasks.gaussian, jax.random.key(0)), TypeError, "task must be a Task, got function"),
        (lambda: tasks.spiral(tasks.gaussian(1, 1.0)), ValueError, "task must have 2 columns or more of x, .* got 1"),
        (lambda: tasks.spiral(None), TypeError, "task must be a Task, got NoneType"),
        (lambda: tasks.swiss_roll(tasks.gaussian(2, 1.0)), ValueError, "task must have one column of x, .* got 2"),
        (lambda: tasks.uniform_margins(1.0), TypeError, "task must be a Task, got float"),
        (lambda: tasks.widened(tasks.gaussian(3, 1.0), 2), ValueError, "dim must be at least the 3 columns .* got 2"),
        (lambda: tasks.widened(tasks.gaussian(3, 1.0), 0), ValueError, "dim must be at least 1, got 0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
