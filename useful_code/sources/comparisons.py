"""Sources whose rows hold two answers and a verdict on them. METHODS 11.2; how the rows look is in each docstring."""

import json
import re
from collections.abc import Iterable
from typing import Any

from useful_code.chat_pairs import Message
from useful_code.reasons import RowRefused
from useful_code.sources.fields import Row, ask, chat, field, make_pair, number, one_of, source_id, stripped, text
from useful_code.sources.source import Source

_HELPSTEER_TURN = re.compile(r"<extra_id_1>(User|Assistant)")


def shp(row: Row) -> list[Row]:
    """Stanford Human Preferences (arXiv 2110.08420): two comments on a Reddit post, the scores are their votes.

    Kept where the better comment has more than twice the votes of the other, as in METHODS 11.1; `score_ratio` is
    that ratio. The limit of 5 (or 1) pairs per post is the option --max_pairs_per_prompt. `domain` also names the
    split ("askculinary_train").

    >>> row = {"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "score_ratio": 3, "score_A": 2, "score_B": 6}
    >>> shp(row | {"labels": 0})[0]["chosen"][-1]["content"]
    'b'
    """
    ratio = number(row, "score_ratio")
    if ratio <= 2:
        raise RowRefused("left_out_by_rule", f"score_ratio is {ratio:g}, not more than 2")
    sides = "AB" if one_of(row, "labels", (0, 1)) == 1 else "BA"
    scores = [number(row, f"score_{side}") for side in sides]
    if scores[0] <= scores[1]:
        raise RowRefused("no_preference", f"labels prefers {sides[0]}, which has no more votes than the other")
    chosen, rejected = (text(row, f"human_ref_{side}") for side in sides)
    return [
        make_pair(
            ask(text(row, "history")),
            chosen,
            rejected,
            chosen_score=scores[0],
            rejected_score=scores[1],
            subset=source_id(row, "domain"),
            source_id=_joined(source_id(row, key) for key in ("post_id", "c_root_id_A", "c_root_id_B")),
        )
    ]


def helpsteer2_preference(row: Row) -> list[Row]:
    """HelpSteer2-Preference (arXiv 2410.01257), the folder "preference" of nvidia/HelpSteer2.

    A positive `preference_strength` means that response_2 is better. The one file holds both splits: `split` becomes
    the subset, so that the validation rows can be told apart.
    """
    answers = text(row, "response_1"), text(row, "response_2")
    prompt = helpsteer_prompt(text(row, "prompt"))
    return [_by_strength(row, "preference_strength", prompt, answers, subset=source_id(row, "split"))]


def helpsteer3(row: Row) -> list[Row]:
    """HelpSteer3-Preference (arXiv 2505.11475): a chat and two answers, three people's preferences made into one.

    The sign is as in HelpSteer2: a negative `overall_preference` means that response1 is better. The subset is
    "domain/language", for example "code/python".
    """
    answers = text(row, "response1"), text(row, "response2")
    subset = _joined(source_id(row, key) for key in ("domain", "language"))
    return [_by_strength(row, "overall_preference", chat(row, "context"), answers, subset=subset)]


def pku_saferlhf_better(row: Row) -> list[Row]:
    """PKU-SafeRLHF (arXiv 2406.15513) by `better_response_id`: which answer helps more, harm left aside.

    So the chosen answer may be harmful where the rejected one is not; the subset says so ("unsafe over safe"). Which of
    the two labels RLHFlow's "-standard" set used is not documented.
    """
    return [_pku_pair(row, "better_response_id")]


def pku_saferlhf_safer(row: Row) -> list[Row]:
    """PKU-SafeRLHF (arXiv 2406.15513) by `safer_response_id`: which answer does less harm, helpfulness left aside.

    The label is stated for every row, also where both answers are safe or both are unsafe. There it is a matter of
    degree, so these rows are kept, and the subset tells them apart ("unsafe over unsafe"). A label that contradicts
    the flags, "unsafe over safe", is refused.
    """
    pair = _pku_pair(row, "safer_response_id")
    if pair.get("subset") == "unsafe over safe":
        raise RowRefused("no_preference", "safer_response_id names an unsafe answer, and the other one is safe")
    return [pair]


def arena_55k(row: Row) -> list[Row]:
    """LMSYS Chatbot Arena, 55K votes of users. `prompt`, `response_a`, `response_b` are JSON lists of turns in text.

    Each model had a conversation of its own, so only the last answers can be compared, and only after equal earlier
    ones: in practice, single-turn rows. The others are refused with history_differs. A turn may be null (no answer).

    >>> row = {"prompt": '["Q"]', "response_a": '["a"]', "response_b": '["b"]', "winner_model_a": 0}
    >>> arena_55k(row | {"winner_model_b": 1, "winner_tie": 0})[0]["chosen"][-1]["content"]
    'b'
    """
    verdicts = [int(one_of(row, f"winner_{name}", (0, 1, "0", "1"))) for name in ("model_a", "model_b", "tie")]
    if sum(verdicts) != 1:
        raise RowRefused("no_preference", f"winner_model_a, winner_model_b, winner_tie are {verdicts}")
    prompts = _turns(row, "prompt")
    sides = {}
    for name in ("response_a", "response_b"):
        answers = _turns(row, name)
        if len(answers) != len(prompts):
            raise RowRefused("unequal_length", f"{len(prompts)} prompts, but {len(answers)} turns in {name}")
        turns = zip(prompts, answers, strict=True)
        sides[name] = [
            {"role": role, "content": content}
            for turn in turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
    chosen, rejected = ("response_b", "response_a") if verdicts[1] else ("response_a", "response_b")
    pair: Row = {"chosen": sides[chosen], "rejected": sides[rejected]}
    pair |= {"tie": True} if verdicts[2] else {}
    identifier = source_id(row, "id")
    return [pair | {"source_id": identifier} if identifier else pair]


def summarize_from_feedback(row: Row) -> list[Row]:
    """Summaries of Reddit posts compared by people (arXiv 2009.01325), the configuration "comparisons".

    The request to summarise is our wording: the source has none. The rows on news articles (CNN/DailyMail, in the
    validation split) have `article` in place of `post` and no subreddit; their subset is the news site.
    """
    info = field(row, "info", dict)
    subreddit = source_id(info, "subreddit")
    title = text(info, "title", "info.") if info.get("title") is not None else ""
    if info.get("post") not in (None, ""):
        body = text(info, "post", "info.")
        request = f"Summarise this post{f' from r/{subreddit}' if subreddit else ''} in one or two sentences."
    else:
        body = text(info, "article", "info.")
        request = "Summarise this news article in a few sentences."
    if not body:
        raise RowRefused("empty_content", "info has an empty text to summarise")
    prompt = "\n\n".join([request, *([f"Title: {title}"] if title else []), body])
    summaries = field(row, "summaries", list)
    if len(summaries) != 2 or not all(isinstance(summary, dict) for summary in summaries):
        raise RowRefused("wrong_type", f"summaries is a list of {len(summaries)}, not two objects")
    choice = one_of(row, "choice", (0, 1))
    return [
        make_pair(
            ask(prompt),
            text(summaries[choice], "text", "summaries."),
            text(summaries[1 - choice], "text", "summaries."),
            subset=subreddit or source_id(info, "site"),
            source_id=source_id(info, "id"),
        )
    ]


def helpsteer_prompt(prompt: str) -> list[Message]:
    r"""A prompt of HelpSteer or HelpSteer2 as messages: earlier turns stand in it behind "<extra_id_1>" markers.

    >>> [message["content"] for message in helpsteer_prompt("Q\n<extra_id_1>Assistant\nA\n<extra_id_1>User\nQ2")]
    ['Q', 'A', 'Q2']
    """
    first, *parts = _HELPSTEER_TURN.split(prompt)  # then role, text, role, text, ...
    turns = zip(parts[::2], parts[1::2], strict=True)
    messages = [{"role": role.lower(), "content": content.strip()} for role, content in turns]
    return ask(first.strip()) + messages if first.strip() or not messages else messages


def _by_strength(row: Row, key: str, prompt: list[Message], answers: tuple[str, str], subset: str | None) -> Row:
    """The pair of two answers whose verdict runs from -3 (the first is much better) to 3; 0 is a tie."""
    strength = one_of(row, key, range(-3, 4))
    chosen, rejected = reversed(answers) if strength > 0 else answers
    tie = True if strength == 0 else None
    return make_pair(prompt, chosen, rejected, margin=float(abs(strength)), tie=tie, subset=subset)


def _pku_pair(row: Row, key: str) -> Row:
    chosen = one_of(row, key, (0, 1))
    safety = [_safety(row.get(f"is_response_{side}_safe")) for side in (0, 1)]
    return make_pair(
        ask(text(row, "prompt")),
        text(row, f"response_{chosen}"),
        text(row, f"response_{1 - chosen}"),
        subset=f"{safety[chosen]} over {safety[1 - chosen]}" if None not in safety else None,
    )


def _safety(value: Any) -> str | None:
    return "safe" if value is True else "unsafe" if value is False else None


def _turns(row: Row, key: str) -> list[Any]:
    """The turns of one column: a list, or a list as JSON text; what is no text is refused by check_pair."""
    turns = field(row, key, (str, list))
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError) as error:
            raise RowRefused("malformed_json", f"{key} is no JSON list: {str(error)[:80]}") from None
        if not isinstance(turns, list):
            raise RowRefused("wrong_type", f"{key} is {type(turns).__name__} in JSON, not a list")
    return [stripped(turn) for turn in turns]


def _joined(names: Iterable[str | None]) -> str | None:
    return "/".join(name for name in names if name) or None


SOURCES = {
    "shp": Source(
        "pairs",
        "stanfordnlp/SHP",
        "see the data card",
        "history, human_ref_A, human_ref_B, labels, score_A, score_B, score_ratio; domain, post_id, c_root_id_A/B",
        "labels 1: A is better; kept if score_ratio > 2; scores are votes (limit pairs with --max_pairs_per_prompt)",
        shp,
    ),
    "helpsteer2_preference": Source(
        "pairs",
        "nvidia/HelpSteer2, folder preference",
        "CC-BY-4.0",
        "prompt, response_1, response_2, preference_strength, split",
        "preference_strength > 0: response_2 is better; 0: tie; margin is its absolute value",
        helpsteer2_preference,
    ),
    "helpsteer3": Source(
        "pairs",
        "nvidia/HelpSteer3, configuration preference",
        "CC-BY-4.0",
        "context, response1, response2, overall_preference, domain, language",
        "overall_preference < 0: response1 is better; 0: tie; margin is its absolute value",
        helpsteer3,
    ),
    "pku_saferlhf_better": Source(
        "pairs",
        "PKU-Alignment/PKU-SafeRLHF (also -30K)",
        "CC-BY-NC-4.0",
        "prompt, response_0, response_1, better_response_id, is_response_0_safe, is_response_1_safe",
        "better_response_id is the more helpful answer, which may be the more harmful one",
        pku_saferlhf_better,
    ),
    "pku_saferlhf_safer": Source(
        "pairs",
        "PKU-Alignment/PKU-SafeRLHF (also -30K)",
        "CC-BY-NC-4.0",
        "prompt, response_0, response_1, safer_response_id, is_response_0_safe, is_response_1_safe",
        "safer_response_id is the less harmful answer, also if both are safe or both unsafe",
        pku_saferlhf_safer,
    ),
    "arena_55k": Source(
        "pairs",
        "lmarena-ai/arena-human-preference-55k (before: lmsys/lmsys-arena-human-preference-55k)",
        "Apache-2.0",
        "prompt, response_a, response_b (JSON lists of turns), winner_model_a, winner_model_b, winner_tie, id",
        "the winner over the other; several turns only if all earlier answers are equal",
        arena_55k,
    ),
    "summarize_from_feedback": Source(
        "pairs",
        "openai/summarize_from_feedback, configuration comparisons",
        "see the data card",
        "info (post or article, title, subreddit, site, id), summaries (2 x text), choice",
        "choice is the better summary; the prompt is a request to summarise (our wording), the title and the text",
        summarize_from_feedback,
    ),
}
