"""A row to score or rank: a prompt with its responses, or a chosen/rejected pair.

    {"prompt": text or messages, "responses": [text, ...]}          {"chosen": messages, "rejected": messages}

No torch in here.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from useful_code.atomic_write import write_atomically
from useful_code.chat_pairs import Message, check_conversation, check_pair, prompt_of
from useful_code.reasons import RowRefused
from useful_code.user_errors import UserError


class ResponseRow(NamedTuple):
    prompt: list[Message]
    responses: list[str]  # of a pair: chosen, rejected


def check_responses(row: Any, num_least: int = 1) -> ResponseRow:
    """The prompt and the responses of a row, or raise `RowRefused`.

    An empty response is a bad answer, not a bad row: it is taken like any other.

    >>> check_responses({"prompt": "2 + 2?", "responses": ["4", ""]}).responses
    ['4', '']
    """
    if isinstance(row, dict) and "chosen" in row and "responses" not in row:
        pair = check_pair(row)
        return ResponseRow(prompt_of(pair), [pair[side][-1]["content"] for side in ("chosen", "rejected")])
    if not isinstance(row, dict) or "prompt" not in row or "responses" not in row:
        raise RowRefused("missing_key", "a row needs `prompt` and `responses`, or `chosen` and `rejected`")
    responses = row["responses"]
    if not isinstance(responses, list) or not all(isinstance(text, str) for text in responses):
        raise RowRefused("wrong_type", "`responses` must be a list of texts")
    if len(responses) < num_least:
        raise RowRefused("wrong_type", f"`responses` has {len(responses)} texts, {num_least} or more are needed")
    prompt = row["prompt"]
    history = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return ResponseRow(check_conversation(history, "prompt", ends_with="user"), responses)


def add_row_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command that reads rows and writes each of them with something added."""
    parser.add_argument("--input", required=True, help="Rows to read: file, folder or hub data set.")
    parser.add_argument("--output", required=True, help="JSON lines file to write.")
    parser.add_argument("--split", default=None, help="Split of a hub data set.")


def check_output(output: str, source: str, flag: str = "--output") -> tuple[Path, Path]:
    """The file to write and the file of refused rows beside it. Raises `UserError` where that would lose something."""
    path = Path(output)
    if path.is_dir():
        raise UserError(f"{flag} {path} is a directory; give a file, for example {path / 'rows.jsonl'}")
    if path.resolve() == Path(source).resolve():
        raise UserError(f"{flag} {path} would overwrite the input; give another file")
    if Path(source).is_dir() and Path(source).resolve() in path.resolve().parents:
        raise UserError(f"{flag} {path} lies in the folder of the input: the next run would read it; choose another")
    return path, path.with_name(f"{path.stem}_refused_rows.jsonl")


def write_rows(output: Path, rows: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> None:
    """Every row with its result added, in order, all at once."""
    lines = (
        json.dumps({**row, **result}, ensure_ascii=False, default=str) + "\n"  # str: dates of parquet
        for row, result in zip(rows, results, strict=True)
    )
    # A lone surrogate in another column becomes \udxxx, which is its JSON escape.
    write_atomically(output, "".join(lines).encode("utf-8", "backslashreplace"))
