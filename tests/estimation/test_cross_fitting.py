"""The fit: what each seed trains on, stops by and is read out on, held against dense matrices in float64.

The default tests share the two compiled programs of `light` in tests/quick.py, for one data set and for two. The slow ones
fit the Gaussian critic, too.
"""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from mi_jax import networks, training
from mi_jax.estimation import cross_fitting, fold_trainer, ladder
from mi_jax.estimation.config import EVERY, FitConfig
from mi_jax.estimation.read_out import Rows
from mi_jax.estimation.splits import Split, make_splits
from mi_jax.estimation.units import make_units
from mi_jax.networks import gaussian
from mi_jax.training import layout, runs
from tests import reference
from tests.quick import LIGHT, N

FOLDS = 5
KEYS = jax.random.split(jax.random.key(1), FOLDS)
PARTS = make_splits(make_units(N), FOLDS, 1, np.random.default_rng(0))
TESTS = N // 5
GROUP = 8  # of validation rows, for parts of N rows
BILINEAR = FitConfig(
    "smile",
    LIGHT["critic"],
    batch_size=LIGHT["batch_size"],
    sub_batch=LIGHT["num_negatives"] + 1,
    rounds=LIGHT["steps"] // EVERY,
    patience=LIGHT["patience"] // EVERY,
    learning_rate=LIGHT["learning_rate"],
    max_pairs=2**22,
)
GAUSSIAN = BILINEAR._replace(critic=networks.GaussianCritic(hidden=(8,)))
CLOSED_FORM = BILINEAR._replace(critic=networks.GaussianCritic(hidden=()), rounds=0)


@pytest.fixture(
    scope="module", params=[BILINEAR, pytest.param(GAUSSIAN, marks=pytest.mark.slow)], ids=["bilinear", "gaussian"]
)
def config(request):
    return request.param


def draw_rows():
    """The first columns are of a normal law, the second ones are not, so that either critic has something to train."""
    x, noise = np.random.default_rng(2).standard_normal((2, N, 2))
    y = 0.8 * x + 0.6 * noise
    y[:, 1] *= np.sign(x[:, 0])
    return Rows(np.float32(x), np.float32(y))


@pytest.fixture(scope="module")
def rows():
    return draw_rows()


@pytest.fixture(scope="module")
def fitted(config, rows):
    (found,), _ = cross_fitting.fit_folds(config, rows, PARTS, KEYS)
    return found


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def params_of(fitted, seed):
    return jax.tree.map(lambda leaf: leaf[seed], fitted.variables)


@functools.cache
def jitted_scores(critic):
    return jax.jit(critic.apply)


def score_matrix(config, params, rows, numbers):
    """The scores of all pairs of these rows, in float64."""
    x, y = (part[numbers] for part in rows[:2])
    return np.float64(jitted_scores(config.critic)(params, x, y))


def test_folds_of_different_sizes_are_each_what_they_are_alone(rows):
    """The smaller one has more padding in all three parts, and the numbers of a fit with less, to rounding."""
    check_folds_of_different_sizes(CLOSED_FORM, rows)


@pytest.mark.slow
def test_folds_of_different_sizes_are_trained_as_they_are_alone(rows):
    check_folds_of_different_sizes(BILINEAR._replace(rounds=2), rows)


def check_folds_of_different_sizes(config, rows):
    small = Split(PARTS[1].train[:-37], PARTS[1].valid[:-11], PARTS[1].test[:-21])
    (both,), _ = cross_fitting.fit_folds(config, rows, [PARTS[0], small], KEYS[:2])
    (alone,), _ = cross_fitting.fit_folds(config, rows, [small], KEYS[1:2])
    padded = both.held_out.weights[1] == 0
    np.testing.assert_array_equal(padded, np.arange(len(padded)) >= len(small.test))
    influence = alone.held_out.influence[0][alone.held_out.weights[0] > 0]
    np.testing.assert_allclose(both.held_out.influence[1][~padded], influence, rtol=1e-3, atol=1e-4)
    plain = lambda held: held._replace(influence=0, weights=0)  # noqa: E731
    for ours, theirs in zip(jax.tree.leaves(plain(both.held_out)), jax.tree.leaves(plain(alone.held_out)), strict=True):
        if np.ndim(ours):
            np.testing.assert_allclose(ours[1], theirs[0], rtol=1e-4, atol=1e-5)
    for name in both.history:
        np.testing.assert_allclose(both.history[name][1], alone.history[name][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(both.start_loss[1], alone.start_loss[0], rtol=1e-4)


def test_a_closed_form_is_fitted_to_training_rows_and_not_trained(rows):
    (found,), _ = cross_fitting.fit_folds(CLOSED_FORM, rows, PARTS, KEYS)
    for seed, part in enumerate(PARTS):
        expected = gaussian.gaussian_fit(rows.x[part.train], rows.y[part.train])
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-4),
            params_of(found, seed)["gaussian"]["fit"].correlations,
            expected.correlations,
        )
        s = score_matrix(CLOSED_FORM, params_of(found, seed), rows, part.test)
        np.testing.assert_allclose(found.held_out.value[seed], reference.smile(s, found.held_out.tau[seed]), rtol=1e-4)
    assert found.history["validation_loss"].shape == (FOLDS, 0)
    assert not np.any([found.best_round, found.last_round, found.diverged])


CHOICE = GAUSSIAN._replace(closed_form=CLOSED_FORM)
ENOUGH = 4_000  # rows, for two columns a side


def draw_for_choice(bend):
    x, noise = np.random.default_rng(3).standard_normal((2, ENOUGH, 2))
    return Rows(np.float32(x), np.float32(0.6 * x + bend * (x**2 - 1) + 0.8 * noise))


@pytest.mark.parametrize(("bend", "chosen"), [(0.0, CLOSED_FORM), (0.3, GAUSSIAN)])
def test_the_closed_form_is_chosen_where_it_leaves_nothing_to_learn(bend, chosen):
    parts = make_splits(make_units(ENOUGH), FOLDS, 1, np.random.default_rng(0))
    rows = draw_for_choice(bend)
    assert cross_fitting.choose_config(CHOICE, rows, parts)[0] == chosen
    # Rows that stand in another order, and the order that undoes it.
    order = np.random.default_rng(5).permutation(ENOUGH)
    shuffled = Rows(rows.x, rows.y[np.argsort(order)])
    assert cross_fitting.choose_config(CHOICE, shuffled, parts, order=np.argsort(np.argsort(order)))[0] == chosen


def test_few_or_dependent_rows_or_no_closed_form_leave_no_choice(rows):
    many = draw_for_choice(0.0)
    parts = make_splits(make_units(ENOUGH), FOLDS, 1, np.random.default_rng(0))
    assert cross_fitting.choose_config(CHOICE, many._replace(positions=np.arange(ENOUGH) / 2), parts)[0] == GAUSSIAN
    assert cross_fitting.choose_config(CHOICE, rows, PARTS)[0] == GAUSSIAN
    assert cross_fitting.choose_config(GAUSSIAN, rows, PARTS) == (GAUSSIAN, (0.0, 0.0, 0.0))


def test_test_rows_have_no_part_in_the_choice():
    """The rows of y that test a fold are bent; the choice of that fold alone stays what it was."""
    parts = make_splits(make_units(ENOUGH), FOLDS, 1, np.random.default_rng(0))[:1]
    rows, bent = draw_for_choice(0.0), draw_for_choice(1.0)
    rows.y[parts[0].test] = bent.y[parts[0].test]
    assert cross_fitting.choose_config(CHOICE, rows, parts)[0] == CLOSED_FORM


def test_a_second_data_set_of_the_same_shape_is_not_compiled(config, rows, fitted, monkeypatch):
    programs = cross_fitting._compile_training, cross_fitting._compile_reading
    before = [each.cache_info() for each in programs]
    monkeypatch.setattr(runs, "compile_training", None)
    monkeypatch.setattr(layout.Layout, "compile", None)
    (again,), _ = cross_fitting.fit_folds(config, rows, PARTS, KEYS)
    equal(again, fitted)
    # A critic that is equal is the same; other keys, rows and tau go through the same programs.
    same = config._replace(critic=config.critic.copy())
    assert same.critic is not config.critic
    (other,), _ = cross_fitting.fit_folds(same, Rows(rows.x + 1, rows.y), PARTS[::-1], KEYS[::-1], tau=2.0)
    assert not np.array_equal(other.held_out.value, fitted.held_out.value)
    for then, each in zip(before, programs, strict=True):
        assert (each.cache_info().hits, each.cache_info().misses) == (then.hits + 2, then.misses)


@pytest.mark.slow
@pytest.mark.parametrize("config", [CLOSED_FORM, BILINEAR], ids=["closed form", "bilinear"])
def test_padding_changes_no_bit_and_another_rung_next_to_nothing(config, rows, monkeypatch):
    """The rung of 1,000 rows is 1,024; here also 1,100, with as large validation groups: others may stop elsewhere.

    A network with kinks makes more of the last bits: one fold in five of `GAUSSIAN` moves by 5e-4, and the others by 1e-6.
    """
    (fitted,), _ = cross_fitting.fit_folds(config, rows, PARTS, KEYS)
    pad = cross_fitting._pad

    def pad_with_nan(rows, number):
        return jax.tree.map(lambda side: np.where(np.arange(len(side))[:, None] < N, side, np.nan), pad(rows, number))

    with monkeypatch.context() as patch:
        patch.setattr(cross_fitting, "_pad", pad_with_nan)
        (again,), _ = cross_fitting.fit_folds(config, rows, PARTS, KEYS)
    equal(again, fitted)
    monkeypatch.setattr(ladder, "rung", lambda number: 1_100)
    (other,), _ = cross_fitting.fit_folds(config, rows, PARTS, KEYS)
    assert other.held_out.weights.shape[1] > fitted.held_out.weights.shape[1]
    np.testing.assert_allclose(other.held_out.value, fitted.held_out.value, atol=1e-5)


class StartsFromRows(nn.Module):
    """A critic of a user, one of whose parameters is the mean of the rows it is given."""

    @nn.compact
    def __call__(self, x, y):
        return (x - self.param("mean", lambda _: x.mean(axis=0))) @ y.T


def test_which_critics_take_padding(rows):
    def number(estimator, critic):
        return cross_fitting._number_to_pad(BILINEAR._replace(estimator=estimator, critic=critic), rows)

    for estimator, critic in (("smile", GAUSSIAN.critic), ("nwj", BILINEAR.critic), ("tuba", BILINEAR.critic), ("gm", None)):
        assert number(estimator, critic) == N
    assert number("tuba", GAUSSIAN.critic) is None  # its critic is within another, which takes no weights
    assert number("smile", StartsFromRows()) is None


def test_data_of_about_as_many_rows_share_the_programs(config, rows, fitted, monkeypatch):
    monkeypatch.setattr(runs, "compile_training", None)
    monkeypatch.setattr(layout.Layout, "compile", None)
    for number in (N - 37, N + 24):
        repeated = Rows(*(np.resize(side, (number, 2)) for side in rows[:2]))
        parts = make_splits(make_units(number), FOLDS, 1, np.random.default_rng(0))
        (other,), _ = cross_fitting.fit_folds(config, repeated, parts, KEYS)
        assert other.held_out.weights.sum() == 5 * (number // 5)
    equal(other.held_out.weights.shape, fitted.held_out.weights.shape)


ONE_SEED = slice(3, 4)


@pytest.mark.parametrize(
    ("seeds", "devices"),
    [
        (slice(FOLDS), None),
        pytest.param(ONE_SEED, None, marks=pytest.mark.slow),
        pytest.param(ONE_SEED, jax.devices()[1:], marks=pytest.mark.slow),
    ],
    ids=["all seeds", "one seed", "one seed on the second device"],
)
def test_a_seed_has_the_same_bits_among_five_and_beside_another_data_set(config, rows, fitted, seeds, devices):
    orders = [np.random.default_rng(5).permutation(N), np.arange(N)]
    found, _ = cross_fitting.fit_folds(config, rows, PARTS[seeds], KEYS[seeds], orders=orders, devices=devices)
    equal(found[1], jax.tree.map(lambda leaf: leaf[seeds], fitted))
    assert (found[0].held_out.value != found[1].held_out.value).all()


def test_an_order_pairs_the_rows_anew(config, rows, fitted):
    """A data set whose rows of y stand in another order, and the order that undoes it."""
    order = np.random.default_rng(5).permutation(N)
    shuffled = Rows(rows.x, rows.y[np.argsort(order)])
    (found,), _ = cross_fitting.fit_folds(config, shuffled, PARTS, KEYS, orders=[np.argsort(np.argsort(order))])
    equal(found, fitted)


def changed(rows, numbers):
    """The same rows, with other ones in these places."""
    x, y = rows.x.copy(), rows.y.copy()
    x[numbers], y[numbers] = np.random.default_rng(6).standard_normal((2, len(numbers), 2)) * 3
    return Rows(x, y)


def trained(found, seed):
    """All of a seed that training and validation make."""
    made = found.variables, found.history, found.best_round, found.last_round, found.held_out.tau
    return jax.tree.map(lambda leaf: leaf[seed], made)


def test_test_rows_have_no_part_in_training(config, rows, fitted):
    for seed in (0, 4):
        (other,), _ = cross_fitting.fit_folds(config, changed(rows, PARTS[seed].test), PARTS, KEYS)
        equal(*(trained(found, seed) for found in (other, fitted)))
        assert fitted.held_out.value[seed] != other.held_out.value[seed]
        # For the other seeds these are training and validation rows.
        assert fitted.history["validation_loss"][2, 0] != other.history["validation_loss"][2, 0]


def test_validation_rows_only_decide_when_to_stop(config, rows, fitted):
    (other,), _ = cross_fitting.fit_folds(config, changed(rows, PARTS[1].valid), PARTS, KEYS)
    both = min(fitted.last_round[1], other.last_round[1])
    np.testing.assert_array_equal(fitted.history["smile"][1, :both], other.history["smile"][1, :both])
    assert not np.intersect1d(fitted.history["validation_loss"][1], other.history["validation_loss"][1, :both]).size


def test_the_parameters_have_the_lowest_validation_loss(config, rows, fitted):
    """Recomputed in float64, of 12 groups of 8 of the 100 validation rows."""
    assert np.count_nonzero(fitted.best_round) >= 2
    for seed in range(FOLDS):
        numbers = PARTS[seed].valid[:96].reshape(12, GROUP)
        loss = np.mean(
            [-reference.logistic_objective(score_matrix(config, params_of(fitted, seed), rows, group)) for group in numbers]
        )
        best, history = fitted.best_round[seed], fitted.history["validation_loss"][seed]
        if best:
            np.testing.assert_allclose(history[best - 1], loss, rtol=1e-4)
            assert np.nanmin(history) == history[best - 1]
        np.testing.assert_array_equal(np.isnan(history), np.arange(4) >= fitted.last_round[seed])


def check_few_groups_validate(config, rows, params, seed, ours):
    """Only the first 3 of the 12 groups of 8 rows validate. Returns how far all groups are from them."""
    groups = PARTS[seed].valid[:96].reshape(12, GROUP)
    losses = [-reference.logistic_objective(score_matrix(config, params, rows, group)) for group in groups]
    np.testing.assert_allclose(ours, np.mean(losses[:3]), rtol=1e-4)
    return abs(np.mean(losses) - np.mean(losses[:3]))


def test_no_more_than_so_many_groups_validate(rows, monkeypatch):
    """At the start, which needs no training."""
    monkeypatch.setattr(fold_trainer, "MOST_VALIDATION_ROWS", 3 * GROUP)
    inputs = training.Inputs(rows, cross_fitting._train_rows(PARTS[0], np.arange(N)))
    state = jax.jit(fold_trainer.make_trainer(BILINEAR, GROUP).init)(KEYS[0], inputs)
    assert state.start.losses.shape == (3,)
    assert check_few_groups_validate(BILINEAR, rows, {"params": state.best.params}, 0, state.start.losses.mean()) > 0.01


@pytest.mark.slow
def test_no_more_than_so_many_groups_validate_in_training(rows, monkeypatch):
    monkeypatch.setattr(fold_trainer, "MOST_VALIDATION_ROWS", 3 * GROUP)
    (found,), _ = cross_fitting.fit_folds(GAUSSIAN._replace(rounds=1), rows, PARTS[:2], KEYS[:2])
    differences = []
    for seed in range(2):
        ours = found.history["validation_loss"][seed, 0] if found.best_round[seed] else found.start_loss[seed]
        differences.append(check_few_groups_validate(GAUSSIAN, rows, params_of(found, seed), seed, ours))
    assert max(differences) > 0.01


def test_what_is_held_out_is_the_bound_of_the_test_rows(config, rows, fitted):
    """All of it, from the dense matrix in float64."""
    for seed, part in enumerate(PARTS):
        held = jax.tree.map(lambda leaf, seed=seed: leaf[seed], fitted.held_out)
        s = score_matrix(config, params_of(fitted, seed), rows, part.test)
        tau = max(5.0, np.quantile(np.diagonal(score_matrix(config, params_of(fitted, seed), rows, part.valid)), 0.95))
        ratio = np.exp(reference.product(s))
        expected = {
            "value": reference.smile(s, tau),
            "train": reference.smile(score_matrix(config, params_of(fitted, seed), rows, part.train[: len(part.test)]), tau),
            "others": {"dv": reference.dv(s), "infonce": reference.infonce(s), "nwj": reference.nwj(s + 1)},
            "tau": tau,
            "clipped_joint": np.mean(reference.joint(s) > tau),
            "clipped_pairs": np.mean(np.abs(reference.product(s)) > tau),
            "log_normaliser": np.log(np.clip(ratio, np.exp(-tau), np.exp(tau)).mean()),
            "effective_pairs": ratio.sum() ** 2 / (ratio**2).sum(),
            "pairs": TESTS * (TESTS - 1),
            "group": TESTS,
        }
        for name, value in expected.items():
            ours = getattr(held, name)
            if name == "others":
                assert ours.keys() == value.keys()
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, value)
        assert held.weights.sum() == TESTS
        assert abs(held.influence[held.weights > 0].mean()) < 1e-5


def test_a_given_tau_is_the_one_used(config, rows, fitted):
    (other,), _ = cross_fitting.fit_folds(config, rows, PARTS, KEYS, tau=0.5)
    equal(other.variables, fitted.variables)
    np.testing.assert_array_equal(other.held_out.tau, 0.5)
    for seed, part in enumerate(PARTS):
        s = score_matrix(config, params_of(other, seed), rows, part.test)
        # Near independence the value is a small difference of means of scores, of which float32 keeps 1e-7.
        np.testing.assert_allclose(
            other.held_out.value[seed], reference.smile(s, 0.5), rtol=1e-4, atol=2e-6 * np.abs(s).max()
        )
        clipped = np.mean(np.abs(reference.product(s)) > 0.5), np.mean(reference.joint(s) > 0.5)
        np.testing.assert_allclose(
            (other.held_out.clipped_pairs[seed], other.held_out.clipped_joint[seed]), clipped, atol=1e-3
        )


class NotCompiledError(Exception):
    """Raised in the place of compiling."""


def test_the_programs_take_keys_of_the_kind_that_is_given(rows, monkeypatch):
    def stop(*_, key, **__):
        assert key.dtype == jax.random.key(0, impl="rbg").dtype
        raise NotCompiledError

    monkeypatch.setattr(runs, "compile_training", stop)
    with pytest.raises(NotCompiledError):
        cross_fitting.fit_folds(BILINEAR, rows, PARTS, jax.random.split(jax.random.key(0, impl="rbg"), FOLDS))


def test_a_critic_that_cannot_be_hashed_is_compiled_each_time(rows):
    misses = cross_fitting._compile_training.cache_info().misses

    class Unhashable(networks.BilinearCritic):
        __hash__ = None

    reports = []
    config = BILINEAR._replace(critic=Unhashable())
    (found,), _ = cross_fitting.fit_folds(config, rows, PARTS, KEYS, on_chunk=reports.append)
    assert np.isfinite(found.held_out.value).all()
    assert cross_fitting._compile_training.cache_info().misses == misses
    assert [(report.done, report.steps) for report in reports] == [(4, 4)]


STACKED = networks.StackedCritic((networks.BilinearCritic(), networks.SeparableCritic(hidden=(8,), embed=4)))
STACK = BILINEAR._replace(
    critic=STACKED,
    candidates=(
        BILINEAR,
        BILINEAR._replace(
            estimator="infonce", critic=STACKED.critics[1], sub_batch=64, noise=0.1, weight_decay=0.3, symmetric=True
        ),
    ),
)


@pytest.mark.slow
def test_a_stack_may_hold_a_closed_form(rows):
    """In either place; only what is trained is reported and has a history."""
    trained = STACK.candidates[0]
    for parts in ((CLOSED_FORM, trained), (trained, CLOSED_FORM)):
        reports = []
        config = BILINEAR._replace(critic=networks.StackedCritic(tuple(one.critic for one in parts)), candidates=parts)
        (found,), _ = cross_fitting.fit_folds(config, rows, PARTS, KEYS, on_chunk=reports.append)
        assert (reports[-1].done, reports[-1].steps) == (trained.rounds, trained.rounds)
        names = ("validation_loss", f"{'gaussian' if parts[1] is CLOSED_FORM else 'bilinear'}_validation_loss")
        rounds = [found.history[name].shape[1] for name in names]
        assert rounds == [one.rounds for one in parts]


@pytest.fixture(scope="module")
def stack(rows):
    reports = []
    (found,), seconds = cross_fitting.fit_folds(STACK, rows, PARTS, KEYS, on_chunk=reports.append)
    assert min(seconds) > 0
    return found, reports


def test_a_stack_is_read_out_by_the_weighted_sum_of_its_candidates(stack, rows):
    found, _ = stack
    for seed, part in enumerate(PARTS):
        of_seed = jax.tree.map(lambda leaf, seed=seed: leaf[seed], found.variables)
        np.testing.assert_array_equal(of_seed["params"]["weights"], np.float32(found.weights[seed]))
        s = np.float64(STACKED.apply(of_seed, rows.x[part.test], rows.y[part.test]))
        value, tau = found.held_out.value[seed], float(found.held_out.tau[seed])
        np.testing.assert_allclose(value, reference.smile(s, tau), rtol=1e-4, atol=1e-4)
    # The second columns are not of a normal law: the bilinear critic alone cannot follow them.
    assert found.weights[:, 1].mean() > 0.1


def test_the_first_candidate_of_a_stack_is_what_it_is_alone(stack, rows):
    found, _ = stack
    (alone,), _ = cross_fitting.fit_folds(BILINEAR, rows, PARTS, KEYS)
    for name in alone.history:
        np.testing.assert_array_equal(found.history[name], alone.history[name])
    kernel = found.variables["params"]["critics_0"]["kernel"]
    np.testing.assert_array_equal(kernel, alone.variables["params"]["kernel"])
    assert {name for name in found.history if name not in alone.history} == {
        "separable_validation_loss",
        "separable_infonce",
    }


def test_rounds_and_losses_of_a_stack_are_those_of_its_heaviest(stack):
    found, _ = stack
    for fold, place in enumerate(found.weights.argmax(axis=1)):
        history = found.history["separable_validation_loss" if place else "validation_loss"][fold]
        assert found.lowest_loss[fold] == np.nanmin(history)
        assert found.last_round[fold] == np.isfinite(history).sum()


def test_a_stack_reports_the_steps_of_all_its_candidates(stack):
    _, reports = stack
    assert [report.steps for report in reports] == [2 * BILINEAR.rounds] * len(reports)
    assert sorted({report.done for report in reports}) == [report.done for report in reports]
    assert reports[-1].done == 2 * BILINEAR.rounds


def test_test_rows_do_not_decide_the_weights(stack, rows):
    found, _ = stack
    changed_rows = Rows(rows.x, rows.y.copy())
    changed_rows.y[PARTS[0].test] = 0.0
    (other,), _ = cross_fitting.fit_folds(STACK, changed_rows, PARTS, KEYS)
    np.testing.assert_array_equal(other.weights[0], found.weights[0])
    assert other.held_out.value[0] != found.held_out.value[0]
