"""Seeds on two virtual devices, and lowering for accelerators that are not here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from mi_jax import bounds, estimators, models, networks, projections, tasks, training
from mi_jax.training import layout, runs
from tests import simple

KEYS = jax.random.split(jax.random.key(0), 5)


def log_normal(x):
    return jax.scipy.stats.norm.logpdf(x).sum(axis=1)


def make_models(*hidden, layers):
    """Every kind of model, with networks of these hidden layers, and flows of so many coupling layers."""
    critics = {"joint": networks.JointCritic(hidden=hidden), "separable": networks.SeparableCritic(hidden=hidden)}
    flow = networks.RealNVP(layers, hidden)
    return {
        f"{critic} {name}": models.discriminative(critics[critic], getattr(estimators, name)())
        for critic, names in {"separable": ("infonce", "nwj", "mine", "smile"), "joint": ("mine", "smile")}.items()
        for name in names
    } | {
        "gm": models.gm(networks.JointRealNVP(layers, hidden), flow, flow),
        "ba": models.ba(log_normal, networks.ConditionalGaussian(hidden=hidden)),
        "doe": models.doe(flow, flow),
    }


PAPERS = make_models(256, 256, layers=5)
SMALL = make_models(16, layers=1)


def trainer(model, batch_size=64):
    return training.trainer(model, lambda key, step: tasks.gaussian(4, 1.0).sample(key, batch_size))


def test_there_are_two_devices():
    assert jax.device_count() == 2


def assert_same_bits_alone_and_among_five(trainer, steps):
    together = training.fit(trainer, KEYS, steps=steps, chunk=steps // 3, mapped="map")
    alone = runs.compile_training(trainer, layout.layout(1, jax.devices()[:1], "map"), steps=steps, chunk=steps)
    short = runs.compile_training(trainer, layout.layout(2, mapped="map"), steps=steps, chunk=2)
    for program, chosen in ((alone, [0]), (alone, [3]), (alone, [4]), (short, [1, 2])):
        apart = runs.run(program, KEYS[jnp.array(chosen)])
        for ours, theirs in zip(jax.tree.leaves(together.states.params), jax.tree.leaves(apart.states.params), strict=True):
            np.testing.assert_array_equal(np.asarray(ours)[chosen], theirs)
        for name, history in apart.history.items():
            np.testing.assert_array_equal(together.history[name][chosen], history)


# Two numbers and a state: what is compiled differs from a critic's training in nothing but the model.
SIMPLE = training.trainer(simple.make_model(), lambda key, step: simple.draw_batch(key))
one_flow = pytest.param(trainer(SMALL["ba"], batch_size=16), id="flow", marks=pytest.mark.slow)


@pytest.mark.parametrize("small_trainer", [pytest.param(SIMPLE, id="simple"), one_flow])
def test_a_seed_has_the_same_bits_alone_and_among_five_on_two_devices(small_trainer):
    assert_same_bits_alone_and_among_five(small_trainer, steps=12)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_a_seed_of_the_papers_size_has_the_same_bits_alone_and_among_five_on_two_devices(name):
    assert_same_bits_alone_and_among_five(trainer(PAPERS[name]), steps=60)


def assert_no_collectives(trainer, mapped):
    program = runs.compile_training(trainer, layout.layout(5, mapped=mapped), steps=3)
    assert len(program.layout.devices) == 2
    for compiled in (program.init, *program.chunks):
        text = compiled.wait().as_text()
        assert not any(word in text for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"))


@pytest.mark.parametrize("mapped", ["map", "vmap"])
def test_seeds_do_not_communicate(mapped):
    assert_no_collectives(SIMPLE, mapped)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["joint smile", "separable smile", "gm"])
@pytest.mark.parametrize("mapped", ["map", "vmap"])
def test_seeds_of_the_papers_size_do_not_communicate(name, mapped):
    assert_no_collectives(trainer(PAPERS[name]), mapped)


@pytest.mark.parametrize("size", ["small", pytest.param("papers", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["joint smile", "separable smile"])
def test_under_vmap_the_first_step_is_the_same_to_1e_5(name, size):
    model = {"small": SMALL, "papers": PAPERS}[size][name]
    x, y = np.random.default_rng(0).standard_normal((2, 5, 64, 4), dtype=np.float32)
    batches = list(zip(x, y, strict=True))
    init = jax.jit(model.init)
    params = [jax.tree.map(np.asarray, init(key, *batch)) for key, batch in zip(KEYS, batches, strict=True)]
    value_and_grad = jax.value_and_grad(model.loss, has_aux=True)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *params), x, y
    (losses, _), gradients = jax.jit(jax.vmap(lambda p, x, y: value_and_grad(p, (), x, y)))(*stacked)
    alone = jax.jit(lambda p, x, y: value_and_grad(p, (), x, y))
    for seed, (own, batch) in enumerate(zip(params, batches, strict=True)):
        (loss, _), gradient = alone(own, *batch)
        np.testing.assert_allclose(losses[seed], loss, rtol=1e-5)
        for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(ours[seed], theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


PLATFORMS = ["cpu", "cuda", "tpu"]
BOUNDS = {
    "infonce": bounds.infonce,
    "nwj": bounds.nwj,
    "dv": bounds.dv,
    "smile": bounds.smile,
    "logistic_objective": bounds.logistic_objective,
    "tuba": lambda s: bounds.tuba(s, jnp.zeros(len(s))),
    "interpolated": lambda s: bounds.interpolated(s, jnp.zeros(len(s)), 0.5),
    "log_partition": projections.log_partition,
}


@pytest.mark.parametrize("name", BOUNDS)
def test_every_bound_and_its_gradient_lower_for_accelerators(name):
    bound = jax.jit(jax.vmap(jax.value_and_grad(BOUNDS[name])))
    lowered = export.export(bound, platforms=PLATFORMS)(jax.ShapeDtypeStruct((3, 64, 64), jnp.float32))
    assert lowered.platforms == tuple(PLATFORMS)


def test_a_lowered_bound_has_the_value_of_the_bound():
    bound = jax.jit(jax.vmap(jax.value_and_grad(bounds.smile)))
    lowered = export.export(bound, platforms=PLATFORMS)(jax.ShapeDtypeStruct((3, 5, 5), jnp.float32))
    scores = np.random.default_rng(0).standard_normal((3, 5, 5), dtype=np.float32)
    np.testing.assert_allclose(lowered.call(scores)[0], [bounds.smile(matrix) for matrix in scores], rtol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_a_whole_training_step_lowers_for_accelerators(name):
    training_step = trainer(SMALL[name])
    state = jax.eval_shape(training_step.init, jax.random.key(0))
    assert export.export(jax.jit(training_step.step), platforms=PLATFORMS)(state).platforms == tuple(PLATFORMS)
