"""Rows of rollouts: problems and given solutions that are read and checked, sampled texts that become solutions."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout_generators import Question
from rollout_store import Sampler

from useful_code.answer_values import is_sentence
from useful_code.data_set_reader import is_saved_data_set
from useful_code.final_answers import final_answer, gold_answer, same_answer, stated_before_cut
from useful_code.judging.interface import Reply
from useful_code.rated_rows import shown
from useful_code.read_rows import RowCounts, checked_with_place, no_usable_row
from useful_code.reasons import RowRefused
from useful_code.row_readers import ReadRow
from useful_code.split_steps import find_steps, split_steps
from useful_code.step_rows import check_steps
from useful_code.user_errors import UserError

PROMPT_COLUMNS = ("prompt", "question", "problem")
GIVEN = ("completions", "labels", "outcome", "finished")  # columns of a given solution that are found anew
GOLD_COLUMNS = ("answer", "solution")


@dataclass
class Problem:
    """What is asked, and what a solution must end in."""

    row: dict[str, Any]  # the columns that every output row gets
    gold: str  # the answer alone


@dataclass
class Solution:
    """A text in steps; `ends[t - 1]` is where step t + 1 begins."""

    problem: Problem
    text: str
    steps: list[str]
    ends: list[int]
    is_right: bool
    is_whole: bool = True  # False: cut off before it states an answer, so that its last step is not known

    def question(self, num_steps: int, instruction: str) -> Question:
        """What asks for a completion from so many steps, exactly as they are written."""
        return Question(asked(self.problem, instruction), self.text[: self.ends[num_steps - 1]])


def asked(problem: Problem, instruction: str) -> str:
    """The user's message."""
    return f"{problem.row['prompt']}\n\n{instruction}" if instruction else problem.row["prompt"]


def check_problem(row: Any, seen: set[str]) -> Problem:
    r"""A problem with its gold answer; `seen` holds the prompts of earlier rows. Raises RowRefused.

    >>> check_problem({"question": "9 * 2 = ?", "answer": "9 * 2 = 18\n#### 18"}, set()).gold
    '18'
    """
    prompt = next((row[name] for name in PROMPT_COLUMNS if row.get(name) is not None), None)
    if not isinstance(prompt, str):
        reason = "missing_key" if prompt is None else "wrong_type"
        raise RowRefused(reason, f"none of {', '.join(PROMPT_COLUMNS)} is a text")
    kept = {name: _finite(value) for name, value in row.items() if name not in PROMPT_COLUMNS}
    problem = Problem({"prompt": prompt, **kept}, gold_of(row))
    checked(problem.row | {"completions": ["step"]}, [None], False)  # a prompt that no step row may have
    if prompt in seen:
        raise RowRefused("repeated_problem", f"prompt {shown(prompt)}")
    seen.add(prompt)
    return problem


def problem_check(seen: set[str]) -> Callable[[Any], dict[str, Any]]:
    """What `read_checked` calls with every row of problems."""

    def check(row: Any) -> dict[str, Any]:
        if not isinstance(row, dict):
            raise RowRefused("not_an_object")
        return {"problem": check_problem(row, seen)}

    return check


def source_options(
    sources: Iterable[str], split: str | None, config_name: str | None
) -> dict[str, dict[str, str | None]]:
    """What --split and --config_name are for every source: files have neither. Where no source has splits, every one
    is given the split, so that reading it says so. Raises UserError for a configuration that no source can have."""
    on_hub = {source: not Path(source).exists() for source in sources}
    has_splits = {source: hub or is_saved_data_set(Path(source)) for source, hub in on_hub.items()}
    if config_name and not any(on_hub.values()):
        raise UserError(f"--config_name belongs to data sets of the hub, and {', '.join(on_hub)} is none")
    return {
        source: {"split": split if has_splits[source] or not any(has_splits.values()) else None}
        | ({"name": config_name} if config_name and hub else {})
        for source, hub in on_hub.items()
    }


def read_checked(
    source: str,
    check: Callable[[Any], dict[str, Any]],
    refused_path: Path,
    limit: int | None,
    options: Mapping[str, str | None],
) -> tuple[list[tuple[ReadRow, Any]], RowCounts]:
    """Problems or solutions, `check`'s "problem" of every row, with their places. `options` are of `source_options`.
    Raises UserError if none is good."""
    counts = RowCounts(source)
    good: list[tuple[ReadRow, Any]] = []
    with closing(checked_with_place(source, counts, check, refused_path, **options)) as rows:
        for place, checked in rows:
            good.append((place, checked["problem"]))
            if len(good) == limit:
                break
    if not good:
        raise UserError(no_usable_row(counts))
    return good, counts


def why_no_sample(sampler: Sampler) -> RowRefused:
    """Why a problem has no solution at all."""
    return RowRefused("no_solution", sampler.asked.first_error or "prompt and new tokens are too long")


def gold_of(row: Mapping[str, Any]) -> str:
    r"""The gold answer of a row, or RowRefused. A sentence alone in `solution` is no answer, but may hold one.

    >>> gold_of({"answer": "9 * 2 = 18\n#### 18"}), gold_of({"solution": "We get 9."}), gold_of({"solution": "x+1"})
    ('18', '9', 'x+1')
    """
    for name in GOLD_COLUMNS:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            value = str(value)
        read = final_answer if name == "solution" and isinstance(value, str) and is_sentence(value) else gold_answer
        answer = read(value) if isinstance(value, str) else None
        if answer:
            return answer
    raise RowRefused("no_gold_answer", f"{' and '.join(GOLD_COLUMNS)} state no answer")


def _finite(value: Any) -> Any:
    """A value of another column with null for NaN and Infinity, which are no JSON and which our own reader refuses.

    >>> _finite({"a": [1.5, float("nan")]})
    {'a': [1.5, None]}
    """
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_solution(row: Any, golds: Mapping[str, Problem], separator: str) -> Solution:
    """A given solution, whose steps are joined by `separator`; its gold answer stands in the row, or in `golds` by
    its prompt. Labels that are there are kept as `given_labels` and `given_outcome`. `finished` false says that the
    text was cut off, as in our own rows. Raises RowRefused."""
    steps = row.get("completions")
    row = checked(row, [None] * len(steps) if isinstance(steps, list) else [], False, row)
    problem = golds.get(row["prompt"])
    gold = gold_of(row) if problem is None else problem.gold
    given = {f"given_{name}": row[name] for name in ("labels", "outcome") if row.get(name) is not None}
    kept = {name: _finite(value) for name, value in row.items() if name not in GIVEN}
    text, ends = "", []
    for step in row["completions"]:
        text += step + separator
        ends.append(len(text))
    text = text[: len(text) - len(separator)]
    ends[-1] = len(text)
    finished = row.get("finished") is not False
    answer = answer_of("", Reply(text, finished))
    is_right, is_whole = same_answer(answer, gold), finished or answer is not None
    return Solution(Problem(kept | given, gold), text, row["completions"], ends, is_right, is_whole)


def candidate_of(problem: Problem, reply: Reply) -> dict[str, Any]:
    """A sampled text as a candidate (useful_code/solution_rows.py): nothing is refused, an empty text is wrong."""
    answer = answer_of("", reply)
    return {
        "response": reply.text,
        "steps": split_steps(reply.text),
        "answer": answer,
        "correct": same_answer(answer, problem.gold),
        "finished": reply.finished,
    }


def solution_of(problem: Problem, reply: Reply) -> Solution:
    """A sampled text as a solution. Raises RowRefused where it has no step, or none that a row may hold."""
    steps = find_steps(reply.text)
    if not steps:
        raise RowRefused("no_steps", "the text is empty or only white space")
    texts = [step.text for step in steps]
    checked({"prompt": problem.row["prompt"], "completions": texts}, [None] * len(texts), False)
    answer = answer_of("", reply)
    is_right, is_whole = same_answer(answer, problem.gold), reply.finished or answer is not None
    return Solution(problem, reply.text, texts, [step.end for step in steps], is_right, is_whole)


def answer_of(prefix: str, reply: Reply) -> str | None:
    """The final answer of a prefix with its completion. One that was cut off has an answer only if it states one and
    goes on behind it: its last number may be anything, and the answer may be half of one."""
    return (final_answer if reply.finished else stated_before_cut)(prefix + reply.text)


def checked(
    row: Mapping[str, Any], labels: list, outcome: bool, returned: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The row, with these labels, as step_rows.py wants it; or `returned`, if it passes. Raises RowRefused."""
    good = check_steps({**row, "labels": labels, "outcome": outcome})
    return good if returned is None else dict(returned)
