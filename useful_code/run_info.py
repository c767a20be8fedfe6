"""`run.json`: what a reported number needs beside it. Arguments, versions, commit, seed, hardware, minutes, memory."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

from useful_code.atomic_write import write_atomically

PACKAGES = (
    "torch transformers trl accelerate datasets peft deepspeed bitsandbytes flash-attn tokenizers safetensors numpy "
    "pandas pyarrow scikit-learn reward-model-recipes"
).split()
REDACTED = "<redacted>"
# hub_token, api_key, db-password; but not pad_token or max_length_tokens, which are no secrets.
SECRET_NAME = re.compile(
    r"^(?!(?:pad|bos|eos|unk|sep|cls|mask|image)_token$)(?:.*_)?(?:token|api_?key|password|passwd|secret|credentials?)$",
    re.IGNORECASE,
)
SECRET_VALUE = re.compile(r"\b(?:hf|ghp|gho|github_pat|sk|wandb)[_-][A-Za-z0-9_-]{16,}|(?<=://)[^/@\s]+:[^/@\s]+(?=@)")


def write_run_info(output_dir: str | Path, arguments: Mapping[str, Any], started_at: float, **extra: Any) -> Path:
    """Write `output_dir/run.json` in one step and return its path. Call it at the end, on the main process only.

    Args:
        output_dir: made if it is not there.
        arguments: every argument of the run, as the parser gave them; `seed` is repeated at the top.
        started_at: `time.time()` at the start of `main`, seconds.
        extra: results or anything else that belongs to the run, under its own name.

    Environment variables are not written. Values of arguments named like a secret (`hub_token`, `api_key`) and texts
    that look like an access token become "<redacted>", in the command line too. What JSON cannot hold becomes text.

    Raises:
        ValueError: a name in `extra` is already used by the record.
    """
    now = time.time()
    record: dict[str, Any] = {
        "command": redacted_command(sys.argv),
        "arguments": _plain(arguments),
        "seed": arguments.get("seed"),
        "commit": git_commit(),
        "started": _date(started_at),
        "finished": _date(now),
        "minutes": round((now - started_at) / 60, 3),
        "num_processes": num_processes(),
        "peak_memory_gib": peak_memory_gib(),
        "hardware": hardware(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
    }
    taken = sorted(record.keys() & extra.keys())
    if taken:
        raise ValueError(f"run.json already has its own {', '.join(taken)}")
    record |= _plain(extra)
    path = Path(output_dir) / "run.json"
    write_atomically(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def git_commit(path: str | Path | None = None) -> str:
    """Commit of the repository that holds `path` (default: the running script).

    '+dirty' is added when a tracked file was changed or the script itself is not tracked; 'unknown' outside git.
    """
    if path is None:
        path = getattr(sys.modules.get("__main__"), "__file__", None) or __file__
    path = Path(path).resolve()
    folder = path if path.is_dir() else path.parent
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return "unknown"
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    untracked = path.is_file() and _git(folder, "ls-files", "--error-unmatch", path.name) is None
    return f"{commit}+dirty" if changed or untracked else commit


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, None if it failed or there is no git."""
    # Inside a git hook GIT_DIR points elsewhere; the folder alone shall decide.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def redacted_command(argv: list[str]) -> str:
    """The command line as one could paste it, secrets replaced.

    >>> redacted_command(["train.py", "--hub_token", "abc", "--api-key=k", "--seed", "1"])
    'train.py --hub_token <redacted> --api-key=<redacted> --seed 1'
    """
    words, hide_next = [], False
    for word in argv:
        name, equals, _ = word.partition("=")
        is_secret = name.startswith("-") and bool(SECRET_NAME.match(name.lstrip("-").replace("-", "_")))
        if hide_next and not word.startswith("--"):
            words.append(REDACTED)
        elif is_secret and equals:
            words.append(f"{name}={REDACTED}")
        else:
            words.append(shlex.quote(SECRET_VALUE.sub(REDACTED, word)).replace(f"'{REDACTED}'", REDACTED))
        hide_next = is_secret and not equals
    return " ".join(words)


def package_versions() -> dict[str, str]:
    """Versions of the packages that can change a result, those installed only."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """CPU model, cores, memory in GiB, and names of the GPUs that torch sees (none if torch was not imported)."""
    info: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": None,
        "gpus": [],
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        info["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 2)
    torch = sys.modules.get("torch")
    if torch is not None:
        info["torch_threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            info["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            info["cuda"] = torch.version.cuda
            peak_bytes = max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
            info["peak_gpu_memory_gib"] = round(peak_bytes / 2**30, 3)
    return info


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_gib() -> float | None:
    """Largest resident memory of this process so far, GiB; None where the system does not say (Windows)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; its ru_maxrss would begin with what the parent held when it started this process
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**20, 3)  # KiB
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 2 ** (30 if sys.platform == "darwin" else 20), 3)  # bytes on macOS, KiB elsewhere


def num_processes() -> int:
    """World size of torch.distributed, or what the launcher announced, else 1."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    announced = os.environ.get("WORLD_SIZE", "1")
    return int(announced) if announced.isdigit() else 1


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    """The value as JSON can hold it, secrets replaced."""
    if isinstance(value, Mapping):
        return {
            str(name): REDACTED if item is not None and SECRET_NAME.match(str(name)) else _plain(item)
            for name, item in value.items()
        }
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # JSON has neither nan nor inf
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=str)
    if not isinstance(value, type) and callable(getattr(value, "tolist", None)):  # NumPy and torch numbers and arrays
        return _plain(value.tolist())
    return SECRET_VALUE.sub(REDACTED, str(value))
