"""Estimates on disk, as one .npz file of arrays and JSON: writing and reading, side by side."""

import dataclasses
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mi_jax import _files, networks
from mi_jax.estimation.columns import Columns
from mi_jax.estimation.combine import Independence
from mi_jax.estimation.config import FitConfig
from mi_jax.estimation.cross_fitting import Seconds
from mi_jax.estimation.diagnostics import Diagnostics
from mi_jax.estimation.units import Units

FORMAT = 5
_NUMBERS = ("mi", "stderr", "interval", "allowance", "confidence", "unit")
_TUPLES = ("best_step", "last_step", "diverged")  # of the diagnostics
_TESTED = ("per_part", "statistics")  # of the test of independence
_PLACES = ("kept", "constant", "duplicated")  # of columns


def save(estimate: Any, path: str | Path) -> None:
    """Writes an estimate, whole or not at all; see `Estimate.save`."""
    arrays = {"per_fold": estimate.per_fold, "influence": estimate.influence, "units": estimate.units.of_row}
    arrays |= {f"variables/{place}": np.asarray(leaf) for place, leaf in enumerate(jax.tree.leaves(estimate.variables))}
    arrays |= {f"history/{name}": values for name, values in estimate.history.items()}
    for columns in estimate.columns:
        parts = {name: getattr(columns, name) for name in _PLACES}
        parts |= {f"knots/{place}": knots for place, knots in enumerate(columns.knots)}
        parts |= {f"images/{place}": images for place, images in enumerate(columns.images)}
        parts |= {} if columns.unmixing is None else {"unmixing": columns.unmixing}
        arrays |= {f"{columns.name}/{part}": values for part, values in parts.items()}
    if estimate.independence is not None:
        arrays |= {name: getattr(estimate.independence, name) for name in _TESTED}
    about = np.array(json.dumps(_describe(estimate)))
    with _files.replace(path) as file:
        np.savez(file, allow_pickle=False, about=about, **arrays)


def read_fields(path: str | Path, critic: nn.Module | None = None) -> dict[str, Any]:
    """The fields of the estimate that `save` wrote; see `mi_jax.load`."""
    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(str(arrays.pop("about")))
        if about.pop("format") != FORMAT:
            raise ValueError("another format")
        return _restore(about, arrays, critic)
    except (KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is no estimate that this version of mi_jax wrote, or is damaged ({error})") from error


def _describe(estimate: Any) -> dict[str, Any]:
    """What is written as JSON."""
    config, critic, known = _plain(estimate.config), estimate.config.critic, estimate.diagnostics
    return {
        "format": FORMAT,
        **{name: getattr(estimate, name) for name in _NUMBERS},
        "warnings": dict(estimate.warnings),
        "independence": _test(estimate.independence),
        "diagnostics": known._asdict() | {"weights": dict(known.weights)},
        "config": config | {"critic": None if critic is None else _describe_critic(critic)},
        "seconds": estimate.seconds._asdict(),
        "units": {"kind": estimate.units.kind, "length": estimate.units.length},
        "shapes": [list(columns.shape) for columns in estimate.columns],
    }


def _plain(config: FitConfig) -> dict[str, Any]:
    """A configuration without its critic, and without those of its candidates, which are the critic's own."""
    return config._asdict() | {"critic": None, "candidates": [_plain(one) for one in config.candidates]}


def _test(independence: Independence | None) -> dict[str, Any] | None:
    """What of a test of independence is written as JSON."""
    if independence is None:
        return None
    return {name: value for name, value in independence._asdict().items() if name not in _TESTED}


def _restore(about: dict[str, Any], arrays: Mapping[str, np.ndarray], critic: nn.Module | None) -> dict[str, Any]:
    columns = [
        Columns(
            name=name,
            shape=tuple(shape),
            knots=_numbered(arrays, f"{name}/knots/"),
            images=_numbered(arrays, f"{name}/images/"),
            unmixing=arrays.get(f"{name}/unmixing"),
            **{part: arrays[f"{name}/{part}"] for part in _PLACES},
        )
        for name, shape in zip(("x", "y"), about["shapes"], strict=True)
    ]
    written, known = about["config"], about["diagnostics"]
    weights = {name: tuple(each) for name, each in known["weights"].items()}
    module = None if written["critic"] is None else critic or _make_critic(written["critic"])
    parts = [
        FitConfig(**one | {"critic": own, "candidates": ()})
        for one, own in zip(written["candidates"], _parts(module), strict=False)
    ]
    config = FitConfig(**written | {"critic": module, "candidates": tuple(parts)})
    rows = [jax.ShapeDtypeStruct((2, part.kept.size), np.float32) for part in columns]
    structure = jax.tree.structure(jax.eval_shape(config.model().init, jax.random.key(0), *rows))
    test = about["independence"]
    return {
        **{name: tuple(about[name]) if isinstance(about[name], list) else about[name] for name in _NUMBERS},
        "per_fold": arrays["per_fold"],
        "influence": arrays["influence"],
        "history": _under(arrays, "history/"),
        "diagnostics": Diagnostics(**known | {name: tuple(known[name]) for name in _TUPLES} | {"weights": weights}),
        "warnings": about["warnings"],
        "independence": None if test is None else Independence(**test | {name: arrays[name] for name in _TESTED}),
        "config": config,
        "seconds": Seconds(**about["seconds"]),
        "columns": (columns[0], columns[1]),
        "units": Units(of_row=arrays["units"], **about["units"]),
        "variables": jax.tree.unflatten(structure, _numbered(arrays, "variables/")),
    }


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def _numbered(arrays: Mapping[str, np.ndarray], prefix: str) -> tuple[np.ndarray, ...]:
    """The arrays whose names are this and a number, in order."""
    return tuple(values for _, values in sorted(_under(arrays, prefix).items(), key=lambda item: int(item[0])))


def _parts(module: nn.Module | None) -> Sequence[nn.Module]:
    """The critics of a stack; none of another critic."""
    return module.critics if isinstance(module, networks.StackedCritic) else ()


def _describe_critic(critic: nn.Module) -> dict[str, Any]:
    """A critic as JSON: its class, and its fields if it is one of `mi_jax.networks`."""
    name = type(critic).__name__
    if type(critic) is not getattr(networks, name, None):
        return {"name": name, "fields": None}
    fields = {field.name: getattr(critic, field.name) for field in dataclasses.fields(critic)}
    fields = {name: value for name, value in fields.items() if name not in ("parent", "name")}
    if parts := _parts(critic):
        described = [_describe_critic(part) for part in parts]
        return {
            "name": name,
            "fields": {"critics": described} if all(part["fields"] is not None for part in described) else None,
        }
    plain = all(isinstance(value, int | float | str | Sequence) for value in fields.values())
    return {"name": name, "fields": fields if plain else None}


def _make_critic(described: Mapping[str, Any]) -> nn.Module:
    if described["fields"] is None:
        raise ValueError(f"its critic is a {described['name']} of your own: give it as critic")
    if described["name"] == "StackedCritic":
        return networks.StackedCritic(tuple(map(_make_critic, described["fields"]["critics"])))
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in described["fields"].items()}
    module: nn.Module = getattr(networks, described["name"])(**fields)
    return module
