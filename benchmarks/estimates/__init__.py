"""`mi_jax.estimate` measured on cases of known mutual information."""
