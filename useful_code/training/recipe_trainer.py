"""What the Trainer of every recipe does alike: the loss is a mean over all rows of an optimizer step."""

from typing import Any

import torch
from transformers import Trainer

from useful_code.shared_prefix import num_packed_tokens
from useful_code.training.step_means import StepMeans
from useful_code.training.token_loader import token_budget_loader


class RecipeTrainer(Trainer):
    """Transformers' Trainer; a recipe adds `compute_loss`, whose loss `mean_over_step` makes of losses per row.

    `method`: the recipe's arguments, of which `max_tokens_per_batch` is read here. What `compute_loss` adds to
    `step_means` is logged beside the loss.
    """

    def __init__(self, method: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.method = method
        # The Trainer counts the rows of a whole optimizer step, on all processes, by `labels` that are not -100 ...
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False  # ... and of a language model it would count all of them but the first.
        self.loss_is_scaled_for_ga = True
        self.step_means = StepMeans()

    def mean_over_step(self, losses: torch.Tensor, num_items_in_batch: torch.Tensor | int) -> torch.Tensor:
        """Losses (B,) of this forward pass as its part, (), of the mean over all rows of the optimizer step."""
        # The gradients of all processes are averaged later, so the sum is multiplied by their number here.
        return losses.sum() * self.accelerator.num_processes / num_items_in_batch

    def num_tokens(self, row: dict) -> int:
        """Tokens that a row adds to a batch of `max_tokens_per_batch`: its sequences, their common prefix once."""
        return num_packed_tokens(row["ids"])

    def get_train_dataloader(self):
        if self.method.max_tokens_per_batch is None:
            return super().get_train_dataloader()
        rows: Any = self.train_dataset
        return token_budget_loader(self, self.method.max_tokens_per_batch, [self.num_tokens(row) for row in rows])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs | self.step_means.pop(self.accelerator) if "loss" in logs else logs, start_time)

    def _prepare_input(self, data: Any) -> Any:
        """With DeepSpeed the Trainer casts every floating-point input to the type of the weights, and in bfloat16 a
        length of 257 is 256 and a label of 0.501 is 0.5. Here they reach the loss as the collator made them."""
        if isinstance(data, torch.Tensor) and data.is_floating_point():
            return data.to(self.args.device)
        return super()._prepare_input(data)  # comes back here for nested values
