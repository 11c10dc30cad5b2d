"""Two virtual CPU devices for every test, one folder of compiled programs a run, and the marker `slow`.

Compiling takes most of the tests' time, and many tests need a program that an earlier test compiled. So all worker processes
of a run share one folder of compiled programs, which is deleted at the end. Processes that a test starts do not use it: they
compile for themselves, so "the same bits" is proved across compilations too. To keep the folder between runs, name it:
`MI_JAX_TEST_PROGRAMS=DIR python -m pytest`.

The default run asks XLA for little optimisation, which takes two fifths of the time away. Where XLA_FLAGS is set, if only
to nothing, the tests run as it says: `XLA_FLAGS= python -m pytest`.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import chex
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)

# The default run compiles and hardly trains. LLVM's lowest level, and XLA's older way to emit a fusion, are the quickest. A
# program is not cut into parts that are compiled side by side, as there is a worker for each core.
COMPILES_FAST = "--xla_backend_optimization_level=0 --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
COMPILES_FAST += " --xla_cpu_parallel_codegen_split_count=1"
# The slow tests train. LLVM's default, 3, unrolls small random draws: (2, 16, 10) exponentials take 6 s to compile, and 0.3
# at level 2, where training is as fast.
RUNS_FAST = "--xla_backend_optimization_level=2"

# Examples that compile for more than a few seconds; the tests of their modules call the same functions on smaller networks.
SLOW_DOCTESTS = {
    "mi_jax.lazy_scores.LazyScores",
    "mi_jax.estimation.pipeline.estimate",
    "mi_jax.estimation.result.load",
    "mi_jax.estimation.result.compare",
    "mi_jax.evaluation.normaliser",
    "mi_jax.evaluation.pair_sums",
    "mi_jax.evaluation.read_outs",
    "mi_jax.models.generative.ba",
    "mi_jax.models.generative.doe",
    "mi_jax.models.generative.gm",
    "mi_jax.networks.canonical.CanonicalCritic",
    "mi_jax.networks.conv.ConvDecoder",
    "mi_jax.networks.conv.ConvEncoder",
    "mi_jax.networks.conv.JointConvCritic",
    "mi_jax.networks.conv.SeparableConvCritic",
    "mi_jax.networks.critics.BaselineCritic",
    "mi_jax.networks.gaussian.GaussianCritic",
    "mi_jax.networks.gaussian.gaussian_fit",
    "mi_jax.networks.mlp.MLP",
    "mi_jax.networks.realnvp.JointRealNVP",
    "mi_jax.networks.realnvp.RealNVP",
    "mi_jax.networks.vae.VAE",
    "mi_jax.tasks.student",
    "mi_jax.tasks.uniform_noise",
    "mi_jax.training.early_stopping.early_stopping",
    "mi_jax.training.runs.fit",
    "mi_jax.training.trainer.from_inputs",
    "mi_jax.training.studies.study",
    "mi_jax.training.trainer.trainer",
}


def _share_programs() -> None:
    """Let JAX keep compiled programs in the folder of this run; the first process makes the folder and removes it."""
    if "MI_JAX_TEST_PROGRAMS" not in os.environ:
        folder = tempfile.mkdtemp(prefix="mi_jax-programs-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["MI_JAX_TEST_PROGRAMS"] = folder
    os.environ["XDG_CACHE_HOME"] = os.environ["MI_JAX_TEST_PROGRAMS"]  # of the processes that a test starts
    jax.config.update("jax_compilation_cache_dir", os.environ["MI_JAX_TEST_PROGRAMS"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # Without a limit JAX writes entries in place and takes no lock, and a worker may read half a program.
    jax.config.update("jax_compilation_cache_max_size", 2**33)


_share_programs()


def pytest_configure(config):
    """Set how XLA compiles, before JAX first asks it to; the processes that a test starts inherit it."""
    os.environ.setdefault("XLA_FLAGS", COMPILES_FAST if config.option.markexpr == "not slow" else RUNS_FAST)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the slow doctests, before `-m` selects."""
    for item in items:
        if item.name in SLOW_DOCTESTS:
            item.add_marker("slow")


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
def _limit_memory_maps():
    """Drop the compiled programs before their memory maps run out: at 65,530 of them XLA's compiler crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 40_000:
        jax.clear_caches()
