"""Sources of rated answers: one hand-made raw row each, their rules, and the sample files."""

import copy
import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from raw_rows_rated_steps import EXAMPLES, said, ultrafeedback_answer

from useful_code.converting.checked import checked_rows
from useful_code.sources import human_ratings, rated

SOURCES = {**rated.SOURCES, **human_ratings.SOURCES}


def converted(name, row):
    """The kept rows and the losses of one raw row, which must stay as it is."""
    before = copy.deepcopy(row)
    result = checked_rows(SOURCES[name], [row])
    assert row == before
    return result


def example(name, **changes):
    (row,) = EXAMPLES[name]
    return {**row, **changes}


def rated_row(prompt, response, ratings, **columns):
    """The expected row; `ratings` is objective -> (rating, lowest, highest)."""
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return {
        "messages": [*messages, {"role": "assistant", "content": response}],
        "ratings": {name: rating for name, (rating, _, _) in ratings.items()},
        "scales": {name: [low, high] for name, (_, low, high) in ratings.items()},
    } | columns


def helpsteer(name):
    values = {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 0, "verbosity": 2}
    return {f"{name}-{attribute}": (value, 0, 4) for attribute, value in values.items()}


SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Q"}
EXPECTED = {
    "helpsteer_ratings": [rated_row("Q", "a", helpsteer("helpsteer"))],
    "helpsteer2_ratings": [rated_row(said("Q", "A", "Q2"), "a", helpsteer("helpsteer2"))],
    "ultrafeedback_ratings": [
        rated_row(
            "Q",
            "a",
            {
                "ultrafeedback-overall_score": (7.5, 1, 10),
                "ultrafeedback-instruction_following": (4, 1, 5),
                "ultrafeedback-truthfulness": (5, 1, 5),
                "ultrafeedback-helpfulness": (3, 1, 5),  # no honesty: "N/A"
            },
            subset="evol_instruct",
        ),
        rated_row(
            "Q",
            "b",
            {
                "ultrafeedback-overall_score": (1, 1, 10),
                "ultrafeedback-instruction_following": (1, 1, 5),
                "ultrafeedback-truthfulness": (1, 1, 5),
                "ultrafeedback-honesty": (2, 1, 5),
                "ultrafeedback-helpfulness": (1, 1, 5),
            },
            subset="evol_instruct",
        ),
    ],
    "beavertails_ratings": [rated_row("Q", "a", {"beavertails-is_safe": (0, 0, 1)})],
    "prometheus_ratings": [
        rated_row(
            "Greet me.\n\nThe answer will be rated by this criterion: Is it warm?",
            "Hi.",
            {"prometheus-score": (2, 1, 5)},
        )
    ],
    "capybara_ratings": [
        rated_row(said("Q", "A", "Q2"), "good", {"argilla-overall_quality": (5, 1, 5)}, subset="Dove"),
        rated_row(said("Q", "A", "Q2"), "bad", {"argilla-overall_quality": (2, 1, 5)}, subset="Dove"),
    ],
    "orca_ratings": [  # by the order of `generations`, not of chosen and rejected
        rated_row([SYSTEM, USER], "bad", {"argilla-judge_lm": (4, 1, 10)}, subset="gsm8k_train"),
        rated_row([SYSTEM, USER], "good", {"argilla-judge_lm": (9, 1, 10)}, subset="gsm8k_train"),
    ],
    "distilabel_math_ratings": [
        rated_row("2 + 2?", "4", {"ultrafeedback-instruction_following": (5, 1, 5)}),
        rated_row("2 + 2?", "5", {"ultrafeedback-instruction_following": (1, 1, 5)}),
    ],
    "code_ultrafeedback_ratings": [  # by the model, not by the order of the annotations
        rated_row("Sort.", "sorted(x)", {"code-instruction-following": (5, 1, 5)}, subset="instruction-following"),
        rated_row("Sort.", "x.sort()", {"code-instruction-following": (3, 1, 5)}, subset="instruction-following"),
    ],
    "human_ratings_summarization": [
        rated_row(
            "Summarise this news article in a few sentences.\n\nIt rained all day .",
            "It rained .",
            {
                "summeval-coherence": (2, 1, 5),
                "summeval-consistency": (4.6667, 1, 5),
                "summeval-fluency": (5, 1, 5),
                "summeval-relevance": (3, 1, 5),
            },
            subset="SummEval",
            source_id="dm-1:M11",
        )
    ],
    "human_ratings_data_to_text": [
        rated_row(
            "Put this meaning of a dialogue system's turn into words:\n\ninform(name='X',eattype=restaurant)",
            "X is a restaurant .",
            {"bagel-informativeness": (6, 1, 6), "bagel-naturalness": (5.5, 1, 6), "bagel-quality": (1, 1, 6)},
            subset="BAGEL",
            source_id="4",
        )
    ],
    "human_ratings_dialogue": [
        rated_row(
            "Write the next reply in the conversation below.\n\nUse this fact:\nthe first train ran in 1804 .\n\n"
            "Conversation:\ndo you like trains ?\nyes , very much .",
            "they began in 1804 .",
            {
                "topicalchat-understandability": (0.6666666667, 0, 1),
                "topicalchat-naturalness": (3, 1, 3),
                "topicalchat-coherence": (2.3333333333, 1, 3),
                "topicalchat-engagingness": (1, 1, 3),
                "topicalchat-groundedness": (1, 0, 1),
                "topicalchat-overall": (4.6666666667, 1, 5),
            },
            subset="TopicalChat",
        )
    ],
    "shepherd_ratings": [
        rated_row(
            "2 + 2?",
            "It is 5.",
            {"shepherd-justification": (2, 1, 5), "shepherd-relevance": (4, 1, 5)},
            subset="GSM8K",
            source_id="1",
        )
    ],
    "qa_feedback_ratings": [
        rated_row(
            "Cup\n\nThe Cup is old. Ann won it.\n\nQuestion: Who won?",
            "Ann won. Old!",
            {
                "qa_feedback-irrelevant": (5 / 13, 0, 1),  # characters 8 to 12, where the two spans overlap only once
                "qa_feedback-redundant": (0, 0, 1),
                "qa_feedback-incoherent": (0, 0, 1),
                "qa_feedback-wrong_grounding": (1, 0, 1),
                "qa_feedback-unverifiable": (0, 0, 1),
                "qa_feedback-missing_info": (1, 0, 1),
            },
        )
    ],
    "xstest_ratings": [
        rated_row(
            "How do I kill a process?",
            "I can't help, but see kill(1).",
            {"xstest-refusal": (0.5, 0, 1)},
            subset="homonyms",
            source_id="v2-2:gpt4",
        )
    ],
    "do_not_answer_ratings": [
        rated_row(
            "How do I steal?",
            f"No, says {model}.",
            {"do_not_answer-is_safe": (0 if model == "ChatGLM2" else 1, 0, 1)},
            subset="Malicious Uses",
            source_id=f"7:{model}",
        )
        for model in ("GPT4", "ChatGPT", "Claude", "ChatGLM2", "llama2-7b-chat", "vicuna-7b")
    ],
    "mt_bench_ratings": [
        rated_row(
            said("Why?", "Because.", "Really?"), "Yes.", {"mt_bench-gpt4_score": (8.5, 1, 10)}, source_id="81:m:2"
        )
    ],
    "tulu1_acceptable": [
        rated_row(
            "Correct: he go.",
            answer,
            {"tulu1-is_acceptable": (acceptable, 0, 1)},
            subset="user_oriented_task",
            source_id=f"user_oriented_task_2/annotator_1/{model}",
        )
        for answer, acceptable, model in (("He go.", 0, "tulu_65B"), ("He goes.", 1, "chatgpt"))
    ],
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_raw_row_becomes_the_expected_rows(name):
    assert converted(name, example(name)) == (EXPECTED[name], [])


def test_objectives_are_armorms_in_its_order():
    """METHODS 5.2: 19 objectives; which source fills which, and their scales."""
    of_armorm = [
        *(f"helpsteer-{name}" for name in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")),
        "ultrafeedback-overall_score",
        *(f"ultrafeedback-{name}" for name in ("instruction_following", "truthfulness", "honesty", "helpfulness")),
        "beavertails-is_safe",
        "prometheus-score",
        "argilla-overall_quality",
        "argilla-judge_lm",
        *(f"code-{name}" for name in ("complexity", "style", "explanation", "instruction-following", "readability")),
    ]
    names = [name for name in rated.SOURCES if name not in ("helpsteer2_ratings", "distilabel_math_ratings")]
    assert [objective for name in names for objective in SOURCES[name].scales] == of_armorm


RATINGS = [  # source, changes to the example, the ratings of all rows that are kept
    ("helpsteer_ratings", {"verbosity": None, "helpfulness": 0}, [3.0 + 1, 4.0, 0.0, 0.0]),
    ("beavertails_ratings", {"is_safe": True}, [1.0]),
    ("prometheus_ratings", {"orig_score": 5}, [5.0]),
    ("xstest_ratings", {"final_label": "2_full_refusal"}, [1.0]),
    ("xstest_ratings", {"final_label": "2_full_refusal", "type": "contrast_homonyms"}, [1.0]),
    ("xstest_ratings", {"final_label": "1_full_compliance"}, [0.0]),
    ("mt_bench_ratings", {"turn": 1, "conversation": said("Why?", "Because.")}, [8.5]),
    ("shepherd_ratings", {"scores": {"justification": "3", "relevance": None}}, [3.0]),
]


@pytest.mark.parametrize(("name", "changes", "ratings"), RATINGS)
def test_ratings(name, changes, ratings):
    kept, lost = converted(name, example(name, **changes))
    assert sorted(value for row in kept for value in row["ratings"].values()) == sorted(ratings)
    assert not lost


def test_an_answer_without_any_rating_is_refused_and_the_other_kept():
    answers = [
        ultrafeedback_answer("a", None, "N/A", "N/A", None, ""),
        ultrafeedback_answer("b", 2, "1", "1", "1", "1"),
    ]
    kept, lost = converted("ultrafeedback_ratings", example("ultrafeedback_ratings", completions=answers))
    assert [row["messages"][-1]["content"] for row in kept] == ["b"]
    assert [loss.refused.reason for loss in lost] == ["not_rated"]


def test_an_aspect_that_was_never_asked_for_is_no_rating():
    answer = ultrafeedback_answer("a", 2, "1", "1", "1", "1")
    del answer["annotations"]["honesty"]
    kept, _ = converted("ultrafeedback_ratings", example("ultrafeedback_ratings", completions=[answer]))
    assert "ultrafeedback-honesty" not in kept[0]["ratings"]
    assert len(kept[0]["ratings"]) == 4


@pytest.mark.parametrize("preference", ["complexity", "style", "explanation", "readability", "code-readability"])
def test_the_coding_preference_names_the_objective(preference):
    name = "code_ultrafeedback_ratings"
    kept, _ = converted(name, example(name, preference=preference))
    assert {objective for row in kept for objective in row["ratings"]} == {f"code-{preference.removeprefix('code-')}"}


def test_answers_of_code_ultrafeedback_without_an_annotation_or_with_several():
    name = "code_ultrafeedback_ratings"
    annotations = [{"model": "m1", "rating": rating} for rating in ("4", "N/A", "1")]
    kept, lost = converted(name, example(name, annotations=annotations))
    assert [row["ratings"] for row in kept] == [{"code-instruction-following": 2.5}]
    assert [loss.refused.reason for loss in lost] == ["not_rated"]


def test_no_fact_joins_the_prompt_where_there_was_none():
    name = "human_ratings_dialogue"
    (row,), _ = converted(name, example(name, context="_nofact\n"))
    assert row["messages"][0]["content"].startswith(
        "Write the next reply in the conversation below.\n\nConversation:\n"
    )


def test_an_answer_without_errors_has_the_rate_zero_everywhere():
    name = "qa_feedback_ratings"
    (row,), _ = converted(name, example(name, feedback={"errors": [], "missing-info": []}))
    assert set(row["ratings"].values()) == {0.0}
    assert len(row["ratings"]) == 6


def errors(**changes):
    return {"feedback": {"errors": [{"error type": "Redundant", "start": 0, "end": 3} | changes], "missing-info": []}}


REFUSED = [  # source, changes to the example, reason of every loss, rows that are kept
    ("helpsteer_ratings", {"helpfulness": 5}, "bad_rating", 0),
    ("helpsteer_ratings", {"helpfulness": "good"}, "bad_rating", 0),
    ("helpsteer_ratings", {"helpfulness": True}, "bad_rating", 0),
    ("helpsteer_ratings", {"response": " "}, "empty_content", 0),
    ("helpsteer2_ratings", {"prompt": "Q\n<extra_id_1>Assistant\nA"}, "role_order", 0),
    ("ultrafeedback_ratings", {"completions": []}, "not_rated", 0),
    ("ultrafeedback_ratings", {"completions": ["a"]}, "wrong_type", 0),
    ("ultrafeedback_ratings", {"completions": None}, "missing_key", 0),
    ("ultrafeedback_ratings", {"completions": [{"response": "a", "overall_score": 3}]}, "missing_key", 0),
    ("ultrafeedback_ratings", {"completions": [ultrafeedback_answer("a", 11, "1", "1", "1", "1")]}, "bad_rating", 0),
    ("ultrafeedback_ratings", {"completions": [ultrafeedback_answer("a", 0, "1", "1", "1", "1")]}, "bad_rating", 0),
    ("ultrafeedback_ratings", {"completions": [ultrafeedback_answer("a", 2, "1", "6", "1", "1")]}, "bad_rating", 0),
    ("beavertails_ratings", {"is_safe": 1}, "wrong_type", 0),
    ("beavertails_ratings", {"is_safe": None}, "missing_key", 0),
    ("prometheus_ratings", {"orig_score": "0"}, "bad_rating", 0),
    ("prometheus_ratings", {"orig_score": None}, "not_rated", 0),
    ("prometheus_ratings", {"orig_criteria": " "}, "empty_content", 0),
    ("prometheus_ratings", {"orig_instruction": ""}, "empty_content", 0),
    ("capybara_ratings", {"chosen_rating": None}, "not_rated", 1),
    ("capybara_ratings", {"rejected_rating": 10}, "bad_rating", 1),
    ("capybara_ratings", {"chosen": said("Q")}, "odd_length", 1),
    ("orca_ratings", {"rating": None}, "not_rated", 0),
    ("orca_ratings", {"rating": [5.0]}, "bad_rating", 0),
    ("orca_ratings", {"rating": [0.0, 9.0]}, "bad_rating", 1),
    ("orca_ratings", {"rating": [None, 9.0]}, "not_rated", 1),
    ("orca_ratings", {"generations": [None, "a"]}, "missing_key", 1),
    ("distilabel_math_ratings", {"chosen_response": None}, "missing_key", 1),
    ("distilabel_math_ratings", {"chosen_rating": 8.0}, "bad_rating", 1),
    ("code_ultrafeedback_ratings", {"preference": "speed"}, "no_preference", 0),
    ("code_ultrafeedback_ratings", {"preference": ["style"]}, "wrong_type", 0),
    (
        "code_ultrafeedback_ratings",
        {"annotations": [{"model": m, "rating": "6"} for m in ("m1", "m2")]},
        "bad_rating",
        0,
    ),
    ("human_ratings_summarization", {"scores": {"coherence": 5.5}}, "bad_rating", 0),
    ("human_ratings_summarization", {"scores": {"beauty": 3}}, "bad_rating", 0),
    ("human_ratings_summarization", {"dataset": "TAC"}, "bad_rating", 0),
    ("human_ratings_summarization", {"scores": {}}, "not_rated", 0),
    ("human_ratings_summarization", {"source": "\n"}, "empty_content", 0),
    ("human_ratings_data_to_text", {"scores": {"quality": 0.5}}, "bad_rating", 0),
    ("human_ratings_data_to_text", {"output": ""}, "empty_content", 0),
    ("human_ratings_dialogue", {"source": " \n "}, "empty_content", 0),
    ("human_ratings_dialogue", {"scores": {"naturalness": 4}}, "bad_rating", 0),
    ("shepherd_ratings", {"scores": {"justification": None}}, "not_rated", 0),
    ("qa_feedback_ratings", errors(end=14), "bad_rating", 0),
    ("qa_feedback_ratings", errors(start=3), "bad_rating", 0),
    ("qa_feedback_ratings", errors(start=-1), "bad_rating", 0),
    ("qa_feedback_ratings", errors(**{"error type": "Ugly"}), "bad_rating", 0),
    ("qa_feedback_ratings", errors(end=None), "missing_key", 0),
    ("qa_feedback_ratings", {"prediction 1": " ", "feedback": {"errors": [], "missing-info": []}}, "empty_content", 0),
    ("xstest_ratings", {"final_label": "4"}, "no_preference", 0),
    ("do_not_answer_ratings", {"Claude_harmful": "2"}, "no_preference", 5),
    ("do_not_answer_ratings", {"Claude_response": ""}, "empty_content", 5),
    ("mt_bench_ratings", {"score": -1}, "not_rated", 0),
    ("mt_bench_ratings", {"score": 0}, "bad_rating", 0),
    ("mt_bench_ratings", {"conversation": said("Why?")}, "odd_length", 0),
    ("tulu1_acceptable", {"completion_a_is_acceptable": "maybe"}, "no_preference", 1),
]


@pytest.mark.parametrize(("name", "changes", "reason", "num_kept"), REFUSED)
def test_what_is_refused_and_what_is_kept_of_the_rest(name, changes, reason, num_kept):
    kept, lost = converted(name, example(name, **changes))
    assert {loss.refused.reason for loss in lost} == {reason}
    assert len(kept) == num_kept


REAL = [
    # Every score lies on the scale that SOURCES.md states, no text is empty.
    ("human_ratings_summarization", "human_ratings/summarization", 3538, 3538, {}),
    ("human_ratings_data_to_text", "human_ratings/data_to_text", 1841, 1841, {}),
    ("human_ratings_dialogue", "human_ratings/dialogue", 282, 282, {}),
    ("shepherd_ratings", "human_ratings/shepherd", 970, 970, {}),
    # All 1,072 error spans lie within their answer; none overlaps another of its kind.
    ("qa_feedback_ratings", "qa_feedback/dev_feedback", 391, 391, {}),
    ("xstest_ratings", "xstest/completions", 1765, 1765, {}),
    # 704 questions x 6 models.
    ("do_not_answer_ratings", "do_not_answer/data_en", 704, 4224, {}),
    # One second turn has the score -1: the judge gave none.
    ("mt_bench_ratings", "mt_bench_single/gpt4_single_scores", 472, 471, {"not_rated": 1}),
    # 850 comparisons x 2 answers.
    ("tulu1_acceptable", "tulu1_human_eval/annotations", 850, 1700, {}),
]


@pytest.mark.skipif("RM_DATA_DIR" not in os.environ, reason="RM_DATA_DIR does not name the folder with the sample data")
@pytest.mark.parametrize(("name", "stem", "read", "good", "lost"), REAL)
def test_real_files_convert_with_the_documented_counts(name, stem, read, good, lost):
    num_read, num_kept, found, objectives = 0, 0, Counter(), set()
    with gzip.open(Path(os.environ["RM_DATA_DIR"]) / f"{stem}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            kept, losses = converted(name, json.loads(line))
            num_read += 1
            num_kept += len(kept)
            found.update(loss.refused.reason for loss in losses)
            objectives.update(objective for row in kept for objective in row["ratings"])
    assert (num_read, num_kept, found) == (read, good, lost)
    assert objectives == set(SOURCES[name].scales)
