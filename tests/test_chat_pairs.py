"""The row schema (METHODS 0.1), prompt keys and splits by prompt (METHODS 0.4)."""

import copy
import json
import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code.chat_pairs import (
    check_conversation,
    check_pair,
    drop_prompts,
    is_tie,
    prompt_key,
    prompt_of,
    split_by_prompt,
)
from useful_code.reasons import REASONS, RowRefused


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


def pair(**changes):
    row = {
        "chosen": [user("Q"), assistant("A"), user("Q2"), assistant("good")],
        "rejected": [user("Q"), assistant("A"), user("Q2"), assistant("bad")],
    }
    return {**row, **changes}


def assert_refused(row, reason):
    with pytest.raises(RowRefused) as refused:
        check_pair(row)
    assert refused.value.reason == reason
    assert reason in REASONS


def assert_valid(row):
    """The whole schema, written down a second time and otherwise than in check_pair."""
    chosen, rejected = row["chosen"], row["rejected"]
    assert chosen[:-1] == rejected[:-1] and chosen[-1]["content"] != rejected[-1]["content"]
    for messages in (chosen, rejected):
        assert all(set(message) == {"role", "content"} for message in messages)
        roles = [message["role"] for message in messages]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns and turns == ["user", "assistant"] * (len(turns) // 2)
        assert all(message["content"].strip() for message in messages)
        json.dumps(messages, ensure_ascii=False).encode("utf-8")
    for key in ("chosen_score", "rejected_score", "margin", "label"):
        assert key not in row or (type(row[key]) is float and math.isfinite(row[key]))
    assert row.get("margin", 0) >= 0 and 0 <= row.get("label", 0) <= 1


def test_a_good_pair_is_returned_as_a_new_row_with_role_and_content_only():
    row = pair(id=7)
    row["chosen"][0]["language"] = "English"
    before = copy.deepcopy(row)
    checked = check_pair(row)
    assert row == before
    assert checked == {**pair(), "id": 7}
    assert checked["chosen"][0] is not row["chosen"][0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "not_an_object"),
        ([1], "not_an_object"),
        ({"chosen": [user("Q"), assistant("A")]}, "missing_key"),
        (pair(rejected=None), "missing_key"),
        (pair(chosen="\n\nHuman: Q\n\nAssistant: A"), "wrong_type"),
        (pair(chosen={"role": "user"}), "wrong_type"),
        (pair(chosen=[]), "no_messages"),
        (pair(chosen=["Q", "A"]), "wrong_type"),
        (pair(chosen=[{"content": "Q"}, assistant("A")]), "missing_key"),
        (pair(chosen=[{"role": "user"}, assistant("A")]), "missing_key"),
        (pair(chosen=[user(["Q"]), assistant("A")]), "wrong_type"),
        (pair(chosen=[user("Q"), assistant(True)]), "wrong_type"),
        (pair(chosen=[{"role": 1, "content": "Q"}]), "wrong_type"),
        (pair(chosen=[{"role": "human", "content": "Q"}, assistant("A")]), "unknown_role"),
        (pair(chosen=[assistant("A"), user("Q")]), "role_order"),
        (pair(chosen=[user("Q"), user("Q")]), "role_order"),
        (pair(chosen=[user("Q"), system("S"), assistant("A")]), "role_order"),
        (pair(chosen=[system("S"), system("S"), user("Q"), assistant("A")]), "role_order"),
        (pair(chosen=[user("Q"), assistant("A"), user("Q2")]), "odd_length"),
        (pair(chosen=[system("S")]), "odd_length"),
        (pair(chosen=[user(""), assistant("A")]), "empty_content"),
        (pair(chosen=[user("Q"), assistant(" \n\t\u3000")]), "empty_content"),
        (pair(chosen=[user("Q"), assistant("half \ud83d of a pair")]), "invalid_unicode"),
        (pair(chosen=[user("Q"), assistant("A")]), "unequal_length"),
        (pair(chosen=[user("Q"), assistant("other"), user("Q2"), assistant("good")]), "history_differs"),
        (pair(chosen=[user("q"), assistant("A"), user("Q2"), assistant("good")]), "history_differs"),
        (pair(chosen=pair()["rejected"]), "equal_responses"),
        (pair(chosen=[*pair()["chosen"][:-1], assistant(" bad\n")]), "equal_responses"),
    ],
)
def test_every_reason_for_refusal(row, reason):
    assert_refused(row, reason)


def test_system_message_is_allowed_only_if_equal_in_both():
    row = pair()
    with_system = {side: [system("S"), *row[side]] for side in row}
    assert check_pair(with_system)["chosen"][0] == system("S")
    assert_refused({**with_system, "rejected": row["rejected"]}, "system_differs")
    assert_refused({**with_system, "rejected": [system("T"), *row["rejected"]]}, "system_differs")


@pytest.mark.parametrize(
    ("column", "bad", "reason"),
    [
        ("chosen_score", math.nan, "bad_score"),
        ("chosen_score", math.inf, "bad_score"),
        ("rejected_score", True, "bad_score"),
        ("rejected_score", "4.5", "bad_score"),
        ("rejected_score", 10**400, "bad_score"),
        ("margin", -0.5, "bad_margin"),
        ("margin", [1], "bad_margin"),
        ("label", 1.5, "bad_label"),
        ("label", -0.1, "bad_label"),
        ("label", math.nan, "bad_label"),
        ("label", False, "bad_label"),
        ("tie", 1, "bad_tie"),
        ("tie", "yes", "bad_tie"),
    ],
)
def test_optional_columns_are_checked(column, bad, reason):
    assert_refused(pair(**{column: bad}), reason)


def test_optional_numbers_become_floats_and_nulls_are_absent():
    checked = check_pair(pair(chosen_score=4, rejected_score=None, margin=0, label=1, tie=None))
    assert {key: checked[key] for key in checked if key not in ("chosen", "rejected")} == {
        "chosen_score": 4.0,
        "margin": 0.0,
        "label": 1.0,
    }
    assert type(checked["chosen_score"]) is float


def test_a_tie_has_label_one_half_but_a_split_vote_is_no_tie():
    assert check_pair(pair(tie=True))["label"] == 0.5
    assert check_pair(pair(tie=True, label=None))["label"] == 0.5
    assert_refused(pair(tie=True, label=1.0), "bad_tie")
    assert is_tie(check_pair(pair(tie=True)))
    assert is_tie(check_pair(pair(label=0.5)))
    assert not is_tie(check_pair(pair(tie=False, label=0.5)))
    assert not is_tie(check_pair(pair()))


def test_check_conversation_for_a_prompt_ends_with_user():
    assert check_conversation([system("S"), user("Q")], "prompt", ends_with="user") == [system("S"), user("Q")]
    with pytest.raises(RowRefused, match="odd_length: prompt ends with assistant"):
        check_conversation([user("Q"), assistant("A")], "prompt", ends_with="user")


def test_row_refused_survives_the_way_between_processes():
    refused = pickle.loads(pickle.dumps(RowRefused("role_order", "chosen[1]")))
    assert (refused.reason, refused.detail) == ("role_order", "chosen[1]")


texts = st.one_of(st.text(max_size=8), st.sampled_from(["", " ", "a", "b", "\ud800", "x" * 100_000]))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
roles = st.sampled_from(["user", "assistant", "system", "tool", "", None, 3])
messages_like = st.one_of(
    anything,
    st.lists(
        st.one_of(st.builds(lambda r, c: {"role": r, "content": c}, roles, st.one_of(texts, anything)), anything),
        max_size=5,
    ),
)


@st.composite
def damaged_pairs(draw):
    """A good pair with some of its parts replaced, removed, swapped or added."""
    row = pair()
    for side in draw(st.lists(st.sampled_from(["chosen", "rejected"]), max_size=2, unique=True)):
        damage = draw(st.sampled_from(["drop", "replace", "content", "role", "swap", "pop", "text"]))
        messages = row[side]
        index = draw(st.integers(0, len(messages) - 1))
        if damage == "drop":
            del row[side]
        elif damage == "replace":
            row[side] = draw(messages_like)
        elif damage == "content":
            messages[index]["content"] = draw(st.one_of(texts, anything))
        elif damage == "role":
            messages[index]["role"] = draw(roles)
        elif damage == "swap":
            messages[index], messages[0] = messages[0], messages[index]
        elif damage == "pop":
            messages.pop(index)
        else:
            messages[-1]["content"] = draw(texts)
    for column in ("chosen_score", "rejected_score", "margin", "label", "tie", "unknown"):
        if draw(st.integers(0, 5)) == 0:
            row[column] = draw(st.one_of(st.floats(), st.booleans(), anything))
    return row


@settings(deadline=None)  # no verdict by the clock
@given(st.one_of(damaged_pairs(), anything))
def test_damaged_rows_are_refused_with_a_known_reason_or_valid(row):
    before = repr(row)
    try:
        checked = check_pair(row)
    except RowRefused as refused:
        assert refused.reason in REASONS
        assert str(refused).encode("utf-8", "backslashreplace")
    else:
        assert_valid(checked)
        assert check_pair(checked) == checked or "unknown" in checked  # NaN in an unknown column is not equal
    assert repr(row) == before


def key(*contents):
    return prompt_key([user(text) if i % 2 == 0 else assistant(text) for i, text in enumerate(contents)])


def test_prompt_key_ignores_case_spaces_and_punctuation_only():
    assert key("What is  the CAPITAL\nof France?") == key("what is the capital of france")
    assert key("STRASSE!") == key("straße")
    assert key("\u201cquoted\u201d \u2014 text\u2026") == key('"quoted" - text')
    assert key("full\uff0dwidth\uff01 \uff21\uff22") == key("full-width ab")
    assert key("What is 2+2?") != key("What is 22?")
    assert key("a", "b", "c") != key("abc")
    assert prompt_key([system("You are kind."), user("Hi")]) == key("hi")


@pytest.mark.parametrize(
    "texts",
    [
        ["!!!", "???", "...", "?!", "-", "`", " ? "],  # nothing but punctuation
        ["你好", "再见", "谢谢。"],
        ["مرحبا", "شكرا"],
        ["कि", "के", "का"],  # they differ in a combining mark alone
        ["ไม่", "ไม้"],
        ["😀", "😡", "$", "€", "=", "+"],
    ],
)
def test_prompt_key_does_not_collapse_other_scripts_symbols_or_punctuation(texts):
    assert len({key(text) for text in texts}) == len(texts)


def test_prompt_key_is_stable_between_versions():
    """A changed key would move rows between train and held-out of everybody who splits again.

    The number is blake2b of b"whatis2+2" with a digest of 16 bytes.
    """
    assert key("What is 2+2?") == "23a335e12bf29c2aefc0b4f78ceebe73"


@settings(deadline=None)  # no verdict by the clock
@given(st.text(min_size=1))
def test_prompt_key_takes_any_text_and_ignores_case_and_spaces(text):
    if any(character.isalnum() for character in text):
        assert key(text) == key(f"  {text}\n!") == key(text.casefold())
    assert len(key(text)) == 32


def rows_of(num_prompts, pairs_per_prompt=3):
    return [
        check_pair(
            {"chosen": [user(f"prompt {i}"), assistant("a")], "rejected": [user(f"prompt {i}"), assistant(str(j))]}
        )
        for i in range(num_prompts)
        for j in range(pairs_per_prompt)
    ]


def test_split_has_no_prompt_in_both_loses_no_row_and_has_about_the_share():
    """2,000 prompts at a share of 0.1: 200 expected, standard deviation sqrt(2000 * 0.1 * 0.9) = 13.4; 5 of them."""
    rows = rows_of(2000)
    train, held_out = split_by_prompt(rows, 0.1, seed=0)
    keys = [{prompt_key(prompt_of(row)) for row in part} for part in (train, held_out)]
    assert not keys[0] & keys[1]
    assert len(train) + len(held_out) == len(rows)
    assert abs(len(keys[1]) - 200) < 67
    assert split_by_prompt(rows, 0.1, seed=0) == (train, held_out)
    assert split_by_prompt(rows, 0.1, seed=1)[1] != held_out


def test_adding_or_reordering_rows_moves_no_other_row():
    rows = rows_of(50)
    held_out = split_by_prompt(rows, 0.3, seed=4)[1]
    more = split_by_prompt(rows_of(80)[::-1], 0.3, seed=4)[1]
    assert [row for row in more[::-1] if row in rows] == held_out


def test_split_takes_prompts_that_differ_in_punctuation_as_one():
    rows = [
        check_pair({"chosen": [user(prompt), assistant("a")], "rejected": [user(prompt), assistant("b")]})
        for i in range(40)
        for prompt in (f"Prompt {i}?", f"prompt  {i}")
    ]
    train, held_out = split_by_prompt(rows, 0.5, seed=0)
    assert len(train) % 2 == 0 and len(held_out) % 2 == 0 and train and held_out


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_split_refuses_an_impossible_share(share):
    with pytest.raises(ValueError, match="held_out_share"):
        split_by_prompt([], share, seed=0)


def test_share_of_zero_holds_out_nothing():
    assert split_by_prompt(rows_of(20), 0.0, seed=0)[1] == []


def test_drop_prompts_drops_all_pairs_of_an_evaluation_prompt():
    rows = rows_of(4)
    kept, dropped = drop_prompts(rows, {key("Prompt 2!"), key("elsewhere")})
    assert [row["chosen"][0]["content"] for row in dropped] == ["prompt 2"] * 3
    assert kept == rows[:6] + rows[9:]
