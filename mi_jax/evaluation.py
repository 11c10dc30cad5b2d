"""A trained model on data it has not seen."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mi_jax import _checks
from mi_jax.models import Model


class Normaliser(NamedTuple):
    """How far a fitted ratio is from a valid one.

    Attributes:
      log_mean: log E_{Q_n}[r], in nats; 0 for a valid density ratio.
      effective_pairs: (Σ r)² / Σ r², how many of the pairs carry the mean. Where it is a handful, `log_mean` says nothing:
        most of E_Q[r] lies in pairs so rare that none was seen, and the mean is then too low, for a valid ratio too. Many do
        not prove that all of E_Q[r] was seen; a negative `log_mean` alone convicts no ratio.
    """

    log_mean: Float[Array, ""]
    effective_pairs: Float[Array, ""]


def normaliser(model: Model, params: Any, x: Float[Array, "n ..."], y: Float[Array, "n ..."]) -> Normaliser:
    """The normaliser check, for any model: the mean of its ratio over product-of-marginals pairs, which ought to be 1.

    Formula: log (1/n) Σ_i r(x_i, y_{i+1}), the last x with the first y: n pairs from Q, and n evaluations.

    Barber–Agakov ratios are valid whatever the parameters, those of I_GM and of NWJ, TUBA, JS and SMILE critics at the
    optimum. This is the ratio as the model gives it, before any projection (`mi_jax.projections`); DV, MINE and InfoNCE
    leave a constant or a function of x free in theirs, so that it is valid after projection only.

    Args:
      model: any model.
      params: its parameters.
      x: (n, *x_shape) rows that the parameters were not fitted to, in random order.
      y: (n, *y_shape) their partners.

    Returns:
      A `Normaliser`.

    Raises:
      TypeError: if `model` is no `Model`.
      ValueError: if there are not at least 2 rows, as many of y as of x.

    Example:
      >>> import jax
      >>> from mi_jax import evaluation, models, networks, tasks
      >>> model = models.ba(lambda x: jax.scipy.stats.norm.logpdf(x).sum(axis=1))
      >>> x, y = tasks.gaussian(dim=2, mi=1.0).sample(jax.random.key(0), 1_000)
      >>> params = model.init(jax.random.key(1), x, y)
      >>> print(f"{evaluation.normaliser(model, params, x, y).log_mean:.4f}")
      0.0000

    Source: Song & Ermon (2020), Section 3.1, Eq. 7 and Table 1.
    """
    _checks.instance(model, Model, "model")
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"x and y must hold the same number of rows, at least 2, got {len(x)} and {len(y)}")
    log_ratio = _checks.floating(model.log_ratio(params, x, jnp.roll(y, -1, axis=0)), "log_ratio")
    log_sum = jax.nn.logsumexp(log_ratio)
    return Normaliser(log_sum - jnp.log(len(x)), jnp.exp(2 * log_sum - jax.nn.logsumexp(2 * log_ratio)))
