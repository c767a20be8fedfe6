"""The rated row: what is valid, and that everything else is refused with its reason."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from useful_code.rated_rows import check_rated, shown
from useful_code.reasons import REASONS, RowRefused

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
ROW = {"messages": CHAT, "ratings": {"a": 3, "b": None}, "scales": {"a": [1, 5], "b": [0, 1], "c": "unused"}}


def nested(depth=100_000):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_ratings_become_floats_and_only_what_is_rated_stays():
    row = {**ROW, "extra": ["kept"]}
    checked = check_rated(row)
    assert checked == {
        "messages": CHAT,
        "ratings": {"a": 3.0},
        "scales": {"a": [1.0, 5.0]},
        "extra": ["kept"],
    }
    assert isinstance(checked["ratings"]["a"], float)
    assert isinstance(checked["scales"]["a"][0], float)
    assert row == {**ROW, "extra": ["kept"]}
    assert check_rated(checked) == checked


@pytest.mark.parametrize("rating", [1, 5, 1.0, 4.6667])
def test_both_ends_of_a_scale_belong_to_it(rating):
    assert check_rated({**ROW, "ratings": {"a": rating}})["ratings"] == {"a": float(rating)}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "not_an_object"),
        ([ROW], "not_an_object"),
        ({}, "missing_key"),
        ({10**5000: 1}, "missing_key"),
        ({**ROW, "messages": None}, "missing_key"),
        ({**ROW, "ratings": None}, "missing_key"),
        ({"messages": CHAT, "ratings": {"a": 3}}, "missing_key"),
        ({**ROW, "messages": "Q"}, "wrong_type"),
        ({**ROW, "ratings": [3]}, "wrong_type"),
        ({**ROW, "scales": [1, 5]}, "wrong_type"),
        ({**ROW, "messages": []}, "no_messages"),
        ({**ROW, "messages": CHAT[:1]}, "odd_length"),
        ({**ROW, "messages": [CHAT[1]]}, "role_order"),
        ({**ROW, "messages": [CHAT[0], {"role": "assistant", "content": " "}]}, "empty_content"),
        ({**ROW, "messages": [CHAT[0], {"role": "assistant", "content": "\ud800"}]}, "invalid_unicode"),
        ({**ROW, "messages": [CHAT[0], {"role": "bot", "content": "A"}]}, "unknown_role"),
        ({**ROW, "ratings": {}}, "not_rated"),
        ({**ROW, "ratings": {"a": None, "b": None}}, "not_rated"),
        ({**ROW, "ratings": {10**5000: None}}, "not_rated"),
        ({**ROW, "ratings": {"c": 1}}, "bad_rating"),
        ({**ROW, "ratings": {"unknown": 1}}, "bad_rating"),
        ({**ROW, "ratings": {7: 3}, "scales": {7: [1, 5]}}, "bad_rating"),
        *(
            ({**ROW, "ratings": {"a": rating}}, "bad_rating")
            for rating in (0.99, 5.01, -3, 10**400, 10**5000, -(10**400), math.nan, math.inf, "3", True, [3], nested())
        ),
        *(
            ({**ROW, "scales": {"a": scale}}, "bad_rating")
            for scale in (None, 5, "15", [], [1], [1, 5, 9], [5, 1], [3, 3], [None, 5], [True, 5], [1, math.inf])
        ),
        *(
            ({**ROW, "scales": {"a": scale}}, "bad_rating")
            for scale in ([math.nan, 5], [1, 10**400], [1, nested()], {"low": 1, "high": 5}, ["1", "5"])
        ),
    ],
)
def test_rows_that_are_refused(row, reason):
    with pytest.raises(RowRefused) as refused:
        check_rated(row)
    assert refused.value.reason == reason
    assert str(refused.value).isascii()
    assert len(str(refused.value)) < 300


numbers = st.one_of(st.integers(), st.integers(min_value=10**300), st.floats(), st.booleans())
anything = st.recursive(
    st.one_of(st.none(), numbers, st.text(max_size=3), st.just("\ud800"), st.binary(max_size=2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", None]), "content": anything}),
    max_size=3,
)
names = st.sampled_from(["a", "b", "", 3, None])
rows = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.just(CHAT) | messages | anything,
        "ratings": st.dictionaries(names, numbers | st.none() | anything, max_size=3) | anything,
        "scales": st.dictionaries(names, st.lists(numbers, max_size=3) | anything, max_size=3) | anything,
        "extra": anything,
    },
)


@given(st.one_of(rows, anything))
def test_nothing_but_a_refusal_escapes_and_checking_again_changes_nothing(row):
    try:
        checked = check_rated(row)
    except RowRefused as refused:
        assert refused.reason in REASONS
        return
    for objective, rating in checked["ratings"].items():
        low, high = checked["scales"][objective]
        assert low <= rating <= high
    assert checked["ratings"].keys() == checked["scales"].keys()
    assert repr(check_rated(checked)) == repr(checked)  # repr, because an unknown column may hold NaN


@given(st.dictionaries(st.text(max_size=5), st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3, unique=True)))
def test_every_rating_on_its_scale_is_kept(given_numbers):
    ordered = {name: sorted(numbers) for name, numbers in given_numbers.items()}
    ratings = {name: rating for name, (_, rating, _) in ordered.items()}
    row = {
        "messages": CHAT,
        "ratings": ratings,
        "scales": {name: [low, high] for name, (low, _, high) in ordered.items()},
    }
    if ratings:
        assert check_rated(row) == row
    else:
        with pytest.raises(RowRefused, match="not_rated"):
            check_rated(row)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("é\ud800" * 30, ascii("é\ud800" * 20)),
        (10**39, str(10**39)),
        (-(10**40), "an integer of over 40 digits"),
        (math.nan, "nan"),
        (True, "True"),
        (None, "None"),
        (nested(), "a list"),
        ({}, "a dict"),
    ],
)
def test_values_are_shown_short_and_in_ascii(value, expected):
    assert shown(value) == expected
