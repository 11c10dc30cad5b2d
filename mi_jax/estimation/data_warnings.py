"""Warnings about the data: columns left out, precision lost, and relations without noise; and those about rows."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mi_jax.estimation.columns import Columns, Transform
from mi_jax.estimation.row_warnings import Rows, count_distinct, warn_of_order, warn_of_repeats

FAR = 0.01  # of the standard deviation: the median distance from the median, which is 0.67 of it for a normal variable
LINEAR = 1e-3
DETERMINISTIC = 0.02
# Fewest rows: at all, and for a function of 1 or of 2 columns. With fewer, noise cannot be told from a function.
FEWEST_ROWS = (50, 200, 1_000)
MOST_ROWS, MOST_COLUMNS = 10_000, 400  # with more, looking for a relation takes longer than a second


def warn_of_data(
    columns: tuple[Columns, Columns], rows: Rows, raw: Rows, transform: Transform, *, independent: bool = True
) -> dict[str, str]:
    """All warnings that the data alone give.

    Args:
      columns: those of x and of y.
      rows: the rows of x and of y after the transform.
      raw: the same before it, with all columns.
      transform: what was done.
      independent: whether rows are taken for independent of one another, and not for groups or blocks.
    """
    warnings = warn_of_columns(*columns)
    if transform not in ("ranks", "components"):  # ranks keep values apart
        for side in zip(columns, rows, raw, strict=True):
            warnings |= warn_of_transform(*side)
    warnings |= warn_of_repeats(*raw) | (warn_of_order(rows, raw) if independent else {})
    return warnings | warn_of_relation(*rows, raw)


def warn_of_columns(x: Columns, y: Columns) -> dict[str, str]:
    """Warnings about columns that were left out."""
    warnings = {}
    for columns in (x, y):
        for what, places in (("constant", columns.constant), ("duplicated", columns.duplicated)):
            if places.size:
                number = f"{places.size} {what} column{'' if places.size == 1 else 's'}"
                lacking = "" if what == "constant" else " that the others lack"
                warnings[f"{what}_columns_{columns.name}"] = (
                    f"{columns.name} has {number} without information{lacking}, left out ({_some(places)})"
                )
    return warnings


def warn_of_transform(columns: Columns, rows: Float[np.ndarray, "n d"], raw: Float[np.ndarray, "n c"]) -> dict[str, str]:
    """Warnings of what "standardize" and "none" made of columns that float32, or a network, cannot tell apart any more.

    Args:
      columns: of one side.
      rows: (n, d) its transformed rows.
      raw: (n, c) the same before the transform, with all columns.
    """
    merged, far = [], []
    for place, column in zip(columns.kept, rows.T, strict=True):
        values = np.unique(raw[:, place]).size
        if np.unique(column).size < values / 2:
            merged.append(place)
        elif values > len(rows) / 2 and _spread(column) < FAR * np.std(column, dtype=float):
            far.append(place)
    warnings, name = {}, columns.name
    if merged:
        warnings[f"resolution_{name}"] = (
            f"{name} has columns whose values differ by less than float32 tells apart ({_some(merged)}): what they tell is "
            'lost; subtract their offset, or take transform="ranks"'
        )
    if far:
        warnings[f"scale_{name}"] = (
            f"{name} has columns with values so far out ({_some(far)}) that the others stand within {FAR:.0%} of their "
            'standard deviation, and a network can hardly tell them apart; take transform="ranks"'
        )
    return warnings


def _some(places: Sequence[int] | np.ndarray) -> str:
    return ", ".join(map(str, places[:5])) + (", …" if len(places) > 5 else "")


def warn_of_relation(x: Float[np.ndarray, "n dx"], y: Float[np.ndarray, "n dy"], raw: Rows | None = None) -> dict[str, str]:
    """A warning of transformed rows whose relation has no noise.

    Args:
      x: (n, dx) transformed rows.
      y: (n, dy) their partners.
      raw: the same before the transform. A linear relation of several columns is linear only there, and a relation that is
        smooth there may be rough between ranks.
    """
    warnings, raw = {}, raw or (x, y)
    left, right = (count_distinct(rows).size for rows in (x, y))
    # Rows are taken in random order, since the first of sorted rows would not be like the others.
    order = np.random.default_rng(0).permutation(len(x))[:MOST_ROWS]
    if min(left, right) > len(x) / 2 and _without_noise((x[order], y[order]), (raw[0][order], raw[1][order])):
        warnings["deterministic"] = (
            "x and y look like a relation without noise: the mutual information of such continuous variables is infinite, "
            "and the estimate only shows the resolution of the data"
        )
    return warnings


def _without_noise(ranked: Rows, raw: Rows) -> bool:
    """Whether continuous rows, in random order, look like a relation without noise."""
    if len(ranked[0]) < FEWEST_ROWS[0]:
        return False
    return _linearly_determined(*raw) or _linearly_determined(*ranked) or _determined(ranked, raw)


def _linearly_determined(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether some combination of x is one of y, to 1e-3 of its scale."""
    if not 2 * (x.shape[1] + y.shape[1]) < len(x) or x.shape[1] + y.shape[1] > MOST_COLUMNS:
        return False
    left, right = (_whitened(rows) for rows in (x, y))
    axes_x, correlations, axes_y = np.linalg.svd(left.T @ right)
    a, b = left @ axes_x[:, 0], right @ axes_y[0]
    # With heavy tails a few rows alone can make the correlation; then the other rows stand apart.
    return bool(correlations[0] ** 2 > 1 - LINEAR**2 and _spread(a - b) < LINEAR * _spread(a) and _continuous(a))


def _continuous(values: np.ndarray) -> bool:
    """Whether most values occur once. Labels may determine one another, but their information is finite."""
    return len(np.unique(np.round(values / max(_spread(values), np.finfo(float).tiny), 6))) > len(values) / 2


def _spread(values: np.ndarray) -> float:
    return float(np.median(np.abs(values - np.median(values))))


def _whitened(rows: np.ndarray) -> np.ndarray:
    """Centred orthonormal columns that span those of the rows."""
    rows = rows / np.maximum(np.abs(rows).max(axis=0), np.finfo(float).tiny)
    rows = rows - rows.mean(axis=0, dtype=float)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=0), np.finfo(float).tiny)
    squares, axes = np.linalg.eigh(rows.T @ rows)
    kept = squares > 1e-9 * squares[-1]
    return rows @ (axes[:, kept] / np.sqrt(squares[kept]))


def _determined(ranked: Rows, raw: Rows) -> bool:
    """Whether a column of one is a smooth function of the other, without noise.

    The distance of a column from a plane through its neighbours falls as the number of rows grows; noise keeps it up.
    """
    count = len(raw[0])
    ranked, raw = ((_scaled(rows[0]), _scaled(rows[1])) for rows in (ranked, raw))
    for given, of in ((0, 1), (1, 0)):
        dim = raw[given].shape[1]
        if dim > 2 or count < FEWEST_ROWS[dim]:
            continue
        whole, quarter = (_roughness(raw[given][:part], raw[of][:part]) for part in (count, count // 4))
        # For a smooth function it goes as the squared distance of neighbours, so four times the rows take it to 4^(-2/d).
        smooth = (whole < DETERMINISTIC) & (whole < 2 * 4.0 ** (-2 / dim) * quarter)
        # Raw values that are mostly tiny lie close together without being determined; their ranks do not.
        if smooth.any():
            smooth &= _roughness(ranked[given], ranked[of]) < 5 * DETERMINISTIC
            if any(_continuous(column) for column in raw[of].T[smooth]):
                return True
    return False


def _scaled(rows: np.ndarray) -> np.ndarray:
    """Columns in units of the median distance of two rows, without tails whose squares could overflow."""
    rows = rows / np.maximum(np.abs(rows).max(axis=0), np.finfo(float).tiny)
    unit = np.median(np.abs(rows - np.roll(rows, 1, axis=0)), axis=0)
    return np.clip(rows / np.where(unit > 1e-300, unit, 1.0), -1e9, 1e9)


def _roughness(given: Float[np.ndarray, "n d"], rows: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    """The median distance of each column from a plane through its neighbours."""
    from scipy import spatial

    near = spatial.cKDTree(given).query(given, k=2 * given.shape[1] + 2)[1][:, 1:]
    apart, values = given[near] - given[:, None], rows[near] - rows[:, None]
    design = np.concatenate([np.ones((*near.shape, 1)), apart], axis=2)
    return np.median(np.abs((np.linalg.pinv(design) @ values)[:, 0]), axis=0)
