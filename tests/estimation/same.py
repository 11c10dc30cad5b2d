"""Whether two estimates are the same, bit for bit."""

import jax
import numpy as np


def assert_same(one, other):
    """Bit for bit the same estimate."""
    assert (one.mi, one.stderr, one.interval, one.warnings) == (other.mi, other.stderr, other.interval, other.warnings)
    np.testing.assert_array_equal(one.per_fold, other.per_fold)
    np.testing.assert_array_equal(one.influence, other.influence)
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)
