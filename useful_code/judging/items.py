"""Rows to judge, and judged rows to train on.

    {"chosen": messages, "rejected": messages}                 the preferred response is known
    {"prompt": text or messages, "responses": [text, ...]}     `best` (a place, from 0) if the best one is known

Both may have `reference`, an answer that is known to be right. No torch in here.
"""

from typing import Any, NamedTuple

from useful_code.chat_pairs import Message, check_pair
from useful_code.judging.prompts import LETTERS
from useful_code.reasons import RowRefused
from useful_code.response_rows import check_responses

TASKS = ("pairwise", "rating", "best_of_n")


class Item(NamedTuple):
    """What there is to judge: responses to one prompt."""

    prompt: list[Message]
    responses: list[str]
    reference: str | None = None
    best: int | None = None  # place of the response that is known to be the best


def read_item(row: Any, task: str) -> Item:
    """Check a row for a task of `TASKS`. Raises RowRefused.

    >>> read_item({"prompt": "2 + 2?", "responses": ["4", "5"], "best": 0}, "pairwise").responses
    ['4', '5']
    """
    if not isinstance(row, dict):
        raise RowRefused("not_an_object", f"the row is {type(row).__name__}")
    reference = row.get("reference")
    if reference is not None and (not isinstance(reference, str) or not reference.strip()):
        raise RowRefused("wrong_type", "`reference` must be a text that is not empty, or be left out")
    prompt, responses = check_responses(row, num_least=0)
    is_pair = "chosen" in row and "responses" not in row
    best = 0 if is_pair else row.get("best")
    if best is not None and (type(best) is not int or not 0 <= best < len(responses)):
        raise RowRefused("wrong_type", "`best` must be the place of a response, counted from 0")
    item = Item(prompt, responses, reference, best)
    _check_number(len(item.responses), task)
    for text in [*item.responses, item.reference or ""]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowRefused("invalid_unicode", "a response holds a lone surrogate") from error
    return item


def _check_number(number: int, task: str) -> None:
    lowest, highest = {"pairwise": (2, 2), "rating": (1, None), "best_of_n": (2, len(LETTERS))}[task]
    if number < lowest or (highest is not None and number > highest):
        needed = f"{lowest}" if lowest == highest else f"{lowest} to {highest}" if highest else f"at least {lowest}"
        raise RowRefused("wrong_number_of_responses", f"{number} responses; the task {task} needs {needed}")


def training_row(item: Item, judged: dict[str, Any], judge: str) -> dict[str, Any] | None:
    """The chosen/rejected row of a judged item, with the judge's scores; None for a tie and for an invalid verdict.

    Of several responses the best and the worst are taken (of equally bad ones the first). Raises RowRefused where
    they make no valid pair, for example because one is empty.

    >>> item = Item([{"role": "user", "content": "2 + 2?"}], ["5", "4", "6"])
    >>> row = training_row(item, {"winners": [1], "scores": [3.0, 9.0, 1.0]}, "models/judge")
    >>> row["chosen"][-1]["content"], row["rejected"][-1]["content"], row["chosen_score"], row["rejected_score"]
    ('4', '6', 9.0, 1.0)
    """
    if len(judged["winners"]) != 1 or len(item.responses) < 2:
        return None
    (best,) = judged["winners"]
    scores = judged["scores"]
    worst = min((i for i in range(len(scores)) if i != best), key=lambda i: scores[i])
    chats = ([*item.prompt, {"role": "assistant", "content": item.responses[i]}] for i in (best, worst))
    row = dict(zip(("chosen", "rejected"), chats, strict=True))
    return check_pair(row | {"chosen_score": scores[best], "rejected_score": scores[worst], "judge": judge})
