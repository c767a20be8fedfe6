"""Penalties, the matrix, the gate (METHODS 5.9.3 to 5.9.8, Appendix A.6), with the original's faults put back."""

import argparse

import debias
import numpy as np
import pytest
import torch
from debias import GRID, penalties, transform_matrix
from gating_report import write_gating_report
from hypothesis import given
from hypothesis import strategies as st
from train_gating import (
    gated_scores,
    held_out_numbers,
    new_gate,
    ranking_losses,
    starting_scale,
    train_gate,
    verbosity_index,
)

from useful_code.armorm_model import GatingNetwork
from useful_code.metrics import spearman_correlation
from useful_code.user_errors import UserError

K, D = 4, 8


def answers_that_follow(strengths, seed=0, num_rows=2000):
    """Ratings (N, K): the last is verbosity, the k-th follows it with strengths[k]."""
    rng = np.random.default_rng(seed)
    verbosity = rng.standard_normal(num_rows)
    others = [strength * verbosity + rng.standard_normal(num_rows) for strength in strengths]
    return np.stack((*others, verbosity), 1)


def options(**changes):
    defaults = {"learning_rate": 1e-2, "max_steps": 30, "batch_size": 32, "dropout": 0.0, "device": "cpu", "seed": 0}
    return argparse.Namespace(**(defaults | changes))


def pairs(seed=0, num_pairs=200):
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randn(num_pairs, D, generator=generator)
    rewards = torch.randn(num_pairs, 2, K, generator=generator)
    return prompts, rewards, torch.ones(num_pairs)


# --- debiasing ---


def test_the_penalty_is_the_smallest_that_is_enough():
    rewards = answers_that_follow([0.5, 0.1, -0.4])
    found = penalties(rewards, verbosity=3, threshold=0.03)
    assert all(penalty.is_found for penalty in found)
    for k, penalty in enumerate(found[:3]):
        left = {size: spearman_correlation(rewards[:, k] - size * rewards[:, 3], rewards[:, 3]) for size in GRID}
        assert left[penalty.size] <= 0.03 and penalty.after == left[penalty.size]
        assert all(left[size] > 0.03 for size in GRID if size < penalty.size)
    assert found[0].size > found[1].size > 0 == found[2].size  # what follows it backwards is left alone


def test_an_objective_without_a_penalty_is_said_to_have_none():
    """Not 1, as the original gives it silently: what leaves least, and `is_found` says that it is not enough."""
    hopeless, constant = answers_that_follow([3.0]), np.full(2000, 0.5)
    rewards = np.column_stack((hopeless[:, 0], constant, hopeless[:, 1]))
    first, second, verbosity = penalties(rewards, verbosity=2)
    assert (first.size, first.is_found) == (max(GRID), False) and first.after > 0.03
    assert second == debias.Penalty(0.0, None, None, False)
    assert verbosity.size == 1


def test_lengths_can_choose_the_penalty():
    rewards = answers_that_follow([0.5])
    lengths = np.exp(rewards[:, 1]) + 100.0  # in the same order as verbosity
    assert penalties(rewards, 1, target=lengths)[0].size == penalties(rewards, 1)[0].size
    unrelated = np.random.default_rng(1).standard_normal(2000)
    assert penalties(rewards, 1, threshold=0.1, target=unrelated)[0].size == 0


def test_the_matrix_of_appendix_a6():
    """Verbosity 2, penalties (.2, .1, 1), R = (1, 2, 3), g = (.5, .3, .2).

    R T = (.4, 1.7, 0), the score .71, and on the ratings as they are the coefficients (.5, .3, -.13).
    """
    matrix = transform_matrix([0.2, 0.1, 1.0], verbosity=2)
    rewards, gate = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.3, 0.2])
    assert rewards @ matrix == pytest.approx([0.4, 1.7, 0], abs=1e-6)
    assert matrix @ gate == pytest.approx([0.5, 0.3, -0.13], abs=1e-6)
    score = gated_scores(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[[1.0, 2, 3]] * 2]), torch.from_numpy(matrix))
    assert score.tolist() == [pytest.approx([0.71, 0.71])]


@given(st.lists(st.floats(0, 0.95), min_size=1, max_size=6), st.data())
def test_verbosity_never_counts_for_an_answer(sizes, data):
    verbosity = data.draw(st.integers(0, len(sizes) - 1))
    sizes[verbosity] = 1.0
    matrix = transform_matrix(sizes, verbosity)
    gate = np.array(data.draw(st.lists(st.floats(0, 5), min_size=len(sizes), max_size=len(sizes))))
    coefficients = matrix @ gate
    assert coefficients[verbosity] <= 1e-6
    others = np.delete(np.arange(len(sizes)), verbosity)
    assert coefficients[others] == pytest.approx(gate[others])
    assert matrix[verbosity, verbosity] == 0


def test_which_rating_is_verbosity():
    assert verbosity_index(["a", "helpsteer-verbosity"], None) == 1
    assert verbosity_index(["a", "b"], "b") == 1
    for names, asked in ((["a", "b"], None), (["x-verbosity", "y-verbosity"], None), (["a"], "c")):
        with pytest.raises(UserError, match="--verbosity_objective"):
            verbosity_index(names, asked)


# --- the report ---


def test_a_scale_of_nothing_is_warned_of_beside_penalties(tmp_path, capsys):
    """All warnings: penalties were chosen, none is enough, the scale fell to 0, and one prompt was held out."""
    sides = {"chosen_longer": {"accuracy": 0.5}, "chosen_shorter": {"accuracy": None}}
    numbers = {"pairs": 2, "accuracy": 0.5, "interval": [0, 1], "length": sides | {"longer_wins_accuracy": 0.5}}
    description = {
        "scale": 0.0,
        "penalties": [debias.Penalty(0.95, 0.9, 0.5, False)._asdict(), debias.Penalty(1.0, 1.0, None, True)._asdict()],
        "held_out": {"gate": numbers | {"length": numbers["length"] | {"spearman": None}}},
    }
    log = [{"step": step, "loss": 0.7, "accuracy": 0.5} for step in (1, 2)]
    write_gating_report(tmp_path, ["a", "verbosity"], description, np.zeros((2, 2)), [{"prompt": "a"}] * 2, log)
    said = capsys.readouterr().out
    for place in (said, (tmp_path / "report.html").read_text(encoding="utf-8")):
        assert "the scale of the gate ended at 0" in place and "a: no penalty of the grid is enough" in place
        assert "held-out accuracy: 1 held-out prompt is behind it" in place


# --- the gate ---


@pytest.mark.parametrize("shape", [(5, D), (5, 2, D)])
def test_weights_are_not_negative_and_sum_to_the_scale_over_the_objectives(shape):
    """The original's softmax is over dimension 1: with (B, 2, D) over chosen and rejected, where all are one half."""
    gate = GatingNetwork(D, K, 10.0, 16, 3)
    with torch.no_grad():
        gate.logit_scale.fill_(2.5)
        gate.layers[-1].weight.mul_(100)
    output = gate(torch.randn(shape))
    assert output.shape == (*shape[:-1], K) and (output >= 0).all()
    assert output.sum(-1).numpy(force=True) == pytest.approx(np.full(shape[:-1], 2.5))
    assert output.std(-1).min() > 1e-3  # and says something


def test_the_gate_is_a_matter_of_the_prompt_alone():
    gate = new_gate("prompt", D, K, 16, 3, seed=0)
    prompts, rewards, _ = pairs()
    scores = gated_scores(gate(prompts), rewards, torch.eye(K))
    swapped = gated_scores(gate(prompts), rewards.flip(1), torch.eye(K))
    assert torch.equal(scores.flip(1), swapped)
    assert torch.equal(new_gate("constant", D, K, 16, 3, 0)(prompts), torch.full((200, K), 1 / K))


@pytest.mark.parametrize(("kind", "moving"), [("prompt", 9), ("constant", 2), ("uniform", 1)])
def test_only_the_gate_is_trained_and_of_it_what_the_kind_says(kind, moving):
    gate = new_gate(kind, D, K, 16, 3, seed=0)
    before = {name: value.clone() for name, value in gate.state_dict().items()}
    prompts, rewards, label = pairs()
    transform = torch.eye(K)
    train_gate(gate, prompts, rewards, label, transform, options(), progress=False)
    assert sum(not torch.equal(before[name], value) for name, value in gate.state_dict().items()) == moving
    assert not any(tensor.requires_grad for tensor in (prompts, rewards, transform))
    output = gate(prompts)
    if kind != "prompt":
        assert output.std(0).max() < 1e-6
    if kind == "uniform":
        assert output.std(1).max() < 1e-6


def test_changing_the_penalties_changes_the_training():
    """The original computes debiased ratings and trains on the others: then this loss would not move."""
    prompts, rewards, label = pairs()
    losses = {}
    for size in (0.0, 0.9):
        transform = torch.from_numpy(transform_matrix([size] * (K - 1) + [1.0], K - 1))
        log = train_gate(
            new_gate("prompt", D, K, 16, 3, 0), prompts, rewards, label, transform, options(), progress=False
        )
        losses[size] = [entry["loss"] for entry in log]
    assert losses[0.0] != losses[0.9]


def test_the_gate_finds_the_rating_that_decides_each_kind_of_prompt():
    prompts, rewards, label = pairs(num_pairs=400)
    kind = (prompts[:, 0] > 0).long()  # which rating decides
    decides = rewards[torch.arange(400), :, kind]
    order = decides.argsort(1, descending=True)
    rewards = rewards.gather(1, order[..., None].expand(-1, -1, K))
    gate = new_gate("prompt", D, K, 32, 3, seed=0)
    train_gate(gate, prompts, rewards, label, torch.eye(K), options(max_steps=300, batch_size=128), progress=False)
    output = gate(prompts)
    assert (output.argmax(1) == kind).float().mean() > 0.9


def test_the_same_seed_gives_the_same_gate():
    prompts, rewards, label = pairs()
    gates = [new_gate("prompt", D, K, 16, 3, seed=1) for _ in range(2)]
    for gate in gates:
        train_gate(gate, prompts, rewards, label, torch.eye(K), options(dropout=0.2, seed=1), progress=False)
    for a, b in zip(gates[0].parameters(), gates[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_losses_by_hand():
    """softplus(-0.7) = 0.40318605; with the label 0.25: 0.25 * 0.40318605 + 0.75 * 1.10318605 = 0.92818605."""
    scores = torch.tensor([[1.2, 0.5], [1.2, 0.5]])
    assert ranking_losses(scores, torch.tensor([1.0, 0.25])).tolist() == pytest.approx([0.40318605, 0.92818605])


def test_the_scale_does_not_fall_below_nothing():
    """Labels against all ratings: below 0 verbosity would count for an answer (METHODS 5.9.6)."""
    prompts, rewards, _ = pairs()
    rewards = rewards.sort(1).values  # the first answer is rated lower throughout
    gate = new_gate("uniform", D, K, 16, 3, seed=0)
    settings = options(max_steps=200, learning_rate=0.1)
    train_gate(gate, prompts, rewards, torch.ones(len(prompts)), torch.eye(K), settings, progress=False)
    assert gate.logit_scale.item() == 0 and (gate(prompts) >= 0).all()


def test_held_out_numbers_know_soft_labels_and_split_votes():
    """Margins log 3 under labels 0.75 are the optimum, 0.5623 nats; a split vote counts half either way."""
    scores = torch.tensor([[np.log(3.0), 0.0]] * 2 + [[0.0, 2.0]], dtype=torch.float32)
    rows = [{"num_tokens": [3, 5 + i], "prompt": str(i)} for i in range(3)]
    numbers = held_out_numbers(scores[:2], torch.tensor([0.75, 0.75]), rows[:2])
    assert numbers["loss"] == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), abs=1e-6)
    numbers = held_out_numbers(scores, torch.tensor([1.0, 0.5, 0.5]), rows)
    assert numbers["accuracy"] == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_the_scale_starts_where_equal_weights_fit_best():
    """Labels of the law sigmoid(20 x the mean difference), and labels against it: then as small as it may."""
    generator = torch.Generator().manual_seed(0)
    rewards = 0.1 * torch.randn(20_000, 2, 4, generator=generator)
    difference = (rewards[:, 0] - rewards[:, 1]).mean(-1)
    label = torch.bernoulli(torch.sigmoid(20 * difference), generator=generator)
    assert starting_scale(rewards, label, torch.eye(4)) == pytest.approx(20, rel=0.15)
    assert starting_scale(rewards, 1 - label, torch.eye(4)) == 1


def test_a_gate_learns_to_weigh_within_the_default_number_of_steps():
    """Two kinds of prompt in which one rating counts four times the other: the law of the labels is found, where a
    scale that starts too small would put all weight on one rating."""
    generator = torch.Generator().manual_seed(1)
    rewards = 0.2 * torch.randn(4000, 2, 2, generator=generator)
    kind = torch.randint(2, (4000,), generator=generator)
    counts = torch.tensor([[16.0, 4.0], [4.0, 16.0]])[kind]  # (N, K)
    label = torch.sigmoid((counts * (rewards[:, 0] - rewards[:, 1])).sum(-1))
    prompts = torch.eye(2)[kind]
    gate = new_gate("prompt", 2, 2, hidden_dim=16, n_hidden=1, seed=0)
    settings = options(learning_rate=1e-3, max_steps=2000, batch_size=256)
    train_gate(gate, prompts, rewards, label, torch.eye(2), settings, progress=False)
    assert gate(torch.eye(2)).detach() == pytest.approx(torch.tensor([[16.0, 4.0], [4.0, 16.0]]), abs=2.5)
