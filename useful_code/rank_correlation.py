"""Kendall's rank correlation, fast enough for every response of a held-out set. NumPy only.

Pearson and Spearman, which need no loop, are in `metrics.py`.
"""

from bisect import bisect_right, insort

import numpy as np

from useful_code.metrics import Values


def kendall_correlation(x: Values, y: Values) -> float:
    """Kendall's tau-b; nan where it is not defined (fewer than two values, or one side constant).

    Of all N (N - 1) / 2 pairs of points, those in the same order in x and y less those in the opposite order, divided
    by the geometric mean of the pairs that are not tied in x and of those not tied in y (Kendall 1945).

    >>> kendall_correlation([1, 2, 3], [1, 3, 2])  # (2 - 1) / 3
    0.3333333333333333
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"a correlation needs one shape (N,), not {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a value is not finite")
    pairs = len(x) * (len(x) - 1) // 2
    tied_x, tied_y = _tied_pairs(x), _tied_pairs(y)
    if pairs in (tied_x, tied_y):  # 0 of no pairs, too
        return float("nan")
    tied_in_both = _tied_pairs(np.stack((x, y), axis=-1))
    discordant = 0
    seen: list[float] = []
    for value in y[np.lexsort((y, x))].tolist():  # by x; of equal x by y, so that their pairs count for neither side
        discordant += len(seen) - bisect_right(seen, value)
        insort(seen, value)
    concordant = pairs - tied_x - tied_y + tied_in_both - discordant
    return (concordant - discordant) / (float(pairs - tied_x) * float(pairs - tied_y)) ** 0.5


def _tied_pairs(values: np.ndarray) -> int:
    """Pairs of equal rows."""
    counts = np.unique(values, axis=0, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())
