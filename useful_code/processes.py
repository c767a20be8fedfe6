"""The processes of one run: how they find each other on GPUs and on a CPU, and a guard against running apart."""

import os

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from useful_code.user_errors import UserError


def start_processes() -> PartialState:
    """Join the processes that `accelerate launch` or `torchrun` started; one process without them.

    On a machine without a GPU the group is built with gloo. Raises UserError when the launcher started several
    processes but they would not work together (each would do the whole job and write the same files).
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    check_world_size(state.num_processes)
    return state


def check_world_size(num_processes: int) -> None:
    """Raise UserError unless the group has as many processes as the launcher started."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != num_processes:
        raise UserError(
            f"{launched} processes were started but {num_processes} work together; "
            "start them with `accelerate launch --multi_gpu --num_processes N` or `torchrun --nproc_per_node N`"
        )


def leave_together() -> None:
    """End the group of processes, if there is one: a process that leaves early can abort in gloo's threads."""
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()


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
