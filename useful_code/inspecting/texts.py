"""What can be seen on the surface of a text: traits a label may follow, and traces of something gone wrong."""

import re
from collections.abc import Callable
from typing import NamedTuple


def _number_of(pattern: str, flags: int = 0) -> Callable[[str], int]:
    compiled = re.compile(pattern, flags)
    return lambda text: sum(1 for _ in compiled.finditer(text))


_REFUSAL = re.compile(
    r"\s*(?:(?:i[’']?m|i am) (?:really |very |truly |so )?sorry|sorry|i (?:can(?:no|[’'])t|am (?:not able|unable)|"
    r"[’']m unable|apologi[sz]e|do(?: not|n[’']t) (?:think i|feel))|as an (?:ai|artificial)|unfortunately,? i)",
    re.IGNORECASE,
)
_ENDED = (".", "!", "?", '"', "'", "”", "’", ")", "]", "}", "`", "*", ":", ">", "|", "…", "。", "！", "？")

# What of an answer is called more -> how much of it a text has. None of these knows whether an answer is right.
TRAITS: dict[str, Callable[[str], int]] = {
    "is longer (characters)": len,
    "has more list items": _number_of(r"^[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE),
    "has more headings": _number_of(r"^#{1,6} \S", re.MULTILINE),
    "has more bold text": lambda text: text.count("**") // 2,
    "has more code blocks": lambda text: text.count("```") // 2,
    "has more digits": _number_of(r"\d"),
    "asks more questions": lambda text: text.count("?"),
    "has more exclamation marks": lambda text: text.count("!"),
    "opens as a refusal or an apology": lambda text: int(_REFUSAL.match(text) is not None),
    "stops in mid-sentence": lambda text: int(not text.rstrip().endswith(_ENDED)),
}


class Trace(NamedTuple):
    """Something in a message that rarely belongs there."""

    pattern: re.Pattern[str]
    meaning: str


TRACES: dict[str, Trace] = {
    "turn marker": Trace(
        re.compile(
            r"\n[ \t]*\n[ \t]*(?:Human|Assistant|USER|ASSISTANT|### ?(?:Instruction|Response|Human|Assistant)) ?:"
        ),
        "a message holds a marker of another turn: two turns may be glued together",
    ),
    "template token": Trace(
        re.compile(r"<\|[A-Za-z_]{2,24}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</s>"),
        "a chat template's own token stands in the text",
    ),
    "HTML": Trace(
        re.compile(
            r"&(?:amp|lt|gt|quot|nbsp|#\d{2,5});|</?(?:p|br|div|span|li|ul|ol|strong|em|pre)(?: [^<>]{0,200})?/?>"
        ),
        "tags or entities, which may be left over from a page",
    ),
    "wrong decoding": Trace(
        re.compile("\ufffd|â€[™œ\x9d“”]|Ã[©¨¤¶¼±¡³]"),
        "the text was once decoded wrongly; the original characters are lost",
    ),
    "control character": Trace(
        re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
        "an invisible character that no keyboard types",
    ),
}


def traits_of(text: str) -> list[int]:
    """How much the text has of every trait, in the order of `TRAITS`.

    >>> dict(zip(TRAITS, traits_of("I'm sorry, but no.")))["opens as a refusal or an apology"]
    1
    """
    return [amount(text) for amount in TRAITS.values()]
