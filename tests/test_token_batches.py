"""Batches by tokens: every row once, within the budget, dealt evenly to any number of processes."""

import itertools

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from useful_code.token_batches import TokenBudgetSampler
from useful_code.training.token_loader import token_budget_loader
from useful_code.user_errors import UserError

lengths = st.lists(st.one_of(st.integers(1, 12), st.integers(6, 7), st.just(12)), min_size=1, max_size=40)
processes = st.integers(1, 8)


def fewest_batches(num_tokens: list[int], max_tokens: int) -> int:
    """By trying everything; only for a handful of rows."""
    rows = range(len(num_tokens))
    for number in range(1, len(num_tokens) + 1):
        for places in itertools.product(range(number), repeat=len(num_tokens)):
            loads = [sum(num_tokens[i] for i in rows if places[i] == k) for k in range(number)]
            if max(loads) <= max_tokens:
                return number
    raise AssertionError("a row is over the budget")


@given(lengths, st.integers(12, 40), st.integers(0, 5), processes)
def test_every_row_once_within_the_budget_and_dealt_evenly(num_tokens, max_tokens, seed, num_processes):
    try:
        sampler = TokenBudgetSampler(num_tokens, max_tokens, seed, num_processes)
    except UserError:
        return  # test_rows_that_can_be_dealt_evenly_are_never_refused says when it may
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(len(num_tokens)))
    assert all(batch and sum(num_tokens[row] for row in batch) <= max_tokens for batch in batches)
    assert len(batches) == len(sampler) and len(batches) % num_processes == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 24), processes)
def test_rows_that_can_be_dealt_evenly_are_never_refused(num_tokens, max_tokens, num_processes):
    """A number of batches that is a multiple of the processes is possible exactly if the fewest batches are at most
    the largest multiple within the number of rows: any batch of several rows can be split."""
    most = len(num_tokens) // num_processes * num_processes
    possible = max(num_tokens) <= max_tokens and most > 0 and fewest_batches(num_tokens, max_tokens) <= most
    if possible:
        TokenBudgetSampler(num_tokens, max_tokens, 0, num_processes)
    else:
        with pytest.raises(UserError):
            TokenBudgetSampler(num_tokens, max_tokens, 0, num_processes)


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_nearly_fill_a_batch_are_paired(seed):
    """Five rows, two processes: 4 batches are possible only if 7 + 3 share one, whatever the shuffle says."""
    sampler = TokenBudgetSampler([7, 8, 8, 8, 3], 10, seed, num_processes=2)
    assert sorted(map(sorted, sampler)) == [[0, 4], [1], [2], [3]]
    # Seven rows, four processes: a short row to each 6 beside the 7. Short rows first would need five batches.
    sampler = TokenBudgetSampler([1, 1, 1, 6, 6, 6, 7], 7, seed, num_processes=4)
    assert sorted(map(len, sampler)) == [1, 2, 2, 2]


@pytest.mark.parametrize(
    ("num_tokens", "max_tokens", "num_processes", "message"),
    [
        ([], 10, 1, "0 rows cannot feed 1"),
        ([1, 1], 10, 3, "2 rows cannot feed 3"),
        ([5, 11], 10, 1, "a row has 11 tokens"),
        ([8, 8, 9], 10, 2, "18 is enough"),
    ],
)
def test_impossible_rows_are_refused_with_a_remedy(num_tokens, max_tokens, num_processes, message):
    with pytest.raises(UserError, match=message):
        TokenBudgetSampler(num_tokens, max_tokens, 0, num_processes)


@given(lengths.filter(lambda rows: len(rows) > 1), processes)
def test_the_named_remedy_is_enough(num_tokens, num_processes):
    if len(num_tokens) // 2 >= num_processes:
        TokenBudgetSampler(num_tokens, 2 * max(num_tokens), 0, num_processes)


def test_same_seed_same_batches_and_epochs_differ():
    num_tokens = [1 + i % 7 for i in range(60)]
    sampler, twin = (TokenBudgetSampler(num_tokens, 14, seed=3) for _ in range(2))
    first = list(sampler)
    assert list(sampler) == first == list(twin)
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first and sorted(second) == sorted(first)
    twin.set_epoch(1)
    assert list(twin) == second
    assert sorted(TokenBudgetSampler(num_tokens, 14, seed=4)) != sorted(first)


def test_batches_are_random_samples_not_sorted_by_length():
    """Half the rows are short. In sorted batches no batch would hold both kinds."""
    num_tokens = [1] * 50 + [5] * 50
    mixed = [batch for batch in TokenBudgetSampler(num_tokens, 20, seed=0) if len({num_tokens[i] for i in batch}) == 2]
    assert len(mixed) > 10


# --- as the Trainer uses it ---


def loaders_of(sampler: TokenBudgetSampler, num_processes: int) -> list:
    return [
        prepare_data_loader(
            DataLoader(range(len(sampler.batches) * 100), batch_sampler=sampler, collate_fn=list),
            num_processes=num_processes,
            process_index=process,
            even_batches=False,
            put_on_device=False,
            rng_types=[],
        )
        for process in range(num_processes)
    ]


def test_accelerate_deals_every_batch_to_one_process():
    sampler = TokenBudgetSampler([3, 9, 4, 4, 8, 2, 7, 10, 1], 10, 0, num_processes=3)
    dealt = [list(loader) for loader in loaders_of(sampler, 3)]
    assert len({len(batches) for batches in dealt}) == 1  # nobody waits for a batch that never comes
    assert [batch for step in zip(*dealt, strict=True) for batch in step] == list(sampler)


def test_a_resumed_epoch_goes_on_with_the_next_batch():
    sampler = TokenBudgetSampler([3, 9, 4, 4, 8, 2, 7, 10, 1], 10, 0, num_processes=2)
    for loader in loaders_of(sampler, 2):
        assert list(skip_first_batches(loader, 2)) == list(loader)[2:]


class Recorder(Trainer):
    """Writes down the rows of every step, and learns nothing."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.seen.append(inputs["rows"].tolist())
        return model(inputs["rows"].float().mean()[None]).sum()

    def get_train_dataloader(self):
        return token_budget_loader(self, 10, [row["num_tokens"] for row in self.train_dataset])


def test_the_trainer_meets_every_row_in_every_epoch_in_another_order(tmp_path):
    num_tokens = [3, 9, 4, 4, 8, 2, 7, 10, 1, 1, 6]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = Recorder(
        torch.nn.Linear(1, 1),
        arguments,
        train_dataset=[{"row": i, "num_tokens": n} for i, n in enumerate(num_tokens)],
        data_collator=lambda rows: {"rows": torch.tensor([row["row"] for row in rows])},
    )
    trainer.seen = []
    even_batches = trainer.accelerator.even_batches
    steps = trainer.train().global_step
    assert steps == len(trainer.seen) and steps % 2 == 0
    first, second = trainer.seen[: steps // 2], trainer.seen[steps // 2 :]
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(len(num_tokens)))
    assert first != second
    # With False here, processes of an evaluation could have different numbers of batches and wait for ever.
    assert trainer.accelerator.even_batches == even_batches
