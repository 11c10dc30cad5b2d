import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import tasks

# Made by the tests, not at import, so that collecting them touches no device.
BEYOND = [
    pytest.param(lambda: tasks.student(1, 0.5, 1.0), id="cauchy"),
    pytest.param(lambda: tasks.student(20, 2.0, 5.0), id="student", marks=pytest.mark.slow),
    pytest.param(lambda: tasks.uniform_noise(3, 0.1), id="narrow_noise"),
    pytest.param(lambda: tasks.uniform_noise(20, 2.0), id="wide_noise", marks=pytest.mark.slow),
    pytest.param(lambda: tasks.cauchy_noise(2, 0.25), id="cauchy_noise", marks=pytest.mark.slow),
    pytest.param(lambda: tasks.sine(2, 0.2), id="sine", marks=pytest.mark.slow),
    pytest.param(lambda: tasks.spiral(tasks.widened(tasks.gaussian(2, 1.0), 5)), id="spiral"),
    pytest.param(lambda: tasks.spiral(tasks.gaussian(2, 1.0), 0.1), id="spiral_in_a_plane", marks=pytest.mark.slow),
    pytest.param(
        lambda: tasks.spiral(tasks.uniform_margins(tasks.gaussian(3, 1.0))), id="spiral_of_uniforms", marks=pytest.mark.slow
    ),
    pytest.param(lambda: tasks.swiss_roll(tasks.gaussian(1, 1.0)), id="swiss_roll", marks=pytest.mark.slow),
    pytest.param(lambda: tasks.rotated(tasks.cubic(5, 1.0), jax.random.key(9)), id="rotated_cubic"),
    pytest.param(
        lambda: tasks.rotated(tasks.student(5, 1.0, 2.0), jax.random.key(9)), id="rotated_student", marks=pytest.mark.slow
    ),
    pytest.param(
        lambda: tasks.rotated(tasks.uniform_noise(20, 0.5), jax.random.key(9)), id="rotated_noise", marks=pytest.mark.slow
    ),
]


@functools.cache
def draw(make, n=10_000):
    """n draws of a task, their log ratios, and the log ratios of all pairs of the first four."""
    task = make()

    @jax.jit
    def sample_and_score(key):
        x, y = task.sample(key, n)
        return x, y, task.log_ratio(x, y), task.log_ratio(x[:4, None], y[None, :4])

    return [np.asarray(values) for values in sample_and_score(jax.random.key(1))]


@pytest.mark.parametrize("make", [lambda: tasks.gaussian(3, 1.0), *BEYOND])
def test_log_ratio_broadcasts_to_a_score_matrix(make):
    *_, ratios, matrix = draw(make)
    chex.assert_shape(matrix, (4, 4))
    np.testing.assert_allclose(np.diagonal(matrix), ratios[:4], rtol=1e-6, atol=2e-6)  # terms of about 10 cancel


@pytest.mark.parametrize("n", [10_000, pytest.param(200_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", BEYOND)
def test_log_ratio_averages_to_the_mi_beyond_the_paper(make, n):
    """Under P their log ratios have exponential tails, Student's e^-t and the noise's e^-2t: the error is finite."""
    ratios = np.float64(draw(make, n)[2])
    assert abs(ratios.mean() - float(make().mi)) <= 4 * ratios.std() / np.sqrt(n)


@pytest.mark.parametrize(
    ("make", "settings", "bad"),
    [
        (lambda mi: tasks.student(20, mi, 5.0), (0.6, 1.0, 5.0), (-1.0, 0.5, np.nan)),  # c is 0.5576
        (lambda epsilon: tasks.uniform_noise(2, epsilon), (0.1, 0.5, 2.0), (-1.0, 0.0, np.inf)),
        (lambda scale: tasks.cauchy_noise(2, scale), (0.1, 0.5, 2.0), (-1.0, 0.0, np.inf)),
    ],
)
def test_sweeps_beyond_the_paper_compile_once(make, settings, bad):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(setting):
        task = make(setting)
        x, y = task.sample(jax.random.key(0), 2_000)
        return task.mi, y, task.log_ratio(x, y)

    for setting in settings:
        mi, _, ratios = run(setting)
        assert mi == pytest.approx(float(make(setting).mi), rel=1e-6)
        assert abs(ratios.mean() - mi) < 5 * ratios.std() / np.sqrt(ratios.size)
    for setting in bad:
        assert all(jnp.isnan(value).all() for value in run(setting))


@pytest.mark.parametrize(
    ("make", "second_moment"),
    [
        (lambda: tasks.uniform_noise(1, 0.1), 6.0),
        (lambda: tasks.uniform_noise(4, 2.0), 1.25**4),
        (lambda: tasks.rotated(tasks.gaussian(4, 0.5), jax.random.key(9)), np.exp(1.0)),
        (lambda: tasks.spiral(tasks.gaussian(4, 0.5)), np.exp(1.0)),
        pytest.param(lambda: tasks.swiss_roll(tasks.gaussian(1, 0.5)), np.exp(1.0), marks=pytest.mark.slow),
    ],
)
def test_the_ratio_averages_to_one_over_independent_pairs(make, second_moment):
    task, n = make(), 200_000

    @jax.jit
    def log_ratio(x_key, y_key):
        return task.log_ratio(task.sample(x_key, n)[0], task.sample(y_key, n)[1])

    ratio = np.exp(np.asarray(log_ratio(jax.random.key(1), jax.random.key(2)), np.float64))
    assert abs(ratio.mean() - 1) <= 4 * np.sqrt((second_moment - 1) / n)


def test_through_draws_what_the_task_draws():
    task = tasks.gaussian(2, 1.0)
    bent = tasks.through(task, x=(jnp.exp, jnp.log), y=tasks.Bijection(jnp.sinh, jnp.arcsinh))
    # Each from a key of its own making, as the key-reuse checker takes a key for used after the first.
    (x, y), (bent_x, bent_y) = (one.sample(jax.random.key(0), 100) for one in (task, bent))
    np.testing.assert_allclose(bent_x, np.exp(x), rtol=1e-6)
    np.testing.assert_allclose(bent_y, np.sinh(y), rtol=1e-5)
    np.testing.assert_allclose(bent.log_ratio(bent_x, bent_y), task.log_ratio(x, y), rtol=1e-4, atol=1e-5)
    assert bent.mi == 1.0


def test_only_a_task_goes_through():
    with pytest.raises(TypeError, match="task must be a Task, got tuple"):
        tasks.through(())
