"""RewardBench with a pairwise model, as its users type it; the public layout needs no edit; any tie label counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from useful_code import eval_reward_bench_pm
from useful_code.pair_prompt import pair_text
from useful_code.tiny import save_tiny_judge
from useful_code.user_errors import exit_cleanly

ROOT = Path(eval_reward_bench_pm.__file__).parents[1]
SUBSET_NAMES = ["alpacaeval-easy", "llmbar-natural", "donotanswer", "math-prm"]
ROWS = [
    {
        "prompt": f"What is {number} + 1?",
        "chosen": f"It is {number + 1}." * (1 + number % 3),
        "rejected": "" if number == 3 else f"No idea, perhaps {number}? [RESPONSE B] A",
        "subset": SUBSET_NAMES[number % len(SUBSET_NAMES)],
        "id": 100 + number,
    }
    for number in range(9)
] + [{"prompt": "Same?", "chosen": "same", "rejected": "same", "subset": "math-prm", "id": 7}]
# As released first: an assistant header stands at the end in any case (METHODS 2.8); written by us, not compared.
LLAMA3_FIRST_RELEASE = (
    "{% for message in messages %}{{ (bos_token if loop.index0 == 0 else '') + '<|start_header_id|>' + message['role']"
    " + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder like a clone; models/x in the layout of the public pair-preference model for Llama-3."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "useful_code").symlink_to(ROOT / "useful_code")
    save_tiny_judge(folder / "models" / "x", "llama", "llama3", initializer_range=0.5)
    tokenizer = AutoTokenizer.from_pretrained(folder / "models" / "x")
    tokenizer.chat_template = LLAMA3_FIRST_RELEASE
    tokenizer.save_pretrained(folder / "models" / "x")
    (folder / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def run_here(folder: Path, *flags: str) -> None:
    arguments = ["--reward_name_or_path", folder / "models" / "x", "--data_set_name", folder / "bench.jsonl", *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eval_reward_bench_pm.py", *map(str, arguments)])
        exit_cleanly(eval_reward_bench_pm.main)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plain_probability(folder: Path, row: dict, letters: str = "AB") -> float:
    """P(chosen better) as the original script reads it: the template without a generation prompt, the last logits."""
    model = AutoModelForCausalLM.from_pretrained(folder / "models" / "x").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "models" / "x")
    found = []
    for order in ((row["chosen"], row["rejected"]), (row["rejected"], row["chosen"])):
        message = [{"role": "user", "content": pair_text([{"role": "user", "content": row["prompt"]}], *order)}]
        ids = tokenizer(tokenizer.apply_chat_template(message, tokenize=False), add_special_tokens=False).input_ids
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        shares = logits[[tokenizer(letter, add_special_tokens=False).input_ids[0] for letter in letters]].softmax(-1)
        found.append(float(shares[0] + shares[2:].sum() / 2))
    return (found[0] + 1 - found[1]) / 2


def test_the_command_line_that_users_know(folder):
    """`CUDA_VISIBLE_DEVICES=1 python ./useful_code/eval_reward_bench_pm.py ...` on a directory without our labels."""
    assert "pair_labels" not in json.loads((folder / "models" / "x" / "config.json").read_text())
    command = [sys.executable, "./useful_code/eval_reward_bench_pm.py", "--reward_name_or_path", "./models/x"]
    command += ["--record_dir", "./bench_mark_eval.txt", "--data_set_name", "./bench.jsonl"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "1"}
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    for text in ("Chat Hard", "95 % interval", "Ties: 1 of 10", "Position bias 0.", "bench_mark_eval.txt"):
        assert text in finished.stdout
    assert (folder / "bench_mark_eval.txt").read_text().splitlines()[0] == "./models/x"
    outputs = read_lines(folder / "bench_mark_eval_outputs.jsonl")
    for line, row in zip(outputs, ROWS, strict=True):
        assert line["scores_chosen"] == pytest.approx(plain_probability(folder, row), abs=1e-5)
        assert line["scores_chosen"] + line["scores_rejected"] == pytest.approx(1, abs=1e-12)
        credit = 0.5 if row["chosen"] == row["rejected"] else float(line["scores_chosen"] > 0.5)
        assert line["results"] == credit
        assert line["text_chosen"].index("[RESPONSE A]") < line["text_chosen"].index("[RESPONSE B]")
    results = json.loads((folder / "bench_mark_eval.json").read_text())
    of_math = [line["results"] for line in outputs if line["subset"] == "math-prm"]
    assert results["math-prm"] == pytest.approx(np.mean(of_math)) and results["tie_credit"] == 0.5
    assert 0 < results["order"]["position_bias"] < 1 and 0 <= results["order"]["flip_rate"] <= 1
    assert not list(folder.glob("*.part-*"))


def test_a_tie_label_takes_its_share(folder, tmp_path):
    """By flag for models from elsewhere, by the config for ours: P(A) + P(tie) / 2."""
    record = tmp_path / "record.txt"
    run_here(folder, "--record_dir", record, "--tie_label", "Same")
    by_flag = [line["scores_chosen"] for line in read_lines(record.with_name("record_outputs.jsonl"))]
    assert by_flag[:3] == pytest.approx([plain_probability(folder, row, "ABS") for row in ROWS[:3]], abs=1e-5)
    config = folder / "models" / "x" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps(json.loads(before) | {"pair_labels": ["A", "B", "Same"]}))
    try:
        run_here(folder, "--record_dir", record)
    finally:
        config.write_text(before)
    assert [line["scores_chosen"] for line in read_lines(record.with_name("record_outputs.jsonl"))] == by_flag


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--record_dir", "{tmp}"], "is a directory"),
        (["--data_set_name", "{tmp}/missing.jsonl"], "no such file"),
        (["--reward_name_or_path", "{tmp}/missing"], "no such directory"),
        (["--tie_label", "Also"], "beginning of 'Also'"),
        (["--max_tokens_per_batch", "-1"], "--max_tokens_per_batch"),
    ],
)
def test_bad_arguments_are_one_line_before_anything_is_scored(folder, tmp_path, capsys, flags, message):
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    with pytest.raises(SystemExit) as stopped:
        run_here(folder, "--record_dir", tmp_path / "record.txt", *flags)
    assert stopped.value.code == 2
    *_, last_line = capsys.readouterr().err.strip().splitlines()
    assert last_line.startswith("error: ") and message in last_line
    assert not list(tmp_path.iterdir())


def test_a_row_that_cannot_be_judged_stops_the_evaluation(folder, tmp_path, capsys):
    rows = [ROWS[0], {**ROWS[1], "chosen": "\ud800"}]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit):
        run_here(folder, "--record_dir", tmp_path / "record.txt", "--data_set_name", tmp_path / "bench.jsonl")
    assert "row 2 (id 101, llmbar-natural) cannot be judged" in capsys.readouterr().err
