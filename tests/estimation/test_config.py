"""The messages are tested through `estimate`."""

import pytest

from mi_jax import networks
from mi_jax.estimation.config import CRITICS, READ_OUTS, FitConfig, make_config, make_critic


def make(estimator="smile", critic="joint", **changes):
    options = {"steps": 130, "batch_size": None, "num_negatives": None, "learning_rate": 1e-3, "patience": 20}
    critic = None if critic is None else make_critic(estimator, critic, 2, 2)
    return make_config(estimator, critic, **{"num_train": 1_000, "max_pairs": 100} | options | changes)


@pytest.mark.parametrize(
    ("options", "batch_size", "sub_batch"),
    [
        ({}, 512, 4),
        ({"estimator": "js"}, 512, 4),
        ({"critic": "separable"}, 256, 256),
        ({"critic": "bilinear", "estimator": "infonce"}, 256, 256),
        ({"estimator": "nwj"}, 128, 128),
        ({"estimator": "gm", "critic": None}, 128, 128),
        ({"num_train": 60}, 32, 4),
        ({"batch_size": 50, "num_negatives": 7}, 48, 8),
    ],
)
def test_defaults_and_full_sub_batches(options, batch_size, sub_batch):
    config = make(**options)
    assert (config.batch_size, config.sub_batch) == (batch_size, sub_batch)


def test_steps_and_patience_are_rounds_of_50_steps():
    assert (make().rounds, make().patience) == (3, 1)


@pytest.mark.parametrize(("columns", "kind"), [(1_000, networks.GaussianCritic), (1_001, networks.SeparableCritic)])
def test_the_default_critic_depends_on_the_number_of_columns(columns, kind):
    assert isinstance(make_critic("smile", None, columns - 1, 1), kind)


def test_only_nwj_has_an_offset():
    critics = [name for name in READ_OUTS if name not in ("gm", "doe")]
    offsets = {name: FitConfig(name, networks.BilinearCritic(), 8, 8, 1, 1, 1e-3, 10).offset for name in critics}
    assert {name for name, offset in offsets.items() if offset} == {"nwj"}


def test_a_closed_form_is_tried_where_it_is_asked_for():
    """The estimator must be logistic, and the critic must start from it."""
    closed_form = networks.GaussianCritic(hidden=())
    for estimator, critic in (("smile", "gaussian"), ("js", "stacked")):
        config = make(estimator, critic, try_closed_form=True)
        assert config.rounds > 0
        assert (config.closed_form.critic, config.closed_form.rounds) == (closed_form, 0)
        assert config.closed_form.max_pairs == config.max_pairs
        assert make(estimator, critic).closed_form is None
    assert make("smile", "separable", try_closed_form=True).closed_form is None
    assert make("infonce", "gaussian", try_closed_form=True).closed_form is None


def test_what_is_in_closed_form_is_not_trained():
    closed_form = networks.GaussianCritic(hidden=())
    assert make(critic=closed_form).rounds == 0
    stack = make(critic=networks.StackedCritic((closed_form, networks.CanonicalCritic())))
    assert [one.rounds > 0 for one in (stack, *stack.candidates)] == [True, False, True]


def test_two_critics_are_tried_where_a_relation_can_bend():
    """By default: of the logistic estimators, with two columns or more on either side."""
    names = {
        ("smile", 2, 2): "StackedCritic",
        ("js", 2, 100): "StackedCritic",
        ("infonce", 2, 2): "GaussianCritic",
        ("smile", 1, 5): "GaussianCritic",
        ("smile", 101, 100): "GaussianCritic",
        ("smile", 501, 500): "SeparableCritic",
    }
    for (estimator, *dims), name in names.items():
        assert type(make_critic(estimator, None, *dims)).__name__ == name


def test_each_critic_of_a_stack_is_trained_in_its_way():
    options = {"num_train": 5_000, "steps": 500, "batch_size": None, "num_negatives": None, "learning_rate": 2e-3}
    options |= {"patience": 100, "max_pairs": 1_000}
    stack = make_config("smile", CRITICS["stacked"](), **options)
    gaussian, canonical = stack.candidates
    assert gaussian == make_config("smile", CRITICS["gaussian"](), **options)
    assert (canonical.estimator, canonical.symmetric) == ("infonce", True)
    assert (canonical.batch_size, canonical.sub_batch) == (256, 256)
    assert (canonical.learning_rate, canonical.noise, canonical.weight_decay) == (pytest.approx(3e-3), 0.1, 0.3)
    assert make_config("infonce", CRITICS["stacked"](), **options).candidates == ()
    few = make_config("smile", CRITICS["stacked"](), **options | {"num_train": 40})
    assert few.candidates[1].batch_size == 32
