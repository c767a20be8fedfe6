"""From step scores to a choice among N solutions: aggregates, best-of-N, pass@k, votes (METHODS 7.6). NumPy only.

What is wanted is the accuracy when N solutions are drawn, from M >= N that were. One draw of N would be noisy, so each
number here is a mean over all subsets of size N: in closed form for best-of-N and pass@k, by counting for votes while
there are few subsets, else over random ones.

Equal scores are no order. A tie counts as the mean over the tied; "the first one" would reward how the file is sorted.

Shapes: M candidates of one problem, D subsets, C classes of equal answers.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from math import comb, prod

import numpy as np

from useful_code.user_errors import UserError

AGGREGATIONS = ("min", "product", "mean", "last")
NO_ANSWER = -1  # the class of solutions without an answer

Values = Sequence[float] | np.ndarray


def aggregate(step_scores: Sequence[float], how: str) -> float:
    """One score in [0, 1] for a solution, of the probabilities that its steps are right (METHODS 7.6).

    min: Math-Shepherd (arXiv 2312.08935); product: "Let's Verify Step by Step" (arXiv 2305.20050);
    mean: RLHFlow; last: what an outcome reward model says. The product is taken of the numbers themselves and not as
    exp of a sum of logs: it has the same range, is exact for one step, and never above the minimum.

    Raises UserError for no steps, for a score outside [0, 1], and for another `how`.

    >>> steps = [0.9, 0.8, 0.4, 0.7]
    >>> [round(aggregate(steps, how), 4) for how in AGGREGATIONS]
    [0.4, 0.2016, 0.7, 0.7]
    """
    if how not in AGGREGATIONS:
        raise UserError(f"no aggregate is named {how!r}; there are {', '.join(AGGREGATIONS)}")
    if not len(step_scores):
        raise UserError("a solution without steps has no step scores to aggregate")
    scores = [float(score) for score in step_scores]
    wrong = [score for score in scores if not 0 <= score <= 1]  # NaN too
    if wrong:
        raise UserError(f"a step score is {wrong[0]:g}, which is no probability; put raw scores through a sigmoid")
    if how == "min":
        return min(scores)
    if how == "product":
        return prod(scores)
    if how == "mean":
        # The rounding of a sum may lead past the ends: 3 x 0.1 / 3 is above 0.1.
        return min(max(sum(scores) / len(scores), min(scores)), max(scores))
    return scores[-1]


def best_of_n_accuracy(scores: Values, correct: Values, n: int) -> float:
    """Accuracy of the best-scored of n candidates, the mean over all subsets of size n of the M that are given.

    METHODS 7.6, extended to ties. Candidates with equal scores are a group, of g with a share `r` right, above b lower
    ones. The best of a subset lies in the group when the subset takes none from above it and one or more from it:

        accuracy@n = sum over groups of  r * (C(b + g, n) - C(b, n)) / C(M, n)

    With g = 1 everywhere this is the known sum of correct_(i) C(i, n-1) / C(M, n) over the sorted candidates.

    Args:
        scores: (M,), any finite numbers.
        correct: (M,), 0 or 1, or a share between them.

    Raises UserError for n outside 1..M and for NaN.

    >>> [round(best_of_n_accuracy([0.2, 0.9, 0.5, 0.7], [1, 0, 1, 1], n), 4) for n in (1, 2, 3, 4)]
    [0.75, 0.5, 0.25, 0.0]
    >>> best_of_n_accuracy([0.5, 0.5], [1, 0], 2)
    0.5
    """
    correct = np.asarray(correct, dtype=np.float64)  # (M,)
    check_n(n, len(correct))
    if len(scores) != len(correct):
        raise UserError(f"{len(scores)} scores for {len(correct)} candidates")
    order, shares = sort_with_ties(scores, correct)
    return float(shares @ best_weights(len(order), n))


def sort_with_ties(scores: Values, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ascending order of `scores` (M,), and of each in that order how right its group of equal scores is (M,)."""
    scores = np.asarray(scores, dtype=np.float64)
    if np.isnan(scores).any():
        raise UserError("a candidate's score is NaN: nothing can be chosen by it")
    order = np.argsort(scores, kind="stable")
    group = np.cumsum(np.diff(scores[order], prepend=scores[order[:1]]) != 0)  # (M,)
    shares = np.bincount(group, weights=correct[order]) / np.bincount(group)
    return order, shares[group]


@lru_cache(maxsize=1024)
def best_weights(num_all: int, n: int) -> np.ndarray:
    """P(the best of n of M is the i-th from below) = C(i, n-1) / C(M, n): (M,). Within a tie these only add up."""
    weights = np.array([comb(i, n - 1) / comb(num_all, n) for i in range(num_all)])  # integers of any size divide
    weights.flags.writeable = False  # the cache hands out the same array again
    return weights


def pass_at_k(num_right: int, num_all: int, k: int) -> float:
    """P(one or more of k of the M solutions are right) = 1 - C(M - c, k) / C(M, k) (arXiv 2107.03374, Eq. 1).

    This is what a perfect choice among k reaches. Raises UserError for k outside 1..M.

    >>> round(pass_at_k(2, 4, 2), 8)
    0.83333333
    """
    check_n(k, num_all)
    if not 0 <= num_right <= num_all:
        raise UserError(f"{num_right} right of {num_all}")
    all_sets = comb(num_all, k)
    return (all_sets - comb(num_all - num_right, k)) / all_sets


def vote_accuracy(
    classes: Sequence[int] | np.ndarray, correct: Values, weights: Values, n: int, draws: int, rng: np.random.Generator
) -> float:
    """Accuracy of the answer with the most votes among n candidates; each votes for its answer with its weight.

    Exact, over all subsets of size n, for n = 1, for n = M and where there are not more than `draws` of them; else
    the mean over `draws` random subsets. Weights all 1: majority, "self-consistency" (arXiv 2203.11171); weights from
    a reward model: weighted majority (METHODS 7.6).

    Args:
        classes: (M,), equal numbers for equal answers; -1, no answer, never wins: all -1 gives 0.
        correct: (M,), 0 or 1. An answer is as right as its voters in the subset are on average.
        weights: (M,), finite and not negative.

    Raises UserError for n outside 1..M, unequal lengths, and a weight that is negative or not finite.

    >>> answers, right, scores = [3, 5, 5, 7], [1, 0, 0, 0], [0.9, 0.35, 0.4, 0.2]
    >>> rng = np.random.default_rng(0)
    >>> vote_accuracy(answers, right, [1, 1, 1, 1], 4, 64, rng), vote_accuracy(answers, right, scores, 4, 64, rng)
    (0.0, 1.0)
    """
    check_n(n, len(classes))
    subsets = draw_subsets(len(classes), n, draws, rng)
    return float(votes_of_subsets(np.asarray(classes), np.asarray(correct, dtype=np.float64), weights, subsets).mean())


def draw_subsets(num_all: int, n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Which candidates each subset of size n takes, (D, M) of bools: all subsets if they are few, else `draws`."""
    if n == 1 or comb(num_all, n) <= draws:
        members = np.array(list(combinations(range(num_all), n)))  # (D, n)
    else:
        members = np.argpartition(rng.random((draws, num_all)), n - 1, axis=1)[:, :n]  # (D, n)
    taken = np.zeros((len(members), num_all), dtype=bool)
    np.put_along_axis(taken, members, True, axis=1)
    return taken


def votes_of_subsets(classes: np.ndarray, correct: np.ndarray, weights: Values, subsets: np.ndarray) -> np.ndarray:
    """How right the winner of each subset is, (D,); arguments as in `vote_accuracy`, subsets (D, M) of bools."""
    weights = np.asarray(weights, dtype=np.float64)  # (M,)
    if not len(classes) == len(correct) == len(weights):
        raise UserError(f"{len(classes)} classes, {len(correct)} labels and {len(weights)} weights do not go together")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise UserError("a vote counts from 0 up; put raw scores through a sigmoid")
    # Summed from the lightest on, so that answers whose voters weigh the same tie to the last bit.
    by_weight = np.argsort(weights, kind="stable")
    answered = by_weight[classes[by_weight] != NO_ANSWER]
    rows, places = np.nonzero(subsets[:, answered])
    members = answered[places]  # who votes, subset after subset
    names, answer_of = np.unique(classes, return_inverse=True)
    num_classes = len(names)
    cells = rows * num_classes + answer_of[members]
    shape, size = (len(subsets), num_classes), len(subsets) * num_classes

    counts = np.bincount(cells, minlength=size).reshape(shape)  # (D, C)
    rights = np.bincount(cells, weights=correct[members], minlength=size).reshape(shape)
    totals = np.bincount(cells, weights=weights[members], minlength=size).reshape(shape)
    totals = np.where(counts > 0, totals, -1.0)  # below an answer whose votes weigh nothing
    winners = (totals == totals.max(axis=1, keepdims=True)) & (counts > 0)
    shares = np.divide(rights, counts, out=np.zeros(shape), where=counts > 0)
    return (winners * shares).sum(axis=1) / np.maximum(1, winners.sum(axis=1))


def check_n(n: int, num_all: int) -> None:
    """Raise UserError unless n of the M candidates can be drawn."""
    if not 1 <= n <= num_all:
        raise UserError(f"{n} of {num_all} candidates cannot be drawn")
