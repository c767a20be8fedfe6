"""The processes of one run: how they find each other on GPUs and on a CPU, and how they end."""

import os

import torch
from accelerate import PartialState

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
