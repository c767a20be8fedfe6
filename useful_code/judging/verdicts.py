r"""From the text that a judge wrote to its verdict: the last marker, or the reason why there is none.

A marker is one word in double brackets, `[[A]]` or `[[7]]`; full-width and Chinese brackets count as brackets, `[[a]]`
as `[[A]]`. Only the judge's own text is given to these functions, never a prompt or a response. What a judge thinks
before `</think>` is no verdict.
"""

import math
import re
import unicodedata
from collections.abc import Collection
from typing import Any, NamedTuple

_MARKER = re.compile(r"\[\[\s*([^\[\]\s,]{1,20})\s*\]\]")  # a nested list of numbers, [[0, 1]], is none
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_BRACKETS = str.maketrans("【】〚〛", "[][]")

PROBLEMS = {
    "no_marker": "the text holds no marker",
    "two_markers": "the last line with a marker holds two different ones",
    "unknown_marker": "the last marker is none of the verdicts that were asked for",
    "cut_off": "the text was cut off before a marker that stands alone on its line",
    "request_refused": "the endpoint refused the request",
}


class Verdict(NamedTuple):
    """`value` is a letter or a rating, or None; then `problem` is a key of `PROBLEMS`."""

    value: Any
    problem: str = ""


def parse_choice(text: str, letters: Collection[str], finished: bool = True) -> Verdict:
    """The letter of the last marker.

    >>> parse_choice("A is longer, but [[A]] would be wrong here.\\n\\n[[B]]", "ABC")
    Verdict(value='B', problem='')
    >>> parse_choice("[[A]] or [[B]]", "ABC")
    Verdict(value=None, problem='two_markers')
    """
    found = _last_marker(text, finished)
    if found.problem or found.value in tuple(letters):
        return found
    return Verdict(None, "unknown_marker")


def parse_rating(text: str, scale: tuple[int, int], finished: bool = True) -> Verdict:
    """The number of the last marker, if it lies on the scale.

    >>> parse_rating("Good.\\n[[10]]", (1, 10)).value, parse_rating("[[11]]", (1, 10)).problem
    (10.0, 'unknown_marker')
    """
    found = _last_marker(text, finished)
    if found.problem:
        return found
    rating = float(found.value) if _NUMBER.fullmatch(str(found.value)) else math.nan
    return Verdict(rating) if scale[0] <= rating <= scale[1] else Verdict(None, "unknown_marker")


def _last_marker(text: str, finished: bool) -> Verdict:
    """The normalised content of the last marker. In a text that was cut off it counts only alone on its line: inside a
    sentence it may be what the judge was about to reject. A half line that is no marker is left out."""
    text = text.rpartition("</think>")[2]
    thinking = text.find("<think>")
    if thinking >= 0:  # never closed: what follows is no verdict
        text, finished = text[:thinking], False
    text = unicodedata.normalize("NFKC", text).translate(_BRACKETS)
    lines = text.splitlines()
    if not finished and lines and text[-1:] not in ("\n", "\r") and not _is_marker(lines[-1]):
        lines.pop()
    for line in reversed(lines):
        markers = {_normalised(marker) for marker in _MARKER.findall(line)}
        if markers and not finished and not _is_marker(line):
            return Verdict(None, "cut_off")
        if len(markers) == 1:
            return Verdict(markers.pop())
        if markers:
            return Verdict(None, "two_markers")
    return Verdict(None, "no_marker" if finished else "cut_off")


def _is_marker(line: str) -> bool:
    """Whether a line holds a marker and nothing else, Markdown's signs and white space aside."""
    return _MARKER.fullmatch(line.strip().strip("*`").strip()) is not None


def _normalised(marker: str) -> str:
    r"""One spelling per verdict: letters in upper case, numbers without a fraction of zero.

    >>> [_normalised(marker) for marker in ("a", "7.0", "7.5", "10")]
    ['A', '7', '7.5', '10']
    """
    return re.sub(r"^([0-9]+)\.0+$", r"\1", marker.upper())
