"""The options that are fixed when an estimate is compiled: estimator, critic, and those of training, with their defaults."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from mi_jax import _checks, estimators, models, networks
from mi_jax.estimation import ladder
from mi_jax.models import Model

EVERY = 50  # steps between validations
MOST_COLUMNS = 1_000  # with more columns the Gaussian critic's matrices cost more than its training
MOST_STACKED = 200  # columns with which a second critic is tried
LOGISTIC = ("smile", "js")
# Tried on one fold of bent tasks; `benchmarks.estimates` has not measured them yet. The speed is in learning rates.
CANONICAL_NOISE, CANONICAL_DECAY, CANONICAL_BATCH, CANONICAL_SPEED = 0.1, 0.3, 256, 1.5

CRITICS: Mapping[str, Callable[[], nn.Module]] = {
    "stacked": lambda: networks.StackedCritic((networks.GaussianCritic(), networks.CanonicalCritic())),
    "gaussian": networks.GaussianCritic,
    "canonical": networks.CanonicalCritic,
    "joint": networks.JointCritic,
    "separable": networks.SeparableCritic,
    "bilinear": networks.BilinearCritic,
}
# estimator -> its read-out in `evaluation.read_outs`; a generative model is read out by its log ratio.
READ_OUTS = {
    "smile": "smile",
    "js": "nwj",
    "infonce": "infonce",
    "cpc": "infonce",
    "dv": "dv",
    "mine": "dv",
    "nwj": "nwj",
    "tuba": "nwj",
    "gm": "log_ratio",
    "doe": "log_ratio",
}


class FitConfig(NamedTuple):
    """The options that are fixed when the training and the read-out of an estimate are compiled.

    Attributes:
      estimator: a name in `READ_OUTS`.
      critic: a module; None for a generative model.
      batch_size: joint pairs a step, drawn with replacement.
      sub_batch: each batch is cut into sub-batches of so many pairs, within which all are scored against one another.
      rounds: at most so many rounds of `EVERY` steps; 0 for a critic in closed form, which is not trained.
      patience: rounds without a lower validation loss after which training stops.
      learning_rate: Adam's.
      max_pairs: how many pairs the read-out of a fold may score.
      noise: the standard deviation of normal noise that is added to the rows of each batch.
      weight_decay: AdamW's, per unit of the learning rate.
      symmetric: whether InfoNCE contrasts in both directions.
      candidates: the configurations that are trained in the place of this one, whose critic stacks theirs.
      closed_form: the configuration to use instead if it leaves nothing to learn; None to try none.
    """

    estimator: str
    critic: nn.Module | None
    batch_size: int
    sub_batch: int
    rounds: int
    patience: int
    learning_rate: float
    max_pairs: int
    noise: float = 0.0
    weight_decay: float = 0.0
    symmetric: bool = False
    candidates: tuple["FitConfig", ...] = ()
    closed_form: "FitConfig | None" = None

    def model(self) -> Model:
        """The model that is trained, or read out."""
        options = {} if self.critic is None else {"critic": self.critic}
        return models.make(self.estimator, **options, **({"symmetric": True} if self.symmetric else {}))

    @property
    def offset(self) -> float:
        """The constant that the best scores have on top of the log ratio."""
        return 0.0 if self.critic is None else getattr(estimators, self.estimator)().offset


def make_critic(estimator: str, critic: str | nn.Module | None, dim_x: int, dim_y: int) -> nn.Module | None:
    """The module that a name stands for, or the module given, checked; None for a generative model."""
    if not isinstance(estimator, str) or estimator not in READ_OUTS:
        raise ValueError(f"estimator must be one of {', '.join(READ_OUTS)}, got {estimator!r}")
    if READ_OUTS[estimator] == "log_ratio":
        if critic is not None:
            raise ValueError(f"critic must not be given with {estimator}, which learns densities, got {critic!r}")
        return None
    if critic is None:
        stacks = estimator in LOGISTIC and min(dim_x, dim_y) > 1 and dim_x + dim_y <= MOST_STACKED
        critic = "stacked" if stacks else "gaussian" if dim_x + dim_y <= MOST_COLUMNS else "separable"
    if isinstance(critic, nn.Module):
        _check_scores(critic, dim_x, dim_y)
        return critic
    if not isinstance(critic, str):
        raise TypeError(f"critic must be a name or a Flax module, got {_checks.kind_of(critic)}")
    if critic not in CRITICS:
        raise ValueError(f"critic must be one of {', '.join(CRITICS)}, or a Flax module, got {critic!r}")
    return CRITICS[critic]()


def critic_name(critic: nn.Module | None) -> str:
    """What a critic is called in results: the class, as in "gaussian" for `GaussianCritic`."""
    return "densities" if critic is None else type(critic).__name__.removesuffix("Critic").lower()


def _check_scores(critic: nn.Module, dim_x: int, dim_y: int) -> None:
    """Refuse a module that does not score every row of x against every row of y."""
    name = type(critic).__name__
    x, partners, y = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((2, dim_x), (2, dim_y), (3, dim_y)))
    try:
        scores = jax.eval_shape(critic.apply, jax.eval_shape(critic.init, jax.random.key(0), x, partners), x, y)
    except (TypeError, ValueError) as error:
        raise type(error)(f"critic must take n rows of x and m of y as critic(x, y), got {name}: {error}") from error
    shape = getattr(scores, "shape", None)
    if shape != (2, 3):
        text = f"critic must score n rows of x against m of y, shape (n, m), got shape {shape} of 2 and 3"
        raise ValueError(f"{text} by {name}")


def make_config(
    estimator: str,
    critic: nn.Module | None,
    *,
    num_train: int,
    steps: int,
    batch_size: int | None,
    num_negatives: int | None,
    learning_rate: float,
    patience: int,
    max_pairs: int,
    try_closed_form: bool = False,
) -> FitConfig:
    """The configuration of these options, each checked; `benchmarks.estimates` measured the defaults.

    If it is to try a closed form, a logistic estimator whose critic starts from the Gaussian one has that one, without a
    network, as `closed_form`.

    A stacked critic of a logistic estimator gets a candidate for each of its critics. A canonical one among them is trained
    by symmetric InfoNCE, against a whole batch, with noise and weight decay.
    """
    logistic, canonical = estimator in LOGISTIC, isinstance(critic, networks.CanonicalCritic)
    stacked = critic.critics if isinstance(critic, networks.StackedCritic) and logistic else ()
    cheap = canonical or isinstance(critic, networks.SeparableCritic | networks.BilinearCritic)
    by_pair = logistic and not cheap
    if batch_size is None:
        batch_size = min(ladder.power_below(num_train), 512 if by_pair else 256 if cheap else 128)
    if not 2 <= _checks.positive_int(batch_size, "batch_size") <= num_train:
        raise ValueError(f"batch_size must be at least 2 and at most the {num_train} training rows, got {batch_size}")
    if num_negatives is not None and critic is None:
        raise ValueError(f"num_negatives must not be given with {estimator}, which learns densities, got {num_negatives}")
    if num_negatives is None:
        num_negatives = min(batch_size, 4) - 1 if by_pair else batch_size - 1
    if not _checks.positive_int(num_negatives, "num_negatives") < batch_size:
        raise ValueError(f"num_negatives must be fewer than the {batch_size} pairs of a batch, got {num_negatives}")
    sub_batch = num_negatives + 1
    if estimator == "mine" and sub_batch < batch_size:
        text = f"num_negatives must be all {batch_size - 1} others with mine, whose moving average is of whole batches"
        raise ValueError(f"{text}, got {num_negatives}")
    _checks.positive(learning_rate, "learning_rate")
    if _checks.positive_int(max_pairs, "max_pairs") < 2:
        raise ValueError(f"max_pairs must be at least 2, got {max_pairs}")
    counts = ("steps", steps), ("patience", patience)
    rounds, patient = (max(1, round(_checks.positive_int(value, name) / EVERY)) for name, value in counts)
    config = FitConfig(
        estimator=estimator,
        critic=critic,
        batch_size=batch_size // sub_batch * sub_batch,
        sub_batch=sub_batch,
        rounds=0 if _is_closed_form(critic) else rounds,
        patience=patient,
        learning_rate=float(learning_rate),
        max_pairs=max_pairs,
        noise=CANONICAL_NOISE if canonical else 0.0,
        weight_decay=CANONICAL_DECAY if canonical else 0.0,
    )
    candidates = tuple(_make_candidate(config, each, num_train) for each in stacked)
    starts = isinstance(candidates[0].critic if candidates else critic, networks.GaussianCritic)
    closed_form = None
    if try_closed_form and logistic and starts:
        closed_form = config._replace(critic=networks.GaussianCritic(hidden=()), rounds=0)
    return config._replace(candidates=candidates, closed_form=closed_form)


def _is_closed_form(critic: nn.Module | None) -> bool:
    """Whether a critic is fitted by its `init`, and has nothing to train."""
    return isinstance(critic, networks.GaussianCritic) and not critic.hidden


def _make_candidate(stack: FitConfig, critic: nn.Module, num_train: int) -> FitConfig:
    """How a critic of a stack is trained."""
    if not isinstance(critic, networks.CanonicalCritic):
        return stack._replace(critic=critic, rounds=0 if _is_closed_form(critic) else stack.rounds)
    size = min(ladder.power_below(num_train), CANONICAL_BATCH)
    return stack._replace(
        estimator="infonce",
        critic=critic,
        batch_size=size,
        sub_batch=size,
        learning_rate=CANONICAL_SPEED * stack.learning_rate,
        noise=CANONICAL_NOISE,
        weight_decay=CANONICAL_DECAY,
        symmetric=True,
    )
