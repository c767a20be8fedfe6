"""The step row: what is valid, and that everything else is refused with its reason."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from useful_code.reasons import REASONS, RowRefused
from useful_code.step_rows import check_steps

ROW = {"prompt": "3 + 4", "completions": ["It is 8.", "So 8."], "labels": [False, None]}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([False, None], [0.0, None]),
        ([True, True], [1.0, 1.0]),
        ([1, 0], [1.0, 0.0]),
        ([0.125, 1.0], [0.125, 1.0]),
    ],
)
def test_labels_become_floats_or_none(labels, expected):
    row = {**ROW, "labels": labels, "extra": 3}
    checked = check_steps(row)
    assert checked == {**ROW, "labels": expected, "extra": 3}
    assert all(label is None or type(label) is float for label in checked["labels"])
    assert row["labels"] is labels
    assert check_steps(checked) == checked


def test_the_checked_row_has_lists_of_its_own():
    checked = check_steps(ROW)
    assert checked["completions"] is not ROW["completions"]
    assert checked["labels"] is not ROW["labels"]


def test_a_null_outcome_counts_as_absent_and_an_outcome_is_enough():
    assert check_steps({**ROW, "outcome": None}) == check_steps(ROW)
    assert check_steps({**ROW, "labels": [None, None], "outcome": False})["outcome"] is False


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (3, "not_an_object"),
        ({}, "missing_key"),
        ({**ROW, "prompt": None}, "missing_key"),
        ({**ROW, "completions": None}, "missing_key"),
        ({"prompt": "Q", "completions": ["a"]}, "missing_key"),
        ({**ROW, "completions": ["a", None]}, "missing_key"),
        ({**ROW, "prompt": ["Q"]}, "wrong_type"),
        ({**ROW, "completions": "ab"}, "wrong_type"),
        ({**ROW, "completions": ["a", 3]}, "wrong_type"),
        ({**ROW, "labels": "+-"}, "wrong_type"),
        ({**ROW, "completions": [], "labels": []}, "no_messages"),
        ({**ROW, "prompt": " \n"}, "empty_content"),
        ({**ROW, "completions": ["a", ""]}, "empty_content"),
        ({**ROW, "prompt": "\udc80"}, "invalid_unicode"),
        ({**ROW, "completions": ["\ud800", "a"]}, "invalid_unicode"),
        ({**ROW, "labels": [True]}, "unequal_steps"),
        ({**ROW, "labels": [True, True, True]}, "unequal_steps"),
        ({**ROW, "labels": [None, None]}, "not_labelled"),
        ({**ROW, "labels": [None, None], "outcome": None}, "not_labelled"),
        *(({**ROW, "outcome": outcome}, "bad_step_label") for outcome in (1, 0.0, "true", [True], math.nan)),
        *(
            ({**ROW, "labels": [label, True]}, "bad_step_label")
            for label in (-1, 1.01, 2, 10**400, 10**5000, -(10**400), math.nan, math.inf, -math.inf, "+", [1], {})
        ),
    ],
)
def test_rows_that_are_refused(row, reason):
    with pytest.raises(RowRefused) as refused:
        check_steps(row)
    assert refused.value.reason == reason
    assert str(refused.value).isascii()
    assert len(str(refused.value)) < 300


numbers = st.one_of(st.integers(-1, 2), st.integers(min_value=10**300), st.floats(), st.floats(0, 1), st.booleans())
anything = st.recursive(
    st.one_of(st.none(), numbers, st.text(max_size=3), st.just("\ud800"), st.binary(max_size=2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
steps = st.lists(st.text(min_size=1, max_size=3) | anything, max_size=3)
rows = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.text(max_size=3) | anything,
        "completions": steps | anything,
        "labels": st.lists(numbers | st.none() | anything, max_size=3) | anything,
        "outcome": st.none() | st.booleans() | anything,
        "extra": anything,
    },
)


@given(st.one_of(rows, anything))
def test_nothing_but_a_refusal_escapes_and_checking_again_changes_nothing(row):
    try:
        checked = check_steps(row)
    except RowRefused as refused:
        assert refused.reason in REASONS
        return
    assert len(checked["labels"]) == len(checked["completions"]) > 0
    assert all(label is None or 0 <= label <= 1 for label in checked["labels"])
    assert "outcome" in checked or any(label is not None for label in checked["labels"])
    assert repr(check_steps(checked)) == repr(checked)  # repr, because an unknown column may hold NaN


@given(
    st.lists(st.tuples(st.text(min_size=1).filter(str.strip), st.none() | st.booleans() | st.floats(0, 1)), min_size=1),
    st.booleans(),
)
def test_every_good_row_is_kept(pairs, outcome):
    steps, labels = (list(part) for part in zip(*pairs, strict=True))
    row = {"prompt": "Q", "completions": steps, "labels": labels, "outcome": outcome}
    assert check_steps(row) == row
