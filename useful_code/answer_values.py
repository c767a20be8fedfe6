r"""What an answer is worth: its number where it has one, else an expression for math-verify, without units.

    number_of("18 dollars")[0]                  # Fraction(18, 1)
    normal(r"36\pi\text{ cm}^2").expression     # "36\pi"

A unit is a word that came out of \text{} or \mathrm{}, that stands behind a space, or that `_GLUED` lists; "6xy" has
none. Words that change the value ("3 tenths", "10 am") are no units.
"""

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from useful_code.split_steps import ANY_MARK

BOXED = re.compile(r"\\f?boxed\s*\{")
DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
BASED = re.compile(r"((?=[A-Fa-f]*[0-9])[0-9A-Fa-f]+)\s*_\s*\{?\s*([0-9]{1,2})\s*\}?")
_MARK = re.compile(rf"\s*{ANY_MARK.pattern}\s*$")  # Math-Shepherd's end of a step


class Normal(NamedTuple):
    """What is compared of an answer."""

    key: str  # equal keys are equal answers
    number: Fraction | None
    places: int | None  # decimal places, where the number is written with a point
    expression: str | None  # for math-verify; None where it would misread it or never end
    is_equation: bool = False  # with a letter on its left side
    brackets: str = ""  # of a whole list: "{}", "()", "[)" and so on; "," without any
    name: str = ""  # x of "x = 5", where it is one letter

    @property
    def has_base(self) -> bool:
        """A number with its base: 4210_5."""
        return BASED.fullmatch(self.key) is not None


def cleaned(answer: str) -> str:
    """Without what surrounds an answer: white space, dollar signs, bold type, a full stop, the mark of a step."""
    before = None
    while answer != before:
        before = answer
        answer = _MARK.sub("", answer).strip().removesuffix(r"\$").strip("$").removesuffix(".")
        answer = answer.removeprefix("**").removesuffix("**")
        answer = answer.removeprefix(r"\(").removesuffix(r"\)").removeprefix(r"\[").removesuffix(r"\]")
    return answer


# --- signs ---

_SPACES = re.compile(r"(?<!\\)\\(?:[!,;: ]|q?quad\b)|~")  # not the end of a matrix row
_DEGREES = re.compile(
    r"(?:\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|°)"
    r"(?:\s*(?:[CF](?![A-Za-z])|\\(?:text|mathrm)\s*\{\s*[CF]\s*\}))?"
)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))


def _plain_signs(text: str) -> str:
    r"""One way of writing for signs that have several.

    >>> _plain_signs("3½ − x²"), _plain_signs("2√3"), _plain_signs(r"10,\!080")
    ('3 1/2 - x^{2}', '2\\sqrt{3}', '10,080')
    """
    if not text.isascii():
        text = re.sub(
            f"[{''.join(_RAISED)}]+", lambda found: "^{" + "".join(_RAISED[sign] for sign in found[0]) + "}", text
        )
        text = re.sub(r"(?<=[0-9])(?=[¼-¾⅐-⅞])", " ", text)
        text = unicodedata.normalize("NFKC", text).replace("⁄", "/").replace("−", "-")
        text = text.replace("×", r"\times ").replace("·", r"\cdot ").replace("π", r"\pi ").replace("∞", r"\infty ")
        text = re.sub(r"√\s*(?:([0-9]+|[A-Za-z])|\(([^()]*)\))", lambda root: rf"\sqrt{{{root[1] or root[2]}}}", text)
        text = text.replace("≈", r"\approx ")
    text = text.replace(r"\%", "%").replace(r"\$", "$").replace("{,}", ",")
    text = re.sub(r"([0-9]),?\s*\\!\s*(?=[0-9]{3}(?![0-9]))", r"\1,", text)  # as MATH writes 10,080
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])", "", text).replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    return re.sub(r"\\frac\s*(\\pi|[0-9])\s*(\\pi(?![A-Za-z])|[0-9])", r"\\frac{\1}{\2}", text)


# --- units ---

_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_POWER = r"(?:\s*\^\s*\{?[23]\}?|[23])?"  # cm^2
_TEXT_UNIT = re.compile(rf"(.*\S)\s*\\(?:text|textrm|mbox|mathrm)\s*\{{([^{{}}]*)\}}\s*{_POWER}\s*", re.DOTALL)
_GLUED = (
    "cm km kg mm mg ml mL dm lb lbs oz ft yd mi hr hrs min mins sec secs mph kph km/h m/s st nd rd th "
    "dollar dollars cent cents euro euros USD inch inches foot feet yard yards mile miles "
    "meter meters metre metres second seconds minute minutes hour hours day days degree degrees unit units"
).split()
_SPACED = [*_GLUED, "m", "g", "L", "in"]
_WORDS_AFTER = rf"{_POWER}(?:[ /.-]+[A-Za-z]+{_POWER})*"
_UNIT = re.compile(
    rf"(.*[0-9}}.)])(?:\s+(\(?(?:[A-Za-z]{{3,}}|{'|'.join(_SPACED)})(?![A-Za-z]){_WORDS_AFTER}\)?)"
    rf"|\s*((?:{'|'.join(_GLUED)})(?![A-Za-z]){_WORDS_AFTER}))\.?"
)
_LONG_UNIT = re.compile(
    rf"(.*(?:[0-9}})]|\\pi))\s+((?:[A-Za-z]{{4,}}|{'|'.join(_GLUED)})(?![A-Za-z]){_WORDS_AFTER})\.?"
)
_NO_UNITS = set("pi sqrt sin cos tan cot sec csc log ln exp mod inf infinity and or to over times plus minus".split())
_NO_UNITS |= set("dozen hundred thousand million billion trillion half quarter base factorial pair couple".split())
_NO_UNITS |= set("third fourth fifth sixth seventh eighth ninth tenth hundredth thousandth millionth".split())
_NO_UNITS |= {f"{word}s" for word in _NO_UNITS} | set("halves squared cubed less more fewer below am pm if is".split())
_NO_UNITS -= {"sec", "secs"}  # seconds, where no argument follows
_OPERATOR = re.compile(r"\\(?:in|notin|cup|cap|times|cdot|div|pm|mp|leq?|geq?|lt|gt|neq?|equiv|approx|to)$")


def _is_unit(words: str) -> bool:
    return not _NO_UNITS & set(re.findall("[a-z]+", words.lower()))


def _without_text_unit(text: str) -> str:
    r"""Without \text{...} at the end of what has a digit or a command.

    >>> _without_text_unit(r"25\pi\text{ cm}^2"), _without_text_unit(r"5\text{ million}")
    ('25\\pi', '5\\text{ million}')
    """
    while (found := _TEXT_UNIT.fullmatch(text)) and found[2].strip():
        before = found[1]
        if not re.search(r"[0-9]|\\(?!text|mathrm|mbox)[A-Za-z]", before) or not re.search(r"[\w})\]!]$", before):
            break
        if before.endswith("^") or before.endswith("_") or _OPERATOR.search(before) or not _is_unit(found[2]):
            break
        text = before
    return text


def _without_unit(text: str) -> str:
    """Without words at the end of a number."""
    unit = _UNIT.fullmatch(text)
    return unit[1].strip() if unit and _is_unit(unit[2] or unit[3]) else text.strip()


# --- numbers ---

_NUMBER = re.compile(rf"([-+]?)\s*({DIGITS}?(?:\.[0-9]*)?)(?:[eE]([-+]?[0-9]{{1,2}}))?")
_QUOTIENT = re.compile(
    rf"([-+]?)\s*(?:({DIGITS})\s+|({DIGITS})\s*(?=\\frac))?"  # the whole part of a mixed number
    r"(?:\(?\s*([-+]?[0-9]+)\s*/\s*([0-9]+)\s*\)?|\\frac\s*\{\s*([-+]?[0-9]+)\s*\}\s*\{\s*([-+]?[0-9]+)\s*\}"
    r"|\\frac\s*([0-9])\s*([0-9]))"
)
_POWER_OF_TEN = re.compile(
    rf"([-+]?)\s*(?:({DIGITS}?(?:\.[0-9]+)?)\s*(?:\\times|\\cdot|\*|x(?=\s*10\s*\^))\s*)?"
    r"10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?[0-9]{1,3})\s*\}|\(\s*([-+]?[0-9]{1,3})\s*\)|(-?[0-9]{1,3}))"
)
_MOST_CHARACTERS = 300  # of a number, and of what goes to math-verify


def number_of(text: str) -> tuple[Fraction | None, int | None]:
    """The value of a plain number or fraction with or without a unit, and its decimal places if it has a point.

    >>> number_of("1 1/2"), number_of("-1,200.50 dollars"), number_of("3 pi"), number_of("3 tenths")
    ((Fraction(3, 2), None), (Fraction(-2401, 2), 2), (None, None), (None, None))
    """
    if len(text) > _MOST_CHARACTERS:  # Python refuses to read a number of thousands of digits
        return None, None
    return plain_number(_without_unit(text))


def plain_number(text: str) -> tuple[Fraction | None, int | None]:
    r"""The same of a text that is a number as a whole.

    >>> plain_number(r"1.5 \times 10^{-2}")[0], plain_number("18 dollars")[0]
    (Fraction(3, 200), None)
    """
    if len(text) > _MOST_CHARACTERS:
        return None, None
    found = _NUMBER.fullmatch(text)
    if found and re.search("[0-9]", found[2]):
        sign, digits, exponent = found.groups()
        value = Fraction(digits.replace(",", "").rstrip(".")) * Fraction(10) ** int(exponent or 0)
        places = len(digits.partition(".")[2]) if "." in digits and not exponent else None
        return (-value if sign == "-" else value), places
    quotient = _QUOTIENT.fullmatch(text)
    if quotient:
        sign, *whole, top, bottom, latex_top, latex_bottom, short_top, short_bottom = quotient.groups()
        above, below = int(top or latex_top or short_top), int(bottom or latex_bottom or short_bottom)
        before = int((whole[0] or whole[1] or "0").replace(",", ""))
        if below and not (before and above / below < 0):
            value = before + Fraction(above, below)
            return (-value if sign == "-" else value), None
    power = _POWER_OF_TEN.fullmatch(text)
    if power and power[2] != "":
        sign, factor, *exponents = power.groups()
        value = Fraction((factor or "1").replace(",", "")) * Fraction(10) ** int(next(filter(None, exponents)))
        return (-value if sign == "-" else value), None
    return None, None


# --- the rest ---

_ASSIGNED = re.compile(
    r"^\s*(?:m?\\angle\s*)?\\?[A-Za-z]\w{0,12}(?:_\{\s*\w+\s*\})?'*\s*"
    r"(?:\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\)\s*)?=\s*([^=<>]+)$"
)
_TUPLE_NAMED = re.compile(r"^\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)\s*=\s*(?=\\?[(\[{])")
_OR = re.compile(r"\s+(?:or|and)\s+")
_BETWEEN = re.compile(rf"{_OR.pattern}|\s*,(?![0-9]{{3}}(?![0-9]))\s*")
_NAMED_PART = re.compile(r"(?:([A-Za-z])\s*=\s*)?([^=<>]+)")
_FUNCTIONS = {"sqrt", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "infinity"}
_WORD = re.compile(r"[A-Za-z]{4,}|\b(?:yes|no|odd|all|none)\b", re.IGNORECASE)
_COSTLY = re.compile(
    r"(?:\^|\*\*)\s*[({]*\s*[-+]?[0-9]+\s*(?:\^|\*\*|!)"  # a tower of powers
    r"|(?:\^|\*\*)\s*[({]*\s*[-+]?[0-9]{4,}|[0-9]{4,}\s*[)}]*\s*!|!\s*[)}]*\s*!"
)
LEAST_PLACES = 6  # of a decimal that may stand for a number with more


def is_sentence(text: str) -> bool:
    r"""Whether a line is more than an answer: several words, one of them no name of a function.

    >>> is_sentence("It is 7."), is_sentence(r"2 \sin x + 1"), is_sentence("Paris")
    (True, False, False)
    """
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", " ", text))
    return len(text.split()) > 1 and any(word.lower() not in _FUNCTIONS | _NO_UNITS for word in words)


@lru_cache(maxsize=2**16)
def normal(answer: str) -> Normal:
    """An answer in the form that is compared; never raises."""
    if len(answer) > 4 * _MOST_CHARACTERS:
        return Normal("".join(answer.split()), None, None, None)
    text = cleaned(answer)
    boxed = BOXED.match(text)
    if boxed and text.endswith("}"):
        text = text[boxed.end() : -1]
    text = _DEGREES.sub(" ", _plain_signs(text))
    text = _SPACES.sub(" ", re.sub(r"([0-9])\\,(?=[0-9]{3})", r"\1,", text))
    text = _without_text_unit(re.sub(r"[$€£%]", " ", text).strip())
    text = _TEXT_COMMAND.sub(r" \1 ", text).strip().removeprefix(r"\approx").strip()
    named = re.match(r"([A-Za-z])\s*=", text)
    text = _without_names(text)
    based = BASED.fullmatch(text)
    if based:
        text = f"{based[1].upper()}_{based[2]}"
    number, places = number_of(text)
    if number is not None:
        key = f"= {number} {places if places and places >= LEAST_PLACES else ''}"
        return Normal(key, number, places, _without_unit(text), name=named[1] if named else "")
    unit = _LONG_UNIT.fullmatch(text)
    if unit and re.search("[0-9]", unit[1]) and _is_unit(unit[2]) and not _WORD.search(_no_commands(unit[1])):
        text = unit[1]
    words = _no_commands(text)
    has_word = any(word.lower() not in _FUNCTIONS for word in _WORD.findall(words))
    if has_word or re.fullmatch(r"\(?\s*[A-Za-z]\s*\)?", text):  # words, or the letter of a choice
        key = "".join(re.sub(r"^\(\s*([A-Za-z])\s*\)$", r"\1", text).split()).casefold()
        return Normal(key, None, None, None if has_word else text.strip("() "))
    costly = len(text) > _MOST_CHARACTERS or _COSTLY.search(text) or not text.isprintable()
    is_equation = re.search(r"[A-Za-z]", words.partition("=")[0]) is not None and "=" in words
    key = "".join(text.split()) or answer.strip()
    name = named[1] if named and not is_equation else ""
    return Normal(key, None, None, None if costly else text, is_equation, _brackets(text), name)


def _without_names(text: str) -> str:
    """The values of "x = 5", of "x = 1 or x = 2", of "(x, y) = (1, 2)"; a list without names with commas.

    >>> _without_names("x=1 or x = 2"), _without_names("(x, y) = (1, 2)"), _without_names("x = 1, y = 2")
    ('1, 2', '(1, 2)', 'x = 1, y = 2')
    """
    text = _TUPLE_NAMED.sub("", text)
    parts = [_NAMED_PART.fullmatch(part) for part in _BETWEEN.split(text)]
    names = {part[1] for part in parts if part and part[1]}
    if None not in parts and len(parts) > 1 and (len(names) == 1 or not names and _OR.search(text)):
        values = ", ".join(part[2].strip() for part in parts if part)
        return text if _WORD.search(_no_commands(values)) else values
    assigned = _ASSIGNED.match(text)
    return assigned[1].strip() if assigned else text


def _no_commands(text: str) -> str:
    return re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", text)


def _brackets(text: str) -> str:
    r"""Those of a list as a whole.

    >>> _brackets("(1, 2]"), _brackets(r"\{1, 2\}"), _brackets("(1,2), (3,4)"), _brackets("f(1, 2)")
    ('(]', '{}', ',', '')
    """
    text = text.replace(r"\{", "{").replace(r"\}", "}")
    depth, closed_at = 0, None
    commas_at = set()  # depths
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == ",":
            commas_at.add(depth)
        if depth == 0 and closed_at is None and place:
            closed_at = place
    if 0 in commas_at:
        return ","
    is_whole = text[:1] and text[0] in "([{" and text[-1] in ")]}" and closed_at == len(text) - 1
    return text[0] + text[-1] if is_whole and 1 in commas_at else ""
