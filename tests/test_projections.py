import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import projections, tasks


def scores_of(task, key, n):
    x, y = task.sample(key, n)
    return task.log_ratio(x[:, None], y[None, :])


def test_partition_is_the_mean_ratio_off_the_diagonal():
    scores = np.random.default_rng(0).standard_normal((5, 5))
    off = np.exp(scores[~np.eye(5, dtype=bool)])
    assert projections.log_partition(jnp.float32(scores)) == pytest.approx(np.log(off.mean()), abs=1e-6)
    clipped = np.log(np.clip(off, np.exp(-0.5), np.exp(0.5)).mean())
    assert projections.log_partition(jnp.float32(scores), tau=0.5) == pytest.approx(clipped, abs=1e-6)


def test_the_exact_ratio_is_valid():
    """E_Q[r*] = 1: the mean of the partition over many batches, within 4 standard errors."""
    task = tasks.gaussian(20, 0.5)  # at this MI the ratio's variance is small enough to see
    keys = jax.random.split(jax.random.key(0), 2_000)
    log_partitions = jax.jit(lambda keys: jax.lax.map(lambda key: projections.log_partition(scores_of(task, key, 64)), keys))
    partitions = np.exp(log_partitions(keys))
    assert abs(partitions.mean() - 1) <= 4 * partitions.std() / np.sqrt(len(keys))
    assert partitions.std() > 0


def test_dv_is_valid_on_its_own_batch_and_elsewhere_only_as_n_grows():
    """Table 1, last column: "n → ∞" for MINE, measured on fresh pairs."""
    task = tasks.gaussian(2, 0.5)

    def fresh_partition(n):
        def one(key):
            own, fresh = (3.0 + scores_of(task, k, n) for k in jax.random.split(key))  # a ratio off by e^3
            own_partition = projections.log_partition(projections.dv(own))
            return own_partition, projections.log_partition(fresh - projections.log_partition(own))

        own, fresh = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(n), 200))
        np.testing.assert_allclose(own, 0.0, atol=1e-5)
        return np.exp(fresh)

    small, large = fresh_partition(4), fresh_partition(128)
    assert np.abs(small - 1).mean() > 5 * np.abs(large - 1).mean()
    assert small.mean() > 1.05  # E[1 / Z] > 1 / E[Z]
    assert abs(large.mean() - 1) < 0.02


def test_infonce_is_valid_whatever_the_scores():
    """Corollary 2 and Eq. 25: for x independent of the n y's, one of which stands in the positive's place, E[Γ] is 1."""

    def one(key):
        scores = 4 * jax.random.normal(key, (6, 6))  # no x knows its y: all pairs are from the product of marginals
        return jnp.exp(jnp.diagonal(projections.infonce(scores))).mean()

    keys = jax.random.split(jax.random.key(0), 5_000)
    ratios = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=500))(keys))
    assert abs(ratios.mean() - 1) <= 4 * ratios.std() / np.sqrt(len(ratios))
    assert ratios.std() > 0.1


def test_smile_is_valid_only_as_n_and_tau_grow():
    """Table 1, last row: over many fresh pairs, the mean ratio is E_Q[r] / E_Q[clip(r)], which tends to 1 with tau."""
    task = tasks.gaussian(2, 1.5)
    own, fresh = (scores_of(task, key, 1_000) for key in jax.random.split(jax.random.key(0)))
    partitions = [jnp.exp(projections.log_partition(fresh - projections.log_partition(own, tau))) for tau in (0.5, 2.0, 8.0)]
    errors = np.abs(np.array(partitions) - 1)
    # By the law for a batch's off-diagonal pairs each partition has a standard error of 0.005.
    assert errors[0] > errors[1] + 0.03
    assert errors[1] > errors[2] + 0.03
    assert errors[2] < 4 * np.sqrt(2) * 0.005


def test_smile_clips_the_partition_and_not_the_ratio():
    scores = jnp.array([[20.0, 9.0], [-9.0, 20.0]])
    projected = projections.smile(scores, tau=2.0)
    np.testing.assert_allclose(projected, scores - np.log((np.exp(2) + np.exp(-2)) / 2), rtol=1e-6)


@pytest.mark.parametrize("projection", [projections.dv, projections.infonce, projections.smile, projections.log_partition])
def test_bad_scores(projection):
    with pytest.raises(ValueError, match=r"scores must be a square matrix, got shape \(3, 4\)"):
        projection(jnp.zeros((3, 4)))
