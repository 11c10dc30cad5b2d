import math

import numpy as np
import pytest
from scipy import stats

from mi_jax.estimation.columns import fit_columns
from mi_jax.estimation.gaussian_limit import upper_limit


def draw(seed, num_rows, dim, mi):
    rng = np.random.default_rng(seed)
    rho = math.sqrt(-math.expm1(-2 * mi / dim))
    x, noise = rng.normal(size=(2, num_rows, dim))
    pair = x, rho * x + math.sqrt(1 - rho**2) * noise
    return tuple(fit_columns(side, "rows")(side) for side in pair)


@pytest.mark.parametrize("mi", [0.0, 0.1, *(pytest.param(mi, marks=pytest.mark.slow) for mi in (0.04, 0.3))])
@pytest.mark.parametrize(
    ("num_rows", "dim"),
    [(100, 3), *(pytest.param(*size, marks=pytest.mark.slow) for size in ((100, 1), (500, 5), (150, 10)))],
)
def test_the_limit_covers_at_its_level(num_rows, dim, mi):
    """In 97.5 % of data sets; always, if there is nothing to share."""
    limits = np.array([upper_limit(*draw(seed, num_rows, dim, mi), 0.95) for seed in range(100)])
    covered = np.sum(~(limits < mi))  # NaN is no limit
    assert covered >= stats.binom.ppf(0.001, 100, 0.975)
    if not mi:
        assert covered == 100


def test_the_limit_is_not_much_beyond_the_truth():
    """For one column W is n r², a noncentral χ² of one degree of freedom, and the limit goes as 1/√n above the truth."""
    beyond = [np.median([upper_limit(*draw(seed, n, 1, 0.1), 0.95) for seed in range(100)]) - 0.1 for n in (200, 3_200)]
    assert beyond[0] == pytest.approx(1.96 * math.sqrt(2 * 0.1 / 200), rel=0.3)
    assert beyond[1] == pytest.approx(beyond[0] / 4, rel=0.3)


def test_one_pair_of_columns_by_hand():
    x, y = np.random.default_rng(1).normal(size=(2, 50, 1))
    statistic = -(50 - 1 - 1.5) * math.log1p(-(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2))
    limit = upper_limit(x, y, 0.9)
    assert stats.ncx2.cdf(statistic, 1, 2 * 47.5 * limit) == pytest.approx(0.05, abs=1e-6)
    assert upper_limit(x, y, 0.99) > limit
    assert upper_limit(x, y, 0.9, 25) > limit  # rows that count as fewer tell less


def test_where_it_says_little():
    assert math.isnan(upper_limit(*draw(0, 100, 30, 0.1), 0.95))  # columns beside the rows
    assert math.isnan(upper_limit(*draw(0, 1_000, 1, 2.0), 0.95))  # a strong relation
    assert upper_limit(*draw(0, 10_000, 5, 0.0), 0.95) < 0.005
    x = np.random.default_rng(0).normal(size=(100, 1))
    assert math.isnan(upper_limit(x, x, 0.95))


def test_columns_that_are_the_same_do_not_break_it():
    x, y = draw(0, 100, 2, 0.1)
    assert np.isfinite(upper_limit(np.hstack([x, x]), y, 0.95))
