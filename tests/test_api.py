"""The public names that others rely on, what importing them costs, and what their docstrings say."""

import ast
import importlib
import inspect
import subprocess
import sys

import jax.numpy as jnp
import pytest

import mi_jax

FUNCTIONS = {
    "mi_jax": ["dv", "infonce", "interpolated", "logistic_objective", "nwj", "smile", "tuba"],
    "mi_jax.estimators": ["cpc", "dv", "infonce", "interpolated", "js", "mine", "nwj", "smile", "tuba", "share_training"],
    "mi_jax.tasks": [
        "cauchy_noise",
        "cubic",
        "gaussian",
        "mi_to_rho",
        "rho_to_mi",
        "rotated",
        "sine",
        "spiral",
        "staircase",
        "student",
        "student_correction",
        "swiss_roll",
        "through",
        "uniform_margins",
        "uniform_noise",
        "widened",
    ],
    "mi_jax.projections": ["dv", "infonce", "log_partition", "smile"],
    "mi_jax.models": ["discriminative", "make", "gm", "ba", "doe"],
    "mi_jax.evaluation": ["normaliser"],
    "mi_jax.training": ["early_stopping", "study"],
    "mi_jax.estimation": ["compare", "estimate"],
    "mi_jax.consistency": ["self_consistency"],
    "mi_jax.theory": [
        "clipped_partition_bias_bound",
        "clipped_partition_variance_bound",
        "gaussian_batch_size",
        "gaussian_clipped_moments",
        "gaussian_log_ratio_variance",
        "gaussian_nwj_variance",
        "gaussian_partition_variance",
        "gaussian_ratio_moment",
        "gaussian_tail_pairs",
        "infonce_batch_size",
        "nwj_variance_bound",
        "partition_variance_bound",
    ],
}
CRITICS = ["MLP", "BaselineCritic", "BilinearCritic", "GaussianCritic", "JointCritic", "SeparableCritic"]
IMAGES = ["ConvDecoder", "ConvEncoder", "JointConvCritic", "SeparableConvCritic", "VAE"]
DENSITIES = ["ConditionalGaussian", "JointRealNVP", "RealNVP", "Standardize"]
CLASSES = {"mi_jax.networks": [*CRITICS, *IMAGES, *DENSITIES]}
documented = [(module, name) for module, names in FUNCTIONS.items() for name in names]


def find(module, name):
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(("module", "name"), documented)
def test_docstrings_have_formula_units_example_and_source(module, name):
    doc = inspect.getdoc(find(module, name))
    for part in ("Example:", ">>> ", "Returns:", "Source:" if name != "make" else "Table 1"):
        assert part in doc, f"{module}.{name} lacks {part!r}"
    if module == "mi_jax":
        assert "Formula:" in doc
        assert "nats" in doc
        assert "Raises:" in doc


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in CLASSES.items() for name in names])
def test_networks_have_an_example(module, name):
    assert ">>> " in inspect.getdoc(find(module, name))


def test_defaults_are_the_papers():
    assert inspect.signature(mi_jax.smile).parameters["tau"].default == 5.0
    assert mi_jax.networks.JointCritic().hidden == (256, 256)
    assert mi_jax.networks.SeparableCritic().embed == 32
    assert inspect.signature(mi_jax.training.adam).parameters["learning_rate"].default == 5e-4


def test_all_names_exist():
    for name in mi_jax.__all__:
        assert hasattr(mi_jax, name)
    assert mi_jax.smile(jnp.zeros((2, 2))) == 0.0


def run_script(script):
    """What a script prints in a Python process of its own."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_mi_jax_imports_neither_jax_nor_anything_else_that_takes_long():
    script = (
        "import sys, mi_jax\n"
        "dir(mi_jax)\n"
        "assert not hasattr(mi_jax, 'no_such_name')\n"
        "print(sorted({'jax', 'jaxlib', 'flax', 'optax', 'scipy', 'numpy', 'jaxtyping'} & set(sys.modules)))\n"
    )
    assert run_script(script) == "[]"


def test_using_every_name_pulls_in_nothing_heavy_and_touches_no_device():
    script = (
        "import sys, jax, flax.linen, optax\n"
        "theirs = set(sys.modules)\n"
        "from mi_jax import *\n"
        "heavy = {'orbax', 'matplotlib', 'tqdm', 'tabulate', 'scipy', 'pandas', 'chex', 'pooch', 'click', 'pyarrow'}\n"
        "from jax._src import xla_bridge\n"
        "print(sorted(heavy & set(sys.modules) - theirs), xla_bridge.backends_are_initialized())\n"
    )
    assert run_script(script) == "[] False"


# The submodules that a plain `import mi_jax` gives, beside those in `__all__`.
SUBMODULES = ["estimation", "sub_batches"]


def test_dir_names_everything_before_it_is_imported():
    names = run_script("import mi_jax; print(*dir(mi_jax))").split()
    assert {*mi_jax.__all__, *SUBMODULES, "__version__"} <= set(names)


@pytest.mark.parametrize("name", [*mi_jax.__all__, *SUBMODULES])
def test_a_name_is_what_its_module_holds(name):
    value = getattr(mi_jax, name)
    if inspect.ismodule(value):
        assert value is importlib.import_module(f"mi_jax.{name}")
    else:
        assert value is getattr(importlib.import_module(inspect.unwrap(value).__module__), name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mi_jax' has no attribute 'no_such_name'"):
        _ = mi_jax.no_such_name
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        exec("from mi_jax import no_such_name")


def test_type_checkers_read_the_imports_that_are_made_at_run_time():
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(mi_jax))) if isinstance(node, ast.ImportFrom)]
    names = {(alias.name, node.module.removeprefix("mi_jax").lstrip(".")) for node in imports for alias in node.names}
    names.remove(("TYPE_CHECKING", "typing"))
    assert names == {*((name, "") for name in mi_jax._MODULES), *mi_jax._NAMES.items()}
