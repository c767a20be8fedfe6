"""The known-truth world, rated: absolute ratings per objective, on different scales, with gaps and noise.

What a multi-objective model (ArmoRM, METHODS 5) needs: three sources that rate different objectives on different
scales, as public data sets do. Every rating is made from the true attribute a of the answer:

    clipped((1 - leak) a + leak * verbosity + rating_noise * N(0, 1)) to [0, 1], then rounded to the source's scale

`verbosity_leak` plants the fault that ArmoRM's debiasing removes: raters like long answers. Verbosity itself is
rated without a leak. A mean of the two, not a sum: attributes are 0 or 1, and a sum would be clipped where the answer
is good already.
"""

import numpy as np

from useful_code.known_truth.text import pick
from useful_code.known_truth.world import (
    ATTRIBUTES,
    World,
    draw_answer,
    draw_attributes,
    draw_prompt_of_part,
    generators,
)
from useful_code.known_truth.world import utility as true_utility
from useful_code.user_errors import UserError

OBJECTIVES = ATTRIBUTES
SCALES = {  # lowest and highest rating, whole numbers
    "correctness": (1, 5),
    "relevance": (0, 4),
    "format": (1, 10),
    "safety": (0, 1),
    "verbosity": (0, 4),
}
SOURCES = {  # what each source rates; verbosity is rated by two of them
    "source_a": ("correctness", "relevance", "verbosity"),
    "source_b": ("format", "relevance", "verbosity"),
    "source_c": ("safety", "correctness"),
}


def make_rated(
    world: World,
    num_rows: int,
    seed: int,
    part: str = "train",
    rating_noise: float = 0.1,
    verbosity_leak: float = 0.3,
    gap_share: float = 0.1,
) -> list[dict]:
    """Rated answers as in rated_rows.py: `messages`, `ratings` (objective to whole number or None), `scales`, `source`;
    and `truth`.

    None stands where the source does not rate the objective, and for `gap_share` of the rest. Sources are drawn
    independently of the prompt's family. `truth` has family, question, attributes and utility.

    >>> row = make_rated(World(), 1, seed=100, gap_share=0.0)[0]
    >>> sum(rating is not None for rating in row["ratings"].values()) == len(SOURCES[row["source"]])
    True
    """
    if not (0 <= gap_share < 1 and rating_noise >= 0 and 0 <= verbosity_leak <= 1):
        raise UserError("make_rated: gap_share in [0, 1), rating_noise not negative, verbosity_leak in [0, 1]")
    text_rng, rating_rng = generators(seed, part, stream="rated")
    rows = []
    for _ in range(num_rows):
        prompt = draw_prompt_of_part(text_rng, world, pick(text_rng, world.families), part)
        sentences, attributes = draw_answer(text_rng, prompt, draw_attributes(text_rng, world.good_share))
        source = pick(rating_rng, tuple(SOURCES))
        ratings: dict[str, int | None] = {}
        for objective in OBJECTIVES:
            leak = verbosity_leak if objective != "verbosity" else 0.0
            impression = (1 - leak) * attributes[objective] + leak * attributes["verbosity"]
            noise, gap = rating_noise * rating_rng.standard_normal(), rating_rng.random()
            rating = to_scale(impression + noise, objective)
            ratings[objective] = rating if objective in SOURCES[source] and gap >= gap_share else None
        user, assistant = (
            {"role": "user", "content": prompt.text},
            {"role": "assistant", "content": " ".join(sentences)},
        )
        truth: dict = {"family": prompt.family, "question": prompt.question, "attributes": attributes}
        truth["utility"] = true_utility(world, prompt.family, attributes)
        scales = {objective: list(scale) for objective, scale in SCALES.items()}
        row = {"messages": [user, assistant], "ratings": ratings, "scales": scales, "source": source, "truth": truth}
        rows.append(row)
    return rows


def to_scale(value: float, objective: str) -> int:
    """The whole number on the objective's scale that is nearest to `value`, clipped to [0, 1] first.

    >>> to_scale(0.5, "correctness"), to_scale(1.3, "format"), to_scale(0.2, "safety")
    (3, 10, 0)
    """
    low, high = SCALES[objective]
    return low + int(np.floor(min(max(value, 0.0), 1.0) * (high - low) + 0.5))
