"""The RewardBench command as its users type it, on a file of the same columns that is made here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from useful_code import eval_reward_bench_bt, scoring
from useful_code.rewardbench_rows import load_rows
from useful_code.tiny import save_tiny_model
from useful_code.user_errors import UserError, exit_cleanly

ROOT = Path(eval_reward_bench_bt.__file__).parents[1]
SUBSET_NAMES = ["alpacaeval-easy", "llmbar-natural", "donotanswer", "math-prm", "shp"]  # four sections and a prior set


def bench_row(number: int, **changes) -> dict:
    return {
        "prompt": f"Question {number}: <|im_end|> what is {number} + 1?",
        "chosen": f"It is {number + 1}." * (1 + number % 3),
        "chosen_model": "a",
        "rejected": "" if number == 3 else f"No idea, perhaps {number}?",  # an empty answer is a bad one
        "rejected_model": "b",
        "subset": SUBSET_NAMES[number % len(SUBSET_NAMES)],
        "id": 100 + number,
    } | changes


ROWS = [bench_row(number) for number in range(11)] + [bench_row(11, chosen="same", rejected="same")]


def write(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder that looks like a clone with a trained model: useful_code/, models/x, and the file of rows."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "useful_code").symlink_to(ROOT / "useful_code")
    save_tiny_model(folder / "models" / "x")
    write(folder / "bench.jsonl", ROWS)
    return folder


def run_here(folder: Path, *flags: str) -> None:
    """The command inside this process, which saves the start-up. `flags` come last and win."""
    arguments = ["--reward_name_or_path", folder / "models" / "x", "--data_set_name", folder / "bench.jsonl", *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eval_reward_bench_bt.py", *map(str, arguments)])
        exit_cleanly(eval_reward_bench_bt.main)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plain_score(folder: Path, row: dict, side: str) -> float:
    """Plain Transformers on one conversation; the typed special text of the prompt is tokenised apart."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "models" / "x").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "models" / "x")
    messages = [
        {"role": "user", "content": row["prompt"].replace("<|im_end|>", "\0")},
        {"role": "assistant", "content": row[side]},
    ]
    before, after = tokenizer.apply_chat_template(messages, tokenize=False).split("\0")
    ids = tokenizer(before).input_ids
    ids += tokenizer("<|im_end|>", split_special_tokens=True).input_ids + tokenizer(after).input_ids
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits.item()


def test_the_command_line_that_users_know(folder):
    """`CUDA_VISIBLE_DEVICES=1 python ./useful_code/eval_reward_bench_bt.py ...` in the folder of the clone."""
    command = [sys.executable, "./useful_code/eval_reward_bench_bt.py", "--reward_name_or_path", "./models/x"]
    command += ["--record_dir", "./bench_mark_eval.txt", "--data_set_name", "./bench.jsonl"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "1"}
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    for text in ("Chat Hard", "Prior sets", "shp", "95 % interval", "Ties: 1 of 12", "bench_mark_eval.txt"):
        assert text in finished.stdout
    record = (folder / "bench_mark_eval.txt").read_text().splitlines()
    assert record[0] == "./models/x"
    assert [line.split("\t")[0] for line in record[1:5]] == ["Chat", "Chat Hard", "Safety", "Reasoning"]

    outputs = read_lines(folder / "bench_mark_eval_outputs.jsonl")
    assert [line["id"] for line in outputs] == [row["id"] for row in ROWS]
    for line, row in zip(outputs, ROWS, strict=True):
        expected = [plain_score(folder, row, "chosen"), plain_score(folder, row, "rejected")]
        assert [line["scores_chosen"], line["scores_rejected"]] == pytest.approx(expected, abs=1e-5)
        assert line["results"] == int(line["scores_chosen"] > line["scores_rejected"])
        assert row["chosen"] in line["text_chosen"] and "<|im_start|>" in line["text_chosen"]
    assert outputs[-1]["results"] == 0  # equal answers: a tie counts nothing

    results = json.loads((folder / "bench_mark_eval.json").read_text())
    for subset in SUBSET_NAMES:
        of_subset = [line["results"] for line in outputs if line["subset"] == subset]
        assert results[subset] == pytest.approx(sum(of_subset) / len(of_subset))
    assert (results["model"], results["model_type"]) == ("./models/x", "Seq. Classifier")
    four = [results["sections"][section]["value"] for section in ("Chat", "Chat Hard", "Safety", "Reasoning")]
    assert results["score"]["value"] == pytest.approx(sum(four) / 4)  # the prior set is not in it
    assert not list(folder.glob("*.part-*"))


def test_a_second_run_appends_its_block_and_replaces_the_rest(folder, tmp_path):
    record = tmp_path / "new" / "record.txt"
    run_here(folder, "--record_dir", record)
    once = record.read_text()
    first = read_lines(record.with_name("record_outputs.jsonl"))
    run_here(folder, "--record_dir", record, "--max_tokens_per_batch", "1")
    blocks = record.read_text().rstrip("\n").split("\n\n")
    assert len(blocks) == 2 and record.read_text().startswith(once)
    for block in blocks:
        assert block.splitlines()[0] == str(folder / "models" / "x")
    second = read_lines(record.with_name("record_outputs.jsonl"))
    assert len(second) == len(ROWS)
    for key in ("scores_chosen", "scores_rejected"):
        assert [line[key] for line in second] == pytest.approx([line[key] for line in first], abs=1e-5)
    assert {path.name for path in record.parent.iterdir()} == {"record.txt", "record.json", "record_outputs.jsonl"}


def test_an_interrupted_run_records_nothing_and_goes_on(folder, tmp_path, monkeypatch, capsys):
    real, calls = scoring.score_batch, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(scoring, "score_batch", failing)
    flags = ["--record_dir", tmp_path / "record.txt", "--max_tokens_per_batch", "1"]
    with pytest.raises(SystemExit) as stopped:
        run_here(folder, *flags)
    assert stopped.value.code == 130
    assert not (tmp_path / "record.txt").exists()
    run_here(folder, *flags)
    assert "5 of 12 rows are scored already" in capsys.readouterr().out
    assert len(calls) == len(ROWS) + 1  # and the call that failed
    assert {path.name for path in tmp_path.iterdir()} == {"record.txt", "record.json", "record_outputs.jsonl"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0], bench_row(1, subset="alpaca-easy")], "row 2 has the unknown subset 'alpaca-easy'"),
        ([ROWS[0], '{"prompt": "cut o'], "row 2: malformed_json"),
        ([ROWS[0], "", "[1]"], "row 3"),
        ([ROWS[0], {**ROWS[1], "chosen": None}], "row 2 has no 'chosen'"),
        ([ROWS[0], {**ROWS[1], "rejected": ["a", "b"]}], "row 2: 'rejected' is a list"),
        ([ROWS[0], {**ROWS[1], "chosen": "\ud800"}], "row 2 (id 101, llmbar-natural) cannot be scored"),
        ([ROWS[0], '{"prompt": NaN}'], "row 2"),
    ],
)
def test_a_row_that_cannot_be_used_stops_the_evaluation(folder, tmp_path, capsys, rows, message):
    """A benchmark with rows left out is another benchmark."""
    bench = write(tmp_path / "bench.jsonl", rows)
    refused(folder, capsys, message, "--data_set_name", bench, "--record_dir", tmp_path / "record.txt")
    assert {path.name for path in tmp_path.iterdir()} == {"bench.jsonl"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--record_dir", "{tmp}"], "is a directory"),
        (["--record_dir", "{tmp}/record.json"], "ends in .txt"),
        (["--data_set_name", "{tmp}/missing.jsonl"], "no such file"),
        (["--reward_name_or_path", "{tmp}/missing"], "no such directory"),
        (["--chat_template_path", "{tmp}/missing.jinja"], "missing.jinja"),
        (["--max_tokens_per_batch", "-1"], "--max_tokens_per_batch"),
    ],
)
def test_bad_arguments_are_one_line_before_anything_is_scored(folder, tmp_path, capsys, flags, message):
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    refused(folder, capsys, message, "--record_dir", tmp_path / "record.txt", *flags)
    assert not list(tmp_path.iterdir())


def refused(folder: Path, capsys, message: str, *flags) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_here(folder, *flags)
    assert stopped.value.code == 2
    *_, last_line = capsys.readouterr().err.strip().splitlines()
    assert last_line.startswith("error: ") and message in last_line


def test_a_folder_with_both_splits_of_rewardbench_is_refused(tmp_path):
    """The raw split holds rows that were filtered out of the benchmark."""
    for name in ("raw-00000-of-00001.jsonl", "filtered-00000-of-00001.jsonl"):
        (tmp_path / name).write_text("{}\n")
    with pytest.raises(UserError, match="raw and filtered"):
        load_rows(str(tmp_path))
