"""Last step of a conversion or a mixture: finished shards, refused rows and card move to the output folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import yaml

from useful_code.atomic_write import write_atomically
from useful_code.converting.card import write_card
from useful_code.converting.inputs import sha256_of
from useful_code.converting.shards import REFUSED, Shards
from useful_code.converting.work import discard_work

FAILED = f"failed_{REFUSED}"  # of a run that kept nothing; an older output stays as it was
FOLDERS = ("", "train", "held_out")  # that either command may put shards into


class Split(NamedTuple):
    """Shards and where they go: `<folder>/<name>-00000-of-00003.parquet` and so on."""

    shards: Shards
    folder: str  # below the output; "" is the output itself
    name: str  # of the split, for `datasets`


def publish(output: Path, work: Path, card: dict[str, Any], splits: Sequence[Split], schema: pyarrow.Schema) -> None:
    """Replace what a former run left by the finished files, and add them to the card, which is written last.

    Without a card the folder is not complete: a kill in between makes the next run begin again. `README.md` tells
    `datasets.load_dataset` the splits and the columns (in JSON lines, a column without a value is absent).
    """
    (output / "card.json").unlink(missing_ok=True)
    for stray in (file for folder in FOLDERS for file in (output / folder).glob(".*.tmp")):
        stray.unlink()  # of `write_atomically`, by a run that was killed
    for old in (file for folder in FOLDERS for name in ("train", "test") for file in _shards(output / folder, name)):
        old.unlink()
    for folder in FOLDERS[1:]:
        if (output / folder).is_dir() and {file.name for file in (output / folder).iterdir()} <= {"README.md"}:
            (output / folder / "README.md").unlink(missing_ok=True)
            (output / folder).rmdir()
    card["files"] = [entry for split in splits for entry in _move(split, output)]
    with open(work / REFUSED, "rb") as file:
        lines = sum(1 for _ in file)
    card["refused_rows"] = {"file": REFUSED, "rows": lines, "sha256": sha256_of(work / REFUSED)}
    os.replace(work / REFUSED, output / REFUSED)
    (output / FAILED).unlink(missing_ok=True)
    write_atomically(output / "README.md", _readme(card, splits, schema))
    for split in splits:
        if split.folder and split.shards.files:
            alone = split._replace(folder="")
            write_atomically(output / split.folder / "README.md", _readme(card, [alone], schema, "../"))
    write_card(card, output)
    discard_work(work)


def give_up(output: Path, work: Path) -> Path:
    """Nothing was kept: leave the refused rows where a person finds them, and return that place."""
    os.replace(work / REFUSED, output / FAILED)
    discard_work(work)
    return output / FAILED


def _shards(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}-[0-9]*-of-[0-9]*.*"))


def _move(split: Split, output: Path) -> list[dict[str, Any]]:
    """Move the shards; returns for the card the name, rows and hash of every file."""
    (output / split.folder).mkdir(exist_ok=True)
    entries = []
    files = split.shards.files
    for number, (shard, rows) in enumerate(files):
        name = f"{split.name}-{number:05d}-of-{len(files):05d}{shard.suffix}"
        placed = output / split.folder / name
        entries.append({"file": placed.relative_to(output).as_posix(), "rows": rows, "sha256": sha256_of(shard)})
        os.replace(shard, placed)
    return entries


def _readme(card: dict[str, Any], splits: Sequence[Split], schema: pyarrow.Schema, above: str = "") -> str:
    """Metadata as the hub defines it, in the head of the page, and the way to the card."""
    data_files = [
        {"split": split.name, "path": f"{split.folder}/{split.name}-*".removeprefix("/")}
        for split in splits
        if split.shards.files
    ]
    features = [{"name": field.name} | _feature(field.type) for field in schema]
    head = {
        "configs": [{"config_name": "default", "data_files": data_files}],
        "dataset_info": {"features": features},
    }
    page = f"# {card['title']}\n\nWhat is in it, and where it comes from: [DATA_CARD.md]({above}DATA_CARD.md).\n"
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n{page}"


def _feature(kind: pyarrow.DataType) -> dict[str, Any]:
    """A column's type in the words of the hub.

    >>> _feature(pyarrow.list_(pyarrow.float64())), _feature(pyarrow.bool_())
    ({'list': 'float64'}, {'dtype': 'bool'})
    """
    if pyarrow.types.is_struct(kind):
        return {"struct": [{"name": field.name} | _feature(field.type) for field in kind]}
    if pyarrow.types.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("dtype") or inner["struct"]}
    names = {pyarrow.string(): "string", pyarrow.float64(): "float64", pyarrow.bool_(): "bool"}
    return {"dtype": names[kind]}
