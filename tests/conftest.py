"""Two virtual CPU devices for every test, so that what spreads over devices is tested wherever the tests run."""

import chex
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)


@pytest.fixture(autouse=True)
def _fresh_trace_counts():
    """`chex.assert_max_traces` counts by a function's source, over all tests; each test starts from none."""
    chex.clear_trace_counter()
