"""What every converter needs: a field of the expected type or a refusal, and the pieces of a chat."""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from useful_code.chat_pairs import Message
from useful_code.reasons import RowRefused

LONGEST_ID = 200  # characters of an identifier or subset

Row = dict[str, Any]
Converted = list[Row | RowRefused]  # what one raw row (or group of rows) becomes; a RowRefused stands for a lost part


class Answer(NamedTuple):
    """One answer with its score. Pairs are made of the answers that share a prompt (see pairing.py)."""

    prompt: list[Message]
    response: str
    score: float  # higher is better
    source_id: str | None = None
    subset: str | None = None


def field(row: Row, key: str, kind: type | tuple[type, ...], prefix: str = "") -> Any:
    """row[key] if it is of this kind (true and false are no numbers); else the row is refused."""
    value = row.get(key)
    if value is None:
        found = ", ".join(str(name) for name in list(row)[:12])
        raise RowRefused("missing_key", f"no {prefix}{key}; keys found: {found[:200]!a}")
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(each.__name__ for each in kinds)
        raise RowRefused("wrong_type", f"{prefix}{key} is {type(value).__name__}, not {names}")
    return value


def text(row: Row, key: str, prefix: str = "") -> str:
    """row[key] as text without white space at its ends (there it names the writer, not the quality)."""
    return field(row, key, str, prefix).strip()


def number(row: Row, key: str, prefix: str = "") -> float:
    """row[key] as a finite float; text such as "4" counts, true, false, "N/A" and NaN do not."""
    value = field(row, key, (int, float, str, Decimal), prefix)
    try:
        converted = float(value)
    except (ValueError, OverflowError):
        converted = math.nan
    if not math.isfinite(converted):
        raise RowRefused("bad_score", f"{prefix}{key} is {shown(value)}, not a finite number")
    return converted


def one_of(row: Row, key: str, allowed: Sequence[Any]) -> Any:
    """row[key] if it equals one of the documented values of a preference; else the row is refused."""
    value = row.get(key)
    for known in allowed:
        if value == known and isinstance(value, bool) == isinstance(known, bool):
            return known
    raise RowRefused("no_preference", f"{key} is {shown(value)}, none of {', '.join(map(str, allowed))}")


def shown(value: Any) -> str:
    """The head of any value, for the detail of a refusal."""
    try:
        return ascii(str(value)[:40])
    except (ValueError, RecursionError):  # a number of more than 4,300 digits; deep nesting
        return f"a {type(value).__name__} too long to show"


def source_id(row: Row, key: str) -> str | None:
    """row[key] as an identifier, or None if it is no usable one."""
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return str(value)
    return value[:LONGEST_ID] or None if isinstance(value, str) else None


def ask(prompt: str, system: str = "") -> list[Message]:
    """A prompt of one user message, after a system message if there is one."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": prompt}]


def make_pair(prompt: list[Message], chosen: str, rejected: str, **columns: Any) -> Row:
    """A chosen/rejected row of a prompt and two answers; columns that are None are left out.

    >>> make_pair(ask("2+2?"), "4", "5", margin=2.0, source_id=None)["margin"]
    2.0
    """
    row: Row = {
        "chosen": [*prompt, {"role": "assistant", "content": chosen}],
        "rejected": [*prompt, {"role": "assistant", "content": rejected}],
    }
    return row | {key: value for key, value in columns.items() if value is not None}


def chat(row: Row, key: str) -> list[Message]:
    """row[key] as a list of messages {role, content} with white space at the ends removed; roles are not checked."""
    messages = field(row, key, list)
    for message in messages:
        if not isinstance(message, dict):
            raise RowRefused("wrong_type", f"a message of {key} is {type(message).__name__}")
    return [{"role": message.get("role"), "content": stripped(message.get("content"))} for message in messages]


def stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value  # what is not text is refused by check_pair
