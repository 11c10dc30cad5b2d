"""How candidate critics are weighed: by the logistic loss of their sum on validation pairs."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mi_jax import sub_batches, training
from mi_jax.estimation.config import FitConfig
from mi_jax.estimation.fold_trainer import MOST_VALIDATION_ROWS
from mi_jax.models import Variables
from mi_jax.networks.stacked import part_variables

STANDARD_ERRORS = 1.0


class Weights(NamedTuple):
    """The stacked log ratio is the constant plus the weighted sum of those of the candidates."""

    weights: Float[np.ndarray, " k"]
    constant: float


@dataclass(frozen=True)
class Scorer:
    """What a fold's candidates say of its validation rows.

    Attributes:
      group: how many rows a group has; all pairs within it are scored.
    """

    group: int

    def __call__(self, config: FitConfig, variables: Variables, inputs: training.Inputs) -> tuple[Array, Array]:
        """The log ratios (candidates, groups, group, group), and for each group 1, or 0 if it holds padding."""
        rows, valid = inputs.shared, inputs.per_run.valid
        most = MOST_VALIDATION_ROWS // self.group * self.group
        x, y = (sub_batches.drop_remainder(side[:most], self.group) for side in valid.select(rows))
        each = []
        for place, candidate in enumerate(config.candidates):
            critic, part = candidate.model().critic, part_variables(variables, place)
            assert critic is not None
            score = lambda pair, critic=critic, part=part: critic.scores(part, *pair)  # noqa: E731
            each.append(jax.lax.map(score, (x, y)) - candidate.offset)
        weights = valid.weights
        if weights is None:
            return jnp.stack(each), jnp.ones(len(x))
        return jnp.stack(each), sub_batches.drop_remainder(weights[:most], self.group).min(axis=1)


def weigh(scores: Float[np.ndarray, "k g m m"], counts: Bool[np.ndarray, " g"]) -> Weights:
    """The weights of candidates, none negative.

    Formula: w and c minimise n L(c + Σ_k w_k T_k) + ½ |w - e_1|² + ½ c², with L the logistic loss, the mean of
    log(1 + e^-T) over joint pairs plus that of log(1 + e^T) over the others, whose minimum is at the log ratio; n is the
    number of validation rows. Few rows thus leave the first candidate as it is. It is taken alone, too, if the gain of the
    sum is less than a standard error of its rows.

    Args:
      scores: T_k of each candidate, of all pairs within groups of validation rows.
      counts: which groups count; the others are padding.

    Returns:
      `Weights`. A candidate whose scores are not finite has the weight 0; if all are such, the first has 1.

    Example:
      >>> import numpy as np
      >>> from mi_jax.estimation.stacking import weigh
      >>> good = np.where(np.eye(100), 2.0, -2.0)[None]
      >>> weights = weigh(np.stack([np.zeros((1, 100, 100)), good]), np.array([True])).weights
      >>> bool(weights[1] > weights[0])
      True

    Source: Wolpert (1992), "Stacked generalization"; Breiman (1996), "Stacked regressions", for weights that are not
    negative.
    """
    from scipy import optimize  # slow to import

    scores = np.asarray(scores, float)[:, counts]
    number, size = len(scores), scores.shape[-1]
    usable = np.flatnonzero(np.isfinite(scores).all(axis=(1, 2, 3)))
    if not usable.size:
        return Weights(np.eye(number)[0], 0.0)
    is_joint = np.eye(size, dtype=bool)
    joint = np.stack([*(scores[k][:, is_joint].ravel() for k in usable), np.ones(scores.shape[1] * size)])
    other = np.stack([*(scores[k][:, ~is_joint].ravel() for k in usable), np.ones(scores.shape[1] * size * (size - 1))])
    rows, first = joint.shape[1], np.eye(usable.size + 1)[0]

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        of_joint, of_other = w @ joint, w @ other
        loss = rows * (np.mean(np.logaddexp(0, -of_joint)) + np.mean(np.logaddexp(0, of_other)))
        slope = rows * (other @ _logistic(of_other) / of_other.size - joint @ _logistic(-of_joint) / rows)
        return loss + 0.5 * np.sum((w - first) ** 2), slope + w - first

    bounds = [(0.0, None)] * usable.size + [(None, None)]
    options = {"ftol": 1e-12, "gtol": 1e-4}
    best = optimize.minimize(objective, first, jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    gain = _losses(first, joint, other, size) - _losses(best, joint, other, size)
    if np.mean(gain) < STANDARD_ERRORS * np.std(gain) / np.sqrt(rows):
        best = first
    weights = np.zeros(number)
    weights[usable] = best[:-1]
    return Weights(weights, float(best[-1]))


def _logistic(values: np.ndarray) -> np.ndarray:
    from scipy import special

    result: np.ndarray = special.expit(values)
    return result


def _losses(w: np.ndarray, joint: np.ndarray, other: np.ndarray, size: int) -> Float[np.ndarray, " n"]:
    """The logistic loss of each row: that of its joint pair, and the mean of those of its others."""
    return np.logaddexp(0, -(w @ joint)) + np.logaddexp(0, w @ other).reshape(-1, size - 1).mean(axis=1)
