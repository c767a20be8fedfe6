"""How much better a choice among N solutions gets with N: best-of-N, votes, and what bounds them (METHODS 7.6).

    pass@1                 the mean over all candidates, what choosing by chance gets
    majority               the most frequent answer
    best of N, min         the highest-scored solution, by the minimum of its step scores; also product, mean, last
    weighted vote, min     the answer with the highest sum of such scores
    oracle (pass@N)        one of the N is right: no choice can get more

N is 1, 2, 4, ... and the largest N. Of a problem with M > N candidates all subsets count (aggregation.py); votes use
random ones where there are too many, the same for every kind of vote. Intervals are over problems.

Shapes: P problems, M candidates of one problem, L values of N, D subsets.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from aggregation import (
    AGGREGATIONS,
    NO_ANSWER,
    aggregate,
    best_weights,
    draw_subsets,
    pass_at_k,
    sort_with_ties,
    votes_of_subsets,
)

from useful_code.metrics import bootstrap_interval, paired_difference_interval
from useful_code.report import Table
from useful_code.report_figures import BLUE, DARK, GREY, VERMILION, finish, new_figure
from useful_code.user_errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PASS_1, MAJORITY, ORACLE = "pass@1", "majority", "oracle (pass@N)"
BEST, VOTE = "best of N", "weighted vote"


class Problem(NamedTuple):
    """One problem's M candidates. A solution without any step has the score 0, the worst that there is."""

    step_scores: Sequence[Sequence[float]]  # probabilities, per candidate and step
    correct: Sequence[bool]
    classes: Sequence[int]  # equal for equal answers; -1: no answer


class Curves(NamedTuple):
    sizes: list[int]  # L values of N
    values: dict[str, np.ndarray]  # curve -> (P, L), the accuracy on each problem
    means: dict[str, list[float]]
    intervals: dict[str, list[tuple[float, float]]]  # 95 %
    over_majority: dict[str, tuple[float, float, float]]  # at the largest N, paired: difference, low, high


def best_of_n_curves(
    problems: Sequence[Problem],
    num_n: int | None = None,
    aggregations: Sequence[str] = AGGREGATIONS,
    draws: int = 64,
    seed: int = 0,
    num_resamples: int = 2_000,
) -> Curves:
    """The accuracy of every choice for N = 1, 2, 4, ... up to `num_n`; None: as many as every problem has.

    Args:
        aggregations: of `AGGREGATIONS`; ("last",) is enough for an outcome model, with its one score per solution.
        draws: random subsets per problem and N, for votes.

    Raises UserError for no problems, an `num_n` that some problem does not reach, lists of unequal length, and a score
    outside [0, 1].

    >>> problem = Problem([[0.9, 0.8], [0.9, 0.3], [0.4]], [True, False, False], [7, 5, 5])
    >>> curves = best_of_n_curves([problem], aggregations=("min",))
    >>> curves.sizes, curves.values["best of N, min"][0].round(4).tolist()
    ([1, 2, 3], [0.3333, 0.6667, 1.0])
    >>> curves.values["majority"][0].round(4).tolist()
    [0.3333, 0.3333, 0.0]
    """
    for number, problem in enumerate(problems, start=1):
        if not len(problem.step_scores) == len(problem.classes) == len(problem.correct):
            raise UserError(
                f"problem {number}: {len(problem.step_scores)} scored solutions, {len(problem.classes)} answers and "
                f"{len(problem.correct)} labels do not go together"
            )
    sizes = sizes_up_to([len(problem.correct) for problem in problems], num_n)
    names = [PASS_1, MAJORITY, *(f"{kind}, {how}" for kind in (BEST, VOTE) for how in aggregations), ORACLE]
    values = {name: np.empty((len(problems), len(sizes))) for name in names}
    rng = np.random.default_rng(seed)
    for i, problem in enumerate(problems):
        for name, accuracies in _one_problem(problem, sizes, aggregations, draws, rng).items():
            values[name][i] = accuracies
    options: dict[str, Any] = {"num_resamples": num_resamples, "seed": seed}
    return Curves(
        sizes,
        values,
        means={name: found.mean(axis=0).tolist() for name, found in values.items()},
        intervals={name: [bootstrap_interval(column, **options) for column in v.T] for name, v in values.items()},
        over_majority={
            name: paired_difference_interval(found[:, -1], values[MAJORITY][:, -1], **options)
            for name, found in values.items()
            if name != MAJORITY
        },
    )


def sizes_up_to(num_candidates: Sequence[int], num_n: int | None) -> list[int]:
    """1, 2, 4, ... and at the end the largest N. Raises UserError where a problem has fewer candidates than that.

    >>> sizes_up_to([6, 7], None), sizes_up_to([6, 7], 4)
    ([1, 2, 4, 6], [1, 2, 4])
    """
    if not num_candidates:
        raise UserError("there is no problem to choose solutions for")
    least = min(num_candidates)
    largest = least if num_n is None else num_n
    if largest < 1:
        raise UserError("N must be 1 or more" if num_n is not None else "a problem has no candidates")
    too_few = sum(number < largest for number in num_candidates)
    if too_few:
        raise UserError(
            f"N = {largest} was asked for, but {too_few:,} of {len(num_candidates):,} problems have fewer candidates, "
            f"the least {least}; give an N of at most {least}, or leave those problems out"
        )
    sizes = [2**i for i in range(largest.bit_length()) if 2**i < largest]
    return [*sizes, largest]


def _one_problem(
    problem: Problem, sizes: list[int], aggregations: Sequence[str], draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Every curve of one problem: {name: (L,)}."""
    correct = np.asarray(problem.correct, dtype=np.float64)  # (M,)
    classes, num_all = np.asarray(problem.classes), len(correct)
    scores = {
        how: np.array([aggregate(steps, how) if len(steps) else 0.0 for steps in problem.step_scores])  # (M,)
        for how in aggregations
    }
    subsets = [draw_subsets(num_all, n, draws, rng) for n in sizes if n > 1]
    votes = {MAJORITY: np.ones(num_all), **{f"{VOTE}, {how}": scores[how] for how in aggregations}}
    found: dict[str, Any] = {
        PASS_1: correct.mean(),
        ORACLE: [pass_at_k(round(correct.sum()), num_all, n) for n in sizes],
    }
    for name, weights in votes.items():
        found[name] = [votes_of_subsets(classes, correct, weights, taken).mean() for taken in subsets]
        if sizes[0] == 1:  # one voter: its answer wins, if it has one
            found[name].insert(0, (correct * (classes != NO_ANSWER)).mean())
    for how in aggregations:
        _, shares = sort_with_ties(scores[how], correct)  # (M,)
        found[f"{BEST}, {how}"] = [shares @ best_weights(num_all, n) for n in sizes]
    return found


def curves_json(curves: Curves) -> dict[str, Any]:
    """What a results file keeps: `sizes`, and per curve its means, intervals and difference to the majority."""
    return {
        "num_problems": len(curves.values[MAJORITY]),
        "sizes": curves.sizes,
        "curves": {
            name: {
                "accuracy": mean,
                "interval_95": [list(ends) for ends in curves.intervals[name]],
                "over_majority_at_largest_n": list(curves.over_majority[name]) if name != MAJORITY else None,
            }
            for name, mean in curves.means.items()
        },
    }


def curves_table(curves: Curves, caption: str = "") -> Table:
    """A row per choice: accuracy (%) at every N, its interval at the largest, the paired difference to the majority."""
    top = curves.sizes[-1]
    rows = []
    for name, means in curves.means.items():
        low, high = curves.intervals[name][-1]
        cells = [f"{100 * mean:.1f}" for mean in means] + [f"{100 * low:.1f} to {100 * high:.1f}"]
        if name == MAJORITY:
            cells.append("")
        else:
            difference, low, high = (100 * number for number in curves.over_majority[name])
            cells.append(f"{difference:+.1f} ({low:+.1f} to {high:+.1f})")
        rows.append([name, *cells])
    num_problems = len(curves.values[MAJORITY])
    header = ["accuracy (%)", *(f"N = {n}" for n in curves.sizes), f"95 % at N = {top}", "over majority (95 %)"]
    return Table(caption or f"Choice among N solutions, {num_problems:,} problems", header, rows)


# Colours and marks per aggregate; Okabe and Ito's, as in all other pictures.
LOOKS = {"min": (BLUE, "o"), "product": (VERMILION, "s"), "mean": ("#009E73", "D"), "last": ("#CC79A7", "^")}


def curves_figure(curves: Curves) -> "Figure":
    """Accuracy against N, on a scale of powers of two: the best solution at the left, votes at the right.

    Bands are 95 % intervals over problems, of the majority and of the first aggregate alone: more would hide the
    curves, and the table has them all. Curves of one picture were measured on the same problems, so two bands that
    overlap may still differ for certain: the paired differences in the table tell.
    """
    figure = new_figure(width=9.4, height=4.6)
    panels = figure.subplots(1, 2, sharey=True)
    handles: dict[str, Any] = {}
    aggregations = [how for how in LOOKS if f"{BEST}, {how}" in curves.means]
    for axes, kind in zip(panels, (BEST, VOTE), strict=True):
        for name, style in ((ORACLE, "-."), (MAJORITY, "--"), (PASS_1, ":")):
            color = DARK if name == MAJORITY else GREY
            look = {"color": color, "linestyle": style, "linewidth": 1.5}
            handles[name] = _draw(axes, curves, name, name == MAJORITY, **look)
        for how in aggregations:
            color, marker = LOOKS[how]
            look = {"color": color, "marker": marker, "markersize": 4.5, "linewidth": 1.8}
            label = f"model, {how}" if len(aggregations) > 1 else "model"
            handles[label] = _draw(axes, curves, f"{kind}, {how}", how == aggregations[0], **look)
        axes.set_xscale("log", base=2)
        # An N that is no power of two stands close to one before it: its label would cover that one's.
        shown = [n for n in curves.sizes[:-1] if n <= curves.sizes[-1] / 1.25] + curves.sizes[-1:]
        axes.set_xticks(shown, [str(n) for n in shown])
        axes.minorticks_off()
        title = {BEST: "The best-scored solution", VOTE: "The answer with the highest sum of scores"}[kind]
        finish(axes, title, "solutions to choose from (N)", "problems solved (%)" if kind == BEST else "")
        axes.tick_params(labelleft=True)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=7, frameon=False, fontsize=8.5)
    return figure


def _draw(axes: "Axes", curves: Curves, name: str, has_band: bool, **look: Any) -> Any:
    """One curve, with its band where it has one; returns its handle for the legend."""
    if has_band:
        low, high = 100 * np.array(curves.intervals[name]).T  # (L,), (L,)
        axes.fill_between(curves.sizes, low, high, color=look["color"], alpha=0.12, linewidth=0)
    return axes.plot(curves.sizes, 100 * np.array(curves.means[name]), **look)[0]
