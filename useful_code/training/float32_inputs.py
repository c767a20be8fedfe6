"""Labels, margins and counts reach the loss in the type that the collator gave them."""

from typing import Any

import torch


class Float32Inputs:
    """To be put before Transformers' Trainer: with DeepSpeed that casts every floating-point input to the type of the
    weights, and in bfloat16 a length of 257 is 256 and a label of 0.501 is 0.5."""

    args: Any

    def _prepare_input(self, data: Any) -> Any:
        if isinstance(data, torch.Tensor) and data.is_floating_point():
            return data.to(self.args.device)
        return super()._prepare_input(data)  # type: ignore[misc]  # of the Trainer; it comes back for nested values
