"""Which checkpoints are whole, and which one a run goes on with.

The files of each are listed, with their sizes, in a manifest written last; a checkpoint without a matching manifest was
cut off by a kill and is never chosen. Weights are safetensors; only the optimizer state of the user's own checkpoints
is a pickle.
"""

import json
import logging
import os
from pathlib import Path

from useful_code.atomic_write import write_atomically
from useful_code.user_errors import UserError

logger = logging.getLogger(__name__)

MANIFEST = "whole_checkpoint.json"
PREFIX = "checkpoint"  # the Trainer writes checkpoint-<step>


def write_manifest(directory: Path) -> None:
    """Flush every file of a checkpoint to the disk, then list them; the manifest itself appears in one step."""
    sizes = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            sizes[str(path.relative_to(directory))] = path.stat().st_size
    write_atomically(directory / MANIFEST, json.dumps(sizes, indent=1))


def is_whole(directory: Path) -> bool:
    """True if every file of the manifest is there in full."""
    try:
        sizes = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoint directories, whole or not, newest first."""
    found = []
    for path in Path(output_dir).glob(f"{PREFIX}-*"):
        number = path.name.removeprefix(f"{PREFIX}-")
        if path.is_dir() and number.isdigit():
            found.append((int(number), path))
    return [path for _, path in sorted(found, reverse=True)]


def choose_checkpoint(resume_from_checkpoint: str | bool | None, output_dir: str) -> str | None:
    """The checkpoint to resume from: a given directory, or with "true" the newest whole one of `output_dir`.

    Raises UserError when the given one is not whole, when "true" finds none, and when checkpoints are there but
    nothing was said about resuming (a second run must not be mixed into a first).
    """
    checkpoints = list_checkpoints(output_dir)
    if isinstance(resume_from_checkpoint, bool):  # from a YAML file
        resume_from_checkpoint = str(resume_from_checkpoint)
    if resume_from_checkpoint is None or resume_from_checkpoint.lower() == "false":
        if checkpoints:
            raise UserError(
                f"{output_dir} holds checkpoints of an earlier run: go on with --resume_from_checkpoint true, "
                "or choose another --output_dir"
            )
        return None
    if resume_from_checkpoint.lower() in ("true", "auto", "latest"):
        for path in checkpoints:
            if is_whole(path):
                return str(path)
            logger.warning("%s was cut off while it was written and is passed over", path)
        raise UserError(f"{output_dir} holds no whole checkpoint to resume from; leave --resume_from_checkpoint out")
    if not is_whole(Path(resume_from_checkpoint)):
        raise UserError(f"{resume_from_checkpoint} is not a whole checkpoint of ours (no matching {MANIFEST})")
    return resume_from_checkpoint
