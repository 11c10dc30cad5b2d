"""The bounds again, in float64 NumPy, from their formulas and apart from the library; and matrices to try them on."""

import numpy as np

EPS = np.finfo(np.float32).eps


def joint(s):
    return np.diag(s)


def product(s):
    return s[~np.eye(len(s), dtype=bool)]


def infonce(s):
    return np.mean([s[i, i] - np.log(np.mean(np.exp(s[i]))) for i in range(len(s))])


def dv(s):
    return joint(s).mean() - np.log(np.exp(product(s)).mean())


def smile(s, tau):
    return joint(s).mean() - np.log(np.clip(np.exp(product(s)), np.exp(-tau), np.exp(tau)).mean())


def nwj(s):
    return joint(s).mean() - np.exp(product(s) - 1).mean()


def tuba(s, a):
    return 1 + (joint(s) - a).mean() - np.exp(product(s - a[:, None])).mean()


def interpolated(s, a, alpha):
    n = len(s)
    e, q = np.exp(s), np.exp(a)
    total = 1.0
    for i in range(n):
        for j in range(n):
            if j != i:
                mixture = np.delete(e[i], j).mean()
                total += np.log(e[i, i] / (alpha * mixture + (1 - alpha) * q[i])) / (n * (n - 1))
                without_positive = np.delete(e[i], i).mean()
                total -= e[i, j] / (alpha * without_positive + (1 - alpha) * q[i]) / (n * (n - 1))
    return total


def logistic_objective(s):
    return -np.log1p(np.exp(-joint(s))).mean() - np.log1p(np.exp(product(s))).mean()


def baseline(n):
    """Any log baseline that is not constant."""
    return np.linspace(-1.0, 1.0, n)


def matrices():
    """(name, float32-representable float64 matrix): random, diagonal-heavy, wide and shifted, of 2, 5 and 64 rows."""
    for n in (2, 5, 64):
        normal = np.random.default_rng(n).standard_normal((n, n))
        kinds = {"random": normal, "diagonal-heavy": normal + 6 * np.eye(n), "wide": 8 * normal, "shifted": normal + 30}
        for kind, s in kinds.items():
            yield f"{kind}-{n}", s.astype(np.float32).astype(np.float64)


def tolerance(value, s):
    """What float32 allows: rounding of the result, and of scores as large as these."""
    return 1e-5 * (1 + abs(value)) + 4 * EPS * np.abs(s).max()


def finite_differences(function, s, entries, step=1e-5):
    """Central differences of `function` in float64 at these entries of `s`."""
    slopes = []
    for i, j in entries:
        up, down = s.copy(), s.copy()
        up[i, j] += step
        down[i, j] -= step
        slopes.append((function(up) - function(down)) / (2 * step))
    return np.array(slopes)
