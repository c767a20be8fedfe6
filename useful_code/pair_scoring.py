"""Two answers to one prompt, and how likely the first is the better one: by either kind of model, both orders always.

A pairwise model reads both answers, once in each order; the context (in a full tournament the answer shown first too)
is computed once where the model can share a prefix. A scalar model reads each answer once: P = sigmoid(r1 - r2).

Shapes: N comparisons, n answers to one prompt, S sequences of a group, K labels.
"""

from array import array
from collections.abc import Sequence
from itertools import permutations

import numpy as np

from useful_code.chat_pairs import Message
from useful_code.metrics import sigmoid
from useful_code.pair_probability import BothOrders, first_is_better, judge_both_orders
from useful_code.pair_prompt import ids_to_verdict
from useful_code.render import render_within
from useful_code.scoring import Numbers, Scorer
from useful_code.shared_prefix import num_packed_tokens


def comparison_group(
    scorer: Scorer, prompt: Sequence[Message], first: str, second: str, max_length: int | None = None
) -> list[array]:
    """Token ids of one comparison: both orders of a pairwise model, both answers of a scalar one.

    Raises RowRefused where it cannot be rendered or a sequence is longer than `max_length` tokens.
    """
    if scorer.verdicts is None:
        conversations = ([*prompt, {"role": "assistant", "content": text}] for text in (first, second))
        return [render_within(scorer.template, conversation, max_length) for conversation in conversations]
    orders = ((first, second), (second, first))
    return [ids_to_verdict(scorer.template, scorer.verdicts, prompt, *order, max_length) for order in orders]


def compared(scorer: Scorer, numbers: Sequence[Numbers]) -> BothOrders:
    """P(first is better) of the numbers (N, 2, K) of N `comparison_group`s; a scalar model has no position bias."""
    values = np.array(numbers, dtype=np.float64).reshape(len(numbers), 2, -1)
    if scorer.verdicts is not None:
        return judge_both_orders(values[:, 0], values[:, 1])
    return BothOrders(sigmoid(values[:, 0, 0] - values[:, 1, 0]), np.zeros(len(values)))


def full_tournament_groups(
    scorer: Scorer, prompt: Sequence[Message], responses: Sequence[str], max_length: int | None = None
) -> list[list[array]]:
    """Token ids of all n (n - 1) ordered comparisons of a pairwise model, in the order of `permutations`.

    One group that shares the context, or n groups that share the answer shown first too: whichever is shorter. A group
    for each where the model shares nothing.
    """
    assert scorer.verdicts is not None
    ids = [
        ids_to_verdict(scorer.template, scorer.verdicts, prompt, first, second, max_length)
        for first, second in permutations(responses, 2)
    ]
    if not scorer.model.shares_prefix:
        return [[sequence] for sequence in ids]
    others = len(responses) - 1
    by_first = [ids[start : start + others] for start in range(0, len(ids), others)]
    return by_first if sum(map(num_packed_tokens, by_first)) < num_packed_tokens(ids) else [ids]


def full_win_matrix(num_responses: int, numbers: Sequence[Numbers]) -> np.ndarray:
    """(n, n) of P(row better than column), the mean of both orders, from the numbers of `full_tournament_groups`."""
    logits = np.array([row for group in numbers for row in group], dtype=np.float64)  # (n (n - 1), K)
    shown_first = np.full((num_responses, num_responses), 0.5)
    places = np.array(list(permutations(range(num_responses), 2))).reshape(-1, 2)
    shown_first[places[:, 0], places[:, 1]] = first_is_better(logits)
    return 0.5 + (shown_first - shown_first.T) / 2  # exactly 0.5 where both orders say the same
