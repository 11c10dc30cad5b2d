"""The architecture of docs/design.md: imports go one way, devices are named in one file, and tests mirror the package."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mi_jax"
# From the bottom up: each may import only from those before it (and, within a folder, as listed).
LAYERS = [
    "_checks",
    "_files",
    "_threads",
    "sub_batches",
    "lazy_scores",
    "_scores",
    "_logspace",
    "projections",
    "bounds",
    "theory",
    "tasks.task",
    "tasks.paper",
    "tasks.student",
    "tasks.noise",
    "tasks.maps",
    "tasks",
    "networks.mlp",
    "networks.critics",
    "networks.conv",
    "networks.gaussian",
    "networks.canonical",
    "networks.stacked",
    "networks.bijections",
    "networks.realnvp",
    "networks.vae",
    "networks",
    "estimators",
    "models.base",
    "models.discriminative",
    "models.generative",
    "models.registry",
    "models",
    "training.trainer",
    "training.early_stopping",
    "training.checkpoints",
    "training.layout",
    "training.hosts",
    "training.runs",
    "training.summaries",
    "training.study_plan",
    "training.study_folder",
    "training.studies",
    "training",
    "evaluation",
    "estimation.inputs",
    "estimation.components",
    "estimation.columns",
    "estimation.units",
    "estimation.coordinates",
    "estimation.splits",
    "estimation.ladder",
    "estimation.config",
    "estimation.read_out",
    "estimation.fold_trainer",
    "estimation.stacking",
    "estimation.residual",
    "estimation.cross_fitting",
    "estimation.gaussian_limit",
    "estimation.combine",
    "estimation.diagnostics",
    "estimation.row_warnings",
    "estimation.data_warnings",
    "estimation.fit_warnings",
    "estimation.saving",
    "estimation.result",
    "estimation.pipeline",
    "estimation",
    "consistency",
    "",  # mi_jax itself
    "cli.samples",
    "cli.tables",
    "cli.files",
    "cli.programs",
    "cli.options",
    "cli.verdicts",
    "cli.progress",
    "cli.output",
    "cli.commands",
    "cli",
    "__main__",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    return {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path, known: set[str]) -> set[str]:
    """The modules of mi_jax that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module else []
        for name in names:
            if name == "mi_jax" or name.startswith("mi_jax."):
                inner = name.removeprefix("mi_jax").lstrip(".")
                while inner not in known:  # a name from a module: mi_jax.bounds.dv is of mi_jax.bounds
                    inner = inner.rpartition(".")[0]
                found.add(inner)
    return found


def test_every_module_has_a_layer():
    assert set(modules()) == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_imports_go_one_way(name):
    allowed = set(LAYERS[: LAYERS.index(name)])
    assert imported(modules()[name], set(LAYERS)) <= allowed


def test_the_package_knows_nothing_of_benchmarks_and_tests():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in ("benchmarks", "tests"), path


def naming(*words):
    """The modules whose code has one of these words."""
    return {module_name(path) for path in PACKAGE.rglob("*.py") if any(word in code(path) for word in words)}


def test_one_file_names_devices_and_one_names_hosts():
    assert naming("pmap", "shard_map", "jax.devices", "local_devices", "device_count") == {"training.layout"}
    assert naming("jax.distributed", "process_count(") == {"training.hosts"}


@functools.cache
def code(path: Path) -> str:
    """A file's code, without its comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = ""
    return ast.unparse(tree)


def test_benchmarks_use_the_public_api():
    for path in (ROOT / "benchmarks").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mi_jax"):
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                assert not any(name.startswith("_") for name in names), path


def test_tests_mirror_the_package():
    for name, path in modules().items():
        if path.name not in ("__init__.py", "base.py"):
            folder, _, leaf = name.rpartition(".")
            test = ROOT / "tests" / folder.replace(".", "/") / f"test_{leaf.strip('_')}.py"
            assert test.exists(), f"{name} has no {test.relative_to(ROOT)}"
