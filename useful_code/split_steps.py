r"""A solution's text becomes steps, in one way for all commands.

    split_steps("Step 1: 3 - 1 = 2.\nStep 2: The answer is 2.")    # ["Step 1: 3 - 1 = 2.", "Step 2: The answer is 2."]

Steps end at Math-Shepherd's mark where the text has one; else they begin with lines "Step k:"; else blank lines stand
between them; else every line is a step (METHODS 7.2, 7.8). Standard library only.
"""

import re
from typing import NamedTuple

MARK = "ки"  # stands after every step in the data of Math-Shepherd
_STEP_LINE = re.compile(r"^[ \t*#]*step[ \t]*[0-9]+[ \t]*[:.)]", re.IGNORECASE | re.MULTILINE)
ANY_MARK = re.compile(rf"(?<![а-яёА-ЯЁ]){MARK}(?![а-яёА-ЯЁ])")  # no end of a Russian word
_AFTER_MARK = re.compile(rf"{ANY_MARK.pattern}\s*")
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_LINE_END = re.compile(r"\n\s*")


class Step(NamedTuple):
    """A step, and where the next one begins: `text[:end]` is the prefix that a generator continues."""

    text: str
    end: int


def split_steps(text: str) -> list[str]:
    r"""The steps without marks and white space at their ends; empty steps are dropped.

    >>> split_steps("3 - 1 = 2 ки\nThe answer is 2 ки"), split_steps("We add.\nTwo.\n\nSo 2.")
    (['3 - 1 = 2', 'The answer is 2'], ['We add.\nTwo.', 'So 2.'])
    >>> split_steps("В левой руке 2, в обеих руках ручки.")
    ['В левой руке 2, в обеих руках ручки.']
    """
    return [step.text for step in find_steps(text)]


def find_steps(text: str) -> list[Step]:
    r"""Steps with their ends; the last end is the end of the text. Nothing of the text lies outside the steps.

    >>> text = "Step 1: a\nStep 2: b"
    >>> [text[: step.end] for step in find_steps(text)]
    ['Step 1: a\n', 'Step 1: a\nStep 2: b']
    """
    if ANY_MARK.search(text):
        ends = [found.end() for found in _AFTER_MARK.finditer(text)]
    elif _STEP_LINE.search(text):
        ends = [found.start() for found in _STEP_LINE.finditer(text)]
    else:
        separator = _BLANK_LINES if _BLANK_LINES.search(text.strip()) else _LINE_END
        ends = [found.end() for found in separator.finditer(text)]
    steps: list[Step] = []
    start = 0
    for end in [*ends, len(text)]:
        content = ANY_MARK.sub("", text[start:end]).strip()
        if content:
            steps.append(Step(content, end))
        elif steps:  # an empty step belongs to the one before
            steps[-1] = steps[-1]._replace(end=end)
        start = end
    return steps
