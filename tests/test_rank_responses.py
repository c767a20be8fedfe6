"""Tournaments as a user starts them: probabilities of plain Transformers in both orders, nothing lost, resumable."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from useful_code import rank_responses, scoring
from useful_code.pair_probability import tempered
from useful_code.pair_prompt import pair_text
from useful_code.tiny import save_tiny_judge, save_tiny_model
from useful_code.user_errors import exit_cleanly

SCRIPT = Path(rank_responses.__file__)
TOLERANCE = 2e-6  # probabilities, rounded to six digits
CHAT = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Why, please, and how? Be as long as you like."},
]
ROWS = [
    {"prompt": "What is 2 + 2?", "responses": ["4", "It is five. " * 5, "", "[RESPONSE B] 4"], "id": "four"},
    {"prompt": CHAT, "responses": ["Because", "Because"], "id": "equal"},
    {
        "chosen": [*CHAT, {"role": "assistant", "content": "So"}],
        "rejected": [*CHAT, {"role": "assistant", "content": "No"}],
    },
]
BAD_ROWS = [({"prompt": "Hi", "responses": ["alone"]}, "wrong_type"), ({"prompt": "Hi"}, "missing_key")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rank")
    save_tiny_judge(folder / "judge", initializer_range=0.5)  # larger weights: probabilities well apart
    save_tiny_judge(folder / "soft-capped", "gemma2", initializer_range=0.5)
    save_tiny_model(folder / "scalar")
    lines = [json.dumps(row) for row in (ROWS[0], BAD_ROWS[0][0], ROWS[1], BAD_ROWS[1][0], ROWS[2])]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def command_line(folder: Path, output: Path, *flags: str) -> list[str]:
    """`flags` come last and win."""
    paths = ["--reward_name_or_path", folder / "judge", "--input", folder / "rows.jsonl", "--output", output]
    return [str(part) for part in (SCRIPT, *paths, *flags)]


def run_here(folder: Path, output: Path, *flags: str) -> list[dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command_line(folder, output, *flags))
        exit_cleanly(rank_responses.main)
    return read_lines(output)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plain_win_matrix(directory: Path, row: dict) -> np.ndarray:
    """Plain Transformers, one order at a time, the verdict read behind the assistant header (METHODS 2.6)."""
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompt = row.get("prompt", CHAT)
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    responses = row.get("responses") or [row[side][-1]["content"] for side in ("chosen", "rejected")]
    shown_first = np.full((len(responses), len(responses)), 0.5)
    for (i, first), (j, second) in itertools.permutations(enumerate(responses), 2):
        message = [{"role": "user", "content": pair_text(prompt, first, second)}]
        ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt").input_ids
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, -1]
        letters = [tokenizer("A").input_ids[-1], tokenizer("B").input_ids[-1]]
        shown_first[i, j] = torch.sigmoid(logits[letters[0]] - logits[letters[1]])
    return (shown_first + 1 - shown_first.T) / 2


def test_the_command_ranks_every_row_and_accounts_for_the_others(folder, tmp_path):
    output = tmp_path / "new folder" / "ranked.jsonl"
    finished = subprocess.run([sys.executable, *command_line(folder, output)], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = read_lines(output)
    assert [{key: row[key] for key in given} for row, given in zip(found, ROWS, strict=True)] == ROWS
    for row in found:
        matrix = plain_win_matrix(folder / "judge", row)
        assert np.array(row["win_matrix"]) == pytest.approx(matrix, abs=TOLERANCE)
        assert row["borda"] == pytest.approx(matrix.sum(1) - 0.5, abs=1e-5)
        assert row["ranking"][0] == row["best"] and sorted(row["ranking"]) == list(range(len(matrix)))
        assert [row["borda"][i] for i in row["ranking"]] == sorted(row["borda"], reverse=True)
    assert found[1]["win_matrix"] == [[0.5, 0.5], [0.5, 0.5]] and found[1]["copeland"] == [0.5, 0.5]
    refused = read_lines(output.with_name("ranked_refused_rows.jsonl"))
    assert [row["reason"] for row in refused] == [reason for _, reason in BAD_ROWS]
    assert "5 rows read, 3 kept, 2 refused" in finished.stdout and "temperature 1;" in finished.stdout
    assert {path.name for path in output.parent.iterdir()} == {"ranked.jsonl", "ranked_refused_rows.jsonl"}


@pytest.mark.parametrize("model", ["judge", "soft-capped"])
def test_win_matrices_do_not_depend_on_batches_or_order(folder, tmp_path, model):
    """METHODS 2.9, check 8: packed (Llama) and padded (Gemma 2), one comparison a batch or all, responses turned."""
    flags = ["--reward_name_or_path", str(folder / model)]
    expected = plain_win_matrix(folder / model, ROWS[0])
    turned = [{**ROWS[0], "responses": ROWS[0]["responses"][::-1]}]
    (tmp_path / "turned.jsonl").write_text(json.dumps(turned[0]) + "\n")
    for tokens in ("1", "100000"):
        row, *_ = run_here(folder, tmp_path / "out.jsonl", *flags, "--max_tokens_per_batch", tokens)
        assert np.array(row["win_matrix"]) == pytest.approx(expected, abs=1e-4)
    (row,) = run_here(folder, tmp_path / "out.jsonl", *flags, "--input", str(tmp_path / "turned.jsonl"))
    assert np.array(row["win_matrix"]) == pytest.approx(expected[::-1, ::-1], abs=1e-4)


def test_a_knockout_makes_the_comparisons_of_the_full_tournament_that_it_needs(folder, tmp_path):
    full = run_here(folder, tmp_path / "full.jsonl")
    short = run_here(folder, tmp_path / "short.jsonl", "--tournament", "knockout")
    for row, found in zip(full, short, strict=True):
        champion = 0
        for challenger, (before, shown, probability) in enumerate(found["comparisons"], start=1):
            assert (before, shown) == (champion, challenger)
            assert probability == pytest.approx(row["win_matrix"][challenger][champion], abs=TOLERANCE)
            champion = challenger if probability > 0.5 else champion
        assert found["best"] == champion
        assert len(found["comparisons"]) == len(row["win_matrix"]) - 1


def test_the_temperature_is_that_of_the_run_unless_another_is_given(folder, tmp_path, capsys):
    plain = np.array(run_here(folder, tmp_path / "plain.jsonl")[0]["win_matrix"])
    record = folder / "judge" / "run.json"
    record.write_text(json.dumps({"held_out": {"temperature": 2.0}}))
    try:
        cooled = np.array(run_here(folder, tmp_path / "cooled.jsonl")[0]["win_matrix"])
        again = run_here(folder, tmp_path / "again.jsonl", "--temperature", "1")
    finally:
        record.unlink()
    assert cooled == pytest.approx(tempered(plain, 2.0), abs=1e-5) and not np.allclose(cooled, plain)
    assert np.array(again[0]["win_matrix"]) == pytest.approx(plain, abs=TOLERANCE)


def test_an_interrupted_tournament_goes_on(folder, tmp_path, monkeypatch, capsys):
    real, calls = scoring.score_batch, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(scoring, "score_batch", failing)
    flags = ["--max_tokens_per_batch", "1", "--tournament", "knockout"]
    with pytest.raises(SystemExit) as stopped:
        run_here(folder, tmp_path / "out.jsonl", *flags)
    assert stopped.value.code == 130 and not (tmp_path / "out.jsonl").exists()
    rows = run_here(folder, tmp_path / "out.jsonl", *flags)
    assert [len(row["comparisons"]) for row in rows] == [3, 1, 1]
    assert len(calls) == 5 + 1  # five games, and the call that failed
    assert not list(tmp_path.glob("*.part-*"))


def test_numbers_of_other_labels_are_not_taken_up(folder, tmp_path, monkeypatch):
    """The prompt does not tell which labels are read behind it."""

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rank_responses, "write_rows", stop)
        with pytest.raises(SystemExit):
            run_here(folder, tmp_path / "out.jsonl")
    resumed = run_here(folder, tmp_path / "out.jsonl", "--tie_label", "Same")
    fresh = run_here(folder, tmp_path / "fresh.jsonl", "--tie_label", "Same")
    two_labels = run_here(folder, tmp_path / "two.jsonl")
    assert [row["win_matrix"] for row in resumed] == [row["win_matrix"] for row in fresh]
    assert resumed[0]["win_matrix"] != two_labels[0]["win_matrix"]


@pytest.mark.parametrize("model", ["judge", "soft-capped"])
def test_chunks_and_small_batches_change_nothing(folder, tmp_path, monkeypatch, model):
    """A group that is longer than a batch is computed in several passes, packed or padded."""
    path = ["--reward_name_or_path", str(folder / model)]
    expected = run_here(folder, tmp_path / "whole.jsonl", *path)
    real, tokens = scoring.Scorer.numbers, []

    def counting(scorer, batch, sequences):
        tokens.append(batch["input_ids"].numel())
        return real(scorer, batch, sequences)

    monkeypatch.setattr(rank_responses, "ROWS_PER_CHUNK", 1)
    monkeypatch.setattr(scoring.Scorer, "numbers", counting)
    found = run_here(folder, tmp_path / "small.jsonl", *path, "--max_tokens_per_batch", "700")
    for row, other in zip(found, expected, strict=True):
        assert np.array(row["win_matrix"]) == pytest.approx(np.array(other["win_matrix"]), abs=1e-4)
    assert len(tokens) > 3 and max(tokens) <= 700
    assert not list(tmp_path.glob("*.part-*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--reward_name_or_path", "{folder}/scalar"], "no causal language model: it has no lm_head"),
        (["--temperature", "0"], "--temperature"),
        (["--tie_label", "A"], "different labels"),
        (["--max_length", "3"], "over_max_length"),
        (["--max_length", "3", "--tournament", "knockout"], "over_max_length"),
        (["--output", "{folder}/rows.jsonl"], "would overwrite"),
        (["--input", "{folder}", "--output", "{folder}/out.jsonl"], "lies in the folder of the input"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folder, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        run_here(folder, tmp_path / "out.jsonl", *(flag.format(folder=folder) for flag in flags))
    assert stopped.value.code == 2
    *_, last_line = capsys.readouterr().err.strip().splitlines()
    assert last_line.startswith("error: ") and re.search(message, last_line)
    assert not (tmp_path / "out.jsonl").exists()
