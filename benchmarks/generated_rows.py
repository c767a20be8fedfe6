"""Raw rows in the shape of HH-RLHF, made of random words: for speed and memory, nothing can be learnt from them.

Lengths are those of METHODS 11.1 (prompts of 160 tokens, about 125 words, in one, three or five turns; answers of 78
tokens, about 62 words), lognormal; words are drawn by Zipf's law. Copies and evaluation prompts are planted in known
numbers, so that a run can be checked.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

VOCABULARY = 20_000
LONG_PROMPT = 60  # words; in shorter ones a changed word would lower the similarity too much


class Planted(NamedTuple):
    """How many rows of each kind were planted."""

    exact: int = 0  # written twice, letter for letter
    near: int = 0  # written again with other case and punctuation, and, in a long prompt, one other word
    contaminated: int = 0  # whose prompt is an evaluation prompt


class Words:
    """Draws texts of a mean number of words."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.vocabulary = ["".join(rng.choices("etaoinshrdlucmfwyp", k=rng.randint(2, 9))) for _ in range(VOCABULARY)]
        self.weights = []
        total = 0.0
        for rank in range(1, VOCABULARY + 1):
            total += 1 / rank
            self.weights.append(total)

    def text(self, mean: float) -> str:
        length = max(1, round(self.rng.lognormvariate(-0.25, 0.7) * mean))
        return " ".join(self.rng.choices(self.vocabulary, cum_weights=self.weights, k=length))


def hh_rows(num_rows: int, seed: int, shares: Planted = Planted()) -> Iterator[tuple[dict[str, str], str]]:  # noqa: B008
    """Yield (raw row of the source hh_rlhf, kind): "new", "exact", "near" or "contaminated".

    `shares` here are the numbers of planted rows per 1,000.
    """
    rng = random.Random(seed)
    words = Words(rng)
    prompts = list(evaluation_prompts(2000))
    turns, answers = [""], ["", ""]
    for number in range(num_rows):
        draw = 1000 * rng.random() if number else 1000.0
        kind = "new"
        if draw < shares.exact:
            kind = "exact"
        elif draw < shares.exact + shares.near and sum(len(turn.split()) for turn in turns) >= LONG_PROMPT:
            kind = "near"
            longest = max(range(len(turns)), key=lambda place: len(turns[place]))
            first, _, rest = turns[longest].partition(" ")
            turns = [*turns[:longest], f"{first.upper()}, changed{number} {rest}", *turns[longest + 1 :]]
            answers = [f"{answer.capitalize()}." for answer in answers]
        else:
            turns = [words.text(125 / n) for n in [2 * rng.randint(0, 2) + 1] for _ in range(n)]
            answers = [f"{words.text(62)} {side}{number}" for side in "ab"]
            if draw < shares.exact + shares.near + shares.contaminated:
                kind = "contaminated"
                turns = [rng.choice(prompts)]
        history = "".join(f"\n\n{'Assistant' if i % 2 else 'Human'}: {turn}" for i, turn in enumerate(turns))
        chosen, rejected = (f"{history}\n\nAssistant: {answer}" for answer in answers)
        yield {"chosen": chosen, "rejected": rejected}, kind


def evaluation_prompts(number: int) -> Iterator[str]:
    """The prompts of a generated evaluation set, the same at every call."""
    words = Words(random.Random("evaluation"))
    for index in range(number):
        yield f"{words.text(40)} question{index}"
