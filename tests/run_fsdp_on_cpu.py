"""Start a script with accelerate's FSDP branch opened to CPUs: accelerate takes it for GPUs only and runs DDP instead.

accelerate launch --config_file configs/fsdp2.yaml --num_processes 2 tests/run_fsdp_on_cpu.py SCRIPT ARGUMENTS
"""

import runpy
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState


def prepare_backend(self, cpu=False, sagemaker_dp=False, backend=None):
    self.device = torch.device("cpu")
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    return "gloo", DistributedType.MULTI_XPU  # any type that may become FSDP; the device above stays a CPU


if __name__ == "__main__":
    PartialState._prepare_backend = prepare_backend
    assert AcceleratorState  # imported after the patch by the script as well
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)  # as Python itself does: a recipe may import a file beside it
    runpy.run_path(sys.argv[0], run_name="__main__")
