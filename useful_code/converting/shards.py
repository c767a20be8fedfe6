"""Second half of a conversion: of every part the rows that stay become a shard; the others join the refused rows."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet

from useful_code.converting.choice import REASON_CODES
from useful_code.converting.parallel import ordered_map
from useful_code.converting.parts import Part
from useful_code.converting.schemas import DETAIL, PLACE, without_nulls
from useful_code.converting.statistics import Statistics
from useful_code.read_rows import write_refused
from useful_code.reasons import RowRefused
from useful_code.row_readers import ReadRow

ROW_GROUP = 5000
FORMATS = ("parquet", "jsonl")
REFUSED = "refused_rows.jsonl"


class Shards(NamedTuple):
    """What stays of all parts."""

    files: list[tuple[Path, int]]  # with their numbers of rows; a part of which nothing stays gives none
    statistics: Statistics


def write_shards(
    parts: list[Part],
    codes: list[np.ndarray],
    folder: Path,
    schema: pyarrow.Schema,
    kind: str,
    file_format: str,
    num_proc: int = 1,
) -> Shards:
    """Of every part write the rows whose code (rows,) is 0 to a shard in `folder`."""
    folder.mkdir(exist_ok=True)
    result = Shards([], Statistics(kind))
    tasks = (
        (part, np.array(part_codes), folder / f"shard-{part.stem.name}.{file_format}", schema, kind)
        for part, part_codes in zip(parts, codes, strict=True)
        if not np.all(part_codes)
    )
    for path, statistics in ordered_map(_write_shard, tasks, min(num_proc, len(parts)) or 1):
        result.files.append((path, statistics.rows))
        result.statistics.merge(statistics)
    return result


def _write_shard(task: tuple[Part, np.ndarray, Path, pyarrow.Schema, str]) -> tuple[Path, Statistics]:
    part, codes, path, schema, kind = task
    statistics = Statistics(kind)
    write = _write_parquet if path.suffix == ".parquet" else _write_json_lines
    write(_kept_tables(part, codes, statistics), path, schema)
    return path, statistics


def write_refused_rows(
    parts: list[Part], codes: list[np.ndarray], path: Path, detail_of: Callable[[int], str] = lambda index: ""
) -> Counter[str]:
    """Write what was refused when the parts were made, then the rows whose code is a reason; count the latter.

    `codes` (rows,) of every part are indices into `REASON_CODES`. `detail_of` takes the number of a row over all parts.
    """
    dropped: Counter[str] = Counter()
    start = 0
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as refused:
        for part in parts:
            with open(part.file(".refused.jsonl"), encoding="utf-8") as lines:
                shutil.copyfileobj(lines, refused)
        for part, part_codes in zip(parts, codes, strict=True):
            for offset, table in _tables(part):
                here = np.asarray(part_codes[offset : offset + table.num_rows])
                lost = np.flatnonzero((here > 0) & (here < len(REASON_CODES)))
                for place, row in zip(lost, table.take(lost).to_pylist() if len(lost) else [], strict=True):
                    reason = REASON_CODES[here[place]]
                    assert reason is not None
                    name, number = row[PLACE].rsplit("\t", 1)
                    detail = row[DETAIL] or detail_of(start + offset + int(place))
                    row = without_nulls({key: value for key, value in row.items() if not key.startswith("_")})
                    raw = json.dumps(row, ensure_ascii=False)
                    write_refused(refused, ReadRow(name, int(number), {}, raw), RowRefused(reason, detail))
                    dropped[reason] += 1
            start += part.rows
    return dropped


def _tables(part: Part) -> Iterator[tuple[int, pyarrow.Table]]:
    """The rows of a part a few thousand at a time, each with the number of its first row."""
    offset, batches = 0, []
    with pyarrow.OSFile(str(part.file(".arrow"))) as handle, pyarrow.ipc.open_file(handle) as file:
        for index in range(file.num_record_batches):
            batches.append(file.get_batch(index))
            if sum(batch.num_rows for batch in batches) >= ROW_GROUP or index == file.num_record_batches - 1:
                table = pyarrow.Table.from_batches(batches)
                yield offset, table
                offset, batches = offset + table.num_rows, []


def _kept_tables(part: Part, codes: np.ndarray, statistics: Statistics) -> Iterator[pyarrow.Table]:
    for offset, table in _tables(part):
        kept = table.filter(pyarrow.array(np.asarray(codes[offset : offset + table.num_rows]) == 0))
        if kept.num_rows:
            statistics.add(kept)
            yield kept


def _write_parquet(tables: Iterable[pyarrow.Table], path: Path, schema: pyarrow.Schema) -> None:
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.select(schema.names))


def _write_json_lines(tables: Iterable[pyarrow.Table], path: Path, schema: pyarrow.Schema) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for table in tables:
            for row in table.select(schema.names).to_pylist():
                file.write(json.dumps(without_nulls(row), ensure_ascii=False) + "\n")
