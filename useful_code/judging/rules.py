"""From the verdicts of several orders to one. Everything is said of y1 against y2, wherever they stood.

    conservative   y1 wins if both orders say y1, y2 if both say y2; everything else is a tie
    average        the mean of both orders, from probabilities or from {1, 1/2, 0}
    odin           a win is at least one win and no loss (ODIN, arXiv 2402.07319)

Outcomes are 1 (y1 is better), 0 (a tie), -1 (y2 is better). Margins lie in -1..1: P(y1 better) - P(y2 better).
"""

from collections.abc import Sequence

RULES = ("conservative", "average", "odin")
RATING_TIE = 0.1  # ratings that differ by no more are equal


def decide(rule: str, outcomes: Sequence[int], margins: Sequence[float]) -> int:
    """The outcome of a pair from those of its orders.

    >>> [decide("conservative", pair, pair) for pair in ((1, 1), (1, 0), (1, -1), (-1, -1))]
    [1, 0, 0, -1]
    >>> [decide("odin", pair, pair) for pair in ((1, 1), (1, 0), (1, -1), (0, -1))]
    [1, 1, 0, -1]
    >>> decide("average", (1, -1), (0.5, -0.25))
    1
    """
    if rule == "conservative":
        return outcomes[0] if len(set(outcomes)) == 1 else 0
    if rule == "odin":
        return sign(max(outcomes) + min(outcomes)) if min(outcomes) * max(outcomes) >= 0 else 0
    if rule == "average":
        return sign(mean_margin(margins))
    raise ValueError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")


def mean_margin(margins: Sequence[float]) -> float:
    """The mean over the orders. Changing y1 and y2 turns its sign and changes nothing else, to the last bit."""
    return sum(margins) / len(margins)


def probability(margin: float) -> float:
    """P(y1 better), a tie counting one half.

    >>> probability(0.5)
    0.75
    """
    return 0.5 + margin / 2


def sign(number: float) -> int:
    """1, 0 or -1."""
    return (number > 0) - (number < 0)


def best_of(scores: Sequence[float], tolerance: float = 0.0) -> list[int]:
    """Places of the highest score and of all that are no more than `tolerance` below it.

    >>> best_of([7.0, 6.9, 3.0], RATING_TIE)
    [0, 1]
    """
    highest = max(scores)
    return [i for i, score in enumerate(scores) if highest - score <= tolerance + 1e-9]
