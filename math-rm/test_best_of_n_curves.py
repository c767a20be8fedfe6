"""Curves over N: each point is the function of aggregation.py that it names, the bounds hold, the page shows it all."""

import json
import warnings

import numpy as np
import pytest
from aggregation import AGGREGATIONS, aggregate, best_of_n_accuracy, pass_at_k, vote_accuracy
from best_of_n_curves import (
    MAJORITY,
    ORACLE,
    PASS_1,
    Problem,
    best_of_n_curves,
    curves_figure,
    curves_json,
    curves_table,
)

from useful_code.known_truth.steps import make_candidates
from useful_code.known_truth.world import World
from useful_code.report import table_html
from useful_code.user_errors import UserError

FAST = {"num_resamples": 100}


def make_problems(num_problems, num_candidates, noise=0.0):
    """Known-truth candidates with scores that are the step labels, blurred."""
    rng = np.random.default_rng(0)
    problems = []
    for row in make_candidates(World(), num_problems, num_candidates, seed=100):
        found = row["candidates"]
        scores = [np.clip(np.array(c["labels"]) + noise * rng.normal(size=len(c["labels"])), 0, 1) for c in found]
        problems.append(
            Problem([s.tolist() for s in scores], [c["correct"] for c in found], [c["answer"] for c in found])
        )
    return problems


def test_every_point_is_the_mean_over_problems_of_the_function_it_names():
    problems = make_problems(5, 6, noise=0.4)
    curves = best_of_n_curves(problems, draws=20, **FAST)  # 20: all subsets of 6 of any size are counted
    assert curves.sizes == [1, 2, 4, 6]
    rng = np.random.default_rng(0)
    for place, n in enumerate(curves.sizes):
        expected = {PASS_1: [np.mean(p.correct) for p in problems]}
        expected[ORACLE] = [pass_at_k(sum(p.correct), 6, n) for p in problems]
        expected[MAJORITY] = [vote_accuracy(p.classes, p.correct, [1] * 6, n, 20, rng) for p in problems]
        for how in AGGREGATIONS:
            scores = [[aggregate(steps, how) for steps in p.step_scores] for p in problems]
            both = list(zip(problems, scores, strict=True))
            expected[f"best of N, {how}"] = [best_of_n_accuracy(s, p.correct, n) for p, s in both]
            expected[f"weighted vote, {how}"] = [vote_accuracy(p.classes, p.correct, s, n, 20, rng) for p, s in both]
        assert expected.keys() == curves.values.keys()
        for name, accuracies in expected.items():
            assert curves.values[name][:, place] == pytest.approx(accuracies), name
            assert curves.means[name][place] == pytest.approx(np.mean(accuracies)), name


def test_a_perfect_step_model_reaches_the_oracle_and_a_blind_one_stays_at_pass_1():
    problems = make_problems(60, 8)
    curves = best_of_n_curves(problems, **FAST)
    # Without a mistake means right; where every right answer has two mistakes that cancel, it cannot know.
    assert curves.means["best of N, min"][-1] > curves.means[ORACLE][-1] - 0.05
    assert curves.means["best of N, min"][-1] > curves.means[MAJORITY][-1]
    difference, low, high = curves.over_majority["best of N, min"]
    assert 0 < low < difference < high
    assert difference == pytest.approx(curves.means["best of N, min"][-1] - curves.means[MAJORITY][-1])
    blind = [p._replace(step_scores=[[0.5]] * 8) for p in problems]
    curves = best_of_n_curves(blind, **FAST)
    for how in AGGREGATIONS:
        assert curves.means[f"best of N, {how}"] == pytest.approx(curves.means[PASS_1])
        assert curves.values[f"weighted vote, {how}"].tolist() == curves.values[MAJORITY].tolist()


def test_bounds_and_intervals_hold_also_with_random_subsets():
    curves = best_of_n_curves(make_problems(30, 12, noise=0.5), draws=8, **FAST)
    for name, values in curves.values.items():
        assert curves.means[name][0] == pytest.approx(curves.means[PASS_1][0]), name
        for place, (low, high) in enumerate(curves.intervals[name]):
            assert 0 <= low <= curves.means[name][place] <= high <= 1
        if name in (ORACLE, PASS_1) or name.startswith("best"):
            assert (values <= curves.values[ORACLE] + 1e-12).all(), name
        assert (values[:, -1] <= curves.values[ORACLE][:, -1] + 1e-12).all(), name
    assert (np.diff(curves.values[ORACLE], axis=1) >= -1e-12).all()


def test_the_same_seed_gives_the_same_curves():
    problems = make_problems(4, 10, noise=0.5)
    first, again, other = (best_of_n_curves(problems, draws=8, seed=seed, **FAST).means for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("num_n", "sizes"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8]), (None, [1, 2, 4, 8, 9])]
)
def test_sizes(num_n, sizes):
    problems = [*make_problems(2, 9), *make_problems(1, 12)]
    assert best_of_n_curves(problems, num_n, ("last",), **FAST).sizes == sizes


def test_a_solution_without_steps_is_the_worst():
    curves = best_of_n_curves([Problem([[], [0.1]], [False, True], [-1, 0])], **FAST)
    assert all(curves.means[f"{kind}, min"][-1] == 1 for kind in ("best of N", "weighted vote"))


def test_what_is_refused():
    problems = [*make_problems(2, 4), *make_problems(1, 8)]
    with pytest.raises(UserError, match="2 of 3 problems have fewer candidates, the least 4; give an N of at most 4"):
        best_of_n_curves(problems, num_n=5)
    for num_n in (0, -1):
        with pytest.raises(UserError, match="1 or more"):
            best_of_n_curves(problems, num_n)
    with pytest.raises(UserError, match="no problem"):
        best_of_n_curves([])
    with pytest.raises(UserError, match="no candidates"):
        best_of_n_curves([Problem([], [], [])])
    with pytest.raises(UserError, match="problem 2: 4 scored solutions, 3 answers and 4 labels"):
        best_of_n_curves([problems[0], problems[1]._replace(classes=[0, 1, 2])])
    with pytest.raises(UserError, match="no probability"):
        best_of_n_curves([Problem([[2.0]], [True], [0])])


def test_the_table_and_the_results_file_hold_every_curve():
    curves = best_of_n_curves(make_problems(6, 4, noise=0.3), **FAST)
    table = curves_table(curves)
    assert [row[0] for row in table.rows] == list(curves.means)
    assert table.header[1:4] == ["N = 1", "N = 2", "N = 4"] and "6 problems" in table.caption
    assert table_html(table)
    saved = json.loads(json.dumps(curves_json(curves)))
    assert saved["sizes"] == [1, 2, 4] and saved["num_problems"] == 6
    assert saved["curves"][MAJORITY]["over_majority_at_largest_n"] is None
    assert saved["curves"]["best of N, last"]["accuracy"] == curves.means["best of N, last"]


@pytest.mark.parametrize(("num_n", "aggregations"), [(None, AGGREGATIONS), (1, ("last",)), (9, ("min", "mean"))])
def test_the_picture_draws_the_curves_it_was_given(tmp_path, num_n, aggregations):
    pytest.importorskip("matplotlib")
    curves = best_of_n_curves(make_problems(4, 9, noise=0.3), num_n, aggregations, **FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = curves_figure(curves)
        figure.savefig(tmp_path / "curves.png")
    best, vote = figure.axes
    for axes, kind in ((best, "best of N"), (vote, "weighted vote")):
        drawn = [line.get_ydata().tolist() for line in axes.get_lines()]
        names = [ORACLE, MAJORITY, PASS_1, *(f"{kind}, {how}" for how in aggregations)]
        assert drawn == [pytest.approx(100 * np.array(curves.means[name])) for name in names]
