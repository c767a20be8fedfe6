"""A problem with its candidates: every form becomes one, no candidate is lost, nothing but a refusal escapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from useful_code.known_truth.steps import make_candidates
from useful_code.known_truth.world import World
from useful_code.reasons import REASONS, RowRefused
from useful_code.solution_rows import check_candidates

RIGHT = {"steps": ["3 + 4 is 7.", "The answer is 7."], "answer": "7", "correct": True}
WRONG = {"steps": ["3 + 4 is 8."], "answer": "8", "correct": False}
ROW = {"prompt": "3 + 4 = ?", "candidates": [RIGHT, WRONG], "gold": "7"}


@pytest.fixture(scope="module")
def answers():
    """What reads texts; rows with steps, answers and labels do not need it."""
    pytest.importorskip("useful_code.split_steps")
    return pytest.importorskip("useful_code.final_answers")


def test_the_normal_form_stays_as_it_is():
    row = {**ROW, "extra": 3, "candidates": [{**RIGHT, "model": "a"}, WRONG]}
    checked = check_candidates(row)
    assert checked == row
    assert checked is not row and checked["candidates"] is not row["candidates"]


def test_candidates_of_the_known_truth_world_are_taken():
    row = make_candidates(World(), 1, 5, seed=100)[0]
    checked = check_candidates(row)
    assert checked["prompt"] == row["prompt"] and checked["truth"] is row["truth"] and checked["gold"] is None
    for before, after in zip(row["candidates"], checked["candidates"], strict=True):
        assert after == {**before, "answer": str(before["answer"])}


def test_texts_are_split_answered_and_compared_with_the_gold_answer(answers):
    texts = ["3 + 4 is 7.\n\nThe answer is 7.", "Step 1: 3 + 4 is 8.\nStep 2: \\boxed{8}", "I do not know."]
    row = {"question": "3 + 4 = ?", "answer": "7", "idx": 5, "candidates": [{"response": text} for text in texts]}
    checked = check_candidates(row)
    assert (checked["prompt"], checked["gold"], checked["idx"]) == ("3 + 4 = ?", "7", 5)
    assert "question" not in checked and "answer" not in checked
    assert [c["steps"] for c in checked["candidates"]] == [
        ["3 + 4 is 7.", "The answer is 7."],
        ["Step 1: 3 + 4 is 8.", "Step 2: \\boxed{8}"],
        ["I do not know."],
    ]
    assert [c["answer"] for c in checked["candidates"]] == ["7", "8", None]
    assert [c["correct"] for c in checked["candidates"]] == [True, False, False]
    assert [c["response"] for c in checked["candidates"]] == texts
    assert check_candidates(checked) == checked


def test_every_form_of_a_text_is_the_same_candidate(answers):
    text = "3 + 4 is 7.\nSo 7."
    forms = [{"response": text}, {"text": text}, text, {"response": None, "text": text}, {"steps": text.split("\n")}]
    checked = check_candidates({"prompt": "Q", "candidates": forms, "gold": 7})
    for candidate in checked["candidates"]:
        assert (candidate["steps"], candidate["answer"], candidate["correct"]) == (text.split("\n"), "7", True)


def test_what_the_row_says_goes_before_what_is_computed(answers):
    candidates = [{"response": "So 8.", "correct": True}, {"response": "So 7.", "answer": "9"}]
    found = check_candidates({"prompt": "Q", "candidates": candidates, "gold": "7"})["candidates"]
    assert [(c["answer"], c["correct"]) for c in found] == [("8", True), ("9", False)]


def test_the_gold_answer_may_be_a_whole_solution_and_may_be_missing(answers):
    candidates = [{"response": "So 18."}]
    row = {"question": "Q", "answer": "9 * 2 = 18\n#### 18", "candidates": candidates}
    assert check_candidates(row)["candidates"][0]["correct"] is True
    assert check_candidates({"question": "Q", "candidates": candidates})["candidates"][0]["correct"] is None
    both = {"question": "Q", "gold": "18", "answer": "17", "candidates": candidates}
    assert check_candidates(both)["gold"] == "18" and check_candidates(both)["answer"] == "17"


def test_only_a_text_that_is_known_to_be_cut_off_loses_its_last_answer(answers):
    text = "9 * 20 is 180. The answer is 18"
    candidates = [{"response": text, **known} for known in ({}, {"finished": None}, {"finished": True})]
    candidates += [{"response": text, "finished": False}, {"response": f"{text}.", "finished": False}]
    found = check_candidates({"prompt": "Q", "gold": "18", "candidates": candidates})["candidates"]
    assert [candidate["answer"] for candidate in found] == ["18", "18", "18", None, "18"]
    assert [candidate["correct"] for candidate in found] == [True, True, True, False, True]


@pytest.mark.parametrize("name", ["label", "labels"])
def test_the_test_sets_of_rlhflow(answers, name):
    row = {"prompt": "3 + 4 = ?", "answers": ["3 + 4 is 7. ки\nSo 7. ки", "So 8."], name: [1, 0], "idx": 2}
    checked = check_candidates(row)
    assert [c["steps"] for c in checked["candidates"]] == [["3 + 4 is 7.", "So 7."], ["So 8."]]
    assert [c["correct"] for c in checked["candidates"]] == [True, False]
    assert checked["idx"] == 2 and not {"answers", name} & checked.keys()
    assert check_candidates(checked) == checked
    del row[name]
    assert [c["correct"] for c in check_candidates(row)["candidates"]] == [None, None]


def test_an_empty_answer_is_a_bad_answer_and_not_a_bad_row(answers):
    empty = [None, "", " \n", {"response": None}, {"text": "\t"}, {"steps": []}, {"steps": [" ", ""]}]
    checked = check_candidates({**ROW, "candidates": [RIGHT, *empty]})
    assert len(checked["candidates"]) == 8
    for candidate in checked["candidates"][1:]:
        assert (candidate["steps"], candidate["answer"], candidate["correct"]) == ([], None, False)
    assert check_candidates(checked) == checked
    without_gold = check_candidates({"prompt": "Q", "candidates": empty})
    assert [c["correct"] for c in without_gold["candidates"]] == [None] * 7


def test_empty_steps_go_and_their_labels_with_them():
    candidate = {"steps": ["a", " ", "b"], "labels": [1, 0, 0], "tags": ["x"], "answer": "7", "correct": 0}
    found = check_candidates({**ROW, "candidates": [candidate]})["candidates"][0]
    assert found == {"steps": ["a", "b"], "labels": [1, 0], "tags": ["x"], "answer": "7", "correct": False}
    assert candidate["labels"] == [1, 0, 0]


def test_broken_characters_are_replaced():
    candidate = {"steps": ["\ud800a", "b\udc80", "\ufeffé 😀"], "answer": "\ud800", "correct": False}
    found = check_candidates({**ROW, "candidates": [candidate]})["candidates"][0]
    assert (found["steps"], found["answer"]) == (["\ufffda", "b\ufffd", "\ufeffé 😀"], "\ufffd")


@pytest.mark.parametrize(
    ("answer", "text"), [(7, "7"), (7.0, "7"), (0, "0"), (0.5, "0.5"), (" 7 ", "7"), (1e16, "1e+16"), (-3, "-3")]
)
def test_answers_may_be_numbers(answer, text):
    checked = check_candidates({"prompt": "Q", "candidates": [{**RIGHT, "answer": answer}], "gold": answer})
    assert checked["gold"] == checked["candidates"][0]["answer"] == text


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (3, "not_an_object"),
        ({}, "missing_key"),
        ({"prompt": "Q"}, "missing_key"),
        ({**ROW, "prompt": None}, "missing_key"),
        ({**ROW, "prompt": ["Q"]}, "wrong_type"),
        ({**ROW, "prompt": " "}, "empty_content"),
        ({**ROW, "prompt": "\ud800"}, "invalid_unicode"),
        ({**ROW, "candidates": None}, "missing_key"),
        ({**ROW, "candidates": "ab"}, "wrong_type"),
        ({**ROW, "candidates": []}, "no_candidates"),
        ({"prompt": "Q", "answers": []}, "no_candidates"),
        ({"prompt": "Q", "answers": "a"}, "wrong_type"),
        ({"prompt": "Q", "answers": ["a"], "label": [1, 0]}, "unequal_labels"),
        ({"prompt": "Q", "answers": ["a"], "labels": 1}, "wrong_type"),
        ({"prompt": "Q", "answers": ["a"], "label": [2]}, "bad_correct"),
        *(({**ROW, "candidates": [RIGHT, candidate]}, "wrong_type") for candidate in (3, ["a"], {"response": 3})),
        *(({**ROW, "candidates": [{"steps": steps}]}, "wrong_type") for steps in ("ab", [None], ["a", 3])),
        ({**ROW, "candidates": [{"model": "a"}]}, "missing_key"),
        *(
            ({**ROW, "candidates": [{**RIGHT, "correct": correct}]}, "bad_correct")
            for correct in ("yes", 2, 0.5, [True], float("nan"))
        ),
        *(
            ({**ROW, "candidates": [{**RIGHT, "answer": answer}]}, "wrong_type")
            for answer in (True, [7], 10**5000, float("nan"), float("inf"))
        ),
        ({**ROW, "gold": {}}, "wrong_type"),
        ({"question": "Q", "answer": ["7"], "candidates": [RIGHT]}, "wrong_type"),
    ],
)
def test_rows_that_are_refused(row, reason):
    with pytest.raises(RowRefused) as refused:
        check_candidates(row)
    assert refused.value.reason == reason
    assert str(refused.value).isascii() and len(str(refused.value)) < 300


numbers = st.integers(-1, 2) | st.integers(min_value=10**300) | st.floats() | st.booleans()
texts = st.text(st.characters() | st.sampled_from("7 \n#к\ud800"), max_size=8)
anything = st.recursive(
    st.none() | numbers | texts | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
solutions = st.fixed_dictionaries(
    {"answer": st.sampled_from(["7", 8, None])},
    optional={
        "steps": st.lists(texts, max_size=3) | anything,
        "response": texts | anything,
        "text": texts,
        "correct": st.sampled_from([None, True, 0]) | anything,
        "labels": st.lists(st.booleans(), max_size=3),
    },
)
rows = st.fixed_dictionaries(
    {"prompt": st.just("Q") | anything},
    optional={
        "candidates": st.lists(solutions | texts | anything, max_size=3) | anything,
        "answers": st.lists(texts | anything, max_size=3),
        "label": st.lists(st.integers(0, 1), max_size=3) | anything,
        "gold": st.sampled_from(["7", "", None]) | anything,
        "answer": st.sampled_from(["7", None]) | anything,
    },
)


@given(st.one_of(rows, anything))
def test_nothing_but_a_refusal_escapes_and_checking_again_changes_nothing(answers, row):
    try:
        checked = check_candidates(row)
    except RowRefused as refused:
        assert refused.reason in REASONS
        return
    given_ones = row["candidates"] if row.get("candidates") is not None else row["answers"]
    assert len(checked["candidates"]) == len(given_ones) > 0
    for candidate in checked["candidates"]:
        assert all(step.strip() for step in candidate["steps"])
        assert candidate["correct"] in (True, False, None)
        assert candidate["correct"] is not None or checked["gold"] is None
    assert repr(check_candidates(checked)) == repr(checked)  # repr, because an unknown column may hold NaN
