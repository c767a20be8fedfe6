"""What the machine gives right now: its matmul peak, and the memory that a command takes; and their record."""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from useful_code.reward_model import best_device
from useful_code.run_info import hardware, peak_memory_gib


def matmul_flops(seconds: float = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """Multiply-adds a second (times two) of a square matrix product: the roof of this machine, now."""
    device = best_device()
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(3):
        a @ a
    wait_for_gpu()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        a @ a
        wait_for_gpu()
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - start)


def peak_gib() -> float | None:
    """The most that this process held so far: of the GPU's memory where there is one, else of the machine's."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else peak_memory_gib()


def wait_for_gpu() -> None:
    """A GPU computes behind the caller's back: without this, a clock stops before the work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory_of_fresh_process(script: str, *flags: str) -> float:
    """GiB: the last number that `script` prints, run in a process of its own."""
    finished = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
    if finished.returncode != 0:
        raise RuntimeError(f"{script} {' '.join(flags)} failed:\n{finished.stderr[-2000:]}")
    return float(finished.stdout.split()[-1])


def peak_of_command(command: list[str]) -> tuple[float, float]:
    """Run a command that must succeed; seconds, and the peak in MiB of the largest of its processes.

    The command runs below a process of its own, so that earlier commands do not count.
    """
    script = (
        "import resource, subprocess, sys\n"
        "status = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(status)"
    )
    started = time.perf_counter()
    finished = subprocess.run([sys.executable, "-c", script, *command], stdout=subprocess.PIPE, text=True)
    if finished.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed")
    return time.perf_counter() - started, int(finished.stdout) / 1024


def write_record(path: str, commit: str, results: list[dict]) -> None:
    """Results with the commit and the machine that made them, as JSON. Take `commit` before measuring."""
    record = {"commit": commit, "hardware": hardware(), "threads": torch.get_num_threads(), "results": results}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"record: {path}", file=sys.stderr)
