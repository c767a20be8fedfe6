"""A batch of raw rows -> an Arrow batch of checked rows with their digests, in whatever process has time."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow

from useful_code.converting.checked import Options, convert_group, valid_text
from useful_code.converting.choice import DIGEST, digest_row
from useful_code.converting.schemas import PLACE, lengths_of, part_schema
from useful_code.read_rows import refused_record
from useful_code.reasons import RowRefused
from useful_code.row_readers import ReadRow, UnparsedLine, parsed
from useful_code.sources.fields import Row
from useful_code.sources.source import Loss, Made, Source


class Batch(NamedTuple):
    """What some raw rows became; travels between processes."""

    rows: pyarrow.RecordBatch  # the columns of `part_schema`
    arrays: dict[str, np.ndarray]  # name -> what is kept beside the rows; "digests": (rows,) of DIGEST
    refused: list[str]  # a line of JSON each, for refused_rows.jsonl
    reasons: Counter[str]
    groups: int
    read: int  # raw rows
    used: int  # raw rows that gave at least one good row


@dataclass(frozen=True)
class Converter:
    """Turns groups of raw rows into a `Batch`. Most groups are one row."""

    name: str
    source: Source
    options: Options

    @property
    def kind(self) -> str:
        return "pairs" if self.source.kind == "answers" else self.source.kind

    @property
    def schema(self) -> pyarrow.Schema:
        return part_schema(self.kind, self.source.scales or ())

    def __call__(self, groups: Sequence[Sequence[ReadRow | UnparsedLine]]) -> Batch:
        good: list[tuple[ReadRow, Row]] = []
        lost: list[tuple[ReadRow, RowRefused]] = []
        used = 0
        for group in groups:
            raw = [parsed(row, allow_nan=True) for row in group]
            kept, losses = self._convert(raw)
            used += len({place for made in kept for place in made.places})
            for loss in losses:
                first, *others = (raw[place] for place in loss.places)
                lost.append((first, _with_others(loss.refused, others)))
            for row, places in kept:
                row["source"] = self.name
                row["source_id"] = row.get("source_id") or "/".join(_place(raw[place]) for place in places)
                good.append((raw[places[0]], row))
        read = sum(len(group) for group in groups)
        return as_batch(self.kind, self.schema, good, lost, self.options.seed, len(groups), read, used)

    def _convert(self, raw: list[ReadRow]) -> tuple[list[Made], list[Loss]]:
        good: list[Row] = []
        for row in raw:  # of a group, all are good; else there is only one
            if isinstance(row.row, RowRefused):
                return [], [Loss((0,), row.row)]
            good.append(row.row)
        try:
            return convert_group(self.source, good, self.options)
        except RecursionError:
            return [], [Loss((place,), RowRefused("wrong_type", "nested too deeply")) for place in range(len(raw))]


def _place(raw: ReadRow) -> str:
    return valid_text(f"{raw.file}:{raw.number}")


def _with_others(refused: RowRefused, others: list[ReadRow]) -> RowRefused:
    """The refusal of a pair of several raw rows, which stands at the first of them."""
    if not others:
        return refused
    detail = f"{refused.detail}; with {', '.join(map(_place, others))}".removeprefix("; ")
    return RowRefused(refused.reason, detail)


def as_batch(
    kind: str,
    schema: pyarrow.Schema,
    good: Sequence[tuple[ReadRow, Row]],
    lost: Sequence[tuple[ReadRow, RowRefused]],
    seed: int,
    groups: int,
    read: int,
    used: int,
) -> Batch:
    """Put checked rows, each with the raw row it came from, and refused ones into a `Batch`."""
    rows = [row | lengths_of(kind, row) | {PLACE: f"{raw.file}\t{raw.number}"} for raw, row in good]
    digests = np.array([digest_row(kind, row, seed) for _, row in good], DIGEST)
    refused = [json.dumps(refused_record(raw, reason), ensure_ascii=False) for raw, reason in lost]
    reasons = Counter(reason.reason for _, reason in lost)
    return Batch(
        pyarrow.RecordBatch.from_pylist(rows, schema=schema), {"digests": digests}, refused, reasons, groups, read, used
    )


def chunks(items: Iterable, size: int) -> Iterable[list]:
    """Lists of `size` items, the last one shorter.

    >>> list(chunks("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
