"""Whether draws follow a law."""

import numpy as np
from scipy import stats


def passes(sample, law):
    """Kolmogorov and Smirnov's test; the seeds are fixed, and the level leaves one in a thousand to chance."""
    return stats.kstest(np.asarray(sample, np.float64), law.cdf).pvalue > 1e-3
