import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import bounds, estimators, evaluation, models, networks, projections, tasks
from mi_jax.models import Model


def exact(task):
    """A model whose log ratio is the task's own."""
    return Model(lambda key, x, y: (), tuple, lambda *_: None, lambda params, x, y: task.log_ratio(x, y))


def test_value_is_numpys():
    model = models.discriminative(networks.SeparableCritic(hidden=(8,)), estimators.nwj())
    x, y = tasks.gaussian(3, 1.0).sample(jax.random.key(0), 7)
    params = model.init(jax.random.key(1), x, y)
    scores = np.float64(model.scores(params, x, y)) - 1.0  # NWJ's critic learns log r + 1
    ratio = np.exp([scores[i, (i + 1) % 7] for i in range(7)])
    ours = evaluation.normaliser(model, params, x, y)
    np.testing.assert_allclose(ours.log_mean, np.log(ratio.mean()), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.effective_pairs, ratio.sum() ** 2 / (ratio**2).sum(), rtol=1e-4)


def test_the_exact_ratio_has_normaliser_one():
    """E_Q[r*] = 1, to the standard error that the law gives: Var = (e^{2I} - 1) / n."""
    task, n = tasks.gaussian(20, 0.5), 200_000
    x, y = task.sample(jax.random.key(0), n)
    ours = evaluation.normaliser(exact(task), (), x, y)
    assert abs(float(jnp.exp(ours.log_mean)) - 1) < 4 * np.sqrt(np.expm1(1.0) / n)
    # n / E_Q[r*²] = n e^{-2I}
    assert ours.effective_pairs == pytest.approx(n * np.exp(-1.0), rel=0.1)


def test_where_the_tail_is_not_seen_the_effective_pairs_say_so():
    task = tasks.gaussian(20, 10.0)
    ours = evaluation.normaliser(exact(task), (), *task.sample(jax.random.key(0), 10_000))
    assert ours.log_mean < -1.0  # though the ratio is exact
    assert ours.effective_pairs < 10


def test_it_agrees_with_the_partition_over_all_off_diagonal_pairs():
    model = models.discriminative(networks.SeparableCritic(hidden=(8,)), estimators.js())
    x, y = tasks.gaussian(3, 1.0).sample(jax.random.key(0), 2_000)
    params = model.init(jax.random.key(1), x, y)
    by_matrix = projections.log_partition(model.scores(params, x, y))
    assert evaluation.normaliser(model, params, x, y).log_mean == pytest.approx(float(by_matrix), abs=0.02)


def test_extreme_ratios_stay_finite():
    model = Model(lambda key, x, y: (), tuple, lambda *_: None, lambda params, x, y: 1e4 * x[:, 0])
    ours = evaluation.normaliser(model, (), jnp.array([[1.0], [-1.0]]), jnp.zeros((2, 1)))
    assert ours.log_mean == pytest.approx(1e4 - np.log(2), rel=1e-6)
    assert ours.effective_pairs == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: evaluation.normaliser("gm", (), x, x), TypeError, "model must be a Model, got str"),
        (lambda m, x: evaluation.normaliser(m, (), x, x[:2]), ValueError, "same number of rows, at least 2, got 3 and 2"),
        (lambda m, x: evaluation.normaliser(m, (), x[:1], x[:1]), ValueError, "at least 2, got 1 and 1"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(exact(tasks.gaussian(2, 1.0)), jnp.zeros((3, 2)))


def bilinear(scale=1.0):
    """Scores of any rows, without a network."""
    return lambda x, y: scale * (x @ y.T) + 0.3 * x[:, :1] - 0.2 * y[:, 1][None]


def rows(n, seed=0):
    x, y = np.random.default_rng(seed).standard_normal((2, n, 3))
    return jnp.float32(x), jnp.float32(0.6 * x + 0.8 * y)


def dense(scores, tau):
    """The fields of `PairSums` of one group, from its whole matrix, in float64 and row by row."""
    s, m = np.float64(scores), len(scores)
    found = {name: np.zeros(m) for name in evaluation.PairSums._fields[:-1]}
    for i in range(m):
        row, column = np.delete(s[i], i), np.delete(s[:, i], i)
        found["joint"][i] = s[i, i]
        found["rows"][i], found["columns"][i] = np.log(np.exp(row).mean()), np.log(np.exp(column).mean())
        found["clipped_rows"][i] = np.log(np.exp(np.clip(row, -tau, tau)).mean())
        found["clipped_columns"][i] = np.log(np.exp(np.clip(column, -tau, tau)).mean())
        found["squared"][i] = np.log(np.exp(2 * row).mean())
        found["clipped"][i] = np.mean(np.abs(row) > tau)
        found["shares"][i] = sum(np.exp(s[j, i]) / np.exp(s[j]).sum() for j in range(m) if j != i)
    return found


@pytest.mark.parametrize(
    ("n", "block_pairs", "pairs", "group"),
    [
        (12, 4 * 12, 2**22, 12),  # three blocks of 4 rows
        (12, 5 * 12, 2**22, 12),  # blocks of 5, 5 and 2 rows
        (13, 1, 2**22, 13),  # a block a row
        (24, 3 * 8, 8 * 24, 8),  # three groups, each in blocks of 3, 3 and 2 rows
        (29, 2**16, 7 * 29, 7),  # four groups, one row left over
        (9, 2**16, 1, 2),  # the smallest groups
        (10, 2**16, 7 * 10, 5),  # two groups, rather than one of 7 with three rows left over
    ],
)
def test_pair_sums_are_those_of_the_whole_matrix(monkeypatch, n, block_pairs, pairs, group):
    monkeypatch.setattr(evaluation, "BLOCK_PAIRS", block_pairs)
    x, y = rows(n)
    found = jax.jit(lambda x, y: evaluation.pair_sums(bilinear(), x, y, tau=0.8, pairs=pairs)[:-1])(x, y)
    assert evaluation.group_size(n, pairs) == group
    matrix, full = bilinear()(x, y), n // group * group
    expected = [dense(matrix[start : start + group, start : start + group], 0.8) for start in range(0, full, group)]
    for name, values in zip(evaluation.PairSums._fields, found, strict=False):
        assert values.shape == (full,)
        np.testing.assert_allclose(values, np.concatenate([each[name] for each in expected]), rtol=1e-5, atol=1e-5)


def test_rows_of_any_shape_and_precision_are_scored(monkeypatch):
    monkeypatch.setattr(evaluation, "BLOCK_PAIRS", 4 * 10)
    x, y = rows(10)
    expected = evaluation.pair_sums(bilinear(), x, y)
    scores = lambda x, y: bilinear()(x.reshape(-1, 3), y.reshape(-1, 3)).astype(jnp.bfloat16)  # noqa: E731
    found = evaluation.pair_sums(scores, x.reshape(10, 3, 1), y.reshape(10, 1, 3))
    assert found.group == 10
    assert found.rows.dtype == jnp.float32
    np.testing.assert_allclose(found.rows, expected.rows, atol=0.03)  # of scores that keep 8 bits


def test_read_outs_are_the_bounds_of_the_whole_matrix():
    x, y = rows(60)
    matrix = bilinear()(x, y)
    found = jax.jit(lambda x, y: evaluation.read_outs(evaluation.pair_sums(bilinear(), x, y, tau=0.8)))(x, y)
    expected = {
        "infonce": bounds.infonce(matrix),
        "dv": bounds.dv(matrix),
        "smile": bounds.smile(matrix, 0.8),
        "nwj": bounds.nwj(matrix + 1),
    }
    assert found.keys() == expected.keys()
    for name, (value, influence) in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)
        assert influence.shape == (60,)
        np.testing.assert_allclose(influence.mean(), 0.0, atol=1e-5)


def test_read_outs_of_groups_are_of_all_their_pairs():
    """InfoNCE, linear in the groups, is their mean; the partition function is one of all groups' pairs."""
    x, y = rows(40)
    found = evaluation.read_outs(evaluation.pair_sums(bilinear(), x, y, tau=0.8, pairs=400))
    matrices = np.float64(jax.vmap(bilinear())(x.reshape(4, 10, 3), y.reshape(4, 10, 3)))
    joint = np.mean([np.diagonal(s).mean() for s in matrices])
    negatives = np.concatenate([s[~np.eye(10, dtype=bool)] for s in matrices])
    np.testing.assert_allclose(
        found["infonce"].value, np.mean([bounds.infonce(jnp.float32(s)) for s in matrices]), rtol=1e-5
    )
    np.testing.assert_allclose(found["dv"].value, joint - np.log(np.exp(negatives).mean()), rtol=1e-5)
    clipped = np.exp(np.clip(negatives, -0.8, 0.8))
    np.testing.assert_allclose(found["smile"].value, joint - np.log(clipped.mean()), rtol=1e-5)
    np.testing.assert_allclose(found["nwj"].value, 1 + joint - np.exp(negatives).mean(), rtol=1e-5)


def test_the_partition_and_its_effective_pairs_are_numpys():
    x, y = rows(40)
    sums = evaluation.pair_sums(bilinear(), x, y, tau=0.8, pairs=400)
    matrices = np.float64(jax.vmap(bilinear())(x.reshape(4, 10, 3), y.reshape(4, 10, 3)))
    negatives = np.concatenate([s[~np.eye(10, dtype=bool)] for s in matrices])
    ratio = np.exp(negatives)
    np.testing.assert_allclose(evaluation.log_partition(sums), np.log(ratio.mean()), rtol=1e-5, atol=1e-6)
    clipped = np.exp(np.clip(negatives, -0.8, 0.8)).mean()
    np.testing.assert_allclose(evaluation.log_partition(sums, clipped=True), np.log(clipped), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(evaluation.effective_pairs(sums), ratio.sum() ** 2 / (ratio**2).sum(), rtol=1e-4)


def test_of_equal_scores_all_pairs_count():
    sums = evaluation.pair_sums(lambda x, y: jnp.full((len(x), len(y)), 3.0), *rows(30), pairs=300)
    assert evaluation.effective_pairs(sums) == pytest.approx(30 * 9, rel=1e-4)
    assert evaluation.log_partition(sums) == pytest.approx(3.0, rel=1e-5)
    np.testing.assert_allclose(sums.shares, 0.9, rtol=1e-5)  # of ten equal ones in each of nine rows


TASK = tasks.gaussian(3, 1.0)


def exact_scores(x, y):
    return TASK.log_ratio(x[:, None], y[None])


def tilted_scores(x, y):
    """A ratio of which rows have another partition each, and columns less so: then the pairs that a row forms count."""
    return 0.4 * exact_scores(x, y) + 0.7 * x[:, :1]


@pytest.fixture(
    scope="module",
    params=[(exact_scores, 200), (tilted_scores, 50)],
    ids=["exact", "tilted, in groups of 50"],
)
def many_data_sets(request):
    """The read-outs of 2,000 fresh data sets of 200 rows, and the standard errors that each says of itself."""
    scores, group = request.param

    def one(key):
        found = evaluation.read_outs(evaluation.pair_sums(scores, *TASK.sample(key, 200), tau=1.5, pairs=200 * group))
        return {name: (value, jnp.std(influence) / 200**0.5) for name, (value, influence) in found.items()}

    found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=20))(jax.random.split(jax.random.key(0), 2_000))
    return scores, jax.tree.map(np.float64, found)


@pytest.mark.parametrize("name", ["infonce", "dv", "smile", "nwj"])
def test_the_influence_gives_the_standard_error(many_data_sets, name):
    """To 4 standard errors of a standard deviation of 2,000, 1 / sqrt(4,000) each, and terms of 1 / n beyond."""
    scores, found = many_data_sets
    values, errors = found[name]
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=4 / np.sqrt(4_000) + 0.02)
    if scores is exact_scores and name in ("dv", "nwj"):  # unbiased, or nearly
        assert values.mean() == pytest.approx(1.0, abs=4 * values.std() / np.sqrt(2_000) + 0.01)


@pytest.mark.parametrize(("mi", "dim", "n", "group"), [(4.0, 20, 64, 64), (6.0, 20, 200, 200), (4.0, 20, 200, 8)])
def test_infonces_standard_error_near_its_ceiling(mi, dim, n, group):
    """Where a row's own pair is most of its partition, and must not count twice."""
    task = tasks.gaussian(dim, mi)

    def one(key):
        scores = lambda x, y: task.log_ratio(x[:, None], y[None])  # noqa: E731
        value, influence = evaluation.read_outs(evaluation.pair_sums(scores, *task.sample(key, n), pairs=n * group))[
            "infonce"
        ]
        return value, jnp.std(influence) / n**0.5

    values, errors = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=20))(jax.random.split(jax.random.key(0), 1_000))
    # To 4 standard errors of a standard deviation of 1,000, and terms of 1 / n beyond.
    assert np.sqrt(np.mean(np.float64(errors) ** 2)) == pytest.approx(np.std(np.float64(values)), rel=4 / 2_000**0.5 + 0.02)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_scores_that_overflow_when_exponentiated_stay_finite(scale):
    """Equal on the diagonal and off it, but for the sign."""
    numbers = jnp.arange(20.0)
    scores = lambda x, y: jnp.where(x[:, None] == y[None], scale, -scale)  # noqa: E731
    sums = evaluation.pair_sums(scores, numbers, numbers, tau=5.0)
    for leaf in sums:
        assert np.isfinite(leaf).all()
    found = evaluation.read_outs(sums)
    for name in ("infonce", "dv", "smile"):
        assert np.isfinite(found[name].value)
        assert np.isfinite(found[name].influence).all()
    assert found["dv"].value == pytest.approx(2 * scale, rel=1e-6)
    assert found["smile"].value == pytest.approx(scale + np.copysign(5, scale), rel=1e-6)
    # The joint pair holds all of its row, or nothing; numbers of 1e4 are 1e-3 apart.
    contrast = np.log(20) if scale > 0 else 2 * scale + np.log(20 / 19)
    assert found["infonce"].value == pytest.approx(contrast, abs=2e-3)
    np.testing.assert_allclose(sums.clipped, 1.0)
    assert evaluation.effective_pairs(sums) == pytest.approx(20 * 19, rel=0.01)
    # NWJ holds e^T itself: of 1e4 it is -inf, as the bound is.
    assert found["nwj"].value == (pytest.approx(1 + scale, rel=1e-6) if scale > 0 else -np.inf)


def test_a_traced_tau_and_no_tau():
    x, y = rows(30)
    traced = jax.jit(lambda tau: evaluation.read_outs(evaluation.pair_sums(bilinear(), x, y, tau=tau))["smile"].value)
    for tau in (0.5, 2.0, np.inf):
        np.testing.assert_allclose(traced(tau), bounds.smile(bilinear()(x, y), tau), rtol=1e-5, atol=1e-6)
    unclipped = evaluation.pair_sums(bilinear(), x, y)
    np.testing.assert_array_equal(unclipped.clipped, 0.0)
    np.testing.assert_array_equal(unclipped.clipped_rows, unclipped.rows)


@pytest.mark.parametrize("pairs", [2, 1_000, 10_000, 2**22])
def test_groups_keep_to_the_budget(pairs):
    for n in (2, 3, 10, 31, 32, 100, 101, 1_000, 5_000, 10**6):
        size = evaluation.group_size(n, pairs)
        assert 2 <= size <= n
        # Beyond the budget only where no pair of rows would keep to it.
        assert n // size * size**2 <= max(pairs, 2 * n)
        if n * n <= pairs:
            assert size == n


@pytest.mark.parametrize(("x", "y"), [(3, 2), (1, 1), (0, 0)])
def test_bad_rows(x, y):
    with pytest.raises(ValueError, match=f"same number of rows, at least 2, got {x} and {y}"):
        evaluation.pair_sums(bilinear(), jnp.zeros((x, 3)), jnp.zeros((y, 3)))
