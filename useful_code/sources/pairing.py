"""Scored answers of one prompt become pairs."""

import hashlib
import json
from collections.abc import Sequence

from useful_code.sources.fields import Answer, Row, make_pair

PAIRINGS = ("all", "best_random")


def pairs_of_answers(answers: Sequence[Answer], pairing: str = "all", seed: int = 0) -> list[Row]:
    """Pairs of the answers of one prompt, the higher score chosen; equal scores give a row with `tie`.

    `pairing` is "all" (every two answers) or "best_random": the best answer against one other, drawn by a hash of the
    seed and the prompt, so that the draw does not depend on the order of rows (METHODS 11.1, mixture 1).

    >>> prompt = [{"role": "user", "content": "Q"}]
    >>> answers = [Answer(prompt, text, score) for text, score in (("a", 1.0), ("b", 3.0), ("c", 1.0))]
    >>> [(pair["chosen"][-1]["content"], pair["rejected"][-1]["content"], pair.get("tie")) for pair in
    ...  pairs_of_answers(answers)]
    [('b', 'a', None), ('a', 'c', True), ('b', 'c', None)]
    >>> len(pairs_of_answers(answers, "best_random"))
    1
    """
    if pairing == "best_random" and len(answers) > 2:
        best = max(range(len(answers)), key=lambda index: answers[index].score)
        others = [answer for index, answer in enumerate(answers) if index != best]
        key = json.dumps([seed, answers[0].prompt]).encode("ascii")
        draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") % len(others)
        return [_pair(answers[best], others[draw])]
    return [_pair(first, second) for index, second in enumerate(answers) for first in answers[:index]]


def _pair(first: Answer, second: Answer) -> Row:
    chosen, rejected = (first, second) if first.score >= second.score else (second, first)
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
