import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import bounds, estimators, tasks

scores = 2 * np.random.default_rng(0).standard_normal((6, 6), dtype=np.float32)


@pytest.mark.parametrize(
    ("estimator", "objective", "read_out"),
    [
        (estimators.infonce(), bounds.infonce, bounds.infonce),
        (estimators.infonce(symmetric=True), *[lambda s: 0.5 * (bounds.infonce(s) + bounds.infonce(s.T))] * 2),
        (estimators.cpc(), bounds.infonce, bounds.infonce),
        (estimators.nwj(), bounds.nwj, bounds.nwj),
        (estimators.dv(), bounds.dv, bounds.dv),
        (estimators.mine(), bounds.dv, bounds.dv),
        (estimators.js(), bounds.logistic_objective, lambda s: bounds.nwj(s + 1)),
        (estimators.smile(2.0), bounds.logistic_objective, lambda s: bounds.smile(s, 2.0)),
        (estimators.tuba(), lambda s: bounds.nwj(s + 1), lambda s: bounds.nwj(s + 1)),
        (estimators.interpolated(1.0), lambda s: bounds.interpolated(s, jnp.zeros(6), 1.0), None),
    ],
)
def test_what_trains_and_what_is_read_out(estimator, objective, read_out):
    value, _ = estimator.objective(scores, estimator.init())
    np.testing.assert_allclose(value, objective(scores), rtol=1e-6)
    (read,) = estimator.read_out.values()
    np.testing.assert_allclose(read(scores), (read_out or objective)(scores), rtol=1e-6)


def test_offset_is_what_the_best_critic_has_beyond_the_log_ratio():
    """At T = log r* + offset the objective's gradient vanishes in the mean, in the direction of a constant."""
    task = tasks.gaussian(2, 0.5)

    best = (estimators.nwj(), estimators.js(), estimators.smile(), estimators.tuba())

    def slopes(key):
        x, y = task.sample(key, 64)
        exact = task.log_ratio(x[:, None], y[None, :])
        return [
            jax.grad(lambda c, e=estimator: e.objective(exact + e.offset + c, e.init())[0])(0.0)
            for estimator in (*best, estimators.nwj()._replace(offset=0.0))
        ]

    drawn = jax.jit(lambda keys: jax.lax.map(slopes, keys, batch_size=100))(jax.random.split(jax.random.key(0), 2_000))
    *in_errors, without_offset = (abs(np.mean(slope) / (np.std(slope) / np.sqrt(2_000))) for slope in drawn)
    assert max(in_errors) < 4
    assert without_offset > 20


def test_one_run_is_read_one_run_several_ways():
    combined = estimators.share_training(
        js=estimators.js(),
        smile_1=estimators.smile(1.0),
        both=estimators.share_training(a=estimators.js(), b=estimators.smile()),
    )
    assert list(combined.read_out) == ["js", "smile_1", "both_a", "both_b"]
    np.testing.assert_allclose(combined.read_out["smile_1"](scores), bounds.smile(scores, 1.0))
    assert combined.objective is estimators.js().objective


@pytest.mark.parametrize("name", ["tuba", "interpolated", "mine", "js", "infonce"])
def test_float32_scores_stay_float32_also_where_float64_is_enabled(name):
    with jax.enable_x64(True):
        estimator = getattr(estimators, name)()
        for dtype in (jnp.float32, jnp.bfloat16):
            for read in estimator.read_out.values():
                assert read(jnp.zeros((4, 4), dtype)).dtype == jnp.float32


def test_sharing_refuses_different_objectives():
    with pytest.raises(ValueError, match="nwj and js do not train on the same objective"):
        estimators.share_training(js=estimators.js(), nwj=estimators.nwj())
    with pytest.raises(ValueError, match="share_training needs at least one estimator"):
        estimators.share_training()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: estimators.smile(-1.0), "tau must not be negative, got -1.0"),
        (lambda: estimators.interpolated(1.5), r"alpha must lie in \[0, 1\], got 1.5"),
        (lambda: estimators.mine(decay=1.5), r"decay must lie in \[0, 1\), got 1.5"),
        (lambda: estimators.mine(decay=1), r"decay must lie in \[0, 1\), got 1.0"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# MINE


def test_mine_averages_the_partition_in_log_space():
    mine = estimators.mine(decay=0.9)
    objective = jax.jit(mine.objective)
    state = mine.init()
    average = None
    for batch in np.random.default_rng(1).standard_normal((5, 4, 4), dtype=np.float32):
        value, state = objective(batch, state)
        partition = np.exp(np.float64(batch))[~np.eye(4, dtype=bool)].mean()
        average = partition if average is None else 0.9 * average + 0.1 * partition
        assert state == pytest.approx(np.log(average), abs=1e-5)
        assert value == pytest.approx(float(bounds.dv(batch)), abs=1e-5)


def test_mine_without_memory_has_the_gradient_of_dv():
    mine = estimators.mine(decay=0.0)
    gradient = jax.grad(lambda s: mine.objective(s, jnp.array(3.0))[0])(scores)
    np.testing.assert_allclose(gradient, jax.grad(bounds.dv)(scores), atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("height", [1e4, -1e4])
def test_mine_is_finite_at_scores_of_ten_thousand(height, dtype):
    value_and_gradient = jax.jit(jax.value_and_grad(estimators.mine().objective, has_aux=True))
    for previous in np.float32([-np.inf, -1e4, 0.0, 1e4]):
        for extreme in (height * np.eye(3), height * (1 - np.eye(3)), np.full((3, 3), height)):
            (value, state), gradient = value_and_gradient(extreme.astype(dtype), previous)
            assert np.isfinite(value)
            assert np.isfinite(state)
            assert np.isfinite(np.float32(gradient)).all()


def test_the_gradient_of_mine_is_less_biased_than_that_of_dv():
    """A critic with one parameter, T = θ x y on a Gaussian pair, where the gradient of DV at infinite n is known.

    With x, y independent standard normals E[e^{θxy}] = (1 - θ²)^{-1/2}, so the exact gradient in θ of
    E_P[T] - log E_Q[e^T] is rho - θ / (1 - θ²). At n = 4 the batch's own partition is a poor estimate.
    """
    mi, theta, n, steps = 0.3, 0.4, 4, 40_000
    task = tasks.gaussian(1, mi)
    exact = float(tasks.mi_to_rho(mi, 1)) - theta / (1 - theta**2)
    mine = estimators.mine(decay=0.99)

    def value(parameter, state, x, y):
        return mine.objective(parameter * x * y.T, state)

    def step(state, key):
        x, y = task.sample(key, n)
        gradient, new_state = jax.grad(value, has_aux=True)(theta, state, x, y)
        return new_state, (gradient, jax.grad(lambda t: bounds.dv(t * x * y.T))(theta))

    _, gradients = jax.jit(lambda keys: jax.lax.scan(step, mine.init(), keys))(jax.random.split(jax.random.key(0), steps))
    of_mine, of_dv = (np.asarray(g[1_000:], np.float64) for g in gradients)
    # The two see the same batches, so the difference of their biases is far less noisy than each.
    bias_mine, bias_dv = of_mine.mean() - exact, of_dv.mean() - exact
    error = of_mine.std() / np.sqrt(len(of_mine))
    assert abs(bias_dv) > 10 * error  # there is a bias to reduce
    assert abs(bias_mine) < 0.25 * abs(bias_dv)
