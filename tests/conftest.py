"""Two virtual CPU devices for every test, so that what spreads over devices is tested wherever the tests run.

Compiling is most of the tests' time, and many tests make a program that an earlier one has made: programs are kept on disk
until the tests end. Processes that a test starts compile for themselves, so "the same bits" is tested of that too.
"""

import tempfile
from pathlib import Path

import chex
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)

_programs = tempfile.TemporaryDirectory(prefix="mi_jax-programs-")
jax.config.update("jax_compilation_cache_dir", _programs.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(autouse=True)
def _fresh_trace_counts():
    """`chex.assert_max_traces` counts by a function's source, over all tests; each test starts from none."""
    chex.clear_trace_counter()


@pytest.fixture(scope="session")
def shared_data():
    """Real MNIST and part of CIFAR-10, beside the repository where it is developed and where CI runs."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _fresh_programs():
    """Each module drops its compiled programs: they take memory maps, and out of them (65,530) XLA's compiler crashes."""
    yield
    jax.clear_caches()
