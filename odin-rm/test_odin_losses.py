"""Losses, heads and correlations by hand, and their gradients across passes.

Travels with the folder when it is copied.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from batch_correlations import MomentsInCheckpoints, correlation, smoothed_size
from hypothesis import given
from hypothesis import strategies as st
from odin_examples import heads
from train_odin import (
    head_correlations,
    length_loss,
    orthogonality_loss,
    ranking_losses,
)

from useful_code.user_errors import UserError

LENGTHS = torch.tensor([3.0, 5.0, 8.0, 12.0])
QUALITY, LENGTH_HEAD = torch.tensor([0.1, 0.4, 0.2, 0.3]), torch.tensor([0.2, 0.5, 0.9, 1.1])
finite = st.floats(-50, 50)


def both_sides(*columns: torch.Tensor) -> torch.Tensor:
    """(N, 2, C) with the same columns (N,) for chosen and rejected."""
    return torch.stack(columns, -1)[:, None].expand(-1, 2, -1)


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
    heads = ["quality", "length", "list_items"]
    keeper = MomentsInCheckpoints(heads)
    keeper.keep(correlation(torch.randn(9, 2, 2), torch.rand(9, 2, 2))[1])
    state = SimpleNamespace(is_world_process_zero=True, global_step=3)
    keeper.on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    read = MomentsInCheckpoints(heads, str(tmp_path / "checkpoint-3")).past
    assert read.weight == 9 and all(map(torch.equal, read[1:], keeper.past[1:]))
    assert MomentsInCheckpoints(heads, None).past is None and MomentsInCheckpoints(heads, str(tmp_path)).past is None
    for others in (heads[:2], [*heads[:2], "bold_marks"]):
        with pytest.raises(UserError, match="has the heads quality, length, list_items, and quality, length"):
            MomentsInCheckpoints(others, str(tmp_path / "checkpoint-3"))


def test_a_pass_that_overflows_leaves_the_past_as_it_was():
    """nan in running moments would never leave, and every later correlation be 0."""
    keeper = MomentsInCheckpoints(["quality", "length"])
    x, y = torch.randn(9, 2), torch.rand(9, 2)
    keeper.keep(correlation(x, y, None, window=128)[1])
    before = keeper.past
    keeper.keep(correlation(torch.full_like(x, torch.nan), y, before, window=128)[1])
    keeper.keep(correlation(torch.full_like(x, torch.inf), y, before, window=128)[1])
    assert keeper.past is before
    constant, moments = correlation(torch.ones(4, 2), y[:4], before, window=128)
    assert constant.isfinite().all() and moments.is_finite()
