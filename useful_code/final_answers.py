r"""Answers of maths solutions: where they stand in a text, and whether two of them are equal.

    final_answer(r"So 3 + 4 = 7. The answer is \boxed{7}.")    # "7"
    same_answer(r"\frac{1}{2}", "0.5")                         # True
    is_right(solution, gold)                                   # both of these
    answer_classes(["7", "7.0", None, "8"])                    # [0, 0, -1, 1]: for votes

Numbers and words are compared here; only what else there is goes to math-verify (see expression_worker.py). Rules where
graders differ: units, currencies, degrees and percent signs are left out (50% is 50, not 0.5); "x = 5" is 5; a decimal
of six places or more stands for everything that rounds to it; words are compared without case and white space.
"""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from useful_code.expression_worker import equal_expressions
from useful_code.split_steps import ANY_MARK

# --- finding ---

_BOXED = re.compile(r"\\f?boxed\s*\{")
_STATED = re.compile(r"\bthe (?:final |correct )?answer is\b(?: therefore| thus)?[ \t]*:?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_MARK = re.compile(rf"\s*{ANY_MARK.pattern}\s*$")  # Math-Shepherd's end of a step
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)"
_FRACTION = r"\\[dt]?frac\s*\{\s*[-+]?[0-9]+\s*\}\s*\{\s*[0-9]+\s*\}"
_LAST_NUMBER = re.compile(
    rf"(?<![\w)}}])[-+−]?\s?\$?{_FRACTION}|(?<![\w.)}}])[-+−]?\$?{_DECIMAL}(?:/[0-9]+)?|{_DECIMAL}"
)


def final_answer(text: str) -> str | None:
    r"""The answer of a solution as it is written: what `stated_answer` finds, else the last number; None without any.

    >>> final_answer(r"We get $\frac{1}{2}$, so \boxed{\frac{1}{2}}."), final_answer("9 * 2 = 18\n#### 18")
    ('\\frac{1}{2}', '18')
    >>> final_answer("The answer is: 3.5. Done."), final_answer("tom has $1,200 left."), final_answer("I do not know.")
    ('3.5', '1,200', None)
    """
    stated = stated_answer(text)
    if stated is not None:
        return stated
    numbers = [found[0] for found in _LAST_NUMBER.finditer(text)]
    return re.sub(r"[\s$]", "", numbers[-1]).lstrip("+") if numbers else None


def stated_answer(text: str) -> str | None:
    r"""What stands in the last \boxed{}, else behind the last "#### ", else behind the last "the answer is"; or None.

    A text that was cut off before its end has an answer only in this sense: its last number may be anything.

    >>> stated_answer("The answer is x = 2."), stated_answer("3 + 4 is 7.")
    ('x = 2', None)
    """
    text = text.replace(r"\boxed{}", "")
    for start in reversed([found.end() for found in _BOXED.finditer(text)]):
        end = _closing_brace(text, start)
        if end is not None and (answer := _cleaned(text[start:end])):
            return answer
    _, mark, behind = text.rpartition("#### ")
    line, _, more = behind.strip().partition("\n")
    # With more behind it, only a number is an answer: chat models write their headings so.
    if mark and (answer := _cleaned(line)) and (not more or _NUMBER.fullmatch(answer) or _QUOTIENT.fullmatch(answer)):
        return answer
    for found in reversed(list(_STATED.finditer(text))):
        behind = text[found.end() :].lstrip()
        end_of_sentence = _SENTENCE_END.search(behind)
        if answer := _cleaned(behind[: end_of_sentence.start()] if end_of_sentence else behind):
            return answer
    return None


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


def _cleaned(answer: str) -> str:
    """Without what surrounds an answer: white space, dollar signs, bold type, a full stop, the mark of a step."""
    before = None
    while answer != before:
        before = answer
        answer = (
            _MARK.sub("", answer)
            .strip()
            .removesuffix(r"\$")
            .strip("$")
            .removesuffix(".")
            .removeprefix("**")
            .removesuffix("**")
        )
        answer = answer.removeprefix(r"\(").removesuffix(r"\)").removeprefix(r"\[").removesuffix(r"\]")
    return answer


# --- comparing ---


class _Normal(NamedTuple):
    """What is compared of an answer."""

    key: str  # equal keys are equal answers
    number: Fraction | None
    places: int | None  # decimal places, where the number is written with a point
    expression: str | None  # for math-verify; None where it would misread it or never end


_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"(?<!\\)\\(?:[!,;: ]|q?quad\b)|~")  # not the end of a matrix row
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|°")
_ASSIGNED = re.compile(r"^\s*\\?[A-Za-z]\w{0,12}\s*(?:\([A-Za-z]\)\s*)?=\s*([^=<>]+)$")
_NUMBER = re.compile(rf"([-+]?)\s*({_DIGITS}?(?:\.[0-9]*)?)(?:[eE]([-+]?[0-9]{{1,2}}))?")
_QUOTIENT = re.compile(
    rf"([-+]?)\s*(?:({_DIGITS})\s+|({_DIGITS})\s*(?=\\frac))?"  # the whole part of a mixed number
    r"(?:\(?\s*([-+]?[0-9]+)\s*/\s*([0-9]+)\s*\)?|\\frac\s*\{\s*([-+]?[0-9]+)\s*\}\s*\{\s*([-+]?[0-9]+)\s*\}"
    r"|\\frac\s*([0-9])\s*([0-9]))"
)
_POWER = r"(?:\s*\^\s*\{?[23]\}?|[23])?"  # cm^2
_GLUED = "cm|mm|km|kg|mg|lbs?|oz|ft|yd|mi|ml|hrs?|mins?|secs?|mph|kph|dollars?|cents?|degrees?|units?"  # as in 5cm
_UNIT = re.compile(
    rf"(.*[0-9}}.])(?:\s+[A-Za-z]{{2,}}|(?:{_GLUED})(?![a-z]))({_POWER}(?:[ /.-]+[A-Za-z]+{_POWER})*)\.?$"
)
_UNIT_IN_TEXT = re.compile(  # behind what is more than a number: 36\pi\text{ square inches}
    r"(?<=[0-9})a-z])\s*\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}\s*(?:\^\s*\{?[23]\}?)?\s*\.?$"
)
_NO_UNITS = set("pi sqrt sin cos tan cot sec csc log ln exp mod inf infinity and or to over times plus minus".split())
_NO_UNITS |= set("dozen hundred thousand million billion trillion half halves quarter quarters base factorial".split())
_NO_UNITS |= set(
    "thirds third fourths fourth fifths fifth tenths tenth hundredths squared cubed pairs less more".split()
)
_NO_UNITS |= {"am", "pm"}
_FUNCTIONS = {"sqrt", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "infinity"}
_WORD = re.compile(r"[A-Za-z]{4,}|\b(?:yes|no|odd|all|none)\b", re.IGNORECASE)
_COSTLY = re.compile(
    r"(?:\^|\*\*)\s*[({]*\s*[-+]?[0-9]+\s*(?:\^|\*\*|!)"  # a tower of powers
    r"|(?:\^|\*\*)\s*[({]*\s*[-+]?[0-9]{4,}|[0-9]{4,}\s*[)}]*\s*!|!\s*[)}]*\s*!"
)
_MOST_CHARACTERS = 300  # of what goes to math-verify
_LEAST_PLACES = 6  # of a decimal that may stand for a number with more


def same_answer(answer: str | None, gold: str | None) -> bool:
    r"""Whether two answers are equal. None and blank texts equal nothing; the order does not matter.

    What math-verify cannot decide in five seconds is not equal. Raises UserError where it is missing or does not start.

    >>> same_answer(r"\frac{1}{2}", "0.5"), same_answer("$18", "18 dollars"), same_answer("x=5", "5")
    (True, True, True)
    >>> same_answer("(A)", "a"), same_answer("7", "8"), same_answer(None, None)
    (True, False, False)
    """
    if answer is None or gold is None or not answer.strip() or not gold.strip():
        return False
    one, other = _normal(answer), _normal(gold)
    if one.key == other.key:
        return True
    if one.number is not None and other.number is not None:
        return _same_number(one, other)
    if one.expression is None or other.expression is None or _differ_in_kind(one.expression, other.expression):
        return False
    return equal_expressions(one.expression, other.expression)


def _differ_in_kind(first: str, second: str) -> bool:
    """What math-verify would let pass: an equation for its right side, a tuple or an interval for a set.

    >>> _differ_in_kind("2x+3y=6", "6"), _differ_in_kind("2+3=5", "5"), _differ_in_kind("(1,2)", r"\\{1,2\\}")
    (True, False, True)
    """
    sides = [text.partition("=") for text in (first, second)]
    if bool(sides[0][1]) != bool(sides[1][1]):
        left = next(left for left, sign, _ in sides if sign)
        return bool(re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", left)))
    is_set = [text.startswith(r"\{") for text in (first, second)]
    in_brackets = [text[0] in "([" and text[-1] in ")]" and "," in text for text in (first, second)]
    return is_set[0] != is_set[1] and in_brackets[0] != in_brackets[1]


def answer_classes(answers: Sequence[str | None]) -> list[int]:
    """The number of every answer's class, from 0 in the order of first appearance; -1 where there is no answer.

    Equal answers share a class, also where they are equal only by way of a third.

    >>> answer_classes(["1/2", None, "3", "0.5", " "])
    [0, -1, 1, 0, -1]
    """
    by_key: dict[str, str] = {}  # one answer for every way of writing
    for answer in answers:
        if answer is not None and answer.strip():
            by_key.setdefault(_normal(answer).key, answer)
    class_of: dict[str, int] = {}
    for number, (key, answer) in enumerate(by_key.items()):
        equal = {class_of[other] for other in class_of if same_answer(answer, by_key[other])}
        class_of[key] = min(equal, default=number)
        class_of = {other: class_of[key] if of_other in equal else of_other for other, of_other in class_of.items()}
    keys = [_normal(answer).key if answer is not None and answer.strip() else None for answer in answers]
    numbers: dict[int, int] = {}
    return [-1 if key is None else numbers.setdefault(class_of[key], len(numbers)) for key in keys]


def _same_number(one: _Normal, other: _Normal) -> bool:
    """Exactly, or where the coarser of two is a long decimal: equal when rounded as it is."""
    assert one.number is not None and other.number is not None
    places = [side.places for side in (one, other) if side.places is not None]
    if one.number == other.number or not places or min(places) < _LEAST_PLACES:
        return one.number == other.number
    scaled = [round(side.number * 10 ** min(places)) for side in (one, other) if side.number is not None]
    return scaled[0] == scaled[1] and abs(scaled[0]) >= 10 ** (_LEAST_PLACES - 1)  # as many digits that count


@lru_cache(maxsize=2**16)
def _normal(answer: str) -> _Normal:
    if len(answer) > 4 * _MOST_CHARACTERS:
        return _Normal("".join(answer.split()), None, None, None)
    text = "".join(_fraction_written_out(character) for character in _cleaned(answer)).replace("**", "")
    if (boxed := _BOXED.match(text)) and text.endswith("}"):
        text = text[boxed.end() : -1]
    text = text.replace("−", "-").replace(r"\%", "%").replace(r"\$", "$").replace("{,}", ",").replace(r"\left", "")
    text = text.replace(r"\right", "").replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    in_text = _UNIT_IN_TEXT.search(text)
    if in_text and not _NO_UNITS & set(re.findall("[a-z]+", in_text[1].lower())):
        text = text[: in_text.start()]
    text = _DEGREES.sub(" ", _TEXT_COMMAND.sub(r" \1 ", text))
    text = _SPACES.sub(" ", re.sub(r"([0-9])\\[!,](?=[0-9]{3})", r"\1,", text))
    text = re.sub(r"[$€£%]", " ", text).strip()
    if assigned := _ASSIGNED.match(text):
        text = assigned[1].strip()
    number, places = _number(text)
    if number is not None:
        return _Normal(f"= {number} {places if places and places >= _LEAST_PLACES else ''}", number, places, text)
    words = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", text)
    has_word = any(word.lower() not in _FUNCTIONS for word in _WORD.findall(words))
    if has_word or re.fullmatch(r"\(?\s*[A-Za-z]\s*\)?", text):  # words, or the letter of a choice
        key = "".join(re.sub(r"^\(\s*([A-Za-z])\s*\)$", r"\1", text).split()).casefold()
        return _Normal(key, None, None, None if has_word else text.strip("() "))
    costly = len(text) > _MOST_CHARACTERS or _COSTLY.search(text) or not text.isprintable()
    return _Normal("".join(text.split()) or answer.strip(), None, None, None if costly else text)


def _fraction_written_out(character: str) -> str:
    """The fraction that stands in one character, as ½; others stay (² would become a digit)."""
    written = unicodedata.normalize("NFKC", character)
    return f" {written.replace('⁄', '/')} " if "⁄" in written and len(written) > 1 else character


def _number(text: str) -> tuple[Fraction | None, int | None]:
    """The value of a plain number or fraction, and its decimal places where it has a point.

    >>> _number("1 1/2"), _number("-1,200.50 dollars"), _number("3 pi")
    ((Fraction(3, 2), None), (Fraction(-2401, 2), 2), (None, None))
    """
    if len(text) > _MOST_CHARACTERS:  # Python refuses to read a number of thousands of digits
        return None, None
    unit = _UNIT.fullmatch(text)
    if unit and not _NO_UNITS & set(re.findall("[a-z]+", text[unit.end(1) :].lower())):
        text = unit[1]
    text = text.strip()
    found = _NUMBER.fullmatch(text)
    if found and re.search("[0-9]", found[2]):
        sign, digits, exponent = found.groups()
        value = Fraction(digits.replace(",", "").rstrip(".")) * Fraction(10) ** int(exponent or 0)
        places = len(digits.partition(".")[2]) if "." in digits and not exponent else None
        return (-value if sign == "-" else value), places
    if quotient := _QUOTIENT.fullmatch(text):
        sign, *whole, top, bottom, latex_top, latex_bottom, short_top, short_bottom = quotient.groups()
        above, below = int(top or latex_top or short_top), int(bottom or latex_bottom or short_bottom)
        before = int((whole[0] or whole[1] or "0").replace(",", ""))
        if below and not (before and above / below < 0):
            value = before + Fraction(above, below)
            return (-value if sign == "-" else value), None
    return None, None
