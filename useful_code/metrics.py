"""How good a reward model is, with an honest interval: accuracy, calibration, length. NumPy only.

Shapes: N values, B pairs, S responses. A margin is chosen reward minus rejected reward; `*_accuracy`: higher is
better, `*_error` and `brier_score`: lower is better. Intervals are (low, high) at 95 % unless told otherwise.
"""

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

Values = Sequence[float] | np.ndarray


def wilson_interval(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927). It stays in 0..1 and has a width even at 0 or all successes.

    For independent trials; pairs that share a prompt are not, use `bootstrap_interval` with `groups` there.
    No trials give (0, 1): nothing is known.

    >>> tuple(round(end, 4) for end in wilson_interval(8, 10))
    (0.4902, 0.9433)
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half_width = z * (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5 / (1 + z**2 / trials)
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def bootstrap_interval(
    values: Values,
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    groups: Sequence[Any] | np.ndarray | None = None,
    num_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic` over the rows of `values`.

    Args:
        values: (N,) or (N, ...); resampling redraws along the first axis.
        statistic: of the redrawn rows; None is the mean of an (N,) array, computed without a Python loop.
        groups: (N,) labels, such as prompts. Whole groups are redrawn, because pairs of one prompt are alike and
            redrawing them one by one would make the interval too narrow.

    Redrawn rows of which the statistic is nan, such as the F1 of rows of one kind, are left out. Returns (nan, nan) for
    no values.

    >>> low, high = bootstrap_interval([0, 1, 1, 1] * 25)
    >>> low < 0.75 < high
    True
    """
    values = np.asarray(values, dtype=np.float64)
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"{len(values)} values but {len(groups)} group labels")
    if statistic is None and values.ndim != 1:
        raise ValueError(f"the mean needs values of shape (N,), not {values.shape}")
    if len(values) == 0:
        return float("nan"), float("nan")
    if groups is None:
        group_of = np.arange(len(values))
    else:
        group_of = np.unique(np.asarray(groups), return_inverse=True)[1]  # (N,)
    num_groups = int(group_of.max()) + 1
    rng = np.random.default_rng(seed)
    if statistic is None:
        sums = np.bincount(group_of, weights=values)  # (num_groups,)
        sizes = np.bincount(group_of)  # (num_groups,)
        resampled = np.empty(num_resamples)
        for i in range(num_resamples):  # one row at a time: num_resamples x num_groups may not fit in memory
            drawn = rng.integers(0, num_groups, size=num_groups)
            resampled[i] = sums[drawn].sum() / sizes[drawn].sum()
    else:
        members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1])
        resampled = np.array(
            [
                statistic(values[np.concatenate([members[g] for g in rng.integers(0, num_groups, num_groups)])])
                for _ in range(num_resamples)
            ]
        )
    resampled = resampled[~np.isnan(resampled)]
    if not len(resampled):
        return float("nan"), float("nan")
    tail = 50 * (1 - confidence)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)


def paired_difference_interval(
    a: Values, b: Values, *, groups: Sequence[Any] | np.ndarray | None = None, **options: Any
) -> tuple[float, float, float]:
    """Mean of a - b and its bootstrap interval, both measured on the same N rows: (difference, low, high).

    `groups` and `options` as in `bootstrap_interval`. Pairing matters: two models that fail on the same rows differ
    with more certainty than their separate intervals suggest.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)  # (N,), (N,)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired values need one shape (N,), not {a.shape} and {b.shape}")
    difference = float(np.mean(a - b)) if len(a) else float("nan")
    return difference, *bootstrap_interval(a - b, groups=groups, **options)


def pair_outcomes(margins: Values, tie_credit: float = 0.0) -> np.ndarray:
    """1 where chosen is strictly above rejected, `tie_credit` where equal, else 0: (B,)."""
    margins = _finite(margins, "margins")
    return np.where(margins > 0, 1.0, np.where(margins == 0, tie_credit, 0.0))


def pair_accuracy(margins: Values, tie_credit: float = 0.0) -> float:
    """Share of pairs in the right order; nan for no pairs. `tie_credit` 0 makes a constant model score 0, not 0.5.

    >>> pair_accuracy([2.0, -1.0, 0.0, 0.5]), pair_accuracy([2.0, -1.0, 0.0, 0.5], tie_credit=0.5)
    (0.5, 0.625)
    """
    outcomes = pair_outcomes(margins, tie_credit)
    return float(outcomes.mean()) if len(outcomes) else float("nan")


def sigmoid(values: Values) -> np.ndarray:
    """1 / (1 + exp(-x)), exact in both tails and without overflow."""
    values = np.asarray(values, dtype=np.float64)
    decay = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, decay) / (1 + decay)


def preference_confidence(margins: Values) -> tuple[np.ndarray, np.ndarray]:
    """What calibration of a preference model is about: (confidence, correct), each (B,).

    Confidence is sigmoid(|margin|), from 0.5 to 1, in the side that the model prefers; correct says whether that side
    is the chosen one (0.5 at a tie). Raw sigmoid(margin) against "chosen is better" cannot be used: that outcome is
    1 in every row.
    """
    return sigmoid(np.abs(_finite(margins, "margins"))), pair_outcomes(margins, tie_credit=0.5)


def reliability_bins(
    probabilities: Values, outcomes: Values, num_bins: int = 10, lowest: float = 0.0
) -> dict[str, np.ndarray]:
    """Predicted against observed share in bins of equal width from `lowest` to 1; give 0.5 for confidences.

    Returns `edges` (num_bins + 1,), and per bin `counts`, `mean_probability` and `mean_outcome`, nan in empty bins.
    A probability on an edge belongs to the bin above it, 1.0 to the last.
    """
    probabilities, outcomes = _finite(probabilities, "probabilities"), _finite(outcomes, "outcomes")
    if probabilities.shape != outcomes.shape:
        raise ValueError(f"{probabilities.shape} probabilities but {outcomes.shape} outcomes")
    if len(probabilities) and not lowest <= probabilities.min() <= probabilities.max() <= 1:
        raise ValueError(f"probabilities must lie in {lowest}..1")
    edges = np.linspace(lowest, 1, num_bins + 1)
    bin_of = np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, num_bins - 1)  # (N,)
    counts = np.bincount(bin_of, minlength=num_bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        mean_probability = np.bincount(bin_of, weights=probabilities, minlength=num_bins) / counts
        mean_outcome = np.bincount(bin_of, weights=outcomes, minlength=num_bins) / counts
    return {"edges": edges, "counts": counts, "mean_probability": mean_probability, "mean_outcome": mean_outcome}


def expected_calibration_error(
    probabilities: Values, outcomes: Values, num_bins: int = 10, lowest: float = 0.0
) -> float:
    """Mean over rows of |observed - predicted| of the row's bin (Guo et al. 2017, Eq. 3); nan for no rows.

    Never quite 0 on finite data: with few rows per bin, noise alone gives some hundredths.

    >>> round(expected_calibration_error([0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0]), 6)  # (2 * 0.1 + 2 * 0.1) / 4
    0.1
    """
    bins = reliability_bins(probabilities, outcomes, num_bins, lowest)
    used = bins["counts"] > 0
    if not used.any():
        return float("nan")
    gaps = np.abs(bins["mean_outcome"][used] - bins["mean_probability"][used])
    return float(np.average(gaps, weights=bins["counts"][used]))


def brier_score(probabilities: Values, outcomes: Values) -> float:
    """Mean squared difference of probability and outcome; 0 is perfect, 0.25 what a constant 0.5 gets."""
    probabilities, outcomes = _finite(probabilities, "probabilities"), _finite(outcomes, "outcomes")
    if probabilities.shape != outcomes.shape:
        raise ValueError(f"{probabilities.shape} probabilities but {outcomes.shape} outcomes")
    return float(np.mean((probabilities - outcomes) ** 2)) if len(probabilities) else float("nan")


def fit_temperature(margins: Values, labels: Values | None = None) -> float:
    """The T that makes sigmoid(margin / T) fit held-out labels best in log-likelihood (Guo et al. 2017, 4.2).

    Args:
        margins: (B,) of held-out pairs, never of training pairs, where the model is overconfident.
        labels: (B,) probability that chosen is the better one; None means 1 throughout.

    T > 1: the model was too sure. The fit is convex in 1 / T: Newton steps, with bisection where one leaves the
    bracket. If every pair is ordered right, or the margins say nothing, the best T is 0 or infinite: then the end
    of the range is returned, 1e-6 or 1e6 times the mean size of a margin. No pairs, or margins all 0, give 1.
    """
    margins = _finite(margins, "margins")
    labels = np.ones_like(margins) if labels is None else _finite(labels, "labels")
    if margins.shape != labels.shape:
        raise ValueError(f"{margins.shape} margins but {labels.shape} labels")
    scale = float(np.abs(margins).mean()) if len(margins) else 0.0
    if scale == 0:
        return 1.0
    scaled = margins / scale

    def gradient_and_curvature(inverse: float) -> tuple[float, float]:
        wins, losses = sigmoid(inverse * scaled), sigmoid(-inverse * scaled)  # both exact in their tails
        gradient = np.mean(((1 - labels) * wins - labels * losses) * scaled)
        return float(gradient), float(np.mean(wins * losses * scaled**2))

    low, high, inverse = 1e-6, 1e6, 1.0  # of scale / T
    if gradient_and_curvature(high)[0] <= 0:
        return scale / high
    if gradient_and_curvature(low)[0] >= 0:
        return scale / low
    for _ in range(100):
        gradient, curvature = gradient_and_curvature(inverse)
        if abs(gradient) <= 1e-12 * curvature * inverse:
            break
        low, high = (inverse, high) if gradient < 0 else (low, inverse)
        newton = inverse - gradient / curvature if curvature > 0 else high
        inverse = newton if low < newton < high else (low * high) ** 0.5
    return scale / inverse


def pearson_correlation(x: Values, y: Values) -> float:
    """Linear correlation; nan where it is not defined (fewer than two values, or one side constant)."""
    x, y = _finite(x, "x"), _finite(y, "y")
    if x.shape != y.shape:
        raise ValueError(f"{x.shape} and {y.shape} values")
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    # Dividing by the largest deviation first keeps squares of huge or tiny rewards in range.
    deviations = [values - values.mean() for values in (x, y)]
    a, b = (values / np.abs(values).max() for values in deviations)
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def spearman_correlation(x: Values, y: Values) -> float:
    """Pearson correlation of the ranks, ties given their mean rank; nan where it is not defined."""
    return pearson_correlation(_mean_ranks(_finite(x, "x")), _mean_ranks(_finite(y, "y")))


def length_report(
    rewards: Values, lengths: Values, margins: Values, length_differences: Values, tie_credit: float = 0.0
) -> dict[str, Any]:
    """Does the model read, or measure length? METHODS 1.10.

    Args:
        rewards, lengths: of every response, (S,).
        margins: chosen minus rejected reward, (B,).
        length_differences: chosen minus rejected length, (B,), in the unit of `lengths`.

    Returns `pearson` and `spearman` of reward with length (None if undefined); per side (`chosen_longer`,
    `chosen_shorter`, `equal_length`) `pairs`, `accuracy` (None if empty) and Wilson `interval`; and
    `longer_wins_accuracy`, the floor: what "the longer answer is better" scores, an equal length counting 0.5.
    """
    margins = _finite(margins, "margins")
    length_differences = _finite(length_differences, "length_differences")
    if margins.shape != length_differences.shape:
        raise ValueError(f"{margins.shape} margins but {length_differences.shape} length differences")
    report: dict[str, Any] = {
        "pearson": _or_none(pearson_correlation(rewards, lengths)),
        "spearman": _or_none(spearman_correlation(rewards, lengths)),
        "longer_wins_accuracy": _or_none(pair_accuracy(length_differences, tie_credit=0.5)),
    }
    sides = np.sign(length_differences)  # (B,)
    for name, side in (("chosen_longer", 1), ("chosen_shorter", -1), ("equal_length", 0)):
        outcomes = pair_outcomes(margins[sides == side], tie_credit)
        report[name] = {
            "pairs": len(outcomes),
            "accuracy": float(outcomes.mean()) if len(outcomes) else None,
            "interval": list(wilson_interval(float(outcomes.sum()), len(outcomes))),
        }
    return report


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, index_of, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index_of]


def _or_none(value: float) -> float | None:
    """JSON has no nan."""
    return None if np.isnan(value) else value


def _finite(values: Values, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} need the shape (N,), not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contain a value that is not finite")
    return array
