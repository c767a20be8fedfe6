"""Sources of solutions with labelled steps: one hand-made raw row each, their rules, and the sample files."""

import copy
import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from raw_rows_rated_steps import EXAMPLES, chosen, completion, said

from useful_code.converting.checked import checked_rows
from useful_code.sources import step_evaluation, steps

SOURCES = {**steps.SOURCES, **step_evaluation.SOURCES}
SUM = "3 - 1 + 1?"


def converted(name, row):
    """The kept rows and the losses of one raw row, which must stay as it is."""
    before = copy.deepcopy(row)
    result = checked_rows(SOURCES[name], [row])
    assert row == before
    return result


def example(name, **changes):
    (row,) = EXAMPLES[name]
    return {**row, **changes}


def step_row(prompt, completions, labels, **columns):
    return {"prompt": prompt, "completions": completions, "labels": labels} | columns


def labels_of(name, **changes):
    """The labels of all kept rows of the changed example, of which nothing may be lost."""
    kept, lost = converted(name, example(name, **changes))
    assert not lost
    return [row["labels"] for row in kept]


EXPECTED = {
    "math_shepherd": [
        step_row(
            "What is 3 - 1 + 1?",
            ["Step 1: 3 - 1 = 2", "Step 2: 2 + 1 = 4", "Step 3: The answer is: 4"],
            [1, 0, 0],
            outcome=False,
            subset="GSM8K",
        )
    ],
    "math_shepherd_trl": [step_row("3 - 1?", ["Step 1: 3 - 1 = 2", "Step 2: So 2."], [1, 1], outcome=True)],
    "rlhflow_prm": [
        step_row("3 - 1?", ["Step 1: 3 - 1 = 2", "Step 2: So 2.", "Step 3: So 3."], [1, 1, 0], outcome=False)
    ],
    "prm800k": [
        step_row(SUM, ["Let me see.", "3 - 1 = 2.", "So it is 3."], [1, 1, 1], outcome=True),
        step_row(SUM, ["I add 1."], [0]),
        step_row(SUM, ["Let me see.", "3 - 1 = 1."], [None, 0]),
    ],
    "gsm8k_train": [step_row(SUM, ["3-1=<<3-1=2>>2", "2+1=<<2+1=3>>3", "#### 3"], [1, 1, 1], outcome=True)],
    "gsm8k_candidates_steps": [
        step_row("3 - 1?", ["3 - 1 = 2", "A: 2"], [None, None], outcome=True, subset="org/one", source_id="5:m1"),
        step_row("3 - 1?", ["It is 3."], [None], outcome=False, subset="org/two", source_id="5:m2"),
    ],
    "prmbench": [
        step_row(
            SUM,
            ["3 - 1 = 2.", "2 + 1 = 3."],
            [1, 1],
            outcome=True,
            subset="circular",
            source_id="circular/prm_test_p1_1",
        ),
        step_row(
            "3-1+1?",
            ["3 - 1 = 2.", "Say it is 3.", "So it is 3."],
            [1, 0, 1],
            subset="circular",
            source_id="circular/prm_test_p1_1",
        ),
    ],
    "big_bench_mistake": [
        step_row(
            "Sort these words alphabetically.\n\nb c a",
            ["I sort.", "First b.", "The answer is b c a"],
            [1, 0, None],
            outcome=False,
            subset="word_sorting",
            source_id="word_sorting/3",
        )
    ],
    "mr_gsm8k": [
        step_row(
            SUM,
            ["Step 1: 3 - 1 = 2", "Step 2: 2 + 1 = 4", "Step 3: #### 4"],
            [1, 0, None],
            outcome=False,
            subset="original",
            source_id="u1",
        )
    ],
    "processbench": [
        step_row(
            SUM,
            ["3 - 1 = 2.", "2 + 1 = 4.", "So 3."],
            [1, 0, None],
            outcome=True,
            subset="gsm8k",
            source_id="gsm8k-0",
        )
    ],
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_raw_row_becomes_the_expected_rows(name):
    assert converted(name, example(name)) == (EXPECTED[name], [])


# Math-Shepherd and RLHFlow


def shepherd(*pieces):
    """A raw row of a question or question and step, then steps, each a text and its sign ("" for none)."""
    mark = {"+": "ки", "-": "ки", "": ""}
    return {
        "input": "".join(text + mark[sign] for text, sign in pieces),
        "label": "".join(text + sign for text, sign in pieces),
        "task": "MATH",
    }


SHEPHERD = [  # pieces -> prompt, steps, labels, outcome
    ((("Q? Step 1: 2 + 2 - 1 ", "-"), ("\nStep 2: +", "+")), "Q?", ["Step 1: 2 + 2 - 1", "Step 2: +"], [0, 1], True),
    ((("Q. step 1: a ", "+"), ("\nstep 2: b ", "-")), "Q.", ["step 1: a", "step 2: b"], [1, 0], False),
    ((("Q? So it is 4. ", "+"), ("\nThe answer is: 4 ", "+")), "Q?", ["So it is 4.", "The answer is: 4"], [1, 1], True),
    ((("Q. ", "-"), ("\nStep 1: a ", "+"), ("\nStep 2: b ", "+")), "Q.", ["Step 1: a", "Step 2: b"], [1, 1], True),
    ((("Q? ", "-"), ("\nIt is 4 ", "+")), "Q?", ["It is 4"], [1], True),
    ((("Q? Step 1: a ", "+"), (" ", "-"), ("\nStep 2: b ", "+")), "Q?", ["Step 1: a", "Step 2: b"], [1, 1], True),
    ((("Q? Step 1: a ", "+"), ("\nStep 2: b", "")), "Q?", ["Step 1: a", "Step 2: b"], [1, None], None),
    ((("Q? Step 1: a ", "+"), ("\n", "")), "Q?", ["Step 1: a"], [1], True),
    (
        (("Q? Step 1: a ", "+"), *((f"\nStep {n}: b ", "+") for n in range(2, 12))),
        "Q?",
        ["Step 1: a", *(f"Step {n}: b" for n in range(2, 12))],
        [1] * 11,
        True,
    ),
]


@pytest.mark.parametrize(("pieces", "prompt", "completions", "labels", "outcome"), SHEPHERD)
def test_math_shepherd_is_split_at_its_marks(pieces, prompt, completions, labels, outcome):
    given = {} if outcome is None else {"outcome": outcome}
    expected = step_row(prompt, completions, labels, subset="MATH", **given)
    assert converted("math_shepherd", shepherd(*pieces)) == ([expected], [])


def test_two_formats_of_one_solution_give_the_same_steps():
    """METHODS 7.9, check 10."""
    (row,), _ = converted("math_shepherd", example("math_shepherd"))
    turns = [row["prompt"] + " " + row["completions"][0], "+"]
    for step, label in zip(row["completions"][1:], row["labels"][1:], strict=True):
        turns += [step, "+" if label else "-"]
    (other,), _ = converted("rlhflow_prm", {"conversations": said(*turns)})
    assert other == {key: value for key, value in row.items() if key != "subset"}


def test_a_first_step_that_nothing_marks_stays_in_rlhflows_prompt():
    raw = {"conversations": said("3 - 1? It is 2.", "-", "So 2.", "+")}
    expected = step_row("3 - 1? It is 2.", ["So 2."], [1], outcome=True, subset="first step in the prompt")
    assert converted("rlhflow_prm", raw) == ([expected], [])


def test_the_outcome_of_trl_rows_is_the_last_boolean_label():
    name = "math_shepherd_trl"
    (row,), _ = converted(name, example(name, labels=[True, False]))
    assert row["outcome"] is False
    (row,), _ = converted(name, example(name, labels=[1.0, 0.25]))
    assert "outcome" not in row
    (row,), _ = converted(name, example(name, completions=["a", " "], labels=[True, False]))
    assert (row["completions"], row["labels"], row["outcome"]) == (["a"], [1.0], False)


# PRM800K


def prm800k(*steps, finish_reason="found_error", **columns):
    return example("prm800k", label={"steps": list(steps), "finish_reason": finish_reason}, **columns)


def test_prm800k_ends_with_the_solutions_own_wrong_step():
    raw = prm800k(
        chosen(0, completion("a", 1)),
        chosen(None, completion("b", -1), completion("c", 0), completion("d", None), completion(" ", 1)),
    )
    kept, lost = converted("prm800k", raw)
    assert kept == [step_row(SUM, ["a", "b"], [1, 0]), step_row(SUM, ["a", "c"], [None, 1])]
    assert [loss.refused.reason for loss in lost] == ["not_labelled", "not_labelled"]  # unrated, empty


@pytest.mark.parametrize(("reason", "outcome"), [("solution", True), ("found_error", None), ("give_up", None)])
def test_prm800k_has_an_outcome_only_where_the_right_answer_was_reached(reason, outcome):
    (row,), _ = converted("prm800k", prm800k(chosen(0, completion("a", 1)), finish_reason=reason))
    assert row.get("outcome") is outcome


@pytest.mark.parametrize("flag", ["is_quality_control_question", "is_initial_screening_question"])
def test_the_subset_tells_solutions_that_every_labeller_saw(flag):
    raw = prm800k(chosen(0, completion("a", 1), completion("b", -1)), **{flag: True})
    kept, _ = converted("prm800k", raw)
    assert [row["subset"] for row in kept] == ["shown to every labeller"] * 2


def test_what_follows_a_step_without_a_choice_is_refused_and_the_rest_kept():
    kept, lost = converted("prm800k", prm800k(chosen(None, completion("a", 1)), chosen(0, completion("b", 1))))
    assert kept == [step_row(SUM, ["a"], [1])]
    assert [loss.refused.reason for loss in lost] == ["missing_key"]


def test_a_step_that_only_the_labeller_wrote():
    step = {"completions": None, "human_completion": {"text": "a"}, "chosen_completion": None}
    assert converted("prm800k", prm800k(step))[0] == [step_row(SUM, ["a"], [1])]


# The first mistake

FIRST_MISTAKE = [  # source, changes to the example, labels
    ("big_bench_mistake", {"mistake_index": None}, [1, 1, 1]),
    ("big_bench_mistake", {"mistake_index": 0}, [0, None, None]),
    ("big_bench_mistake", {"mistake_index": 3}, [1, 1, 0]),  # counted with the empty step, which is dropped
    ("mr_gsm8k", {"model_output_solution_first_error_step": 1}, [0, None, None]),
    ("mr_gsm8k", {"model_output_solution_first_error_step": "3"}, [1, 1, 0]),
    ("mr_gsm8k", {"model_output_solution_first_error_step": "N/A"}, [None, None, None]),
    (
        "mr_gsm8k",
        {"model_output_solution_first_error_step": "N/A", "model_output_solution_correctness": "correct"},
        [1, 1, 1],
    ),
    ("processbench", {"label": -1}, [1, 1, 1]),
    ("processbench", {"label": 0}, [0, None, None]),
    ("processbench", {"label": 2, "final_answer_correct": None}, [1, 1, 0]),
    ("prmbench", {"error_steps": [1, 3]}, [0, 1, 0]),
    ("prmbench", {"error_steps": []}, [1, 1, 1]),
    ("prmbench", {"error_steps": None, "classification": "multi_solutions"}, [1, 1, 1]),
    ("prmbench", {"modified_process": ["a", "b", " ", "c"]}, [1, 0, 1]),  # empty after the last error: no doubt
]


@pytest.mark.parametrize(("name", "changes", "labels"), FIRST_MISTAKE)
def test_labels_of_the_first_mistake(name, changes, labels):
    assert labels_of(name, **changes)[-1] == labels


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("a b c", True), (" a b c.", True), ("a b", False), (None, False), ("", False)],
)
def test_the_outcome_of_big_bench_is_the_answer(answer, outcome):
    (row,), _ = converted("big_bench_mistake", example("big_bench_mistake", answer=answer))
    assert row["outcome"] is outcome


@pytest.mark.parametrize(
    ("task", "prompt"),
    [
        ("logical_deduction", "b c a"),
        ("dyck_languages", "Close all brackets that are still open, in the right order.\n\nb c a"),
        (None, "b c a"),
    ],
)
def test_a_request_joins_inputs_that_hold_none(task, prompt):
    (row,), _ = converted("big_bench_mistake", example("big_bench_mistake", task=task))
    assert row["prompt"] == prompt


def test_a_right_answer_over_a_wrong_step_and_the_other_way_round():
    name = "mr_gsm8k"
    (row,), _ = converted(name, example(name, model_output_answer_correctness="correct"))
    assert (row["labels"], row["outcome"]) == ([1, 0, None], True)


def test_the_outcome_of_a_changed_prmbench_solution_is_known_only_if_no_step_is_wrong():
    kept, _ = converted("prmbench", example("prmbench"))
    assert [row.get("outcome") for row in kept] == [True, None]
    kept, _ = converted("prmbench", example("prmbench", error_steps=[]))
    assert [row.get("outcome") for row in kept] == [True, True]


REFUSED = [  # source, changes to the example, reason of every loss, rows that are kept
    ("math_shepherd", {"input": "3 - 1? Step 1: 2"}, "no_turn_marker", 0),
    ("math_shepherd", {"label": "3 - 1? Step 1: 2 +"}, "unequal_steps", 0),
    ("math_shepherd", shepherd(("Q? Step 1: a ", "+")) | {"label": "Q? Step 1: a ?"}, "bad_step_label", 0),
    ("math_shepherd", shepherd(("What? Why? a ", "+")), "no_turn_marker", 0),
    ("math_shepherd", shepherd(("No question. ", "+"), ("a ", "+")), "no_turn_marker", 0),
    ("math_shepherd", shepherd(("Step 1: Why? ", "+")), "empty_content", 0),
    ("math_shepherd", {"label": None}, "missing_key", 0),
    ("math_shepherd_trl", {"labels": [True]}, "unequal_steps", 0),
    ("math_shepherd_trl", {"labels": ["+", "-"]}, "bad_step_label", 0),
    ("math_shepherd_trl", {"completions": [" ", ""]}, "no_messages", 0),
    ("math_shepherd_trl", {"completions": ["a", None]}, "missing_key", 0),
    ("math_shepherd_trl", {"prompt": ""}, "empty_content", 0),
    ("rlhflow_prm", {"conversations": []}, "no_messages", 0),
    ("rlhflow_prm", {"conversations": said("Q Step 1: a", "+", "Step 2: b")}, "odd_length", 0),
    ("rlhflow_prm", {"conversations": said("Q Step 1: a", "good")}, "bad_step_label", 0),
    ("rlhflow_prm", {"conversations": said("Q Step 1: a", "+")[::-1]}, "role_order", 0),
    ("rlhflow_prm", {"conversations": said("Step 1: a", "+")}, "empty_content", 0),
    ("rlhflow_prm", {"conversations": said("Q? It is 2.", "+")}, "no_messages", 0),
    ("prm800k", {"question": {}}, "missing_key", 0),
    ("prm800k", {"label": {"steps": [], "finish_reason": "give_up"}}, "no_messages", 0),
    ("prm800k", {"label": {"steps": ["a"], "finish_reason": "solution"}}, "wrong_type", 0),
    ("prm800k", prm800k(chosen(None)), "no_messages", 0),
    ("prm800k", prm800k(chosen(1, completion("a", 1))), "unequal_steps", 0),
    ("prm800k", prm800k(chosen(0, completion("a", 2))), "bad_step_label", 0),
    ("prm800k", prm800k(chosen(0, completion("a", True))), "bad_step_label", 0),
    ("prm800k", prm800k(chosen(0, "a")), "wrong_type", 0),
    ("prm800k", prm800k(chosen(0, completion("a", 1)), finish_reason="bad_problem"), "left_out_by_rule", 0),
    ("gsm8k_train", {"answer": "3-1=2"}, "not_labelled", 0),
    ("gsm8k_train", {"question": " "}, "empty_content", 0),
    ("gsm8k_candidates_steps", {"candidates": []}, "not_labelled", 0),
    ("gsm8k_candidates_steps", {"candidates": [3]}, "wrong_type", 0),
    ("gsm8k_candidates_steps", {"candidates": [{"response": "4", "correct": 1}]}, "no_preference", 0),
    ("gsm8k_candidates_steps", {"candidates": [{"response": "\n", "correct": True}]}, "no_messages", 0),
    ("prmbench", {"error_steps": [4]}, "unequal_steps", 1),
    ("prmbench", {"error_steps": [0]}, "unequal_steps", 1),
    ("prmbench", {"error_steps": ["2"]}, "bad_step_label", 1),
    ("prmbench", {"error_steps": None}, "missing_key", 1),
    ("prmbench", {"modified_process": ["a", " ", "b"], "error_steps": [3]}, "unequal_steps", 1),
    ("prmbench", {"modified_process": ["a", " ", "b"], "error_steps": [2]}, "unequal_steps", 1),
    ("prmbench", {"original_process": None}, "missing_key", 1),
    ("prmbench", {"question": ""}, "empty_content", 1),
    ("big_bench_mistake", {"mistake_index": 4}, "unequal_steps", 0),
    ("big_bench_mistake", {"mistake_index": -1}, "unequal_steps", 0),
    ("big_bench_mistake", {"mistake_index": 2}, "empty_content", 0),
    ("big_bench_mistake", {"mistake_index": 0.5}, "bad_step_label", 0),
    ("big_bench_mistake", {"mistake_index": True}, "wrong_type", 0),
    ("big_bench_mistake", {"target": None}, "missing_key", 0),
    ("big_bench_mistake", {"input": "\n"}, "empty_content", 0),
    ("mr_gsm8k", {"model_output_solution_first_error_step": 4}, "unequal_steps", 0),
    ("mr_gsm8k", {"model_output_solution_first_error_step": 0}, "unequal_steps", 0),
    ("mr_gsm8k", {"model_output_solution_first_error_step": "first"}, "bad_step_label", 0),
    ("mr_gsm8k", {"model_output_answer_correctness": "maybe"}, "no_preference", 0),
    ("processbench", {"label": None}, "missing_key", 0),
    ("processbench", {"label": -2}, "unequal_steps", 0),
    ("processbench", {"label": 10**400}, "bad_step_label", 0),
    ("processbench", {"final_answer_correct": "yes"}, "wrong_type", 0),
]


@pytest.mark.parametrize(("name", "changes", "reason", "num_kept"), REFUSED)
def test_what_is_refused_and_what_is_kept_of_the_rest(name, changes, reason, num_kept):
    kept, lost = converted(name, example(name, **changes))
    assert {loss.refused.reason for loss in lost} == {reason}
    assert len(kept) == num_kept


def test_a_row_that_does_not_mention_the_mistake_is_not_called_right():
    row = example("big_bench_mistake")
    del row["mistake_index"]
    _, (loss,) = converted("big_bench_mistake", row)
    assert loss.refused.reason == "missing_key"


REAL = [  # source, file, rows read, rows kept, refusals, labels (true, false, null), outcomes (true, false)
    # 4,701 x 2 rows. Modified rows are lost: 81 with an error number past the last step, and prm_test_p2_991
    # (step_contradiction) and prm_train_p1_303 (confidence) with empty steps before the error number. 4,701 right
    # originals and 125 other right solutions have an outcome. 29 empty steps are dropped, or lie in those two rows.
    ("prmbench", "prmbench/prmbench", 4701, 9319, {"unequal_steps": 83}, (119470, 9793, 0), (4826, 0)),
    # 362 traces without a mistake. One empty step is dropped. One answer is right but for a full stop, one is null.
    ("big_bench_mistake", "big_bench_mistake/big_bench_mistake", 1587, 1587, {}, (11807, 1225, 12034), (495, 1092)),
    # Every row is wrong; 11 end in the right answer all the same.
    ("mr_gsm8k", "mr_gsm8k/wrong_solutions", 445, 445, {}, (1262, 445, 1848), (11, 434)),
    # Four empty lines are dropped.
    ("gsm8k_train", "gsm8k_train/train", 5577, 5577, {}, (25560, 0, 0), (5577, 0)),
    # 978 problems x 11 models.
    ("gsm8k_candidates_steps", "gsm8k_solutions/test_candidates", 978, 10758, {}, (0, 0, 46006), (5944, 4814)),
]


@pytest.mark.skipif("RM_DATA_DIR" not in os.environ, reason="RM_DATA_DIR does not name the folder with the sample data")
@pytest.mark.parametrize(("name", "stem", "read", "good", "lost", "labels", "outcomes"), REAL)
def test_real_files_convert_with_the_documented_counts(name, stem, read, good, lost, labels, outcomes):
    num_read, num_kept, found, counted, ended = 0, 0, Counter(), Counter(), Counter()
    with gzip.open(Path(os.environ["RM_DATA_DIR"]) / f"{stem}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            kept, losses = converted(name, json.loads(line))
            num_read += 1
            num_kept += len(kept)
            found.update(loss.refused.reason for loss in losses)
            counted.update(label for row in kept for label in row["labels"])
            ended.update(row.get("outcome") for row in kept)
    assert (num_read, num_kept, found) == (read, good, lost)
    assert tuple(counted[label] for label in (True, False, None)) == labels
    assert (ended[True], ended[False]) == outcomes
