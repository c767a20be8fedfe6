"""The shared prefix must change nothing but the time: rewards, loss and gradients equal separate forward passes."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code import prefix_attention
from useful_code.reward_model import prepare_reward_model
from useful_code.shared_prefix import Layout, common_prefix_length, num_packed_tokens, pack, pad
from useful_code.tiny import tiny_reward_model

SHAREABLE = [
    "llama",
    "gemma",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma3_text",
]  # the last two slide a window of 16


def random_groups(seed: int, num_groups: int = 3, max_responses: int = 4) -> list[list[list[int]]]:
    rng = random.Random(seed)
    groups = []
    for _ in range(num_groups):
        prompt = [rng.randrange(5, 100) for _ in range(rng.randrange(0, 30))]
        groups.append(
            [
                prompt + [rng.randrange(5, 100) for _ in range(rng.randrange(1, 25))]
                for _ in range(rng.randrange(1, max_responses + 1))
            ]
        )
    return groups


def separate_rewards(model, groups) -> torch.Tensor:
    """One forward pass per sequence, without padding, packing or shared attention: (S,)."""
    return torch.cat([model(input_ids=torch.tensor([ids])).logits[:, 0] for group in groups for ids in group])


def pair_loss(rewards: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softplus(rewards[1::2] - rewards[0::2]).mean()


def gradient_norm(model) -> float:
    return torch.norm(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])).item()


def plain_and_shared(architecture: str):
    plain = tiny_reward_model(architecture, 100, seed=1)
    shared = tiny_reward_model(architecture, 100, seed=1)
    prepare_reward_model(shared)
    assert shared.shares_prefix
    return plain.eval(), shared.eval()


@pytest.mark.parametrize("architecture", SHAREABLE)
def test_packed_rewards_equal_plain_transformers(architecture):
    plain, shared = plain_and_shared(architecture)
    groups = random_groups(seed=0, num_groups=5)
    with torch.no_grad():
        expected = separate_rewards(plain, groups)
        packed = shared(**pack(groups)).logits[:, 0]
        left = shared(**pad(groups, pad_token_id=7, side="left")).logits[:, 0]
        right = shared(**pad(groups, pad_token_id=7, side="right")).logits[:, 0]
    assert expected.std() > 1e-3  # a constant model would pass anything
    for rewards in (packed, left, right):
        torch.testing.assert_close(rewards, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", SHAREABLE)
def test_packed_loss_and_gradients_equal_plain_transformers(architecture):
    plain, shared = plain_and_shared(architecture)
    groups = [group[:2] if len(group) > 1 else group * 2 for group in random_groups(seed=2, num_groups=4)]
    losses = [pair_loss(separate_rewards(plain, groups)), pair_loss(shared(**pack(groups)).logits[:, 0])]
    for loss in losses:
        loss.backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    assert gradient_norm(shared) == pytest.approx(gradient_norm(plain), rel=1e-5)
    for (name, expected), actual in zip(plain.named_parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def varlen_by_hand(
    query, key, value, query_starts, key_starts, longest_query, longest_text, *, scale, window_size, **_
):
    """What FlashAttention promises, one text at a time: queries stand at the end of their text and look back."""
    outputs = []
    bounds = zip(query_starts[:-1], query_starts[1:], key_starts[:-1], key_starts[1:], strict=True)
    for q0, q1, k0, k1 in bounds:
        assert q1 - q0 <= longest_query and k1 - k0 <= longest_text
        heads = query.shape[1] // key.shape[1]
        q, k, v = query[q0:q1], key[k0:k1].repeat_interleave(heads, 1), value[k0:k1].repeat_interleave(heads, 1)
        distance = (torch.arange(k1 - k0 - (q1 - q0), k1 - k0)[:, None] - torch.arange(k1 - k0)[None]).long()
        seen = (distance >= 0) & ((distance <= window_size[0]) | (window_size[0] < 0))
        weights = (torch.einsum("qhc,khc->hqk", q, k) * scale).masked_fill(~seen, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khc->qhc", weights, v))
    return torch.cat(outputs)


@pytest.mark.parametrize("architecture", SHAREABLE)
def test_varlen_kernel_equals_segments(architecture, monkeypatch):
    """Rewards and gradients, with FlashAttention (for GPUs) computed by hand; tests/test_gpu.py has the real one."""
    monkeypatch.setattr(prefix_attention, "_varlen_computes", lambda *_: True)
    monkeypatch.setattr(prefix_attention, "varlen_attn", varlen_by_hand)
    _, shared = plain_and_shared(architecture)
    groups = random_groups(seed=3)
    with torch.inference_mode():  # what is kept from scoring must serve in training
        shared(**pack(groups, "varlen"))
    found = []
    for kernel in ("segments", "varlen"):
        shared.zero_grad()
        rewards = shared(**pack(groups, kernel)).logits
        rewards.square().sum().backward()
        found.append((rewards.detach(), gradient_norm(shared)))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=0)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-5)


def test_gradient_checkpointing_changes_nothing():
    _, shared = plain_and_shared("llama")
    groups = random_groups(seed=4, num_groups=2, max_responses=2)
    norms = []
    for checkpointing in (False, True):
        shared.train()
        shared.zero_grad()
        if checkpointing:
            shared.activation_checkpointing_enable()
        shared(**pack(groups)).logits.sum().backward()
        norms.append(gradient_norm(shared))
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)


def test_soft_capped_attention_falls_back_with_a_reason(caplog):
    """Gemma-2 is padded instead, and its rewards still do not depend on the side of the padding."""
    plain, padded = tiny_reward_model("gemma2", 100).eval(), tiny_reward_model("gemma2", 100).eval()
    prepare_reward_model(padded)
    assert not padded.shares_prefix
    assert "soft-capped" in caplog.text
    groups = random_groups(seed=5)
    with torch.no_grad():
        expected = separate_rewards(plain, groups)
        for side in ("left", "right"):
            rewards = padded(**pad(groups, pad_token_id=7, side=side)).logits[:, 0]
            torch.testing.assert_close(rewards, expected, atol=1e-5, rtol=0)


def test_an_encoder_falls_back_with_a_reason(caplog):
    model = tiny_reward_model("bert", 100)
    prepare_reward_model(model)
    assert not model.shares_prefix
    assert "padded batches" in caplog.text


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_layout_tells_where_every_sequence_is(seed):
    """Reading the row back through positions, prefix and ends gives every sequence."""
    groups = random_groups(seed)
    batch = pack(groups)
    row = batch["input_ids"][0].tolist()
    layout: Layout = batch["layout"]
    positions = batch["position_ids"][0].tolist()
    assert len(row) == len(positions) == layout.num_tokens == sum(map(num_packed_tokens, groups))
    ends = iter(layout.end_indices())
    start = 0
    for shape, sequences in zip(layout.groups, groups, strict=True):
        prefix = row[start : start + shape.prefix]
        assert positions[start : start + shape.prefix] == list(range(shape.prefix))
        start += shape.prefix
        for length, sequence in zip(shape.suffixes, sequences, strict=True):
            assert prefix + row[start : start + length] == sequence
            assert positions[start : start + length] == list(range(shape.prefix, len(sequence)))
            start += length
            assert next(ends) == start - 1


def test_identical_sequences_keep_an_end_each():
    assert common_prefix_length([[1, 2, 3], [1, 2, 3]]) == 2
    assert pack([[[1, 2, 3], [1, 2, 3]]])["layout"].end_indices() == [2, 3]


def test_empty_sequences_are_refused():
    with pytest.raises(ValueError, match="every sequence a token"):
        pack([[[1], []]])
    with pytest.raises(ValueError, match="every group"):
        pack([[]])
