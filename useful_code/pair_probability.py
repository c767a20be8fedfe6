"""From the logits of both orders to a probability that one answer is better, and to a ranking of several.

Every pair is judged twice, once in each order; the mean of the two is antisymmetric, whatever the model thinks of the
first place (METHODS 2.6). numpy only.

Shapes: N comparisons, K labels (A, B and perhaps a tie), n answers to one prompt.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from useful_code.metrics import sigmoid


def first_is_better(logits: np.ndarray) -> np.ndarray:
    """P(the first answer shown is better), (N,), of logits (N, K): sigmoid(l_A - l_B), or P(A) + P(tie) / 2.

    >>> first_is_better(np.array([[2.0, 0.5]])).round(8).tolist()
    [0.81757448]
    >>> first_is_better(np.array([[0.0, 0.0, 5.0]])).tolist()
    [0.5]
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or logits.shape[1] not in (2, 3):
        raise ValueError(f"logits need the shape (N, 2) or (N, 3), not {logits.shape}")
    if logits.shape[1] == 2:
        return sigmoid(logits[:, 0] - logits[:, 1])
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = shifted / shifted.sum(axis=1, keepdims=True)  # (N, 3)
    return shares[:, 0] + shares[:, 2] / 2


class BothOrders(NamedTuple):
    """What a pairwise model says of N pairs (y1, y2)."""

    probability: np.ndarray  # (N,) that y1 is better: the mean of both orders
    position_bias: np.ndarray  # (N,) P(y1 better) where it stands first, minus the same where it stands second

    @property
    def orders_agree(self) -> np.ndarray:
        """(N,) of bool: both orders name the same winner."""
        first = self.probability + self.position_bias / 2  # P(y1 better) where it stands first
        second = self.probability - self.position_bias / 2
        return (first > 0.5) == (second > 0.5)

    def summary(self) -> dict[str, float]:
        """Means over the pairs; NaN of none.

        `position_bias`: mean of its size; `first_place_advantage`: mean with its sign; `flip_rate`: share of pairs
        whose winner depends on the order.
        """
        bias = self.position_bias if len(self.position_bias) else np.array([np.nan])
        return {
            "position_bias": float(np.abs(bias).mean()),
            "first_place_advantage": float(bias.mean()),
            "flip_rate": float(1 - self.orders_agree.mean()) if len(self.position_bias) else float("nan"),
        }


def judge_both_orders(as_first: np.ndarray, as_second: np.ndarray) -> BothOrders:
    """Logits (N, K) of the prompts with y1 in the first place, and of those with y1 in the second.

    METHODS A.3:

    >>> both = judge_both_orders(np.array([[2.0, 0.5]]), np.array([[0.3, 1.1]]))
    >>> both.probability.round(8).tolist(), both.position_bias.round(8).tolist()
    ([0.75377448], [0.1276])
    """
    first, other = first_is_better(as_first), first_is_better(as_second)
    # Written so that an answer against itself gets exactly 0.5, whatever the last digit of `first` is.
    return BothOrders(0.5 + (first - other) / 2, first - (1 - other))


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """sigmoid(log-odds / T): calibrated, and still antisymmetric.

    >>> tempered(np.array([0.5, 0.9]), 2.0).round(6).tolist()
    [0.5, 0.75]
    """
    return sigmoid(log_odds(probabilities) / temperature)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """log p / (1 - p), within 28 either way."""
    clipped = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return np.log(clipped) - np.log1p(-clipped)


Game = tuple[int, int, int]  # tournament, challenger, champion
Played = tuple[int, int, float]  # champion, challenger, P(challenger better)


def knockouts(
    sizes: Sequence[int], play: Callable[[list[Game]], Sequence[float]]
) -> list[list[tuple[int, int, float]]]:
    """Of each tournament its n - 1 games (champion, challenger, P(challenger better)), all playing their next together.

    A challenger replaces the champion, at first answer 0, where the probability is over one half. `play` gives those of
    a list of games. Where preferences are cyclic, the last champion depends on the order of the answers.

    >>> games = knockouts([3, 1], lambda games: [float(challenger > champion) for _, challenger, champion in games])
    >>> games, champion_of(games[0])
    ([[(0, 1, 1.0), (1, 2, 1.0)], []], 2)
    """
    games: list[list[Played]] = [[] for _ in sizes]
    for challenger in range(1, max(sizes, default=0)):
        next_games = [(t, challenger, champion_of(games[t])) for t, size in enumerate(sizes) if challenger < size]
        for (tournament, _, champion), probability in zip(next_games, play(next_games), strict=True):
            games[tournament].append((champion, challenger, float(probability)))
    return games


def champion_of(games: Sequence[Played]) -> int:
    """The answer that is left after the games of a knockout."""
    if not games:
        return 0
    champion, challenger, probability = games[-1]
    return challenger if probability > 0.5 else champion


def copeland(matrix: np.ndarray) -> np.ndarray:
    """Wins of every answer (n,), a draw counting one half."""
    wins = (matrix > 0.5) + (matrix == 0.5) / 2
    return wins.sum(axis=1) - np.diag(wins)


def borda(matrix: np.ndarray) -> np.ndarray:
    """Expected wins of every answer (n,): the sum of its probabilities."""
    return matrix.sum(axis=1) - np.diag(matrix)


def bradley_terry_scores(matrix: np.ndarray, ridge: float = 0.01, tolerance: float = 1e-10) -> np.ndarray:
    """Scores (n,) of mean 0 for which sigmoid(s_i - s_j) is nearest to the matrix, by Newton's method.

    The maximum of sum_i,j P_ij log sigmoid(s_i - s_j) - ridge/2 |s|^2; without the ridge an answer that always wins
    would have no finite score.

    >>> scores = bradley_terry_scores(np.array([[0.5, 0.75], [0.25, 0.5]]), ridge=0)
    >>> float((scores[0] - scores[1]).round(6))  # log(0.75 / 0.25)
    1.098612
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    number = len(matrix)
    scores = np.zeros(number)
    weights = matrix + matrix.T - 2 * np.diag(np.diag(matrix))  # (n, n) comparisons of every two answers
    for _ in range(100):
        expected = sigmoid(scores[:, None] - scores[None, :])
        gradient = (matrix - weights * expected).sum(axis=1) - np.diag(matrix - weights * expected) - ridge * scores
        curvature = weights * expected * (1 - expected)
        hessian = np.diag(curvature.sum(axis=1) + ridge) - curvature + 1 / number  # 1/n: the sum of scores stays 0
        step = np.linalg.solve(hessian, gradient)
        scores = scores + step / max(1.0, np.abs(step).max())
        if np.abs(step).max() < tolerance:
            break
    return scores - scores.mean()
