"""How a fold is trained: the loss of its batches, and the noise in them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mi_jax import models, networks, training
from mi_jax.estimation import fold_trainer
from mi_jax.estimation.config import FitConfig
from mi_jax.estimation.fold_trainer import TrainRows
from mi_jax.estimation.read_out import Pairs, Rows
from mi_jax.estimation.splits import Split
from tests import reference


@pytest.mark.parametrize(
    ("name", "rows", "size"),
    [
        ("smile", 29, 8),
        ("nwj", 17, 8),
        ("infonce", 15, 8),
        *(
            pytest.param(name, rows, 8, marks=pytest.mark.slow)
            for name, other in (("smile", 29), ("nwj", 17), ("infonce", 15))
            for rows in (29, 17, 15)
            if rows != other
        ),
    ],
)
def test_the_loss_of_a_batch_is_the_mean_of_its_groups(name, rows, size):
    """In float64; rows beyond the last full group do not count."""
    model = models.make(name, critic=networks.BilinearCritic())
    x, y = np.float32(np.random.default_rng(rows).standard_normal((2, rows, 2)))
    y = 0.8 * x + 0.6 * y
    kernel = np.array([[0.9, 0.1], [-0.3, 0.5]])
    objective = {"smile": reference.logistic_objective, "nwj": reference.nwj, "infonce": reference.infonce}[name]
    scores = np.float64(x) @ kernel @ np.float64(y).T
    groups = [scores[k : k + size, k : k + size] for k in range(0, rows - size + 1, size)]
    grouped = jax.jit(fold_trainer._average_sub_batches(model, size).loss)
    loss, (_, nats) = grouped({"params": {"kernel": jnp.float32(kernel)}}, (), x, y)
    np.testing.assert_allclose(loss, -np.mean([objective(s) for s in groups]), rtol=1e-5)
    read_out = (lambda s: reference.smile(s, 5.0)) if name == "smile" else objective
    np.testing.assert_allclose(nats[name], np.mean([read_out(s) for s in groups]), rtol=1e-4, atol=1e-5)


def batch_and_optimizer(monkeypatch, **changes):
    """What a trainer is made of, for a configuration."""
    made, make = [], training.trainer

    def keep(model, batch, optimizer, example):
        made.append((batch, optimizer))
        return make(model, batch, optimizer, example)

    monkeypatch.setattr(training, "trainer", keep)
    x, y = np.float32(np.random.default_rng(0).standard_normal((2, 60, 2)))
    pairs = Pairs(jnp.arange(60), jnp.arange(60))
    config = FitConfig("smile", networks.BilinearCritic(), 4_000, 8, 1, 1, 1e-2, 10)._replace(**changes)
    trainer = fold_trainer.make_trainer(config, 10)
    trainer.init(jax.random.key(0), training.Inputs(Rows(jnp.asarray(x), jnp.asarray(y)), TrainRows(pairs, pairs)))
    return made[0]


def test_noise_is_added_to_the_rows_of_a_batch(monkeypatch):
    noisy, plain = (batch_and_optimizer(monkeypatch, noise=noise)[0](jax.random.key(1), 0) for noise in (0.1, 0.0))
    added = np.hstack([a - b for a, b in zip(noisy, plain, strict=True)])
    np.testing.assert_allclose(added.mean(axis=0), 0.0, atol=5 * 0.1 / 4_000**0.5)
    np.testing.assert_allclose(np.cov(added.T), 0.01 * np.eye(4), atol=1e-3)


def test_weights_decay(monkeypatch):
    """AdamW takes its share of a parameter that has no gradient."""
    params = {"kernel": jnp.ones((2, 2))}
    for decay, left in ((0.0, 1.0), (0.3, 1 - 1e-2 * 0.3)):
        optimizer = batch_and_optimizer(monkeypatch, weight_decay=decay)[1]
        updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
        np.testing.assert_allclose(optax.apply_updates(params, updates)["kernel"], left, rtol=1e-6)


def test_groups_hold_no_two_rows_of_a_unit():
    parts = [Split(np.arange(9), np.arange(valid), np.arange(9), apart) for valid, apart in ((100, None), (80, 20))]
    assert fold_trainer.validation_group(parts) == 10
    assert fold_trainer.stacking_group(parts) == 20
    assert fold_trainer.stacking_group(parts[:1]) == 100
    assert fold_trainer.stacking_group([parts[0]._replace(valid=np.arange(900))]) == fold_trainer.VALIDATION_GROUP
