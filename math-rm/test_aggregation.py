"""Aggregates, best-of-N and votes: METHODS A.8 by hand, every closed form by enumeration, and what must always hold."""

from itertools import combinations, permutations
from math import comb, log

import numpy as np
import pytest
from aggregation import AGGREGATIONS, aggregate, best_of_n_accuracy, draw_subsets, pass_at_k, vote_accuracy
from hypothesis import given
from hypothesis import strategies as st

from useful_code.user_errors import UserError

probabilities = st.floats(0, 1)
# A coarse grid makes ties common.
coarse = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7, 1.0])


@st.composite
def candidates(draw, most=7, scores=coarse):
    """classes, correct, scores of up to `most` candidates; a class is right or wrong as a whole, -1 is wrong."""
    classes = draw(st.lists(st.integers(-1, 3), min_size=1, max_size=most))
    right = draw(st.lists(st.booleans(), min_size=4, max_size=4))
    correct = [bool(answer >= 0 and right[answer]) for answer in classes]
    return classes, correct, draw(st.lists(scores, min_size=len(classes), max_size=len(classes)))


def exact_vote(classes, correct, weights, n):
    return vote_accuracy(classes, correct, weights, n, 10**6, np.random.default_rng(0))


# ---- METHODS A.8, by hand ----


def test_aggregates_by_hand():
    steps = [0.9, 0.8, 0.4, 0.7]
    assert [aggregate(steps, how) for how in AGGREGATIONS] == pytest.approx([0.4, 0.2016, 0.7, 0.7])
    assert log(aggregate(steps, "product")) == pytest.approx(-1.60146974)


def test_votes_by_hand():
    """Answers 3, 5, 5, 7 with .9, .35, .4, .2: best-of-N says 3, majority 5, weighted 3 (.9 against .75)."""
    answers, scores = [3, 5, 5, 7], [0.9, 0.35, 0.4, 0.2]
    for wanted, (best, majority, weighted) in {3: (1, 0, 1), 5: (0, 1, 0), 7: (0, 0, 0)}.items():
        right = [answer == wanted for answer in answers]
        assert best_of_n_accuracy(scores, right, 4) == best
        assert exact_vote(answers, right, [1] * 4, 4) == majority
        assert exact_vote(answers, right, scores, 4) == weighted


def test_pass_at_k_by_hand():
    assert pass_at_k(2, 4, 2) == pytest.approx(0.83333333)
    assert [pass_at_k(0, 5, 3), pass_at_k(5, 5, 1), pass_at_k(1, 5, 5)] == [0, 1, 1]


def test_best_of_n_by_hand():
    accuracies = [best_of_n_accuracy([0.2, 0.9, 0.5, 0.7], [1, 0, 1, 1], n) for n in (1, 2, 3, 4)]
    assert accuracies == pytest.approx([0.75, 0.5, 0.25, 0])


def test_ties_by_hand():
    """Scores .5, .5, .1, right 1, 0, 1. Of two: {1,2} 1/2, {1,3} 1, {2,3} 0: mean 1/2. Of three: 1/2."""
    assert [best_of_n_accuracy([0.5, 0.5, 0.1], [1, 0, 1], n) for n in (2, 3)] == pytest.approx([0.5, 0.5])
    # Two answers with two votes each, one of them right.
    assert exact_vote([0, 1, 1, 0], [1, 0, 0, 1], [1] * 4, 4) == 0.5


def test_solutions_without_an_answer_never_win():
    assert exact_vote([-1, -1, -1, 4], [0, 0, 0, 1], [1, 1, 1, 0], 4) == 1
    assert exact_vote([-1, -1], [1, 1], [1, 1], 2) == 0
    assert exact_vote([-1, -1, 0], [0, 0, 1], [1, 1, 1], 1) == pytest.approx(1 / 3)


def test_many_candidates_stay_exact():
    """Half of 1,024 are right and score lower: any subset with a wrong one picks it."""
    scores, right = np.arange(1024), np.arange(1024) < 512
    assert best_of_n_accuracy(scores, right, 512) == pytest.approx(1 / comb(1024, 512), rel=1e-9, abs=0)
    assert best_of_n_accuracy(scores, ~right, 512) == pytest.approx(1)


# ---- by enumeration ----


@given(candidates())
def test_best_of_n_equals_enumeration(case):
    _, correct, scores = case
    for n in range(1, len(scores) + 1):
        found = []
        for subset in combinations(range(len(scores)), n):
            highest = max(scores[i] for i in subset)
            found.append(np.mean([correct[i] for i in subset if scores[i] == highest]))
        assert best_of_n_accuracy(scores, correct, n) == pytest.approx(np.mean(found))


@given(candidates())
def test_pass_at_k_equals_enumeration(case):
    _, correct, _ = case
    for k in range(1, len(correct) + 1):
        found = np.mean([any(subset) for subset in combinations(correct, k)])
        assert pass_at_k(sum(correct), len(correct), k) == pytest.approx(found)


@given(candidates(most=6, scores=st.integers(0, 3)))  # whole weights: sums in any order are exact
def test_votes_equal_enumeration(case):
    classes, correct, weights = case
    for n in range(1, len(classes) + 1):
        found = []
        for subset in combinations(range(len(classes)), n):
            voters = {a: [i for i in subset if classes[i] == a] for a in {classes[i] for i in subset} if a != -1}
            totals = {answer: sum(weights[i] for i in members) for answer, members in voters.items()}
            tied = [voters[answer] for answer, total in totals.items() if total == max(totals.values())]
            found.append(np.mean([np.mean([correct[i] for i in members]) for members in tied]) if tied else 0)
        assert exact_vote(classes, correct, weights, n) == pytest.approx(np.mean(found))


def test_random_subsets_come_near_the_mean_over_all():
    """Standard error of 4,000 draws is below 0.008."""
    rng = np.random.default_rng(0)
    classes, scores = rng.integers(0, 4, 16), rng.random(16)
    exact = vote_accuracy(classes, classes == 1, scores, 5, 4368, rng)  # C(16, 5)
    assert vote_accuracy(classes, classes == 1, scores, 5, 4000, rng) == pytest.approx(exact, abs=0.03)


def test_subsets_are_all_of_them_or_random_without_replacement():
    rng = np.random.default_rng(0)
    every = draw_subsets(6, 3, 20, rng)
    assert len(np.unique(every, axis=0)) == 20
    drawn = draw_subsets(6, 3, 19, rng)
    assert len(drawn) == 19 and (drawn.sum(axis=1) == 3).all()
    assert (draw_subsets(6, 1, 2, rng) == np.eye(6)).all()
    assert draw_subsets(6, 6, 1, rng).tolist() == [[True] * 6]
    many = draw_subsets(8, 3, 50, np.random.default_rng(5))
    assert (many == draw_subsets(8, 3, 50, np.random.default_rng(5))).all()
    assert abs(np.mean([draw_subsets(8, 3, 50, rng).mean(axis=0) for _ in range(200)], axis=0) - 3 / 8).max() < 0.02


# ---- what must always hold (METHODS 7.9, checks 4 to 6) ----


@given(st.lists(probabilities, min_size=1, max_size=40))
def test_aggregates_are_ordered(steps):
    low, product, mean, last = (aggregate(steps, how) for how in AGGREGATIONS)
    assert 0 <= product <= low <= mean <= max(steps)
    assert low <= last


@given(probabilities)
def test_one_step_makes_all_aggregates_equal(score):
    assert {aggregate([score], how) for how in AGGREGATIONS} == {score}


@given(candidates())
def test_one_candidate_is_pass_at_1_and_all_candidates_are_the_argmax(case):
    classes, correct, scores = case
    share, num_all = np.mean(correct), len(correct)
    assert best_of_n_accuracy(scores, correct, 1) == pytest.approx(share)
    assert pass_at_k(sum(correct), num_all, 1) == pytest.approx(share)
    assert exact_vote(classes, correct, scores, 1) == pytest.approx(share)
    tied = [right for right, score in zip(correct, scores, strict=True) if score == max(scores)]
    assert best_of_n_accuracy(scores, correct, num_all) == pytest.approx(np.mean(tied))


@given(candidates(), st.floats(1e-3, 1))
def test_a_weighted_vote_with_equal_scores_is_the_majority(case, score):
    classes, correct, _ = case
    for n in range(1, len(classes) + 1):
        majority = exact_vote(classes, correct, [1] * len(classes), n)
        assert exact_vote(classes, correct, [score] * len(classes), n) == majority


@given(candidates(scores=probabilities))
def test_a_weighted_vote_among_distinct_answers_is_best_of_n(case):
    _, correct, scores = case
    for n in range(1, len(scores) + 1):
        vote = exact_vote(range(len(scores)), correct, scores, n)
        assert vote == pytest.approx(best_of_n_accuracy(scores, correct, n))


@given(candidates())
def test_nothing_is_above_the_oracle_and_everything_is_a_share(case):
    classes, correct, scores = case
    for n in range(1, len(classes) + 1):
        oracle = pass_at_k(sum(correct), len(correct), n)
        for value in (
            best_of_n_accuracy(scores, correct, n),
            exact_vote(classes, correct, scores, n),
            exact_vote(classes, correct, [1] * len(classes), n),
        ):
            assert -1e-12 <= value <= oracle + 1e-12 <= 1 + 2e-12


@given(candidates(most=6), st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_changes_nothing(case, random):
    order = list(range(len(case[0])))
    random.shuffle(order)
    shuffled = [[column[i] for i in order] for column in case]
    for n in range(1, len(order) + 1):
        before, after = (best_of_n_accuracy(scores, correct, n) for _, correct, scores in (case, shuffled))
        assert after == pytest.approx(before)
        before, after = (exact_vote(*columns, n) for columns in (case, shuffled))
        assert after == pytest.approx(before)


def test_votes_that_weigh_the_same_tie_to_the_last_bit():
    """(.1 + .2) + .3 is not .1 + (.2 + .3) in floats, whatever order the file has."""
    for order in permutations([0.1, 0.2, 0.3]):
        assert exact_vote([0] * 3 + [1] * 3, [1] * 3 + [0] * 3, [0.1, 0.2, 0.3, *order], 6) == 0.5


# ---- what is refused ----


@pytest.mark.parametrize(
    ("steps", "how", "said"),
    [
        ([], "min", "without steps"),
        ([0.5], "max", "min, product, mean, last"),
        ([0.5, 1.5], "mean", "1.5, which is no probability"),
        ([float("nan")], "last", "nan, which is no probability"),
    ],
)
def test_aggregates_that_are_refused(steps, how, said):
    with pytest.raises(UserError, match=said):
        aggregate(steps, how)


def test_choices_that_are_refused():
    rng = np.random.default_rng(0)
    for n in (0, 3):
        for call in (
            lambda n=n: best_of_n_accuracy([1, 2], [0, 1], n),
            lambda n=n: pass_at_k(1, 2, n),
            lambda n=n: vote_accuracy([0, 1], [0, 1], [1, 1], n, 4, rng),
        ):
            with pytest.raises(UserError, match=f"{n} of 2 candidates cannot be drawn"):
                call()
    with pytest.raises(UserError, match="NaN"):
        best_of_n_accuracy([0.1, float("nan")], [0, 1], 1)
    with pytest.raises(UserError, match="3 scores for 2 candidates"):
        best_of_n_accuracy([1, 2, 3], [0, 1], 1)
    with pytest.raises(UserError, match="3 right of 2"):
        pass_at_k(3, 2, 1)
    for weight in (-0.1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="from 0 up"):
            vote_accuracy([0, 1], [0, 1], [1, weight], 2, 4, rng)
    with pytest.raises(UserError, match="do not go together"):
        vote_accuracy([0, 1], [0, 1], [1], 2, 4, rng)
