"""The loss of process models by hand, and that labels meet their own steps, packed, padded and accumulated."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_examples import gradients_of, solution, write
from train_prm import (
    UNKNOWN,
    Arguments,
    ProcessTrainer,
    TrainArguments,
    collate_solutions,
    held_out_metrics,
    labels_to_learn,
    load_solutions,
    step_losses,
    to_train_on,
    vocabulary_losses,
)
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, EvalPrediction

from useful_code.render import read_template
from useful_code.step_model import load_step_tagger
from useful_code.step_prompt import tag_form, verdict_form
from useful_code.tiny import byte_tokenizer, save_tiny_judge
from useful_code.user_errors import UserError
from useful_code.verdict_model import load_verdict_model

FORMS = {
    "verdicts": verdict_form(read_template(byte_tokenizer())),
    "tags": tag_form(byte_tokenizer()),
}
ROWS = [solution(1, True, False, None), solution(22, 0.25), solution(3, True, 0.75, True, False)]


def loaded(folder, rows, form="verdicts", **method):
    """The rows as the recipe loads them, through the function that ships; and what was refused."""
    path = write(folder / "rows.jsonl", rows)
    arguments = Arguments(dataset="-", form=form, **method)
    solutions, counts = load_solutions(str(path), None, FORMS[form], arguments, None)
    return solutions, counts


# --- by hand ---


@pytest.mark.parametrize(
    ("z", "label", "expected"),
    [
        (0.0, 1.0, math.log(2)),
        (1.0, 1.0, 0.31326169),
        (1.0, 0.0, 1.31326169),
        (1.0, 0.25, 1.06326169),
        (-2.0, 0.5, 1.12692801),
    ],
)
def test_step_losses_by_hand(z, label, expected):
    """softplus(-1) = 0.31326169 and softplus(1) = 1.31326169; a quarter of one and three quarters of the other are
    0.07831542 + 0.98494627 = 1.06326169. At z = -2 and 1/2: (2.12692801 + 0.12692801) / 2."""
    loss = step_losses(torch.tensor([z]), torch.tensor([label]))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_over_the_vocabulary_every_token_competes():
    """Four tokens of logits log 1, 2, 3, 4; - is token 1 (2 of 10) and + is token 2 (3 of 10): right costs log(10 / 3),
    wrong log(10 / 2), a quarter right 0.25 log(10 / 3) + 0.75 log 5."""
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log().expand(3, 4)
    losses = vocabulary_losses(logits, torch.tensor([1.0, 0.0, 0.25]), (1, 2))
    expected = [math.log(10 / 3), math.log(5), 0.25 * math.log(10 / 3) + 0.75 * math.log(5)]
    assert losses.tolist() == pytest.approx(expected, abs=1e-6)


@given(st.floats(-500, 500), st.floats(0, 1))
def test_the_step_loss_is_that_of_torch_and_of_a_vocabulary_of_two(z, label):
    logits = torch.tensor([[0.0, z]])
    found = step_losses(logits[:, 1] - logits[:, 0], torch.tensor([label]))
    of_torch = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor([z]), torch.tensor([label]))
    torch.testing.assert_close(found[0], of_torch, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, vocabulary_losses(logits, torch.tensor([label]), (0, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("z", [-200.0, 200.0])
def test_confident_errors_have_a_finite_loss_and_a_gradient(z, dtype):
    """Fault 7 of METHODS 7.8: sigmoid and log in bfloat16 lost both. The slope is 1 against the error."""
    log_odds = torch.tensor([z], dtype=dtype, requires_grad=True)
    loss = step_losses(log_odds, torch.tensor([float(z < 0)]))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(200)
    loss.sum().backward()
    assert log_odds.grad.item() == pytest.approx(math.copysign(1, z))
    logits = torch.tensor([[0.0, z, 0.0]], dtype=dtype, requires_grad=True)
    vocabulary_losses(logits, torch.tensor([float(z < 0)]), (0, 1)).sum().backward()
    assert logits.grad.isfinite().all() and logits.grad[0, 1].item() == pytest.approx(math.copysign(1, z), abs=0.51)
    assert logits.grad.abs().sum() > 0.9


def test_hard_labels_are_whether_some_completion_was_right():
    assert labels_to_learn([1.0, 0.125, 0.0, None], "hard") == [1, 1, 0, UNKNOWN]
    assert labels_to_learn([1.0, 0.125, 0.0, None], "soft") == [1, 0.125, 0, UNKNOWN]


def test_held_out_metrics_by_hand():
    """Of five labelled steps one is undecided; z and labels agree in the first, second and fifth: 3 of 4. What is
    filled in (-100) counts nowhere."""
    labels = np.array([[1.0, 0.0, UNKNOWN], [0.5, 1.0, 0.25]])
    z = np.array([[2.0, -1.0, 50.0], [9.0, -3.0, -1.0]])
    found = held_out_metrics(EvalPrediction(predictions=z, label_ids=labels))
    assert found["step_accuracy"] == 3 / 4

    def softplus(x):
        return math.log1p(math.exp(x))

    soft = 0.25 * softplus(1) + 0.75 * softplus(-1)
    expected = [softplus(-2), softplus(-1), (softplus(-9) + softplus(9)) / 2, softplus(3), soft]
    assert found["step_loss"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    "bad",
    [
        {"form": "tags", "history": "labels"},
        {"form": "tags", "softmax_over": "vocabulary"},
        {"held_out_share": 1.0},
    ],
)
def test_arguments_that_cannot_work_are_refused(bad):
    with pytest.raises(UserError):
        Arguments(dataset="-", **bad)


# --- data ---


@pytest.mark.parametrize("form", FORMS)
def test_labels_meet_their_own_steps(tmp_path, form):
    """METHODS 7.9, check 3: what stands up to a place is the text up to that step, and the target there is its label;
    labels of another step, a missing first one, or solutions cut at "Step 1" would show."""
    steps = [f"Step {k}: {k}" for k in range(1, 12)]
    labels = [1, 0.5, 0, None, 0.125, 0.25, 0.375, 0.625, 0.75, 0.875, 1]
    (row,), _ = loaded(tmp_path, [{"prompt": "Count", "completions": steps, "labels": labels}], form)
    assert row["targets"] == [UNKNOWN if label is None else label for label in labels]
    tokenizer = byte_tokenizer()
    for k, place in enumerate(row["places"]):
        text = tokenizer.decode(row["ids"][: place + 1])
        ending = "\n" if form == "tags" else "<|im_end|>\n<|im_start|>assistant\n"
        assert text.endswith(steps[k] + ending) and all(step in text for step in steps[: k + 1])
        assert k == 10 or f"Step {k + 2}:" not in text
    batch = collate_solutions([row, row], None)
    assert (batch["labels"] != UNKNOWN).sum() == 20 and batch["places"].shape == batch["labels"].shape == (2, 11)


def test_history_of_labels_is_for_training_only(tmp_path):
    """Held-out rows keep + everywhere, as in scoring. A soft label above 0 stands as +, an unknown one too."""
    (row,), _ = loaded(tmp_path, [solution(1, 0.0, 0.25, None, 1.0, 0.0)], history="labels")
    minus, plus = FORMS["verdicts"].token_ids
    written = [row["ids_with_labels"][place + 1] for place in row["places"][:-1]]
    assert written == [minus, plus, plus, plus]
    assert [row["ids"][place + 1] for place in row["places"][:-1]] == [plus] * 4
    assert to_train_on(row)["ids"] == row["ids_with_labels"]
    assert to_train_on(row).keys() == {"ids", "places", "targets"}  # the texts would stay in memory for nothing
    (row,), _ = loaded(tmp_path, [solution(1, False, True)])
    assert to_train_on(row)["ids"] == row["ids"]


def test_rows_that_cannot_be_learned_from_are_refused_and_counted(tmp_path):
    rows = [solution(1, True), solution(2, None, outcome=True), solution(3, True, 2), solution(4, *[True] * 99)]
    solutions, counts = loaded(tmp_path, rows, max_length=200)
    assert len(solutions) == 1
    assert counts.refused == {"not_labelled": 1, "bad_step_label": 1, "over_max_length": 1}


def test_both_forms_learn_the_same_labels(tmp_path):
    verdicts, tags = (loaded(tmp_path, ROWS, form, labels="hard")[0] for form in FORMS)
    assert [row["targets"] for row in verdicts] == [row["targets"] for row in tags]
    assert verdicts[0]["targets"] == [1, 0, UNKNOWN] and verdicts[1]["targets"] == [1]


# --- the trainer's loss ---


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tiny_judge(path, initializer_range=0.3)
    return str(path)


def trainer_of(folder, model_path, form, **method) -> ProcessTrainer:
    load = load_step_tagger if form == "tags" else load_verdict_model
    return ProcessTrainer(
        method=Arguments(dataset="-", form=form, **method),
        form=FORMS[form],
        model=load(model_path),
        args=TrainArguments(output_dir=str(folder / "out")),
    )


def plain_losses(trainer, folder, form, rows, softmax_over) -> list[torch.Tensor]:
    """Of every labelled step, by plain Transformers on what stands in front of it."""
    trainer.model.save_pretrained(folder / "plain")
    loader = AutoModelForTokenClassification if form == "tags" else AutoModelForCausalLM
    plain = loader.from_pretrained(folder / "plain").eval()
    columns = [0, 1] if form == "tags" else list(FORMS[form].token_ids)
    losses = []
    for row in rows:
        for place, label in zip(row["places"], row["targets"], strict=True):
            if label != UNKNOWN:
                logits = plain(torch.tensor([row["ids"][: place + 1].tolist()])).logits[0, -1]
                if softmax_over == "signs":
                    logits = logits[columns]
                minus, plus = logits.log_softmax(-1)[[0, 1] if softmax_over == "signs" else columns]
                losses.append(-(label * plus + (1 - label) * minus))
    return losses


KINDS = [("verdicts", "signs"), ("verdicts", "vocabulary"), ("tags", "signs")]


@pytest.mark.parametrize(("form", "softmax_over"), KINDS)
@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_of_a_batch_is_that_of_plain_forward_passes(tmp_path, model_path, form, softmax_over, packed):
    """The mean over all labelled steps (7 of 8) of the cross-entropy at each, and nothing leaks between solutions."""
    rows, _ = loaded(tmp_path, ROWS, form)
    trainer = trainer_of(tmp_path, model_path, form, softmax_over=softmax_over)
    expected = plain_losses(trainer, tmp_path, form, rows, softmax_over)
    batch = collate_solutions(rows, None if packed else 0)
    number = trainer._get_num_items_in_batch([batch], "cpu")
    assert len(expected) == number == 7
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True, num_items_in_batch=number)
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)
    table = outputs["log_odds"]
    assert table.shape == (3, 4) and (table == UNKNOWN).tolist() == [
        [False] * 3 + [True],
        [False] + [True] * 3,
        [False] * 4,
    ]


@pytest.mark.parametrize(("form", "softmax_over"), KINDS)
def test_gradients_of_one_batch_are_those_of_small_ones_accumulated(tmp_path, model_path, form, softmax_over):
    """One batch of three solutions with 2, 1 and 4 labelled steps, against each alone over the count of all 7: steps
    weigh the same, not solutions."""
    rows, _ = loaded(tmp_path, ROWS, form)
    trainer = trainer_of(tmp_path, model_path, form, softmax_over=softmax_over)
    number = trainer._get_num_items_in_batch([collate_solutions([row], None) for row in rows], "cpu")
    assert number == 7
    trainer.compute_loss(trainer.model, collate_solutions(rows, None), num_items_in_batch=number).backward()
    at_once = gradients_of(trainer.model)
    trainer.model.zero_grad()
    for row in rows:
        trainer.compute_loss(trainer.model, collate_solutions([row], None), num_items_in_batch=number).backward()
    alone = gradients_of(trainer.model)
    assert at_once.keys() == alone.keys() and len(alone) > 10
    for name, gradient in at_once.items():
        torch.testing.assert_close(alone[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("form", "softmax_over"), KINDS)
def test_a_step_without_label_has_no_loss_and_no_gradient(tmp_path, model_path, form, softmax_over):
    """The same solution without its unlabelled last step: the same loss and gradients, to rounding."""
    (whole,), _ = loaded(tmp_path, [solution(1, True, False, None)], form)
    (cut,), _ = loaded(tmp_path, [solution(1, True, False)], form)
    assert len(whole["ids"]) > len(cut["ids"])
    found = []
    for row in (whole, cut):
        trainer = trainer_of(tmp_path, model_path, form, softmax_over=softmax_over)
        loss = trainer.compute_loss(trainer.model, collate_solutions([row], None), num_items_in_batch=2)
        loss.backward()
        found.append((loss, gradients_of(trainer.model)))
    torch.testing.assert_close(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-6)


def fixed_minus_3(row):
    return row | {"places": (*row["places"][:-1], len(row["ids"]) - 3)}


def first_missing(row):
    return row | {"places": row["places"][1:], "targets": row["targets"][1:]}


def labels_of_the_step_before(row):
    return row | {"targets": [row["targets"][-1], *row["targets"][:-1]]}


@pytest.mark.parametrize("fault", [fixed_minus_3, first_missing, labels_of_the_step_before])
@pytest.mark.parametrize("form", FORMS)
def test_faults_put_back_change_the_loss(tmp_path, model_path, form, fault):
    """Mutations: a comparison with plain Transformers that would not see these would be worth nothing."""
    rows, _ = loaded(tmp_path, [solution(1, True, False, True, False)], form)
    trainer = trainer_of(tmp_path, model_path, form)
    right, wrong = (
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=(batch["labels"] != UNKNOWN).sum()).item()
        for batch in (collate_solutions(rows, None), collate_solutions([fault(row) for row in rows], None))
    )
    assert abs(right - wrong) > 1e-3
