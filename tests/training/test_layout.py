import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax.training import Inputs, layout


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("num_seeds", [1, 2, 5, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_seeds_on_any_number_of_devices(num_seeds, num_devices):
    plan = layout.layout(num_seeds, jax.devices()[:num_devices])
    assert len(plan.devices) == min(num_seeds, num_devices)
    tree = {"a": jnp.arange(num_seeds), "b": jnp.ones((num_seeds, 3))}
    split = plan.split(tree)
    assert split["b"].shape == (len(plan.devices), plan.per_device, 3)
    np.testing.assert_array_equal(plan.join(split)["a"], np.arange(num_seeds))
    inputs = plan.place_inputs(Inputs(shared={"c": np.float32(10.0)}, per_run={"d": np.arange(num_seeds)}))
    step = lambda leaf, inputs: leaf["a"] * inputs.shared["c"] + inputs.per_run["d"]  # noqa: E731
    np.testing.assert_array_equal(plan.join(plan.spread(step)(split, inputs)), 11 * np.arange(num_seeds))


def test_padding_repeats_the_first_seed():
    plan = layout.layout(3, jax.devices()[:2])
    np.testing.assert_array_equal(plan.split(jnp.arange(3)), [[0, 1], [2, 0]])


def test_no_device_is_left_idle():
    # An even share of 4 seeds over 3 devices is 2, 2 and none.
    plan = layout.layout(4, [jax.devices()[0]] * 3)
    assert (len(plan.devices), plan.per_device) == (2, 2)


@pytest.mark.parametrize("mapped", ["map", "vmap"])
def test_shared_inputs_are_held_once_a_device(mapped):
    plan = layout.layout(5, jax.devices()[:2], mapped)
    inputs = Inputs(shared=np.ones((7, 3), np.float32), per_run=np.arange(5))
    placed = plan.place_inputs(inputs)
    assert placed.shared.shape == (2, 7, 3)
    assert [shard.data.shape for shard in placed.shared.addressable_shards] == [(1, 7, 3)] * 2
    run_shapes = inputs._replace(
        per_run=jax.ShapeDtypeStruct((5,), jnp.int32), shared=jax.ShapeDtypeStruct((7, 3), jnp.float32)
    )
    assert jax.tree.map(jnp.shape, plan.placed_shapes(run_shapes)) == jax.tree.map(jnp.shape, placed)


def test_a_program_that_failed_to_compile_is_tried_again():
    """As memory may have been short."""
    tries = []

    class Lowered:
        def compile(self):
            tries.append(1)
            if len(tries) == 1:
                raise RuntimeError("no memory")
            return lambda x: x + 1

    program = layout.Compiled(Lowered())
    with pytest.raises(RuntimeError, match="no memory"):
        program(1)
    assert [program(1), program(2)] == [2, 3]
    assert len(tries) == 2
