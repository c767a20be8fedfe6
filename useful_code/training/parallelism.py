"""How a training is spread over processes, a guard against processes that train apart, and the end of a run."""

import os
from dataclasses import replace

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

    Raises UserError when accelerate would not do what it was asked: several processes that train apart, one process
    with several GPUs, which Transformers would fill by DataParallel, or FSDP on CPUs, where accelerate runs DDP without
    a word. Under DDP the model is looked at once more when training begins. FSDP2 leaves the outputs of the model in
    the type they have: accelerate has it cast rewards to bfloat16.
    """
    check_world_size(trainer.accelerator.num_processes)
    if trainer.args.n_gpu > 1:
        raise UserError(
            f"one process sees {trainer.args.n_gpu} GPUs; choose one (CUDA_VISIBLE_DEVICES=0 python ...), or start a "
            f"process for each (accelerate launch --multi_gpu --num_processes {trainer.args.n_gpu} ...)"
        )
    kind = trainer.accelerator.distributed_type
    if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true" and kind != DistributedType.FSDP:
        raise UserError("FSDP was asked for, but accelerate offers it on GPUs only and would run DDP; use DDP on CPUs")
    if kind == DistributedType.DEEPSPEED:
        stage = trainer.accelerator.state.deepspeed_plugin.zero_stage
        return f"ZeRO-{stage}"
    if kind == DistributedType.FSDP:
        plugin = trainer.accelerator.state.fsdp_plugin
        if plugin.fsdp_version == 2 and plugin.mixed_precision_policy is not None:
            plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, output_dtype=None)
        return f"FSDP{plugin.fsdp_version}"
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
