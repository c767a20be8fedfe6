"""What a nuisance head shall take from the quality head: length, and marks of a style, of the last assistant turn."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from useful_code.render import Template, render

LENGTH = "length"  # always there, and first
LIST_ITEM = re.compile(r"^[ \t]*(?:[-*+\u2022]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
BOLD = re.compile(r"(?<!\w)\*\*(?=\S)[^*\n]+(?<=\S)\*\*(?!\w)")
COUNTS: dict[str, Callable[[str], int]] = {
    "list_items": lambda text: len(LIST_ITEM.findall(text)),
    "bold_marks": lambda text: len(BOLD.findall(text)),
}


def length_counter(template: Template) -> Callable[[str], int]:
    """A function that counts the model's own tokens of an assistant turn, the end of the turn included.

    The turn is rendered behind a fixed question, so nothing that stands in front of it in the conversation matters.
    """
    question = [{"role": "user", "content": "question"}]
    before = len(render(template, question, add_generation_prompt=True))

    def count(text: str) -> int:
        return len(render(template, [*question, {"role": "assistant", "content": text}])) - before

    return count


def head_names(further: Sequence[str] = ()) -> list[str]:
    """Of all heads, in the order of their rows and of the traits that `trait_counter` counts."""
    return ["quality", LENGTH, *further]


def constant_traits(traits: np.ndarray, names: Sequence[str]) -> list[str]:
    """One line per trait of the training pairs (N, 2, K - 1) that is the same in all chosen, or all rejected, answers.

    >>> constant_traits(np.array([[[3], [5]], [[4], [5]]]), ["length"])
    ['length is the same in all rejected answers: there nothing follows it, and its terms have no gradient']
    """
    return [
        f"{name} is the same in all {side} answers: there nothing follows it, and its terms have no gradient"
        for place, name in enumerate(names)
        for side, values in zip(("chosen", "rejected"), traits[..., place].T, strict=True)
        if np.ptp(values) == 0
    ]


def trait_counter(template: Template, further: Sequence[str] = ()) -> Callable[[str], list[float]]:
    """A function that gives the length of an answer and its `further` traits, names of `COUNTS`.

    >>> from useful_code.render import read_template
    >>> from useful_code.tiny import byte_tokenizer
    >>> count = trait_counter(read_template(byte_tokenizer("chatml")), ["list_items", "bold_marks"])
    >>> count("- **one**\\n- two")  # 15 bytes, the end of the turn and the newline behind it
    [17.0, 2.0, 1.0]
    """
    functions = [length_counter(template), *(COUNTS[name] for name in further)]
    return lambda text: [float(function(text)) for function in functions]
