import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import estimators, evaluation, models, networks, projections, tasks
from mi_jax.models import Model
from tests import reference


def exact(task):
    """A model whose log ratio is the task's own."""
    return Model(lambda key, x, y: (), tuple, lambda *_: None, lambda params, x, y: task.log_ratio(x, y))


def draw_normals(n, dim, mi, seed=0):
    """Rows of the law of `tasks.gaussian(dim, mi)`, by NumPy, which compiles nothing."""
    x, noise = np.random.default_rng(seed).standard_normal((2, n, dim), dtype=np.float32)
    rho = np.sqrt(-np.expm1(-2 * mi / dim))
    return x, np.float32(rho * x + np.sqrt(1 - rho**2) * noise)


def scores_and_normaliser(estimator, x, y):
    """Of a critic that is not trained, in one program."""
    model = models.discriminative(networks.SeparableCritic(hidden=(8,)), estimator)

    def compute(key):
        params = model.init(key, x, y)
        scores = model.critic.scores(params, x, y)
        return scores, projections.log_partition(scores), evaluation.normaliser(model, params, x, y)

    return jax.jit(compute)(jax.random.key(1))


def test_value_is_numpys():
    scores, _, ours = scores_and_normaliser(estimators.nwj(), *draw_normals(7, 3, 1.0))
    scores = np.float64(scores) - 1.0  # NWJ's critic learns log r + 1
    ratio = np.exp([scores[i, (i + 1) % 7] for i in range(7)])
    np.testing.assert_allclose(ours.log_mean, np.log(ratio.mean()), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.effective_pairs, ratio.sum() ** 2 / (ratio**2).sum(), rtol=1e-4)


def exact_normaliser(task, x, y):
    return jax.jit(lambda x, y: evaluation.normaliser(exact(task), (), x, y))(x, y)


def test_a_normaliser_of_padded_rows_is_that_of_the_rows():
    x, y = draw_normals(50, 3, 1.0)
    ours = exact_normaliser(tasks.gaussian(3, 1.0), x[:37], y[:37])
    padding = jnp.arange(50)[:, None] >= 37
    padded = jax.jit(lambda *given: evaluation.normaliser(exact(tasks.gaussian(3, 1.0)), (), *given[:2], count=given[2]))
    theirs = padded(jnp.where(padding, jnp.nan, x), jnp.where(padding, jnp.nan, y), 37)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)


def test_the_exact_ratio_has_normaliser_one():
    """E_Q[r*] = 1, to the standard error that the law gives: Var = (e^{2I} - 1) / n."""
    n = 200_000
    ours = exact_normaliser(tasks.gaussian(20, 0.5), *draw_normals(n, 20, 0.5))
    assert abs(np.exp(float(ours.log_mean)) - 1) < 4 * np.sqrt(np.expm1(1.0) / n)
    # n / E_Q[r*²] = n e^{-2I}
    assert ours.effective_pairs == pytest.approx(n * np.exp(-1.0), rel=0.1)


def test_where_the_tail_is_not_seen_the_effective_pairs_say_so():
    ours = exact_normaliser(tasks.gaussian(20, 10.0), *draw_normals(10_000, 20, 10.0))
    assert ours.log_mean < -1.0  # though the ratio is exact
    assert ours.effective_pairs < 10


def test_it_agrees_with_the_partition_over_all_off_diagonal_pairs():
    _, by_matrix, ours = scores_and_normaliser(estimators.js(), *draw_normals(2_000, 3, 1.0))
    assert ours.log_mean == pytest.approx(float(by_matrix), abs=0.02)


def test_extreme_ratios_stay_finite():
    model = Model(lambda key, x, y: (), tuple, lambda *_: None, lambda params, x, y: 1e4 * x[:, 0])
    x, y = np.float32([[1.0], [-1.0]]), np.zeros((2, 1), np.float32)
    ours = jax.jit(lambda x, y: evaluation.normaliser(model, (), x, y))(x, y)
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
    """Scores of any rows, of JAX or of NumPy, without a network."""
    return lambda x, y: scale * (x @ y.T) + 0.3 * x[:, :1] - 0.2 * y[:, 1][None]


def rows(n, seed=0):
    x, y = np.random.default_rng(seed).standard_normal((2, n, 3))
    return np.float32(x), np.float32(0.6 * x + 0.8 * y)


def dense(scores, tau, near=None):
    """The fields of `PairSums` of one group, from its whole matrix, in float64 and row by row.

    `near` marks pairs that are no negatives; by default the joint ones alone.
    """
    s, m = np.float64(scores), len(scores)
    far = ~np.eye(m, dtype=bool) if near is None else ~near
    found = {name: np.zeros(m) for name in evaluation.PairSums._fields[:-1]} | {"weights": np.ones(m)}
    for i in range(m):
        row, column = s[i, far[i]], s[far[:, i], i] + np.log((m - 1) / far.sum(axis=1)[far[:, i]])
        found["joint"][i] = s[i, i]
        found["rows"][i], found["columns"][i] = np.log(np.exp(row).mean()), np.log(np.exp(column).sum() / (m - 1))
        found["clipped_rows"][i] = np.log(np.exp(np.clip(row, -tau, tau)).mean())
        weights = (1 / far.sum(axis=1))[far[:, i]]
        found["clipped_columns"][i] = np.log(weights @ np.exp(np.clip(s[far[:, i], i], -tau, tau)))
        found["squared"][i] = np.log(np.exp(2 * row).mean())
        found["clipped"][i] = np.mean(np.abs(row) > tau)
        for j in np.flatnonzero(far[:, i]):
            more = (m - 1) / far[j].sum()
            found["shares"][i] += more * np.exp(s[j, i]) / (more * np.exp(s[j, far[j]]).sum() + np.exp(s[j, j]))
    return found


@pytest.mark.parametrize(
    ("n", "block_pairs", "pairs", "group"),
    [
        (12, 5 * 12, 2**22, 12),  # blocks of 5, 5 and 2 rows
        (24, 3 * 8, 8 * 24, 8),  # three groups, each in blocks of 3, 3 and 2 rows
        pytest.param(10, 2**16, 7 * 10, 5, marks=pytest.mark.slow),  # two groups, rather than one of 7 and three rows over
        pytest.param(12, 4 * 12, 2**22, 12, marks=pytest.mark.slow),  # three blocks of 4 rows
        pytest.param(13, 1, 2**22, 13, marks=pytest.mark.slow),  # a block a row
        pytest.param(29, 2**16, 7 * 29, 7, marks=pytest.mark.slow),  # four groups, one row left over
        pytest.param(9, 2**16, 1, 2, marks=pytest.mark.slow),  # the smallest groups
    ],
)
def test_pair_sums_are_those_of_the_whole_matrix(monkeypatch, n, block_pairs, pairs, group):
    monkeypatch.setattr(evaluation, "BLOCK_PAIRS", block_pairs)
    x, y = rows(n)
    found = jax.jit(lambda x, y: evaluation.pair_sums(bilinear(), x, y, tau=0.8, max_pairs=pairs)[:-1])(x, y)
    assert evaluation.group_size(n, pairs) == group
    matrix, full = bilinear()(x, y), n // group * group
    expected = [dense(matrix[start : start + group, start : start + group], 0.8) for start in range(0, full, group)]
    for name, values in zip(evaluation.PairSums._fields, found, strict=False):
        assert values.shape == (full,)
        np.testing.assert_allclose(values, np.concatenate([each[name] for each in expected]), rtol=1e-5, atol=1e-5)


POSITIONS = {"groups": np.float32(np.random.default_rng(3).integers(0, 6, 24)), "blocks": np.float32(np.arange(24) / 2.5)}


@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS)
@pytest.mark.parametrize(("count", "pairs"), [(None, 2**22), (None, 8 * 24), (19, 2**22)])
def test_rows_that_depend_on_one_another_are_no_negatives(monkeypatch, positions, count, pairs):
    monkeypatch.setattr(evaluation, "BLOCK_PAIRS", 100)
    x, y = rows(24)

    @jax.jit
    def compute(x, y, positions):
        sums = evaluation.pair_sums(bilinear(), x, y, tau=0.8, max_pairs=pairs, count=count, positions=positions)
        return sums, evaluation.read_outs(sums), evaluation.log_partition(sums)

    sums, read_outs, log_z = compute(x, y, positions)
    size, full = (8, 24) if pairs < 2**22 else (count or 24, count or 24)
    matrix, near = bilinear()(x, y), np.abs(positions[:, None] - positions) < 1
    cuts = [slice(start, start + size) for start in range(0, full, size)]
    parts = [dense(matrix[cut, cut], 0.8, near[cut, cut]) for cut in cuts]
    expected = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(sums, name)[np.asarray(sums.weights) > 0], values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_z, np.log(np.mean(np.exp(expected["rows"]))), rtol=1e-5, atol=1e-6)
    smile = expected["joint"].mean() - np.log(np.mean(np.exp(expected["clipped_rows"])))
    np.testing.assert_allclose(read_outs["smile"].value, smile, rtol=1e-5, atol=1e-6)


def test_a_row_without_negatives_has_no_read_out():
    sums = evaluation.pair_sums(bilinear(), *rows(6), positions=jnp.zeros(6))
    assert jnp.isnan(evaluation.read_outs(sums)["smile"].value)


@functools.cache
def read_padded(pairs):
    """`PairSums` of rows that are padded, and all that is made of them, as a program that takes their number."""

    @jax.jit
    def compute(x, y, count):
        sums = evaluation.pair_sums(bilinear(), x, y, tau=0.8, max_pairs=pairs, count=count)
        partitions = evaluation.log_partition(sums), evaluation.log_partition(sums, clipped=True)
        return sums, evaluation.read_outs(sums), (*partitions, evaluation.effective_pairs(sums))

    return compute


@pytest.mark.parametrize(
    ("count", "pairs", "group"),
    [
        (24, 2**22, 24),
        (17, 2**22, 17),
        (2, 2**22, 2),
        (24, 8 * 24, 8),  # three groups of 8 rows,
        (23, 8 * 24, 7),  # or of 7, and two rows over,
        (17, 8 * 24, 8),  # or two of 8 and one over,
        (5, 8 * 24, 5),  # or one
        (23, 2, 2),  # eleven of 2, and not twelve of 1
    ],
)
@pytest.mark.parametrize("padding", [np.nan, 1e30, 0.0])
def test_what_padding_holds_is_not_read(monkeypatch, count, pairs, group, padding):
    """All numbers are those of the groups' whole matrices, whatever the rows after the first `count` hold."""
    monkeypatch.setattr(evaluation, "BLOCK_PAIRS", 3 * (24 if pairs == 2**22 else 8 if pairs > 2 else 2))
    x, y = rows(24)
    matrix, full = bilinear()(x, y), count // group * group
    parts = [dense(matrix[start : start + group, start : start + group], 0.8) for start in range(0, full, group)]
    expected = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for rows_of_side in (x, y):
        rows_of_side[count:] = padding
    sums, found, (log_z, of_clipped, effective_pairs) = read_padded(pairs)(x, y, count)
    kept = sums.weights > 0
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(sums, name)[kept], values, rtol=1e-5, atol=1e-5)
    assert (int(sums.group), float(sums.num_rows)) == (group, full)
    ratio = np.exp(expected["rows"])
    np.testing.assert_allclose(log_z, np.log(ratio.mean()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_clipped, np.log(np.exp(expected["clipped_rows"]).mean()), rtol=1e-5, atol=1e-6)
    carried = full * (group - 1) * ratio.mean() ** 2 / np.exp(expected["squared"]).mean()
    np.testing.assert_allclose(effective_pairs, carried, rtol=1e-4)
    np.testing.assert_allclose(found["smile"].value, expected["joint"].mean() - of_clipped, rtol=1e-5, atol=1e-6)
    for value, influence in found.values():
        assert np.isfinite(value)
        assert np.isfinite(influence).all()
        assert not influence[~kept].any()
        assert influence.sum() == pytest.approx(0.0, abs=1e-4)


def test_rows_of_any_shape_and_precision_are_scored(monkeypatch):
    monkeypatch.setattr(evaluation, "BLOCK_PAIRS", 4 * 10)
    x, y = rows(10)
    expected = dense(bilinear()(x, y), np.inf)["rows"]
    scores = lambda x, y: bilinear()(x.reshape(-1, 3), y.reshape(-1, 3)).astype(jnp.bfloat16)  # noqa: E731
    assert evaluation.group_size(10, 2**22) == 10
    found = jax.jit(lambda x, y: evaluation.pair_sums(scores, x, y)[:-1])(x.reshape(10, 3, 1), y.reshape(10, 1, 3))
    ours = dict(zip(evaluation.PairSums._fields, found, strict=False))["rows"]
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, atol=0.03)  # of scores that keep 8 bits


READ_OUTS = {
    "infonce": reference.infonce,
    "dv": reference.dv,
    "smile": lambda matrix: reference.smile(matrix, 0.8),
    "nwj": lambda matrix: reference.nwj(matrix + 1),
}


@functools.cache
def read_out_one_group():
    """The scores of 120 rows, all in one group, and their read-outs."""
    (x, y), scores = rows(120), bilinear(0.3)
    found = jax.jit(lambda x, y: evaluation.read_outs(evaluation.pair_sums(scores, x, y, tau=0.8)))(x, y)
    return np.float64(scores(x, y)), found


def test_read_outs_are_the_bounds_of_the_whole_matrix():
    matrix, found = read_out_one_group()
    assert found.keys() == READ_OUTS.keys()
    for name, (value, influence) in found.items():
        np.testing.assert_allclose(value, READ_OUTS[name](matrix), rtol=1e-5, atol=1e-5)
        assert influence.shape == (120,)
        np.testing.assert_allclose(influence.mean(), 0.0, atol=1e-5)


@pytest.mark.parametrize("name", READ_OUTS)
def test_the_influence_is_that_of_leaving_a_row_out(name):
    """The jackknife's influence: (n - 1) times what the bound loses without the row, up to terms of 1 / n."""
    matrix, found = read_out_one_group()
    without = [READ_OUTS[name](np.delete(np.delete(matrix, i, axis=0), i, axis=1)) for i in range(120)]
    jackknife = 119 * (np.mean(without) - np.array(without))
    influence = np.float64(found[name].influence)
    assert np.std(influence - jackknife) < 0.1 * np.std(jackknife)
    assert np.std(influence) == pytest.approx(np.std(jackknife), rel=0.05)


@functools.cache
def read_out_forty_rows():
    """All scores, and what is made of them, of forty rows in four groups, in one program."""
    x, y = rows(40)

    def compute(x, y):
        sums = evaluation.pair_sums(bilinear(), x, y, tau=0.8, max_pairs=400)
        partitions = evaluation.log_partition(sums), evaluation.log_partition(sums, clipped=True)
        return evaluation.read_outs(sums), *partitions, evaluation.effective_pairs(sums)

    groups = zip(np.split(x, 4), np.split(y, 4), strict=True)
    matrices = [np.float64(bilinear()(*group)) for group in groups]
    return matrices, np.concatenate([reference.product(matrix) for matrix in matrices]), jax.jit(compute)(x, y)


def test_read_outs_of_groups_are_of_all_their_pairs():
    """InfoNCE, linear in the groups, is their mean; the partition function is one of all groups' pairs."""
    matrices, negatives, (found, *_) = read_out_forty_rows()
    joint = np.mean([np.diagonal(s).mean() for s in matrices])
    np.testing.assert_allclose(found["infonce"].value, np.mean([reference.infonce(s) for s in matrices]), rtol=1e-5)
    np.testing.assert_allclose(found["dv"].value, joint - np.log(np.exp(negatives).mean()), rtol=1e-5)
    clipped = np.exp(np.clip(negatives, -0.8, 0.8))
    np.testing.assert_allclose(found["smile"].value, joint - np.log(clipped.mean()), rtol=1e-5)
    np.testing.assert_allclose(found["nwj"].value, 1 + joint - np.exp(negatives).mean(), rtol=1e-5)


def test_the_partition_and_its_effective_pairs_are_numpys():
    _, negatives, (_, log_partition, of_clipped, effective_pairs) = read_out_forty_rows()
    ratio = np.exp(negatives)
    np.testing.assert_allclose(log_partition, np.log(ratio.mean()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_clipped, np.log(np.exp(np.clip(negatives, -0.8, 0.8)).mean()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(effective_pairs, ratio.sum() ** 2 / (ratio**2).sum(), rtol=1e-4)


def test_of_equal_scores_all_pairs_count():
    def compute(x, y):
        sums = evaluation.pair_sums(lambda x, y: jnp.full((len(x), len(y)), 3.0), x, y, max_pairs=300)
        return evaluation.effective_pairs(sums), evaluation.log_partition(sums), sums.shares

    effective_pairs, log_partition, shares = jax.jit(compute)(*rows(30))
    assert effective_pairs == pytest.approx(30 * 9, rel=1e-4)
    assert log_partition == pytest.approx(3.0, rel=1e-5)
    np.testing.assert_allclose(shares, 0.9, rtol=1e-5)  # of ten equal ones in each of nine rows


TASK = tasks.gaussian(3, 1.0)


def exact_scores(x, y):
    return TASK.log_ratio(x[:, None], y[None])


def tilted_scores(x, y):
    """A ratio of which rows have another partition each, and columns less so: then the pairs that a row forms count."""
    return 0.4 * exact_scores(x, y) + 0.7 * x[:, :1]


@pytest.fixture(
    scope="module",
    params=[
        (tilted_scores, 50, 400),
        pytest.param((exact_scores, 200, 2_000), marks=pytest.mark.slow),
        pytest.param((tilted_scores, 50, 2_000), marks=pytest.mark.slow),
    ],
    ids=["few, tilted, in groups of 50", "exact", "tilted, in groups of 50"],
)
def many_data_sets(request):
    """The read-outs of fresh data sets of 200 rows, and the standard errors that each says of itself."""
    scores, group, count = request.param

    def one(key):
        found = evaluation.read_outs(evaluation.pair_sums(scores, *TASK.sample(key, 200), tau=1.5, max_pairs=200 * group))
        return {name: (value, jnp.std(influence) / 200**0.5) for name, (value, influence) in found.items()}

    found = jax.jit(lambda key: jax.lax.map(one, jax.random.split(key, count), batch_size=20))(jax.random.key(0))
    return scores, jax.tree.map(np.float64, found)


@pytest.mark.parametrize("name", ["infonce", "dv", "smile", "nwj"])
def test_the_influence_gives_the_standard_error(many_data_sets, name):
    """To 4 standard errors of a standard deviation of so many, 1 / sqrt(2 many) each, and terms of 1 / n beyond."""
    scores, found = many_data_sets
    values, errors = found[name]
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=4 / np.sqrt(2 * len(values)) + 0.02)
    if scores is exact_scores and name in ("dv", "nwj"):  # unbiased, or nearly
        assert values.mean() == pytest.approx(1.0, abs=4 * values.std() / np.sqrt(2_000) + 0.01)


@pytest.mark.parametrize(
    ("mi", "dim", "n", "group", "count"),
    [
        (4.0, 20, 64, 64, 300),
        *(
            pytest.param(*case, 1_000, marks=pytest.mark.slow)
            for case in [(4.0, 20, 64, 64), (6.0, 20, 200, 200), (4.0, 20, 200, 8)]
        ),
    ],
)
def test_infonces_standard_error_near_its_ceiling(mi, dim, n, group, count):
    """Where a row's own pair is most of its partition, and must not count twice."""
    task = tasks.gaussian(dim, mi)
    scores = lambda x, y: task.log_ratio(x[:, None], y[None])  # noqa: E731

    def one(key):
        sums = evaluation.pair_sums(scores, *task.sample(key, n), max_pairs=n * group)
        value, influence = evaluation.read_outs(sums)["infonce"]
        return value, jnp.std(influence) / n**0.5

    found = jax.jit(lambda key: jax.lax.map(one, jax.random.split(key, count), batch_size=20))(jax.random.key(0))
    values, errors = map(np.float64, found)
    # To 4 standard errors of a standard deviation of so many, and terms of 1 / n beyond.
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(np.std(values), rel=4 / (2 * count) ** 0.5 + 0.02)


@jax.jit
def read_out_extreme_scores(scale):
    numbers = jnp.arange(20.0)
    scores = lambda x, y: jnp.where(x[:, None] == y[None], scale, -scale)  # noqa: E731
    sums = evaluation.pair_sums(scores, numbers, numbers, tau=5.0)
    return sums, evaluation.read_outs(sums), evaluation.effective_pairs(sums)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_scores_that_overflow_when_exponentiated_stay_finite(scale):
    """Scores of one size everywhere, with opposite signs on the diagonal and off it."""
    sums, found, effective_pairs = read_out_extreme_scores(scale)
    for leaf in sums:
        assert np.isfinite(leaf).all()
    for name in ("infonce", "dv", "smile"):
        assert np.isfinite(found[name].value)
        assert np.isfinite(found[name].influence).all()
    assert found["dv"].value == pytest.approx(2 * scale, rel=1e-6)
    assert found["smile"].value == pytest.approx(scale + np.copysign(5, scale), rel=1e-6)
    # The joint pair holds all of its row, or nothing; numbers of 1e4 are 1e-3 apart.
    contrast = np.log(20) if scale > 0 else 2 * scale + np.log(20 / 19)
    assert found["infonce"].value == pytest.approx(contrast, abs=2e-3)
    np.testing.assert_allclose(sums.clipped, 1.0)
    assert effective_pairs == pytest.approx(20 * 19, rel=0.01)
    # NWJ holds e^T itself: of 1e4 it is -inf, as the bound is.
    assert found["nwj"].value == (pytest.approx(1 + scale, rel=1e-6) if scale > 0 else -np.inf)


def test_a_traced_tau_and_no_tau():
    x, y = rows(30)

    def compute(tau):
        unclipped = evaluation.pair_sums(bilinear(), x, y)
        return evaluation.read_outs(evaluation.pair_sums(bilinear(), x, y, tau=tau))["smile"].value, unclipped

    traced, matrix = jax.jit(compute), np.float64(bilinear()(x, y))
    for tau in (0.5, 2.0, np.inf):
        value, unclipped = traced(tau)
        np.testing.assert_allclose(value, reference.smile(matrix, tau), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(unclipped.clipped, 0.0)
    np.testing.assert_array_equal(unclipped.clipped_rows, unclipped.rows)


@pytest.mark.parametrize(
    ("n", "pairs", "size"), [(13, 2**22, 13), (24, 8 * 24, 8), (29, 7 * 29, 7), (9, 1, 2), (10, 7 * 10, 5), (200, 8_000, 40)]
)
def test_groups_leave_few_rows_out(n, pairs, size):
    assert evaluation.group_size(n, pairs) == size


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
