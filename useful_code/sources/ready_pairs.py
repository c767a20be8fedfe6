"""Sources whose rows already name a chosen and a rejected answer, among them the user's own table."""

import math
from typing import Any

from useful_code.chat_pairs import Message
from useful_code.reasons import RowRefused
from useful_code.sources.fields import Row, ask, chat, field, make_pair, number, one_of, source_id, text
from useful_code.sources.source import Source


def capybara(row: Row) -> list[Row]:
    """Capybara-Preferences by Argilla: whole chats, and a judge's rating of each side's last answer.

    Equal ratings are a tie (METHODS 11.1: the mixtures drop them).
    """
    pair = {"chosen": chat(row, "chosen"), "rejected": chat(row, "rejected")}
    return [pair | _ratings(row, "chosen_rating", "rejected_rating") | _subset(source_id(row, "source"))]


def orca_dpo(row: Row) -> list[Row]:
    """Distilabel's judgement of Intel's Orca pairs: `chosen` and `rejected` are swapped already where it disagreed.

    `status` "tie" is a tie. The data card also advises chosen_score >= 8 and no question of GSM8K's training set
    (5,922 of 12,859 rows are left). That is not done here: a rule on quality is the user's choice, so chosen_score is
    written, and the questions of GSM8K get the subset "gsm8k_train". `rating` holds the two ratings in a shuffled
    order; the smaller one is the score of the rejected answer where the larger one is chosen_score.
    """
    status = one_of(row, "status", ("unchanged", "swapped", "tie"))
    chosen_score = _optional_number(row, "chosen_score")
    return [
        make_pair(
            ask(text(row, "input"), _optional_text(row, "system")),
            text(row, "chosen"),
            text(row, "rejected"),
            chosen_score=chosen_score,
            rejected_score=_other_rating(row.get("rating"), chosen_score),
            tie=True if status == "tie" else None,
            subset="gsm8k_train" if row.get("in_gsm8k_train") is True else None,
        )
    ]


def ultrainteract(row: Row) -> list[Row]:
    """UltraInteract of Eurus (arXiv 2404.02078): a right and a wrong action after the same trajectory.

    The trajectory [{from, value}] of user and assistant turns is the history; its user turns after the first are
    what the environment and a critic said. Which rows RLHFlow's "-filtered" set left out is not documented; none are
    left out here.
    """
    history = []
    for turn in field(row, "trajectory", list):
        if not isinstance(turn, dict):
            raise RowRefused("wrong_type", f"a turn of trajectory is {type(turn).__name__}")
        role = field(turn, "from", str, "trajectory.")
        history.append({"role": role, "content": text(turn, "value", "trajectory.")})
    columns = {"subset": source_id(row, "task"), "source_id": source_id(row, "id")}
    return [make_pair(history, text(row, "chosen"), text(row, "rejected"), **columns)]


def distilabel_math(row: Row) -> list[Row]:
    """Distilabel-math by Argilla ("Argilla-Math" of METHODS 11.1). Equal ratings are a tie."""
    answers = text(row, "chosen_response"), text(row, "rejected_response")
    ratings = _ratings(row, "chosen_rating", "rejected_rating")
    return [make_pair(ask(text(row, "instruction")), *answers, **ratings)]


def skywork_80k(row: Row) -> list[Row]:
    """Skywork-Reward-Preference-80K (arXiv 2410.18451): whole chats. v0.2 is without the prompts of RewardBench."""
    pair: Row = {"chosen": chat(row, "chosen"), "rejected": chat(row, "rejected")}
    return [pair | _subset(source_id(row, "source"))]


def trl_preference(row: Row) -> list[Row]:
    """Rows as TRL reads them (its page "Dataset formats"), for example HuggingFaceH4/ultrafeedback_binarized.

    - chosen and rejected are text: the answers to `prompt`, which is text or a list of messages;
    - they are lists that begin with the assistant: the answers to `prompt`, too;
    - they are lists that begin with anything else: whole chats. Then `prompt` is not needed and not read.

    `system` is put first where the chat has no system message. Scores are read under two pairs of names; equal ones
    are a tie. A chosen answer with the lower score stays chosen: here the columns are the label, and the scores may
    be another judge's. The columns that rows of ours may have, `label`, `tie` and `margin` (chat_pairs.py), are kept
    and go before the scores.

    >>> trl_preference({"prompt": "Q", "chosen": "good", "rejected": "bad"})[0]["chosen"]
    [{'role': 'user', 'content': 'Q'}, {'role': 'assistant', 'content': 'good'}]
    """
    kind = type(field(row, "chosen", (str, list)))
    field(row, "rejected", kind)
    sides = {side: chat(row, side) if kind is list else _answer(text(row, side)) for side in ("chosen", "rejected")}
    for side, messages in sides.items():
        if not messages:
            raise RowRefused("no_messages", f"{side} is an empty list")
    if all(messages[0]["role"] == "assistant" for messages in sides.values()):
        prompt = _prompt(row)
        sides = {side: [*prompt, *messages] for side, messages in sides.items()}
    system = _optional_text(row, "system")
    if system:
        sides = {side: _with_system(messages, system) for side, messages in sides.items()}
    pair: Row = sides | {name: row[name] for name in ("label", "tie", "margin") if row.get(name) is not None}
    for names in (("chosen_score", "rejected_score"), ("score_chosen", "score_rejected")):
        if all(row.get(name) is not None for name in names):
            scores = _scores(*(_optional_number(row, name) for name in names))
            if "label" in pair:
                scores.pop("tie", None)
            return [scores | pair]
    return [pair]


def columns(
    row: Row, prompt: str = "prompt", chosen: str = "chosen", rejected: str = "rejected", system: str | None = None
) -> list[Row]:
    """A table of your own: one column each for the prompt, the better and the worse answer; perhaps a system message.

    Numbers and booleans of a JSON file become text as Python writes them (5, 2.5, True): they are answers of a yes/no
    or arithmetic question. Null and NaN are missing values. An empty system cell means no system message.

    >>> columns({"question": "2 + 2?", "good": 4, "bad": "5 "}, "question", "good", "bad")[0]["rejected"]
    [{'role': 'user', 'content': '2 + 2?'}, {'role': 'assistant', 'content': '5'}]
    """
    has_system = system is not None and row.get(system) is not None and not _is_nan(row[system])
    first = _cell(row, system) if system is not None and has_system else ""
    return [make_pair(ask(_cell(row, prompt), first), _cell(row, chosen), _cell(row, rejected))]


def _cell(row: Row, column: str) -> str:
    value = field(row, column, (str, int, float, bool))
    if _is_nan(value):
        raise RowRefused("missing_key", f"{column} is NaN")
    try:
        return str(value).strip()
    except ValueError as error:  # an integer of more digits than Python writes out
        raise RowRefused("wrong_type", f"{column}: {error}") from None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _prompt(row: Row) -> list[Message]:
    if row.get("prompt") is None:
        raise RowRefused(
            "missing_key",
            "no prompt, and chosen and rejected are answers only; name the columns of your table with --source "
            "columns, or use --source hh_rlhf if each text is a whole conversation",
        )
    return chat(row, "prompt") if isinstance(row["prompt"], list) else ask(text(row, "prompt"))


def _answer(content: str) -> list[Message]:
    return [{"role": "assistant", "content": content}]


def _with_system(messages: list[Message], system: str) -> list[Message]:
    return messages if messages[0]["role"] == "system" else [{"role": "system", "content": system}, *messages]


def _ratings(row: Row, chosen_key: str, rejected_key: str) -> dict[str, Any]:
    """The score columns of two ratings that chosen and rejected were named by; a contradiction is refused."""
    chosen, rejected = (_optional_number(row, key) for key in (chosen_key, rejected_key))
    if chosen is not None and rejected is not None and chosen < rejected:
        raise RowRefused("no_preference", f"{chosen_key} {chosen:g} is lower than {rejected_key} {rejected:g}")
    return _scores(chosen, rejected)


def _scores(chosen: float | None, rejected: float | None) -> dict[str, Any]:
    scores = {"chosen_score": chosen, "rejected_score": rejected}
    tie = {"tie": True} if chosen is not None and chosen == rejected else {}
    return {key: value for key, value in scores.items() if value is not None} | tie


def _other_rating(ratings: Any, chosen_score: float | None) -> float | None:
    if not isinstance(ratings, list) or len(ratings) != 2:
        return None
    try:
        lower, higher = sorted(number({"rating": rating}, "rating") for rating in ratings)
    except RowRefused:
        return None
    return lower if higher == chosen_score else None


def _optional_number(row: Row, key: str) -> float | None:
    return None if row.get(key) is None or row[key] == "" else number(row, key)


def _optional_text(row: Row, key: str) -> str:
    return "" if row.get(key) is None else text(row, key)


def _subset(name: str | None) -> dict[str, str]:
    return {"subset": name} if name else {}


SOURCES = {
    "capybara": Source(
        "pairs",
        "argilla/Capybara-Preferences-Filtered",
        "Apache-2.0",
        "chosen, rejected (chats), chosen_rating, rejected_rating, source",
        "as it stands; equal ratings are a tie",
        capybara,
    ),
    "orca_dpo": Source(
        "pairs",
        "argilla/distilabel-intel-orca-dpo-pairs",
        "Apache-2.0",
        "system, input, chosen, rejected, status, chosen_score, rating, in_gsm8k_train",
        "as it stands; status tie is a tie; subset gsm8k_train marks questions of GSM8K's training set",
        orca_dpo,
    ),
    "ultrainteract": Source(
        "pairs",
        "openbmb/UltraInteract_pair",
        "MIT",
        "trajectory (list of from, value), chosen, rejected, task, id",
        "the trajectory is the history",
        ultrainteract,
    ),
    "distilabel_math": Source(
        "pairs",
        "argilla/distilabel-math-preference-dpo",
        "Apache-2.0",
        "instruction, chosen_response, rejected_response, chosen_rating, rejected_rating",
        "as it stands; equal ratings are a tie",
        distilabel_math,
    ),
    "skywork_80k": Source(
        "pairs",
        "Skywork/Skywork-Reward-Preference-80K-v0.2 (v0.1 holds prompts of RewardBench)",
        "see the data card",
        "chosen, rejected (chats), source",
        "as it stands",
        skywork_80k,
    ),
    "trl_preference": Source(
        "pairs",
        "any data set in TRL's preference format, such as HuggingFaceH4/ultrafeedback_binarized or trl-lib/...",
        "see the data card",
        "chosen, rejected (text, answers as messages, or whole chats), prompt, system, chosen_score, label, tie, ...",
        "as it stands; whole chats go before a prompt column; equal scores are a tie",
        trl_preference,
    ),
    "columns": Source(
        "pairs",
        "a table of your own (CSV, TSV, JSON lines, parquet)",
        "yours",
        "prompt, chosen, rejected (text); other names with --prompt_column, --chosen_column, --rejected_column, ...",
        "as it stands; numbers and booleans become text",
        columns,
    ),
}
