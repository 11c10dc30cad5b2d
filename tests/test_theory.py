"""Theory against quadrature, simulation in float64 NumPy, and brute force: none of it by the library's own arithmetic."""

import numpy as np
import pytest

from mi_jax import theory


def log_ratio(x, y, rho):
    """log r* of one Gaussian pair, as the densities have it."""
    return -0.5 * np.log(1 - rho**2) - (rho**2 * x**2 - 2 * rho * x * y + rho**2 * y**2) / (2 * (1 - rho**2))


def rho_of(mi, dim):
    return np.sqrt(1 - np.exp(-2 * mi / dim))


def expectation(function):
    """E_Q[function(x, y)] for independent standard normals, by Gauss–Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(180)
    weights = weights / weights.sum()
    return weights @ function(nodes[:, None], nodes[None, :]) @ weights


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize(("mi", "dim"), [(0.02, 1), (0.5, 20), (1.0, 20), (1.5, 20)])
def test_moments_of_the_ratio(order, mi, dim):
    rho = rho_of(mi, dim)
    by_quadrature = expectation(lambda x, y: np.exp(order * log_ratio(x, y, rho))) ** dim
    assert theory.gaussian_ratio_moment(order, mi, dim) == pytest.approx(by_quadrature, rel=1e-6)


def test_moments_end_where_the_law_says():
    """E_Q[r^k] is finite for rho < 1 / (k - 1): the fourth to MI 1.18 at d = 20."""
    last = -10 * np.log(1 - 1 / 9)
    assert last == pytest.approx(1.18, abs=0.005)
    assert np.isfinite(theory.gaussian_ratio_moment(4, last - 1e-6, 20))
    assert theory.gaussian_ratio_moment(4, last + 1e-6, 20) == np.inf
    np.testing.assert_allclose(theory.gaussian_ratio_moment(2, np.array([0.0, 1.0, 10.0]), 20), np.exp([0.0, 2.0, 20.0]))
    assert theory.gaussian_ratio_moment(1, 7.0, 20) == pytest.approx(1.0)


@pytest.mark.parametrize("dim", [1, 20])
def test_variance_of_the_log_ratio(dim):
    mi = 0.3 * dim
    rho = rho_of(mi, dim)
    # Under P, y = rho x + sqrt(1 - rho²) z.
    values = [expectation(lambda x, z, k=k: log_ratio(x, rho * x + np.sqrt(1 - rho**2) * z, rho) ** k) for k in (1, 2)]
    assert values[0] * dim == pytest.approx(mi, rel=1e-9)
    assert theory.gaussian_log_ratio_variance(mi, dim) == pytest.approx(dim * (values[1] - values[0] ** 2), rel=1e-9)
    floors = theory.gaussian_log_ratio_variance(np.array([2.0, 4.0, 6.0, 8.0, 10.0]), 20) / 64
    np.testing.assert_allclose(floors, [0.057, 0.103, 0.141, 0.172, 0.198], atol=5e-4)


def simulate(mi, dim, n, replicates, seed=0):
    """(replicates,) E_{Q_n}[r*] over off-diagonal pairs, the same over n independent pairs, and the mean of joint log r*."""
    rng, rho = np.random.default_rng(seed), rho_of(mi, dim)
    off, independent, joint = [], [], []
    for _ in range(replicates):
        x = rng.standard_normal((n, dim))
        y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal((n, dim))
        matrix = log_ratio(x[:, None], y[None, :], rho).sum(axis=-1)
        joint.append(np.diag(matrix).mean())
        off.append((np.exp(matrix).sum() - np.exp(np.diag(matrix)).sum()) / (n * (n - 1)))
        independent.append(np.exp(log_ratio(x, rng.standard_normal((n, dim)), rho).sum(axis=-1)).mean())
    return np.array(off), np.array(independent), np.array(joint)


def test_variance_of_the_partition_in_both_designs():
    """MI 0.5, where a fourth moment exists and the measured variance has a standard error."""
    mi, dim, n = 0.5, 20, 16
    off, independent, joint = simulate(mi, dim, n, 10_000)
    for values, pairs in ((off, "off_diagonal"), (independent, "independent")):
        law = theory.gaussian_partition_variance(mi, dim, n, pairs=pairs)
        error = np.sqrt((((values - values.mean()) ** 2 - values.var()) ** 2).mean() / len(values))
        assert 4 * error < 0.2 * law
        assert abs(values.var() - law) < 4 * error
        assert values.mean() == pytest.approx(1.0, abs=4 * np.sqrt(law / len(values)))
    assert abs(np.corrcoef(off, joint)[0, 1]) < 4 / np.sqrt(len(off))
    nwj = 1 + joint - off
    assert nwj.var() == pytest.approx(theory.gaussian_nwj_variance(mi, dim, n, pairs="off_diagonal"), rel=0.05)


def test_the_mirrored_pair_is_the_only_other_covariance():
    """E[r*(x_1, y_2) r*(x_2, y_1)] = 1 / (1 - rho⁴) a Gaussian pair, with a shared variable alone it is 1: by quadrature."""
    rho = 0.5
    law = theory.gaussian_partition_variance(-0.5 * np.log(1 - rho**2), 1, 2, pairs="off_diagonal") * 2
    assert law == pytest.approx(1 / (1 - rho**2) + 1 / (1 - rho**4) - 2, rel=1e-12)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    ratio = np.exp(log_ratio(nodes[:, None], nodes[None, :], rho))
    joint = ratio * weights[None, :]  # p(y | x) on the nodes
    # Σ over x_1, y_1 | x_1, x_2, y_2 | x_2 of r(x_1, y_2) r(x_2, y_1).
    mirrored = np.einsum("a,ab,c,cd,ad,cb->", weights, joint, weights, joint, ratio, ratio, optimize=True)
    shared = np.einsum("a,b,c,ab,ac->", weights, weights, weights, ratio, ratio, optimize=True)
    assert mirrored == pytest.approx(1 / (1 - rho**4), rel=1e-8)
    assert shared == pytest.approx(1.0, rel=1e-8)


@pytest.mark.slow
def test_off_diagonal_law_at_mi_1_n_64():
    """Within 3 % of 12,000 simulated batches."""
    off, _, _ = simulate(1.0, 20, 64, 12_000)
    assert off.var() == pytest.approx(theory.gaussian_partition_variance(1.0, 20, 64, pairs="off_diagonal"), rel=0.03)


@pytest.mark.parametrize("mi", [0.5, 2.0, 10.0])
def test_the_exact_laws_are_above_the_printed_bounds(mi):
    exact = theory.gaussian_partition_variance(mi, 20, 64)
    assert exact == pytest.approx((np.exp(2 * mi) - 1) / 64)
    assert exact > theory.partition_variance_bound(mi, 64) == pytest.approx((np.exp(mi) - 1) / 64)
    assert theory.gaussian_nwj_variance(mi, 20, 64) > theory.nwj_variance_bound(mi, 64)
    printed = theory.nwj_variance_bound(mi, 64, printed=True)
    assert printed * np.exp(2) == pytest.approx(theory.nwj_variance_bound(mi, 64))


@pytest.mark.parametrize(("mi", "below"), [(0.5, True), (2.0, True), (4.0, True), (6.0, False), (10.0, False)])
def test_the_bounds_are_not_about_off_diagonal_pairs(mi, below):
    """Read with n as the batch size, Theorem 2 fails for the n(n - 1) pairs of one batch until e^I is of the order of n."""
    off_diagonal = theory.gaussian_partition_variance(mi, 20, 64, pairs="off_diagonal")
    assert off_diagonal < theory.gaussian_partition_variance(mi, 20, 64)
    assert (off_diagonal < theory.partition_variance_bound(mi, 64)) == below


def test_theorem_3_holds_and_is_attained():
    """Two-point ratios with mean S: no bias is above the bound, and at S = 1 the worst comes as near as one likes."""
    for tau in (0.5, 1.0, 5.0):
        worst = 0.0
        for total in (0.3, 1.0, 2.5):
            bound = theory.clipped_partition_bias_bound(tau, total)
            for low in np.linspace(0.0, total, 7)[:-1]:
                for high in total + np.geomspace(1e-3, 1e9, 60):
                    share = (high - total) / (high - low)  # of the low value, so that the mean is S
                    clipped = np.clip([low, high], np.exp(-tau), np.exp(tau))
                    bias = abs(total - (share * clipped[0] + (1 - share) * clipped[1]))
                    assert bias <= bound * (1 + 1e-9)
                    worst = max(worst, bias / bound)
        assert worst == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("tau", [0.1, 0.4812, 1.0, 5.0])
def test_theorem_4_corrected_is_attained_and_printed_is_false_beyond(tau):
    """e^τ and e^-τ, each half of the time, has the corrected bound as its population variance."""
    variance = np.var([np.exp(tau), np.exp(-tau)])
    assert variance == pytest.approx(theory.clipped_partition_variance_bound(tau, 1), abs=1e-6 * max(1, variance))
    printed = theory.clipped_partition_variance_bound(tau, 1, printed=True)
    assert (variance > printed * (1 + 1e-3)) == (tau > 0.4813)
    if tau == 1.0:
        assert variance == pytest.approx(1.381, abs=5e-4)
        assert printed == pytest.approx(0.588, abs=5e-4)


def test_theorem_4_as_printed_is_broken_on_the_papers_own_task():
    """tau = 5, d = 20, MI 4: 38.72 against the printed 37.10; broken from 4 to 5.5.

    The figure is that of a trapezoid rule over both chi-squares, on a 14,001² grid: 38.721771925.
    """
    printed = theory.clipped_partition_variance_bound(5.0, 1, printed=True)
    assert printed == pytest.approx(37.10, abs=0.005)
    assert theory.gaussian_clipped_moments(5.0, 4.0, 20).variance == pytest.approx(38.721771925, abs=1e-7)
    for mi in np.arange(0.5, 10.5, 0.5):
        variance = theory.gaussian_clipped_moments(5.0, mi, 20).variance
        assert (variance > printed) == (4.0 <= mi <= 5.5)
        assert variance < theory.clipped_partition_variance_bound(5.0, 1)


@pytest.mark.parametrize(
    ("tau", "mi", "dim"), [(1.0, 1.0, 20), (5.0, 4.0, 20), (1.0, 10.0, 20), (2.0, 0.7, 1), (0.0, 1.0, 3)]
)
def test_clipped_moments_against_simulation(tau, mi, dim):
    rng, n = np.random.default_rng(0), 200_000
    total = sum(log_ratio(*rng.standard_normal((2, n)), rho_of(mi, dim)) for _ in range(dim))
    ratio = np.exp(np.clip(total, -tau, tau))
    moments = theory.gaussian_clipped_moments(tau, mi, dim)
    assert moments.mean == pytest.approx(ratio.mean(), abs=4 * ratio.std() / np.sqrt(n) + 1e-12)
    error = np.sqrt((((ratio - ratio.mean()) ** 2 - ratio.var()) ** 2).mean() / n)
    assert moments.variance == pytest.approx(ratio.var(), abs=4 * error + 1e-12)
    assert abs(moments.mean - 1.0) <= theory.clipped_partition_bias_bound(tau) + 1e-12


def test_clipped_moments_become_those_of_the_ratio():
    """At a tau that no mass reaches the law is that of r* itself; at MI 0 the ratio is 1."""
    moments = theory.gaussian_clipped_moments(60.0, 0.5, 20)
    assert moments.mean == pytest.approx(1.0, rel=1e-10)
    assert moments.variance == pytest.approx(np.expm1(1.0), rel=1e-9)
    assert theory.gaussian_clipped_moments(1.0, 0.0, 20) == (1.0, 0.0)


def test_how_many_pairs_see_the_tail():
    """The divergence of the r²-tilted law from Q, by quadrature; and the 3.5e8 of docs/statistics.md at MI 4."""
    for mi, dim in ((0.2, 1), (1.0, 20)):
        rho = rho_of(mi, dim)
        second = expectation(lambda x, y, rho=rho: np.exp(2 * log_ratio(x, y, rho)))
        tilted = expectation(lambda x, y, rho=rho: np.exp(2 * log_ratio(x, y, rho)) * 2 * log_ratio(x, y, rho)) / second
        divergence = dim * (tilted - np.log(second))
        assert theory.gaussian_tail_pairs(mi, dim) == pytest.approx(np.exp(divergence), rel=1e-5)
    assert theory.gaussian_tail_pairs(4.0, 20) == pytest.approx(3.5e8, rel=0.01)
    assert theory.gaussian_tail_pairs(200.0, 20) == np.inf
    assert theory.gaussian_tail_pairs(400.0, 2) == np.inf
    assert theory.gaussian_tail_pairs(720.0, 2, share=0.9) == np.inf
    assert theory.gaussian_tail_pairs(0.0, 20, share=0.9) == 1.0


@pytest.mark.parametrize(("mi", "share"), [(1.0, 0.9), (4.0, 0.9), (4.0, 0.5), (8.0, 0.7)])
def test_so_many_pairs_have_a_share_of_the_tail_within_reach(mi, share):
    """Draws of the law r*² Q: the log of its density over Q is below the log of the pairs in so many cases."""
    rho, dim = rho_of(mi, 20), 20
    u, v = np.random.default_rng(0).chisquare(dim, (2, 100_000))
    u, v = u * (1 + rho) / (1 - rho), v * (1 - rho) / (1 + rho)
    second = theory.gaussian_ratio_moment(2, mi, dim)
    weight = 2 * mi + rho / (1 + rho) * u - rho / (1 - rho) * v - np.log(second)
    reached = (weight <= np.log(theory.gaussian_tail_pairs(mi, dim, share=share))).mean()
    assert reached == pytest.approx(share, abs=0.05)  # the law of the weight is skewed, and taken for normal


@pytest.mark.parametrize("pairs", ["independent", "off_diagonal"])
@pytest.mark.parametrize(("stderr", "mi"), [(0.1, 0.0), (0.5, 0.5), (0.1, 2.0), (0.03, 6.0), (3.0, 4.0)])
def test_the_batch_size_is_the_least_that_will_do(pairs, stderr, mi):
    n = theory.gaussian_batch_size(stderr, mi, 20, pairs=pairs)
    least = 2 if pairs == "off_diagonal" else 1
    assert n >= least
    assert theory.gaussian_nwj_variance(mi, 20, n, pairs=pairs) <= stderr**2 * (1 + 1e-9)
    if n > least:
        assert theory.gaussian_nwj_variance(mi, 20, n - 1, pairs=pairs) > stderr**2


def test_infonce_needs_its_ceiling_above_the_mi():
    for mi in (0.0, 1.0, 5.0):
        n = theory.infonce_batch_size(mi)
        assert np.log(n) >= mi
        assert n == 2 or np.log(n - 1) < mi


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.partition_variance_bound(-1.0, 64), "mi must be at least 0, got -1.0"),
        (lambda: theory.partition_variance_bound(np.nan, 64), "mi must be at least 0, got nan"),
        (lambda: theory.nwj_variance_bound(1.0, 0), "n must be at least 1, got 0"),
        (lambda: theory.clipped_partition_bias_bound(-1.0), "tau must be at least 0, got -1.0"),
        (lambda: theory.clipped_partition_bias_bound(1.0, 0.0), "partition must be positive, got 0.0"),
        (lambda: theory.clipped_partition_variance_bound(1.0, 0.5), "n must be at least 1, got 0.5"),
        (lambda: theory.gaussian_ratio_moment(-1, 1.0, 20), "order must be at least 0, got -1"),
        (lambda: theory.gaussian_log_ratio_variance(1.0, 0), "dim must be at least 1, got 0"),
        (lambda: theory.gaussian_clipped_moments(np.inf, 1.0, 20), "tau must be at most 300 and mi finite, got inf and 1.0"),
        (lambda: theory.gaussian_tail_pairs(-1.0, 20), "mi must be at least 0, got -1.0"),
        (lambda: theory.gaussian_tail_pairs(1.0, 20, share=1.0), "share must lie in .*, got 1.0"),
        (lambda: theory.gaussian_partition_variance(1.0, 20, 1, pairs="off_diagonal"), "n must be at least 2, got 1"),
        (
            lambda: theory.gaussian_partition_variance(1.0, 20, 4, pairs="shifted"),
            "pairs must be 'independent' or 'off_diagonal', got 'shifted'",
        ),
        (lambda: theory.gaussian_nwj_variance(1.0, 20, 4, joint=4, pairs="off_diagonal"), "joint must not be given"),
        (lambda: theory.gaussian_nwj_variance(1.0, 20, 4, joint=0), "joint must be at least 1, got 0"),
        (lambda: theory.gaussian_batch_size(0.0, 1.0, 20), "stderr must be positive, got 0.0"),
        (lambda: theory.infonce_batch_size(-0.1), "mi must be at least 0, got -0.1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
