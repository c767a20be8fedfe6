"""Batches and their numbers: every group once, within the budget, the same numbers whatever stands beside."""

import argparse
import random
from array import array

import pytest
import torch
from accelerate import PartialState
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2ForSequenceClassification

from useful_code.reward_model import load_reward_model, prepare_reward_model
from useful_code.scoring import (
    Scorer,
    add_model_arguments,
    fill_batches,
    fill_padded_batches,
    load_reward_scorer,
    score_batch,
)
from useful_code.shared_prefix import num_packed_tokens
from useful_code.tiny import byte_tokenizer, save_tiny_model, tiny_reward_model

TOLERANCE = 1e-5  # float32, rewards of size 1
GROUP_LISTS = st.lists(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=3), max_size=12
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring")
    save_tiny_model(folder / "model")
    save_tiny_model(folder / "soft-capped", "gemma2")  # cannot share a prefix: padded batches
    save_tiny_model(folder / "other weights", seed=1)
    return folder


def scorer_of(model, pad_token_id: int = 0) -> Scorer:
    return Scorer(model, None, pad_token_id, "model", 8192)


def test_positions_that_depend_on_the_batch_make_every_text_run_alone():
    """With dynamic RoPE a text beside one over the original length would get other positions, so another score."""
    changes = {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}
    model = tiny_reward_model("llama", 300, **changes).eval()
    prepare_reward_model(model)
    assert not model.shares_prefix
    short, long = [[5, 6, 7], [5, 6, 8]], [list(range(5, 65)), list(range(5, 66))]
    alone = score_batch(scorer_of(model), [short])[0]
    assert score_batch(scorer_of(model), [long, short])[1] == alone
    assert score_batch(scorer_of(model), [short, long])[0] == alone


@pytest.mark.parametrize("name", ["model", "soft-capped"])
def test_equal_responses_get_equal_scores(folder, name):
    """To the last bit: otherwise rounding picks a winner where there is a tie."""
    model = load_reward_model(str(folder / name)).eval()
    generator = random.Random(0)
    for _ in range(20):
        same, other = ([generator.randrange(250) for _ in range(30)] for _ in range(2))
        first, second, third = score_batch(scorer_of(model, 256), [[same, other], [other, same, array("i", same)]])[1]
        assert second == third != first


def test_a_model_with_its_own_forward_is_told_the_pad_id(tmp_path):
    """GPT-2 looks for the last id that is not its pad id. The tokenizer pads with another than the model was saved
    with, so without being told it would read the padding."""
    torch.manual_seed(0)
    shape = {"vocab_size": len(byte_tokenizer()), "n_embd": 32, "n_layer": 1, "n_head": 4, "num_labels": 1}
    tokens = {"pad_token_id": 7, "bos_token_id": None, "eos_token_id": None}
    GPT2ForSequenceClassification(GPT2Config(**shape, **tokens)).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    arguments = parser.parse_args(["--reward_name_or_path", str(tmp_path)])
    scorer = load_reward_scorer(arguments, PartialState(cpu=True))
    group = [[10, 11, 12], [10, 11, 12, 13, 14]]
    alone = [scorer.model(input_ids=torch.tensor([ids])).logits.item() for ids in group]
    assert [score for (score,) in score_batch(scorer, [group])[0]] == pytest.approx(alone, abs=TOLERANCE)


@given(GROUP_LISTS, st.integers(1, 20))
def test_batches_hold_every_group_once_within_the_budget(groups, max_tokens):
    batches = fill_batches(groups, max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(groups)))
    for batch in batches:
        assert len(batch) == 1 or sum(num_packed_tokens(groups[i]) for i in batch) <= max_tokens
    lengths = [num_packed_tokens(groups[i]) for batch in batches for i in batch]
    assert lengths == sorted(lengths, reverse=True)  # too little memory shows in the first batch, not in the last


@given(GROUP_LISTS, st.integers(1, 20))
def test_padded_batches_stay_within_the_budget_with_their_padding(groups, max_tokens):
    batches = fill_padded_batches(groups, max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(groups)))
    for batch in batches:
        sequences = [sequence for index in batch for sequence in groups[index]]
        assert len(batch) == 1 or len(sequences) * max(map(len, sequences)) <= max_tokens
