"""Losses by hand, their gradients across processes and passes, what is saved, and the real command.

Travels with the folder when it is copied.
"""

import io
import itertools
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from batch_correlations import MomentsInCheckpoints, correlation, gather_rows, smoothed_size
from hypothesis import given
from hypothesis import strategies as st
from length_table import SUM, head_numbers, head_tables
from normalised_heads import NormalisedHeads, add_nuisance_heads, heads_of, keep_quality_head
from nuisances import trait_counter
from safetensors.torch import load_file
from torch import nn
from train_odin import (
    Arguments,
    OdinTrainer,
    TrainArguments,
    collate_pairs,
    head_correlations,
    held_out_metrics,
    length_loss,
    load_pairs,
    main,
    orthogonality_loss,
    ranking_losses,
)
from transformers import AutoModelForSequenceClassification, EvalPrediction, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from useful_code import eval_reward_bench_bt, score
from useful_code.render import read_template
from useful_code.reward_model import Float32Linear, load_reward_model
from useful_code.tiny import byte_tokenizer, save_tiny_judge, save_tiny_model
from useful_code.training import save_load
from useful_code.user_errors import UserError, exit_cleanly

SCRIPT = Path(__file__).with_name("train_odin.py")
LENGTHS = torch.tensor([3.0, 5.0, 8.0, 12.0])
QUALITY, LENGTH_HEAD = torch.tensor([0.1, 0.4, 0.2, 0.3]), torch.tensor([0.2, 0.5, 0.9, 1.1])
finite = st.floats(-50, 50)


def both_sides(*columns: torch.Tensor) -> torch.Tensor:
    """(N, 2, C) with the same columns (N,) for chosen and rejected."""
    return torch.stack(columns, -1)[:, None].expand(-1, 2, -1)


def heads(*rows: list[float]) -> NormalisedHeads:
    """Heads with these rows, quality first."""
    rows = torch.tensor(rows)
    module = nn.Linear(rows.shape[1], 1, bias=False)
    module.__class__ = NormalisedHeads
    module.weight = nn.Parameter(rows[:1].clone())
    module.nuisance_weight = nn.Parameter(rows[1:].clone())
    return module


# --- by hand (METHODS A.7) ---


def test_correlations_and_length_loss_match_hand_worked_values():
    """Lengths 3, 5, 8, 12: rho of quality .32969024, of the length head .97138548; L_L = their difference for either
    side, and the sides are added (Eq. 11)."""
    correlations, _ = head_correlations(both_sides(QUALITY, LENGTH_HEAD), both_sides(LENGTHS))
    expected = torch.tensor([[0.32969024], [0.97138548]])
    torch.testing.assert_close(correlations, torch.stack((expected, expected)))
    assert length_loss(correlations[:1]).item() == pytest.approx(-0.64169524)
    assert length_loss(correlations).item() == pytest.approx(2 * -0.64169524)


def test_chosen_and_rejected_are_correlated_apart():
    """Chosen falls with length and rejected rises: -1 and +1 each by itself, where all together would have 0."""
    quality = torch.stack((-LENGTHS, LENGTHS), -1)
    rewards = torch.stack((quality, quality), -1)  # (4, 2, 2)
    correlations, _ = head_correlations(rewards, both_sides(LENGTHS))
    assert correlations[:, 0, 0].tolist() == pytest.approx([-1, 1])
    assert length_loss(correlations).item() == pytest.approx((1 + 1) + (1 - 1)), (
        "the size for quality, the sign for length"
    )


def test_ranking_loss_matches_hand_worked_pairs():
    """Sums of the heads 2 and -1 for chosen, 0 and .5 for rejected: softplus(-2) = .12692801 and softplus(1.5) =
    1.70141328, mean .91417064. A sum over the batch before the sigmoid would give softplus(-.5) = .47407698."""
    rewards = torch.tensor([[[1.5, 0.5], [1.0, -1.0]], [[-3.0, 2.0], [0.25, 0.25]]])
    losses = ranking_losses(rewards, torch.ones(2))
    torch.testing.assert_close(losses, torch.tensor([0.12692801, 1.70141328]))
    assert losses.mean().item() == pytest.approx(0.91417064)


@given(finite, st.floats(0, 1))
def test_a_soft_label_is_the_mixture_of_both_labels(delta, label):
    rewards = torch.tensor([[[delta, 0.0], [0.0, 0.0]]])
    one, zero = (ranking_losses(rewards, torch.tensor([each])) for each in (1.0, 0.0))
    found = ranking_losses(rewards, torch.tensor([label]))
    torch.testing.assert_close(found, label * one + (1 - label) * zero, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("quality", "length", "expected"),
    [([1.0, 2.0, 2.0], [2.0, 1.0, -2.0], 0.0), ([1.0, 0.0, 0.0], [1.0, 1.0, 0.0], 0.70710678)],
)
def test_orthogonality_matches_hand_worked_cosines(quality, length, expected):
    _, cosines = heads(quality, length)(torch.zeros(1, 3))
    assert orthogonality_loss(cosines).item() == pytest.approx(expected, abs=1e-7)
    assert orthogonality_loss(-cosines).item() == pytest.approx(expected, abs=1e-7)


def test_orthogonality_of_parallel_rows_is_one_and_with_the_official_centring_another_number():
    """The authors' code subtracts the mean of every row first: (1,0,0) and (1,1,0) then give .5, here .70710678."""
    _, cosines = heads([1.0, 2.0, 2.0], [-2.0, -4.0, -4.0])(torch.zeros(1, 3))
    assert orthogonality_loss(cosines).item() == pytest.approx(1)
    rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    _, cosines = heads(*(rows - rows.mean(-1, keepdim=True)).tolist())(torch.zeros(1, 3))
    assert orthogonality_loss(cosines).item() == pytest.approx(0.5)


# --- properties of the heads (METHODS 6.9, 3 and 4) ---


def test_the_gradient_of_orthogonality_reaches_both_heads():
    module = heads([1.0, 0.0, 0.0], [1.0, 1.0, 0.0])
    _, cosines = module(torch.zeros(1, 3))
    orthogonality_loss(cosines).backward()
    assert module.weight.grad.abs().sum() > 0.1 and module.nuisance_weight.grad.abs().sum() > 0.1


def test_longer_rows_change_no_reward():
    """Without this a quality row of zero would be a perfect answer to the length terms."""
    hidden, module = torch.randn(5, 3), heads([1.0, 2.0, 0.5], [0.3, -1.0, 0.0])
    before = module(hidden)
    module.weight.data *= 10
    module.nuisance_weight.data *= 0.1
    torch.testing.assert_close(module(hidden), before)
    torch.testing.assert_close(before[0][:, 0], hidden @ F.normalize(torch.tensor([1.0, 2.0, 0.5]), dim=0))


def test_scores_are_float32_under_autocast_and_from_weights_in_bfloat16():
    module = heads([1.0, 2.0, 0.5], [0.3, -1.0, 0.0])
    exact = module(torch.ones(1, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module(torch.ones(1, 3)), exact, rtol=0, atol=0)
    assert module.bfloat16()(torch.ones(1, 3).bfloat16())[0].dtype == torch.float32


def test_an_empty_row_scores_zero():
    scores, cosines = heads([0.0, 0.0, 0.0], [0.3, -1.0, 0.0])(torch.randn(5, 3))
    assert torch.isfinite(scores).all() and torch.equal(scores[:, 0], torch.zeros(5)) and cosines.item() == 0


# --- correlations (METHODS 6.9, 1) ---


@given(st.lists(st.tuples(finite, st.integers(1, 4000)), min_size=3, max_size=30))
def test_a_correlation_is_that_of_numpy(points):
    x, y = np.array(points, dtype=np.float32).T
    found = correlation(torch.tensor(x), torch.tensor(y))[0].item()
    if x.std() > 1e-3 and y.std() > 0:
        assert found == pytest.approx(np.corrcoef(x.astype(float), y.astype(float))[0, 1], abs=2e-3)
    assert abs(found) <= 1 + 1e-5


@pytest.mark.parametrize("constant", [0.0, 0.1, 257.0, 1234.567])
@pytest.mark.parametrize("which", [0, 1])
def test_a_constant_gives_zero_and_no_gradient(constant, which):
    sides = [torch.full((7,), constant), torch.tensor([1.0, 5.0, 2.0, 7.0, 3.0, 3.0, 4.0])]
    x, y = sides[which].requires_grad_(), sides[1 - which]
    found, _ = correlation(x, y)
    found.backward()
    assert found.item() == 0 and torch.equal(x.grad, torch.zeros(7))


def test_two_points_have_no_correlation():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    found, moments = correlation(x, torch.tensor([3.0, 9.0]))
    found.backward()
    assert found.item() == 0 and torch.equal(x.grad, torch.zeros(2))
    third, _ = correlation(torch.tensor([3.0]), torch.tensor([0.0]), moments, window=1e9)
    assert third.item() == pytest.approx(np.corrcoef([1, 2, 3], [3, 9, 0])[0, 1]), "a third one makes it three"


def test_length_loss_reaches_its_lower_bound():
    uncorrelated = torch.tensor([1.0, -1.0, -1.0, 1.0])
    lengths = torch.tensor([1.0, 2.0, 3.0, 4.0])
    correlations, _ = head_correlations(both_sides(uncorrelated, 3 * lengths), both_sides(lengths))
    assert length_loss(correlations).item() == pytest.approx(-2), "-1 for chosen and -1 for rejected"
    assert length_loss(correlations, noise=0.1).item() == pytest.approx(-2), "the rounding is 0 at 0"


@given(st.floats(-1, 1), st.floats(0.01, 0.5))
def test_the_rounded_size_is_the_mean_under_noise(rho, noise):
    """Against the integral over the normal density, summed at 20,001 places; below |rho|, by .8 noise at the most."""
    z = np.linspace(-10, 10, 20_001)
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    expected = (np.abs(rho + noise * z) * density).sum() - noise * np.sqrt(2 / np.pi)
    found = smoothed_size(torch.tensor(rho, dtype=torch.float64), noise).item()
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(rho) - 0.8 * noise <= found <= abs(rho) + 1e-9


def test_only_running_moments_are_rounded():
    _, alone = correlation(torch.randn(9), torch.rand(9))
    assert alone.noise(9) == 0
    _, more = correlation(torch.randn(9), torch.rand(9), alone, window=100)
    assert more.noise(9) == pytest.approx((9 + 9 * 0.91) ** -0.5)
    assert torch.equal(smoothed_size(torch.tensor([-0.5, 0.0]), 0.0), torch.tensor([0.5, 0.0]))


def test_the_gradient_of_a_lone_batch_is_that_of_pearson():
    x = torch.randn(9, dtype=torch.float64).float().requires_grad_()
    y = torch.rand(9)
    correlation(x, y)[0].backward()
    plain = x.detach().clone().requires_grad_()
    a, b = plain - plain.mean(), y - y.mean()
    ((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()).backward()
    torch.testing.assert_close(x.grad, plain.grad)


def test_running_moments_of_equal_weight_are_those_of_all_points():
    x, y = torch.randn(40, 3) + 5, 100 * torch.rand(40, 3)
    moments = None
    for part in (slice(0, 8), slice(8, 9), slice(9, 20), slice(20, 40)):
        found, moments = correlation(x[part], y[part], moments, window=1e9)
    expected = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3)]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert moments.weight == pytest.approx(40, rel=1e-6)


def test_earlier_points_fade_and_do_not_count_beside_a_whole_window():
    x, y = torch.randn(50, 8), torch.randn(50, 8)
    moments = None
    for each in range(50):
        _, moments = correlation(x[each], y[each], moments, window=20)
    assert moments.weight == pytest.approx(20)
    alone, after = correlation(x[0], y[0], moments, window=8)
    assert alone.item() == pytest.approx(np.corrcoef(x[0], y[0])[0, 1], abs=1e-5) and after.weight == 8


def test_the_gradient_of_small_passes_is_that_of_the_window_on_average():
    """Moments of all 6 points remembered with a huge weight, then every choice of 4 of them as a pass: the mean of the
    gradients is that of all 6, times 6/5, which is what a covariance of a sample without replacement estimates."""
    x, y = torch.randn(6), torch.rand(6)
    everything = x.clone().requires_grad_()
    rho, moments = correlation(everything, y)
    rho.backward()
    total = torch.zeros(6)
    choices = list(itertools.combinations(range(6), 4))
    for choice in choices:
        part = x[list(choice)].clone().requires_grad_()
        found, _ = correlation(part, y[list(choice)], moments._replace(weight=1e9), window=1e9)
        assert found.item() == pytest.approx(rho.item(), abs=1e-5)
        found.backward()
        total[list(choice)] += part.grad
    torch.testing.assert_close(total / len(choices), everything.grad * 6 / 5, atol=1e-5, rtol=1e-4)


def test_moments_survive_a_checkpoint(tmp_path):
    keeper = MomentsInCheckpoints(2)
    _, keeper.past = correlation(torch.randn(9, 2, 2), torch.rand(9, 2, 2))
    state = SimpleNamespace(is_world_process_zero=True, global_step=3)
    keeper.on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    read = MomentsInCheckpoints(2, str(tmp_path / "checkpoint-3")).past
    assert read.weight == 9 and all(map(torch.equal, read[1:], keeper.past[1:]))
    assert MomentsInCheckpoints(2, None).past is None and MomentsInCheckpoints(2, str(tmp_path)).past is None
    with pytest.raises(UserError, match="has heads for 2 nuisances and 1 were asked for"):
        MomentsInCheckpoints(1, str(tmp_path / "checkpoint-3"))


# --- lengths and other traits (METHODS 6.9, 5) ---


def chat(*contents: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def loaded(folder: Path, rows: list[dict], style: str = "chatml", **method) -> list[dict]:
    path = write(folder / "rows.jsonl", rows)
    pairs, _ = load_pairs(str(path), None, read_template(byte_tokenizer(style)), Arguments(dataset="-", **method), None)
    return pairs


@pytest.mark.parametrize("style", ["chatml", "llama3", "gemma"])
def test_length_is_of_the_last_assistant_turn_whatever_stands_before(tmp_path, style):
    """Bytes are tokens here. The end of the turn counts, and is the same for every answer. Histories of one turn, of
    three, and with a first answer as long as a book."""
    rows = [
        {"chosen": chat("Hi", "four"), "rejected": chat("Hi", "sixsix")},
        {"chosen": chat("Hi", "a", "And?", "four"), "rejected": chat("Hi", "a", "And?", "sixsix")},
        {"chosen": chat("Hi", "a" * 500, "And?", "four"), "rejected": chat("Hi", "a" * 500, "And?", "sixsix")},
    ]
    pairs = loaded(tmp_path, rows, style)
    end = len(read_template(byte_tokenizer(style)).end_ids)
    assert end in (1, 2)
    assert [pair["traits"] for pair in pairs] == [[[4.0 + end], [6.0 + end]]] * 3
    assert all(len(pair["ids"][1]) - len(pair["ids"][0]) == 2 for pair in pairs), "as in the rendered sequences"


def test_padding_changes_no_length_and_counts_stay_exact(tmp_path):
    """257 would become 256 in bfloat16."""
    rows = [{"chosen": chat("Hi", "x" * 255), "rejected": chat("Hi", "x" * 4099)}]
    pairs = loaded(tmp_path, rows, max_length=9999)
    for pad_token_id in (None, 0):
        batch = collate_pairs(
            pairs + loaded(tmp_path, [{"chosen": chat("a", "b"), "rejected": chat("a", "c")}]), pad_token_id
        )
        assert batch["traits"].dtype == torch.float32 and batch["traits"][0, :, 0].tolist() == [257.0, 4101.0]


def test_a_special_token_that_was_typed_counts_as_its_characters(tmp_path):
    pairs = loaded(tmp_path, [{"chosen": chat("Hi", "<|im_end|>"), "rejected": chat("Hi", "a")}])
    assert pairs[0]["traits"] == [[12.0], [3.0]]


def test_list_items_and_bold_marks_are_counted():
    count = trait_counter(read_template(byte_tokenizer()), ["list_items", "bold_marks"])
    text = "Here:\n- **one**\n* two, **really** good\n  3. three\n12) four\n-five\n2 * 3 * 4\n2**3**4 \n- \n"
    assert count(text)[1:] == [4.0, 2.0]
    assert count("plain - text, not **bold * at all")[1:] == [0.0, 0.0]


def test_ties_are_refused_and_a_label_below_one_half_turns_the_pair(tmp_path):
    rows = [
        {"chosen": chat("a", "bb"), "rejected": chat("a", "c"), "label": 0.25},
        {"chosen": chat("a", "b"), "rejected": chat("a", "c"), "tie": True},
    ]
    (pair,) = loaded(tmp_path, rows)
    assert pair["label"] == 0.75 and pair["traits"] == [[3.0], [4.0]]


# --- the trainer's loss, on a tiny model ---


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_model(folder, "llama", "chatml")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> list[dict]:
    rows = [
        {
            "chosen": chat(f"Say {i}", "- yes **yes**\n" * (1 + i % 3)),
            "rejected": chat(f"Say {i}", "no" * (1 + (3 * i) % 7) + "\n- no" * (i % 4)),
        }
        for i in range(8)
    ]
    return loaded(tmp_path_factory.mktemp("pairs"), rows, further_heads=["list_items"])


def trainer_of(tiny: Path, folder: Path, **method) -> OdinTrainer:
    """With heads for quality, length and list items."""
    model = load_reward_model(str(tiny))
    add_nuisance_heads(model, 2, seed=0)
    arguments = Arguments(dataset="-", further_heads=["list_items"], **({"correlation_pairs": 3} | method))
    settings = TrainArguments(output_dir=str(folder), use_cpu=True)
    return OdinTrainer(method=arguments, moments=MomentsInCheckpoints(2), model=model.train(), args=settings)


def loss_of(trainer: OdinTrainer, pairs: list[dict], num_items: int | None = None, pad_token_id: int | None = None):
    batch = collate_pairs(pairs, pad_token_id)
    return trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(num_items or len(pairs)))


@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_of_a_batch_is_that_of_the_equations_on_plain_forward_passes(tiny, pairs, tmp_path, packed):
    """Hidden states from plain Transformers, one text at a time; Eq. 8 to 11 in NumPy. Pair by pair, rows of unit
    length, both sides, both nuisances, orthogonality."""
    trainer = trainer_of(tiny, tmp_path, length_weight=0.7, orthogonality_weight=0.3)
    rows = torch.cat((trainer.model.score.weight, trainer.model.score.nuisance_weight)).detach().double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    plain = AutoModelForSequenceClassification.from_pretrained(tiny).model.eval()
    hidden = [
        [plain(torch.tensor([list(ids)])).last_hidden_state[0, -1].tolist() for ids in pair["ids"]] for pair in pairs
    ]
    rewards = np.array(hidden) @ rows.T  # (8, 2, 3)
    traits = np.array([pair["traits"] for pair in pairs])  # (8, 2, 2)
    total = rewards.sum(-1)
    ranking = np.logaddexp(0, total[:, 1] - total[:, 0]).mean()
    length_terms, correlations = 0.0, {}
    for side, trait in itertools.product((0, 1), (0, 1)):
        quality, own = (np.corrcoef(rewards[:, side, head], traits[:, side, trait])[0, 1] for head in (0, trait + 1))
        length_terms += abs(quality) - own
        correlations[side, trait] = quality, own
    cosines = np.abs(rows[1:] @ rows[0])
    loss = loss_of(trainer, pairs, pad_token_id=None if packed else 0)
    assert loss.item() == pytest.approx(ranking + 0.7 * length_terms + 0.3 * cosines.sum(), abs=1e-4)
    logged = trainer.step_means.pop()
    margins = rewards[:, 0] - rewards[:, 1]
    assert logged == pytest.approx(
        {
            "ranking_loss": ranking,
            "orthogonality_loss": cosines.sum(),
            "quality_length_correlation": np.mean([correlations[side, 0][0] for side in (0, 1)]),
            "length_head_correlation": np.mean([correlations[side, 0][1] for side in (0, 1)]),
            "quality_list_items_correlation": np.mean([correlations[side, 1][0] for side in (0, 1)]),
            "list_items_head_correlation": np.mean([correlations[side, 1][1] for side in (0, 1)]),
            "accuracy": (margins[:, 0] > 0).mean(),
            "accuracy_of_sum": (margins.sum(-1) > 0).mean(),
            "margin": margins[:, 0].mean(),
        },
        abs=1e-4,
    )


def test_without_its_weight_a_term_is_gone_and_nothing_else(tiny, pairs, tmp_path):
    """lambda_O = 0 changes the total by exactly L_O; with lambda_L = 0 too the ranking loss is left."""
    trainer = trainer_of(tiny, tmp_path)
    full = loss_of(trainer, pairs)
    means = trainer.step_means.pop()
    without = loss_of(trainer_of(tiny, tmp_path, orthogonality_weight=0.0), pairs)
    assert full.item() - without.item() == pytest.approx(means["orthogonality_loss"], abs=1e-6)
    assert means["orthogonality_loss"] > 0.01
    bare = loss_of(trainer_of(tiny, tmp_path, orthogonality_weight=0.0, length_weight=0.0), pairs)
    assert bare.item() == pytest.approx(means["ranking_loss"], abs=1e-6)


def test_every_term_reaches_the_heads_and_the_backbone(tiny, pairs, tmp_path):
    for method in ({"orthogonality_weight": 0.0}, {"length_weight": 0.0}, {}):
        trainer = trainer_of(tiny, tmp_path, **method)
        loss_of(trainer, pairs).backward()
        for name, weight in trainer.model.named_parameters():
            assert weight.grad is not None and torch.isfinite(weight.grad).all(), name
        assert trainer.model.score.nuisance_weight.grad.norm(dim=-1).min() > 0


def test_accumulated_passes_weigh_as_their_share_of_the_step(tiny, pairs, tmp_path):
    """Six pairs and two in one step of eight: the ranking loss is that of all eight; the terms of the first pass, and
    those of the second, which has no correlation by itself, weigh 6/8 and 2/8."""
    parts = (pairs[:6], pairs[6:])
    found = [loss_of(trainer_of(tiny, tmp_path), part, num_items=8).item() for part in parts]
    expected = [len(part) / 8 * loss_of(trainer_of(tiny, tmp_path), part).item() for part in parts]
    assert found == pytest.approx(expected, abs=1e-6)
    trainer = trainer_of(tiny, tmp_path)
    loss_of(trainer, parts[1])
    assert trainer.step_means.pop()["length_head_correlation"] == 0


def test_running_moments_reach_from_pass_to_pass_up_to_the_window(tiny, pairs, tmp_path):
    """With a window of 8 two passes of 4 have, in the second, moments of both; a window of 4 forgets the first."""
    for window, expected in ((4, pairs[4:]), (8, None)):
        trainer = trainer_of(tiny, tmp_path, correlation_pairs=window)
        for part in (pairs[:4], pairs[4:]):
            trainer.step_means.pop()
            loss_of(trainer, part)
        last = trainer.step_means.pop()["length_head_correlation"]
        assert trainer.moments.past.weight == (4 if expected else 6), "4 + 4 * (1 - 4/8)"
        if expected:
            fresh = trainer_of(tiny, tmp_path)
            loss_of(fresh, expected)
            assert last == pytest.approx(fresh.step_means.pop()["length_head_correlation"], abs=1e-6)


def test_evaluation_has_the_ranking_loss_and_leaves_the_moments_alone(tiny, pairs, tmp_path):
    trainer = trainer_of(tiny, tmp_path)
    trainer.model.eval()
    batch = collate_pairs(pairs, None)
    loss, outputs = trainer.compute_loss(
        trainer.model, batch, return_outputs=True, num_items_in_batch=torch.tensor(len(pairs))
    )
    assert loss.item() == pytest.approx(ranking_losses(outputs["rewards"], batch["labels"]).mean().item())
    assert trainer.moments.past is None and outputs["rewards"].shape == (8, 2, 3)
    assert torch.equal(outputs["traits"], batch["traits"])


class OneOfTwo:
    """What the trainer asks of accelerate, as process `process_index` of several with these `values` (n, ...) each."""

    def __init__(self, process_index: int, values: list[torch.Tensor]):
        self.process_index, self.num_processes = process_index, len(values)
        self.values = [each.detach() for each in values]

    def gather(self, mine: torch.Tensor) -> torch.Tensor:
        counts = [len(each) for each in self.values]
        if mine.dim() == 1:
            assert mine.tolist() == [counts[self.process_index]]
            return torch.tensor(counts)
        padded = [F.pad(each, (0, 0, 0, 0, 0, max(counts) - len(each))) for each in self.values]
        torch.testing.assert_close(mine, padded[self.process_index])
        return torch.cat(padded)


@pytest.mark.parametrize("cut", [4, 7])
def test_two_processes_have_the_loss_and_the_gradient_of_one(tiny, pairs, tmp_path, cut):
    """Four pairs each, then seven and one, as batches filled by tokens have it. Processes average their gradients. The
    test below runs real processes."""
    whole = trainer_of(tiny, tmp_path)
    expected = loss_of(whole, pairs)
    expected.backward()
    parts = (pairs[:cut], pairs[cut:])
    values = []
    for part in parts:
        trainer = trainer_of(tiny, tmp_path)
        batch = collate_pairs(part, None)
        _, outputs = trainer.compute_loss(trainer.model.eval(), batch, return_outputs=True, num_items_in_batch=8)
        values.append(torch.cat((outputs["rewards"], outputs["traits"]), -1))
    losses, gradients = [], []
    for index, part in enumerate(parts):
        trainer = trainer_of(tiny, tmp_path)
        trainer.accelerator = OneOfTwo(index, values)
        loss = loss_of(trainer, part, num_items=8)
        loss.backward()
        losses.append(loss.item())
        gradients.append([weight.grad for weight in trainer.model.parameters()])
    assert np.mean(losses) == pytest.approx(expected.item(), abs=1e-5)
    for weight, *each in zip(whole.model.parameters(), *gradients, strict=True):
        torch.testing.assert_close(torch.stack(each).mean(0), weight.grad, atol=1e-5, rtol=1e-4)


def test_one_process_gathers_its_own_rows():
    values = torch.randn(3, 2, 2, requires_grad=True)
    assert gather_rows(values, SimpleNamespace(num_processes=1)) is values


# --- does it do what it is for? (METHODS 6.9, 6) ---


class ToyModel(nn.Module):
    """Features (S, 6) in place of texts: a small network and the heads of the recipe."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 16))
        self.score = heads(*torch.randn(2, 16).tolist())

    def forward(self, features):
        scores, cosines = self.score(self.body(features))
        return SequenceClassifierOutput(logits=(scores, cosines))


def collate_features(rows: list[dict]) -> dict:
    features = torch.tensor([side for row in rows for side in row["features"]])
    return {
        "labels": torch.ones(len(rows)),
        "traits": torch.tensor([row["traits"] for row in rows]),
        "features": features,
    }


def train_toy(folder: Path, utility, passes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rewards (N, 2, K) and lengths (N, 2) of held-out pairs. The first of six features is the length, standardised.
    A step has 128 pairs, in so many `passes`."""
    rng = np.random.default_rng(0)
    set_seed(0)
    features = rng.normal(size=(6000, 2, 6)).astype(np.float32)
    lengths = 200 + 50 * features[..., 0]
    order = np.argsort(-utility(features), axis=1)  # chosen first
    features = np.take_along_axis(features, order[..., None], 1).tolist()
    lengths = np.take_along_axis(lengths, order, 1)
    rows = [{"features": f, "traits": length[:, None].tolist()} for f, length in zip(features, lengths, strict=True)]
    trainer = OdinTrainer(
        method=Arguments(dataset="-"),
        moments=MomentsInCheckpoints(1),
        model=ToyModel(),
        args=TrainArguments(
            output_dir=str(folder),
            learning_rate=1e-2,
            num_train_epochs=15,
            per_device_train_batch_size=128 // passes,
            per_device_eval_batch_size=500,
            gradient_accumulation_steps=passes,
            save_strategy="no",
            disable_tqdm=True,
            label_names=["labels"],
            use_cpu=True,
        ),
        train_dataset=rows[:3000],
        data_collator=collate_features,
    )
    trainer.train()
    rewards, _ = trainer.predict(rows[3000:]).predictions
    return rewards, lengths[3000:]


@pytest.mark.parametrize("passes", [1, 4])
def test_where_length_is_all_that_is_preferred_the_length_head_takes_it(tmp_path, passes):
    """With four passes a step, of 32 pairs each, by the running moments of 128."""
    rewards, lengths = train_toy(tmp_path, lambda features: features[..., 0], passes)
    for side in (0, 1):
        assert abs(np.corrcoef(rewards[:, side, 0], lengths[:, side])[0, 1]) < 0.1
        assert np.corrcoef(rewards[:, side, 1], lengths[:, side])[0, 1] > 0.9
    assert (rewards.sum(-1)[:, 0] > rewards.sum(-1)[:, 1]).mean() > 0.9, "the sum has learnt the preference"


def test_where_length_does_not_matter_the_quality_head_is_as_good_as_the_sum(tmp_path):
    rewards, lengths = train_toy(tmp_path, lambda features: features[..., 1] + features[..., 2])
    accuracy = (rewards[:, 0, 0] > rewards[:, 1, 0]).mean()
    assert accuracy > 0.9 and accuracy > (rewards.sum(-1)[:, 0] > rewards.sum(-1)[:, 1]).mean() - 0.03
    assert abs(np.corrcoef(rewards[..., 0].flatten(), lengths.flatten())[0, 1]) < 0.1


# --- what is kept (METHODS 6.9, 8 and 9) ---


def test_the_quality_head_that_is_kept_is_plain_and_scores_the_same(tiny, pairs, tmp_path):
    trainer = trainer_of(tiny, tmp_path)
    model = trainer.model.eval()
    batch = collate_pairs(pairs, None)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "traits")}
    with torch.no_grad():
        scores, cosines = model(**inputs).logits
        rows = keep_quality_head(model)
        kept = model(**inputs).logits
    torch.testing.assert_close(kept, scores[:, :1])
    assert type(model.score) is Float32Linear and list(dict(model.score.named_parameters())) == ["weight"]
    torch.testing.assert_close(rows[:1], model.score.weight.detach())
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(rows[1:] @ rows[0], cosines)


def test_nuisance_rows_come_from_the_seed_and_are_not_the_quality_row(tmp_path):
    """Of a language model the quality row is drawn as well, from the same seed."""
    save_tiny_judge(tmp_path)
    found = []
    for seed in (0, 0, 1):
        model = load_reward_model(str(tmp_path), seed=seed)
        assert model.missing_head
        add_nuisance_heads(model, 2, seed)
        found.append(heads_of(model).nuisance_weight.detach())
        _, cosines = model.score(torch.zeros(1, 32))
        assert cosines.abs().max() < 0.9, "parallel rows would never come apart"
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_head_that_is_not_one_plain_layer_is_refused():
    model = nn.Module()
    model.score = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    with pytest.raises(UserError, match="one linear layer without a bias, as"):
        add_nuisance_heads(model, 1, 0)


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
    rows = load_file(trained / "odin_heads.safetensors")
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


def test_lora_ends_in_a_plain_classifier_and_keeps_its_adapter(world, monkeypatch):
    """All heads are trained beside the adapter; the one that is saved and merged is the quality head."""
    flags = ("--use_peft", "true", "--lora_target_modules", "all-linear", "--num_train_epochs", "2")
    record = run_here(monkeypatch, world, "lora", *flags, "--further_heads", "list_items", "bold_marks")
    assert record["reload_difference"] <= 1e-4
    adapter = load_file(world / "lora" / "adapter" / "adapter_model.safetensors")
    assert [tuple(value.shape) for name, value in adapter.items() if "score" in name] == [(1, 32)]
    _, loading = AutoModelForSequenceClassification.from_pretrained(world / "lora", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    rows = load_file(world / "lora" / "odin_heads.safetensors")
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
    rows = load_file(world / output / "odin_heads.safetensors")
    assert {tuple(row.shape) for row in rows.values()} == {(32,)} and rows.keys() == {"quality", "length"}
    of_one = load_file(world / name / "odin_heads.safetensors")
    assert all((rows[head] - of_one[head]).abs().max() < 1e-4 for head in rows)
    _, loading = AutoModelForSequenceClassification.from_pretrained(world / output, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    shutil.copytree(world / output / "checkpoint-3", world / f"{output}_resumed" / "checkpoint-3")
    resumed = launch(world, kind, f"{output}_resumed", *flags, "--resume_from_checkpoint", "true")
    assert resumed["losses"] == pytest.approx(expected["losses"], rel=1e-5, abs=1e-5)


@pytest.mark.slow
def test_two_processes_with_batches_of_unequal_size(world):
    """Batches filled by tokens: a process may have more pairs than the other. The log counts every pair once."""
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
    rows = load_file(world / "qlora" / "odin_heads.safetensors")
    torch.testing.assert_close(merged.score.weight[0].detach(), rows["quality"])
