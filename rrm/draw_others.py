"""Two other examples j(i) and k(i) for every example i, so that none of the fourteen comparisons is false or empty.

j and k are permutations: every example is j once and k once, so every answer wins and loses equally often off its own
prompt, and no length or style pays. For every i:

- the prompts of i, j(i) and k(i) are different, else an "off-topic" answer would be on topic (METHODS 4.8);
- so are the six answers, else a comparison would set a text against itself.

Random permutations break these rules in a few places. Each such place changes its j or k with another example, the
best of `CANDIDATES` that are drawn, as long as that helps. Where it does not, the examples are laid in a circle, those
that share a prompt or an answer side by side, and j and k lie a fixed distance ahead.
"""

from typing import NamedTuple

import numpy as np

from useful_code.user_errors import UserError

CANDIDATES = 64  # for every change
LOCAL_PASSES = 3  # that look for a partner in the same bucket only
MAX_PASSES = 100
PATIENCE = 10  # passes without a gain before giving up


class Examples(NamedTuple):
    """What the drawing looks at, (n,) of uint64 each: hashes, equal for equal texts."""

    prompts: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    buckets: np.ndarray  # j and k come from the bucket of i where they can


class TooAlike(UserError):
    """No j and k were found; `example` is one of those that are in the way."""

    def __init__(self, text: str, example: int):
        super().__init__(text)
        self.example = example


def draw_others(examples: Examples, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The permutations j and k, (n,) of int64 each. Raises `TooAlike` where there are none or none were found.

    They are found where no prompt and no chain of rows with equal answers covers more than a third of the examples.

    >>> ids = np.arange(12, dtype=np.uint64)
    >>> j, k = draw_others(Examples(ids // 3, ids, ids + 50, 0 * ids), seed=0)
    >>> bool(np.any(conflicts(Examples(ids // 3, ids, ids + 50, 0 * ids), np.arange(12), j, k)))
    False
    """
    _check_largest_groups(examples)
    n = len(examples.prompts)
    rng = np.random.default_rng([seed, n])
    drawn = np.stack([np.arange(n), _shuffled(examples.buckets, rng), _shuffled(examples.buckets, rng)])  # (3, n)
    if not _repair(examples, drawn, rng):
        drawn = _shifted(examples, rng)
        if not _repair(examples, drawn, rng):
            worst = int(np.argmax(conflicts(examples, *drawn)))
            raise TooAlike(
                "too many examples share prompts or answers: no j and k were found whose prompts and answers all "
                "differ. Leave out rows with common answers, add others, or try another --seed",
                worst,
            )
    return drawn[1], drawn[2]


def conflicts(examples: Examples, i: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
    """How many of the three pairs (i, j), (i, k), (j, k) share a prompt or an answer; the shape is that of i."""
    count = np.zeros(np.broadcast_shapes(np.shape(i), np.shape(j), np.shape(k)), np.int8)
    prompts, answers = examples.prompts, (examples.chosen, examples.rejected)
    for one, other in ((i, j), (i, k), (j, k)):
        alike = prompts[one] == prompts[other]
        for answer in answers:
            for other_answer in answers:
                alike = alike | (answer[one] == other_answer[other])
        count += alike
    return count


def _check_largest_groups(examples: Examples) -> None:
    """A group of which no two may meet fills three places (i, j and k) per member, one in each of n triples."""
    n = len(examples.prompts)
    answers = np.concatenate([examples.chosen, examples.rejected])
    for what, values in (("prompt", examples.prompts), ("answer", answers)):
        _, first, sizes = np.unique(values, return_index=True, return_counts=True)
        largest = int(np.argmax(sizes))
        if 3 * sizes[largest] > n:
            raise TooAlike(
                f"{sizes[largest]:,} of {n:,} examples have the same {what}; at most a third may, because each is "
                "compared with answers to two other prompts. Keep fewer of them or add others",
                int(first[largest]) % n,
            )


def _shuffled(buckets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random permutation (n,) that leaves every place in its bucket."""
    permutation = np.empty(len(buckets), np.int64)
    permutation[np.argsort(buckets, kind="stable")] = np.lexsort((rng.random(len(buckets)), buckets))
    return permutation


def _repair(examples: Examples, drawn: np.ndarray, rng: np.random.Generator) -> bool:
    """Exchange entries of j, or of k, of `drawn` (3, n: i, j, k) until no triple has a conflict; False: it does not
    come to an end."""
    n = drawn.shape[1]
    in_order = np.argsort(examples.buckets, kind="stable")
    starts = np.searchsorted(examples.buckets[in_order], examples.buckets, "left")
    ends = np.searchsorted(examples.buckets[in_order], examples.buckets, "right")
    fewest, since = None, 0
    for number in range(MAX_PASSES):
        count = conflicts(examples, *drawn)
        bad = np.flatnonzero(count)
        if not len(bad):
            return True
        total = int(count.sum())
        fewest, since = (total, 0) if fewest is None or total < fewest else (fewest, since + 1)
        if since > PATIENCE:
            break
        for place in rng.permutation(bad):
            if number < LOCAL_PASSES:
                partners = in_order[rng.integers(starts[place], ends[place], CANDIDATES)]
            else:
                partners = rng.integers(0, n, CANDIDATES) if n > CANDIDATES else rng.permutation(n)
            _exchange(examples, drawn, int(place), partners)
    return not np.any(conflicts(examples, *drawn))


def _exchange(examples: Examples, drawn: np.ndarray, place: int, partners: np.ndarray) -> None:
    """Give `place` the j or the k of the partner with which most conflicts end, unless some would be added."""
    i, j, k = drawn[:, place]
    before = conflicts(examples, i, j, k) + conflicts(examples, *drawn[:, partners])  # (partners,)
    best, change = None, 1
    for row in (1, 2):
        here, there = [i, j, k], list(drawn[:, partners])
        here[row], there[row] = there[row], here[row]
        gain = conflicts(examples, *here) + conflicts(examples, *there) - before
        gain[partners == place] = 1
        least = int(np.argmin(gain))
        if gain[least] < change:
            best, change = (row, partners[least]), gain[least]
    if best is not None:
        row, partner = best
        drawn[row, [place, partner]] = drawn[row, [partner, place]]


def _shifted(examples: Examples, rng: np.random.Generator) -> np.ndarray:
    """i, j and k (3, n) where groups stand together in a circle and j and k are s and 2 s places ahead of i.

    With groups of at most m <= n / 3, m <= s <= (n - m) / 2, any two of the three are at least m places apart.
    """
    groups = _linked(examples)
    n, largest = len(groups), int(np.bincount(groups).max())
    if 3 * largest > n:  # only prompts, then; `_repair` sees to the answers
        groups = np.unique(examples.prompts, return_inverse=True)[1]
        largest = int(np.bincount(groups).max())
    circle = np.lexsort((rng.random(n), rng.permutation(n)[groups]))
    shift = int(rng.integers(largest, (n - largest) // 2 + 1))
    drawn = np.empty((3, n), np.int64)
    for row in range(3):
        drawn[row, circle] = np.roll(circle, -row * shift)
    return drawn


def _linked(examples: Examples) -> np.ndarray:
    """The number (n,) of the group of every example: those that share a prompt or an answer, directly or through
    others."""
    n = len(examples.prompts)
    links = np.unique(np.concatenate([examples.chosen, examples.rejected]), return_inverse=True)[1]
    kinds = (np.unique(examples.prompts, return_inverse=True)[1], links[:n], links[n:])
    groups = np.arange(n)
    while True:
        before = groups
        smallest = [np.full(n, n), np.full(2 * n, n)]  # group number of every prompt, of every answer
        for kind, at in zip(kinds, (0, 1, 1), strict=True):
            np.minimum.at(smallest[at], kind, groups)
        for kind, at in zip(kinds, (0, 1, 1), strict=True):
            groups = np.minimum(groups, smallest[at][kind])
        if np.array_equal(groups, before):
            return groups
