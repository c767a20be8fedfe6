"""Sources whose rows are one transcript per side."""

import re

from useful_code.chat_pairs import Message
from useful_code.reasons import RowRefused
from useful_code.sources.fields import Row, field
from useful_code.sources.source import Source

_HH_TURN = re.compile(r"\n\n(Human|Assistant):")


def hh_rlhf(row: Row) -> list[Row]:
    r"""Anthropic HH-RLHF (METHODS 11.2). A turn begins only where a blank line comes before "Human:" or "Assistant:".

    >>> pair = hh_rlhf({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"})[0]
    >>> pair["rejected"]
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'No'}]
    """
    return [{side: hh_messages(field(row, side, str), side) for side in ("chosen", "rejected")}]


def hh_messages(transcript: str, side: str) -> list[Message]:
    before, *parts = _HH_TURN.split(transcript)  # then marker, text, marker, text, ...
    if not parts:
        raise RowRefused("no_turn_marker", f'{side} has no "\\n\\nHuman:" or "\\n\\nAssistant:"')
    if before and not before.isspace():
        raise RowRefused("text_before_first_turn", f"{side} begins with {before[:40]!a}")
    return [
        {"role": "user" if marker == "Human" else "assistant", "content": text.strip()}
        for marker, text in zip(parts[::2], parts[1::2], strict=True)
    ]


SOURCES = {
    "hh_rlhf": Source(
        "pairs",
        "Anthropic/hh-rlhf",
        "MIT",
        "chosen, rejected (one transcript each)",
        'split at "\\n\\nHuman:" and "\\n\\nAssistant:" only; white space at the ends of a turn removed',
        hh_rlhf,
    ),
}
