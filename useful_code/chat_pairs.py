"""The chosen/rejected row: what is valid, why a row is refused, and which prompt it belongs to.

    {"chosen":   [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}],
     "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"}]}

Both lists share everything but the last assistant message. Optional columns, checked when present (a null
counts as absent): `chosen_score` and `rejected_score` (finite), `margin` (finite, >= 0), `label` (0..1: the
probability that `chosen` is the preferred one), `tie` (true: annotators called it a tie; implies label
0.5). Unknown columns are kept untouched. Standard library only, so that it imports in milliseconds.
"""

import hashlib
import math
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import Any

from useful_code.reasons import RowRefused

Message = dict[str, str]


def check_conversation(messages: Any, where: str = "conversation", ends_with: str = "assistant") -> list[Message]:
    """Return a new list of {role, content} messages, or raise `RowRefused`.

    One leading system message is allowed; then user and assistant alternate, beginning with user.
    `ends_with` is "assistant" for a whole conversation and "user" for a prompt that waits for its answer.
    Keys of a message other than role and content are dropped. Rule of METHODS 0.1
    (pair-pm/process_pair_data.py of the original).

    >>> check_conversation([{"role": "user", "content": "Hi", "id": 3}], ends_with="user")
    [{'role': 'user', 'content': 'Hi'}]
    """
    if not isinstance(messages, list):
        hint = "; turn transcripts into messages with convert_dataset.py" if isinstance(messages, str) else ""
        raise RowRefused("wrong_type", f"{where} is {type(messages).__name__}, not a list of messages{hint}")
    if not messages:
        raise RowRefused("no_messages", f"{where} is an empty list")
    checked = []
    expected = "user"
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise RowRefused("wrong_type", f"{where}[{index}] is {type(message).__name__}, not an object")
        role = message.get("role")
        content = message.get("content")
        if role is None or content is None:
            raise RowRefused("missing_key", f"{where}[{index}] has no {'role' if role is None else 'content'}")
        if not isinstance(role, str) or not isinstance(content, str):
            name, value = ("role", role) if not isinstance(role, str) else ("content", content)
            raise RowRefused("wrong_type", f"{where}[{index}].{name} is {type(value).__name__}, not text")
        if role == expected:
            expected = "assistant" if role == "user" else "user"
        elif not (role == "system" and index == 0):
            if role not in ("system", "user", "assistant"):
                raise RowRefused("unknown_role", f"{where}[{index}].role is {role[:40]!a}")
            raise RowRefused("role_order", f"{where}[{index}] is {role} where {expected} was expected")
        if not content or content.isspace():
            raise RowRefused("empty_content", f"{where}[{index}] ({role}) is empty or only white space")
        if not content.isascii() and not _is_valid_text(content):
            raise RowRefused("invalid_unicode", f"{where}[{index}] ({role}) holds a lone surrogate")
        checked.append({"role": role, "content": content})
    if checked[-1]["role"] != ends_with:
        raise RowRefused("odd_length", f"{where} ends with {checked[-1]['role']}, not with {ends_with}")
    return checked


def check_pair(row: Any) -> dict[str, Any]:
    """Return a new, normalised row (see the head of this file), or raise `RowRefused` with a reason.

    >>> question = {"role": "user", "content": "2 + 2?"}
    >>> good, bad = [{"role": "assistant", "content": text} for text in ("4", "5")]
    >>> check_pair({"chosen": [question, good], "rejected": [question, bad], "margin": 1})["margin"]
    1.0
    >>> check_pair({"chosen": [question, good], "rejected": [question, good]})
    Traceback (most recent call last):
    useful_code.reasons.RowRefused: equal_responses: the last messages are equal
    """
    if not isinstance(row, dict):
        raise RowRefused("not_an_object", f"the row is {type(row).__name__}")
    for key in ("chosen", "rejected"):
        if row.get(key) is None:
            found = ", ".join(str(name) for name in list(row)[:12])
            raise RowRefused("missing_key", f"no {key!r}; keys found: {found[:200]!a}")
    chosen = check_conversation(row["chosen"], "chosen")
    rejected = check_conversation(row["rejected"], "rejected")
    if chosen[0] != rejected[0] and "system" in (chosen[0]["role"], rejected[0]["role"]):
        raise RowRefused("system_differs", "the system messages differ, or only one side has one")
    if len(chosen) != len(rejected):
        raise RowRefused("unequal_length", f"chosen has {len(chosen)} messages, rejected {len(rejected)}")
    if chosen[:-1] != rejected[:-1]:
        index = next(i for i in range(len(chosen)) if chosen[i] != rejected[i])
        raise RowRefused("history_differs", f"message {index} differs")
    # Templates trim the ends (Llama-3, Gemma): a difference in white space there is none after rendering.
    if chosen[-1]["content"].strip() == rejected[-1]["content"].strip():
        raise RowRefused("equal_responses", "the last messages are equal")
    checked = {**row, "chosen": chosen, "rejected": rejected}
    if len(row) > 2:
        _check_optional(checked)
    return checked


def _check_optional(row: dict[str, Any]) -> None:
    """Check the optional columns in place; a null counts as absent (parquet fills gaps with null)."""
    for key, test, reason in _OPTIONAL_NUMBERS:
        if key in row:
            value = row[key]
            if value is None:
                del row[key]
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise RowRefused(reason, f"{key} is {type(value).__name__}, not a number")
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if not math.isfinite(number) or not test(number):
                raise RowRefused(reason, f"{key} is {number!r}")
            row[key] = number
    if "tie" in row:
        tie = row["tie"]
        if tie is None:
            del row["tie"]
        elif not isinstance(tie, bool):
            raise RowRefused("bad_tie", f"tie is {type(tie).__name__}, not true or false")
        elif tie and row.setdefault("label", 0.5) != 0.5:
            raise RowRefused("bad_tie", f"tie is true but label is {row['label']!r}")


_OPTIONAL_NUMBERS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("chosen_score", lambda number: True, "bad_score"),
    ("rejected_score", lambda number: True, "bad_score"),
    ("margin", lambda number: number >= 0, "bad_margin"),
    ("label", lambda number: 0 <= number <= 1, "bad_label"),
)


def preferred_first(row: dict[str, Any]) -> dict[str, Any]:
    """A checked pair whose label is at least 0.5: where it is below, the two sides and their scores change places.

    >>> turned = preferred_first({"chosen": "a", "rejected": "b", "label": 0.25, "chosen_score": 1.0, "margin": 2.0})
    >>> turned["chosen"], turned["rejected"], turned["label"], turned["rejected_score"], turned["margin"]
    ('b', 'a', 0.75, 1.0, 2.0)
    """
    if row.get("label", 1.0) >= 0.5:
        return row
    names = {"chosen": "rejected", "rejected": "chosen"}
    names |= {f"{side}_score": f"{other}_score" for side, other in names.items()}
    return {names.get(key, key): value for key, value in row.items()} | {"label": 1 - row["label"]}


def is_tie(row: dict[str, Any]) -> bool:
    """True if annotators called the pair a tie: `tie` where the row has it, else a label of exactly 0.5.

    So {"tie": false, "label": 0.5} is a split vote, not a tie.
    """
    return row["tie"] if "tie" in row else row.get("label") == 0.5


def prompt_of(row: dict[str, Any]) -> list[Message]:
    """The shared history of a checked pair: all messages but the last; of a step row its problem, as a message."""
    return row["chosen"][:-1] if "chosen" in row else [{"role": "user", "content": row["prompt"]}]


class _Dropped(dict):
    """Character -> None for what `prompt_key` ignores, filled when str.translate first asks for it.

    Ignored: punctuation (P*), separators (Z*), controls and invisible joiners (C*), spacing accents such as
    the backtick (Sk). Kept: letters, their combining marks, digits, and the symbols of mathematics, money
    and emoji: "2+2" and "22" are different prompts.
    """

    def __missing__(self, code: int) -> int | None:
        category = unicodedata.category(chr(code))
        self[code] = None if category[0] in "PZC" or category == "Sk" else code
        return self[code]


_dropped = _Dropped()


def prompt_key(messages: Iterable[Message]) -> str:
    """A stable hash (32 hex digits), equal for prompts that differ only in case, spaces and punctuation.

    System messages are left out: the same question under another system message is still the same question
    to an evaluation set. A message of nothing but punctuation is hashed as it stands.

    >>> ask = lambda text: prompt_key([{"role": "user", "content": text}])
    >>> ask("What is  2+2 ?") == ask("what is 2+2")
    True
    >>> ask("?!") == ask("...")
    False
    """
    parts = []
    for message in messages:
        if message["role"] != "system":
            content = message["content"]
            folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", content).casefold())
            parts.append(folded.translate(_dropped) or "\n" + content)  # "\n": no folded text begins so
    text = "\n".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def split_by_prompt(
    rows: Iterable[dict[str, Any]], held_out_share: float, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split checked pairs into (train, held_out) with no prompt in both (METHODS 0.4).

    A prompt goes by a hash of (seed, its key), so adding or removing rows moves no other row. The share of
    held-out prompts is therefore near `held_out_share` (0 <= share < 1), not exactly it; a handful of
    prompts may give none.
    """
    if not 0 <= held_out_share < 1:
        raise ValueError(f"held_out_share is {held_out_share}; it must be at least 0 and below 1")
    train: list[dict[str, Any]] = []
    held_out: list[dict[str, Any]] = []
    for row in rows:
        (held_out if is_held_out(prompt_key(prompt_of(row)), held_out_share, seed) else train).append(row)
    return train, held_out


def is_held_out(key: str, held_out_share: float, seed: int) -> bool:
    """True for the share of prompt keys that `split_by_prompt` holds out with this seed."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < held_out_share  # 0 <= left side < 1


def drop_prompts(
    rows: Iterable[dict[str, Any]], keys: Collection[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split checked pairs into (kept, dropped): dropped are those whose prompt key is in `keys` (give a set).

    For training: `keys` are the prompt keys of every evaluation set that will be reported.
    """
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    for row in rows:
        (dropped if prompt_key(prompt_of(row)) in keys else kept).append(row)
    return kept, dropped


def _is_valid_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
