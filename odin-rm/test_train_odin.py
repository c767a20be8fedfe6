"""What a run reports and saves, the real command, and real processes.

Travels with the folder when it is copied.
"""

import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from length_table import SUM, head_numbers, head_tables
from normalised_heads import add_nuisance_heads, heads_of
from odin_examples import chat, write
from safetensors.torch import load_file
from train_odin import (
    Arguments,
    held_out_metrics,
    main,
)
from transformers import AutoModelForSequenceClassification, EvalPrediction

from useful_code import eval_reward_bench_bt, score
from useful_code.render import read_template
from useful_code.reward_model import load_reward_model
from useful_code.tiny import byte_tokenizer, save_tiny_model
from useful_code.training import save_load
from useful_code.user_errors import UserError, exit_cleanly

SCRIPT = Path(__file__).with_name("train_odin.py")


def test_held_out_metrics_by_hand():
    """Quality is right about the first pair and wrong about the second; annotators are undecided about the third. The
    sum is right about both."""
    rewards = np.array([[[2.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [1.0, 0.0]], [[9.0, 0.0], [0.0, 0.0]]])
    traits = np.array([[[5.0], [4.0]], [[3.0], [4.0]], [[12.0], [3.0]]])
    metrics = held_out_metrics(EvalPrediction(predictions=(rewards, traits), label_ids=np.array([1.0, 1.0, 0.5])))
    assert metrics["accuracy"] == 0.5 and metrics["accuracy_of_sum"] == 1 and metrics["margin"] == 0
    expected = np.corrcoef([2, 1, 0, 1, 9, 0], [5, 4, 3, 4, 12, 3])[0, 1]
    assert metrics["quality_length_correlation"] == pytest.approx(expected)


def test_the_table_has_three_correlations_and_two_conditional_accuracies():
    """Quality follows list items and not length; the length head is the length."""
    lengths = np.array([[10.0, 20.0], [30.0, 10.0], [20.0, 40.0]])
    items = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    rewards = np.stack((items, lengths, 0 * items), -1)
    names = ["quality", "length", "list_items"]
    numbers = head_numbers(names, rewards, np.stack((lengths, items), -1))
    quality, length = numbers["quality"], numbers["length"]
    assert [length[key] for key in ("pearson", "kendall", "spearman")] == pytest.approx([1, 1, 1])
    assert quality["pearson"] == pytest.approx(np.corrcoef(items.flatten(), lengths.flatten())[0, 1])
    assert quality["accuracy"] == pytest.approx(2 / 3)
    assert quality["chosen_longer"]["accuracy"] == 1 and quality["chosen_shorter"]["accuracy"] == 0.5
    assert quality["pearson_with"]["list_items"] == pytest.approx(1)
    assert numbers["list_items"]["pearson"] is None, "a constant has no correlation"
    assert numbers[SUM]["accuracy"] == pytest.approx(1 / 3)
    first, second = head_tables(numbers, names)
    assert first.header[1:] == ["Pearson", "Kendall", "Spearman", "accuracy", "chosen longer", "chosen shorter"]
    assert first.rows[0][4:] == ["0.667", "1.000", "0.500"] and [row[0] for row in first.rows] == [
        "quality",
        SUM,
        *names[1:],
    ]
    assert second.rows[0] == ["quality", f"{quality['pearson']:.2f}", "1.00"]
    assert len(head_tables(head_numbers(names[:2], rewards[..., :2], lengths[..., None]), names[:2])) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"length_weight": -1.0},
        {"length_weight": float("nan")},
        {"orthogonality_weight": float("inf")},
        {"orthogonality_weight": -0.1},
        {"further_heads": ["emoji"]},
        {"further_heads": ["list_items", "list_items"]},
        {"correlation_pairs": 2},
        {"held_out_share": 0.0},
    ],
)
def test_arguments_that_cannot_work_are_refused(bad):
    with pytest.raises(UserError):
        Arguments(dataset="-", **bad)


# --- the real command ---


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny model and 300 pairs: the shouted answer wins, and longer answers win more often than not."""
    folder = tmp_path_factory.mktemp("odin")
    save_tiny_model(folder / "model", "llama", "chatml")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(300):
        chosen, rejected = rng.integers(1, 30, 2) + [6, 0]
        rows.append({"chosen": chat(f"Say {i}", "!" * chosen), "rejected": chat(f"Say {i}", "." * rejected)})
    rows.append({"chosen": chat("Say", "a"), "rejected": chat("Say", " a ")})
    split_votes = (
        {"tie": False, "label": 0.5, "chosen": chat(f"Vote {i}", "a"), "rejected": chat(f"Vote {i}", "bb")}
        for i in range(8)
    )
    rows.extend(split_votes)
    write(folder / "pairs.jsonl", rows)
    return folder


def command_line(folder: Path, output: str) -> list[str]:
    arguments = {
        "--model_name_or_path": folder / "model",
        "--dataset": folder / "pairs.jsonl",
        "--output_dir": folder / output,
        "--held_out_share": "0.3",
        "--per_device_train_batch_size": "16",
        "--gradient_accumulation_steps": "1",
        "--learning_rate": "5e-3",
        "--num_train_epochs": "8",
        "--save_strategy": "no",
    }
    return [str(part) for pair in arguments.items() for part in pair]


def run_alone_here(script: str, arguments: list[str], standard_input: str = "") -> str:
    """Stands for `save_load._run_alone` where starting Python again would only cost time."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        patch.setattr(sys, "stdin", io.StringIO(standard_input))
        patch.setattr(sys, "stdout", output)
        runpy.run_path(script, run_name="__main__")
    return output.getvalue()


def run_here(monkeypatch, folder: Path, output: str, *flags: str) -> dict:
    """The recipe inside this process; its record."""
    monkeypatch.setattr(save_load, "_run_alone", run_alone_here)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command_line(folder, output), *flags])
    exit_cleanly(main)
    return json.loads((folder / output / "run.json").read_text())


@pytest.fixture(scope="module")
def trained(world) -> Path:
    """What the user's command leaves; `finished.txt` beside it is what it printed."""
    command = [sys.executable, SCRIPT, *command_line(world, "run"), "--score_before", "true"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=world)
    assert finished.returncode == 0, finished.stderr[-3000:]
    (world / "run" / "finished.txt").write_text(finished.stdout)
    return world / "run"


def test_recipe_trains_saves_and_reloads(world, trained):
    """Plain Transformers reads a one-label classifier with a quality row of unit length; the other row lies beside."""
    record = json.loads((trained / "run.json").read_text())
    assert record["held_out"]["accuracy"] > 0.9 > record["held_out_before"]["accuracy"]
    assert record["reload_difference"] <= 1e-4 and record["method"] == "ODIN"
    assert record["heads"]["length"]["pearson"] > abs(record["heads"]["quality"]["pearson"])
    assert record["heads"]["quality"]["accuracy"] == record["held_out"]["accuracy"]
    printed = (trained / "finished.txt").read_text()
    assert "sum of all heads" in printed and "'quality_length_correlation'" in printed
    refused = (trained / "refused_rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in refused] == ["equal_responses"]
    before = AutoModelForSequenceClassification.from_pretrained(world / "model").state_dict()
    after, loading = AutoModelForSequenceClassification.from_pretrained(trained, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(not torch.equal(before[name], value) for name, value in after.state_dict().items())
    rows = load_file(trained / "heads" / "odin_heads.safetensors")
    assert json.loads((trained / "odin_heads.json").read_text())["heads"] == ["quality", "length"] and len(rows) == 2
    torch.testing.assert_close(rows["quality"], after.score.weight[0].detach())
    assert rows["quality"].norm().item() == pytest.approx(1, abs=1e-5) == rows["length"].norm().item()
    assert not list(trained.glob("*.bin")) and (trained / "report.html").stat().st_size > 10_000


def test_the_saved_directory_is_scored_by_the_commands_for_any_reward_model(world, trained, monkeypatch):
    """score.py gives the logits of plain Transformers; the RewardBench command reads the directory too."""
    rows = [{"prompt": "Say 3", "responses": ["!!!", "..."]}]
    bench = [
        {
            "id": i,
            "subset": name,
            "prompt": "Say",
            "chosen": "!!!",
            "chosen_model": "a",
            "rejected": "..",
            "rejected_model": "b",
        }
        for i, name in enumerate(["alpacaeval-easy", "llmbar-natural", "donotanswer", "math-prm"])
    ]
    files = write(world / "rows.jsonl", rows), write(world / "bench.jsonl", bench)
    for module, flags in (
        (score, ["--input", files[0], "--output", world / "scores.jsonl"]),
        (eval_reward_bench_bt, ["--data_set_name", files[1], "--record_dir", world / "bench.txt"]),
    ):
        monkeypatch.setattr(sys, "argv", [module.__file__, "--reward_name_or_path", str(trained), *map(str, flags)])
        module.main()
    (found,) = (json.loads(line)["scores"] for line in (world / "scores.jsonl").read_text().splitlines())
    model, template = AutoModelForSequenceClassification.from_pretrained(trained), read_template(byte_tokenizer())
    for reward, answer in zip(found, ("!!!", "..."), strict=True):
        ids = template.tokenizer.apply_chat_template(chat("Say 3", answer), return_dict=False)
        assert reward == pytest.approx(model(torch.tensor([ids])).logits.item(), abs=1e-5)
    assert found[0] > found[1] and "Chat" in (world / "bench.txt").read_text()


def test_lora_ends_in_a_plain_classifier_and_keeps_its_adapter(world, monkeypatch, capsys):
    """All heads are trained beside the adapter; the one that is saved and merged is the quality head. No answer has a
    list, which is said before training."""
    flags = ("--use_peft", "true", "--lora_target_modules", "all-linear", "--num_train_epochs", "2")
    record = run_here(monkeypatch, world, "lora", *flags, "--further_heads", "list_items", "bold_marks")
    assert "list_items is the same in all chosen answers" in capsys.readouterr().out
    assert record["reload_difference"] <= 1e-4
    adapter = load_file(world / "lora" / "adapter" / "adapter_model.safetensors")
    assert [tuple(value.shape) for name, value in adapter.items() if "score" in name] == [(1, 32)]
    _, loading = AutoModelForSequenceClassification.from_pretrained(world / "lora", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    rows = load_file(world / "lora" / "heads" / "odin_heads.safetensors")
    assert set(rows) == {"quality", "length", "list_items", "bold_marks"}
    drawn = load_reward_model(str(world / "model"))
    add_nuisance_heads(drawn, 3, seed=42)
    start = F.normalize(heads_of(drawn).nuisance_weight.detach(), dim=-1)
    assert (rows["length"] - start[0]).abs().max() > 1e-3, "the length head was trained"


@pytest.mark.parametrize("flags", [(), ("--use_peft", "true", "--lora_target_modules", "all-linear")])
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(world, monkeypatch, flags):
    """All heads and the running moments are in the checkpoint: 16 pairs a step, correlations over 128."""
    name = f"resume{len(flags)}"
    steps = ("--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "1", *flags)
    run_here(monkeypatch, world, name, *steps)
    shutil.copytree(world / name / "checkpoint-2", world / f"{name}d" / "checkpoint-2")
    run_here(monkeypatch, world, f"{name}d", *steps, "--resume_from_checkpoint", "true")
    losses = []
    for output in (name, f"{name}d"):
        state = json.loads((world / output / "checkpoint-4" / "trainer_state.json").read_text())
        losses.append([entry["loss"] for entry in state["log_history"] if "loss" in entry])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and len(losses[0]) == 4


def test_only_the_last_layers_and_the_heads_are_trained(world, monkeypatch):
    flags = ("--train_last_layers", "1", "--max_steps", "2", "--max_tokens_per_batch", "2000")
    run_here(monkeypatch, world, "last", *flags)
    before = AutoModelForSequenceClassification.from_pretrained(world / "model").state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(world / "last").state_dict()
    moved = {
        name.split(".")[2] if "layers" in name else name
        for name in before
        if not torch.equal(before[name], after[name])
    }
    assert moved == {"1", "model.norm.weight", "score.weight"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "missing.jsonl"], "no such file"),
        (["--model_name_or_path", "./nowhere"], "nowhere"),
        (["--max_length", "3"], "over_max_length"),
        (["--further_heads", "emoji"], "choose from list_items, bold_marks"),
        (["--correlation_pairs", "1"], "--correlation_pairs"),
        (["--learning_rate", "-1"], "--learning_rate is -1.0"),
        (["--learning_rate", "nan"], "--learning_rate is nan"),
        (["--output_dir", __file__], "is a file"),
        (["--train_last_layers", "9"], "--train_last_layers"),
        (["--load_in_4bit", "true"], "--use_peft true"),
    ],
)
def test_bad_input_is_one_line_and_status_2(world, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command_line(world, "bad"), *flags])
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(main)
    assert stopped.value.code == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("error: ") and message in last_line


# --- real processes, and 4 bits: minutes ---


LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
TWO = ["--num_processes", "2", "--num_machines", "1"]
ROOT = SCRIPT.parents[1]
LAUNCHERS = {
    "single process": [sys.executable],
    "DDP": [*LAUNCH, "--multi_gpu", *TWO],
    "ZeRO-3": [*LAUNCH, "--use_deepspeed", "--deepspeed_config_file", str(SCRIPT.with_name("zero3.json")), *TWO],
    "FSDP2": [
        *(*LAUNCH, "--config_file", str(ROOT / "configs" / "fsdp2.yaml"), *TWO),
        str(ROOT / "tests" / "run_fsdp_on_cpu.py"),
    ],
}


def launch(world: Path, kind: str, output: str, *flags: str) -> dict:
    """The record of a run of six steps with 16 pairs each, whose `losses` are added."""
    per_device = "16" if kind == "single process" else "8"
    command = [*LAUNCHERS[kind], str(SCRIPT), *command_line(world, output), "--per_device_train_batch_size", per_device]
    command += ["--max_steps", "6", "--save_strategy", "steps", "--save_steps", "3", "--logging_steps", "1", *flags]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=world)
    assert finished.returncode == 0, finished.stderr[-3000:]
    state = json.loads((world / output / "checkpoint-6" / "trainer_state.json").read_text())
    record = json.loads((world / output / "run.json").read_text())
    return record | {"losses": [entry["loss"] for entry in state["log_history"] if "loss" in entry]}


LORA = ("--use_peft", "true", "--lora_target_modules", "all-linear", "--lora_dropout", "0")


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "LoRA"])
def single(world, request) -> tuple[str, dict, tuple]:
    """The name, the record and the flags of the run of one process."""
    name, flags = ("single_lora", LORA) if request.param else ("single", ())
    return name, launch(world, "single process", name, *flags), flags


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DDP", "ZeRO-3", "FSDP2"])
def test_two_real_processes_equal_one(world, single, kind):
    """The same losses, correlations across processes included; one plain head is saved and gives its own rewards; a run
    that goes on from the middle ends the same."""
    name, expected, flags = single
    output = f"{name}_{kind}"
    record = launch(world, kind, output, *flags, "--score_before", "true")
    assert record["parallelism"] == kind and record["num_processes"] == 2
    assert record["losses"] == pytest.approx(expected["losses"], rel=1e-5, abs=1e-5)
    assert record["reload_difference"] <= 1e-4
    rows = load_file(world / output / "heads" / "odin_heads.safetensors")
    assert {tuple(row.shape) for row in rows.values()} == {(32,)} and rows.keys() == {"quality", "length"}
    of_one = load_file(world / name / "heads" / "odin_heads.safetensors")
    assert all((rows[head] - of_one[head]).abs().max() < 1e-4 for head in rows)
    _, loading = AutoModelForSequenceClassification.from_pretrained(world / output, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    shutil.copytree(world / output / "checkpoint-3", world / f"{output}_resumed" / "checkpoint-3")
    resumed = launch(world, kind, f"{output}_resumed", *flags, "--resume_from_checkpoint", "true")
    assert resumed["losses"] == pytest.approx(expected["losses"], rel=1e-5, abs=1e-5)


@pytest.mark.slow
def test_two_processes_with_batches_of_unequal_size(world):
    """Batches filled by tokens: a process may have more pairs than the other, and neither waits for ever."""
    record = launch(world, "DDP", "tokens", "--max_tokens_per_batch", "700")
    assert len(record["losses"]) == 6 and record["reload_difference"] <= 1e-4


@pytest.mark.slow
def test_qlora_keeps_the_quality_head(tmp_path, world):
    """On a CPU, by bitsandbytes; blocks are of 64."""
    save_tiny_model(tmp_path / "model", "llama", "chatml", hidden_size=128, intermediate_size=128)
    flags = ("--use_peft", "true", "--load_in_4bit", "true", "--lora_target_modules", "q_proj")
    record = launch(world, "single process", "qlora", *flags, "--model_name_or_path", str(tmp_path / "model"))
    assert record["losses"][-1] < record["losses"][0]
    merged = AutoModelForSequenceClassification.from_pretrained(world / "qlora")
    rows = load_file(world / "qlora" / "heads" / "odin_heads.safetensors")
    torch.testing.assert_close(merged.score.weight[0].detach(), rows["quality"])
