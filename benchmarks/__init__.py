"""Benchmarks: the paper's experiments and ours, on the public API of mi_jax only."""
