"""Loss by hand, sides that say nothing, and a run of the real command. Travels with the folder when it is copied."""

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
from train_pair_pm import (
    Arguments,
    PairTrainer,
    TrainArguments,
    collate_pairs,
    held_out_metrics,
    load_pairs,
    main,
    targets_of,
    to_train_on,
    verdict_loss,
)
from transformers import AutoModelForCausalLM, EvalPrediction

from useful_code.pair_prompt import pair_text, read_verdicts
from useful_code.render import read_template, render
from useful_code.tiny import byte_tokenizer, save_tiny_judge
from useful_code.user_errors import UserError, exit_cleanly
from useful_code.verdict_model import load_verdict_model

SCRIPT = Path(__file__).with_name("train_pair_pm.py")
LABELS = ("A", "B", "C")


def chat(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def row(number: int, better: str = "!!!", worse: str = "...", **columns) -> dict:
    sides = {"chosen": better, "rejected": worse}
    return {side: chat(f"Say {number}", f"{number}{mark}") for side, mark in sides.items()} | columns


def loaded(folder: Path, rows: list[dict], labels=LABELS, **method):
    """The rows as the recipe loads them, through the function that ships."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    template = read_template(byte_tokenizer())
    arguments = Arguments(dataset="-", **method)
    return load_pairs(str(folder / "rows.jsonl"), None, template, read_verdicts(template, labels), arguments, None)


# --- by hand (METHODS 2.4) ---


def test_the_loss_of_the_labels_is_bradley_terry_of_their_logits():
    """l_A - l_B = 1.5: softplus(-1.5) = 0.20141328 where A is right, softplus(1.5) = 1.70141328 where B is."""
    logits = torch.tensor([[2.0, 0.5], [2.0, 0.5]])
    losses = verdict_loss(logits, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(losses, torch.tensor([0.20141328, 1.70141328]))


def test_over_the_vocabulary_every_token_competes():
    """Four tokens of logits log 1, 2, 3, 4: the label with 3 of 10 costs log(10 / 3)."""
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log()
    assert verdict_loss(logits, torch.tensor([[1.0, 0.0]]), (2, 0)).item() == pytest.approx(math.log(10 / 3))
    soft = verdict_loss(logits, torch.tensor([[0.75, 0.25]]), (2, 0)).item()
    assert soft == pytest.approx(0.75 * math.log(10 / 3) + 0.25 * math.log(10))


@given(st.lists(st.floats(-1000, 1000), min_size=3, max_size=3), st.floats(0, 1))
def test_the_loss_is_the_cross_entropy_of_torch_and_finite(logits, share):
    logits = torch.tensor([logits])
    target = torch.tensor([[share, 1 - share, 0.0]])
    torch.testing.assert_close(verdict_loss(logits, target), torch.nn.functional.cross_entropy(logits, target)[None])


@pytest.mark.parametrize(
    ("pair", "method", "expected"),
    [
        ({"label": 1.0, "tie": False}, {}, [1, 0, 0]),
        ({"label": 0.8, "tie": False}, {}, [0.8, 0.2, 0]),
        ({"label": 1.0, "tie": False}, {"label_smoothing": 0.1}, [0.9, 0.1, 0]),
        ({"label": 0.5, "tie": True}, {"ties": "soft"}, [0.5, 0.5, 0]),
        ({"label": 0.5, "tie": True}, {"ties": "label", "tie_label": "C", "label_smoothing": 0.1}, [0, 0, 1]),
    ],
)
def test_targets_by_hand(pair, method, expected):
    assert targets_of(pair, 3, Arguments(dataset="-", **method)) == pytest.approx(expected)
    assert targets_of(pair, 2, Arguments(dataset="-", **method)) == pytest.approx(expected[:2]) or pair["tie"]


# --- data ---


def test_both_orders_differ_in_their_slots_and_targets_only(tmp_path):
    (pair,), _ = loaded(tmp_path, [row(7, label=0.8)])
    template = read_template(byte_tokenizer())
    question = pair["chosen"][:-1]
    for ids, answers in zip(pair["ids"], (("7!!!", "7..."), ("7...", "7!!!")), strict=True):
        message = {"role": "user", "content": pair_text(question, *answers)}
        assert ids.tolist() == render(template, [message], add_generation_prompt=True)
    assert pair["targets"] == [pytest.approx([0.8, 0.2, 0]), pytest.approx([0.2, 0.8, 0])]


def test_the_drawn_side_says_nothing_of_the_label(tmp_path):
    """METHODS 2.9, check 2: exchanging the columns flips the label and nothing else; over 2,000 pairs A is preferred in
    half of them (standard error 0.011); another seed draws others."""
    rows = [row(number) for number in range(2000)]
    turned = [{"chosen": each["rejected"], "rejected": each["chosen"]} for each in rows]
    (straight, _), (other, _) = loaded(tmp_path, rows, ("A", "B")), loaded(tmp_path, turned, ("A", "B"))
    drawn = [[to_train_on(pair, "drawn", seed) for pair in straight] for seed in (0, 1)]
    for one, flipped in zip(drawn[0], (to_train_on(pair, "drawn", 0) for pair in other), strict=True):
        assert one["ids"] == flipped["ids"] and one["targets"][0] == flipped["targets"][0][::-1]
    assert drawn[0][0].keys() == {"label", "ids", "targets"}  # the texts would stay in memory for nothing
    shares = [np.mean([pair["targets"][0][0] for pair in pairs]) for pairs in drawn]
    assert all(abs(share - 0.5) < 3 * 0.0112 for share in shares)
    same = np.mean([one["ids"] == two["ids"] for one, two in zip(*drawn, strict=True)])
    assert abs(same - 0.5) < 3 * 0.0112


def test_ties_are_dropped_softened_or_labelled(tmp_path):
    rows = [row(1), row(2, tie=True), row(3, label=0.1)]
    pairs, counts = loaded(tmp_path, rows)
    assert len(pairs) == 2 and counts.refused == {"tie": 1}
    assert pairs[1]["chosen"][-1]["content"] == "3..." and pairs[1]["targets"][0][0] == pytest.approx(0.9)
    assert loaded(tmp_path, rows, ties="soft")[0][1]["targets"] == [[0.5, 0.5, 0.0]] * 2
    assert loaded(tmp_path, rows, ties="label", tie_label="C")[0][1]["targets"] == [[0.0, 0.0, 1.0]] * 2


def test_a_text_with_the_marks_stays_in_its_slot(tmp_path):
    (pair,), _ = loaded(tmp_path, [row(1, better="a [RESPONSE B] b", worse="c")])
    text = byte_tokenizer().decode(pair["ids"][0])
    assert text.count("[RESPONSE B]") == 1 and "1a [\\RESPONSE B] b [RESPONSE B] 1c" in text


def test_held_out_metrics_by_hand():
    """Three pairs. Log-odds for `chosen` in both orders: (2, 1), right; (1, -3), wrong together and a flip; (0, 0), a
    draw that counts one half. The fourth is a tie and counts only in the bias."""
    odds = np.array([[2.0, 1.0], [1.0, -3.0], [0.0, 0.0], [5.0, 5.0]])
    logits = np.stack([np.stack([odds[:, 0], 0 * odds[:, 0]], -1), np.stack([-odds[:, 1], 0 * odds[:, 1]], -1)], axis=1)
    found = held_out_metrics(EvalPrediction(predictions=logits, label_ids=np.array([1.0, 1.0, 1.0, 0.5])))
    assert found["accuracy"] == pytest.approx(1.5 / 3) and found["flip_rate"] == pytest.approx(1 / 4)


@pytest.mark.parametrize("bad", [{"label_smoothing": 0.5}, {"ties": "label"}, {"held_out_share": 1.0}])
def test_arguments_that_cannot_work_are_refused(bad):
    with pytest.raises(UserError):
        Arguments(dataset="-", **bad)


# --- the trainer's loss ---


@pytest.mark.parametrize("softmax_over", ["vocabulary", "labels"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_of_a_batch_is_that_of_plain_forward_passes(tmp_path, softmax_over, packed):
    """METHODS 2.9, checks 6 and 8: the mean over pairs of the cross-entropy at the verdict, and nothing else."""
    save_tiny_judge(tmp_path / "model")
    pairs, _ = loaded(tmp_path, [row(1), row(22, worse=" and some more"), row(3)], ("A", "B"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    verdicts = read_verdicts(read_template(byte_tokenizer()), ("A", "B"))
    expected = []
    for pair in pairs:
        for ids, targets in zip(pair["ids"], pair["targets"], strict=True):
            logits = plain(input_ids=torch.tensor([ids.tolist()])).logits[0, -1]
            if softmax_over == "labels":
                logits = logits[list(verdicts.token_ids)]
                expected.append(-logits.log_softmax(-1)[targets.index(1.0)])
            else:
                expected.append(-logits.log_softmax(-1)[verdicts.token_ids[targets.index(1.0)]])
    model = load_verdict_model(str(tmp_path / "model"))
    trainer = PairTrainer(
        method=Arguments(dataset="-", softmax_over=softmax_over),
        verdicts=verdicts,
        model=model,
        args=TrainArguments(output_dir=str(tmp_path / "out")),
    )
    batch = collate_pairs(pairs, None if packed else 0)
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True, num_items_in_batch=torch.tensor(3))
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)
    assert outputs["logits"].shape == (3, 2, 2)
    counted = [trainer._get_num_items_in_batch([collate_pairs(some, None)] * 2, "cpu") for some in (pairs, pairs[:1])]
    assert counted == [6, 2], "the Trainer counts pairs, two batches of three and of one"


# --- the real command ---


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny model and 160 pairs that a tiny model can judge: the shouted answer wins."""
    folder = tmp_path_factory.mktemp("pair_pm")
    save_tiny_judge(folder / "model")
    rows = [*(row(number) for number in range(160)), row(200, better=".", worse=" . ".strip())]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return folder


def command_line(folder: Path, output: str) -> list[str]:
    arguments = {
        "--model_name_or_path": folder / "model",
        "--dataset": folder / "pairs.jsonl",
        "--output_dir": folder / output,
        "--held_out_share": "0.2",
        "--per_device_train_batch_size": "8",
        "--gradient_accumulation_steps": "1",
        "--learning_rate": "5e-3",
        "--num_train_epochs": "8",
        "--orders": "both",
        "--save_strategy": "no",
    }
    return [str(part) for pair in arguments.items() for part in pair]


def run(folder: Path, output: str, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *command_line(folder, output), *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_recipe_trains_saves_and_reloads(world):
    """Accuracy reaches 1.0 in both orders on separable held-out pairs, and plain Transformers reads the result."""
    finished = run(world, "run", "--score_before", "true")
    assert finished.returncode == 0, finished.stderr[-3000:]
    record = json.loads((world / "run" / "run.json").read_text())
    assert record["held_out"]["accuracy"] == 1.0 and record["held_out"]["position_bias"] < 0.05
    assert record["held_out_before"]["accuracy"] < 1.0 and record["reload_difference"] <= 1e-4
    refused = (world / "run" / "refused_rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in refused] == ["equal_responses"]
    before = AutoModelForCausalLM.from_pretrained(world / "model").state_dict()
    after = AutoModelForCausalLM.from_pretrained(world / "run")
    assert after.config.pair_labels == ["A", "B"]
    assert all(not torch.equal(before[name], value) for name, value in after.state_dict().items())
    assert not list((world / "run").glob("*.bin"))
    assert (world / "run" / "report.html").stat().st_size > 10_000
    assert (world / "run" / "README.md").read_text().startswith("---")


def test_lora_ends_in_a_plain_language_model_and_keeps_its_adapter(world, monkeypatch):
    flags = ("--use_peft", "true", "--lora_target_modules", "all-linear", "--tie_label", "C", "--num_train_epochs", "1")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command_line(world, "lora"), *flags])
    main()  # in this process, where starting Python again would only cost time
    assert json.loads((world / "lora" / "run.json").read_text())["reload_difference"] <= 1e-4
    assert (world / "lora" / "adapter" / "adapter_model.safetensors").exists()
    merged = AutoModelForCausalLM.from_pretrained(world / "lora")
    assert merged.config.pair_labels == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "missing.jsonl"], "no such file"),
        (["--model_name_or_path", "./nowhere"], "nowhere"),
        (["--max_length", "3"], "over_max_length"),
        (["--tie_label", "B"], "different labels"),
        (["--ties", "label"], "--tie_label"),
        (["--train_last_layers", "9"], "--train_last_layers"),
    ],
)
def test_bad_input_is_one_line_and_status_2(world, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command_line(world, "bad"), *flags])
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(main)
    assert stopped.value.code == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("error: ") and message in last_line
