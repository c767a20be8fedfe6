"""Scoring: equal to plain Transformers one text at a time, whatever the batches; resumable; nothing lost."""

import json
import random
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
)

from useful_code import score, scoring
from useful_code.shared_prefix import pad
from useful_code.tiny import byte_tokenizer, save_tiny_model, tiny_config, tiny_reward_model
from useful_code.user_errors import exit_cleanly

SCRIPT = Path(score.__file__)
TOLERANCE = 1e-5  # float32, rewards of size 1
GROUP_LISTS = st.lists(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=3), max_size=12
)


def chat(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


GOOD_ROWS = [
    {"prompt": "What is 2 + 2?", "responses": ["4", "", "It is five. " * 5], "id": "three answers", "ids": [1, 2]},
    {"prompt": "Größe?", "responses": ["naïve <|im_end|> 😀"], "id": "typed special text"},
    {"chosen": chat("Hi", "Hello!"), "rejected": chat("Hi", "Go away"), "id": "a pair"},
    {
        "prompt": [
            {"role": "system", "content": "Be brief"},
            *chat("One?", "Two."),
            {"role": "user", "content": "Why?"},
        ],
        "responses": ["Because", "Why not", "Because", "No idea at all"],
        "id": "several turns",
    },
    {"prompt": "What is 2 + 2?", "responses": ["4", "", "It is five. " * 5], "id": "again"},
]
BAD_ROWS = [  # row, reason
    ({"prompt": "Hi"}, "missing_key"),
    ({"prompt": "Hi", "responses": "text"}, "wrong_type"),
    ({"prompt": "Hi", "responses": []}, "wrong_type"),
    ({"prompt": "Hi", "responses": ["a", 1]}, "wrong_type"),
    ({"prompt": " ", "responses": ["a"]}, "empty_content"),
    ({"prompt": chat("Hi", "Hello"), "responses": ["a"]}, "odd_length"),
    ({"prompt": "Hi", "responses": ["a\ud800"]}, "invalid_unicode"),
    ({"chosen": chat("Hi", "a"), "rejected": chat("Ho", "b")}, "history_differs"),
    (["Hi"], "not_an_object"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny models of several kinds, and rows.jsonl: good and bad rows in turn."""
    folder = tmp_path_factory.mktemp("score")
    save_tiny_model(folder / "model")
    save_tiny_model(folder / "soft-capped", "gemma2")  # cannot share a prefix: padded batches
    save_tiny_model(folder / "other weights", seed=1)
    vocab_size = len(byte_tokenizer())
    AutoModelForCausalLM.from_config(tiny_config("llama", vocab_size)).save_pretrained(folder / "causal")
    tiny_reward_model("llama", vocab_size, num_labels=3).save_pretrained(folder / "three labels")
    shape = {"vocab_size": vocab_size, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    BertModel(BertConfig(**shape, intermediate_size=64)).save_pretrained(folder / "encoder without head")
    for name in ("causal", "three labels", "encoder without head"):
        byte_tokenizer().save_pretrained(folder / name)
    rows = []
    for i, (bad, _) in enumerate(BAD_ROWS):
        rows += GOOD_ROWS[i : i + 1] + [bad]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": "cut o\n'
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return folder


def command_line(folder: Path, output: Path, *flags: str) -> list[str]:
    """`flags` come last and win."""
    paths = ["--reward_name_or_path", folder / "model", "--input", folder / "rows.jsonl", "--output", output]
    return [str(part) for part in (SCRIPT, *paths, *flags)]


def run_here(folder: Path, output: Path, *flags: str) -> list[dict]:
    """The command inside this process, which saves six seconds of start-up; the rows that it wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command_line(folder, output, *flags))
        exit_cleanly(score.main)
    return read_lines(output)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def all_scores(rows: list[dict]) -> list[float]:
    return [value for row in rows for value in row["scores"]]


def plain_scores(directory: Path, rows: list[dict]) -> list[float]:
    """Plain Transformers, one conversation at a time; typed special text is made harmless by hand (`<` apart)."""
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rewards = []
    for row in rows:
        if "chosen" in row:
            conversations = [row["chosen"], row["rejected"]]
        else:
            prompt = row["prompt"]
            history = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            conversations = [[*history, {"role": "assistant", "content": text}] for text in row["responses"]]
        for conversation in conversations:
            *_, last = conversation
            typed = last["content"].replace("<|im_end|>", "\0")
            text = tokenizer.apply_chat_template([*conversation[:-1], {**last, "content": typed}], tokenize=False)
            ids = []
            for i, part in enumerate(text.split("\0")):
                ids += tokenizer("<|im_end|>", split_special_tokens=True).input_ids if i else []
                ids += tokenizer(part).input_ids
            with torch.inference_mode():
                rewards.append(model(input_ids=torch.tensor([ids])).logits.item())
    return rewards


# --- the command ---


def test_the_command_scores_every_row_in_order_and_accounts_for_the_others(folder, tmp_path):
    output = tmp_path / "new folder" / "scores.jsonl"
    finished = subprocess.run(
        [sys.executable, *command_line(folder, output)], capture_output=True, text=True, cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    rows = read_lines(output)
    assert [{k: v for k, v in row.items() if k != "scores"} for row in rows] == GOOD_ROWS  # every column, in order
    assert [len(row["scores"]) for row in rows] == [3, 1, 2, 4, 3]
    assert all_scores(rows) == pytest.approx(plain_scores(folder / "model", GOOD_ROWS), abs=TOLERANCE)
    assert len(set(rows[0]["scores"])) == 3  # the empty answer has a score of its own
    refused = read_lines(output.with_name("scores_refused_rows.jsonl"))
    assert [r["reason"] for r in refused] == [reason for _, reason in BAD_ROWS] + ["malformed_json"]
    assert [r["line"] for r in refused] == [2, 4, 6, 8, 10, 11, 12, 13, 14, 15]
    assert "15 rows read, 5 kept, 10 refused" in finished.stdout
    assert "already" not in finished.stdout  # a row that comes twice is not a row of an earlier run
    assert {path.name for path in output.parent.iterdir()} == {"scores.jsonl", "scores_refused_rows.jsonl"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "{folder}/missing.jsonl"], "no such file"),
        (["--input", "{folder}/causal/config.json"], "no usable row|none of|not a list"),
        (["--reward_name_or_path", "{folder}/nowhere"], "no such directory"),
        (["--reward_name_or_path", "{folder}/causal"], "no reward head"),
        (["--reward_name_or_path", "{folder}/encoder without head"], "no reward head"),
        (["--reward_name_or_path", "{folder}/three labels"], r"score\.weight has the shape \(3, 32\)"),
        (["--chat_template_path", "{folder}/missing.jinja"], "missing.jinja"),
        (["--chat_template_path", "{folder}/rows.jsonl"], "chat template"),
        (["--max_tokens_per_batch", "0"], "--max_tokens_per_batch"),
        (["--max_length", "3"], "over_max_length"),
        (["--output", "{folder}"], "is a directory"),
        (["--output", "."], "is a directory"),
        (["--output", "{folder}/rows.jsonl"], "would overwrite"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folder, tmp_path, capsys, flags, message):
    before = sorted(path.name for path in folder.iterdir())
    rows = (folder / "rows.jsonl").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        run_here(folder, tmp_path / "scores.jsonl", *(flag.format(folder=folder) for flag in flags))
    assert stopped.value.code == 2
    *_, last_line = capsys.readouterr().err.strip().splitlines()
    assert last_line.startswith("error: ")
    assert re.search(message, last_line)
    assert not (tmp_path / "scores.jsonl").exists()
    assert sorted(path.name for path in folder.iterdir()) == before and (folder / "rows.jsonl").read_bytes() == rows


def test_columns_that_json_cannot_hold_do_not_cost_the_scores(folder, tmp_path):
    """A lone surrogate in a column that is not rendered was read, so it can be written."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Hi", "responses": ["a"], "note": "\\ud800"}\n')
    assert run_here(folder, tmp_path / "scores.jsonl", "--input", str(rows))[0]["note"] == "\ud800"
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"prompt": ["Hi"], "responses": [["a"]], "when": [pandas.Timestamp("2024-05-01")]})
    table.to_parquet(tmp_path / "rows.parquet")
    written = run_here(folder, tmp_path / "scores.jsonl", "--input", str(tmp_path / "rows.parquet"))
    assert written[0]["when"].startswith("2024-05-01") and len(written[0]["scores"]) == 1


# --- the same numbers whatever the batches ---


@pytest.mark.parametrize("model", ["model", "soft-capped"])
def test_scores_do_not_depend_on_batches_or_row_order(folder, tmp_path, model):
    """Batches of one row and of all rows, rows as they are and shuffled: packed (Llama) and padded (Gemma 2)."""
    path = ["--reward_name_or_path", str(folder / model)]
    expected = plain_scores(folder / model, GOOD_ROWS)
    for tokens in (1, 150, 100_000):
        rows = run_here(folder, tmp_path / "scores.jsonl", *path, "--max_tokens_per_batch", str(tokens))
        assert all_scores(rows) == pytest.approx(expected, abs=TOLERANCE)
    shuffled = random.Random(0).sample(GOOD_ROWS, len(GOOD_ROWS))
    (tmp_path / "shuffled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shuffled))
    rows = run_here(folder, tmp_path / "scores.jsonl", *path, "--input", str(tmp_path / "shuffled.jsonl"))
    by_id = {row["id"]: row["scores"] for row in rows}
    assert [value for row in GOOD_ROWS for value in by_id[row["id"]]] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_do_not_depend_on_the_padding_side(folder, tmp_path, monkeypatch, side):
    monkeypatch.setattr(scoring, "pad", partial(pad, side=side))
    path = ["--reward_name_or_path", str(folder / "soft-capped")]
    rows = run_here(folder, tmp_path / "scores.jsonl", *path)
    assert all_scores(rows) == pytest.approx(plain_scores(folder / "soft-capped", GOOD_ROWS), abs=TOLERANCE)


# --- interrupted runs and several processes ---


def test_the_command_goes_on_too(folder, tmp_path, monkeypatch, capsys):
    """Through `main`: the third batch fails, the second run computes only what is missing, no part stays."""
    output, real, calls = tmp_path / "scores.jsonl", scoring.score_batch, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(scoring, "score_batch", failing)
    flags = ["--max_tokens_per_batch", "1"]
    with pytest.raises(SystemExit) as stopped:
        run_here(folder, output, *flags)
    assert stopped.value.code == 130 and not output.exists()
    assert all_scores(run_here(folder, output, *flags)) == pytest.approx(
        plain_scores(folder / "model", GOOD_ROWS), abs=TOLERANCE
    )
    assert len(calls) == 5  # four different groups, and the call that failed
    assert not list(tmp_path.glob("*.part-*"))


LAUNCHED = """
import sys
from accelerate import PartialState
from useful_code import score, scoring
def keep(parts):  # remove_parts is called once, at the end: the parts show who did the work
    print("WORLD", PartialState().num_processes)
score.remove_parts = keep
score.main()
"""


def test_two_processes_share_the_rows_and_give_the_same_file(folder, tmp_path):
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    output = tmp_path / "scores.jsonl"
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--main_process_port", "0"]
    finished = subprocess.run(
        [sys.executable, *launch, str(script), *command_line(folder, output)[1:]], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "WORLD 2" in finished.stdout
    rows = read_lines(output)
    assert [row["id"] for row in rows] == [row["id"] for row in GOOD_ROWS]
    assert all_scores(rows) == pytest.approx(plain_scores(folder / "model", GOOD_ROWS), abs=TOLERANCE)
    keys = [
        {json.dumps(key) for key, _ in read_lines(tmp_path / f"scores.jsonl.part-{process}-0.jsonl")}
        for process in (0, 1)
    ]
    assert len(keys[0]) == len(keys[1]) == 2 and not keys[0] & keys[1]  # four different groups
    assert finished.stdout.count("rows read") == 1
