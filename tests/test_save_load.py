"""A save that is not what was trained fails, and adapters merge."""

import io
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from useful_code import merge_adapter
from useful_code.reward_model import load_reward_model
from useful_code.tiny import byte_tokenizer, save_tiny_model, tiny_reward_model
from useful_code.training import check_saved, save_load
from useful_code.training.save_load import check_saved_rewards
from useful_code.user_errors import exit_cleanly

SEQUENCES = [[5, 6, 7], [5, 6, 8, 9]]


# --- the saved directory gives the rewards of the trained model ---


def trainer_of(bf16: bool = False, dtype: torch.dtype = torch.float32, fsdp: bool = False, ours: bool = True):
    """What `check_saved_rewards` reads of a Trainer; `ours`: its model has a forward that can leave autocast."""
    model = torch.nn.Linear(1, 1, dtype=dtype)
    if ours:
        model.autocast_off = False
    args = SimpleNamespace(bf16=bf16, fp16=False)
    return SimpleNamespace(is_world_process_zero=lambda: True, args=args, model=model, is_fsdp_enabled=fsdp)


EXACT = [trainer_of(), trainer_of(bf16=True), trainer_of(ours=False)]
ROUNDED = [trainer_of(dtype=torch.bfloat16), trainer_of(bf16=True, fsdp=True), trainer_of(bf16=True, ours=False)]


def run_here(script: str, arguments: list[str], standard_input: str = "") -> str:
    """Stands for `_run_alone` where starting Python again would only cost time: `check_saved.main` in this process."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        patch.setattr(sys, "stdin", io.StringIO(standard_input))
        patch.setattr(sys, "stdout", output)
        check_saved.main()
    return output.getvalue()


def rewards_of(model) -> list[float]:
    return [model(input_ids=torch.tensor([ids])).logits.item() for ids in SEQUENCES]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    save_tiny_model(directory)
    return directory


@pytest.fixture
def damaged(saved, tmp_path) -> Path:
    """The saved directory with one weight of the head moved by 0.01."""
    directory = Path(shutil.copytree(saved, tmp_path / "damaged"))
    weights = load_file(directory / "model.safetensors")
    weights["score.weight"][0, 0] += 0.01
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_a_whole_save_passes_and_a_changed_weight_fails(saved, damaged, monkeypatch):
    """The failure in a process of its own, as in a run; the recipes' tests hold the good case."""
    rewards = rewards_of(AutoModelForSequenceClassification.from_pretrained(saved))
    with pytest.raises(RuntimeError, match="rewards differ .* do not use it"):
        check_saved_rewards(trainer_of(), damaged, SEQUENCES, rewards)
    monkeypatch.setattr(save_load, "_run_alone", run_here)
    assert check_saved_rewards(trainer_of(), saved, SEQUENCES, rewards) <= 1e-6


@pytest.mark.parametrize(
    ("error", "trainers", "passes"),
    [
        (9e-5, EXACT, True),
        (2e-4, EXACT, False),
        (-2e-4, EXACT, False),
        (4e-2, ROUNDED, True),
        (6e-2, ROUNDED, False),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_the_tolerance_is_1e_4_wherever_float32_can_be_had(saved, monkeypatch, error, trainers, passes, place):
    """Under autocast too, for it can be left; in 16-bit weights what they round. Every sequence, either direction."""
    monkeypatch.setattr(save_load, "_run_alone", run_here)
    rewards = rewards_of(AutoModelForSequenceClassification.from_pretrained(saved))
    rewards[place] += error
    for trainer in trainers:
        if passes:
            assert check_saved_rewards(trainer, saved, SEQUENCES, rewards) == pytest.approx(abs(error), abs=1e-6)
        else:
            with pytest.raises(RuntimeError, match="do not use it"):
                check_saved_rewards(trainer, saved, SEQUENCES, rewards)


@pytest.mark.parametrize("place", [0, 1])
def test_not_a_number_fails_wherever_it_stands(saved, monkeypatch, place):
    monkeypatch.setattr(save_load, "_run_alone", run_here)
    rewards = rewards_of(AutoModelForSequenceClassification.from_pretrained(saved))
    rewards[place] = float("nan")
    with pytest.raises(RuntimeError, match="do not use it"):
        check_saved_rewards(trainer_of(), saved, SEQUENCES, rewards)


def test_code_that_comes_with_the_model_is_trusted_only_when_the_run_was_told_so(saved, monkeypatch):
    commands = []
    monkeypatch.setattr(save_load, "_run_alone", lambda script, command, text: commands.append(command) or "[0.0, 0.0]")
    for trusted in (False, True):
        check_saved_rewards(trainer_of(), saved, SEQUENCES, [0.0, 0.0], trusted)
    assert commands == [[str(saved)], [str(saved), "--trust_remote_code"]]


def test_a_directory_that_cannot_be_loaded_fails_with_the_reason(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("check_saved.py failed: no file named model.safetensors")

    monkeypatch.setattr(save_load, "_run_alone", fail)
    with pytest.raises(RuntimeError, match="cannot be read back.*no file named"):
        check_saved_rewards(trainer_of(), Path("nowhere"), SEQUENCES, [0.0, 0.0])


def test_a_save_without_its_head_fails(saved, tmp_path, monkeypatch):
    """Transformers would draw a new head and only print a table about it."""
    directory = Path(shutil.copytree(saved, tmp_path / "headless"))
    weights = load_file(directory / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(save_load, "_run_alone", run_here)
    rewards = rewards_of(AutoModelForSequenceClassification.from_pretrained(saved))
    with pytest.raises(RuntimeError, match="do not use it"):
        check_saved_rewards(trainer_of(), directory, SEQUENCES, rewards)


def test_plain_transformers_and_our_forward_agree(saved):
    """`check_saved.py` imports no code of ours: its rewards stand for what a user of the directory gets."""
    rewards = json.loads(run_here("check_saved.py", [str(saved)], json.dumps(SEQUENCES)))
    assert rewards == pytest.approx(rewards_of(load_reward_model(str(saved)).eval()), abs=1e-6)
    assert "useful_code" not in Path(check_saved.__file__).read_text().split("import", 1)[1]


def test_a_script_runs_outside_the_group_of_processes_and_its_failure_is_told(tmp_path, monkeypatch):
    """Under a launcher's variables the script would wait for processes that never come."""
    script = tmp_path / "useful_code" / "script.py"
    script.parent.mkdir()
    script.write_text("import os, sys; print(sorted(os.environ), sys.argv[1:], sys.stdin.read())")
    launcher = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_FSDP", "GROUP_RANK"]
    for name in launcher:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", "kept")
    printed = save_load._run_alone(str(script), ["a b"], "input")
    assert "'HF_HOME'" in printed and printed.endswith("['a b'] input\n")
    assert not [name for name in launcher if f"'{name}'" in printed]
    script.write_text("import sys; sys.exit('error: the disk is full')")
    with pytest.raises(RuntimeError, match="script.py failed: error: the disk is full"):
        save_load._run_alone(str(script), [])


# --- merging an adapter ---


@pytest.fixture(scope="module")
def adapter(saved, tmp_path_factory) -> tuple[Path, list[float]]:
    """A LoRA adapter with a head of its own on `saved`, and the rewards of the two together."""
    directory = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(saved)
    settings = LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(base, settings).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight *= 0.1  # of the size of a trained adapter; PEFT's random ones drown the base in rounding
    torch.nn.init.normal_(model.base_model.model.score.modules_to_save["default"].weight, std=0.1)
    model.save_pretrained(directory)
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(directory)
    return directory, rewards_of(model)


def merge_here(base: Path, adapter: Path, output: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["merge_adapter.py", "--base", str(base), "--adapter", str(adapter)])
        sys.argv += ["--output", str(output)]
        exit_cleanly(merge_adapter.main)


def test_merging_gives_a_plain_classifier_with_the_head_of_the_adapter(saved, adapter, tmp_path):
    directory, rewards = adapter
    base = rewards_of(AutoModelForSequenceClassification.from_pretrained(saved))
    assert rewards != pytest.approx(base, abs=1e-2)  # the adapter does something
    merge_here(saved, directory, tmp_path)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert rewards_of(merged.eval()) == pytest.approx(rewards, abs=1e-5)
    assert merged.config.pad_token_id == AutoTokenizer.from_pretrained(tmp_path).pad_token_id
    assert merged.config.pad_token_id == byte_tokenizer().pad_token_id
    assert not list(tmp_path.glob("adapter*"))
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names == set(load_file(saved / "model.safetensors"))


@pytest.mark.parametrize("fault", ["no base", "no adapter", "other base", "cut adapter", "cut quantization"])
def test_what_cannot_be_merged_is_one_line(saved, adapter, tmp_path, capsys, fault):
    base, directory = saved, Path(shutil.copytree(adapter[0], tmp_path / "adapter"))
    if fault == "no base":
        base = tmp_path / "nowhere"
    elif fault == "no adapter":
        directory = saved
    elif fault == "other base":
        base = tmp_path / "wide"
        tiny_reward_model("llama", len(byte_tokenizer()), hidden_size=64).save_pretrained(base)
    elif fault == "cut quantization":
        (directory / "quantization.json").write_text('{"load_in_4bit": tr')
    else:
        weights = directory / "adapter_model.safetensors"
        os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(SystemExit) as stopped:
        merge_here(base, directory, tmp_path / "out")
    assert stopped.value.code == 2
    *_, last_line = capsys.readouterr().err.strip().splitlines()
    assert last_line.startswith("error: ") and "cannot be merged" in last_line
    assert not (tmp_path / "out").exists()
