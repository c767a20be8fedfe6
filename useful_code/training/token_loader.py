"""The Trainer's data loader with batches filled by tokens (`token_batches.py`)."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from useful_code.token_batches import TokenBudgetSampler
from useful_code.user_errors import UserError


def token_budget_loader(trainer: Trainer, max_tokens: int, num_tokens: Sequence[int]) -> DataLoader:
    """The training loader of `trainer` with batches of at most `max_tokens`; row i has `num_tokens[i]` packed tokens.

    Raises UserError where the model takes padded batches, whose size these numbers do not tell.
    """
    if not getattr(trainer.model, "shares_prefix", True):
        raise UserError("--max_tokens_per_batch needs a model that shares prefixes; use --per_device_train_batch_size")
    sampler = TokenBudgetSampler(num_tokens, max_tokens, trainer.args.seed, trainer.accelerator.num_processes)
    dataset: Any = trainer.train_dataset
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=trainer.data_collator)
    even_batches = trainer.accelerator.even_batches
    trainer.add_callback(_EpochOfSampler(sampler))
    trainer.accelerator.even_batches = False  # the sampler already deals the same number of batches to everybody
    try:
        return trainer.accelerator.prepare(loader)
    finally:
        trainer.accelerator.even_batches = even_batches  # evaluation needs it, or processes wait for each other


class _EpochOfSampler(TrainerCallback):
    """Tells the sampler its epoch, which the Trainer does not in a resumed one: accelerate wraps it twice there."""

    def __init__(self, sampler: TokenBudgetSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch or 0))
