"""The registry: from a name in Table 1, and others, to a model, for command lines, benchmarks and conformance tests."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from mi_jax import estimators, networks
from mi_jax.estimators import Estimator
from mi_jax.models.base import Model
from mi_jax.models.discriminative import discriminative
from mi_jax.models.generative import ba, doe, gm


def _from_critic(estimator: Callable[..., Estimator]) -> Callable[..., Model]:
    def build(critic: nn.Module | None = None, *, sub_batch: int | None = None, **options: Any) -> Model:
        return discriminative(critic or networks.JointCritic(), estimator(**options), sub_batch=sub_batch)

    return build


def _with_baseline(estimator: Callable[..., Estimator]) -> Callable[..., Model]:
    build = _from_critic(estimator)
    return lambda critic=None, **options: build(networks.BaselineCritic(critic or networks.JointCritic()), **options)


_BUILDERS: dict[str, Callable[..., Model]] = {
    "infonce": _from_critic(estimators.infonce),
    "cpc": _from_critic(estimators.cpc),
    "nwj": _from_critic(estimators.nwj),
    "tuba": _with_baseline(estimators.tuba),
    "interpolated": _with_baseline(estimators.interpolated),
    "dv": _from_critic(estimators.dv),
    "mine": _from_critic(estimators.mine),
    "js": _from_critic(estimators.js),
    "smile": _from_critic(estimators.smile),
    "gm": gm,
    "ba": lambda *, log_marginal, conditional=None: ba(log_marginal, conditional),
    "doe": doe,
}


def names() -> tuple[str, ...]:
    """The names that `make` knows.

    Example:
      >>> from mi_jax import models
      >>> "smile" in models.names()
      True
    """
    return tuple(_BUILDERS)


def make(name: str, **options: Any) -> Model:
    """The model of this name.

    Args:
      name: one of `names()`; "cpc" is "infonce".
      **options: for a discriminative model `critic=`, a Flax module (the joint critic of the paper by default; "tuba" and
        "interpolated" put a learned baseline on it), `sub_batch=` as in `discriminative`, and the options of the estimator
        of that name, such as `tau=`; for a generative one the arguments of the function of that name, such as
        `log_marginal=`, which "ba" needs.

    Returns:
      A `Model`; its read-outs are in nats.

    Raises:
      ValueError: if there is no such name.
      TypeError: if an option is not one of the model's, or one that it needs is missing.

    Example:
      >>> from mi_jax import models, networks
      >>> model = models.make("smile", critic=networks.SeparableCritic(), tau=1.0)

    Source: Song & Ermon (2020), Table 1.
    """
    if name not in _BUILDERS:
        raise ValueError(f"name must be one of {', '.join(_BUILDERS)}, got {name!r}")
    return _BUILDERS[name](**options)
