import numpy as np

from mi_jax import diagnostics


def test_a_relation_without_noise_is_seen_and_a_noisy_one_is_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 1)).astype(np.float32)
    assert "deterministic" in diagnostics.of_rows(x, x**2)
    assert "deterministic" in diagnostics.of_rows(x, 3 * x)
    assert diagnostics.of_rows(x, x + rng.normal(size=x.shape).astype(np.float32)) == {}
