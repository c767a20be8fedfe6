r"""Answers of maths solutions: where they stand in a text, and whether two of them are equal.

    final_answer(r"So 3 + 4 = 7. The answer is \boxed{7}.")    # "7"
    same_answer(r"\frac{1}{2}", "0.5")                         # True
    is_right(solution, gold)                                   # both of these
    answer_classes(["7", "7.0", None, "8"])                    # [0, 0, -1, 1]: for votes

Numbers and words are compared here; only what else there is goes to math-verify (see expression_worker.py). Rules where
graders differ: units, currencies, degrees and percent signs are left out (50% is 50, not 0.5); "x = 5" is 5, but not
"y = 5", and "2x = 6" is not 6; the order counts in (1, 2), not in a set or a bare list; 12_5 is 12, but not 12_6; a
decimal of six places or more stands for everything that rounds to it; words are compared without case and white space.
"""

import re
from collections.abc import Iterator, Sequence

from useful_code.answer_values import (
    BOXED,
    DIGITS,
    LEAST_PLACES,
    Normal,
    cleaned,
    is_sentence,
    normal,
    number_of,
    plain_number,
)
from useful_code.expression_worker import equal_expressions, value_of_expression

# --- finding ---

_STATED = re.compile(r"\bthe (?:final |correct )?answer is\b[ \t]*:?", re.IGNORECASE)
_ADVERB = re.compile(
    r"(?:[\s,]*\b(?:therefore|thus|hence|then|so|simply|just|clearly|indeed)\b[\s,:]*)+", re.IGNORECASE
)
_REASON = re.compile(r",?\s+(?:because|since|which)\b")
_DOUBT = re.compile(r"\b(?:whether|if)\s+(?:or\s+not\s+)?\Z", re.IGNORECASE)  # before "the answer is even"
_DEGREE = r"(?:not|yet|also|very|quite|really|clearly|indeed|in fact|probably|still|now|already|only|both)\s+"
_JUDGED = (
    r"(?:in)?(?:correct|valid|consistent|accurate)|(?:un)?(?:reasonable|clear)|right|wrong|fine|good|sensible|plausible"
    r"|logical|obvious|unique|simple|straightforward|trivial|easy|as expected|(?:verified|confirmed)(?! as\b| to\b)"
)
_GOES_ON = (
    "and|but|or|because|since|as|so|for|to|with|by|here|now|too|then|that|if|when|in|from|at|up|only|given|enough|based"
    "|after|before|though|although|which|due"
)
# "not obvious" and "correct to two places", but neither "Valid" nor "right triangle"
_ASSESSMENT = re.compile(rf"\s*(?:{_DEGREE})*(?:{_JUDGED})\b(?!-|\s+(?!(?:{_GOES_ON})\b)[\w$\\])")
_DISPLAY = re.compile(r"\$\$(.*?)\$\$|\\\[(.*?)\\\]", re.DOTALL)
_CLOSED = re.compile(r"(?:\s|\.|[^\s$\\]\$|\\[)\]]|\*\*[^*\n]+\*\*)\Z")  # nothing can be added to its last word
_SENTENCE_END = re.compile(r"[.!?](?=\s|\*\*(?:\s|$)|$)|\n")
_BOLD = re.compile(r"\*\*(\S(?:[^*\n]*\S)?)\*\*(?![\w(])")
_DECIMAL = rf"(?:{DIGITS}(?:\.[0-9]+)?|\.[0-9]+)"
_FRACTION = r"\\[dt]?frac\s*\{\s*[-+]?[0-9]+\s*\}\s*\{\s*[0-9]+\s*\}"
_BARE_BOX = re.compile(rf"\s+([-+]?{_FRACTION}|[^\s${{}}\\]+)")  # "\boxed 7"
_LAST_NUMBER = re.compile(
    rf"(?<![\w.)}}])[-+−]?\$?{DIGITS}(?:[ \t]+[0-9]+[/⁄][0-9]+|[ \t]*{_FRACTION})"  # a mixed number
    rf"|(?<![\w.)}}])[-+−]?\$?{DIGITS}?[ \t]?[¼-¾⅐-⅞]"
    rf"|(?<![\w)}}])[-+−]?\s?\$?{_FRACTION}|(?<![\w.)}}])[-+−]?\$?{_DECIMAL}(?:[/⁄][0-9]+)?|{_DECIMAL}"
)


def final_answer(text: str) -> str | None:
    r"""The answer of a solution as it is written: what `stated_answer` finds, else the last number; None without any.

    >>> final_answer(r"We get $\frac{1}{2}$, so \boxed{\frac{1}{2}}."), final_answer("9 * 2 = 18\n#### 18")
    ('\\frac{1}{2}', '18')
    >>> final_answer("The answer is: 3.5. Done."), final_answer("tom ate 3 1/2 pies."), final_answer("I do not know.")
    ('3.5', '3 1/2', None)
    """
    stated = stated_answer(text)
    if stated is not None:
        return stated
    numbers = [found[0] for found in _LAST_NUMBER.finditer(text)]
    return re.sub(r"(?<![0-9])\s|[$]", "", " ".join(numbers[-1].split())).lstrip("+") if numbers else None


def stated_answer(text: str) -> str | None:
    r"""What stands in the last \boxed{}, else behind the last "#### ", else behind the last "the answer is"; or None.

    "#### " is a heading where more text follows and the line is no number; "the answer is correct" states none. A text
    that was cut off before its end has an answer only in this sense: its last number may be anything.

    >>> stated_answer("The answer is x = 2."), stated_answer("3 + 4 is 7."), stated_answer(r"so \boxed 7.")
    ('x = 2', None, '7')
    >>> stated_answer("So the answer is that she makes 18 dollars, since 9 * 2 = 18.")
    '18 dollars'
    """
    return next((answer for answer, _ in _all_stated(text)), None)


def stated_before_cut(text: str) -> str | None:
    r"""The same of a text that was cut off: the last stated answer behind which something stands, if only white space
    or a full stop. At the very end "The answer is 1" may have become 180.

    >>> [stated_before_cut(text) for text in ("9 * 20 = 180. The answer is 1", "#### 1", "The answer is 18 as")]
    [None, None, None]
    >>> [stated_before_cut(text) for text in ("The answer is 180. So", "#### 180\n", r"so \boxed{180}")]
    ['180', '180', '180']
    """
    is_closed = _CLOSED.search(text) is not None
    return next((answer for answer, is_followed in _all_stated(text) if is_followed or is_closed), None)


def _all_stated(text: str) -> Iterator[tuple[str, bool]]:
    """What `stated_answer` looks for, the best first, and whether the text goes on behind it."""
    for candidate, is_followed in (*_boxed(text), *_marked(text), *_stated(text)):
        if answer := cleaned(candidate):
            yield answer, is_followed


def _boxed(text: str) -> Iterator[tuple[str, bool]]:
    """From the last one on, as in what follows."""
    for command in reversed(list(re.finditer(r"\\f?boxed(?![A-Za-z])", text))):
        with_brace = BOXED.match(text, command.start())
        bare = _BARE_BOX.match(text, command.end())
        if with_brace:
            end = _closing_brace(text, with_brace.end())
            yield text[with_brace.end() : end] if end is not None else "", True
        elif bare:
            yield bare[1].rstrip(",.;:!?"), bare.end() < len(text)


def _marked(text: str) -> Iterator[tuple[str, bool]]:
    for mark in reversed(list(re.finditer("#### ", text))):
        line, _, behind = text[mark.end() :].strip().partition("\n")
        if not behind.strip() or plain_number(cleaned(line).lstrip("$"))[0] is not None:
            yield line, bool(behind)


def _stated(text: str) -> Iterator[tuple[str, bool]]:
    """Without what is asked ("whether the answer is even") and what is said of an answer ("the answer is correct")."""
    for found in reversed(list(_STATED.finditer(text))):
        if _DOUBT.search(text, max(0, found.start() - 20), found.start()):
            continue
        behind = text[found.end() :]
        adverb = _ADVERB.match(behind)
        behind = behind[adverb.end() if adverb else 0 :].lstrip()
        end_of_sentence = _SENTENCE_END.search(behind)
        sentence = behind[: end_of_sentence.start()] if end_of_sentence else behind
        display = _DISPLAY.match(behind)
        if display and display.end() > len(sentence):  # over several lines
            yield " ".join((display[1] or display[2] or "").split()).rstrip(",;"), True
            continue
        sentence, *reason = _REASON.split(_BOLD.sub(r"\1", sentence), maxsplit=1)
        if _ASSESSMENT.match(sentence):
            continue
        first = _LAST_NUMBER.search(sentence) if is_sentence(sentence) and sentence[:1].isalpha() else None
        # "that she makes 18 dollars" is 18 dollars; "Tuesday, 3 tenths of it" is not 3
        is_number = first and number_of(sentence[first.start() :].strip())[0]
        yield sentence[first.start() :] if first and is_number else sentence, bool(end_of_sentence or reason)


def gold_answer(gold: str) -> str | None:
    r"""The answer that a data set gives: the stated one of a solution; a text of one line is an answer as a whole.

    >>> gold_answer("9 * 2 = 18\n#### 18"), gold_answer(r"x^2 + 1"), gold_answer(" ")
    ('18', 'x^2 + 1', None)
    """
    return stated_answer(gold) or (final_answer(gold) if "\n" in gold.strip() else gold.strip() or None)


def is_right(text: str, gold: str) -> bool:
    """Whether the final answer of `text` is that of `gold`, a solution or an answer alone.

    >>> is_right("So she makes 18 dollars.", "9 * 2 = 18\\n#### 18")
    True
    """
    return same_answer(final_answer(text), gold_answer(gold))


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
        if depth == 0:
            return place
    return None


# --- comparing ---


def same_answer(answer: str | None, gold: str | None) -> bool:
    r"""Whether two answers are equal. None and blank texts equal nothing; the order does not matter.

    No text makes it raise or take long: what math-verify cannot decide in five seconds is not equal. Raises UserError
    where math-verify is needed and missing.

    >>> same_answer(r"\frac{1}{2}", "0.5"), same_answer("$18", "18 dollars"), same_answer("x=5", "5")
    (True, True, True)
    >>> same_answer("(A)", "a"), same_answer("7", "8"), same_answer(None, None)
    (True, False, False)
    """
    if answer is None or gold is None or not answer.strip() or not gold.strip():
        return False
    one, other = normal(answer), normal(gold)
    if one.name and other.name and one.name != other.name:
        return False  # the lines x = 3 and y = 3
    if one.key == other.key:
        return True
    if one.has_base and other.has_base:
        return False  # math-verify does not look at the base
    if one.number is not None and other.number is not None:
        return _same_number(one, other)
    if one.expression is None or other.expression is None or one.is_equation != other.is_equation:
        return False  # math-verify would call an equation equal to its right side
    ordered = {side.brackets for side in (one, other)} - {"{}", ",", ""}
    kinds = {one.brackets, other.brackets}
    if ordered and ("{}" in kinds or "," in kinds and not ordered & {"()", "[]"}):
        return False
    first, second = (_in_brackets(side, ordered) for side in (one, other))
    return equal_expressions(first, second)


def answer_classes(answers: Sequence[str | None]) -> list[int]:
    """The number of every answer's class, from 0 in the order of first appearance; -1 where there is no answer.

    Equal answers share a class, also where they are equal only by way of a third.

    >>> answer_classes(["1/2", None, "3", "0.5", " "])
    [0, -1, 1, 0, -1]
    """
    by_key: dict[str, str] = {}  # one answer for every way of writing
    for answer in answers:
        if answer is not None and answer.strip():
            by_key.setdefault(normal(answer).key, answer)
    value_of = {key: _value(normal(answer)) for key, answer in by_key.items()}  # of 1,024 answers most are told apart
    class_of: dict[str, int] = {}
    for number, (key, answer) in enumerate(by_key.items()):
        close = [other for other in class_of if _are_close(value_of[key], value_of[other])]
        equal = {class_of[other] for other in close if same_answer(answer, by_key[other])}
        class_of[key] = min(equal, default=number)
        class_of = {other: class_of[key] if of_other in equal else of_other for other, of_other in class_of.items()}
    keys = [normal(answer).key if answer is not None and answer.strip() else None for answer in answers]
    numbers: dict[int, int] = {}
    return [-1 if key is None else numbers.setdefault(class_of[key], len(numbers)) for key in keys]


def _value(side: Normal) -> float | None:
    if side.number is None:
        return value_of_expression(side.expression) if side.expression is not None else None
    try:
        return float(side.number)
    except OverflowError:
        return None


def _are_close(one: float | None, other: float | None) -> bool:
    """Whether two answers of these values may be equal. Wide beside the six places to which math-verify rounds."""
    return one is None or other is None or abs(one - other) <= 1e-4 * max(1.0, abs(one), abs(other))


def _in_brackets(side: Normal, ordered: set[str]) -> str:
    """The expression; a bare list in the brackets of the other side, so that the order counts there too."""
    assert side.expression is not None
    around = min(ordered, default="")
    return f"{around[0]}{side.expression}{around[1]}" if around and side.brackets == "," else side.expression


def _same_number(one: Normal, other: Normal) -> bool:
    """Exactly, or where the coarser of two is a long decimal: equal when rounded as it is."""
    assert one.number is not None and other.number is not None
    places = [side.places for side in (one, other) if side.places is not None]
    if one.number == other.number or not places or min(places) < LEAST_PLACES:
        return one.number == other.number
    scaled = [round(side.number * 10 ** min(places)) for side in (one, other) if side.number is not None]
    return scaled[0] == scaled[1] and abs(scaled[0]) >= 10 ** (LEAST_PLACES - 1)  # as many digits that count
