"""Outcome models: the loss by hand, one number for a whole solution, and runs of the real command."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_examples import (
    LORA,
    command_line,
    config_of,
    gradients_of,
    losses_of,
    make_world,
    run_alone,
    run_here,
    solution,
    write,
)
from train_orm import (
    Arguments,
    OutcomeTrainer,
    TrainArguments,
    collate_solutions,
    held_out_metrics,
    load_solutions,
    main,
    outcome_losses,
    outcome_of,
)
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, EvalPrediction

from useful_code.reasons import RowRefused
from useful_code.render import read_template, render
from useful_code.reward_model import load_reward_model
from useful_code.step_prompt import verdict_form
from useful_code.tiny import byte_tokenizer, save_tiny_judge, save_tiny_model
from useful_code.user_errors import exit_cleanly
from useful_code.verdict_model import load_verdict_model

TEMPLATE = read_template(byte_tokenizer())
READERS = {"verdicts": verdict_form(TEMPLATE), "scalar": TEMPLATE}
ROWS = [
    solution(1, True, outcome=True),
    solution(22, True, False, None, outcome=False),
    solution(3, None, outcome=True),
]


def loaded(folder, rows, form, **method):
    """The rows as the recipe loads them, through the function that ships; and what was refused."""
    path = write(folder / "rows.jsonl", rows)
    return load_solutions(str(path), None, READERS[form], Arguments(dataset="-", form=form, **method), None)


# --- by hand ---


def test_outcome_losses_by_hand():
    """softplus(-1.5) = 0.20141328 where the answer is right, softplus(1.5) = 1.70141328 where it is wrong, at a quarter
    0.25 of one and 0.75 of the other: 1.32641328."""
    losses = outcome_losses(torch.full((3,), 1.5), torch.tensor([1.0, 0.0, 0.25]))
    torch.testing.assert_close(losses, torch.tensor([0.20141328, 1.70141328, 1.32641328]))


@given(st.floats(-1000, 1000), st.floats(0, 1))
def test_the_loss_is_that_of_torch(z, outcome):
    z, outcome = torch.tensor([z]), torch.tensor([outcome])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(z, outcome)
    torch.testing.assert_close(outcome_losses(z, outcome)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("z", [-200.0, 200.0])
def test_confident_errors_keep_their_gradient_in_bfloat16(z):
    """Fault 7 of METHODS 7.8: log(sigmoid(z) + 1e-10) was flat there."""
    z = torch.tensor([z], dtype=torch.bfloat16, requires_grad=True)
    loss = outcome_losses(z, (z < 0).float())
    loss.sum().backward()
    assert loss.item() == pytest.approx(200) and z.grad.item() == pytest.approx(math.copysign(1, z.item()))


def test_the_last_label_is_the_outcome_only_where_asked_for():
    assert outcome_of({"outcome": False, "labels": [1.0]}, True) == 0.0
    assert outcome_of({"labels": [1.0, 0.25]}, True) == 0.25
    for labels, asked in (([1.0], False), ([1.0, None], True)):
        with pytest.raises(RowRefused, match="outcome_from_last_label"):
            outcome_of({"labels": labels}, asked)


def test_held_out_metrics_by_hand():
    """Right, right, wrong at exactly 0, wrong; the outcome of 1/2 counts for neither side."""
    z, outcomes = np.array([[2.0], [-1.0], [0.0], [3.0], [9.0]]), np.array([[1.0], [0.0], [1.0], [0.0], [0.5]])
    assert held_out_metrics(EvalPrediction(predictions=z, label_ids=outcomes)) == {"accuracy": 0.5}


# --- data and the trainer's loss ---


def test_a_whole_solution_is_one_turn_with_one_place(tmp_path):
    """Steps are lines; the verdict is asked for where the template's own prompt ends, the scalar read at the end."""
    (row,), _ = loaded(tmp_path, [solution(10, True, False, outcome=False)], "verdicts")
    asked = [{"role": "user", "content": "Say 10 10!\n11."}]
    assert row["ids"].tolist() == render(TEMPLATE, asked, add_generation_prompt=True) and row["targets"] == [0.0]
    assert row["places"] == (len(row["ids"]) - 1,)
    (row,), _ = loaded(tmp_path, [solution(10, True, False, outcome=False)], "scalar")
    chat = [{"role": "user", "content": "Say 10"}, {"role": "assistant", "content": "10!\n11."}]
    assert row["ids"].tolist() == render(TEMPLATE, chat) and row["places"] == (len(row["ids"]) - 1,)


def test_ten_steps_are_all_read(tmp_path):
    """Fault 6 of METHODS 7.8: cut at "Step 1" they lost their tail, and a text without it had no rest at all."""
    steps = [f"Step {k}: {k}" for k in range(1, 12)]
    row = {"prompt": "Count", "completions": steps, "labels": [True] * 11, "outcome": True}
    for form in READERS:
        (found,), _ = loaded(tmp_path, [row], form)
        assert "\n".join(steps) in byte_tokenizer().decode(found["ids"])


@pytest.mark.parametrize("form", READERS)
def test_rows_without_an_outcome_are_refused_and_counted(tmp_path, form):
    rows = [*ROWS, solution(4, True, False), solution(5, *[True] * 99, outcome=True)]
    solutions, counts = loaded(tmp_path, rows, form, max_length=200)
    assert len(solutions) == 3 and counts.refused == {"no_outcome": 1, "over_max_length": 1}
    solutions, counts = loaded(tmp_path, rows, form, outcome_from_last_label=True)
    assert [row["targets"] for row in solutions] == [[1.0], [0.0], [1.0], [0.0], [1.0]] and not counts.refused


def trainer_of(folder, form: str) -> OutcomeTrainer:
    save, load = {"verdicts": (save_tiny_judge, load_verdict_model), "scalar": (save_tiny_model, load_reward_model)}[
        form
    ]
    save(folder / "model", initializer_range=0.3)
    return OutcomeTrainer(
        method=Arguments(dataset="-", form=form),
        token_ids=READERS["verdicts"].token_ids if form == "verdicts" else None,
        model=load(str(folder / "model")),
        args=TrainArguments(output_dir=str(folder / "out")),
    )


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("form", READERS)
def test_the_loss_of_a_batch_is_that_of_plain_forward_passes(tmp_path, form, packed):
    """The mean over solutions; the gradients are those of each alone, accumulated over the same count."""
    rows, _ = loaded(tmp_path, ROWS, form)
    trainer = trainer_of(tmp_path, form)
    loader = AutoModelForCausalLM if form == "verdicts" else AutoModelForSequenceClassification
    plain = loader.from_pretrained(tmp_path / "model").eval()
    expected = []
    for row in rows:
        logits = plain(torch.tensor([row["ids"].tolist()])).logits
        minus, plus = READERS["verdicts"].token_ids
        z = logits[0, 0] if form == "scalar" else logits[0, -1, plus] - logits[0, -1, minus]
        expected.append(torch.nn.functional.softplus(-z if row["targets"] == [1.0] else z))
    pad_token_id, at_places = None if packed else 0, form == "verdicts"
    batch = collate_solutions(rows, pad_token_id, at_places)
    number = trainer._get_num_items_in_batch([batch], "cpu")
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True, num_items_in_batch=number)
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)
    assert number == 3 and outputs["log_odds"].shape == (3, 1)
    loss.backward()
    at_once = gradients_of(trainer.model)
    trainer.model.zero_grad()
    for row in rows:
        one = collate_solutions([row], pad_token_id, at_places)
        trainer.compute_loss(trainer.model, one, num_items_in_batch=number).backward()
    for name, gradient in gradients_of(trainer.model).items():
        torch.testing.assert_close(gradient, at_once[name], rtol=1e-3, atol=1e-6)


# --- the real command ---


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("orm"))


def plain_log_odds(directory, form: str, prompt: str, *steps: str) -> float:
    """With nothing but Transformers."""
    answer = "\n".join(steps)
    with torch.inference_mode():
        if form == "scalar":
            model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
            chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            return model(torch.tensor([render(TEMPLATE, chat)])).logits.item()
        model = AutoModelForCausalLM.from_pretrained(directory).eval()
        asked = render(TEMPLATE, [{"role": "user", "content": f"{prompt} {answer}"}], add_generation_prompt=True)
        minus, plus = model(torch.tensor([asked])).logits[0, -1, list(READERS["verdicts"].token_ids)]
        return (plus - minus).item()


def test_recipe_trains_saves_and_reloads(world):
    """A plain language model that knows right answers; the config says that it judges outcomes."""
    finished = run_alone("train_orm.py", world, "run", "--score_before", "true", "--num_train_epochs", "12")
    assert finished.returncode == 0, finished.stderr[-3000:]
    record = json.loads((world / "run" / "run.json").read_text())
    before, after = record["held_out_before"], record["held_out"]
    assert after["accuracy"] > max(0.8, before["accuracy"], after["commoner_label"]) and "first_error" not in after
    assert record["reload_difference"] < 1e-4 and record["method"] == "outcome reward"
    refused = [json.loads(line)["reason"] for line in (world / "run" / "refused_rows.jsonl").read_text().splitlines()]
    assert sorted(refused) == ["bad_step_label", "empty_content"]
    weights = AutoModelForCausalLM.from_pretrained(world / "model").state_dict()
    moved = AutoModelForCausalLM.from_pretrained(world / "run").state_dict()
    assert weights.keys() == moved.keys()
    assert all(not torch.equal(weights[name], value) for name, value in moved.items())
    assert config_of(world / "run")["reward_of"] == "outcome"
    assert plain_log_odds(world / "run", "verdicts", "Say 7", "7!") > 0
    assert plain_log_odds(world / "run", "verdicts", "Say 7", "7!", "8.") < 0
    assert not list((world / "run").glob("*.bin")) and (world / "run" / "report.html").stat().st_size > 10_000
    assert (world / "run" / "README.md").read_text().startswith("---")
    assert "best_of_n.py" in finished.stdout and "find_errors.py" not in finished.stdout


@pytest.mark.parametrize(
    ("output", "flags"),
    [
        ("scalar", ("--form", "scalar", "--max_tokens_per_batch", "500")),
        ("scalar_lora", ("--form", "scalar", *LORA)),
        ("verdicts_lora", LORA),
    ],
)
def test_every_form_ends_in_a_directory_that_plain_transformers_reads(world, monkeypatch, output, flags):
    record = run_here(main, monkeypatch, world, output, *flags, "--num_train_epochs", "12")
    assert record["reload_difference"] < 1e-4
    form, directory = output.split("_")[0], world / output
    assert (directory / "adapter" / "adapter_model.safetensors").exists() == output.endswith("lora")
    assert config_of(directory).get("reward_of") == ("outcome" if form == "verdicts" else None)
    right, wrong = (plain_log_odds(directory, form, "Say 7", step) for step in ("7!", "7."))
    assert right > wrong and record["held_out"]["accuracy"] > 0.6


def test_one_pass_of_eight_equals_two_of_four_accumulated(world, monkeypatch):
    flags = ("--max_steps", "3", "--save_strategy", "steps", "--save_steps", "3", "--logging_steps", "1")
    run_here(main, monkeypatch, world, "eight", *flags)
    halves = ("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2")
    run_here(main, monkeypatch, world, "halves", *flags, *halves)
    one, two = (losses_of(world / output / "checkpoint-3") for output in ("eight", "halves"))
    assert two == pytest.approx(one, rel=1e-5) and len(one) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "missing.jsonl"], "no such file"),
        (["--max_length", "3"], "over_max_length"),
        (["--form", "tags"], "--form"),
        (["--dataset", "no_outcome.jsonl"], "no_outcome"),
        (["--dataset", "undecided.jsonl", "--outcome_from_last_label", "true"], "no held-out solution is labelled"),
    ],
)
def test_bad_input_is_one_line_and_status_2(world, monkeypatch, capsys, flags, message):
    write(world / "no_outcome.jsonl", [solution(i, True) for i in range(9)])
    write(world / "undecided.jsonl", [solution(i, True, 0.5) for i in range(30)])
    monkeypatch.chdir(world)
    monkeypatch.setattr(sys, "argv", ["train_orm.py", *command_line(world, "bad"), *flags])
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(main)
    assert stopped.value.code == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last_line and message in last_line
