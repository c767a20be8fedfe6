"""Scored answers of one prompt become pairs."""

import hashlib
import json
from collections.abc import Sequence

from useful_code.sources.fields import Answer, Row, make_pair

PAIRINGS = ("all", "best_random")


def paired(answers: Sequence[Answer], pairing: str = "all", seed: int = 0) -> list[tuple[int, int]]:
    """Which answers to one prompt make pairs: (index of the chosen one, index of the rejected one), by score.

    `pairing` is "all" (every two answers) or "best_random": the best answer against one other, drawn by a hash of the
    seed and the prompt, so that the draw does not depend on the order of answers (METHODS 11.1, mixture 1).

    >>> prompt = [{"role": "user", "content": "Q"}]
    >>> answers = [Answer(prompt, text, score) for text, score in (("a", 1.0), ("b", 3.0), ("c", 1.0))]
    >>> paired(answers)
    [(1, 0), (0, 2), (1, 2)]
    >>> len(paired(answers, "best_random"))
    1
    """
    if pairing == "best_random" and len(answers) > 2:
        ordered = sorted(range(len(answers)), key=lambda index: (answers[index].score, answers[index].response))
        key = json.dumps([seed, answers[0].prompt]).encode("ascii")
        draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") % (len(ordered) - 1)
        return [(ordered[-1], ordered[draw])]
    return [
        (first, second) if answers[first].score >= answers[second].score else (second, first)
        for second in range(len(answers))
        for first in range(second)
    ]


def pair_of(chosen: Answer, rejected: Answer) -> Row:
    """A pair of two answers; equal scores give a row with `tie`.

    >>> prompt = [{"role": "user", "content": "Q"}]
    >>> pair_of(Answer(prompt, "a", 1.0), Answer(prompt, "c", 1.0))["tie"]
    True
    """
    ids = [answer.source_id for answer in (chosen, rejected) if answer.source_id is not None]
    return make_pair(
        chosen.prompt,
        chosen.response,
        rejected.response,
        chosen_score=chosen.score,
        rejected_score=rejected.score,
        tie=True if chosen.score == rejected.score else None,
        source_id="/".join(dict.fromkeys(ids)) or None,
        subset=chosen.subset,
    )
