"""How a training is spread over processes, a guard against processes that train apart, and the end of a run."""

import os

import torch
from accelerate.utils import DistributedType
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from useful_code.processes import check_world_size
from useful_code.user_errors import UserError


def finish(trainer) -> None:
    """End the trackers of a training and the group of processes."""
    trainer.accelerator.wait_for_everyone()
    trainer.end()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def check_parallelism(trainer) -> str:
    """How the parameters of `trainer` are spread: "single process", "DDP", "ZeRO-3", "FSDP2". Call it before training.

    Raises UserError when accelerate would not do what it was asked: several processes that train apart, or FSDP on
    CPUs, where accelerate runs DDP without a word. Under DDP the model is looked at once more when training begins.
    """
    check_world_size(trainer.accelerator.num_processes)
    kind = trainer.accelerator.distributed_type
    if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true" and kind != DistributedType.FSDP:
        raise UserError("FSDP was asked for, but accelerate offers it on GPUs only and would run DDP; use DDP on CPUs")
    if kind == DistributedType.DEEPSPEED:
        stage = trainer.accelerator.state.deepspeed_plugin.zero_stage
        return f"ZeRO-{stage}"
    if kind == DistributedType.FSDP:
        return f"FSDP{trainer.accelerator.state.fsdp_plugin.fsdp_version}"
    if trainer.accelerator.num_processes == 1:
        return "single process"
    trainer.add_callback(_CheckedForDDP(trainer))
    return "DDP"


class _CheckedForDDP(TrainerCallback):
    """A model that was prepared for evaluation first is not wrapped again: every process would train by itself."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        wrapped = self.trainer.model_wrapped
        if not isinstance(getattr(wrapped, "_orig_mod", wrapped), DistributedDataParallel):  # torch.compile is outside
            raise RuntimeError("the processes would train apart: the model was evaluated before it was trained")
