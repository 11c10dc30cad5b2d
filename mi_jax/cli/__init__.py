"""The command line `mi-jax`: which commands and options there are, how files are read, and what is printed.

Nothing here imports JAX before the options are checked and the files are read, so bad input is refused at once.
"""
