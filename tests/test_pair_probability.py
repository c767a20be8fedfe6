"""Probabilities of both orders, and rankings: by hand, antisymmetric, and against exhaustive search."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from useful_code.metrics import sigmoid
from useful_code.pair_probability import (
    borda,
    bradley_terry_scores,
    champion_of,
    copeland,
    first_is_better,
    judge_both_orders,
    knockouts,
)

LOGITS = st.integers(2, 3).flatmap(lambda k: arrays(np.float64, (4, k), elements=st.floats(-1000, 1000)))


def test_order_swap_by_hand():
    """METHODS A.3: sigmoid(1.5) = 0.81757448 and sigmoid(0.8) = 0.68997448, mean 0.75377448."""
    both = judge_both_orders(np.array([[2.0, 0.5]]), np.array([[0.3, 1.1]]))
    assert both.probability[0] == pytest.approx(0.75377448, abs=1e-8)
    assert both.position_bias[0] == pytest.approx(0.81757448 - 0.68997448, abs=1e-8)


def test_three_labels_by_hand():
    """Logits log 6, log 3, log 1: P(A) = 0.6, P(B) = 0.3, P(tie) = 0.1, so that A counts 0.65."""
    assert first_is_better(np.log([[6.0, 3.0, 1.0]]))[0] == pytest.approx(0.65)


@given(LOGITS)
def test_the_sigmoid_is_the_softmax_and_never_overflows(logits):
    """METHODS 2.9, check 4."""
    with np.errstate(over="raise", invalid="raise"):
        probability = first_is_better(logits)
    assert np.isfinite(probability).all() and (0 <= probability).all() and (probability <= 1).all()
    if logits.shape[1] == 2 and np.abs(logits).max() < 300:
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(probability, softmax[:, 0], atol=1e-12)


@given(LOGITS, st.data())
def test_exchanging_the_answers_gives_the_other_probability(first, data):
    """METHODS 2.9, check 3: p(y1 > y2) + p(y2 > y1) = 1, and the same answer twice gives one half."""
    second = data.draw(arrays(np.float64, first.shape, elements=st.floats(-1000, 1000)))
    one, other = judge_both_orders(first, second), judge_both_orders(second, first)
    np.testing.assert_allclose(one.probability + other.probability, 1, atol=1e-9)
    np.testing.assert_allclose(one.position_bias, other.position_bias, atol=1e-9)
    np.testing.assert_allclose(judge_both_orders(first, first).probability, 0.5, atol=1e-12)


def test_summary_by_hand():
    """Three pairs: 0.9 and 0.7 (bias 0.2), 0.6 and 0.2 (bias 0.4, a flip), 0.3 and 0.4 (bias -0.1)."""

    def logits(probability):
        return np.array([[np.log(p / (1 - p)), 0.0] for p in probability])

    both = judge_both_orders(logits([0.9, 0.6, 0.3]), logits([0.3, 0.8, 0.6]))
    np.testing.assert_allclose(both.probability, [0.8, 0.4, 0.35])
    assert both.summary() == pytest.approx(
        {"position_bias": 0.7 / 3, "first_place_advantage": 0.5 / 3, "flip_rate": 1 / 3}
    )
    assert all(np.isnan(list(judge_both_orders(np.zeros((0, 2)), np.zeros((0, 2))).summary().values())))


def test_knockouts_find_the_best_in_n_minus_1_comparisons():
    """METHODS 2.9, check 7: with transitive preferences, for every order of the answers; all play at once."""
    orders = [*itertools.permutations(range(4)), (0,), (1, 0)]
    asked = []

    def play(games):
        asked.extend(games)
        return [0.9 if orders[t][challenger] > orders[t][champion] else 0.1 for t, challenger, champion in games]

    found = knockouts([len(order) for order in orders], play)
    for order, games in zip(orders, found, strict=True):
        assert order[champion_of(games)] == max(order) and len(games) == len(order) - 1
    assert len(asked) == sum(len(order) - 1 for order in orders)


def antisymmetric(upper: np.ndarray) -> np.ndarray:
    """(n, n) of P(row better) from its upper triangle."""
    above = np.triu(upper, 1)
    return above + np.tril(1 - above.T, -1) + np.eye(len(upper)) / 2


def test_cyclic_preferences_are_draws_in_the_full_matrix():
    """Stone, paper, scissors: each wins once; the knockout's champion depends on the order."""
    matrix = antisymmetric(np.array([[0, 0.1, 0.9], [0, 0, 0.1], [0, 0, 0]]))  # 1 beats 0, 2 beats 1, 0 beats 2
    assert copeland(matrix).tolist() == [1, 1, 1] and borda(matrix) == pytest.approx([1, 1, 1])
    assert bradley_terry_scores(matrix) == pytest.approx([0, 0, 0], abs=1e-9)
    orders = list(itertools.permutations(range(3)))
    found = knockouts([3] * 6, lambda games: [matrix[orders[t][a], orders[t][b]] for t, a, b in games])
    assert {order[champion_of(games)] for order, games in zip(orders, found, strict=True)} == {0, 1, 2}


@given(arrays(np.float64, (5, 5), elements=st.floats(0, 1)))
def test_matrices_and_their_rankings_are_consistent(upper):
    matrix = antisymmetric(upper)
    np.testing.assert_allclose(matrix + matrix.T, 1)
    assert copeland(matrix).sum() == pytest.approx(10) and borda(matrix).sum() == pytest.approx(10)
    scores = bradley_terry_scores(matrix)
    assert np.isfinite(scores).all() and abs(scores.sum()) < 1e-9
    # At the maximum the expected wins are the observed ones, but for the ridge.
    expected = borda(sigmoid(scores[:, None] - scores[None, :]))
    np.testing.assert_allclose(borda(matrix) - expected, 0.01 * scores, atol=1e-6)


@given(arrays(np.float64, 4, elements=st.floats(-3, 3)))
def test_scores_of_a_bradley_terry_matrix_are_recovered(utilities):
    matrix = sigmoid(utilities[:, None] - utilities[None, :])
    scores = bradley_terry_scores(matrix, ridge=0)
    np.testing.assert_allclose(scores, utilities - utilities.mean(), atol=1e-5)
