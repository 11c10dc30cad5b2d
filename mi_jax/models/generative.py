"""Generative models: densities, trained by maximum likelihood, whose quotient is the density ratio.

Other than a critic they need no pairs off the diagonal: n evaluations a batch and not n². What they learn of each density is
bounded by the density's family, and nothing in the loss looks at the ratio.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mi_jax import _checks
from mi_jax.models.base import Model, Variables
from mi_jax.networks import Flow, JointRealNVP, RealNVP

LogDensity = Float[Array, " n"]


# Log ratios are functions of their arguments, so they draw with a key of their own.
LOG_RATIO_KEY = 0


class _Part(NamedTuple):
    """A density of a model: its module, which of "xy" are its arguments, and its sign in the log ratio."""

    density: nn.Module
    takes: str
    sign: float

    def arguments(self, x: Array, y: Array) -> list[Array]:
        return [{"x": x, "y": y}[name] for name in self.takes]


def gm(joint: nn.Module | None = None, marginal_x: nn.Module | None = None, marginal_y: nn.Module | None = None) -> Model:
    """I_GM: three generative models, of p(x, y), p(x) and p(y), trained together by maximum likelihood.

    Formula: loss = -E_P[log p_θ(x, y) + log p_φ(x) + log p_ψ(y)];
    log ratio = log p_θ(x, y) - log p_φ(x) - log p_ψ(y), in nats, and its mean the read-out.

    The ratio is sure to be a valid one, E_Q[r] = 1, only at the optimum (Table 1: tr → ∞; exact marginals are enough), and
    the estimate is no bound: its mean is I - KL(p ‖ p_θ) + KL(p ‖ p_φ) + KL(p ‖ p_ψ), each of its own variables. No pairs
    off the diagonal are needed, so a batch costs n evaluations. Standardise the data.

    Args:
      joint: a density with `__call__(x, y) -> (n,)`, `networks.JointRealNVP()` by default, the paper's flow.
      marginal_x: a density with `__call__(x) -> (n,)`, `networks.RealNVP()` by default.
      marginal_y: the same for y.

    Returns:
      A `Model` with the read-out "gm".

    Raises:
      TypeError: if a density is no Flax module, or one of the other kind: a joint one where a conditional one is wanted.
      ValueError: at its first call, if a density does not give one number a row, or x and y differ in rows.

    Example:
      >>> import jax
      >>> from mi_jax import models, tasks
      >>> model = models.gm()
      >>> x, y = tasks.gaussian(dim=20, mi=2.0).sample(jax.random.key(0), 64)
      >>> params = model.init(jax.random.key(1), x, y)
      >>> loss, (state, nats) = model.loss(params, model.init_state(jax.random.key(2)), x, y)
      >>> list(nats), model.log_ratio(params, x, y).shape
      (['gm'], (64,))

    Source: Song & Ermon (2020), Eq. 9 and Table 1.
    """
    parts = {
        "joint": _Part(_density(joint, "joint", JointRealNVP, other=Flow), "xy", 1.0),
        "marginal_x": _Part(_density(marginal_x, "marginal_x", RealNVP, other=JointRealNVP), "x", -1.0),
        "marginal_y": _Part(_density(marginal_y, "marginal_y", RealNVP, other=JointRealNVP), "y", -1.0),
    }
    return _quotient("gm", parts)


def ba(log_marginal: Callable[[Array], LogDensity], conditional: nn.Module | None = None) -> Model:
    """Barber–Agakov: a conditional q(x | y), trained by maximum likelihood, over a marginal p(x) that is known.

    Formula: loss = -E_P[log q(x | y)]; log ratio = log q(x | y) - log p(x), in nats, and its mean the read-out.

    The ratio is a valid one whatever the parameters (Eq. 7), so in expectation over rows that the parameters were not fitted
    to the estimate is a lower bound, short of the MI by E_{P(Y)}[KL(p(x | y) ‖ q(x | y))]. No pairs off the diagonal are
    needed, so a batch costs n evaluations. Standardise y; x as well, if p(x) is known in those units.

    Args:
      log_marginal: the known log p(x) of n rows, a JAX function (n, *x_shape) -> (n,), in nats. With another density m(x)
        the estimate is higher by KL(p ‖ m), and no bound.
      conditional: a density with `__call__(x, y) -> (n,)`, log q(x | y): `networks.RealNVP()` by default, or for instance
        `networks.ConditionalGaussian()`.

    Returns:
      A `Model` with the read-out "ba".

    Raises:
      TypeError: if `log_marginal` is not callable, or `conditional` no Flax module or a joint density.
      ValueError: at its first call, if either does not give one number a row, or x and y differ in rows.

    Example:
      >>> import jax
      >>> from mi_jax import models, networks, tasks
      >>> normal = lambda x: jax.scipy.stats.norm.logpdf(x).sum(axis=1)
      >>> model = models.ba(normal, networks.ConditionalGaussian(hidden=(16,)))
      >>> x, y = tasks.gaussian(dim=20, mi=2.0).sample(jax.random.key(0), 64)
      >>> model.log_ratio(model.init(jax.random.key(1), x, y), x, y).shape
      (64,)

    Source: Barber & Agakov (2003); Song & Ermon (2020), Eqs. 2 and 7.
    """
    if not callable(log_marginal) or isinstance(log_marginal, nn.Module):
        raise TypeError(f"log_marginal must be a function of x, got {type(log_marginal).__name__}")
    return _quotient(
        "ba",
        {"conditional": _Part(_density(conditional, "conditional", RealNVP, other=JointRealNVP), "xy", 1.0)},
        log_marginal,
    )


def doe(conditional: nn.Module | None = None, marginal: nn.Module | None = None) -> Model:
    """Difference of entropies: Barber–Agakov where p(x) is not known, and is learned as well.

    Formula: loss = -E_P[log q(x | y) + log q(x)]; log ratio = log q(x | y) - log q(x), in nats, and its mean the read-out:
    the cross-entropy of q(x) less that of q(x | y).

    Each cross-entropy is an upper bound of its entropy; their difference is no bound, and the ratio is sure to be a valid
    one only where q(x) is p(x). No pairs off the diagonal are needed, so a batch costs n evaluations; and no density of y.
    Standardise the data.

    Args:
      conditional: a density with `__call__(x, y) -> (n,)`, log q(x | y); `networks.RealNVP()` by default.
      marginal: a density with `__call__(x) -> (n,)`, log q(x); `networks.RealNVP()` by default.

    Returns:
      A `Model` with the read-out "doe".

    Raises:
      TypeError: if a density is no Flax module, or one of the other kind: a joint one where a conditional one is wanted.
      ValueError: at its first call, if a density does not give one number a row, or x and y differ in rows.

    Example:
      >>> import jax
      >>> from mi_jax import models, tasks
      >>> model = models.doe()
      >>> x, y = tasks.gaussian(dim=20, mi=2.0).sample(jax.random.key(0), 64)
      >>> model.log_ratio(model.init(jax.random.key(1), x, y), x, y).shape
      (64,)

    Source: McAllester & Stratos (2018), "Formal limitations on the measurement of mutual information".
    """
    parts = {
        "conditional": _Part(_density(conditional, "conditional", RealNVP, other=JointRealNVP), "xy", 1.0),
        "marginal": _Part(_density(marginal, "marginal", RealNVP, other=JointRealNVP), "x", -1.0),
    }
    return _quotient("doe", parts)


def _density(given: Any, role: str, default: type[nn.Module], other: type[nn.Module]) -> nn.Module:
    """`given`, or the default for None; none of the `other` kind, whose variables would shift the estimate by an entropy."""
    density = default() if given is None else given
    _checks.instance(density, nn.Module, role)
    if isinstance(density, other):
        wanted = "of pairs (x, y)" if other is Flow else "of one variable, or of one given the other"
        raise TypeError(f"{role} must be a density {wanted}, like {default.__name__}, got {type(given).__name__}")
    return density


def _quotient(name: str, parts: Mapping[str, _Part], log_marginal: Callable[[Array], LogDensity] | None = None) -> Model:
    """The model whose log ratio is the signed sum of its densities, less the known log marginal of x if there is one.

    Densities that draw random numbers, as a VAE does, are `stochastic`; the model's state is then the key for them.
    """
    draws = any(getattr(part.density, "stochastic", False) for part in parts.values())

    def init(key: PRNGKeyArray, x: Array, y: Array, weights: Array | None = None) -> Variables:
        del weights  # densities read only the shapes
        _checks.same_rows(x=x, y=y)
        variables: dict[str, dict[str, Any]] = {"params": {}}
        for (role, part), part_key in zip(parts.items(), jax.random.split(key, len(parts)), strict=True):
            for collection, values in part.density.init(part_key, *part.arguments(x, y)).items():
                variables.setdefault(collection, {})[role] = values
        return variables

    def log_densities(variables: Variables, x: Array, y: Array, key: PRNGKeyArray | None) -> dict[str, LogDensity]:
        _checks.same_rows(x=x, y=y)
        streams = [None] * len(parts) if key is None else [{"sample": own} for own in jax.random.split(key, len(parts))]
        made = {
            role: part.density.apply(select_role(variables, role), *part.arguments(x, y), rngs=stream)
            for (role, part), stream in zip(parts.items(), streams, strict=True)
        }
        return {role: _one_a_row(log_density, x, role) for role, log_density in made.items()}

    def ratio(logs: Mapping[str, LogDensity], x: Array) -> LogDensity:
        learned = jnp.stack([part.sign * logs[role] for role, part in parts.items()]).sum(axis=0)
        return learned if log_marginal is None else learned - _one_a_row(log_marginal(x), x, "log_marginal")

    def loss(variables: Variables, state: Any, x: Array, y: Array) -> tuple[Array, tuple[Any, dict[str, Array]]]:
        state, key = jax.random.split(state) if draws else (state, None)
        logs = log_densities(variables, x, y, key)
        # Behind the barrier the read-out shares no arithmetic with the loss, as in the discriminative model.
        apart = jax.lax.optimization_barrier(jax.lax.stop_gradient(logs))
        return -jnp.stack(list(logs.values())).mean(axis=1).sum(), (state, {name: ratio(apart, x).mean()})

    def log_ratio(variables: Variables, x: Array, y: Array) -> LogDensity:
        return ratio(log_densities(variables, x, y, jax.random.key(LOG_RATIO_KEY) if draws else None), x)

    return Model(init, lambda key: key if draws else (), loss, log_ratio)


def select_role(variables: Variables, role: str) -> Variables:
    """The variables of one density of a generative model, such as "joint", as its module takes them."""
    return {collection: parts[role] for collection, parts in variables.items() if role in parts}


def _one_a_row(log_density: Any, x: Array, role: str) -> LogDensity:
    """`log_density`, checked for its shape: an (n, 1) would spread to (n, n) without a word."""
    shape = getattr(log_density, "shape", None)
    if shape != x.shape[:1]:
        raise ValueError(f"{role} must give one log density a row, shape {x.shape[:1]}, got {shape}")
    return log_density
