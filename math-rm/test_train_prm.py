"""What a run of a process model reports and saves, through the real command."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from math_examples import LORA, command_line, config_of, losses_of, make_world, run_alone, run_here, solution, write
from math_record import held_out_numbers
from safetensors.torch import load_file
from train_prm import UNKNOWN, main
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from useful_code.render import read_template
from useful_code.step_prompt import tag_form, verdict_form
from useful_code.tiny import byte_tokenizer, save_tiny_judge
from useful_code.user_errors import exit_cleanly


def test_held_out_numbers_by_hand():
    """Six labels of three solutions of two problems, one of them 1/2 and so undecided. By sign: right, right, wrong;
    right; wrong: 3 of 5. Three are labelled as right (0.75 counts as such), of which two are found; of the two wrong
    ones, one. No solution has hard labels up to its first wrong step, so there is nothing to say of first errors."""
    rows = [
        {"prompt": "a", "targets": [1.0, 0.75, 0.0]},
        {"prompt": "a", "targets": [0.5, 0.0, UNKNOWN]},
        {"prompt": "b", "targets": [UNKNOWN, 1.0, UNKNOWN]},
    ]
    z = np.array([[2.0, 1.0, 1.0], [9.0, -1.0, 7.0], [3.0, -3.0, 5.0]])
    found = held_out_numbers(rows, z, of_steps=True)
    assert found["accuracy"] == pytest.approx(3 / 5) and found["labels"] == 6
    assert found["commoner_label"] == pytest.approx(3 / 5)
    assert found["accuracy_of_right"] == pytest.approx(2 / 3) and found["accuracy_of_wrong"] == pytest.approx(1 / 2)
    assert (found["solutions"], found["problems"]) == (3, 2)
    assert found["mean_label"] == pytest.approx((1 + 0.75 + 0 + 0.5 + 0 + 1) / 6)
    sigmoid = 1 / (1 + np.exp(-np.array([2.0, 1, 1, 9, -1, -3])))
    assert found["mean_probability"] == pytest.approx(sigmoid.mean())
    y, odds = np.array([1.0, 0.75, 0, 0.5, 0, 1]), np.array([2.0, 1, 1, 9, -1, -3])
    assert found["loss"] == pytest.approx(np.mean(y * np.log1p(np.exp(-odds)) + (1 - y) * np.log1p(np.exp(odds))))
    share = (1 + 0.75 + 0.5 + 1) / 6
    assert found["constant_loss"] == pytest.approx(-share * np.log(share) - (1 - share) * np.log(1 - share))
    assert "first_error" not in found


def test_first_errors_and_calibration_by_hand():
    """First errors: step 2 (from 0) of the first solution, missed, since its z = 1 says right; step 1 of the second,
    found; the third has a soft label in front. A perfect model of soft labels is calibrated: z = log 3 for 0.75."""
    rows = [
        {"prompt": "a", "targets": [1.0, 1.0, 0.0]},
        {"prompt": "a", "targets": [1.0, 0.0, UNKNOWN]},
        {"prompt": "b", "targets": [0.75, 0.0, UNKNOWN]},
    ]
    z = np.array([[2.0, 1.0, 1.0], [9.0, -1.0, 7.0], [3.0, -3.0, 5.0]])
    first = held_out_numbers(rows, z, of_steps=True)["first_error"]
    assert (first["num_wrong"], first["num_right"], first["accuracy_wrong"]) == (2, 0, 1 / 2)
    assert "first_error" not in held_out_numbers(rows, z, of_steps=False)
    soft = [{"prompt": str(i), "targets": [0.75, 0.25]} for i in range(3)]
    perfect = held_out_numbers(soft, np.array([[np.log(3), -np.log(3)]] * 3), of_steps=True)
    assert perfect["expected_calibration_error"] == pytest.approx(0, abs=1e-9) and perfect["accuracy"] == 1


# --- the real command ---


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("prm"))


@pytest.fixture(scope="module")
def trained(world):
    """What the user's command leaves; `finished.txt` beside it is what it printed."""
    finished = run_alone("train_prm.py", world, "run", "--score_before", "true", "--num_train_epochs", "8")
    assert finished.returncode == 0, finished.stderr[-3000:]
    (world / "run" / "finished.txt").write_text(finished.stdout)
    return world / "run"


def plain_log_odds(directory, form: str, prompt: str, steps: list[str]) -> list[float]:
    """Of every step, with nothing but Transformers and what config.json says."""
    tokenizer, config = byte_tokenizer(), config_of(directory)
    if form == "tags":
        assert config["id2label"] == {"0": "-", "1": "+"}
        model, columns = AutoModelForTokenClassification.from_pretrained(directory).eval(), [0, 1]
        ids, places = tag_form(tokenizer, config["step_separator"]).read(prompt, steps)
    else:
        reader = verdict_form(read_template(tokenizer))
        model, columns = AutoModelForCausalLM.from_pretrained(directory).eval(), list(reader.token_ids)
        ids, places = reader.read(prompt, steps)
    with torch.inference_mode():
        logits = model(torch.tensor([ids.tolist()])).logits[0, list(places)][:, columns]
    return (logits[:, 1] - logits[:, 0]).tolist()


def test_recipe_trains_saves_and_reloads(world, trained):
    """A plain language model that finds most mistakes; what was refused, reported and printed is there."""
    record = json.loads((trained / "run.json").read_text())
    before, after = record["held_out_before"], record["held_out"]
    assert after["accuracy"] > 0.9 > before["accuracy"] and after["loss"] < before["loss"]
    assert after["first_error"]["f1"] > 0.8 and after["accuracy"] > after["commoner_label"]
    assert record["reload_difference"] < 1e-4 and record["method"] == "process reward"
    refused = [json.loads(line)["reason"] for line in (trained / "refused_rows.jsonl").read_text().splitlines()]
    assert sorted(refused) == ["bad_step_label", "empty_content"]
    weights = AutoModelForCausalLM.from_pretrained(world / "model").state_dict()
    moved = AutoModelForCausalLM.from_pretrained(trained).state_dict()
    assert weights.keys() == moved.keys()
    assert all(not torch.equal(weights[name], value) for name, value in moved.items())
    config = config_of(trained)
    assert config["reward_of"] == "steps" and "step_separator" not in config
    right, wrong = plain_log_odds(trained, "verdicts", "Say 7", ["7!", "8."])
    assert right > 0 > wrong
    assert not list(trained.glob("*.bin")) and (trained / "report.html").stat().st_size > 10_000
    assert (trained / "README.md").read_text().startswith("---")
    printed = (trained / "finished.txt").read_text()
    assert "first-error F1" in printed and "best_of_n.py" in printed and "find_errors.py" in printed


@pytest.mark.parametrize(
    ("output", "flags"),
    [
        ("tags", ("--form", "tags", "--step_separator", "\n\n")),
        ("vocabulary", ("--softmax_over", "vocabulary", "--history", "labels", "--labels", "hard")),
        ("tokens", ("--max_tokens_per_batch", "600", "--train_last_layers", "1")),
        ("tags_lora", ("--form", "tags", *LORA)),
        ("verdicts_lora", LORA),
    ],
)
def test_every_form_ends_in_a_directory_that_plain_transformers_reads(world, monkeypatch, output, flags):
    """The merged directory of LoRA too: what the config must say, and steps that are told apart."""
    record = run_here(main, monkeypatch, world, output, *flags, "--num_train_epochs", "6")
    assert record["reload_difference"] < 1e-4
    form = "tags" if "tags" in flags else "verdicts"
    directory, config = world / output, config_of(world / output)
    assert config["reward_of"] == "steps"
    assert config.get("step_separator") == {"tags": "\n\n", "tags_lora": "\n"}.get(output)
    assert (directory / "adapter" / "adapter_model.safetensors").exists() == output.endswith("lora")
    right, wrong = plain_log_odds(directory, form, "Say 7", ["7!", "8."])
    assert right > wrong, record["held_out"]
    assert record["held_out"]["accuracy"] > 0.6
    if output.endswith("lora"):
        adapter = load_file(directory / "adapter" / "adapter_model.safetensors")
        assert any("score" in name for name in adapter) == (form == "tags"), "the head is trained beside the adapter"
        written = {path.name for path in directory.glob("*.safetensors")}
        assert written == {"model.safetensors"}
    if output == "tokens":
        before, after = (load_file(world / name / "model.safetensors") for name in ("model", output))
        still = {name for name in before if torch.equal(before[name], after[name])}
        assert {name.split(".")[2] for name in still if "layers" in name} == {"0"} and "lm_head.weight" not in still


@pytest.mark.parametrize("form", ["tags", "verdicts"])
def test_qlora_is_merged_into_what_the_quantized_weights_stand_for(tmp_path, world, monkeypatch, form):
    """On a CPU, by bitsandbytes. The head of tags is no quantized layer, and it is trained and saved with the rest."""
    sizes = {"hidden_size": 128, "intermediate_size": 128}  # blocks are of 64
    save_tiny_judge(tmp_path / "model", initializer_range=0.1, **sizes)
    flags = ("--form", form, "--use_peft", "true", "--load_in_4bit", "true", "--lora_target_modules", "q_proj")
    model = ("--model_name_or_path", str(tmp_path / "model"), "--score_before", "true")
    record = run_here(main, monkeypatch, world, f"qlora_{form}", *flags, *model)
    directory = world / f"qlora_{form}"
    assert record["held_out"]["loss"] < record["held_out_before"]["loss"]
    assert "quantization_config" not in config_of(directory) and config_of(directory)["reward_of"] == "steps"
    assert (directory / "adapter" / "quantization.json").exists(), "to merge it again by hand"
    original, merged = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", directory))
    name = "model.layers.0.mlp.up_proj.weight"
    assert merged[name].dtype == torch.float32 and len(merged[name][0, :64].unique()) <= 16
    assert (merged[name] - original[name]).abs().max() < 0.2 * original[name].abs().max()
    if form == "tags":
        assert merged["score.weight"].shape == (2, 128)
        adapter = load_file(directory / "adapter" / "adapter_model.safetensors")
        assert any("score" in key for key in adapter), "the head is trained beside the adapter"


@pytest.mark.parametrize("form", ["verdicts", "tags"])
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(world, monkeypatch, capsys, form):
    """Two steps, killed, two more: the losses and every weight, to the last bit. With other options it is refused."""
    steps = (
        "--form",
        form,
        "--max_steps",
        "4",
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
        "--logging_steps",
        "1",
    )
    whole, resumed = f"whole_{form}", f"resumed_{form}"
    run_here(main, monkeypatch, world, whole, *steps)
    shutil.copytree(world / whole / "checkpoint-2", world / resumed / "checkpoint-2")
    run_here(main, monkeypatch, world, resumed, *steps, "--resume_from_checkpoint", "true")
    first, second = (load_file(world / output / "model.safetensors") for output in (whole, resumed))
    assert losses_of(world / whole / "checkpoint-4") == losses_of(world / resumed / "checkpoint-4")
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = world / f"other_{form}"
    shutil.copytree(world / whole / "checkpoint-2", other / "checkpoint-2")
    changed = ("--held_out_share", "0.4", "--labels", "hard", "--resume_from_checkpoint", "true")
    with pytest.raises(SystemExit, match="2"):
        run_here(main, monkeypatch, world, other.name, *steps, *changed)
    assert "--held_out_share 0.3 (now 0.4), --labels soft (now hard)" in capsys.readouterr().err


def test_one_pass_of_eight_equals_two_of_four_accumulated(world, monkeypatch):
    """The same losses for batches with other numbers of steps: means are over the steps of an optimizer step. With
    4 x 2 the two halves of a batch have as many steps as chance gives them."""
    flags = ("--max_steps", "3", "--save_strategy", "steps", "--save_steps", "3", "--logging_steps", "1")
    run_here(main, monkeypatch, world, "eight", *flags)
    halves = ("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2")
    run_here(main, monkeypatch, world, "halves", *flags, *halves)
    one, two = (losses_of(world / output / "checkpoint-3") for output in ("eight", "halves"))
    assert two == pytest.approx(one, rel=1e-5) and len(one) == 3


def test_a_model_that_shares_no_prefixes_is_trained_with_padding(world, monkeypatch, tmp_path):
    save_tiny_judge(tmp_path / "model", "gemma2", "gemma")
    flags = ("--model_name_or_path", str(tmp_path / "model"), "--max_steps", "2")
    assert run_here(main, monkeypatch, world, "padded", *flags)["reload_difference"] < 1e-4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "missing.jsonl"], "no such file"),
        (["--model_name_or_path", "./nowhere"], "nowhere"),
        (["--max_length", "3"], "over_max_length"),
        (["--form", "tags", "--history", "labels"], "--form tags has none"),
        (["--form", "tags", "--step_separator", ""], "has no token for the separator"),
        (["--train_last_layers", "9"], "--train_last_layers"),
        (["--form", "scalar"], "--form"),
        (["--dataset", "outcomes.jsonl"], "not_labelled"),
        (["--dataset", "undecided.jsonl"], "no held-out step is labelled as right or wrong"),
    ],
)
def test_bad_input_is_one_line_and_status_2(world, monkeypatch, capsys, flags, message):
    write(world / "outcomes.jsonl", [solution(i, None, None, outcome=True) for i in range(9)])
    write(world / "undecided.jsonl", [solution(i, None, 0.5) for i in range(30)])
    monkeypatch.chdir(world)
    monkeypatch.setattr(sys, "argv", ["train_prm.py", *command_line(world, "bad"), *flags])
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(main)
    assert stopped.value.code == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last_line and message in last_line
