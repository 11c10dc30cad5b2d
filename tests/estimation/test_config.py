"""The messages are tested through `estimate`."""

import pytest

from mi_jax import networks
from mi_jax.estimation.config import READ_OUTS, FitConfig, make_config, make_critic


def make(estimator="smile", critic="joint", **changes):
    options = {"steps": 130, "batch_size": None, "num_negatives": None, "learning_rate": 1e-3, "patience": 20}
    critic = None if critic is None else make_critic(estimator, critic, 2, 2)
    return make_config(estimator, critic, **{"num_train": 1_000, "max_pairs": 100} | options | changes)


@pytest.mark.parametrize(
    ("options", "batch_size", "sub_batch"),
    [
        ({}, 512, 8),
        ({"estimator": "js"}, 512, 8),
        ({"critic": "separable"}, 256, 256),
        ({"critic": "bilinear", "estimator": "infonce"}, 256, 256),
        ({"estimator": "nwj"}, 128, 128),
        ({"estimator": "gm", "critic": None}, 128, 128),
        ({"num_train": 60}, 56, 8),
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
