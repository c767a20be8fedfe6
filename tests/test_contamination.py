"""Decontamination: n-gram overlap at its edge, short prompts by equality, and reading evaluation sets."""

import json
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code.converting.contamination import NGRAM, EvaluationPrompts, read_evaluation_prompts
from useful_code.converting.word_ngrams import words_of
from useful_code.user_errors import UserError


def ask(text, *more):
    """A prompt; `more` are answers and further questions by turns."""
    texts = zip(("user", "assistant") * 3, (text, *more), strict=False)
    return [{"role": role, "content": content} for role, content in texts]


def numbered(start, end):
    return " ".join(f"a{i}" for i in range(start, end))


LONG = numbered(0, 11)  # 11 words: four 8-grams


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (ask(LONG), "bench:1 (1.00)"),
        (ask(f"Well, {LONG.upper()}; and more"), "bench:1 (1.00)"),  # in the midst of others, in other spelling
        (ask(numbered(0, 10)), "bench:1 (0.75)"),
        (ask(numbered(0, 9)), "bench:1 (0.50)"),  # two of four: just enough
        (ask(numbered(0, 8)), None),  # one of four
        (ask(numbered(0, 9).replace("a4", "b")), None),  # nine words, but no eight in a row
        (ask(numbered(0, 8) + " and " + numbered(3, 11)), "bench:1 (0.50)"),  # two 8-grams, apart
        (ask(" ".join([numbered(0, 8)] * 9)), None),  # one of four, nine times: different ones count
        (ask(" ".join(reversed(LONG.split()))), None),
        (ask("Hello", "Yes?", LONG), "bench:1 (1.00)"),  # the last of several user messages
        (ask(LONG, "Yes?", "Why?"), "bench:1 (1.00)"),  # an earlier one
        (ask(numbered(0, 5), "go on", numbered(5, 11)), "bench:1 (1.00)"),  # cut in two, with an answer between
        (ask("Hello", LONG, "Why?"), None),  # what the assistant says does not count
        ([{"role": "system", "content": LONG}, *ask("Hello")], None),
        ([{"role": "system", "content": "Be kind"}, *ask(LONG)], "bench:1 (1.00)"),
    ],
)
def test_long_prompts_by_hand(prompt, expected):
    assert EvaluationPrompts([("bench:1", LONG)]).contaminating([prompt]) == [expected]


@pytest.mark.parametrize(
    ("min_overlap", "expected"), [(0.25, "x (0.25)"), (0.26, None), (1.0, None)], ids=["reached", "missed", "all"]
)
def test_the_overlap_that_is_asked_for(min_overlap, expected):
    assert EvaluationPrompts([("x", LONG)], min_overlap).contaminating([ask(numbered(0, 8))]) == [expected]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (ask("hi THERE"), "short:1 (1.00)"),
        (ask("Hi there, you"), None),  # only the whole message counts
        (ask("Hi"), None),
        (ask("Tell me more.", "What about?", "hi there!!"), "short:1 (1.00)"),  # one user message of several
        (ask("Tell me more.", "Hi there!", "No"), None),
        ([{"role": "system", "content": "Hi there!"}, *ask("x")], None),
        (ask("Hi", "Yes?", "there"), "short:1 (1.00)"),  # all user messages together
        (ask("what is 2+2"), "short:2 (1.00)"),
        (ask("What is 2 * 2?"), None),  # signs of mathematics are no punctuation
        (ask("?"), None),
    ],
)
def test_short_prompts_are_compared_whole(prompt, expected):
    known = EvaluationPrompts([("short:1", "Hi there!"), ("short:2", "What is 2 + 2?"), ("short:3", "?!")])
    assert known.contaminating([prompt]) == [expected]


def test_eight_words_make_a_long_prompt_and_seven_a_short_one():
    known = EvaluationPrompts([("eight", numbered(0, 8)), ("seven", numbered(20, 27))])
    prompts = [ask("And " + numbered(0, 8)), ask("And " + numbered(20, 27)), ask(numbered(20, 27))]
    assert known.contaminating(prompts) == ["eight (1.00)", None, "seven (1.00)"]


def test_the_best_match_is_named_and_the_first_of_equals():
    known = EvaluationPrompts(
        [
            ("half", numbered(0, 17)),
            ("whole", numbered(0, 12)),
            ("again", numbered(0, 12)),
            ("hi", "Hi"),
            ("hi2", "hi!"),
        ]
    )
    # Of "half" the prompt holds 5 of ten 8-grams.
    assert known.contaminating([ask(numbered(0, 12)), ask("HI")]) == ["whole (1.00)", "hi (1.00)"]
    assert EvaluationPrompts([("half", numbered(0, 17))]).contaminating([ask(numbered(0, 12))]) == ["half (0.50)"]


@pytest.mark.parametrize("prompts", [[], [("long", LONG)], [("short", "Hi")]])
def test_sets_without_long_or_short_prompts_and_no_conversation(prompts):
    known = EvaluationPrompts(prompts)
    assert known.contaminating([]) == []
    assert known.contaminating([ask("something else"), ask(numbered(50, 80))]) == [None, None]


WORDS = st.lists(st.sampled_from("ab"), min_size=1, max_size=14).map(" ".join)


@settings(max_examples=300)
@given(st.lists(WORDS, max_size=6), st.lists(WORDS, min_size=1, max_size=6), st.sampled_from([0.1, 0.5, 2 / 3, 1.0]))
def test_the_same_as_sets_in_plain_python(evaluated, prompts, min_overlap):
    def grams(text):
        words = words_of(text)
        return {tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)}

    named = [(str(number), text) for number, text in enumerate(evaluated)]
    found = EvaluationPrompts(named, min_overlap).contaminating([ask(prompt) for prompt in prompts])
    for prompt, result in zip(prompts, found, strict=True):
        shares = [
            len(grams(text) & grams(prompt)) / len(grams(text)) if grams(text) else float(text == prompt)
            for text in evaluated
        ]
        # Short texts compare equal without their spaces too: "a b" and "ab" are one; with these words it is the same.
        best = max(shares, default=0.0)
        if best >= min_overlap:
            assert result is not None and result.endswith(f"({best:.2f})")
            assert shares[int(result.split()[0])] == best
        else:
            assert result is None


def test_many_prompts_with_a_common_head_are_told_apart():
    """As templates have it: of 300 prompts that share 60 of 100 words, the right one is found."""
    rng = np.random.default_rng(0)
    head = numbered(0, 60)
    tails = [" ".join(f"t{i}" for i in rng.integers(0, 5000, 40)) for _ in range(300)]
    known = EvaluationPrompts([(str(number), f"{head} {tail}") for number, tail in enumerate(tails)])
    found = known.contaminating([ask(f"{head} {tail}") for tail in tails] + [ask(head)])
    assert found[:-1] == [f"{number} (1.00)" for number in range(300)]
    assert found[-1] == "0 (0.57)"  # the head alone: 53 of 93


# --- reading evaluation sets ---


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"prompt": "P", "question": "Q"}, "P"),
        ({"instruction": "P", "input": "I"}, "P"),
        ({"question": "P", "answer": "A"}, "P"),
        ({"conversation_input": [*ask("P", "A", "Q")]}, "P\nQ"),
        ({"messages": [{"role": "system", "content": "S"}, *ask("P", "A")]}, "P"),
        ({"chosen": ask("P", "A"), "rejected": ask("P", "B")}, "P"),
        ({"input": "P", "output_1": "A"}, "P"),
        ({"prompt": ask("P"), "chosen": "A"}, "P"),
        ({"messages": [{"role": "user", "content": ["no", "text"]}, {"role": "user", "content": "P"}, "x"]}, "P"),
    ],
)
def test_evaluation_sets_are_read_by_their_known_columns(tmp_path, capsys, row, text):
    (tmp_path / "e.jsonl").write_text(json.dumps(row) + "\n")
    assert read_evaluation_prompts(str(tmp_path / "e.jsonl")) == [("e.jsonl:1", text)]
    assert capsys.readouterr().err == ""


def test_rows_without_a_prompt_are_counted(tmp_path, capsys):
    lines = ['{"prompt": "P"}', "broken", '{"prompt": " "}', '{"prompt": null}', '{"prompt": 3}', '{"prompt": "Q"}']
    lines.append('{"prompt": [{"role": "user", "content": null}]}')
    (tmp_path / "e.jsonl").write_text("\n".join(lines))
    assert read_evaluation_prompts(str(tmp_path / "e.jsonl")) == [("e.jsonl:1", "P"), ("e.jsonl:6", "Q")]
    assert "e.jsonl: 5 rows have no prompt to compare with" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [["broken"], ['{"prompt": ""}'], ['{"messages": [{"from": "human", "value": "P"}]}']])
def test_a_set_without_any_prompt_is_an_error(tmp_path, lines):
    (tmp_path / "e.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match="holds no prompt to compare with"):
        read_evaluation_prompts(str(tmp_path / "e.jsonl"))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (None, "e.jsonl: no column that is known to hold prompts; the columns are a, b$"),
        ("c", "e.jsonl: no column 'c'; the columns are a, b$"),
    ],
)
def test_a_set_without_the_column_is_an_error_that_names_the_columns(tmp_path, column, message):
    (tmp_path / "e.jsonl").write_text('{"a": "x", "b": "y"}\n')
    with pytest.raises(UserError, match=message):
        read_evaluation_prompts(str(tmp_path / "e.jsonl"), column)


def test_the_column_that_is_asked_for_comes_first(tmp_path):
    (tmp_path / "e.jsonl").write_text('{"prompt": "P", "b": "Q"}\n')
    assert read_evaluation_prompts(str(tmp_path / "e.jsonl"), "b") == [("e.jsonl:1", "Q")]


@pytest.mark.parametrize("kind", ["json", "csv", "folder"])
def test_any_file_that_the_reader_knows(tmp_path, kind):
    path = tmp_path / f"e.{kind}"
    if kind == "json":
        path.write_text('[{"prompt": "P"}, {"prompt": "Q"}]')
        names = ["e.json:1", "e.json:2"]
    elif kind == "csv":
        path.write_text("prompt,answer\nP,A\nQ,B\n")
        names = ["e.csv:1", "e.csv:2"]
    else:
        path.mkdir()
        (path / "a.jsonl").write_text('{"prompt": "P"}\n')
        (path / "b.jsonl").write_text('{"prompt": "Q"}\n')
        names = ["a.jsonl:1", "b.jsonl:1"]
    assert read_evaluation_prompts(str(path)) == list(zip(names, "PQ", strict=True))


def test_a_set_of_the_hub_is_read_at_its_commit_and_named_with_its_owner(monkeypatch):
    import datasets

    def load_dataset(name, **options):
        assert (name, options) == ("owner/bench", {"revision": "abc"})
        splits = {"raw": ["P", "Q"], "filtered": ["P"]}
        return datasets.DatasetDict({key: datasets.Dataset.from_dict({"prompt": each}) for key, each in splits.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_evaluation_prompts("owner/bench", None, "filtered", "abc") == [("owner/bench/filtered:1", "P")]
    with pytest.raises(UserError, match="no split 'train'; it has raw, filtered"):
        read_evaluation_prompts("owner/bench", None, None, "abc")


def test_a_chat_of_any_length_is_one_text():
    """The same words, however they are cut into user messages, overlap as much."""
    known = EvaluationPrompts([("x", LONG)])
    turns = list(chain.from_iterable((word, "go on") for word in LONG.split()))
    chat = [{"role": "user" if place % 2 == 0 else "assistant", "content": each} for place, each in enumerate(turns)]
    assert known.contaminating([chat]) == ["x (1.00)"]


def test_transcripts_count_with_their_user_messages(tmp_path):
    """The raw file of a set finds the set's own converted prompts; the assistant's words do not thin them out."""
    question = "Which of the nine planets of old has the most moons today?"
    transcript = f"\n\nHuman: {question}\n\nAssistant: {' '.join(f'word{n}' for n in range(80))}\n\nHuman: Why?"
    rows = [{"chosen": f"{transcript}\n\nAssistant: a", "rejected": f"{transcript}\n\nAssistant: b"}]
    for row in (rows[0], {"prompt": transcript}):
        (tmp_path / "raw.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        prompts = read_evaluation_prompts(str(tmp_path / "raw.jsonl"))
        assert prompts == [("raw.jsonl:1", f"{question}\nWhy?")]
    (tmp_path / "raw.jsonl").write_text('{"chosen": "A whole text.", "rejected": "b"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="chosen is text, where a prompt cannot be told from its answer"):
        read_evaluation_prompts(str(tmp_path / "raw.jsonl"))
