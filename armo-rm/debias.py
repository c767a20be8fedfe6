"""Taking verbosity out of the other ratings. arXiv 2406.12845, section 2.2.

    r'_k = r_k - lambda_k r_v;  lambda_k: the smallest of the grid with Spearman(r'_k, r_v) <= threshold

over the answers of a reference set. As a matrix: rewards' = rewards T, T = I with row v less the penalties and T[v, v]
= 0, for the rating of verbosity itself is left out.

Shapes: N answers, K objectives.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from useful_code.metrics import spearman_correlation

THRESHOLD = 0.03
GRID = (0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, *(step / 100 for step in range(30, 100, 5)))


class Penalty(NamedTuple):
    """Of one objective. Correlations are Spearman's; None where they are not defined."""

    size: float
    before: float | None  # correlation of r_k
    after: float | None  # correlation of r'_k
    is_found: bool  # False: no size of the grid is enough; the one that leaves least is taken


def penalties(
    rewards: np.ndarray,  # (N, K)
    verbosity: int,
    threshold: float = THRESHOLD,
    grid: Sequence[float] = GRID,
    target: np.ndarray | None = None,
) -> list[Penalty]:
    """The penalty of every objective, that of verbosity itself being 1.

    Correlations are with the predicted verbosity, as in the paper, or with `target` (N,), such as lengths in tokens.
    An objective whose prediction is constant gets 0.
    """
    rewards = rewards.astype(np.float64)
    of_verbosity = rewards[:, verbosity]
    target = of_verbosity if target is None else target
    found = []
    for k in range(rewards.shape[1]):
        before = _spearman(rewards[:, k], target)
        if k == verbosity:
            found.append(Penalty(1.0, before, None, True))
            continue
        if before is None:
            found.append(Penalty(0.0, None, None, False))
            continue
        tried = []
        for size in sorted(grid):
            after = _spearman(rewards[:, k] - size * of_verbosity, target)
            if after is not None and after <= threshold:
                found.append(Penalty(size, before, after, True))
                break
            tried.append((np.inf if after is None else after, size))
        else:
            least, size = min(tried)
            found.append(Penalty(size, before, float(least), False))
    return found


def transform_matrix(sizes: Sequence[float], verbosity: int) -> np.ndarray:
    """T (K, K) in float32; `sizes` (K,) with 1 for verbosity.

    >>> transform_matrix([0.2, 0.1, 1.0], verbosity=2).round(2).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.20000000298023224, -0.10000000149011612, 0.0]]
    """
    matrix = np.eye(len(sizes), dtype=np.float32)
    matrix[verbosity] -= np.asarray(sizes, dtype=np.float32)
    return matrix


def _spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    value = spearman_correlation(x, y)
    return None if np.isnan(value) else value
