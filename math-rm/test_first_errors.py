"""First errors: numbers worked by hand, floors by simulation, and that intervals follow the problems."""

import math

import numpy as np
import pytest
from first_errors import f1_of_rows, first_error, first_error_floors, first_error_numbers, first_error_table
from hypothesis import given
from hypothesis import strategies as st

from useful_code.report import table_html
from useful_code.user_errors import UserError

FAST = {"num_resamples": 50}
SHARES = ("accuracy_wrong", "within_one_wrong", "accuracy_right", "f1")
places = st.none() | st.integers(0, 4)


@pytest.mark.parametrize(
    ("scores", "threshold", "expected"),
    [
        ([0.9, 0.4, 0.2], 0.5, 1),
        ([0.1, 0.9], 0.5, 0),
        ([0.9, 0.9, 0.49], 0.5, 2),
        ([0.5, 0.5], 0.5, None),  # at the threshold is not below it
        ([0.9, 0.4], 0.3, None),
        ([0.9, 0.4], 0.95, 0),
        ([], 0.5, None),
    ],
)
def test_first_error_by_hand(scores, threshold, expected):
    assert first_error(scores, threshold) == expected


def test_numbers_by_hand():
    """Wrong at 1, 2, 4, said 1, 3, none: 1/3 exact, 2/3 within one. Two right ones, one called so: 1/2.
    F1 = 2 (1/3)(1/2) / (5/6) = 2/5."""
    numbers = first_error_numbers([1, 3, None, None, 0], [1, 2, 4, None, None], **FAST)
    assert [numbers[name] for name in SHARES] == pytest.approx([1 / 3, 2 / 3, 1 / 2, 2 / 5])
    assert (numbers["num_wrong"], numbers["num_right"]) == (3, 2)


def test_the_numbers_of_a_perfect_model_and_of_one_that_is_always_beside():
    true = [0, 3, None, 2, None]
    numbers = first_error_numbers(true, true, **FAST)
    assert all(numbers[name] == 1 and numbers[f"{name}_interval"] == [1, 1] for name in SHARES)
    numbers = first_error_numbers([1, 2, 0, 3, 4], true, **FAST)
    assert [numbers[name] for name in SHARES] == [0, 1, 0, 0]


def test_one_kind_alone_has_no_f1():
    numbers = first_error_numbers([0, 1], [0, 0], **FAST)
    assert numbers["accuracy_wrong"] == 0.5
    assert math.isnan(numbers["accuracy_right"]) and math.isnan(numbers["f1"]) and math.isnan(numbers["f1_interval"][0])
    assert math.isnan(first_error_numbers([], [], **FAST)["f1"])
    assert math.isnan(f1_of_rows(np.zeros((0, 2))))


@given(st.lists(st.tuples(places, places), min_size=1, max_size=12))
def test_what_always_holds(pairs):
    predicted, true = (list(column) for column in zip(*pairs, strict=True))
    numbers = first_error_numbers(predicted, true, num_resamples=2)
    assert numbers["num_wrong"] + numbers["num_right"] == len(pairs)
    if numbers["num_wrong"]:
        assert 0 <= numbers["accuracy_wrong"] <= numbers["within_one_wrong"] <= 1
    if numbers["num_wrong"] and numbers["num_right"]:
        ends = sorted((numbers["accuracy_wrong"], numbers["accuracy_right"]))
        assert ends[0] - 1e-12 <= numbers["f1"] <= ends[1] + 1e-12
    hits = sum(guess == place for guess, place in pairs)
    of_kinds = [(numbers["accuracy_wrong"], numbers["num_wrong"]), (numbers["accuracy_right"], numbers["num_right"])]
    assert sum(share * number for share, number in of_kinds if number) == pytest.approx(hits)


def test_solutions_of_one_problem_count_as_one():
    """Ten copies of every solution tell nothing new: grouped, the intervals are as wide as without the copies."""
    rng = np.random.default_rng(0)
    true = [None if rng.random() < 0.5 else int(rng.integers(4)) for _ in range(60)]
    predicted = [place if rng.random() < 0.6 else 0 for place in true]
    few = first_error_numbers(predicted, true, num_resamples=400)
    names = [f"problem {i}" for i in range(60) for _ in range(10)]
    copied = [[place for place in column for _ in range(10)] for column in (predicted, true)]
    grouped = first_error_numbers(*copied, groups=names, num_resamples=400)
    loose = first_error_numbers(*copied, num_resamples=400)
    for name in SHARES:
        low, high = few[f"{name}_interval"]
        assert low < few[name] < high
        assert grouped[f"{name}_interval"] == pytest.approx([low, high], abs=0.04)
        assert loose[f"{name}_interval"][1] - loose[f"{name}_interval"][0] < 0.5 * (high - low)


def test_floors_by_hand():
    """Errors at 0 of 2 and 2 of 4, and a right one of 3 steps."""
    floors = first_error_floors([0, 2, None], [2, 4, 3], **FAST)
    expected = {
        "never an error": [0, 0, 1, 0],
        "always the first step": [1 / 2, 1 / 2, 0, 0],
        "a random step": [(1 / 2 + 1 / 4) / 2, (2 / 2 + 3 / 4) / 2, 0, 0],
        "a random step or none": [(1 / 3 + 1 / 5) / 2, (2 / 3 + 3 / 5) / 2, 1 / 4, 8 / 31],
    }
    for name, values in expected.items():
        assert [floors[name][share] for share in SHARES] == pytest.approx(values), name


def test_the_random_floors_are_what_random_guesses_get():
    rng = np.random.default_rng(0)
    num_steps = rng.integers(1, 7, 40).tolist()
    true = [None if rng.random() < 0.4 else int(rng.integers(k)) for k in num_steps]
    floors = first_error_floors(true, num_steps, **FAST)
    for name, extra in (("a random step", 0), ("a random step or none", 1)):
        rows = []
        for _ in range(600):
            drawn = [int(rng.integers(k + extra)) for k in num_steps]
            guesses = [None if guess == k else guess for guess, k in zip(drawn, num_steps, strict=True)]
            numbers = first_error_numbers(guesses, true, num_resamples=1)
            rows.append([numbers[share] for share in SHARES[:3]])
        assert np.mean(rows, axis=0) == pytest.approx([floors[name][share] for share in SHARES[:3]], abs=0.02)


def test_what_is_refused():
    with pytest.raises(UserError, match="1 predicted and 2 true places do not"):
        first_error_numbers([0], [0, 1])
    with pytest.raises(UserError, match="2 true places, 1 problems do not"):
        first_error_numbers([0, 1], [0, 1], groups=["a"])
    with pytest.raises(UserError, match="solution 2: its first error is step 3"):
        first_error_floors([0, 3], [1, 3])
    with pytest.raises(UserError, match="2 true places and 1 numbers of steps"):
        first_error_floors([0, 3], [1])


def test_the_table_has_a_row_per_model():
    true, num_steps = [0, 2, None], [2, 4, 3]
    found = {"model": first_error_numbers([0, 1, None], true, **FAST), **first_error_floors(true, num_steps, **FAST)}
    table = first_error_table(found)
    assert [row[0] for row in table.rows] == list(found)
    assert table.rows[0][4].startswith("66.7 (") and "2 solutions with one, 1 without" in table.caption
    assert table_html(table)
    assert first_error_table({"model": first_error_numbers([0], [0], **FAST)}).rows[0][3] == "none"
