"""The stacked critic: a weighted sum of critics that were trained apart."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mi_jax.networks import critics
from mi_jax.networks.critics import Encoding


class StackedCritic(Encoding):
    """A weighted sum of critics, each of which may see other things.

    Formula: T(x, y) = c + Σ_k w_k T_k(x, y), with the weights w and the constant c among the parameters; at `init` the
    weights are equal, and c = 0.

    Attributes:
      critics: the critics T_k.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mi_jax.networks import BilinearCritic, SeparableCritic, StackedCritic
      >>> critic = StackedCritic((BilinearCritic(), SeparableCritic()))
      >>> x, y = jnp.ones((8, 3)), jnp.ones((8, 2))
      >>> params = critic.init(jax.random.key(0), x, y)
      >>> critic.apply(params, x, y).shape, params["params"]["weights"].tolist()
      ((8, 8), [0.5, 0.5])

    Source: Wolpert (1992), "Stacked generalization".
    """

    critics: Sequence[nn.Module]

    def setup(self) -> None:
        number = len(self.critics)
        self.weights = self.param("weights", nn.initializers.constant(1 / number), (number,))
        self.constant = self.param("constant", nn.initializers.zeros_init(), ())

    def encode(self, x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The codes of each critic, those of x and those of y."""
        codes = [critics.encode(critic, x, y) for critic in self.critics]
        return tuple(of_x for of_x, _ in codes), tuple(of_y for _, of_y in codes)

    def pair(self, codes_x: tuple[Any, ...], codes_y: tuple[Any, ...]) -> Float[Array, "n m"]:
        """The weighted sum of their scores."""
        each = [critics.pair(*of_critic) for of_critic in zip(self.critics, codes_x, codes_y, strict=True)]
        # A critic of weight 0 says nothing, also where its scores overflow.
        terms = [jnp.where(weight == 0, 0.0, weight * scores) for weight, scores in zip(self.weights, each, strict=True)]
        return self.constant + sum(terms)


def stack_variables(parts: Sequence[Any], weights: Any, constant: Any) -> dict[str, Any]:
    """The variables of a stacked critic, from those of its critics."""
    collections = {name for part in parts for name in part}
    variables: dict[str, Any] = {
        name: {f"critics_{place}": part[name] for place, part in enumerate(parts) if name in part} for name in collections
    }
    variables["params"] = variables.get("params", {}) | {"weights": weights, "constant": constant}
    return variables


def part_variables(variables: Any, place: int) -> dict[str, Any]:
    """The variables of one critic of a stack."""
    return {name: parts[f"critics_{place}"] for name, parts in variables.items() if f"critics_{place}" in parts}
