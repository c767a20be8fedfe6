"""What a run trains on and with which options: a resumed run must have the same, or it is measured on what it learnt.

Which prompts are held out follows from the data, the seed and the share; a checkpoint that goes on with others has seen
prompts that are then called held out. Options of the Trainer (epochs, learning rate, batch sizes, number of processes)
may change.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from useful_code.chat_pairs import prompt_key, prompt_of
from useful_code.training.arguments import DataArguments
from useful_code.user_errors import UserError

FILE = "trained_on.json"  # in every checkpoint
# Where the rows lie may change, what they say may not; these two change nothing that is learnt.
_FREE = {option.name for option in fields(DataArguments)} | {"score_before", "max_tokens_per_batch"}


def describe_run(
    train: Iterable[dict[str, Any]], held_out: Iterable[dict[str, Any]], arguments: DataArguments, seed: int
) -> dict[str, Any]:
    """The prompts of both parts, in their order, as digests; the seed and the recipe's own options. JSON types only."""
    options = {name: value for name, value in asdict(arguments).items() if name not in _FREE} | {"seed": seed}
    if not arguments.eval_dataset:
        options["held_out_share"] = arguments.held_out_share
    described = {"train": _digest(train), "held_out": _digest(held_out), "options": options}
    return json.loads(json.dumps(described, default=str))


def check_same_run(checkpoint: str, now: dict[str, Any]) -> None:
    """Raise UserError, which names what differs, unless `checkpoint` was written by a run of the same description.

    A checkpoint without a description, of an older version, is taken as it is.
    """
    path = Path(checkpoint) / FILE
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    old, new = before["options"], now["options"]
    different = [
        f"--{name} {old.get(name)} (now {new.get(name)})"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if not different and (before["train"], before["held_out"]) != (now["train"], now["held_out"]):
        different = ["other rows to train on or to hold out"]
    if different:
        raise UserError(
            f"{checkpoint} was trained with {', '.join(different)}: go on with what it was begun with, "
            "or begin anew in another --output_dir"
        )


def _digest(rows: Iterable[dict[str, Any]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(prompt_key(prompt_of(row)).encode())
    return digest.hexdigest()
