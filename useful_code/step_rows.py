"""The step row, which process and outcome reward models are trained on (METHODS 7.2): what is valid.

    {"prompt": "3 + 4 = ?", "completions": ["3 + 4 is 8.", "The answer is 8."], "labels": [false, null],
     "outcome": false}

The columns prompt, completions, labels are those of trl-lib/math_shepherd. A label is true (the step is right), false,
a number between 0 and 1 (the share of completions from there that reach the right answer), or null (not known, as
after the first mistake of a solution in which only that was marked, or labelled in another row). `outcome`, optional,
says whether the final answer is right; a row without any step label needs it. Unknown columns are kept untouched.
Standard library only.
"""

from typing import Any

from useful_code.chat_pairs import check_conversation
from useful_code.rated_rows import check_keys, shown
from useful_code.reasons import RowRefused


def check_steps(row: Any) -> dict[str, Any]:
    """Return a new, normalised row (labels become floats or None), or raise `RowRefused` with a reason.

    >>> check_steps({"prompt": "3 + 4", "completions": ["It is 8.", "So 8."], "labels": [False, None]})["labels"]
    [0.0, None]
    >>> check_steps({"prompt": "3 + 4", "completions": ["It is 8.", " "], "labels": [False, None]})
    Traceback (most recent call last):
    useful_code.reasons.RowRefused: empty_content: completions[1] is empty or only white space
    """
    check_keys(row, (("prompt", str), ("completions", list), ("labels", list)))
    if not row["completions"]:
        raise RowRefused("no_messages", "completions is an empty list")
    _check_text(row["prompt"], "prompt")
    for index, step in enumerate(row["completions"]):
        _check_text(step, f"completions[{index}]")
    if len(row["labels"]) != len(row["completions"]):
        raise RowRefused("unequal_steps", f"{len(row['completions'])} steps, {len(row['labels'])} labels")
    labels = [_label(value, index) for index, value in enumerate(row["labels"])]
    checked = {**row, "completions": list(row["completions"]), "labels": labels}
    outcome = row.get("outcome")
    if outcome is None:
        checked.pop("outcome", None)
    elif not isinstance(outcome, bool):
        raise RowRefused("bad_step_label", f"outcome is {type(outcome).__name__}, not true or false")
    if outcome is None and all(label is None for label in labels):
        raise RowRefused("not_labelled", "every label is null and there is no outcome")
    return checked


def check_problem(row: dict[str, Any]) -> None:
    """Refuse a checked row that has no prompt of its own: it cannot be held out by its problem (METHODS 0.4), and in
    training its first step would stand where in scoring it does not."""
    if row.get("subset") == "first step in the prompt":
        raise RowRefused("step_in_prompt", f"subset is {row['subset']!r}, see convert_dataset.py --list")


_DETAILS = {"empty_content": "{} is empty or only white space", "invalid_unicode": "{} holds a lone surrogate"}


def _check_text(text: Any, place: str) -> None:
    """Refuse what is no text, or no text that a message may hold."""
    if not isinstance(text, str):
        raise RowRefused("missing_key" if text is None else "wrong_type", f"{place} is {type(text).__name__}, not text")
    try:
        check_conversation([{"role": "user", "content": text}], ends_with="user")
    except RowRefused as refused:
        raise RowRefused(refused.reason, _DETAILS[refused.reason].format(place)) from None


def _label(value: Any, index: int) -> float | None:
    if value is None:
        return None
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:  # NaN lies nowhere, huge integers above 1
        raise RowRefused("bad_step_label", f"labels[{index}] is {shown(value)}, not between 0 and 1")
    return float(value)
