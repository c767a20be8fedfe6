"""Step labels from rollouts: what completions say of a step (METHODS 7.2), and how few of them are enough.

    soft          y_t = share of the completions from steps 1..t that reach the right answer       (Math-Shepherd)
    hard          y_t = 1 if any of them does, else 0                                              (Math-Shepherd)
    first_error   binary search for the first step from which none does; 1 before it, 0 from it on (OmegaPRM)

The last step needs no completion: its label is whether the solution's own answer is right. A solution whose answer is
right has, for the search, no first error: it is itself a completion of every prefix. Where every completion of a prefix
failed, the label is not known (None).

Shapes: K steps of a solution; a prefix t holds the steps 1..t, 1 <= t < K.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

KINDS = ("hard", "soft", "first_error")


class Tally(NamedTuple):
    """Of the completions of one prefix."""

    right: int
    total: int  # failed requests are no completions


class Prefix(NamedTuple):
    solution: int  # its place in the call
    num_steps: int  # t


class Labelled(NamedTuple):
    labels: list[bool | float | None]  # (K,)
    rollouts: list[Tally | None]  # (K,); None where nothing was sampled


# All prefixes of one round at a time, so that a generator can fill its batches.
Count = Callable[[Sequence[Prefix]], Sequence[Tally]]


def rollout_labels(num_steps: Sequence[int], outcomes: Sequence[bool], count: Count, kind: str) -> list[Labelled]:
    """Labels of solutions with so many steps each and a right or wrong answer; `count` samples completions.

    >>> def count(prefixes):  # completions are right up to the second step
    ...     return [Tally(4 if prefix.num_steps <= 2 else 0, 4) for prefix in prefixes]
    >>> rollout_labels([4], [False], count, "soft")[0].labels
    [1.0, 1.0, 0.0, 0.0]
    >>> rollout_labels([4], [False], count, "first_error")[0].rollouts
    [None, Tally(right=4, total=4), Tally(right=0, total=4), None]
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, not one of {', '.join(KINDS)}")
    find = _search if kind == "first_error" else _count_all
    found = find(num_steps, outcomes, count)
    if kind == "first_error":
        labels = [_around(place, steps) for place, steps in zip(found.bounds, num_steps, strict=True)]
    else:
        labels = [
            [*(label_of(tally, kind) for tally in tallies[:-1]), _of_outcome(outcome, kind)]
            for tallies, outcome in zip(found.tallies, outcomes, strict=True)
        ]
    return [Labelled(*both) for both in zip(labels, found.tallies, strict=True)]


def label_of(tally: Tally | None, kind: str) -> bool | float | None:
    """The soft or hard label of a prefix.

    >>> label_of(Tally(1, 4), "soft"), label_of(Tally(1, 4), "hard"), label_of(Tally(0, 0), "hard")
    (0.25, True, None)
    """
    if tally is None or not tally.total:
        return None
    return tally.right / tally.total if kind == "soft" else tally.right > 0


def most_prefixes(num_steps: int, kind: str) -> int:
    """How many prefixes of a solution are sampled from, at most.

    >>> most_prefixes(9, "hard"), most_prefixes(9, "first_error"), most_prefixes(1, "first_error")
    (8, 4, 0)
    """
    return (num_steps - 1).bit_length() if kind == "first_error" else num_steps - 1


def _of_outcome(outcome: bool, kind: str) -> bool | float:
    return float(outcome) if kind == "soft" else outcome


class _Found(NamedTuple):
    tallies: list[list[Tally | None]]
    bounds: list[tuple[int, int]]  # the last step known to be good, the first known to be bad (K: no step is)


def _count_all(num_steps: Sequence[int], outcomes: Sequence[bool], count: Count) -> _Found:
    prefixes = [Prefix(i, t) for i, steps in enumerate(num_steps) for t in range(1, steps)]
    tallies: list[list[Tally | None]] = [[None] * steps for steps in num_steps]
    for prefix, tally in zip(prefixes, count(prefixes) if prefixes else [], strict=True):
        tallies[prefix.solution][prefix.num_steps - 1] = tally
    return _Found(tallies, [])


def _search(num_steps: Sequence[int], outcomes: Sequence[bool], count: Count) -> _Found:
    """The searches of all solutions side by side, one prefix of each per round."""
    tallies: list[list[Tally | None]] = [[None] * steps for steps in num_steps]
    # Nothing is wrong before the first step; a wrong answer makes the last step bad.
    bounds = [(steps, steps) if outcome else (0, steps) for steps, outcome in zip(num_steps, outcomes, strict=True)]
    open_searches = [i for i, (good, bad) in enumerate(bounds) if bad - good > 1]
    while open_searches:
        prefixes = [Prefix(i, sum(bounds[i]) // 2) for i in open_searches]
        for prefix, tally in zip(prefixes, count(prefixes), strict=True):
            i, step = prefix
            tallies[i][step - 1] = tally
            if tally.total:
                bounds[i] = (step, bounds[i][1]) if tally.right else (bounds[i][0], step)
            else:
                open_searches.remove(i)  # whatever lies between stays unknown
        open_searches = [i for i in open_searches if bounds[i][1] - bounds[i][0] > 1]
    return _Found(tallies, bounds)


def _around(bounds: tuple[int, int], num_steps: int) -> list[bool | float | None]:
    good, bad = bounds
    if good == bad:  # a right answer
        return [True] * num_steps
    return [True] * good + [None] * (bad - good - 1) + [False] * (num_steps - bad + 1)
