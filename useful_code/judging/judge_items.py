"""A judge's word on every item: chats are built, asked, parsed, and mapped back to the responses of the row.

What is said of an item (`judged` in the output): `orders`, each with the places of the responses as they were shown,
raw texts, parsed verdicts and scores; `scores` per response; `winners`, the place of the best response, several for a
tie, none for an invalid verdict; `probability` that the first of two is better; `status`: decided, tie or invalid.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from useful_code.judging.asking import Asker, Voted
from useful_code.judging.interface import Chat, Reply, Sampling
from useful_code.judging.items import Item
from useful_code.judging.prompts import LETTERS, TIE, best_of_n_chat, pairwise_chat, rating_chat
from useful_code.judging.rules import RATING_TIE, best_of, decide, mean_margin, probability
from useful_code.judging.verdicts import parse_choice, parse_rating

WRITTEN_SCALE = (1, 10)
WEIGHED_SCALE = (1, 9)  # "10" is two tokens in many tokenizers
BEFORE_LABEL = "[["


class Settings(NamedTuple):
    """How items are judged."""

    task: str = "pairwise"  # one of `items.TASKS`
    verdict: str = "generated"  # or "logits"
    rule: str = "average"  # of `rules.RULES`; for pairs
    allow_tie: bool = True  # whether a pair may be called equal
    num_orders: int = 1  # of best_of_n; a pair is always judged in both
    num_samples: int = 1
    sampling: Sampling = Sampling()

    @property
    def explain(self) -> bool:
        return self.verdict == "generated"

    @property
    def scale(self) -> tuple[int, int]:
        return WRITTEN_SCALE if self.explain else WEIGHED_SCALE


def chats_of(item: Item, settings: Settings) -> list[tuple[tuple[int, ...], Chat]]:
    """Everything that is asked about an item: the places of the responses shown, and the chat."""
    if settings.task == "rating":
        return [
            ((i,), rating_chat(item.prompt, response, settings.scale, item.reference, settings.explain))
            for i, response in enumerate(item.responses)
        ]
    orders = orders_of(item, settings)
    shown = [[item.responses[i] for i in order] for order in orders]
    if settings.task == "best_of_n":
        chats = [best_of_n_chat(item.prompt, texts, item.reference, settings.explain) for texts in shown]
    else:
        chats = [
            pairwise_chat(item.prompt, first, second, item.reference, settings.allow_tie, settings.explain)
            for first, second in shown
        ]
    return list(zip(orders, chats, strict=True))


def orders_of(item: Item, settings: Settings) -> list[tuple[int, ...]]:
    """Both orders of a pair. Of several responses: an order drawn by a hash of the texts, and rotations of it."""
    number = len(item.responses)
    if settings.task == "pairwise":
        return [(0, 1), (1, 0)]

    def drawn(i: int) -> bytes:
        content = json.dumps([settings.sampling.seed, item.prompt, item.responses[i], i]).encode("ascii")
        return hashlib.blake2b(content, digest_size=8).digest()

    base = sorted(range(number), key=drawn)
    num_orders = min(settings.num_orders, number)
    starts = [number * k // num_orders for k in range(num_orders)]
    return [tuple(base[start:] + base[:start]) for start in starts]


def judge_items(asker: Asker, items: Sequence[Item], settings: Settings) -> list[dict[str, Any]]:
    """The word of the judge on every item, in order; see the head of this file."""
    asked = [(number, order, chat) for number, item in enumerate(items) for order, chat in chats_of(item, settings)]
    if settings.task == "rating":
        told = _ratings(asker, [chat for _, _, chat in asked], settings)
    elif settings.verdict == "logits":
        told = _weighed_choices(asker, asked, settings)
    else:
        told = _written_choices(asker, asked, settings)
    orders: list[list[dict[str, Any]]] = [[] for _ in items]
    for (number, order, _), answer in zip(asked, told, strict=True):
        orders[number].append({"order": list(order)} | answer)
    return [_judged(item, of_item, settings) for item, of_item in zip(items, orders, strict=True)]


def letters_of(number: int, settings: Settings) -> tuple[str, ...]:
    """The letters that a judge of so many responses may give."""
    letters = tuple(LETTERS[:number])
    return (*letters, TIE) if settings.task == "pairwise" and settings.allow_tie else letters


def _written_choices(asker: Asker, asked: Sequence[tuple[int, tuple[int, ...], Chat]], settings: Settings):
    """Per chat: texts, letters, the share of votes of every place, and the place with the most."""
    answers: list[dict[str, Any]] = [{}] * len(asked)
    for number in sorted({len(order) for _, order, _ in asked}):
        places = [i for i, (_, order, _) in enumerate(asked) if len(order) == number]
        letters = letters_of(number, settings)
        voted = asker.vote(
            [asked[i][2] for i in places],
            lambda text, finished, letters=letters: parse_choice(text, letters, finished),  # type: ignore[misc]
            settings.sampling,
            settings.num_samples,
        )
        for i, votes in zip(places, voted, strict=True):
            given = [verdict.value for verdict in votes.verdicts if not verdict.problem]
            answers[i] = _told(votes) | _choice([given.count(letter) for letter in letters], number)
    return answers


def _weighed_choices(asker: Asker, asked: Sequence[tuple[int, tuple[int, ...], Chat]], settings: Settings):
    """The same from probabilities of the letters."""
    answers: list[dict[str, Any]] = [{}] * len(asked)
    for number in sorted({len(order) for _, order, _ in asked}):
        places = [i for i, (_, order, _) in enumerate(asked) if len(order) == number]
        letters = letters_of(number, settings)
        weighed = asker.weigh([asked[i][2] for i in places], BEFORE_LABEL, letters)
        for i, reply in zip(places, weighed, strict=True):
            shares = shares_of(reply.log_probabilities) if reply.log_probabilities else []
            answers[i] = _weight(reply) | _choice(shares, number)
    return answers


def _weight(reply: Reply) -> dict[str, Any]:
    """What is told of a reply that was asked for labels; an endpoint's judge writes a text too."""
    told: dict[str, Any] = {"texts": [reply.text]} if reply.text else {}
    told["label_log_probabilities"] = reply.log_probabilities
    if reply.log_probabilities is None:
        told["problems"] = ["request_refused" if reply.error else "no_marker"]
    return told


def shares_of(log_probabilities: Sequence[float]) -> list[float]:
    """Softmax over the labels alone.

    >>> [round(share, 3) for share in shares_of([math.log(0.2), math.log(0.6)])]
    [0.25, 0.75]
    """
    highest = max(log_probabilities)
    weights = [math.exp(value - highest) for value in log_probabilities]
    return [weight / sum(weights) for weight in weights]


def expected_rating(log_probabilities: Sequence[float], ratings: Sequence[int]) -> float:
    """The mean rating under the probabilities of the labels.

    >>> round(expected_rating([math.log(p) for p in (0.1, 0.2, 0.3, 0.4)], (1, 2, 3, 4)), 6)
    3.0
    """
    shares = shares_of(log_probabilities)
    return sum(share * rating for share, rating in zip(shares, ratings, strict=True))


def _told(votes: Voted) -> dict[str, Any]:
    problems = [verdict.problem for verdict in votes.verdicts if verdict.problem]
    told: dict[str, Any] = {"texts": votes.texts, "verdicts": [verdict.value for verdict in votes.verdicts]}
    return told | ({"problems": problems} if problems else {})


def _choice(weights: Sequence[float], number: int) -> dict[str, Any]:
    """Shares of the places as shown, a tie spread over all; `top`: the place with the most, None for a tie.

    >>> _choice([2, 1, 1], number=2)
    {'shares': [0.625, 0.375], 'margin': 0.25, 'top': 0, 'status': 'ok'}
    """
    total = sum(weights)
    if not total:
        return {"shares": None, "margin": None, "top": None, "status": "invalid"}
    tie = sum(weights[number:])
    most = max(weights)
    leaders = [i for i, weight in enumerate(weights) if weight == most]
    return {
        "shares": [(weight + tie / number) / total for weight in weights[:number]],
        "margin": (weights[0] - weights[1]) / total,
        "top": leaders[0] if len(leaders) == 1 and leaders[0] < number else None,
        "status": "ok",
    }


def _ratings(asker: Asker, chats: Sequence[Chat], settings: Settings) -> list[dict[str, Any]]:
    """Per chat: the texts and their ratings, and the mean or expected one."""
    low, high = settings.scale
    answers: list[dict[str, Any]] = []
    if settings.verdict == "logits":
        labels = [str(rating) for rating in range(low, high + 1)]
        for reply in asker.weigh(chats, BEFORE_LABEL, labels):
            weighed = reply.log_probabilities
            answers.append(
                _weight(reply) | {"rating": expected_rating(weighed, range(low, high + 1)) if weighed else None}
            )
    else:
        voted = asker.vote(
            chats,
            lambda text, finished: parse_rating(text, (low, high), finished),
            settings.sampling,
            settings.num_samples,
        )
        for votes in voted:
            given = [verdict.value for verdict in votes.verdicts if not verdict.problem]
            answers.append(_told(votes) | {"rating": sum(given) / len(given) if given else None})
    return [answer | {"status": "invalid" if answer["rating"] is None else "ok"} for answer in answers]


def _judged(item: Item, orders: list[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """One verdict of all orders. An order without a verdict makes the whole item invalid: half a pair is biased."""
    number = len(item.responses)
    scores: list[Any]
    if any(order["status"] == "invalid" for order in orders):
        scores, winners = [None] * number, []
    elif settings.task == "rating":
        scores = [order["rating"] for order in orders]
        winners = best_of(scores, RATING_TIE)
    elif settings.task == "best_of_n":
        scores = [
            sum(order["shares"][order["order"].index(i)] for order in orders) / len(orders) for i in range(number)
        ]
        winners = best_of(scores)
    else:
        margins = [order["margin"] if order["order"] == [0, 1] else -order["margin"] for order in orders]
        outcomes = [_outcome(order) for order in orders]
        outcome = decide(settings.rule, outcomes, margins)
        winners = [0, 1] if outcome == 0 else [0 if outcome > 0 else 1]
        p = probability(mean_margin(margins) if settings.rule == "average" else outcome)
        scores = [p, 1 - p]
    judged: dict[str, Any] = {"task": settings.task, "orders": orders, "scores": scores, "winners": winners}
    if settings.task == "pairwise":
        judged["probability"] = probability(mean_margin(margins)) if winners else 0.5
    judged["status"] = {0: "invalid", 1: "decided"}.get(len(winners), "tie")
    return judged


def _outcome(order: dict[str, Any]) -> int:
    """What one order says of the first response of the row against the second: 1, 0 or -1."""
    return 0 if order["top"] is None else 1 if order["order"][order["top"]] == 0 else -1
