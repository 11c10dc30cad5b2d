"""Shapes that recur: rows are padded to one of few sizes, so that data of about as many rows share compiled programs."""

from collections.abc import Sequence

FINE = 4_096  # from here on, the steps of the ladder are an eighth to a quarter; below, where rows cost little, they double
PARTS = 64  # the size of a part is rounded up to a power of two of no more than this share of all rows


def rung(number: int) -> int:
    """The size to which so many rows are padded.

    Example:
      >>> from mi_jax.estimation.ladder import rung
      >>> [rung(number) for number in (50, 200, 1_000, 5_000, 10_000, 100_000)]
      [64, 256, 1024, 5120, 10240, 114688]
    """
    double = 1 << max(0, number - 1).bit_length()
    if double <= FINE:
        return double
    eighth = double // 8
    return -(-number // eighth) * eighth


def rung_of_part(sizes: Sequence[int], number: int) -> int:
    """The size to which the parts of folds are padded: the largest of them, scaled as all rows are to their rung.

    Args:
      sizes: of the part in each fold.
      number: of all rows.
    """
    whole, largest = rung(number), max(sizes)
    step = power_below(max(1, whole // PARTS))
    # Shares are rounded to whole rows, which must not lead to the next step.
    return -(-max(largest, largest * whole // number - 2) // step) * step


def power_below(number: int) -> int:
    """The largest power of two that is no more than a positive number."""
    return 1 << (number.bit_length() - 1)
