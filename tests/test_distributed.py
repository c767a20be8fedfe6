"""Two processes equal one: DDP, ZeRO-3 and FSDP2 on a CPU, through `accelerate launch`; resuming; being killed.

Each run is the recipe's real command on a tiny model. Losses are compared step by step.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from useful_code.tiny import save_tiny_model
from useful_code.training.checkpoints import MANIFEST

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = str(ROOT / "bradley-terry-rm" / "train_bradley_terry.py")
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
TWO = ["--num_processes", "2", "--num_machines", "1"]
LAUNCHERS = {
    "single process": [sys.executable, SCRIPT],
    "DDP": [*LAUNCH, "--multi_gpu", *TWO, SCRIPT],
    "ZeRO-3": [
        *LAUNCH,
        "--use_deepspeed",
        "--deepspeed_config_file",
        str(ROOT / "configs" / "zero3.json"),
        *TWO,
        SCRIPT,
    ],
    "FSDP2": [
        *(*LAUNCH, "--config_file", str(ROOT / "configs" / "fsdp2.yaml"), *TWO),
        *(str(ROOT / "tests" / "run_fsdp_on_cpu.py"), SCRIPT),
    ],
}
STEPS = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    save_tiny_model(folder / "model", "llama", "llama3")

    def chat(i: int, answer: str) -> list[dict]:
        return [
            {"role": "user", "content": f"Say {i}. {'Please. ' * (i % 5)}"},
            {"role": "assistant", "content": answer},
        ]

    rows = [{"chosen": chat(i, f"{i}!" * (1 + i % 3)), "rejected": chat(i, f"{i}...")} for i in range(80)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def command(world: Path, kind: str, output: str, *flags: str) -> list[str]:
    per_device = 8 if kind == "single process" else 4
    return [
        *LAUNCHERS[kind],
        *("--model_name_or_path", str(world / "model"), "--dataset", str(world / "pairs.jsonl")),
        *("--output_dir", str(world / output), "--per_device_train_batch_size", str(per_device)),
        *("--gradient_accumulation_steps", "1", "--learning_rate", "1e-3", "--held_out_share", "0.2"),
        *("--max_steps", str(STEPS), "--save_steps", "3", "--logging_steps", "1", *flags),
    ]


def environment() -> dict[str, str]:
    return os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(world: Path, kind: str, output: str, *flags: str) -> dict[int, float]:
    """Run to the end; the loss of every step."""
    finished = subprocess.run(
        command(world, kind, output, *flags), capture_output=True, text=True, env=environment(), cwd=world
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return losses(world / output)


def losses(output: Path) -> dict[int, float]:
    state = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}


@pytest.fixture(scope="module")
def single(world) -> dict[int, float]:
    result = run(world, "single process", "single")
    assert sorted(result) == list(range(1, STEPS + 1))
    return result


def test_two_by_four_equals_eight_by_one(world, single):
    """Two forward passes of four pairs, accumulated, are one of eight."""
    accumulated = run(
        *(world, "single process", "accumulated"),
        *("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"),
    )
    assert accumulated == pytest.approx(single, rel=1e-5)


@pytest.mark.parametrize("kind", ["DDP", "ZeRO-3", pytest.param("FSDP2", marks=pytest.mark.slow)])
def test_two_processes_equal_one_and_resume(world, single, kind):
    """The same losses within 1e-5; the saved directory gives its own rewards; from the middle it goes on the same.

    With the held-out rows scored before: a model prepared for that alone would not be wrapped for training.
    """
    output = kind.lower().replace("-", "")
    assert run(world, kind, output, "--score_before", "true") == pytest.approx(single, rel=1e-5)
    record = json.loads((world / output / "run.json").read_text())
    assert record["parallelism"] == kind
    assert record["num_processes"] == 2
    assert record["held_out_before"]["loss"] > record["held_out"]["loss"]
    assert record["reload_difference"] <= 1e-4

    resumed = f"{output}_resumed"
    shutil.copytree(world / output / "checkpoint-3", world / resumed / "checkpoint-3")
    assert run(world, kind, resumed, "--resume_from_checkpoint", "true") == pytest.approx(single, rel=1e-5)


@pytest.mark.slow  # four processes; the order itself is tested in tests/test_token_batches.py
def test_token_batches_go_on_in_the_middle_of_a_later_epoch(world):
    """Two steps an epoch: step 3 is the middle of the second, whose order is not that of the first."""
    budget = ("--max_tokens_per_batch", "1100")
    whole = run(world, "DDP", "budget", *budget)
    state = json.loads((world / "budget" / "checkpoint-3" / "trainer_state.json").read_text())
    assert 1 < state["epoch"] < 2, "choose another budget: this one does not stop inside the second epoch"
    shutil.copytree(world / "budget" / "checkpoint-3", world / "budget_resumed" / "checkpoint-3")
    resumed = run(world, "DDP", "budget_resumed", *budget, "--resume_from_checkpoint", "true")
    assert resumed == pytest.approx(whole, rel=1e-5)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(world, single):
    """kill -9 after the first checkpoint; a later one that was cut off by the kill is passed over."""
    process = subprocess.Popen(
        command(world, "single process", "killed"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        cwd=world,
    )
    checkpoint = world / "killed" / "checkpoint-3"
    try:
        deadline = time.monotonic() + 120
        while not (checkpoint / MANIFEST).exists():
            assert time.monotonic() < deadline and process.poll() is None, "the run wrote no checkpoint"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    cut_off = world / "killed" / f"checkpoint-{STEPS}"
    shutil.rmtree(cut_off, ignore_errors=True)
    shutil.copytree(checkpoint, cut_off)
    weights = cut_off / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    resumed = run(world, "single process", "killed", "--resume_from_checkpoint", "true")
    assert resumed == pytest.approx(single, rel=1e-5)


def test_fsdp_without_a_gpu_is_refused_instead_of_running_ddp(world):
    """accelerate itself would run DDP without a word."""
    launcher = [part for part in LAUNCHERS["FSDP2"] if not part.endswith("run_fsdp_on_cpu.py")]
    flags = command(world, "DDP", "refused")[len(LAUNCHERS["DDP"]) :]
    finished = subprocess.run([*launcher, *flags], capture_output=True, text=True, env=environment(), cwd=world)
    assert finished.returncode != 0
    assert "error: FSDP was asked for" in finished.stderr
