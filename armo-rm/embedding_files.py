"""Folders of embeddings: what a frozen decoder knows at the last token of every answer, with the rows beside it.

    part-00003-of-00012.safetensors   response (N, D) of rated rows, (N, 2, D) of pairs: chosen, rejected;
                                      prompt (N, D) of pairs: the token that closes the prompt
    part-00003-of-00012.jsonl         the N rows: place, prompt, num_tokens, ratings and scales or label, source, subset
    embeddings.json                   written last: the model, a probe of it, counts, reasons of refused rows

Tensors have the type that the decoder computed in, so nothing is lost; they are read as float32.

Shapes: N rows of a part, D hidden size.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from stage_files import Stage, read_record

from useful_code.atomic_write import write_atomically
from useful_code.user_errors import UserError, first_line

CARD = "embeddings.json"
EMBEDDINGS = Stage("embeddings", "extract_embeddings.py")


@dataclass(frozen=True)
class Part:
    rows: list[dict[str, Any]]
    tensors: dict[str, torch.Tensor]  # float32


def part_path(directory: Path, number: int, num_parts: int) -> Path:
    return directory / f"part-{number:05d}-of-{num_parts:05d}.safetensors"


def part_key(fingerprint: str, rows: Sequence[dict]) -> str:
    """Stands for what the tensors of a part are made of: the model and the token ids."""
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=16)
    for row in rows:
        digest.update(len(row["ids"]).to_bytes(4, "big"))
        for ids in row["ids"]:
            digest.update(ids.tobytes() + b"|")
    return digest.hexdigest()


def is_written(path: Path, key: str) -> bool:
    """Whether the part was written whole, and of what `key` stands for."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("key") == key
    except (OSError, SafetensorError):
        return False


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """The rows beside the tensors of `path`. Before them: where there are tensors, the part is whole.

    What JSON does not know, such as a date in a `source_id`, becomes text.
    """
    write_atomically(path.with_suffix(".jsonl"), "".join(json.dumps(row, default=str) + "\n" for row in rows))


def write_tensors(path: Path, key: str, tensors: dict[str, torch.Tensor]) -> None:
    write_atomically(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"key": key}))


def read_card(directory: str | Path) -> dict[str, Any]:
    """What is said of a finished folder. Raises UserError for one that is none, or not finished."""
    path = Path(directory) / CARD
    if not path.is_file():
        what = "no such folder" if not Path(directory).is_dir() else f"it has no {CARD}, so it was not finished"
        raise UserError(f"{directory}: {what}; run armo-rm/{EMBEDDINGS.script}")
    return read_record(path, ("kind", "rows", "parts", "hidden_size", "model", "gating_tokens", "probe"), EMBEDDINGS)


def read_cards(directories: Iterable[str | Path], kind: str) -> list[dict[str, Any]]:
    """Cards of folders of one `kind` ("rated", "pairs") and one decoder. Raises UserError where they do not fit."""
    directories = list(directories)
    cards = [read_card(directory) for directory in directories]
    for directory, card in zip(directories, cards, strict=True):
        if card["kind"] != kind:
            raise UserError(f"{directory}: holds {card['kind']} rows, {kind} rows are needed here")
        if decoder_of(card) != decoder_of(cards[0]):
            raise UserError(
                f"{directory} was made with {card['model']['path']} and {directories[0]} with "
                f"{cards[0]['model']['path']}, or with other settings: embeddings of two models do not go together"
            )
    return cards


def decoder_of(record: dict[str, Any]) -> tuple:
    """What must be equal where embeddings go together: of a card, or of what was fitted on a folder with it."""
    model = record["model"]
    return model["fingerprint"], model["chat_template"], record["gating_tokens"]


def read_parts(directory: str | Path, names: Iterable[str] | None = None) -> Iterator[Part]:
    """Every part in order, one in memory at a time; of its tensors those of `names`, or all.

    Raises UserError for a part that is missing or broken.
    """
    directory, card = Path(directory), read_card(directory)
    for number in range(card["parts"]):
        path = part_path(directory, number, card["parts"])
        rows = read_part_rows(path)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {
                    name: file.get_tensor(name).float() for name in (names if names is not None else file.keys())
                }
        except (OSError, SafetensorError) as error:
            raise _broken(path, error) from error
        if any(len(tensor) != len(rows) for tensor in tensors.values()):
            raise _broken(path, ValueError(f"{len(rows)} rows beside {len(next(iter(tensors.values())))} embeddings"))
        yield Part(rows, tensors)


def read_rows_alone(directory: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of all parts, in order, without their embeddings."""
    card = read_card(directory)
    for number in range(card["parts"]):
        yield from read_part_rows(part_path(Path(directory), number, card["parts"]))


def read_part_rows(path: Path) -> list[dict[str, Any]]:
    """The rows beside the tensors of `path`."""
    path = path.with_suffix(".jsonl")
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            return [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path}: cannot be read ({first_line(error)}); run armo-rm/extract_embeddings.py again")
