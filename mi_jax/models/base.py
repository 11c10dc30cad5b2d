"""The contracts that every model keeps, discriminative or generative: what the trainer and the evaluation rely on."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array, Float, PRNGKeyArray

Variables: TypeAlias = Mapping[str, Any]


class Critic(NamedTuple):
    """Scores of all pairs of rows, in two steps, so that rows are encoded once where pairs are scored block by block.

    Attributes:
      encode: `(variables, x, y) -> (codes_x, codes_y)`, the part of the scores that is done once a row.
      pair: `(variables, codes_x, codes_y) -> (n, m)`, the part that is done once a pair.
    """

    encode: Callable[[Any, Array, Array], tuple[Any, Any]]
    pair: Callable[[Any, Any, Any], Float[Array, "n m"]]

    def scores(self, variables: Variables, x: Array, y: Array) -> Float[Array, "n m"]:
        """T(x_i, y_j) for all pairs."""
        return self.pair(variables, *self.encode(variables, x, y))


class Model(NamedTuple):
    """How to make variables, a loss, and a log density ratio, as pure functions.

    Variables part as those of Flax do: a dict with the collection "params", which is trained, and others, which `init` fits
    to its rows and nothing changes, such as the Gaussian critic's "gaussian".

    Attributes:
      init: `(key, x, y) -> variables`. Most models only read the shapes of x and y; some fit constants to these rows. Where
        some of the rows are padding, it is given their weights as well, `(key, x, y, weights)`.
      init_state: `key -> state`, what training carries from step to step besides the parameters: () for most models; the key
        for those that draw random numbers.
      loss: `(variables, state, x, y) -> (loss, (state, {name: nats}))`; training minimises the loss. The read-outs are those
        of this batch at these variables, before any update.
      log_ratio: `(variables, x, y) -> (n,)`, in nats: log p(x_i, y_i) / (p(x_i) p(y_i)) of paired rows, the pointwise MI,
        before any projection.
      critic: the `Critic` of a discriminative model; None for a generative one, which scores no pairs.
    """

    init: Callable[..., Variables]
    init_state: Callable[[PRNGKeyArray], Any]
    loss: Callable[[Any, Any, Array, Array], tuple[Float[Array, ""], tuple[Any, Mapping[str, Float[Array, ""]]]]]
    log_ratio: Callable[[Any, Array, Array], Float[Array, " n"]]
    critic: Critic | None = None
