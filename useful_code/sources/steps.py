"""Solutions with a label for every step, or with the outcome alone (process and outcome models). METHODS 7.2.

White space at the ends of a step is removed and steps without text are dropped with their label; "Step 3:" and the
calculator's annotations (<<3+4=7>>) stay, for they are what the models wrote. Labels after the first mistake are null
where only that was marked. Sets that are meant for evaluation are in step_evaluation.py.
"""

import re
from typing import Any

from useful_code.reasons import RowRefused
from useful_code.sources.fields import Converted, Row, chat, field, one_of, shown, source_id, stripped, text
from useful_code.sources.source import Source

Labels = list[Any]  # True, False, a number from 0 to 1, or None (not known), one for each step
MARK = "ки"  # stands after every step in the data of Math-Shepherd
_FIRST_STEP = re.compile(r"[Ss]tep 1:")


def solution(prompt: str, steps: list[Any], labels: Labels, outcome: bool | None = None, **columns: Any) -> Row:
    """A step row without its empty steps; columns that are None are left out.

    >>> solution("Q", ["Step 1 ", "", "Step 2"], [True, True, None])
    {'prompt': 'Q', 'completions': ['Step 1', 'Step 2'], 'labels': [True, None]}
    """
    if len(steps) != len(labels):
        raise RowRefused("unequal_steps", f"{len(steps)} steps, {len(labels)} labels")
    kept = [(stripped(step), label) for step, label in zip(steps, labels, strict=True) if not is_blank(step)]
    given = {key: value for key, value in {"outcome": outcome, **columns}.items() if value is not None}
    return {"prompt": prompt, "completions": [step for step, _ in kept], "labels": [label for _, label in kept]} | given


def is_blank(step: Any) -> bool:
    return isinstance(step, str) and not step.strip()


def math_shepherd(row: Row) -> list[Row]:
    r"""Math-Shepherd (arXiv 2312.08935): `input` has the mark "ки" after every step, `label` + or - in its place.

    So the signs stand at known places of `label`, which a + or - within a step cannot confuse. + means that one of the
    completions sampled from there reached the right answer (METHODS 7.2, hard labels), so the last sign is the outcome.
    The question ends where "Step 1:" begins, or, in the few rows without it, at its only question mark. A few questions
    end with a mark of their own (as the script behind trl-lib/math_shepherd knows); it and its sign are dropped. Text
    after the last mark is a step with an unknown label.

    >>> row = {"input": "3 - 1? Step 1: 3 - 1 = 2 ки\nStep 2: The answer is: 2 ки"}
    >>> row["label"] = "3 - 1? Step 1: 3 - 1 = 2 +\nStep 2: The answer is: 2 -"
    >>> math_shepherd(row)[0]["completions"], math_shepherd(row)[0]["labels"]
    (['Step 1: 3 - 1 = 2', 'Step 2: The answer is: 2'], [True, False])
    """
    marked, signed = field(row, "input", str), field(row, "label", str)
    if MARK not in marked:
        raise RowRefused("no_turn_marker", f"input has no {MARK!a} after a step")
    if len(marked.replace(MARK, "+").rstrip()) != len(signed.rstrip()):
        raise RowRefused("unequal_steps", "label is not input with one sign in place of each mark")
    *steps, rest = marked.split(MARK)
    labels: Labels = []
    place = 0
    for step in steps:
        place += len(step) + 1
        labels.append(_is_plus(signed[place - 1 : place], "the sign of a step"))
    outcome = labels[-1]
    if not is_blank(rest):
        steps, labels, outcome = [*steps, rest], [*labels, None], None
    question, first = _divided(steps[0])
    if first is not None:
        steps = [first, *steps[1:]]
    elif len(steps) > 1 and _FIRST_STEP.match(steps[1].strip()):
        steps, labels = steps[1:], labels[1:]
    elif question.count("?") == 1:
        question, _, first = question.partition("?")
        question, steps = question + "?", [first, *steps[1:]]
    else:
        raise RowRefused("no_turn_marker", "where the question ends is not marked: no 'Step 1:', and no single '?'")
    return [solution(question.strip(), steps, labels, outcome, subset=source_id(row, "task"))]


def math_shepherd_trl(row: Row) -> list[Row]:
    """Math-Shepherd as trl-lib ships it: prompt, completions, labels (booleans); the last label is the outcome.

    The script that made it tells questions with a mark of their own by their first words, "Parker" for one. Any other
    question that begins so has its first step in the prompt and no label for it; those rows are kept as they are.
    """
    steps, labels = field(row, "completions", list), field(row, "labels", list)
    outcome = labels[-1] if labels and isinstance(labels[-1], bool) else None
    return [solution(text(row, "prompt"), steps, labels, outcome)]


def rlhflow_prm(row: Row) -> list[Row]:
    """RLHFlow's PRM data (METHODS 7.2): a chat whose user turns are steps, the assistant answers + or - to each.

    The first user turn is the problem, a space, and the first step. In the data of Mistral that step begins with
    "Step 1:". In those of Deepseek nothing tells where it begins, so there the prompt is the whole turn, its verdict is
    left out, and the subset says so: do not split or decontaminate such rows by their prompt. The last verdict is the
    outcome (RLHFlow's ORM data are made that way). A mark that is left at the end of a step is removed (the original
    does not).
    """
    turns = chat(row, "conversations")
    if len(turns) % 2:
        raise RowRefused("odd_length", f"conversations has {len(turns)} messages, not a verdict for every step")
    steps, labels = [], []
    for asked, answered in zip(turns[::2], turns[1::2], strict=True):
        if (asked["role"], answered["role"]) != ("user", "assistant"):
            raise RowRefused("role_order", f"{shown(asked['role'])} and {shown(answered['role'])}, not user, assistant")
        steps.append(text(asked, "content", "conversations.").removesuffix(MARK))
        labels.append(_is_plus(answered["content"], "a verdict"))
    if not steps:
        raise RowRefused("no_messages", "conversations is an empty list")
    question, first = _divided(steps[0])
    if first is None:
        return [solution(question.strip(), steps[1:], labels[1:], labels[-1], subset="first step in the prompt")]
    return [solution(question.strip(), [first, *steps[1:]], labels, labels[-1])]


def _divided(start: str) -> tuple[str, str | None]:
    """A question and the first step after it, or all of `start` and None if it has no "Step 1:"."""
    found = _FIRST_STEP.search(start)
    if found is None:
        return start, None
    if is_blank(start[: found.start()]):
        raise RowRefused("empty_content", "no question stands before 'Step 1:'")
    return start[: found.start()], start[found.start() :]


def _is_plus(sign: Any, name: str) -> bool:
    if sign not in ("+", "-"):
        raise RowRefused("bad_step_label", f"{name} is {shown(sign)}, not + or -")
    return sign == "+"


_RATINGS = {1: True, 0: True, -1: False}


def prm800k(row: Row) -> Converted:
    """PRM800K (arXiv 2305.20050), the files of phase 1 and 2: people rated steps 1, 0 or -1, with alternatives.

    The first row is the solution: at every step the completion that was chosen, or the step that the labeller wrote
    (phase 1, where all were wrong). Where none was chosen the labelling ended, and the first completion is the
    solution's own. Every other completion gives a row of its own, after the same earlier steps; these have no label
    there, so that each of people's ratings counts once and not once for every alternative that came after it.

    Rating 0, given to a step that is not wrong but brings the solution no further (the repository's README), makes a
    right step; a null rating is no label. finish_reason "solution" means that the right answer was reached, which is
    the outcome; otherwise the solution as it is here has no end, and no outcome. Problems that the labeller reported as
    broken ("bad_problem") are left out. The subset tells solutions that were shown to every labeller.
    """
    prompt, label = text(field(row, "question", dict), "problem", "question."), field(row, "label", dict)
    reason = label.get("finish_reason")
    if reason == "bad_problem":
        raise RowRefused("left_out_by_rule", "the labeller reported the problem as broken")
    subset = None
    if row.get("is_initial_screening_question") is True or row.get("is_quality_control_question") is True:
        subset = "shown to every labeller"
    steps: list[Any] = []
    labels: Labels = []
    converted: Converted = []
    ended = False
    for place, step in enumerate(field(label, "steps", list, "label.")):
        if ended:
            converted.append(
                RowRefused("missing_key", f"nothing was chosen in label.steps[{place - 1}], but more follow")
            )
            break
        chosen, others, ended = _choice(step, f"label.steps[{place}]")
        converted += [solution(prompt, [*steps, other], [None] * len(steps) + [value]) for other, value in others]
        steps.append(chosen[0])
        labels.append(chosen[1])
    outcome = True if reason == "solution" and not ended else None
    converted.insert(0, solution(prompt, steps, labels, outcome))
    return [row if isinstance(row, RowRefused) or subset is None else row | {"subset": subset} for row in converted]


def _choice(step: Any, place: str) -> tuple[tuple[Any, Any], list[tuple[Any, Any]], bool]:
    """The completion of a step that the solution went on with, all others, and whether it did not go on."""
    if not isinstance(step, dict):
        raise RowRefused("wrong_type", f"{place} is {type(step).__name__}, not an object")
    given = [] if step.get("completions") is None else field(step, "completions", list, f"{place}.")
    completions = [_rated_completion(each, f"{place}.completions") for each in given]
    if step.get("chosen_completion") is not None:
        index = field(step, "chosen_completion", int, f"{place}.")
        if not 0 <= index < len(completions):
            raise RowRefused("unequal_steps", f"{place} chose completion {shown(index)} of {len(completions)}")
        return completions[index], completions[:index] + completions[index + 1 :], False
    if step.get("human_completion") is not None:
        written = field(step, "human_completion", (dict, str), f"{place}.")
        return (written if isinstance(written, str) else written.get("text"), True), completions, False
    if not completions:
        raise RowRefused("no_messages", f"{place} has no completion")
    return completions[0], completions[1:], True


def _rated_completion(completion: Any, place: str) -> tuple[Any, bool | None]:
    if not isinstance(completion, dict):
        raise RowRefused("wrong_type", f"one of {place} is {type(completion).__name__}, not an object")
    rating = completion.get("rating")
    if rating is None:
        return completion.get("text"), None
    if isinstance(rating, bool) or not isinstance(rating, int | float) or rating not in _RATINGS:
        raise RowRefused("bad_step_label", f"a rating of {place} is {shown(rating)}, not 1, 0 or -1")
    return completion.get("text"), _RATINGS[int(rating)]


def gsm8k_train(row: Row) -> list[Row]:
    """GSM8K (arXiv 2110.14168): the reference solution, one step a line, all right.

    Its last line "#### 18" is the answer and stays as the last step. The annotations of the calculator stay too: the
    solutions that other sets label (Math-Shepherd, MR-GSM8K, gsm8k_candidates_steps) have them as well.
    """
    answer = text(row, "answer")
    lines = [line for line in answer.split("\n") if not is_blank(line)]
    if not lines or not lines[-1].startswith("####"):
        raise RowRefused("not_labelled", "answer does not end with a line '#### <answer>': the solution is incomplete")
    return [solution(text(row, "question"), lines, [True] * len(lines), True)]


def gsm8k_candidates_steps(row: Row) -> Converted:
    """Solutions of GSM8K's test problems by several models, each marked right or wrong: the outcome alone.

    A step is a line. Some models write one line only (rho_math), and each in a style of its own: see gsm8k_candidates.
    """
    prompt, candidates = text(row, "question"), field(row, "candidates", list)
    if not candidates:
        raise RowRefused("not_labelled", "candidates is an empty list")
    converted: Converted = []
    for candidate in candidates:
        try:
            if not isinstance(candidate, dict):
                raise RowRefused("wrong_type", f"a candidate is {type(candidate).__name__}, not an object")
            lines = [line for line in text(candidate, "response").split("\n") if not is_blank(line)]
            outcome = one_of(candidate, "correct", (True, False))
            name = ":".join(part for part in (source_id(row, "idx"), source_id(candidate, "model")) if part)
            columns = {"subset": source_id(candidate, "source"), "source_id": name or None}
            converted.append(solution(prompt, lines, [None] * len(lines), outcome, **columns))
        except RowRefused as refused:
            converted.append(refused)
    return converted


SOURCES = {
    "math_shepherd": Source(
        "steps",
        "peiyi9979/Math-Shepherd",
        "see the data card",
        "input, label, task",
        "split at the marks; + right, - wrong; the last sign is the outcome",
        math_shepherd,
    ),
    "math_shepherd_trl": Source(
        "steps",
        "trl-lib/math_shepherd",
        "see the data card",
        "prompt, completions, labels",
        "as it stands, without empty steps; the last label is the outcome",
        math_shepherd_trl,
    ),
    "rlhflow_prm": Source(
        "steps",
        "RLHFlow/Mistral-PRM-Data, RLHFlow/Deepseek-PRM-Data",
        "see the data card",
        "conversations [{role, content}]",
        "user turns are steps, + or - their label; without 'Step 1:' the first step stays in the prompt, unlabelled",
        rlhflow_prm,
    ),
    "prm800k": Source(
        "steps",
        "openai/prm800k on GitHub, prm800k/data/phase1_*.jsonl and phase2_*.jsonl",
        "see the repository",
        "question.problem, label {steps [{completions, chosen_completion, human_completion}], finish_reason}",
        "ratings 1 and 0 right, -1 wrong; the solution, and a row for every other completion; bad problems left out",
        prm800k,
    ),
    "gsm8k_train": Source(
        "steps",
        "openai/gsm8k (openai/grade-school-math)",
        "MIT",
        "question, answer",
        "reference solutions: every line is a right step, the answer line the last",
        gsm8k_train,
    ),
    "gsm8k_candidates_steps": Source(
        "steps",
        "several models' solutions of openai/gsm8k test problems",
        "MIT, Apache-2.0 or none stated, by the candidate's own source",
        "idx, question, candidates [{model, source, response, correct}]",
        "outcome only: every line is a step without a label; evaluation data",
        gsm8k_candidates_steps,
    ),
}
