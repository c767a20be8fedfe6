"""Training and held-out rows: no prompt in both, refused rows written once, nothing lost without a count."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code.chat_pairs import prompt_key, prompt_of
from useful_code.read_rows import RowCounts, load_checked
from useful_code.training.arguments import DataArguments
from useful_code.training.data import load_train_and_held_out
from useful_code.user_errors import UserError


def pair(prompt: str, number: int = 0) -> dict:
    question = {"role": "user", "content": prompt}
    good, bad = ({"role": "assistant", "content": f"{word} {number}"} for word in ("good", "bad"))
    return {"chosen": [question, good], "rejected": [question, bad]}


def run_arguments(output_dir="unused", process_index: int = 0, seed: int = 0) -> SimpleNamespace:
    return SimpleNamespace(output_dir=str(output_dir), process_index=process_index, seed=seed)


def load_file(source, split, refused_path):
    return load_checked(source, refused_path=refused_path, split=split)


def from_memory(tables: dict[str, list[dict]]):
    """A reader that gives rows by name."""
    return lambda source, split, refused_path: (tables[source], RowCounts(source, len(tables[source])))


def write(path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def keys(rows: list[dict]) -> set[str]:
    return {prompt_key(prompt_of(row)) for row in rows}


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=60), st.integers(0, 3), st.floats(0.05, 0.95))
def test_no_prompt_is_on_both_sides_and_no_row_is_lost(prompts, seed, share):
    rows = [pair(f"Prompt {p}", i) for i, p in enumerate(prompts)]
    arguments = DataArguments(dataset="train", held_out_share=share)
    try:
        data = load_train_and_held_out(from_memory({"train": rows}), arguments, run_arguments(seed=seed))
    except UserError as error:
        assert f"{0} rows to train on" in str(error) or "and 0 held out" in str(error)
        return
    assert not keys(data.train) & keys(data.held_out)
    assert sorted(map(str, data.train + data.held_out)) == sorted(map(str, rows))
    assert data.dropped == 0


def test_the_split_follows_the_seed():
    rows = [pair(f"Prompt {i}") for i in range(200)]
    held_out = [
        keys(
            load_train_and_held_out(
                from_memory({"train": rows}), DataArguments("train", held_out_share=0.3), run_arguments(seed=seed)
            ).held_out
        )
        for seed in (1, 1, 2)
    ]
    assert held_out[0] == held_out[1] != held_out[2]
    assert 40 <= len(held_out[0]) <= 80


def test_training_rows_with_a_prompt_of_the_evaluation_are_dropped_and_counted(capsys):
    """`q 2?` differs from `Q2` in case, spaces and punctuation only: it is the same prompt."""
    tables = {"train": [pair(f"Q{i}") for i in range(5)] + [pair("q 2?", 9)], "test": [pair("Q2"), pair("Q7")]}
    arguments = DataArguments("train", eval_dataset="test")
    data = load_train_and_held_out(from_memory(tables), arguments, run_arguments())
    assert [row["chosen"][0]["content"] for row in data.train] == ["Q0", "Q1", "Q3", "Q4"]
    assert data.held_out == tables["test"]
    assert data.dropped == 2 and len(data.counts) == 2
    assert "4 rows to train on, 2 held out, no prompt in both; 2 dropped" in capsys.readouterr().out


def test_refused_rows_of_both_files_are_written_apart(tmp_path, capsys):
    train = write(tmp_path / "train.jsonl", [pair("a"), {"chosen": []}, pair("b")])
    test = write(tmp_path / "test.jsonl", [pair("c"), 5])
    arguments = DataArguments(train, eval_dataset=test)
    load_train_and_held_out(load_file, arguments, run_arguments(tmp_path / "out"))
    for name, line in (("refused_rows.jsonl", 2), ("refused_eval_rows.jsonl", 2)):
        (refused,) = (tmp_path / "out" / name).read_text().splitlines()
        assert json.loads(refused)["line"] == line
    printed = capsys.readouterr().out
    assert "3 rows read, 2 kept, 1 refused" in printed and "2 rows read, 1 kept, 1 refused" in printed


def test_only_the_main_process_writes_and_prints(tmp_path, capsys):
    train = write(tmp_path / "train.jsonl", [pair(f"Prompt {i}") for i in range(40)] + [5])
    arguments = DataArguments(train, held_out_share=0.5)
    others = load_train_and_held_out(load_file, arguments, run_arguments(tmp_path / "out", process_index=1))
    assert not (tmp_path / "out").exists() and capsys.readouterr().out == ""
    main = load_train_and_held_out(load_file, arguments, run_arguments(tmp_path / "out"))
    assert (others.train, others.held_out) == (main.train, main.held_out)  # every process must hold the same rows


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ([pair("a")], {"held_out_share": 0.001}, "1 rows to train on and 0 held out.*--held_out_share"),
        ([pair("a")], {"held_out_share": 0.999}, "0 rows to train on and 1 held out.*--held_out_share"),
        ([pair("c")], {"eval_dataset": "test"}, "0 rows to train on and 1 held out.*--eval_dataset"),
    ],
)
def test_nothing_to_train_on_or_to_judge_by_is_an_error_with_the_right_remedy(train, options, message):
    tables = {"train": train, "test": [pair("c")]}
    with pytest.raises(UserError, match=message):
        load_train_and_held_out(from_memory(tables), DataArguments("train", **options), run_arguments())
