"""Does a step model find the first error of a solution? The numbers of ProcessBench (arXiv 2412.06559), and floors.

A model names the first step that it holds for wrong, or says that none is. Right means: the very step, or "none" where
there is none. ProcessBench takes the two kinds of solutions apart and joins them by the harmonic mean, so that neither
a model that finds errors everywhere nor one that finds none gets far:

    accuracy on wrong solutions, accuracy on right solutions, F1 = 2 a b / (a + b)

Steps count from 0; None: no error. (ProcessBench writes -1 for that.) Shapes: N solutions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from useful_code.metrics import bootstrap_interval
from useful_code.reasons import RowRefused
from useful_code.report import Table
from useful_code.user_errors import UserError

Places = Sequence[int | None]


def first_error(step_scores: Sequence[float], threshold: float = 0.5) -> int | None:
    """The first step with a score below `threshold`, or None. ProcessBench, section 4.

    >>> first_error([0.9, 0.4, 0.2]), first_error([0.9, 0.5]), first_error([])
    (1, None, None)
    """
    return next((index for index, score in enumerate(step_scores) if score < threshold), None)


def marked_error(labels: Sequence[float | None]) -> int | None:
    """The first wrong step of labels that are 1, 0 or unknown (None), None if every step is right.

    Labels behind the first wrong one do not count. Raises RowRefused where the labels do not tell: an unknown or a soft
    one stands before it.

    >>> marked_error([1.0, 0.0, None]), marked_error([1.0, 1.0])
    (1, None)
    """
    for place, label in enumerate(labels):
        if label is None or 0 < label < 1:
            raise RowRefused(
                "not_labelled", f"step {place + 1} before the first wrong one is not marked right or wrong"
            )
        if label == 0:
            return place
    return None


def first_error_numbers(
    predicted: Places,
    true: Places,
    groups: Sequence[Any] | None = None,
    num_resamples: int = 2_000,
    seed: int = 0,
) -> dict[str, Any]:
    """How often the first error is found, each share with its 95 % interval.

    Args:
        predicted, true: (N,) steps from 0, None for no error.
        groups: (N,) problems; solutions of one problem are redrawn together for the intervals.

    Returns num_wrong and num_right solutions, and of each of these the value and [low, high] under `<name>_interval`:

        accuracy_wrong      the very step, among solutions with an error
        within_one_wrong    that step or one beside it, among the same
        accuracy_right      "no error", among solutions without one
        f1                  harmonic mean of the two accuracies, 0 where both are 0

    A share of no solutions, and the F1 if one kind is missing, is nan. Raises UserError for unequal lengths.

    >>> numbers = first_error_numbers([1, 3, None, None, 0], [1, 2, 4, None, None], num_resamples=10)
    >>> [round(numbers[name], 4) for name in ("accuracy_wrong", "within_one_wrong", "accuracy_right", "f1")]
    [0.3333, 0.6667, 0.5, 0.4]
    """
    if len(predicted) != len(true) or (groups is not None and len(groups) != len(true)):
        of_groups = "" if groups is None else f", {len(groups)} problems"
        raise UserError(f"{len(predicted)} predicted and {len(true)} true places{of_groups} do not go together")
    pairs = list(zip(predicted, true, strict=True))
    wrong = np.array([place is not None for place in true], dtype=bool)  # (N,)
    hit = np.array([guess == place for guess, place in pairs], dtype=np.float64)  # (N,)
    near = np.array([None not in pair and abs(pair[0] - pair[1]) <= 1 for pair in pairs], dtype=np.float64)
    return _with_intervals(wrong, hit, near, groups, num_resamples, seed)


def _with_intervals(
    wrong: np.ndarray,
    hit: np.ndarray,
    near: np.ndarray,
    groups: Sequence[Any] | None,
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The numbers of `first_error_numbers` from (N,) hits; a hit may be a probability."""
    problems = np.arange(len(wrong)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    options: dict[str, Any] = {"num_resamples": num_resamples, "seed": seed}
    numbers: dict[str, Any] = {"num_wrong": int(wrong.sum()), "num_right": int((~wrong).sum())}
    shares = {"accuracy_wrong": (hit, wrong), "within_one_wrong": (near, wrong), "accuracy_right": (hit, ~wrong)}
    for name, (hits, rows) in shares.items():
        numbers[name] = float(hits[rows].mean()) if rows.any() else float("nan")
        numbers[f"{name}_interval"] = list(bootstrap_interval(hits[rows], groups=problems[rows], **options))

    # Both kinds are redrawn together: a problem may have right and wrong solutions.
    both = np.stack([hit, wrong], axis=1)  # (N, 2)
    numbers["f1"] = f1_of_rows(both)
    numbers["f1_interval"] = list(bootstrap_interval(both, f1_of_rows, groups=problems, **options))
    return numbers


def f1_of_rows(rows: np.ndarray) -> float:
    """F1 from (N, 2): was it found, has it an error; nan unless both kinds are there."""
    hit, wrong = rows[:, 0], rows[:, 1] > 0
    if wrong.all() or not wrong.any():
        return float("nan")
    on_wrong, on_right = float(hit[wrong].mean()), float(hit[~wrong].mean())
    return 2 * on_wrong * on_right / (on_wrong + on_right) if on_wrong + on_right else 0.0


def first_error_floors(
    true: Places, num_steps: Sequence[int], groups: Sequence[Any] | None = None, num_resamples: int = 2_000
) -> dict[str, dict[str, Any]]:
    """The same numbers of four guessers that read nothing; a model must be above them all.

        never an error, always the first step, a random step, a random step or none

    The random ones have no luck in them: a hit counts as its probability 1 / K or 1 / (K + 1), of K steps.
    Only the last one has an F1 above 0.

    Raises UserError where an error lies past the last step.

    >>> floors = first_error_floors([0, 2, None], [2, 4, 3], num_resamples=10)
    >>> {name: round(numbers["accuracy_wrong"], 4) for name, numbers in floors.items()}
    {'never an error': 0.0, 'always the first step': 0.5, 'a random step': 0.375, 'a random step or none': 0.2667}
    >>> round(floors["a random step or none"]["f1"], 4)
    0.2581
    """
    if len(num_steps) != len(true):
        raise UserError(f"{len(true)} true places and {len(num_steps)} numbers of steps do not go together")
    for number, (place, steps) in enumerate(zip(true, num_steps, strict=True), start=1):
        if steps < 1 or (place is not None and not 0 <= place < steps):
            raise UserError(f"solution {number}: its first error is step {place} (from 0) of {steps}")
    wrong = np.array([place is not None for place in true], dtype=bool)  # (N,)
    steps = np.asarray(num_steps, dtype=np.float64)  # (N,)
    # How many steps are the right one or beside it.
    beside = [0 if p is None else min(p + 1, k - 1) - max(p - 1, 0) + 1 for p, k in zip(true, num_steps, strict=True)]
    floors: dict[str, dict[str, Any]] = {}
    for name, guess in (("never an error", None), ("always the first step", 0)):
        floors[name] = first_error_numbers([guess] * len(true), true, groups, num_resamples)
    for name, extra in (("a random step", 0), ("a random step or none", 1)):
        chance = 1 / (steps + extra)
        hit = np.where(wrong, chance, extra * chance)
        floors[name] = _with_intervals(wrong, hit, beside * chance, groups, num_resamples, seed=0)
    return floors


COLUMNS = {
    "wrong: the very step": "accuracy_wrong",
    "wrong: within one": "within_one_wrong",
    "right: none": "accuracy_right",
    "F1": "f1",
}


def first_error_table(found: Mapping[str, Mapping[str, Any]], caption: str = "") -> Table:
    """A row per model or floor, {name: its numbers}, in percent with intervals; all of the same solutions."""
    rows = []
    for name, numbers in found.items():
        cells = []
        for key in COLUMNS.values():
            low, high = numbers[f"{key}_interval"]
            value = numbers[key]
            cells.append("none" if np.isnan(value) else f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        rows.append([name, *cells])
    counts = next(iter(found.values()), {"num_wrong": 0, "num_right": 0})
    default = f"First error, % (95 %): {counts['num_wrong']:,} solutions with one, {counts['num_right']:,} without"
    return Table(caption or default, ["", *COLUMNS], rows)
