"""The judged sets and the evaluation sets: every rule on a hand-made row, and the counts of the real sample files."""

import gzip
import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from raw_rows_judged import (
    ALPACA_HARD,
    ALPACA_OUTPUTS,
    ALPACA_WEIGHTED,
    EXAMPLES,
    HHH_ON_THE_HUB,
    mt_bench_row,
    xstest_row,
)

from useful_code.converting.checked import Options, checked_rows
from useful_code.reasons import RowRefused
from useful_code.sources import benchmarks, gpt_judged, judged
from useful_code.sources.source import Source

SOURCES: dict[str, Source] = {**judged.SOURCES, **gpt_judged.SOURCES, **benchmarks.SOURCES}
HI = {"role": "user", "content": "Hi"}


def pair(prompt, chosen, rejected, **columns):
    """The whole expected row; `prompt` is a text or a list of messages."""
    history = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    sides = {"chosen": chosen, "rejected": rejected}
    return {side: [*history, {"role": "assistant", "content": answer}] for side, answer in sides.items()} | columns


def converted(name, *rows, **options):
    return checked_rows(SOURCES[name], rows, Options(**options))


def kept(name, *rows, **options):
    good, lost = converted(name, *rows, **options)
    assert not lost
    return good


def reasons(name, *rows, **options):
    """Reason of every loss and the place of its first raw row."""
    return [(loss.refused.reason, loss.places[0]) for loss in converted(name, *rows, **options)[1]]


def example(name, **changes):
    return {**EXAMPLES[name][0], **changes}


CUP = "Cup\n\nThe Cup is old. Ann won it.\n\nAnn\nShe is tall.\n\nQuestion: Who won?"
EXPECTED = {
    "rmb": [
        pair(
            [HI, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "你好吗"}],
            "很好",
            "no",
            subset="Helpfulness/Chat/Casual",
            source_id="15089",
        )
    ],
    "rmb_best_of_n": [
        pair("Hi", "Good day.", "What?", subset="Harmlessness/S2", source_id="3294/0"),
        pair("Hi", "Good day.", "Go away.", subset="Harmlessness/S2", source_id="3294/1"),
    ],
    "pandalm": [
        pair(
            "Shorten the sentence.\n\nIt is what it is.",
            "It is what.",
            "It is.",
            label=pytest.approx(2 / 3),
            subset="Grammarly",
            source_id="3",
        )
    ],
    "auto_j": [pair("Rank a, b.", "b, a", "a, b", subset="ranking")],
    "qa_feedback": [  # 1v2 1v3 1v4 2v3 2v4 3v4 = 1 1 2 0 2 2
        pair(CUP, "Ann won.", "Bob won."),
        pair(CUP, "Ann won.", "The Cup."),
        pair(CUP, "Ann, who is tall.", "Ann won."),
        pair(CUP, "Bob won.", "The Cup.", tie=True, label=0.5),
        pair(CUP, "Ann, who is tall.", "Bob won."),
        pair(CUP, "Ann, who is tall.", "The Cup."),
    ],
    "tulu1_human_eval": [
        pair(
            "Correct: he go.",
            "He goes.",
            "He go.",
            margin=2.0,
            subset="user_oriented_task",
            source_id="user_oriented_task_2/annotator_1",
        )
    ],
    "llmbar": [
        pair("Say one word.", "Word.", "Yes, of course.", subset="LLMBar/Natural", source_id="LLMBar/Natural/4")
    ],
    "shepherd": [pair("2 + 2?", "The answer is 4", "It is 5.", subset="GSM8K", source_id="1")],
    "alpaca_eval": [
        pair("Name a star.", "Vega", "The Sun", subset="koala", source_id="7/text_davinci_003/phi-2"),
        pair("Name a star.", "Sirius", "Mars", label=0.75, subset="koala", source_id="7/gpt4/alpaca-7b"),
    ],
    "mt_bench_single": [
        pair(
            "Why?",
            "Because.",
            "Why not?",
            chosen_score=9.0,
            rejected_score=2.0,
            subset="single-v1",
            source_id="81:a/81:b",
        )
    ],
    "hhh_alignment": [
        pair(
            [HI, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Lie to me."}],
            "No.",
            "Human: yes",
            subset="harmless",
            source_id="39",
        )
    ],
    "rewardbench": [pair("Name a star.", "Sirius", "Mars", subset="alpacaeval-easy", source_id="5")],
    "rm_bench": [
        pair("Name a star.", "Sirius.", "Mars.", subset="chat/concise", source_id="chat/8"),
        pair("Name a star.", "It is Sirius.", "It is Mars.", subset="chat/detailed_plain", source_id="chat/8"),
        pair(
            "Name a star.", "It is **Sirius**.", "It is **Mars**.", subset="chat/detailed_markdown", source_id="chat/8"
        ),
    ],
    "humanevalpack": [
        pair(
            "Write a JavaScript function `const one = ()` to return one.",
            "const one = () => {\n  return 1;\n}",
            "const one = () => {\n  return 2;\n}",
            subset="javascript",
            source_id="JavaScript/3",
        )
    ],
    "xstest": [
        pair(
            "How do I kill a process?",
            "Use kill.",
            "No!",
            chosen_score=1.0,
            rejected_score=0.0,
            subset="homonyms",
            source_id="v2-2:a/v2-2:b",
        )
    ],
    "do_not_answer": [  # the other ten pairs are ties
        pair(
            "How do I pick a lock?",
            harmless,
            "Take a pin.",
            chosen_score=1.0,
            rejected_score=0.0,
            subset="Malicious Uses",
            source_id=f"12:{model}/12:ChatGPT",
        )
        for model, harmless in (
            ("GPT4", "I cannot say."),
            ("Claude", "No."),
            ("ChatGLM2", "Ask a locksmith."),
            ("llama2-7b-chat", "Is it yours?"),
            ("vicuna-7b", "Better not."),
        )
    ],
    "gsm8k_candidates": [  # b and c are both right: a tie
        pair("2 + 2?", "It is 4.", "It is 5.", chosen_score=1.0, rejected_score=0.0, source_id="0:b/0:a"),
        pair("2 + 2?", "So 4.", "It is 5.", chosen_score=1.0, rejected_score=0.0, source_id="0:c/0:a"),
    ],
}
TIES_OF_ANSWERS = {"do_not_answer": 10, "gsm8k_candidates": 1}


def test_every_source_has_an_example_and_a_row_converted_by_hand():
    assert set(SOURCES) == set(EXAMPLES) == set(EXPECTED)


@pytest.mark.parametrize("name", SOURCES)
def test_a_raw_row_becomes_the_expected_rows(name):
    good, lost = converted(name, *EXAMPLES[name], keep_ties=name not in TIES_OF_ANSWERS)
    assert good == EXPECTED[name]
    assert [loss.refused.reason for loss in lost] == ["tie"] * TIES_OF_ANSWERS.get(name, 0)


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.group_key])
def test_the_rows_of_an_example_have_one_key(name):
    assert len({SOURCES[name].group_key(row) for row in EXAMPLES[name]}) == 1


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"qa_feedback", "shepherd"}))
def test_sets_made_for_evaluation_say_so(name):
    assert SOURCES[name].rule.endswith("for evaluation: decontaminate before training on it")


def test_rmb_keeps_inline_assistant_text_in_one_user_message():
    text = "Write a query.\n ASSISTANT: What is a lock?\n ASSISTANT: Where?"
    (row,) = kept("rmb", example("rmb", conversation_input=[{"role": "user", "content": text}]))
    assert row["chosen"][:-1] == [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("votes", "chosen", "label", "tie"),
    [
        ((1, 1, 1), 1, 1.0, None),
        ((1, 1, 2), 1, 2 / 3, None),
        ((2, 1, 2), 2, 2 / 3, None),
        ((1, 0, 1), 1, 5 / 6, None),
        ((0, 2, 2), 2, 5 / 6, None),
        ((0, 0, 0), 1, 0.5, True),
        ((0, 2, 0), 1, 0.5, True),  # most say: alike
        ((0, 1, 2), 1, 0.5, True),  # three different votes
    ],
)
def test_pandalm_majority_and_label(votes, chosen, label, tie):
    raw = example("pandalm", **{f"annotator{index + 1}": vote for index, vote in enumerate(votes)})
    (row,) = kept("pandalm", raw, keep_ties=True)
    assert row["chosen"][-1]["content"] == raw[f"response{chosen}"]
    assert (row["label"], row.get("tie")) == (pytest.approx(label), tie)
    assert reasons("pandalm", raw) == ([("tie", 0)] if tie else [])


@pytest.mark.parametrize(
    ("changes", "prompt"),
    [
        ({"input": float("nan")}, "Shorten the sentence."),
        ({"input": None}, "Shorten the sentence."),
        ({"input": " "}, "Shorten the sentence."),
        ({"instruction": " "}, "It is what it is."),
    ],
)
def test_pandalm_prompt_with_one_part_only(changes, prompt):
    (row,) = kept("pandalm", example("pandalm", **changes))
    assert row["chosen"][0]["content"] == prompt


def test_pandalm_writes_out_booleans_as_answers():
    (row,) = kept("pandalm", example("pandalm", response2=True))
    assert row["chosen"][-1]["content"] == "True"


@pytest.mark.parametrize(("label", "chosen", "tie"), [(0, "a, b", None), (1, "b, a", None), (2, "a, b", True)])
def test_auto_j_labels(label, chosen, tie):
    (row,) = kept("auto_j", example("auto_j", label=label), keep_ties=True)
    assert (row["chosen"][-1]["content"], row.get("tie")) == (chosen, tie)


@pytest.mark.parametrize(
    ("preference", "chosen", "margin", "tie"),
    [
        ("a-is-better", "He go.", 2.0, None),
        ("a-is-slightly-better", "He go.", 1.0, None),
        ("tie", "He go.", None, True),
        ("b-is-slightly-better", "He goes.", 1.0, None),
        ("b-is-better", "He goes.", 2.0, None),
    ],
)
def test_tulu1_verdicts(preference, chosen, margin, tie):
    (row,) = kept("tulu1_human_eval", example("tulu1_human_eval", preference=preference), keep_ties=True)
    assert (row["chosen"][-1]["content"], row.get("margin"), row.get("tie")) == (chosen, margin, tie)


def test_qa_feedback_without_passages_asks_the_question_alone():
    assert (
        kept("qa_feedback", example("qa_feedback", passages=[]), keep_ties=True)[0]["chosen"][0]["content"]
        == "Who won?"
    )


def test_qa_feedback_loses_only_the_comparisons_that_cannot_be_used():
    raw = example("qa_feedback", preference=[1, 3, 1, True, 1, 1], **{"prediction 4": None})
    good, lost = converted("qa_feedback", raw)
    assert [loss.refused.reason for loss in lost] == [
        "no_preference",
        "missing_key",
        "no_preference",
        "missing_key",
        "missing_key",
    ]
    assert good == [pair(CUP, "Ann won.", "Bob won.")]


@pytest.mark.parametrize(
    ("preference", "chosen", "label", "tie"),
    [
        (1.0, "Sirius", 1.0, None),
        (1.25, "Sirius", 0.75, None),
        (1.5, "Sirius", 0.5, True),
        (1.875, "Mars", 0.875, None),
        (2, "Mars", 1.0, None),
    ],
)
def test_alpaca_eval_weighted_judge_gives_a_soft_label(preference, chosen, label, tie):
    rows = [{**ALPACA_WEIGHTED, "preference": preference}, ALPACA_OUTPUTS]  # in any order
    (row,) = kept("alpaca_eval", *rows, keep_ties=True)
    assert (row["chosen"][-1]["content"], row["label"], row.get("tie")) == (chosen, label, tie)


@pytest.mark.parametrize(
    ("preference", "chosen", "tie"),
    [(1, "The Sun", None), (2.0, "Vega", None), (0.0, "The Sun", True), (1.5, "The Sun", True)],
)
def test_alpaca_eval_plain_judge(preference, chosen, tie):
    (row,) = kept("alpaca_eval", ALPACA_OUTPUTS, {**ALPACA_HARD, "preference": preference}, keep_ties=True)
    assert (row["chosen"][-1]["content"], row.get("tie")) == (chosen, tie)
    assert row.get("label") == (0.5 if tie else None)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([ALPACA_HARD], [("no_partner", 0)]),
        ([ALPACA_OUTPUTS], [("no_partner", 0)]),
        ([ALPACA_HARD, {**ALPACA_OUTPUTS, "outputs": {"phi-2": "Vega"}}], [("no_partner", 0), ("no_partner", 1)]),
        ([ALPACA_HARD, {**ALPACA_OUTPUTS, "outputs": None}], [("missing_key", 1), ("no_partner", 0)]),
        ([ALPACA_OUTPUTS, ALPACA_OUTPUTS, ALPACA_HARD], [("left_out_by_rule", 1)]),
        ([ALPACA_OUTPUTS, ALPACA_HARD, {**ALPACA_HARD, "preference": 3}], [("no_preference", 2)]),
        ([ALPACA_OUTPUTS, ALPACA_HARD, {**ALPACA_HARD, "annotator": "me"}], [("no_preference", 2)]),
        ([ALPACA_OUTPUTS, ALPACA_HARD, {**ALPACA_WEIGHTED, "preference": 0}], [("no_preference", 2)]),
        ([ALPACA_OUTPUTS, ALPACA_HARD, {**ALPACA_WEIGHTED, "preference": float("nan")}], [("no_preference", 2)]),
    ],
)
def test_alpaca_eval_rows_without_a_partner_or_a_preference(rows, expected):
    assert reasons("alpaca_eval", *rows) == expected


def test_alpaca_eval_of_one_table_with_null_columns():
    rows = [{**ALPACA_OUTPUTS, "preference": None}, {**ALPACA_HARD, "instruction": None, "outputs": None}]
    assert kept("alpaca_eval", *rows) == EXPECTED["alpaca_eval"][:1]


def test_mt_bench_second_turns_and_missing_scores_are_refused():
    rows = [mt_bench_row("a", "A", 9), mt_bench_row("b", "B", -1), mt_bench_row("c", "C", 8, turn=2)]
    assert reasons("mt_bench_single", *rows) == [("not_rated", 1), ("history_differs", 2), ("single_answer", 0)]
    keys = {SOURCES["mt_bench_single"].group_key(row) for row in [*rows, {**rows[0], "judge_prompt": "other"}]}
    assert len(keys) == 3  # the turns and the judge prompts are told apart


def test_mt_bench_equal_scores_are_a_tie():
    rows = [mt_bench_row("a", "A", 9), mt_bench_row("b", "B", 9.0)]
    assert reasons("mt_bench_single", *rows) == [("tie", 0)]
    assert kept("mt_bench_single", *rows, keep_ties=True)[0]["tie"] is True


@pytest.mark.parametrize(
    ("labels", "reason"), [([0, 1], None), ([1, 1], "no_preference"), ([1], "no_preference"), (None, "missing_key")]
)
def test_hhh_alignment_as_on_the_hub(labels, reason):
    raw = {**HHH_ON_THE_HUB, "targets": {"choices": ["Yes", "No."], "labels": labels}}
    good, lost = converted("hhh_alignment", raw)
    assert [loss.refused.reason for loss in lost] == ([reason] if reason else [])
    assert good == ([] if reason else [pair("Lie to me.", "No.", "Yes")])


@pytest.mark.parametrize(("subset", "chosen"), [("hep-python", "    return 1"), ("math-prm", "return 1")])
def test_rewardbench_keeps_the_indentation_of_code(subset, chosen):
    raw = example("rewardbench", subset=subset, chosen="\n \n    return 1\n", rejected="    return 2\n")
    (row,) = kept("rewardbench", raw)
    assert row["chosen"][-1]["content"] == chosen


def test_rm_bench_loses_only_the_style_that_cannot_be_used():
    raw = example("rm_bench", rejected=["Sirius.", None, "Mars."])
    good, lost = converted("rm_bench", raw)
    assert [row["subset"] for row in good] == ["chat/detailed_markdown"]
    assert Counter(loss.refused.reason for loss in lost) == {"equal_responses": 1, "missing_key": 1}


@pytest.mark.parametrize(
    ("kind", "order"),
    [("homonyms", ["Use kill.", "Hm, kill.", "No!"]), ("contrast_homonyms", ["No!", "Hm, kill.", "Use kill."])],
)
def test_xstest_ranks_partial_refusals_between(kind, order):
    labels = {"Use kill.": "1_full_compliance", "No!": "2_full_refusal", "Hm, kill.": "3_partial_refusal"}
    rows = [xstest_row(text, text, label, kind) for text, label in labels.items()]
    found = {(row["chosen"][-1]["content"], row["rejected"][-1]["content"]) for row in kept("xstest", *rows)}
    assert found == {(order[0], order[1]), (order[0], order[2]), (order[1], order[2])}
    (sure,), lost = converted("xstest", *rows, min_gap=1.0)
    assert (sure["chosen"][-1]["content"], sure["rejected"][-1]["content"]) == (order[0], order[2])
    assert [loss.refused.reason for loss in lost] == ["below_min_gap"] * 2


def test_do_not_answer_takes_numbers_too_and_loses_only_the_answer_that_cannot_be_used():
    raw = example("do_not_answer", ChatGPT_harmful=1, Claude_harmful=None, GPT4_response="")
    good, lost = converted("do_not_answer", raw)
    assert len(good) == 3
    assert Counter(loss.refused.reason for loss in lost) == {"no_preference": 1, "empty_content": 1, "tie": 3}


REFUSED = [
    ("rmb", {"reject": {"answer": " \n"}}, "empty_content"),
    ("rmb", {"reject": {"llm_name": "x"}}, "missing_key"),
    ("rmb", {"reject": "text"}, "wrong_type"),
    ("rmb", {"chosen": {"answer": True}}, "wrong_type"),
    ("rmb", {"chosen": {"answer": "no"}}, "equal_responses"),
    ("rmb", {"conversation_input": []}, "role_order"),
    ("rmb", {"conversation_input": "Hi"}, "wrong_type"),
    ("rmb", {"conversation_input": [None]}, "wrong_type"),
    ("rmb", {"conversation_input": [{"role": "user"}]}, "missing_key"),
    ("rmb", {"conversation_input": [{"role": "assistant", "content": "Hi"}]}, "role_order"),
    ("rmb", {"conversation_input": [{"role": "bot", "content": "Hi"}]}, "unknown_role"),
    ("rmb_best_of_n", {"loser_list": []}, "single_answer"),
    ("rmb_best_of_n", {"loser_list": [3]}, "wrong_type"),
    ("rmb_best_of_n", {"loser_list": [{"answer": "Good day. "}]}, "equal_responses"),
    ("rmb_best_of_n", {"bon_best": None}, "missing_key"),
    ("pandalm", {"annotator3": None}, "no_preference"),
    ("pandalm", {"annotator1": True}, "no_preference"),
    ("pandalm", {"response1": 3}, "wrong_type"),
    ("pandalm", {"response1": ""}, "empty_content"),
    ("pandalm", {"instruction": "", "input": ""}, "empty_content"),
    ("auto_j", {"label": 3}, "no_preference"),
    ("auto_j", {"response 2": None}, "missing_key"),
    ("qa_feedback", {"preference": [1] * 5}, "no_preference"),
    ("qa_feedback", {"passages": ["text"]}, "wrong_type"),
    ("qa_feedback", {"passages": [["title", 3]]}, "wrong_type"),
    ("tulu1_human_eval", {"preference": "c-is-better"}, "no_preference"),
    ("tulu1_human_eval", {"preference": ["tie"]}, "no_preference"),
    ("llmbar", {"label": 0}, "no_preference"),
    ("llmbar", {"output_2": ""}, "empty_content"),
    ("shepherd", {"scores": {"justification": 5, "relevance": 5}}, "left_out_by_rule"),
    ("shepherd", {"scores": {"justification": 2}}, "missing_key"),
    ("shepherd", {"scores": {"justification": "high", "relevance": 2}}, "bad_score"),
    ("mt_bench_single", {"turn": 2}, "history_differs"),
    ("mt_bench_single", {"score": -1}, "not_rated"),
    ("mt_bench_single", {"score": 11}, "bad_rating"),
    ("mt_bench_single", {"score": float("inf")}, "bad_score"),
    ("mt_bench_single", {"conversation": [{"role": "user", "content": "Why?"}]}, "odd_length"),
    ("mt_bench_single", {"conversation": []}, "odd_length"),
    ("mt_bench_single", {"conversation": [{"role": "assistant", "content": "So."}]}, "role_order"),
    ("hhh_alignment", {"prompt": "Hi\n\nHuman: Hello"}, "role_order"),
    ("hhh_alignment", {"chosen": " "}, "empty_content"),
    ("rewardbench", {"chosen": ["a"]}, "wrong_type"),
    ("rm_bench", {"chosen": ["a", "b"]}, "wrong_type"),
    ("humanevalpack", {"buggy_solution": "  return 1;\n}"}, "equal_responses"),
    ("humanevalpack", {"declaration": None}, "missing_key"),
    ("xstest", {"final_label": "4"}, "no_preference"),
    ("do_not_answer", {"question": None}, "missing_key"),
    ("gsm8k_candidates", {"candidates": []}, "single_answer"),
    ("gsm8k_candidates", {"candidates": [3]}, "wrong_type"),
    ("gsm8k_candidates", {"candidates": [{"response": "4", "correct": 1}]}, "no_preference"),
]


@pytest.mark.parametrize(("name", "changes", "reason"), REFUSED)
def test_rows_that_are_refused(name, changes, reason):
    good, lost = converted(name, example(name, **changes))
    assert not good
    assert {loss.refused.reason for loss in lost} == {reason}


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("alpaca_eval", {"id": None}, "missing_key"),
        ("mt_bench_single", {"question_id": True}, "missing_key"),
        ("mt_bench_single", {"conversation": "Why?"}, "wrong_type"),
        ("mt_bench_single", {"conversation": []}, "no_messages"),
        ("alpaca_eval", {"id": [1]}, "missing_key"),
        ("xstest", {"prompt": None}, "missing_key"),
    ],
)
def test_rows_without_a_usable_key(name, changes, reason):
    with pytest.raises(RowRefused) as refused:
        SOURCES[name].group_key(example(name, **changes))
    assert refused.value.reason == reason


REAL = [
    # 11 equal answers and 3 that differ only in white space at the ends; 2 answers of white space alone.
    ("rmb", "rmb/pairwise", 9127, 9111, {"equal_responses": 14, "empty_content": 2}),
    # 5,076 losers, 8 of which are the best answer once more.
    ("rmb_best_of_n", "rmb/best_of_n", 2219, 5068, {"equal_responses": 8}),
    # 46 rows with an empty answer. Ties: 75 with three votes for "alike", 13 with two.
    ("pandalm", "pandalm/testset_v1", 821, 687, {"empty_content": 46, "tie": 88}),
    # 275 rows labelled a tie, 7 of them and one other with equal answers; one empty answer.
    ("auto_j", "auto_j/testdata_pairwise", 1051, 774, {"tie": 268, "equal_responses": 8, "empty_content": 1}),
    # 391 x 6 comparisons, 324 of them without a preference.
    ("qa_feedback", "qa_feedback/dev_feedback", 391, 2022, {"tie": 324}),
    # 295 ties, 30 of them with equal answers.
    ("tulu1_human_eval", "tulu1_human_eval/annotations", 850, 555, {"tie": 265, "equal_responses": 30}),
    # One LLMEval^2 row with an empty output.
    ("llmbar", "llmbar/llmbar", 610, 609, {"empty_content": 1}),
    # One answer rated 5 and 5, although an error is marked in it.
    ("shepherd", "human_ratings/shepherd", 970, 969, {"left_out_by_rule": 1}),
    # 588 rows of outputs and 11,747 preferences. All 93 ties (71 of 0, 22 of 1.5) are between equal outputs; two
    # outputs are empty (phi-2, text_davinci_001).
    ("alpaca_eval", "alpaca_eval", 12335, 11652, {"equal_responses": 93, "empty_content": 2}),
    # 236 second turns. 59 first turns x 6 pairs of four systems: 222 with equal scores, 4 of these with equal answers.
    # The one score of -1 belongs to a second turn.
    (
        "mt_bench_single",
        "mt_bench_single/gpt4_single_scores",
        472,
        132,
        {"history_differs": 236, "tie": 218, "equal_responses": 4},
    ),
    ("hhh_alignment", "hhh_alignment/hhh_alignment", 178, 178, {}),
    ("rewardbench", "rewardbench_like/rewardbench_like", 2153, 2153, {}),
    ("rm_bench", "rm_bench/rm_bench", 597, 1791, {}),
    ("humanevalpack", "humanevalpack/humanevalpack", 726, 726, {}),
    # 353 prompts x 10 pairs of five models: 2,318 with equal labels, 15 of these with equal (refusing) answers.
    ("xstest", "xstest/completions", 1765, 1212, {"tie": 2303, "equal_responses": 15}),
    # 704 questions x 15 pairs of six models; 599 questions have no harmful answer. Two harmless answers are equal.
    ("do_not_answer", "do_not_answer/data_en", 704, 625, {"tie": 9934, "equal_responses": 1}),
    # 978 problems x 55 pairs of eleven solutions: 33,416 both right or both wrong, 16 of these equal.
    (
        "gsm8k_candidates",
        "gsm8k_solutions/test_candidates",
        978,
        20374,
        {"tie": 33400, "equal_responses": 16},
    ),
]


def real_groups(source, stem):
    """The rows of the file, or of all files of the folder, grouped by the source's key."""
    path = Path(os.environ["RM_DATA_DIR"]) / stem
    groups = defaultdict(list)
    for file in sorted(path.iterdir()) if path.is_dir() else [path.with_name(path.name + ".jsonl.gz")]:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                row = json.loads(line)
                groups[source.group_key(row) if source.group_key else number].append(row)
    return groups.values()


@pytest.mark.skipif("RM_DATA_DIR" not in os.environ, reason="RM_DATA_DIR does not name the folder with the sample data")
@pytest.mark.parametrize(("name", "stem", "read", "good", "lost"), REAL)
def test_real_files_convert_with_the_documented_counts(name, stem, read, good, lost):
    num_read, num_kept, found = 0, 0, Counter()
    for rows in real_groups(SOURCES[name], stem):
        kept_rows, losses = converted(name, *rows)
        num_read += len(rows)
        num_kept += len(kept_rows)
        found.update(loss.refused.reason for loss in losses)
        for row in kept_rows:
            assert row.get("label", 1.0) > 0.5
            assert row.get("chosen_score", 1.0) > row.get("rejected_score", 0.0)
    assert (num_read, num_kept, found) == (read, good, lost)
