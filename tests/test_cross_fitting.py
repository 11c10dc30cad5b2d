import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import cross_fitting, models, networks, tasks
from mi_jax.cross_fitting import Recipe
from mi_jax.training import seeds as seeding
from tests import reference

SEEDS = 5
KEYS = jax.random.split(jax.random.key(1), SEEDS)
PARTS = cross_fitting.splits(603, SEEDS, np.random.default_rng(0))
RECIPE = Recipe(
    "smile",
    networks.GaussianCritic(hidden=(8,)),
    batch=64,
    group=8,
    rounds=4,
    patience=2,
    learning_rate=5e-3,
    pairs=2**22,
)


@pytest.fixture(scope="module")
def rows():
    """A relation that is not Gaussian, so that there is something to train."""
    x, y = tasks.gaussian(3, 1.0).sample(jax.random.key(0), 603)
    return np.asarray(x), np.asarray(y) * np.sign(x[:, :1], dtype=np.float32)


@pytest.fixture(scope="module")
def fitted(rows):
    (found,), _ = cross_fitting.fit(RECIPE, [rows], PARTS, KEYS)
    return found


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def params_of(fitted, seed):
    return jax.tree.map(lambda leaf: leaf[seed], fitted.params)


@jax.jit
def scores(params, x, y):
    return RECIPE.critic.apply(params, x, y)


def score_matrix(fitted, seed, rows, numbers):
    """A seed's scores of all pairs of these rows, in float64."""
    x, y = (part[numbers] for part in rows)
    return np.float64(scores(params_of(fitted, seed), x, y))


@pytest.mark.parametrize("num_rows", [20, 21, 104, 600, 603])
def test_splits_are_disjoint_and_cover_the_rows(num_rows):
    found = cross_fitting.splits(num_rows, 12, np.random.default_rng(0))
    assert len(found) == 12
    tests, valids = num_rows // 5, round(num_rows / 10)
    for part in found:
        assert (len(part.test), len(part.valid), len(part.train)) == (tests, valids, num_rows - tests - valids)
        np.testing.assert_array_equal(np.sort(np.concatenate(part)), np.arange(num_rows))
    assert cross_fitting.sizes(num_rows) == (num_rows - tests - valids, valids, tests)


@pytest.mark.parametrize(("num_rows", "left"), [(600, 0), (603, 3)])
def test_five_seeds_test_every_row_once(num_rows, left):
    """Every row but the remainder by 5, as all seeds test as many."""
    found = cross_fitting.splits(num_rows, 10, np.random.default_rng(0))
    for five in (found[:5], found[5:]):
        tested = np.bincount(np.concatenate([part.test for part in five]), minlength=num_rows)
        assert tested.max() == 1
        assert np.sum(tested == 0) == left
    # The second five have another permutation; seeds of one five other validation rows.
    assert not np.array_equal(found[0].test, found[5].test)
    assert len(np.intersect1d(found[1].valid, found[2].valid)) < 0.5 * len(found[1].valid)


def test_splits_are_a_function_of_the_generator():
    for ours, theirs in zip(*(cross_fitting.splits(100, 7, np.random.default_rng(3)) for _ in range(2)), strict=True):
        equal(ours, theirs)
    other = cross_fitting.splits(100, 7, np.random.default_rng(4))
    assert not np.array_equal(other[0].test, ours.test)


@pytest.mark.parametrize(("rows", "size"), [(29, 8), (17, 8), (15, 8)])
@pytest.mark.parametrize("name", ["smile", "nwj", "infonce"])
def test_the_loss_of_a_batch_is_the_mean_of_its_groups(name, rows, size):
    """In float64; rows beyond the last full group do not count."""
    model = models.make(name, critic=networks.BilinearCritic())
    x, y = tasks.gaussian(2, 1.0).sample(jax.random.key(0), rows)
    params = {"params": {"kernel": jnp.array([[0.9, 0.1], [-0.3, 0.5]])}}
    objective = {"smile": reference.logistic_objective, "nwj": reference.nwj, "infonce": reference.infonce}[name]
    groups = [np.float64(model.scores(params, x[k : k + size], y[k : k + size])) for k in range(0, rows - size + 1, size)]
    loss, (_, nats) = cross_fitting._grouped(model, size).loss(params, (), x, y)
    np.testing.assert_allclose(loss, -np.mean([objective(s) for s in groups]), rtol=1e-5)
    read_out = (lambda s: reference.smile(s, 5.0)) if name == "smile" else objective
    np.testing.assert_allclose(nats[name], np.mean([read_out(s) for s in groups]), rtol=1e-4, atol=1e-5)


def test_a_second_data_set_of_the_same_shape_is_not_compiled(rows, fitted, monkeypatch):
    before = cross_fitting._compiled.cache_info()
    monkeypatch.setattr(seeding, "compile_training", None)
    monkeypatch.setattr(seeding.Layout, "compile", None)
    (again,), _ = cross_fitting.fit(RECIPE, [rows], PARTS, KEYS)
    equal(again, fitted)
    # A critic that is equal is the same; other keys, rows and tau go through the same programs.
    same = RECIPE._replace(critic=networks.GaussianCritic(hidden=(8,)))
    (other,), _ = cross_fitting.fit(same, [(rows[0] + 1, rows[1])], PARTS[::-1], KEYS[::-1], tau=2.0)
    assert not np.array_equal(other.held_out.value, fitted.held_out.value)
    after = cross_fitting._compiled.cache_info()
    assert (after.hits, after.misses) == (before.hits + 2, before.misses)


def test_a_seed_has_the_same_bits_among_five_and_beside_another_data_set(rows, fitted):
    permuted = rows[0], rows[1][np.random.default_rng(5).permutation(603)]
    found, _ = cross_fitting.fit(RECIPE, [permuted, rows], PARTS[3:4], KEYS[3:4])
    equal(found[1], jax.tree.map(lambda leaf: leaf[3:4], fitted))
    assert found[0].held_out.value != found[1].held_out.value


def changed(rows, numbers):
    """The same rows, but for these, which are other ones."""
    x, y = (part.copy() for part in rows)
    x[numbers], y[numbers] = np.random.default_rng(6).standard_normal((2, len(numbers), 3)) * 3
    return x, y


def trained(found, seed):
    """All of a seed that training and validation make."""
    made = found.params, found.history, found.best_round, found.last_round, found.held_out.tau
    return jax.tree.map(lambda leaf: leaf[seed], made)


def test_test_rows_have_no_part_in_training(rows, fitted):
    for seed in (0, 4):
        (other,), _ = cross_fitting.fit(RECIPE, [changed(rows, PARTS[seed].test)], PARTS, KEYS)
        equal(*(trained(found, seed) for found in (other, fitted)))
        assert fitted.held_out.value[seed] != other.held_out.value[seed]
        # For the other seeds these are training and validation rows.
        assert fitted.history["validation_loss"][2, 0] != other.history["validation_loss"][2, 0]


def test_validation_rows_only_decide_when_to_stop(rows, fitted):
    (other,), _ = cross_fitting.fit(RECIPE, [changed(rows, PARTS[1].valid)], PARTS, KEYS)
    both = min(fitted.last_round[1], other.last_round[1])
    np.testing.assert_array_equal(fitted.history["smile"][1, :both], other.history["smile"][1, :both])
    assert not np.intersect1d(fitted.history["validation_loss"][1], other.history["validation_loss"][1, :both]).size


def test_the_parameters_have_the_lowest_validation_loss(rows, fitted):
    """Recomputed in float64, of 8 groups of 7 of the 60 validation rows."""
    assert np.count_nonzero(fitted.best_round) >= 2
    for seed in range(SEEDS):
        numbers = PARTS[seed].valid[:56].reshape(8, 7)
        loss = np.mean([-reference.logistic_objective(score_matrix(fitted, seed, rows, group)) for group in numbers])
        best, history = fitted.best_round[seed], fitted.history["validation_loss"][seed]
        if best:
            np.testing.assert_allclose(history[best - 1], loss, rtol=1e-4)
            assert np.nanmin(history) == history[best - 1]
        np.testing.assert_array_equal(np.isnan(history), np.arange(4) >= fitted.last_round[seed])


def test_no_more_than_so_many_groups_validate(rows, monkeypatch):
    """Of the 8 groups of 7 rows only the first 3, if no more are allowed."""
    monkeypatch.setattr(cross_fitting, "MOST_VALIDATION_GROUPS", 3)
    (found,), _ = cross_fitting.fit(RECIPE._replace(rounds=1), [rows], PARTS[:2], KEYS[:2])
    for seed, part in enumerate(PARTS[:2]):
        groups = part.valid[:56].reshape(8, 7)
        losses = [-reference.logistic_objective(score_matrix(found, seed, rows, group)) for group in groups]
        ours = found.history["validation_loss"][seed, 0] if found.best_round[seed] else found.start_loss[seed]
        np.testing.assert_allclose(ours, np.mean(losses[:3]), rtol=1e-4)
    assert abs(np.mean(losses) - np.mean(losses[:3])) > 0.01


def test_what_is_held_out_is_the_bound_of_the_test_rows(rows, fitted):
    """All of it, from the dense matrix in float64."""
    for seed, part in enumerate(PARTS):
        held = jax.tree.map(lambda leaf, seed=seed: leaf[seed], fitted.held_out)
        s = score_matrix(fitted, seed, rows, part.test)
        tau = max(5.0, np.quantile(np.diagonal(score_matrix(fitted, seed, rows, part.valid)), 0.95))
        ratio = np.exp(reference.product(s))
        expected = {
            "value": reference.smile(s, tau),
            "train": reference.smile(score_matrix(fitted, seed, rows, part.train[: len(part.test)]), tau),
            "others": {"dv": reference.dv(s), "infonce": reference.infonce(s), "nwj": reference.nwj(s + 1)},
            "tau": tau,
            "clipped_joint": np.mean(reference.joint(s) > tau),
            "clipped_pairs": np.mean(np.abs(reference.product(s)) > tau),
            "log_normaliser": np.log(np.clip(ratio, np.exp(-tau), np.exp(tau)).mean()),
            "effective_pairs": ratio.sum() ** 2 / (ratio**2).sum(),
            "pairs": 120 * 119,
            "group": 120,
        }
        for name, value in expected.items():
            ours = getattr(held, name)
            if name == "others":
                assert ours.keys() == value.keys()
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, value)
        assert held.influence.shape == (120,)
        assert abs(held.influence.mean()) < 1e-5


def test_a_given_tau_is_the_one_used(rows, fitted):
    (other,), _ = cross_fitting.fit(RECIPE, [rows], PARTS, KEYS, tau=0.5)
    equal(other.params, fitted.params)
    np.testing.assert_array_equal(other.held_out.tau, 0.5)
    for seed, part in enumerate(PARTS):
        s = score_matrix(other, seed, rows, part.test)
        # Near independence the value is a small difference of means of scores, of which float32 keeps 1e-7.
        np.testing.assert_allclose(
            other.held_out.value[seed], reference.smile(s, 0.5), rtol=1e-4, atol=2e-6 * np.abs(s).max()
        )
        clipped = np.mean(np.abs(reference.product(s)) > 0.5), np.mean(reference.joint(s) > 0.5)
        np.testing.assert_allclose(
            (other.held_out.clipped_pairs[seed], other.held_out.clipped_joint[seed]), clipped, atol=1e-3
        )


@pytest.mark.parametrize("name", ["infonce", "dv", "nwj"])
def test_other_estimators_read_out_their_own_bound(rows, fitted, name):
    part = PARTS[0]
    recipe = RECIPE._replace(estimator=name)
    tests = cross_fitting._test_rows(*rows, part, None)
    held = jax.jit(lambda params: cross_fitting._held_out(recipe, (params, tests)))(params_of(fitted, 0))
    s, valid = (score_matrix(fitted, 0, rows, numbers) for numbers in (part.test, part.valid))
    log_z = np.log(np.exp(reference.product(s)).mean())
    # NWJ's critic learns log r + 1, so that of these scores 1 is taken.
    value, off = {
        "infonce": (reference.infonce(s), 0.0),
        "dv": (reference.dv(s), log_z - np.log(np.exp(reference.product(valid)).mean())),
        "nwj": (reference.nwj(s), log_z - 1),
    }[name]
    np.testing.assert_allclose(held.value, value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(held.log_normaliser, off, rtol=1e-4, atol=1e-5)
    for leaf in (held.tau, held.clipped_joint, held.clipped_pairs):
        assert np.isnan(leaf)


def test_more_test_rows_than_the_budget_are_read_out_in_groups(rows, fitted, monkeypatch):
    """And clipped where the validation rows say, whose critic is too weak here for the least tau."""
    monkeypatch.setattr(cross_fitting, "LEAST_TAU", 0.1)
    part = PARTS[0]
    tests = cross_fitting._test_rows(*rows, part, None)
    recipe = RECIPE._replace(pairs=120 * 30)
    held = jax.jit(lambda params: cross_fitting._held_out(recipe, (params, tests)))(params_of(fitted, 0))
    tau = np.quantile(np.diagonal(score_matrix(fitted, 0, rows, part.valid)), 0.95)
    matrices = [score_matrix(fitted, 0, rows, group) for group in part.test.reshape(4, 30)]
    log_z = np.log(np.exp(np.clip(np.concatenate([reference.product(s) for s in matrices]), -tau, tau)).mean())
    np.testing.assert_allclose(held.tau, tau, rtol=1e-4)
    np.testing.assert_allclose(held.value, np.mean([reference.joint(s) for s in matrices]) - log_z, rtol=1e-4)
    np.testing.assert_allclose(held.log_normaliser, log_z, rtol=1e-4, atol=1e-5)
    assert held.clipped_pairs > 0.01
    assert (float(held.group), float(held.pairs)) == (30, 120 * 29)


def test_a_critic_that_cannot_be_hashed_is_compiled_each_time(rows):
    recipe = RECIPE._replace(critic=networks.BilinearCritic())
    misses = cross_fitting._compiled.cache_info().misses

    class Unhashable(networks.BilinearCritic):
        __hash__ = None

    reports = []
    parts, keys = PARTS[:1], KEYS[:1]
    found, _ = cross_fitting.fit(recipe._replace(critic=Unhashable()), [rows], parts, keys, on_chunk=reports.append)
    assert np.isfinite(found[0].held_out.value).all()
    assert cross_fitting._compiled.cache_info().misses == misses
    assert [(report.done, report.steps) for report in reports] == [(4, 4)]


def test_generative_models_read_out_their_mean_log_ratio(rows, monkeypatch):
    small = {"layers": 1, "hidden": (4,)}
    flows = networks.JointRealNVP(**small), networks.RealNVP(**small), networks.RealNVP(**small)
    model = models.gm(*flows)
    monkeypatch.setattr(cross_fitting.models, "make", lambda name: model)
    recipe = RECIPE._replace(estimator="gm", critic=None, group=64, rounds=2)
    (found,), _ = cross_fitting.fit(recipe, [rows], PARTS[:1], KEYS[:1])
    cross_fitting._compiled.cache_clear()
    params, held = params_of(found, 0), jax.tree.map(lambda leaf: leaf[0], found.held_out)
    log_ratio = jax.jit(model.log_ratio)
    x, y = (part[PARTS[0].test] for part in rows)
    values = np.float64(log_ratio(params, x, y))
    np.testing.assert_allclose(held.value, values.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(held.influence, values - values.mean(), rtol=1e-3, atol=1e-4)
    ratio = np.exp(np.float64(log_ratio(params, x, np.roll(y, -1, axis=0))))
    np.testing.assert_allclose(held.log_normaliser, np.log(ratio.mean()), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(held.effective_pairs, ratio.sum() ** 2 / (ratio**2).sum(), rtol=1e-3)
    assert (float(held.pairs), held.others) == (120, {})
    assert np.isnan([held.tau, held.clipped_joint, held.clipped_pairs, held.group]).all()
    assert found.history["gm"].shape == (1, 2)
