"""Splitting solutions into steps: METHODS 7.9 checks 8 to 10."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from useful_code.sources.steps import MARK as SOURCE_MARK
from useful_code.split_steps import ANY_MARK, MARK, find_steps, split_steps

TEN = [f"Step {k}: {k} + 1 = {k + 1}." for k in range(1, 11)]


def test_the_mark_is_that_of_the_data():
    assert MARK == SOURCE_MARK


@pytest.mark.parametrize("between", ["\n", "\n\n", f" {MARK}\n", f" {MARK} "])
def test_two_formats_give_the_same_ten_steps(between):
    """Checks 9 and 10: "Step 10:" is not cut at "Step 1"."""
    assert split_steps(between.join(TEN)) == TEN
    assert split_steps(between.join(TEN) + between) == TEN


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        (" \n\n ", []),
        (f"{MARK}\n{MARK}", []),
        ("one", ["one"]),
        ("one\ntwo\n\n", ["one", "two"]),
        ("one\n  \n\n\ttwo\nthree", ["one", "two\nthree"]),
        (f"one {MARK}\n\n{MARK}\ntwo\nmore {MARK}\nrest", ["one", "two\nmore", "rest"]),
        ("So:\nStep 1: a\n\nb\n**Step 2:** c", ["So:", "Step 1: a\n\nb", "**Step 2:** c"]),
        ("As Step 1: says, a.\nb", ["As Step 1: says, a.", "b"]),  # not at the start of a line
        ("3 + 4 - 1\n\n+\n\n-", ["3 + 4 - 1", "+", "-"]),
    ],
)
def test_by_hand(text, steps):
    assert split_steps(text) == steps


@given(
    st.lists(st.sampled_from([MARK, "\n", "\n\n", " ", "a", "Step 1:", "Step 10:", "\nStep 2: ", "+", "\t"])).map(
        "".join
    )
)
def test_nothing_is_lost_and_prefixes_are_the_text_itself(text):
    steps = find_steps(text)
    kept = "".join("".join(step.text.split()) for step in steps)
    assert kept == "".join(ANY_MARK.sub("", text).split())
    assert all(step.text.strip() == step.text != "" for step in steps)
    ends = [step.end for step in steps]
    assert ends == sorted(set(ends)) and ends[-1:] == ([len(text)] if steps else [])
    for number, step in enumerate(steps, 1):  # a prefix holds its steps and nothing of the next
        prefix = "".join(ANY_MARK.sub("", text[: step.end]).split())
        assert prefix == "".join("".join(other.text.split()) for other in steps[:number])
