"""The checked rows of a data set as lines of JSON on the disk, and of each what `draw_others` needs, 37 bytes."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
from fourteen_comparisons import hash_of

from useful_code.chat_pairs import check_pair, is_tie, prompt_key, prompt_of
from useful_code.converting.batches import Batch
from useful_code.converting.checked import as_text
from useful_code.converting.parts import Part
from useful_code.converting.schemas import schema_of
from useful_code.read_rows import refused_record
from useful_code.reasons import RowRefused
from useful_code.row_readers import ReadRow, UnparsedLine, parsed

EXAMPLE = np.dtype(
    [
        ("prompt", "u8"),  # hashes; equal ones only forbid a meeting, so 64 bits are enough
        ("chosen", "u8"),
        ("rejected", "u8"),
        ("bucket", "u8"),
        ("bytes", "u4"),  # of its line
        ("why_not", "u1"),  # it is not augmented: an index into WHY_NOT
    ]
)
WHY_NOT = ("", "a tie: neither answer is the better one", "a label of one half: the votes are split")
MATCHES = ("none", "length", "source")
COLUMNS = frozenset(schema_of("pairs").names)
TEXTS = ("subset", "source", "source_id")


@dataclass(frozen=True)
class Reader:
    """Turns groups of one raw row each into a `Batch` without rows, with lines and entries of `EXAMPLE`."""

    match: str

    @property
    def schema(self) -> pyarrow.Schema:
        return pyarrow.schema([])

    def __call__(self, groups: Sequence[Sequence[ReadRow | UnparsedLine]]) -> Batch:
        lines, examples, refused = [], [], []
        other_columns: set[str] = set()
        for (read_row,) in groups:
            raw = parsed(read_row)
            try:
                if isinstance(raw.row, RowRefused):
                    raise raw.row
                pair = check_pair(raw.row)
            except (RowRefused, RecursionError) as error:
                reason = error if isinstance(error, RowRefused) else RowRefused("wrong_type", "nested too deeply")
                refused.append((raw, reason))
                continue
            other_columns |= pair.keys() - COLUMNS
            pair = with_known_columns(pair)
            lines.append(json.dumps(pair).encode() + b"\n")
            examples.append((*hashes_of(pair, self.match), len(lines[-1]), why_not_augmented(pair)))
        arrays = {
            "lines": np.frombuffer(b"".join(lines), np.uint8),
            "examples": np.array(examples, EXAMPLE),
            "others": np.frombuffer(json.dumps(sorted(other_columns)).encode() + b"\n", np.uint8),
        }
        records = [json.dumps(refused_record(raw, reason), ensure_ascii=False) for raw, reason in refused]
        reasons = Counter(reason.reason for _, reason in refused)
        no_rows = pyarrow.RecordBatch.from_pylist([], schema=self.schema)
        return Batch(no_rows, arrays, records, reasons, len(groups), len(groups), len(lines))


def with_known_columns(pair: dict[str, Any]) -> dict[str, Any]:
    """A checked pair with the columns that the output has.

    >>> with_known_columns({"chosen": [], "rejected": [], "source_id": 7, "note": 3})
    {'chosen': [], 'rejected': [], 'source_id': '7'}
    """
    return {key: as_text(value) if key in TEXTS else value for key, value in pair.items() if key in COLUMNS}


def hashes_of(pair: dict[str, Any], match: str) -> tuple[int, int, int, int]:
    """Prompt, answers and bucket of a checked pair; what templates trim off an answer makes no difference."""
    chosen, rejected = (pair[side][-1]["content"].strip() for side in ("chosen", "rejected"))
    bucket = 0
    if match == "length":
        bucket = (len(chosen) + len(rejected)).bit_length()  # equal between two powers of two
    elif match == "source":
        bucket = hash_of(pair.get("source") or "")
    return int(prompt_key(prompt_of(pair))[:16], 16), hash_of(chosen), hash_of(rejected), bucket


def why_not_augmented(pair: dict[str, Any]) -> int:
    """An index into `WHY_NOT`; 0: it is augmented.

    >>> [why_not_augmented(pair) for pair in ({}, {"label": 0.6}, {"tie": True}, {"label": 0.5, "tie": False})]
    [0, 0, 1, 2]
    """
    return 1 if is_tie(pair) else 2 if pair.get("label") == 0.5 else 0


class Lines:
    """The lines of all parts by the number of their row; a `with` closes the files."""

    def __init__(self, parts: list[Part], examples: list[np.ndarray]):
        self.files = ExitStack()
        self.open = [self.files.enter_context(open(part.file(".lines"), "rb")) for part in parts]
        self.first = np.cumsum([0, *map(len, examples)])  # row of every part
        self.sizes = np.concatenate([each["bytes"] for each in examples])
        self.ends = np.concatenate([np.cumsum(each["bytes"], dtype=np.int64) for each in examples])

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: Any) -> None:
        self.files.close()

    def __getitem__(self, row: int) -> bytes:
        file = self.open[int(np.searchsorted(self.first, row, "right")) - 1]
        size = int(self.sizes[row])
        file.seek(int(self.ends[row]) - size)
        return file.read(size)


def other_columns(parts: list[Part]) -> list[str]:
    """Names of columns that some row has and the output has no place for."""
    names: set[str] = set()
    for part in parts:
        names.update(*map(json.loads, part.file(".others").read_text(encoding="utf-8").splitlines()))
    return sorted(names)
