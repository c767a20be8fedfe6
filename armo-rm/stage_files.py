"""What one step leaves for the next: a JSON record, and tensors beside it. What cannot be used is one line."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from useful_code.user_errors import UserError, first_line


class Stage(NamedTuple):
    """Named where its files cannot be used."""

    leaves: str
    script: str  # of this folder

    def error(self, path: Path, why: str) -> UserError:
        return UserError(f"{path.parent} holds no {self.leaves} ({path.name}: {why}); run armo-rm/{self.script}")


def read_record(path: Path, names: Iterable[str], stage: Stage) -> dict[str, Any]:
    """The record of a step. Raises UserError where it cannot be read, or lacks one of `names`."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise stage.error(path, first_line(error)) from error
    if not isinstance(record, dict):
        raise stage.error(path, f"a {type(record).__name__} in place of an object")
    if missing := [name for name in names if name not in record]:
        raise stage.error(path, f"it has no {', '.join(missing)}")
    return record


def read_tensors(path: Path, names: Iterable[str], stage: Stage) -> dict[str, torch.Tensor]:
    """All tensors of the file. Raises UserError where it cannot be read, or lacks one of `names`."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise stage.error(path, first_line(error)) from error
    if missing := [name for name in names if name not in tensors]:
        raise stage.error(path, f"it has no {', '.join(missing)}")
    return tensors
