"""The replicates: one draw of every estimate at the exact log ratio, under both designs of pairs from Q.

With independent pairs log r* is drawn through its sufficient statistics. Under Q it is I + ½ (a U - b V), and under P
I + ½ rho (U - V), where U and V are chi-squares of d degrees of freedom. They do not depend on the MI, and so serve all MIs.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from benchmarks.lib.training import ROOT_KEY
from mi_jax import bounds, projections, tasks, theory

MIS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
TAUS = (1.0, 5.0, 10.0)
# Pairs of a chunk: enough for a few seconds, so that chunks are few and their moments stay small on disk.
_CHUNK_PAIRS: dict[theory.Pairs, int] = {"independent": 2**24, "off_diagonal": 2**26}

Logs = Mapping[str, Float[Array, " mis"]]


@dataclass(frozen=True)
class Cell:
    """Replicates of one design at one n, for all MIs."""

    pairs: theory.Pairs
    n: int
    dim: int = tasks.PAPER_DIM
    mis: tuple[float, ...] = MIS
    taus: tuple[float, ...] = TAUS

    @property
    def pairs_a_replicate(self) -> int:
        """How many pairs from Q one replicate uses."""
        return self.n if self.pairs == "independent" else self.n * (self.n - 1)

    @property
    def chunk(self) -> int:
        """Replicates in a chunk, fixed: between 4 and 1,000, so that one never takes long."""
        return min(1_000, max(4, _CHUNK_PAIRS[self.pairs] // self.pairs_a_replicate))

    @property
    def label(self) -> str:
        """Its name for people, and for files."""
        return f"{self.pairs}-n{self.n}-d{self.dim}"

    def config(self) -> dict[str, Any]:
        """Everything that decides its numbers: chunk k is drawn with fold_in(fold_in(key, n), k)."""
        return {**asdict(self), "mis": list(self.mis), "taus": list(self.taus), "chunk": self.chunk, "key": ROOT_KEY}

    def replicate(self, key: PRNGKeyArray) -> Logs:
        """One replicate, for every MI: the mean of log r* over P, and the logs of its partitions."""
        return (_independent if self.pairs == "independent" else _off_diagonal)(self, key)

    def draw(self, key: PRNGKeyArray) -> Logs:
        """A chunk of replicates, each entry (chunk, mis)."""
        together = max(1, 2**16 // self.pairs_a_replicate)  # as many side by side as stay in the cache
        return jax.lax.map(self.replicate, jax.random.split(key, self.chunk), batch_size=min(together, self.chunk))


def _independent(cell: Cell, key: PRNGKeyArray) -> Logs:
    pair_key, joint_key = jax.random.split(key)
    u, v = _chi_square(pair_key, (2, cell.n), cell.dim)
    # The sum over n joint pairs of a chi-square is one of n·d degrees of freedom.
    sums = 2.0 * jax.random.gamma(joint_key, 0.5 * cell.dim * cell.n, (2,))

    def at(mi: Float[Array, ""]) -> Logs:
        rho = tasks.mi_to_rho(mi, cell.dim)
        log_ratio = mi + 0.5 * (rho / (1.0 + rho) * u - rho / (1.0 - rho) * v)
        logs = {f"clipped_{tau:g}": _log_mean_exp(jnp.clip(log_ratio, -tau, tau)) for tau in cell.taus}
        return logs | {"joint": mi + 0.5 * rho * (sums[0] - sums[1]) / cell.n, "partition": _log_mean_exp(log_ratio)}

    return jax.lax.map(at, jnp.array(cell.mis))


def _off_diagonal(cell: Cell, key: PRNGKeyArray) -> Logs:
    x, noise = jax.random.normal(key, (2, cell.n, cell.dim))

    def at(mi: Float[Array, ""]) -> Logs:
        rho2 = -jnp.expm1(-2.0 * mi / cell.dim)
        rho, rest = jnp.sqrt(rho2), jnp.exp(-2.0 * mi / cell.dim)
        y = rho * x + jnp.sqrt(rest) * noise
        squares = 0.5 * rho2 * ((x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :])
        scores = mi + (rho * x @ y.T - squares) / rest  # tasks.gaussian's log ratio, as one product
        logs = {f"clipped_{tau:g}": projections.log_partition(scores, tau) for tau in cell.taus}
        joint = jnp.diagonal(scores).mean()
        return logs | {"joint": joint, "partition": projections.log_partition(scores), "infonce": bounds.infonce(scores)}

    return jax.lax.map(at, jnp.array(cell.mis))


def _chi_square(key: PRNGKeyArray, shape: tuple[int, ...], dim: int) -> Array:
    """Chi-squares: twice a sum of exponentials, and the square of a normal if `dim` is odd."""
    even_key, odd_key = jax.random.split(key)
    total = 2.0 * jax.random.exponential(even_key, (*shape, dim // 2)).sum(axis=-1)
    return total + jax.random.normal(odd_key, shape) ** 2 if dim % 2 else total


def _log_mean_exp(values: Float[Array, " n"]) -> Float[Array, ""]:
    return jax.nn.logsumexp(values) - math.log(values.shape[0])


def quantities(cell: Cell, logs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The estimates of each replicate from its logs, in float64: r* overflows float32."""
    logs = {name: np.asarray(values, np.float64) for name, values in logs.items()}
    joint, partition = logs["joint"], np.exp(logs["partition"])
    made = {"partition": partition, "log_partition": logs["partition"]}
    made |= {"dv": joint - logs["partition"], "nwj": 1.0 + joint - partition}
    for tau in cell.taus:
        log_clipped = logs[f"clipped_{tau:g}"]
        made |= {f"clipped_{tau:g}": np.exp(log_clipped), f"smile_{tau:g}": joint - log_clipped}
    return made | ({"infonce": logs["infonce"]} if "infonce" in logs else {})
