"""Loss by hand, properties of the loss, and a run of the real command. Travels with the folder when it is copied."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train_bradley_terry import (
    Arguments,
    bradley_terry_loss,
    davidson_loss,
    held_out_metrics,
    load_pairs,
    main,
    per_pair_loss,
    rao_kupper_loss,
)
from transformers import AutoModelForSequenceClassification, EvalPrediction

from useful_code.render import read_template
from useful_code.tiny import byte_tokenizer, save_tiny_model
from useful_code.user_errors import UserError, exit_cleanly

SCRIPT = Path(__file__).with_name("train_bradley_terry.py")
DELTAS = [1.0, -0.5, 0.0]
ZEROS = [0.0, 0.0, 0.0]
ONE = torch.ones(1)
finite = st.floats(-50, 50)


def losses_of(chosen, rejected, *, label=1.0, row_margin=0.0, tie=False, **method) -> torch.Tensor:
    """What the recipe computes for pairs of rewards, through the function that ships."""
    chosen, rejected = torch.tensor(chosen), torch.tensor(rejected)
    batch = {
        "label": torch.full_like(chosen, label),
        "margin": torch.full_like(chosen, row_margin),
        "tie": torch.full_like(chosen, tie, dtype=torch.bool),
    }
    return per_pair_loss(chosen, rejected, batch, Arguments(dataset="-", **method))


# --- by hand (METHODS A.1 and A.2) ---


def test_loss_matches_hand_worked_pairs():
    """softplus(-1) = 0.31326169, softplus(0.5) = 0.97407698, softplus(0) = ln 2; their mean is 0.66016195."""
    losses = losses_of(DELTAS, ZEROS)
    torch.testing.assert_close(losses, torch.tensor([0.31326169, 0.97407698, 0.69314718]))
    assert losses.mean().item() == pytest.approx(0.66016195)


def test_margin_matches_hand_worked_mean():
    """softplus(-(delta - 0.5)): (softplus(-0.5) + softplus(1) + softplus(0.5)) / 3 = 0.92047189."""
    assert losses_of(DELTAS, ZEROS, row_margin=0.5, margin="subtract").mean().item() == pytest.approx(0.92047189)


def test_scaled_margin_multiplies_the_loss():
    """3 * 0.66016195 = 1.98048585."""
    assert losses_of(DELTAS, ZEROS, row_margin=3.0, margin="scale").mean().item() == pytest.approx(1.98048585)


def test_a_margin_in_the_row_is_ignored_unless_asked_for():
    assert torch.equal(losses_of(DELTAS, ZEROS, row_margin=3.0), losses_of(DELTAS, ZEROS))


def test_label_smoothing_matches_hand_worked_mean():
    """Mean loss 0.66016195 + 0.1 * mean delta (1/6) = 0.67682862, because loss(-d) - loss(d) = d."""
    assert losses_of(DELTAS, ZEROS, label_smoothing=0.1).mean().item() == pytest.approx(0.67682862)


def test_centring_matches_hand_worked_mean():
    """(r_c + r_r)^2 = 4, 0.81, 4: mean 2.93666667; 0.66016195 + 0.01 * 2.93666667 = 0.68952862."""
    losses = losses_of([1.5, 0.2, -1.0], [0.5, 0.7, -1.0], center_rewards_coefficient=0.01)
    assert losses.mean().item() == pytest.approx(0.68952862)


def test_tie_laws_match_hand_worked_probabilities():
    """Delta 0.7. Rao-Kupper, theta 1.5 (tie share 0.2): .57310599 and tie .17817672. Davidson, nu 0.8 (tie share
    0.8 / 2.8): .48535778 and tie .27362068."""
    delta = torch.tensor([0.7])
    for law, share, win, tie in (
        (rao_kupper_loss, 0.2, 0.57310599, 0.17817672),
        (davidson_loss, 0.8 / 2.8, 0.48535778, 0.27362068),
    ):
        assert math.exp(-law(delta, ONE, torch.tensor([False]), share)) == pytest.approx(win, rel=1e-6)
        assert math.exp(-law(delta, ONE, torch.tensor([True]), share)) == pytest.approx(tie, rel=1e-6)


# --- properties (METHODS 1.9) ---


def test_equal_rewards_give_log_two_and_half_a_gradient():
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    loss = bradley_terry_loss(chosen - rejected, ONE).mean()
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert (chosen.grad.item(), rejected.grad.item()) == (-0.5, 0.5)


@given(finite, finite, finite)
def test_a_constant_added_to_both_rewards_changes_nothing(chosen, rejected, constant):
    before = losses_of([chosen], [rejected])
    after = losses_of([chosen + constant], [rejected + constant])
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-5)


@given(finite)
def test_swapping_the_sides_adds_the_margin_to_the_loss(delta):
    """loss(-d) - loss(d) = d."""
    torch.testing.assert_close(
        losses_of([0.0], [delta]) - losses_of([delta], [0.0]), torch.tensor([delta]), atol=1e-4, rtol=1e-5
    )


@given(finite, st.floats(0, 1))
def test_a_soft_label_is_the_mixture_of_both_labels(delta, label):
    expected = label * losses_of([delta], [0.0]) + (1 - label) * losses_of([0.0], [delta])
    torch.testing.assert_close(losses_of([delta], [0.0], label=label), expected, atol=1e-4, rtol=1e-5)


def test_huge_margins_stay_finite():
    torch.testing.assert_close(losses_of([1e4, -1e4], [0.0, 0.0]), torch.tensor([0.0, 1e4]))


def test_rewards_in_bfloat16_lose_nothing_in_the_loss():
    chosen, rejected = torch.tensor([1.0]).bfloat16(), torch.tensor([0.75]).bfloat16()
    batch = {"label": ONE, "margin": torch.zeros(1), "tie": torch.zeros(1, dtype=torch.bool)}
    loss = per_pair_loss(chosen, rejected, batch, Arguments(dataset="-"))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.25)), rel=1e-6)


@pytest.mark.parametrize("law", [rao_kupper_loss, davidson_loss])
@given(delta=st.floats(-20, 20), tie_share=st.floats(0.01, 0.95))
def test_tie_laws_are_symmetric_and_sum_to_one(law, delta, tie_share):
    def probability(value: float, tie: bool) -> float:
        return math.exp(-law(torch.tensor([value], dtype=torch.float64), ONE, torch.tensor([tie]), tie_share))

    tie = probability(delta, True)
    assert probability(delta, False) + probability(-delta, False) + tie == pytest.approx(1.0)
    assert probability(-delta, True) == pytest.approx(tie)
    assert probability(0.0, True) == pytest.approx(tie_share)


@pytest.mark.parametrize("law", [rao_kupper_loss, davidson_loss])
@given(delta=finite)
def test_tie_laws_without_ties_are_bradley_terry(law, delta):
    delta = torch.tensor([delta])
    torch.testing.assert_close(law(delta, ONE, torch.tensor([False]), 0.0), bradley_terry_loss(delta, ONE))


@pytest.mark.parametrize("law", [rao_kupper_loss, davidson_loss])
@given(delta=finite, label=st.floats(0, 1))
def test_tie_laws_follow_the_label_of_a_decided_pair(law, delta, label):
    """A label of 0 is a win of the other side; what lies between is the mixture of both."""

    def loss(value: float, label: float) -> torch.Tensor:
        return law(torch.tensor([value]), torch.tensor([label]), torch.tensor([False]), 0.3)

    torch.testing.assert_close(loss(delta, 0.0), loss(-delta, 1.0))
    expected = label * loss(delta, 1.0) + (1 - label) * loss(-delta, 1.0)
    torch.testing.assert_close(loss(delta, label), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("law", [rao_kupper_loss, davidson_loss])
def test_a_tie_pulls_equal_rewards_nowhere(law):
    delta = torch.zeros(1, requires_grad=True)
    law(delta, ONE, torch.tensor([True]), 0.3).backward()
    assert delta.grad.item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("law", [rao_kupper_loss, davidson_loss])
def test_gradients_are_finite_when_no_ties_are_expected(law):
    """With a tie share of 0 the tie branch is log 0; it must not reach the gradient of decided pairs."""
    delta = torch.tensor([0.3], requires_grad=True)
    law(delta, ONE, torch.tensor([False]), 0.0).backward()
    assert delta.grad.item() == pytest.approx(-1 / (1 + math.exp(0.3)))


def test_accuracy_counts_equal_rewards_as_wrong_and_leaves_ties_out():
    """Four pairs: right, wrong, equal, and an annotated tie that does not count: 1 of 3."""
    rewards = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [5.0, 0.0]])
    metrics = held_out_metrics(EvalPrediction(predictions=rewards, label_ids=np.array([1.0, 1.0, 1.0, 0.5])))
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["equal_rewards"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "bad",
    [
        {"label_smoothing": 0.5},
        {"held_out_share": 0.0},
        {"center_rewards_coefficient": -1.0},
        {"tie_share": 1.0},
        {"ties": "davidson", "margin": "subtract"},
        {"ties": "rao_kupper", "label_smoothing": 0.1},
    ],
)
def test_arguments_that_cannot_work_are_refused(bad):
    with pytest.raises(UserError):
        Arguments(dataset="-", **bad)


# --- the real command ---


def chat(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny model and 120 pairs that a tiny model can separate: the shouted answer wins."""
    folder = tmp_path_factory.mktemp("bradley_terry")
    save_tiny_model(folder / "model", "llama", "chatml")
    rows = [{"chosen": chat(f"Say {i}", f"{i}!!!"), "rejected": chat(f"Say {i}", f"{i}...")} for i in range(120)]
    rows.append({"chosen": chat("Say", "a"), "rejected": chat("Say", " a ")})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def command_line(folder: Path, output: str) -> list[str]:
    arguments = {
        "--model_name_or_path": folder / "model",
        "--dataset": folder / "pairs.jsonl",
        "--output_dir": folder / output,
        "--held_out_share": "0.2",
        "--per_device_train_batch_size": "8",
        "--gradient_accumulation_steps": "1",
        "--learning_rate": "1e-2",
        "--num_train_epochs": "3",
        "--save_strategy": "no",
    }
    return [str(part) for pair in arguments.items() for part in pair]


def run(folder: Path, output: str, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *command_line(folder, output), *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def run_here(monkeypatch, folder: Path, output: str, *flags: str) -> None:
    """The same in this process, where starting Python again would only cost time."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command_line(folder, output), *flags])
    main()


def test_recipe_trains_saves_and_reloads(world):
    """Accuracy reaches 1.0 on separable held-out pairs, weights move, and plain Transformers reads the result."""
    finished = run(world, "run")
    assert finished.returncode == 0, finished.stderr[-3000:]
    record = json.loads((world / "run" / "run.json").read_text())
    assert record["held_out"]["accuracy"] == 1.0
    assert record["reload_difference"] <= 1e-4
    refused = (world / "run" / "refused_rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in refused] == ["equal_responses"]
    before = AutoModelForSequenceClassification.from_pretrained(world / "model").state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(world / "run").state_dict()
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert not list((world / "run").glob("*.bin"))
    assert (world / "run" / "report.html").stat().st_size > 10_000
    assert (world / "run" / "README.md").read_text().startswith("---")


def test_lora_ends_in_a_plain_classifier_and_keeps_its_adapter(world, monkeypatch):
    run_here(monkeypatch, world, "lora", "--use_peft", "true", "--lora_target_modules", "all-linear")
    record = json.loads((world / "lora" / "run.json").read_text())
    assert record["held_out"]["accuracy"] == 1.0
    assert (world / "lora" / "adapter" / "adapter_model.safetensors").exists()
    before = AutoModelForSequenceClassification.from_pretrained(world / "model").state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(world / "lora").state_dict()
    assert before.keys() == after.keys()
    assert not torch.equal(before["score.weight"], after["score.weight"])


@pytest.mark.parametrize("bits", ["4", "8"])
def test_qlora_is_merged_into_what_the_quantized_weights_stand_for(tmp_path, world, monkeypatch, bits):
    """On a CPU, by bitsandbytes. Weights that LoRA leaves alone are those of 4 or 8 bits, not the originals."""
    save_tiny_model(tmp_path / "model", "llama", "chatml", hidden_size=128, intermediate_size=128)  # blocks are of 64
    flags = ("--use_peft", "true", f"--load_in_{bits}bit", "true", "--lora_target_modules", "q_proj")
    run_here(monkeypatch, world, f"qlora{bits}", *flags, "--model_name_or_path", str(tmp_path / "model"))
    record = json.loads((world / f"qlora{bits}" / "run.json").read_text())
    assert record["held_out"]["accuracy"] == 1.0
    original = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").state_dict()
    merged = AutoModelForSequenceClassification.from_pretrained(world / f"qlora{bits}")
    assert not hasattr(merged.config, "quantization_config")
    assert (world / f"qlora{bits}" / "adapter" / "quantization.json").exists(), "to merge it again by hand"
    name = "model.layers.0.mlp.up_proj.weight"
    weight, base = merged.state_dict()[name], original[name]
    assert weight.dtype == torch.float32
    num_values = len(weight[0, :64].unique())  # of one block
    assert num_values <= 16 if bits == "4" else not torch.equal(weight, base)
    assert (weight - base).abs().max() < 0.2 * base.abs().max()


def test_a_label_below_one_half_turns_the_pair(world):
    """Rows that say "rejected is better" train and are judged like the same rows the other way round."""
    lines = [json.loads(line) for line in (world / "pairs.jsonl").read_text().splitlines()[:40]]
    turned = [{"chosen": row["rejected"], "rejected": row["chosen"], "label": 0.1} for row in lines]
    straight = [row | {"label": 0.9} for row in lines]
    found = []
    for name, rows in (("turned", turned), ("straight", straight)):
        (world / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        template = read_template(byte_tokenizer("chatml"))
        pairs, _ = load_pairs(str(world / f"{name}.jsonl"), None, template, Arguments(dataset="-"), None)
        found.append([(pair["chosen"], pair["ids"], round(pair["label"], 6)) for pair in pairs])
    assert found[0] == found[1]


def test_a_second_run_does_not_mix_with_the_first(world):
    (world / "taken" / "checkpoint-3").mkdir(parents=True)
    finished = run(world, "taken")
    assert finished.returncode == 2
    assert "--resume_from_checkpoint true" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "missing.jsonl"], "no such file"),
        (["--model_name_or_path", "./nowhere"], "nowhere"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--max_length", "3"], "over_max_length"),
        (["--margin", "subtract"], "no_margin"),
        (["--held_out_share", "0.0001"], "--held_out_share"),
        (["--train_last_layers", "9"], "--train_last_layers"),
        (["--train_last_layers", "1", "--use_peft", "true"], "exclude each other"),
        (["--load_in_4bit", "true"], "--use_peft true"),
        (["--label_smoothing_factor", "0.1"], "--label_smoothing_factor"),
        (["--average_tokens_across_devices", "false"], "--average_tokens_across_devices"),
        (["--attn_implementation", "nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_line_and_status_2(world, monkeypatch, capsys, flags, message):
    """In this process, to save the start-up; `test_a_second_run_does_not_mix_with_the_first` starts a real one."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command_line(world, "bad"), *flags])
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(main)
    assert stopped.value.code == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("error: ") and message in last_line
