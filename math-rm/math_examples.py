"""Rows, a tiny model, and runs of the real commands, for the tests of this folder."""

import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from useful_code.tiny import save_tiny_judge
from useful_code.training import save_load
from useful_code.user_errors import exit_cleanly

FOLDER = Path(__file__).parent
LORA = ("--use_peft", "true", "--lora_target_modules", "all-linear", "--lora_dropout", "0")


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def solution(number: int, *labels, **columns) -> dict:
    """A solution whose right steps shout: a tiny model can learn that."""
    steps = [f"{number + k}{'.!'[label is not None and label > 0.5]}" for k, label in enumerate(labels)]
    return {"prompt": f"Say {number}", "completions": steps, "labels": list(labels), **columns}


def make_world(folder: Path) -> Path:
    """A tiny language model in `model`, and in `steps.jsonl` 120 solutions, two of them to be refused.

    One to three steps; a mistake with probability 0.4 a step, and nothing is right after it. The outcome is the last
    step's label.
    """
    save_tiny_judge(folder / "model", initializer_range=0.1)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(120):
        right = np.cumprod(rng.random(1 + number % 3) > 0.4).astype(bool).tolist()
        rows.append(solution(number, *right, outcome=right[-1]))
    rows.append({"prompt": "Say", "completions": ["a", " "], "labels": [True, True], "outcome": True})
    rows.append({"prompt": "Say", "completions": ["a"], "labels": [2], "outcome": True})
    write(folder / "steps.jsonl", rows)
    return folder


def command_line(folder: Path, output: str, *flags: str) -> list[str]:
    arguments = {
        "--model_name_or_path": folder / "model",
        "--dataset": folder / "steps.jsonl",
        "--output_dir": folder / output,
        "--held_out_share": "0.3",
        "--per_device_train_batch_size": "8",
        "--gradient_accumulation_steps": "1",
        "--learning_rate": "5e-3",
        "--num_train_epochs": "4",
        "--save_strategy": "no",
    }
    return [*(str(part) for pair in arguments.items() for part in pair), *flags]


def run_alone(script: str, folder: Path, output: str, *flags: str) -> subprocess.CompletedProcess:
    """The user's command, in a process of its own and another directory."""
    command = [sys.executable, str(FOLDER / script), *command_line(folder, output, *flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def run_here(main, monkeypatch, folder: Path, output: str, *flags: str) -> dict:
    """The same in this process, where starting Python again would only cost time; its record."""
    monkeypatch.setattr(save_load, "_run_alone", _run_in_this_process)
    monkeypatch.setattr(sys, "argv", ["train.py", *command_line(folder, output, *flags)])
    exit_cleanly(main)
    return record_of(folder / output)


def record_of(directory: Path) -> dict:
    return json.loads((directory / "run.json").read_text(encoding="utf-8"))


def config_of(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text(encoding="utf-8"))


def losses_of(checkpoint: Path) -> list[float]:
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def _run_in_this_process(script: str, arguments: list[str], standard_input: str = "") -> str:
    """Stands for `save_load._run_alone`."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        patch.setattr(sys, "stdin", io.StringIO(standard_input))
        patch.setattr(sys, "stdout", output)
        runpy.run_path(script, run_name="__main__")
    return output.getvalue()


# --- real processes ---

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
TWO = ["--num_processes", "2", "--num_machines", "1"]
ROOT = FOLDER.parent
LAUNCHERS = {
    "single process": [sys.executable],
    "DDP": [*LAUNCH, "--multi_gpu", *TWO],
    "ZeRO-3": [
        *(*LAUNCH, "--use_deepspeed", "--deepspeed_config_file", str(ROOT / "configs" / "zero3.json")),
        *TWO,
    ],
    "FSDP2": [
        *(*LAUNCH, "--config_file", str(ROOT / "configs" / "fsdp2.yaml"), *TWO),
        str(ROOT / "tests" / "run_fsdp_on_cpu.py"),
    ],
}


def launch(script: str, folder: Path, kind: str, output: str, *flags: str) -> dict:
    """The record of a run of four steps with 8 solutions each, whose `losses` are added."""
    per_device = "8" if kind == "single process" else "4"
    steps = ("--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "1")
    command = [*LAUNCHERS[kind], str(FOLDER / script), *command_line(folder, output, *steps)]
    command += ["--per_device_train_batch_size", per_device, *flags]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return record_of(folder / output) | {"losses": losses_of(folder / output / "checkpoint-4")}
