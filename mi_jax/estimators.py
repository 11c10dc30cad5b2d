"""Estimators: what trains a critic, and what is read out of it.

The two are not the same thing. SMILE at four values of tau, JS and Donsker–Varadhan are all read from one critic trained on
the logistic objective: `share_training` puts them in one training run. An `Estimator` knows nothing of networks;
`mi_jax.models` joins it with a critic.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mi_jax import _checks, _logspace, _scores, bounds, projections
from mi_jax.lazy_scores import LazyScores
from mi_jax.sub_batches import SubBatches

Scores: TypeAlias = Float[Array, "n n"] | SubBatches | LazyScores
Nats: TypeAlias = Float[Array, ""]
Objective: TypeAlias = Callable[[Scores, Any], tuple[Nats, Any]]


class Estimator(NamedTuple):
    """What trains a critic, and what is read out.

    Attributes:
      init: `() -> state`: () or, for MINE, the log of the moving average.
      objective: `(scores, state) -> (value, state)`; training maximises the value.
      read_out: name -> `scores -> nats`: what is reported, several from one critic.
      offset: what the objective's best critic has on top of the log density ratio, T* = log r + offset; 1 for NWJ. (DV and
        MINE know T* only up to a constant, InfoNCE only up to a function of x; the interpolated bound lies between it and
        TUBA.)
    """

    init: Callable[[], Any]
    objective: Objective
    read_out: Mapping[str, Callable[[Scores], Nats]]
    offset: float = 0.0


def infonce(*, symmetric: bool = False) -> Estimator:
    """InfoNCE (CPC), trained and read out as `mi_jax.infonce`.

    Formula: Eq. 5, in nats; see `mi_jax.infonce`. Never above log n.

    Args:
      symmetric: contrast x and y in both directions; the critic then knows the log ratio up to a constant.

    Returns:
      An `Estimator` with the read-out "infonce".

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import estimators
      >>> print(f"{estimators.infonce().read_out['infonce'](3.0 * jnp.eye(4)):.4f}")
      1.2471

    Source: Song & Ermon (2020), Eq. 5.
    """
    return _trained_as_read("infonce", _symmetric_infonce if symmetric else bounds.infonce)


cpc = infonce


def _symmetric_infonce(scores: Scores) -> Nats:
    return bounds.infonce(scores, symmetric=True)


def nwj() -> Estimator:
    """NWJ, trained and read out as `mi_jax.nwj`; its critic learns log r + 1.

    Formula: Eq. 4, in nats; see `mi_jax.nwj`.

    Returns:
      An `Estimator` with the read-out "nwj" and offset 1.

    Example:
      >>> from mi_jax import estimators
      >>> estimators.nwj().offset
      1.0

    Source: Song & Ermon (2020), Eq. 4.
    """
    return _trained_as_read("nwj", bounds.nwj, offset=1.0)


def dv() -> Estimator:
    """Donsker–Varadhan, trained and read out as `mi_jax.dv`: on small batches its gradient is biased, see `mine`.

    Formula: Eq. 3, in nats; see `mi_jax.dv`.

    Returns:
      An `Estimator` with the read-out "dv".

    Example:
      >>> from mi_jax import estimators
      >>> list(estimators.dv().read_out)
      ['dv']

    Source: Song & Ermon (2020), Eq. 3.
    """
    return _trained_as_read("dv", bounds.dv)


def tuba() -> Estimator:
    """TUBA: its log baseline is learned by the critic, as a row shift of the scores (`networks.BaselineCritic`).

    Formula: 1 + E_P[T] - E_Q[e^T] with T(x, y) - a(x) already in the scores, in nats; see `mi_jax.tuba`.

    Returns:
      An `Estimator` with the read-out "tuba".

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import estimators
      >>> print(f"{estimators.tuba().read_out['tuba'](2.0 * jnp.eye(2)):.4f}")
      2.0000

    Source: Poole et al. (2019), Eq. 8.
    """
    return _trained_as_read("tuba", _tuba)


def interpolated(alpha: float | Float[Array, ""] = 0.5) -> Estimator:
    """The interpolated bound between TUBA and InfoNCE, its log baseline learned as in `tuba`.

    Formula: see `mi_jax.interpolated`, in nats, with a(x) already in the scores.

    Args:
      alpha: weight of the leave-one-out mixture, in [0, 1]; may be traced.

    Returns:
      An `Estimator` with the read-out "interpolated".

    Raises:
      ValueError: if a concrete `alpha` lies outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import estimators
      >>> print(f"{estimators.interpolated(1.0).read_out['interpolated'](3.0 * jnp.eye(4)):.4f}")
      1.0037

    Source: Poole et al. (2019), Eq. 15.
    """
    alpha = _checks.unit_interval(alpha, "alpha")

    def bound(scores: Scores) -> Nats:
        return bounds.interpolated(scores, _no_baseline(scores), alpha)

    return Estimator(tuple, lambda scores, state: (bound(scores), state), {"interpolated": bound})


def mine(decay: float | Float[Array, ""] = 0.99) -> Estimator:
    """MINE: Donsker–Varadhan whose gradient divides by a moving average of the partition, and so is less biased.

    Formula: the value is DV's, E_P[T] - log Z with Z = E_{Q_n}[e^T]; the gradient is ∇E_P[T] - ∇Z / Z̄, with the average
    Z̄ ← decay · Z̄ + (1 - decay) · Z, the batch included and the first batch its start.

    1/Z of one batch is a biased estimate of 1/E_Q[e^T]; 1/Z̄ is less so. State is log Z̄, so nothing overflows; the batch's
    own share in Z̄ keeps Z/Z̄ below 1/(1 - decay).

    Args:
      decay: weight of the past in the average, in [0, 1); 0 gives DV's gradient. May be traced.

    Returns:
      An `Estimator` with the read-out "mine", which is DV of the batch, and state log Z̄.

    Raises:
      ValueError: if a concrete `decay` lies outside [0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import estimators
      >>> mine = estimators.mine(decay=0.9)
      >>> value, log_average = mine.objective(3.0 * jnp.eye(4), mine.init())
      >>> print(f"{value:.4f} {log_average:.4f}")
      3.0000 0.0000

    Source: Song & Ermon (2020), Section 2.2; Belghazi et al. (2018), Section 3.2.
    """
    decay = _checks.below_one(decay, "decay")

    def objective(scores: Scores, log_average: Nats) -> tuple[Nats, Nats]:
        log_z = projections.log_partition(scores)
        batch = jax.lax.stop_gradient(log_z)
        with_batch = jnp.logaddexp(jnp.log(decay) + log_average, jnp.log1p(-decay) + batch)
        log_average = jnp.where(jnp.isneginf(log_average), batch, with_batch)
        # Equal to log_z, with its gradient scaled by Z / Z̄.
        partition = batch + jnp.exp(batch - log_average) * (log_z - batch)
        return jnp.mean(_logspace.diagonal(_scores.all_pairs(scores))) - partition, log_average

    return Estimator(lambda: jnp.asarray(-jnp.inf, float), objective, {"mine": bounds.dv})


def js() -> Estimator:
    """JS: a critic trained on the logistic objective, so that T learns log r, read out as NWJ at T + 1.

    Formula: trained on `mi_jax.logistic_objective`; read out as 1 + E_P[T] - E_Q[e^T], in nats.

    Returns:
      An `Estimator` with the read-out "js".

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import estimators
      >>> print(f"{estimators.js().read_out['js'](jnp.zeros((4, 4))):.4f}")
      0.0000

    Source: Song & Ermon (2020), Section 3.1; Poole et al. (2019), Section 2.2.
    """
    return _logistic("js", _tuba)


def smile(tau: float | Float[Array, ""] = 5.0) -> Estimator:
    """SMILE: a critic trained on the logistic objective, read out with the partition function clipped at tau.

    Formula: trained on `mi_jax.logistic_objective`; read out as Eq. 17, in nats. tau does not enter the training.

    Args:
      tau: clips T to [-tau, tau] inside the partition function; may be traced.

    Returns:
      An `Estimator` with the read-out "smile". `share_training` gives several values of tau from one training run.

    Raises:
      ValueError: if a concrete `tau` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from mi_jax import estimators
      >>> print(f"{estimators.smile(tau=1.0).read_out['smile'](3.0 * jnp.eye(4)):.4f}")
      3.0000

    Source: Song & Ermon (2020), Eq. 17 and Section 5.
    """
    tau = _checks.non_negative(tau, "tau")
    return _logistic("smile", lambda scores: bounds.smile(scores, tau))


def share_training(**estimators: Estimator) -> Estimator:
    """Shares one training run between several read-outs, for estimators that train the critic in the same way.

    Args:
      **estimators: name -> estimator; the name replaces that of the estimator's own read-out (and goes before it, with an
        underscore, if it has several).

    Returns:
      An `Estimator` with all the read-outs.

    Raises:
      ValueError: if there are none, or two train on different objectives.

    Example:
      >>> from mi_jax import estimators
      >>> both = estimators.share_training(js=estimators.js(), smile_1=estimators.smile(tau=1.0))
      >>> list(both.read_out)
      ['js', 'smile_1']

    Source: Song & Ermon (2020), Section 5: one logistic-trained critic gives every tau.
    """
    if not estimators:
        raise ValueError("share_training needs at least one estimator, got none")
    first_name, first = next(iter(estimators.items()))
    read_out: dict[str, Callable[[Scores], Nats]] = {}
    for name, estimator in estimators.items():
        if estimator.objective is not first.objective:
            raise ValueError(f"{name} and {first_name} do not train on the same objective, so one run cannot give both")
        several = len(estimator.read_out) > 1
        read_out |= {f"{name}_{own}" if several else name: read for own, read in estimator.read_out.items()}
    return first._replace(read_out=read_out)


def _trained_as_read(name: str, bound: Callable[[Scores], Nats], offset: float = 0.0) -> Estimator:
    """An estimator whose objective is its read-out, and which has no state."""
    return Estimator(tuple, _stateless(bound), {name: bound}, offset)


def _logistic(name: str, read_out: Callable[[Scores], Nats]) -> Estimator:
    return Estimator(tuple, _stateless(bounds.logistic_objective), {name: read_out})


@functools.cache  # so that `share_training` sees which estimators train alike: equal values give one object
def _stateless(value: Callable[[Scores], Nats]) -> Objective:
    return lambda scores, state: (value(scores), state)


def _tuba(scores: Scores) -> Nats:
    return bounds.tuba(scores, _no_baseline(scores))


def _no_baseline(scores: Scores) -> Float[Array, "*g n"]:
    """The log baseline 0, for scores that hold theirs already."""
    checked = _scores.all_pairs(scores)
    return jnp.zeros(checked.shape[:-1], checked.dtype)
