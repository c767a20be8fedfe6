"""A problem with candidate solutions, to score and to choose from (METHODS 7.2, 7.6): what is valid.

    {"prompt": "3 + 4 = ?", "candidates": [{"steps": ["3 + 4 is 7.", "The answer is 7."], "answer": "7",
                                            "correct": true}], "gold": "7"}

Read as well, and brought to this form:

    candidates with `response` or `text` in place of steps, or that are such texts themselves
    `question` for `prompt`; the row's `answer` for `gold`
    `prompt`, `answers` (texts) and `label` or `labels` (0 and 1), the test sets of RLHFlow

No candidate is lost: N answers in a row are N candidates. One without any text, null or white space, is a bad answer
and not a bad row: it has no steps and no answer, where a gold answer is known it is wrong, and who scores it gives it
the worst score, 0. Broken characters become U+FFFD. What is no solution at all, as a number, refuses the row whole.

`answer` and `correct` are what the row says; where it says nothing, the answer is the final one of the text, and it is
compared with `gold`. A text that was cut off (`"finished": false`) has only an answer that it states with something
behind it: its last number may be anything. Without a gold answer `correct` stays None. Unknown columns of the row and
of its candidates are kept untouched. No torch in here.
"""

from typing import Any

from useful_code.chat_pairs import check_conversation
from useful_code.rated_rows import check_keys, shown
from useful_code.reasons import RowRefused


def check_candidates(row: Any) -> dict[str, Any]:
    r"""Return a new, normalised row (see the head of this file), or raise `RowRefused` with a reason.

    >>> candidates = [{"steps": ["3 + 4 is 7.", " "], "answer": 7, "correct": 1}, {"response": None}]
    >>> row = check_candidates({"question": "3 + 4 = ?", "candidates": candidates})
    >>> row["prompt"], row["candidates"][0]
    ('3 + 4 = ?', {'steps': ['3 + 4 is 7.'], 'answer': '7', 'correct': True})
    >>> row["candidates"][1]
    {'response': '', 'steps': [], 'answer': None, 'correct': None}
    >>> check_candidates({"prompt": "Q", "candidates": []})
    Traceback (most recent call last):
    useful_code.reasons.RowRefused: no_candidates: the row has an empty list of solutions
    """
    check_keys(row, ())
    kept = dict(row)
    if kept.get("prompt") is None and kept.get("question") is not None:
        kept["prompt"] = kept.pop("question")
    check_keys(kept, (("prompt", str),))
    check_conversation([{"role": "user", "content": kept["prompt"]}], "prompt", ends_with="user")
    gold = _answer(kept.get("gold"), "gold")
    if gold is None:
        gold = _answer(kept.get("answer"), "answer")
        kept.pop("answer", None)
    candidates = _listed(kept)
    if not candidates:
        raise RowRefused("no_candidates", "the row has an empty list of solutions")
    checked = [_candidate(candidate, f"candidates[{index}]", gold) for index, candidate in enumerate(candidates)]
    return {**kept, "candidates": checked, "gold": gold}


def _listed(row: dict[str, Any]) -> list[Any]:
    """The row's candidates; those of RLHFlow's form leave their columns and become candidates of ours."""
    if row.get("candidates") is not None or row.get("answers") is None:
        check_keys(row, (("candidates", list),))
        return row["candidates"]
    check_keys(row, (("answers", list),))
    answers = row.pop("answers")
    names = [name for name in ("label", "labels") if row.get(name) is not None]
    if not names:
        return [{"response": answer} for answer in answers]
    labels = row.pop(names[0])
    if not isinstance(labels, list):
        raise RowRefused("wrong_type", f"{names[0]} is {type(labels).__name__}, not list")
    if len(labels) != len(answers):
        raise RowRefused("unequal_labels", f"{len(answers)} answers, {len(labels)} {names[0]}")
    return [{"response": answer, "correct": label} for answer, label in zip(answers, labels, strict=True)]


def _candidate(candidate: Any, place: str, gold: str | None) -> dict[str, Any]:
    if candidate is None or isinstance(candidate, str):
        candidate = {"response": candidate}
    if not isinstance(candidate, dict):
        raise RowRefused("wrong_type", f"{place} is {shown(candidate)}, not a solution")
    kept = dict(candidate)
    answer, correct = _answer(kept.get("answer"), f"{place}.answer"), _correct(kept.get("correct"), place)
    text = _text(kept, place)
    steps = _steps(kept, place) if kept.get("steps") is not None else _split(text)
    text = text if text.strip() else "\n".join(steps)
    if (answer is None and text) or (correct is None and gold is not None):
        # Only here, because what compares expressions is slow to import.
        from useful_code.final_answers import final_answer, gold_answer, same_answer, stated_before_cut

        if answer is None:
            answer = (stated_before_cut if kept.get("finished") is False else final_answer)(text)
        if correct is None and gold is not None:
            correct = same_answer(answer, gold_answer(gold))
    return {**kept, "steps": steps, "answer": answer, "correct": correct}


def _text(kept: dict[str, Any], place: str) -> str:
    """The whole text of a candidate, which is kept beside its steps; "" if there are only steps, or nothing."""
    names = [name for name in ("response", "text") if name in kept]
    if not names:
        if kept.get("steps") is None:
            keys = ", ".join(map(shown, list(kept)[:12]))[:200]
            raise RowRefused("missing_key", f"{place} has no steps, response or text; keys found: {keys}")
        return ""
    name = next((name for name in names if kept[name] is not None), names[0])
    if not isinstance(kept[name], str | None):
        raise RowRefused("wrong_type", f"{place}.{name} is {shown(kept[name])}, not text")
    kept[name] = _whole_text(kept[name] or "")
    return kept[name]


def _split(text: str) -> list[str]:
    if not text.strip():
        return []
    from useful_code.split_steps import split_steps

    return split_steps(text)


def _steps(kept: dict[str, Any], place: str) -> list[str]:
    """The steps without empty ones; with an empty step goes its value in each list that has one value per step."""
    steps = kept["steps"]
    if not isinstance(steps, list):
        raise RowRefused("wrong_type", f"{place}.steps is {shown(steps)}, not a list")
    for index, step in enumerate(steps):
        if not isinstance(step, str):
            raise RowRefused("wrong_type", f"{place}.steps[{index}] is {shown(step)}, not text")
    full = [index for index, step in enumerate(steps) if step.strip()]
    if len(full) < len(steps):
        for name, values in kept.items():
            if isinstance(values, list) and len(values) == len(steps):
                kept[name] = [values[index] for index in full]
    return [_whole_text(steps[index]) for index in full]


def _answer(value: Any, place: str) -> str | None:
    """An answer as text, None if it is blank; numbers are taken, as arithmetic data has them."""
    if value is None or isinstance(value, str):
        return _whole_text(value).strip() or None if value else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -(10**40) < value < 10**40:
        raise RowRefused("wrong_type", f"{place} is {shown(value)}, not an answer")  # NaN lies nowhere
    return str(int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value)


def _correct(value: Any, place: str) -> bool | None:
    if value is None:
        return None
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise RowRefused("bad_correct", f"{place}.correct is {shown(value)}, not true, false, 0 or 1")
    return bool(value)


def _whole_text(text: str) -> str:
    """The text with U+FFFD for every lone surrogate, which no tokenizer takes."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
