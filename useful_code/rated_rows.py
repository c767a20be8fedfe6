"""The rated row, which multi-objective models are fitted on (ArmoRM, METHODS 5.2): what is valid.

    {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
     "ratings":  {"helpsteer-helpfulness": 3.0, "helpsteer-verbosity": 1.0},
     "scales":   {"helpsteer-helpfulness": [0.0, 4.0], "helpsteer-verbosity": [0.0, 4.0]}}

Ratings stay as the source gave them; every row carries the lowest and the highest rating of each scale, so that any
scaling to [0, 1] can be made, and inverted, from the file alone. An objective without a rating is absent (null counts
as absent). Unknown columns are kept untouched. Standard library only.
"""

import math
from typing import Any

from useful_code.chat_pairs import check_conversation
from useful_code.reasons import RowRefused


def check_rated(row: Any) -> dict[str, Any]:
    """Return a new, normalised row (see the head of this file), or raise `RowRefused` with a reason.

    >>> chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    >>> row = {"messages": chat, "ratings": {"quality": 3, "style": None}, "scales": {"quality": [1, 5]}}
    >>> check_rated(row)["ratings"]
    {'quality': 3.0}
    >>> check_rated(row | {"ratings": {"quality": 6}})
    Traceback (most recent call last):
    useful_code.reasons.RowRefused: bad_rating: 'quality' is 6, outside its scale 1..5
    """
    check_keys(row, (("messages", list), ("ratings", dict), ("scales", dict)))
    messages = check_conversation(row["messages"], "messages")
    ratings: dict[str, float] = {}
    scales: dict[str, list[float]] = {}
    for objective, value in row["ratings"].items():
        if value is not None:
            low, high = _scale(objective, row["scales"].get(objective))
            rating = _finite(value)
            if rating is None:
                raise RowRefused("bad_rating", f"{shown(objective)} is {shown(value)}, not a finite number")
            if not low <= rating <= high:
                raise RowRefused("bad_rating", f"{shown(objective)} is {rating:g}, outside its scale {low:g}..{high:g}")
            ratings[objective], scales[objective] = rating, [low, high]
    if not ratings:
        raise RowRefused("not_rated", f"no rating among {', '.join(map(shown, row['ratings']))[:200] or 'nothing'}")
    return {**row, "messages": messages, "ratings": ratings, "scales": scales}


def check_keys(row: Any, kinds: tuple[tuple[str, type], ...]) -> None:
    """Refuse what is no dict with a value of the given type under each of these keys."""
    if not isinstance(row, dict):
        raise RowRefused("not_an_object", f"the row is {type(row).__name__}")
    for key, kind in kinds:
        if row.get(key) is None:
            raise RowRefused("missing_key", f"no {key!r}; keys found: {', '.join(map(shown, list(row)[:12]))[:200]}")
        if not isinstance(row[key], kind):
            raise RowRefused("wrong_type", f"{key} is {type(row[key]).__name__}, not {kind.__name__}")


def shown(value: Any) -> str:
    """A value as a refusal shows it: short, ASCII, and never an error (str() of huge integers or deep lists is one).

    >>> shown("N/A"), shown(10**5000), shown([[]])
    ("'N/A'", 'an integer of over 40 digits', 'a list')
    """
    if isinstance(value, str):
        return ascii(value[:40])
    if isinstance(value, int) and abs(value) >= 10**40:
        return "an integer of over 40 digits"
    return str(value) if value is None or isinstance(value, int | float) else f"a {type(value).__name__}"


def _scale(objective: Any, scale: Any) -> tuple[float, float]:
    ends = [_finite(end) for end in scale] if isinstance(scale, list | tuple) and len(scale) == 2 else [None, None]
    low, high = ends
    if not isinstance(objective, str) or low is None or high is None or not low < high:
        raise RowRefused("bad_rating", f"{shown(objective)} has no scale [lowest, highest]")
    return low, high


def _finite(value: Any) -> float | None:
    """The value as a finite float, or None if it is no such number (true and false are none)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
