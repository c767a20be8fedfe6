"""A decoder too large for one GPU: ZeRO-3 keeps a part of the weights on every process and gathers layer by layer.

Every forward pass then needs all processes, and they rarely have equally many: before each pass they ask one another
whether anyone still works, and who has nothing left runs a token of its own to keep the others company.
"""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from useful_code.user_errors import UserError, first_line

BATCH_SIZES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")  # of training


class ZeroSharding:
    """Made before the decoder is loaded, which then comes in parts; kept as long as it is used.

    Raises UserError for a file that is no ZeRO-3 config, and without DeepSpeed.
    """

    def __init__(self, config_file: str, dtype: torch.dtype):
        self.config = config_for_inference(config_file, dtype)
        self.keeps_company = False
        try:
            from transformers.integrations import HfDeepSpeedConfig

            self._seen_by_from_pretrained = HfDeepSpeedConfig(self.config)
        except ImportError as error:
            raise UserError(f"--deepspeed needs DeepSpeed ({first_line(error)}): pip install deepspeed") from error

    def take(self, model: Any) -> Any:
        """The model whose weights were loaded in parts, ready for forward passes in step."""
        import deepspeed

        self.model = deepspeed.initialize(model=model, config=self.config)[0].module.eval()
        # First, for DeepSpeed's own hook begins to gather weights.
        self.model.register_forward_pre_hook(self._wait_for_the_others, prepend=True)
        return self.model

    def _wait_for_the_others(self, module: torch.nn.Module, inputs: tuple) -> None:
        if not self.keeps_company:
            anyone_works(True)

    @torch.inference_mode()
    def keep_company(self) -> None:
        """Run passes of one token until no process has work left."""
        self.keeps_company = True
        device = PartialState().device
        while anyone_works(False):
            self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)


def config_for_inference(config_file: str, dtype: torch.dtype) -> dict[str, Any]:
    """The same file that training takes, without what only training needs. Raises UserError."""
    try:
        config = json.loads(Path(config_file).read_text(encoding="utf-8"))
        stage = config["zero_optimization"]["stage"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config_file} is no DeepSpeed config ({first_line(error)})") from error
    if stage != 3:
        raise UserError(f"{config_file} has ZeRO stage {stage}; only stage 3 shares out the weights")
    config = {name: value for name, value in config.items() if value != "auto" and name not in BATCH_SIZES}
    zero = {name: value for name, value in config["zero_optimization"].items() if value != "auto"}
    return config | {
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "train_micro_batch_size_per_gpu": 1,
    }


def anyone_works(self_works: bool) -> bool:
    """Whether any process has a pass to run. Every process must ask."""
    state = PartialState()
    flag = torch.tensor([float(self_works)], device=state.device)
    if state.num_processes > 1:
        torch.distributed.all_reduce(flag)
    return bool(flag.item())
