"""Sets in which people marked the first mistake of a solution, or every wrong step. METHODS 7.2, 7.10.

They are meant for evaluation. Whoever trains on one first drops every prompt that also occurs in an evaluation set that
will be reported.
"""

from typing import Any

from useful_code.reasons import RowRefused
from useful_code.sources.benchmarks import EVALUATION
from useful_code.sources.fields import Converted, Row, field, number, one_of, shown, source_id, text
from useful_code.sources.judged import joined_ids
from useful_code.sources.source import Source
from useful_code.sources.steps import Labels, is_blank, solution


def up_to_first_error(steps: list[Any], first_error: int | None) -> Labels:
    """Labels of steps of which the first wrong one is known, counted from 0 (None: all are right).

    >>> up_to_first_error(["a", "b", "c", "d"], 1)
    [True, False, None, None]
    """
    if first_error is None:
        return [True] * len(steps)
    if not 0 <= first_error < len(steps):
        raise RowRefused("unequal_steps", f"the first wrong step is {shown(first_error)} (from 0) of {len(steps)}")
    if is_blank(steps[first_error]):
        raise RowRefused("empty_content", f"step {first_error} (from 0), which is called wrong, is empty")
    return [True] * first_error + [False] + [None] * (len(steps) - first_error - 1)


def _whole(row: Row, key: str) -> int:
    """row[key] as a whole number; text such as "4" counts."""
    try:
        value = number(row, key)
    except RowRefused as refused:
        reason = "bad_step_label" if refused.reason == "bad_score" else refused.reason
        raise RowRefused(reason, refused.detail) from None
    if value != int(value):
        raise RowRefused("bad_step_label", f"{key} is {value:g}, not a whole number")
    return int(value)


def prmbench(row: Row) -> Converted:
    """PRMBench (arXiv 2501.03124): a right solution of a PRM800K problem, and a copy with wrong steps of one kind.

    Two rows: the original process, all steps right, and the modified one, in which the steps of `error_steps` (from 1)
    are wrong and all others right. Redundant and circular steps count as wrong, as in the benchmark; the copies of kind
    "multi_solutions" are other right solutions. Whether a modified solution still ends in the right answer is not said.
    The subset is the kind, of the original too, which comes again in other rows.

    A number past the last step (81 of 4,701 rows of the sample) refuses the modified row, since nobody knows where the
    others belong. So does an empty step before a wrong one: in those two rows the numbers leave the empty steps out or
    follow numbers within the text. In 247 rows a step is called wrong which, after the same steps, is right in the
    original (the question may be another); that is kept as the benchmark has it.
    """
    names: Row = {
        "subset": source_id(row, "classification"),
        "source_id": joined_ids(row, "classification", "idx"),
    }
    converted: Converted = []
    try:
        original = field(row, "original_process", list)
        converted.append(solution(text(row, "question"), original, [True] * len(original), True, **names))
    except RowRefused as refused:
        converted.append(refused)
    try:
        modified = field(row, "modified_process", list)
        labels: Labels = [True] * len(modified)
        no_errors = names["subset"] == "multi_solutions" and row.get("error_steps") is None
        for error in [] if no_errors else field(row, "error_steps", list):
            if isinstance(error, bool) or not isinstance(error, int):
                raise RowRefused("bad_step_label", f"an error step is {shown(error)}, not a number")
            if not 1 <= error <= len(modified):
                raise RowRefused("unequal_steps", f"step {shown(error)} is called wrong, of {len(modified)} steps")
            if any(is_blank(step) for step in modified[:error]):
                raise RowRefused("unequal_steps", f"an empty step before step {error}, whose number is not certain")
            labels[error - 1] = False
        outcome = None if False in labels else True
        converted.append(solution(text(row, "modified_question"), modified, labels, outcome, **names))
    except RowRefused as refused:
        converted.append(refused)
    return converted


_BIG_BENCH_REQUESTS = {  # where the input is only what is to be worked on; the wording is ours
    "dyck_languages": "Close all brackets that are still open, in the right order.",
    "word_sorting": "Sort these words alphabetically.",
    "multistep_arithmetic": "Calculate.",
}


def big_bench_mistake(row: Row) -> list[Row]:
    """BIG-Bench Mistake (arXiv 2311.08516): PaLM 2's steps, `mistake_index` the first wrong one (from 0, null: none).

    The outcome is whether `answer`, which was cut out of the last step, equals `target`; a full stop at its end does
    not count, and no answer is a wrong one. It may be right in spite of a mistake. The inputs of three tasks hold no
    request and get one of ours.
    """
    if "mistake_index" not in row:
        raise RowRefused("missing_key", "no mistake_index (null would mean: no mistake)")
    first_error = None if row["mistake_index"] is None else _whole(row, "mistake_index")
    steps, task = field(row, "steps", list), source_id(row, "task")
    answer = "" if row.get("answer") is None else text(row, "answer")
    outcome = answer.rstrip(" .") == text(row, "target").rstrip(" .")
    given, request = text(row, "input"), _BIG_BENCH_REQUESTS.get(task or "")
    prompt = f"{request}\n\n{given}" if request and given else given
    labels = up_to_first_error(steps, first_error)
    return [solution(prompt, steps, labels, outcome, subset=task, source_id=joined_ids(row, "task", "idx"))]


def mr_gsm8k(row: Row) -> list[Row]:
    """MR-GSM8K (arXiv 2312.17080): solutions of GSM8K questions and of changed ones (reversed, program of thought).

    `model_output_solution_first_error_step` counts from 1. Where the solution is wrong and the step is not given
    ("N/A"), no label is known; where it is right, all are.
    """
    steps = field(row, "model_output_steps", list)
    key = "model_output_solution_first_error_step"
    verdicts = ("correct", "wrong")
    right = one_of(row, "model_output_solution_correctness", verdicts) == "correct"
    outcome = one_of(row, "model_output_answer_correctness", verdicts) == "correct"
    labels: Labels = [None] * len(steps)
    if right:
        labels = up_to_first_error(steps, None)
    elif row.get(key) not in (None, "", "N/A"):
        labels = up_to_first_error(steps, _whole(row, key) - 1)
    names = {"subset": source_id(row, "question_type"), "source_id": source_id(row, "uuid")}
    return [solution(text(row, "question"), steps, labels, outcome, **names)]


def processbench(row: Row) -> list[Row]:
    """ProcessBench (arXiv 2412.06559): `label` is the first wrong step, from 0; -1: none.

    The outcome is `final_answer_correct`: a solution may reach the right answer over a wrong step. The subset is the
    part of the set, read off `id` ("olympiadbench-12").
    """
    steps, first_error = field(row, "steps", list), _whole(row, "label")
    labels = up_to_first_error(steps, None if first_error == -1 else first_error)
    outcome = None if row.get("final_answer_correct") is None else field(row, "final_answer_correct", bool)
    identifier = source_id(row, "id")
    subset = (identifier or "").rpartition("-")[0] or None
    return [solution(text(row, "problem"), steps, labels, outcome, subset=subset, source_id=identifier)]


SOURCES = {
    "prmbench": Source(
        "steps",
        "hitsmy/PRMBench_Preview, ssmisya/PRMBench on GitHub",
        "Apache-2.0",
        "idx, classification, question, original_process, modified_question, modified_process, error_steps",
        f"the original, all steps right, and the modified one, error_steps wrong, the others right; {EVALUATION}",
        prmbench,
    ),
    "big_bench_mistake": Source(
        "steps",
        "WHGTyen/BIG-Bench-Mistake on GitHub",
        "Apache-2.0",
        "task, idx, input, steps, answer, target, mistake_index",
        f"right up to mistake_index, then not known; outcome: answer equals target; {EVALUATION}",
        big_bench_mistake,
    ),
    "mr_gsm8k": Source(
        "steps",
        "dvlab-research/MR-GSM8K on GitHub",
        "MIT",
        "uuid, question, question_type, model_output_steps, model_output_{solution,answer}_correctness, ..._error_step",
        f"right up to the first error step, then not known; outcome: answer correctness; {EVALUATION}",
        mr_gsm8k,
    ),
    "processbench": Source(
        "steps",
        "Qwen/ProcessBench",
        "Apache-2.0",
        "id, problem, steps, label, final_answer_correct",
        f"right up to the step of label (-1: all right), then not known; {EVALUATION}",
        processbench,
    ),
}
