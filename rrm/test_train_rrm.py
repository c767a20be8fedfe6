"""Loss by hand with ties, numbers by kind of row, answers kept apart, and a run of the real command."""

import gc
import json
import math
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from augment_pairs import Options, augment
from fourteen_comparisons import TYPES
from held_out import KINDS, answers_of, keep_answers_apart, kind_of, off_topic_numbers, off_topic_table, report_kinds
from hypothesis import given, settings
from hypothesis import strategies as st
from train_rrm import (
    Arguments,
    PairTrainer,
    TrainArguments,
    collate_pairs,
    held_out_metrics,
    load_pairs,
    main,
    targets_of,
    tokens_only,
    verdict_loss,
)
from transformers import AutoModelForCausalLM, EvalPrediction

from useful_code.chat_pairs import check_pair, is_tie, prompt_of, split_by_prompt
from useful_code.pair_prompt import LABELS, is_shown_first, pair_text, read_verdicts
from useful_code.read_rows import RowCounts, load_checked
from useful_code.render import read_template, render
from useful_code.tiny import byte_tokenizer, save_tiny_judge
from useful_code.training.data import TrainingData, load_train_and_held_out
from useful_code.user_errors import UserError, exit_cleanly
from useful_code.verdict_model import load_verdict_model

SCRIPT = Path(__file__).with_name("train_rrm.py")
SAME = (*LABELS, "Same")


def chat(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def row(number: int, better: str = "!!!", worse: str = "...", **columns) -> dict:
    sides = {"chosen": better, "rejected": worse}
    return {side: chat(f"Say {number}", f"{number}{mark}") for side, mark in sides.items()} | columns


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def loaded(folder: Path, rows: list[dict], seed: int | None = None, **method):
    """The rows as the recipe loads them, through the function that ships."""
    template = read_template(byte_tokenizer())
    source = str(write(folder / "rows.jsonl", rows))
    arguments = Arguments(dataset="-", **method)
    return load_pairs(source, None, template, read_verdicts(template, SAME), arguments, None, seed)


def of_kinds() -> list[dict]:
    """An original, an off-topic comparison, an off-topic tie, and an original that is a tie."""
    return [
        row(1),
        row(2, rrm_type=TYPES[5], rrm_id="2/5"),
        row(3, worse=" and some more", rrm_type=TYPES[11], tie=True, rrm_id="3/11"),
        row(4, tie=True),
    ]


# --- by hand (METHODS 4.4) ---


def test_the_loss_of_the_labels_by_hand_with_a_tie():
    """Logits log 1, 2, 5 of A, B, Same: shares 1/8, 2/8, 5/8, so A costs log 8, B log 4, Same log 8/5."""
    logits = torch.tensor([[1.0, 2.0, 5.0]] * 3).log()
    losses = verdict_loss(logits, torch.eye(3))
    torch.testing.assert_close(losses, torch.tensor([math.log(8), math.log(4), math.log(8 / 5)]))


def test_over_the_vocabulary_every_token_competes():
    """Five tokens of logits log 1, 2, 3, 4, 10; the labels are those with 3, 1 and 4 of 20."""
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0, 10.0]] * 2).log()
    losses = verdict_loss(logits, torch.tensor([[0.0, 0.0, 1.0], [0.75, 0.25, 0.0]]), (2, 0, 3))
    assert losses[0].item() == pytest.approx(math.log(20 / 4))
    assert losses[1].item() == pytest.approx(0.75 * math.log(20 / 3) + 0.25 * math.log(20))


@given(st.lists(st.floats(-1000, 1000), min_size=3, max_size=3), st.floats(0, 1))
def test_the_loss_is_the_cross_entropy_of_torch_and_finite(logits, share):
    logits = torch.tensor([logits])
    target = torch.tensor([[share, 0.0, 1 - share]])
    torch.testing.assert_close(verdict_loss(logits, target), torch.nn.functional.cross_entropy(logits, target)[None])


@pytest.mark.parametrize(
    ("pair", "smoothing", "expected"),
    [
        ({"label": 1.0, "tie": False, "number": 0}, 0, [1, 0, 0]),
        ({"label": 0.8, "tie": False, "number": 0}, 0, [0.8, 0.2, 0]),
        ({"label": 1.0, "tie": False, "number": 0}, 0.1, [0.9, 0.1, 0]),
        ({"label": 1.0, "tie": False, "number": 8}, 0.1, [1, 0, 0]),
        ({"label": 0.5, "tie": True, "number": 9}, 0.1, [0, 0, 1]),
        ({"label": 0.5, "tie": True, "number": 0}, 0.1, [0, 0, 1]),
    ],
)
def test_targets_by_hand(pair, smoothing, expected):
    assert targets_of(pair, smoothing) == pytest.approx(expected)


# --- data ---


def test_rows_of_every_kind_get_their_targets_and_both_orders(tmp_path):
    rows = [*of_kinds(), row(5, label=0.1), row(6, rrm_type="mine"), row(7, rrm_type=TYPES[9])]
    pairs, counts = loaded(tmp_path, rows)
    assert counts.refused == {"wrong_type": 1, "bad_tie": 1}
    assert [KINDS[kind_of(pair["number"])] for pair in pairs] == [
        "original",
        "off_topic",
        "tie",
        "original",
        "original",
    ]
    decided = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert [pair["targets"] for pair in pairs[:4]] == [decided, decided, [[0.0, 0.0, 1.0]] * 2, [[0.0, 0.0, 1.0]] * 2]
    assert pairs[4]["chosen"][-1]["content"] == "5..." and pairs[4]["targets"][0] == pytest.approx([0.9, 0.1, 0])
    template = read_template(byte_tokenizer())
    for ids, answers in zip(pairs[1]["ids"], (("2!!!", "2..."), ("2...", "2!!!")), strict=True):
        message = {"role": "user", "content": pair_text(prompt_of(pairs[1]), *answers)}
        assert ids.tolist() == render(template, [message], add_generation_prompt=True)


def test_the_drawn_side_says_nothing_of_the_label(tmp_path):
    """METHODS 4.9, check 5: over 2,000 off-topic comparisons the winner is A in half (standard error 0.011)."""
    drawn, _ = loaded(tmp_path, [row(i, rrm_type=TYPES[1]) for i in range(2000)], seed=0, eval_dataset="other")
    assert {len(pair["targets"]) for pair in drawn} == {1}
    assert abs(np.mean([pair["targets"][0][0] for pair in drawn]) - 0.5) < 3 * 0.0112


@pytest.mark.parametrize("eval_rows", [0, 30])
def test_rows_to_train_on_have_the_drawn_order_and_held_out_rows_both(tmp_path, eval_rows):
    """By a share of the prompts and by an `eval_dataset`, some of whose prompts are in the training rows too."""
    train = write(tmp_path / "train.jsonl", [row(number) for number in range(120)])
    held_out = write(tmp_path / "held_out.jsonl", [row(number) for number in range(110, 110 + eval_rows)])
    arguments = Arguments(
        dataset=str(train), held_out_share=0.2, **({"eval_dataset": str(held_out)} if eval_rows else {})
    )
    template = read_template(byte_tokenizer())
    verdicts = read_verdicts(template, SAME)

    def data_of(seed):
        return load_train_and_held_out(
            lambda source, split, refused: load_pairs(source, split, template, verdicts, arguments, refused, seed),
            arguments,
            TrainArguments(output_dir=str(tmp_path / "out"), seed=7),
        )

    both, drawn = data_of(None), data_of(7)
    assert len(drawn.train) == (110 if eval_rows else len(both.train)) and len(drawn.held_out) >= 10
    assert drawn.held_out == both.held_out and {len(pair["ids"]) for pair in both.train} == {2}
    places = []
    for pair, whole in zip(drawn.train, both.train, strict=True):
        answers = [pair[side][-1]["content"] for side in ("chosen", "rejected")]
        places.append(0 if is_shown_first(prompt_of(pair), *answers, seed=7) else 1)
        assert (pair["ids"], pair["targets"]) == ([whole["ids"][places[-1]]], [whole["targets"][places[-1]]])
    assert set(places) == {0, 1}
    assert collate_pairs([tokens_only(pair) for pair in drawn.train[:2]], None)["targets"].shape == (2, 3)


def test_a_row_to_train_on_takes_little_more_memory_than_its_tokens(tmp_path):
    """4 bytes a token of one order and less than 700 a row. While the texts are needed, these as well (an eighth of a
    prompt of 1000 characters, two answers of 500), and less than 1,800 a row. The other order would be 8,300."""
    rows = [row(number, better="b" * 500, worse="w" * 500) for number in range(400)]
    for number, each in enumerate(rows):
        for side in ("chosen", "rejected"):
            each[side][0]["content"] = f"{number // 8}" + "?" * 1000
    loaded(tmp_path, rows, seed=0, eval_dataset="other")  # what is made once is made here
    tracemalloc.start()
    try:
        pairs, _ = loaded(tmp_path, rows, seed=0, eval_dataset="other")
        gc.collect()
        with_texts = tracemalloc.get_traced_memory()[0] / len(pairs)  # bytes per row
        pairs = [tokens_only(pair) for pair in pairs]
        gc.collect()
        in_training = tracemalloc.get_traced_memory()[0] / len(pairs)
    finally:
        tracemalloc.stop()
    num_tokens = sum(len(ids) for pair in pairs for ids in pair["ids"]) / len(pairs)
    assert len(pairs) == 400 and num_tokens > 2000
    assert in_training < 4 * num_tokens + 700
    assert with_texts < 4 * num_tokens + 1000 / 8 + 2 * 500 + 1800


def test_held_out_metrics_by_hand():
    """Two pairs with a winner, three labels. Shares (A, B, Same) 6:1:3 and, in the other order, 2:2:6: P = 0.75 and
    0.5, right. Then 1:3:6 and 4:1:5: P = 0.4 and 0.35, wrong. A tie counts in the bias only: 0.25, 0.05 and 0."""
    shares = [[[6, 1, 3], [2, 2, 6]], [[1, 3, 6], [4, 1, 5]], [[1, 1, 8], [1, 1, 8]]]
    logits, labels = np.log(np.array(shares, dtype=float)), np.array([1.0, 1.0, 0.5])
    found = held_out_metrics(EvalPrediction(predictions=logits, label_ids=labels))
    assert found["accuracy"] == 0.5 and found["position_bias"] == pytest.approx((0.25 + 0.05 + 0) / 3)


@pytest.mark.parametrize("bad", [{"label_smoothing": 0.5}, {"held_out_share": 1.0}])
def test_arguments_that_cannot_work_are_refused(bad):
    with pytest.raises(UserError):
        Arguments(dataset="-", **bad)


# --- what is held out ---


def split_data(pairs: list[dict], share: float, seed: int) -> TrainingData:
    train, held_out = split_by_prompt(pairs, share, seed)
    return TrainingData(train, held_out, [RowCounts("-")], 0)


@pytest.fixture(scope="module")
def augmented(tmp_path_factory) -> list[dict]:
    """60 examples and all their comparisons, as `load_pairs` names them but without token ids."""
    folder = tmp_path_factory.mktemp("augmented")
    source = write(folder / "rows.jsonl", [row(number) for number in range(60)])
    augment(str(source), str(folder / "rrm"), Options(augmented_share=1))
    numbers = {name: number for number, name in enumerate(TYPES)}
    return [
        pair | {"number": numbers[pair["rrm_type"]], "label": 0.5 if is_tie(pair) else 1.0}
        for pair in map(check_pair, load_checked(folder / "rrm")[0])
    ]


@settings(max_examples=20)
@given(st.floats(0.05, 0.6), st.integers(0, 99))
def test_no_held_out_answer_is_trained_on_and_no_trained_answer_is_held_out(augmented, share, seed):
    """An answer names its example, so that texts of the two parts cannot be equal by chance."""
    data = split_data(augmented, share, seed)
    whole, num_held_out = list(data.train), len(data.held_out)
    if not data.held_out or not data.train:
        return
    unseen, counts = keep_answers_apart(data)
    trained = answers_of(data.train)
    assert not trained & answers_of(data.held_out) and not trained & answers_of(unseen)
    assert {pair["rrm_type"] for pair in data.held_out} == {"original"}
    left_out = [pair for pair in whole if pair not in data.train]
    assert all(answers_of([pair]) & answers_of(data.held_out) for pair in left_out), "nothing is dropped without cause"
    assert sum(pair["number"] == 0 for pair in data.train) == counts["num_train_original"] == 60 - len(data.held_out)
    of_kinds = sum(counts[f"num_train_{kind}"] for kind in KINDS)
    assert of_kinds == len(data.train) == len(whole) - counts["num_dropped_for_held_out_answers"]
    assert counts["num_held_out_dropped_for_trained_answers"] + len(unseen) + len(data.held_out) == num_held_out


def test_a_held_out_set_that_was_augmented_by_itself_stays_whole(augmented, tmp_path):
    source = write(tmp_path / "rows.jsonl", [row(number) for number in range(100, 104)])
    augment(str(source), str(tmp_path / "rrm"), Options(augmented_share=1))
    names = {name: number for number, name in enumerate(TYPES)}
    held_out = [pair | {"number": names[pair["rrm_type"]], "label": 1.0} for pair in load_checked(tmp_path / "rrm")[0]]
    data = TrainingData(augmented, held_out, [], 0)
    unseen, counts = keep_answers_apart(data)
    assert len(unseen) == 56 and len(data.held_out) == 4 and len(data.train) == 900
    assert report_kinds(counts) == (
        "to train on: 60 originals, 480 off-topic comparisons, 360 off-topic ties. Held out: 56 augmented rows"
    )


def test_without_an_original_that_is_held_out_there_is_nothing_to_measure(augmented):
    data = TrainingData(augmented[:10], [pair for pair in augmented if pair["number"]], [], 0)
    with pytest.raises(UserError, match="no original pair with a winner is held out"):
        keep_answers_apart(data)


def test_plain_rows_are_originals_and_the_report_says_where_others_come_from():
    plain = [row(number) | {"number": 0, "label": 1.0} for number in range(10)]
    data = TrainingData(plain[:8], plain[8:], [], 0)
    unseen, counts = keep_answers_apart(data)
    assert (len(data.train), len(data.held_out), unseen) == (8, 2, [])
    assert "0 off-topic ties (no row has an rrm_type; augment_pairs.py makes them)" in report_kinds(counts)


def test_off_topic_numbers_by_hand():
    """Log-odds of the on-topic answer in both orders: 2 and 1, it wins; 1 and -3, it loses; 0 and 0, a draw. Ties: the
    verdict is Same in both orders, then in one of two."""
    odds = np.array([[2.0, 1.0], [1.0, -3.0], [0.0, 0.0]])
    decided = np.stack(
        [np.stack([odds[:, 0], 0 * odds[:, 0]], -1), np.stack([-odds[:, 1], 0 * odds[:, 1]], -1)], axis=1
    )  # (3, 2, 2)
    decided = np.concatenate([decided, np.full((3, 2, 1), -9.0)], -1)  # (3, 2, 3)
    ties = np.array([[[0.0, 0, 5], [0, 0, 5]], [[0, 9, 5], [0, 0, 5]]])
    pairs = [{"number": number, "rrm_id": f"{number}/{number}"} for number in (1, 4, 5, 9, 14)]
    found = off_topic_numbers(pairs, np.concatenate([decided, ties]))
    assert {name: (each["share"], each["pairs"]) for name, each in found.items()} == {
        "off_topic_beats_preferred": (0.5, 2),
        "off_topic_beats_rejected": (0.5, 1),
        "ties_called_equal": (0.75, 2),
    }
    table = off_topic_table(None, found)
    assert table.rows[1] == ["an off-topic answer beats the rejected one", "0.500 (0.500-0.500)", "1"]
    assert len(off_topic_table(found, found).rows[0]) == len(off_topic_table(found, found).header) == 4
    assert list(off_topic_numbers(pairs[:1], decided[:1])) == ["off_topic_beats_preferred"]


# --- the trainer's loss ---


@pytest.mark.parametrize(("softmax_over", "packed"), [("vocabulary", True), ("labels", False)])
def test_the_loss_of_a_batch_is_that_of_plain_forward_passes_also_by_kind(tmp_path, softmax_over, packed):
    """The mean over pairs of the cross-entropy at the verdict; the log has the means of every kind."""
    save_tiny_judge(tmp_path / "model")
    pairs, _ = loaded(tmp_path, of_kinds())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    verdicts = read_verdicts(read_template(byte_tokenizer()), SAME)
    expected, right = [], []
    for pair in pairs:
        losses = []
        for ids, targets in zip(pair["ids"], pair["targets"], strict=True):
            logits = plain(input_ids=torch.tensor([ids.tolist()])).logits[0, -1].detach()
            of_labels = logits[list(verdicts.token_ids)]
            label = targets.index(1.0)
            shares = of_labels if softmax_over == "labels" else logits
            losses.append((shares.logsumexp(-1) - of_labels[label]).item())
            right.append((pair["number"], float(of_labels.argmax() == label)))
        expected.append(np.mean(losses))
    model = load_verdict_model(str(tmp_path / "model")).train()
    trainer = PairTrainer(
        method=Arguments(dataset="-", softmax_over=softmax_over),
        verdicts=verdicts,
        model=model,
        args=TrainArguments(output_dir=str(tmp_path / "out")),
    )
    batch = collate_pairs(pairs, None if packed else 0)
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True, num_items_in_batch=torch.tensor(4))
    assert loss.item() == pytest.approx(np.mean(expected), abs=1e-4) and outputs["logits"].shape == (4, 2, 3)
    logged = trainer.step_means.pop()
    accuracy = {kind: np.mean([r for number, r in right if kind_of(number) == kind]) for kind in range(3)}
    assert logged == pytest.approx(
        {
            "accuracy": np.mean([each for _, each in right]),
            "original_loss": np.mean([expected[0], expected[3]]),
            "original_accuracy": accuracy[0],
            "off_topic_loss": expected[1],
            "off_topic_accuracy": accuracy[1],
            "tie_loss": expected[2],
            "tie_accuracy": accuracy[2],
        },
        abs=1e-4,
    )
    trainer.compute_loss(model, collate_pairs(pairs[:1], None), num_items_in_batch=torch.tensor(1))
    assert trainer.step_means.pop().keys() == {"accuracy", "original_loss", "original_accuracy"}


# --- the real command ---


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny model, 12 examples and 4 others, with all their comparisons; one row that cannot be used."""
    folder = tmp_path_factory.mktemp("rrm")
    save_tiny_judge(folder / "model")
    for name, numbers in (("train", range(12)), ("held_out", range(100, 104))):
        source = write(folder / f"{name}.jsonl", [row(number) for number in numbers])
        augment(str(source), str(folder / name), Options(augmented_share=1), file_format="jsonl")
    with open(folder / "train" / "train-00000-of-00001.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row(200, rrm_type="mine")) + "\n")
    return folder


def command_line(folder: Path, output: str) -> list[str]:
    arguments = {
        "--model_name_or_path": folder / "model",
        "--dataset": folder / "train",
        "--eval_dataset": folder / "held_out",
        "--output_dir": folder / output,
        "--per_device_train_batch_size": "8",
        "--gradient_accumulation_steps": "1",
        "--learning_rate": "5e-3",
        "--max_steps": "12",
        "--save_strategy": "no",
    }
    return [str(part) for pair in arguments.items() for part in pair]


def test_recipe_trains_saves_and_reloads(world):
    """The loss falls, all weights move, plain Transformers reads the result, and the record has numbers by kind."""
    command = [sys.executable, SCRIPT, *command_line(world, "run"), "--score_before", "true"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=world)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "to train on: 12 originals, 96 off-topic comparisons, 72 off-topic ties. Held out: 56" in finished.stdout
    assert "an off-topic answer beats the preferred one" in finished.stdout
    record = json.loads((world / "run" / "run.json").read_text())
    assert record["reload_difference"] <= 1e-4 and record["method"] == "robust pairwise preference"
    assert record["held_out"]["pairs"] == 4 and record["labels"] == ["A", "B", "Same"]
    for name in ("off_topic", "off_topic_before"):
        assert {key: each["pairs"] for key, each in record[name].items()} == {
            "off_topic_beats_preferred": 16,
            "off_topic_beats_rejected": 16,
            "ties_called_equal": 24,
        }
    losses = [float(loss) for loss in re.findall(r"\{'loss': '?([0-9.e+-]+)", finished.stdout)]
    assert len(losses) == 12 and np.mean(losses[-3:]) < losses[0]
    assert all(f"'{kind}_loss'" in finished.stdout for kind in KINDS)
    refused = (world / "run" / "refused_rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in refused] == ["wrong_type"]
    before = AutoModelForCausalLM.from_pretrained(world / "model").state_dict()
    after = AutoModelForCausalLM.from_pretrained(world / "run")
    assert after.config.pair_labels == ["A", "B", "Same"]
    assert all(not torch.equal(before[name], value) for name, value in after.state_dict().items())
    assert not list((world / "run").glob("*.bin"))
    assert (world / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "missing.jsonl"], "no such file"),
        (["--model_name_or_path", "./nowhere"], "nowhere"),
        (["--max_length", "3"], "over_max_length"),
        (["--tie_label", "B"], "different labels"),
        (["--tie_label", " "], "different labels"),
        (["--ties", "drop"], "unknown arguments: --ties"),
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
