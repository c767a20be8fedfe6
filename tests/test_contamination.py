"""Decontamination: n-gram overlap at its edge, short prompts by equality, and reading evaluation sets."""

import pytest

from useful_code.converting.contamination import EvaluationPrompts, read_evaluation_prompts
from useful_code.user_errors import UserError


def ask(text):
    return [{"role": "user", "content": text}]


def test_overlap_at_the_edge_by_hand():
    """An evaluation prompt of 11 words has four 8-grams; its first 9 words hold two of them, its first 8 one."""
    prompt = "a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11"
    known = EvaluationPrompts([("bench:1", prompt), ("bench:2", "Hi there!")])
    first = [" ".join(prompt.split()[:number]) for number in (8, 9)]
    assert known.contaminating([ask(text) for text in first]) == [None, "bench:1 (0.50)"]
    assert known.contaminating([ask(f"Well, {prompt.upper()}; and more")]) == ["bench:1 (1.00)"]
    turns = [*ask("Hello"), {"role": "assistant", "content": prompt}, *ask("hi THERE")]
    assert known.contaminating([turns, turns[:2], ask("hi there you")]) == ["bench:2 (1.00)", None, None]
    assert known.contaminating([[{"role": "system", "content": prompt}, *ask("x")]]) == [None]


def test_the_best_match_is_named():
    words_of = [f"a{i}" for i in range(16)]
    known = EvaluationPrompts([("half", " ".join(words_of)), ("whole", " ".join(words_of[:12]))])
    assert known.contaminating([ask(" ".join(words_of[:12]))]) == ["whole (1.00)"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ('{"prompt": "P", "question": "Q"}', "P"),
        ('{"instruction": "P"}', "P"),
        ('{"chosen": [{"role": "user", "content": "P"}, {"role": "assistant", "content": "A"}]}', "P"),
        ('{"messages": [{"role": "user", "content": "P"}, {"role": "user", "content": "Q"}]}', "P\nQ"),
    ],
)
def test_evaluation_sets_are_read_by_their_known_columns(tmp_path, row, text):
    (tmp_path / "e.jsonl").write_text(f'{row}\nbroken\n{{"prompt": " "}}\n')
    assert read_evaluation_prompts(str(tmp_path / "e.jsonl")) == [("e.jsonl:1", text)]


def test_an_evaluation_set_without_a_known_column_is_an_error_that_names_the_columns(tmp_path):
    (tmp_path / "e.jsonl").write_text('{"a": "x", "b": "y"}\n')
    for column, message in (
        (None, "no column that is known to hold prompts; the columns are a, b"),
        ("c", "no column 'c'"),
    ):
        with pytest.raises(UserError, match=message):
            read_evaluation_prompts(str(tmp_path / "e.jsonl"), column)
    assert read_evaluation_prompts(str(tmp_path / "e.jsonl"), "b") == [("e.jsonl:1", "y")]
