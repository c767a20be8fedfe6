"""First half of a conversion: raw rows -> parts in a work folder, so that what is done is done.

A part holds what `PART_GROUPS` groups of raw rows gave: `part-00000.arrow` (rows), `.digests` and other arrays as
their bytes, `.refused.jsonl`, and `part-00000.json` (counts), which is written last and makes the part finished. An
interrupted conversion begins again at the first part without it. The parts do not depend on the number of processes.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow

from useful_code.atomic_write import write_atomically
from useful_code.converting.batches import Batch, chunks
from useful_code.converting.parallel import ordered_map
from useful_code.row_readers import ReadRow, UnparsedLine

PART_GROUPS = 50_000
BATCH_GROUPS = 250


class Convert(Protocol):
    """What turns groups of raw rows into a batch: can travel to another process."""

    @property
    def schema(self) -> pyarrow.Schema: ...

    def __call__(self, groups: Sequence[Sequence[ReadRow | UnparsedLine]]) -> Batch: ...


@dataclass
class Part:
    """A finished part."""

    stem: Path  # its files without their suffixes
    groups: int
    read: int
    used: int
    rows: int
    reasons: Counter[str]

    def file(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)


def write_parts(
    groups: Iterable[Sequence[ReadRow | UnparsedLine]],
    convert: Convert,
    folder: Path,
    num_proc: int,
    progress: Any,
    batch_groups: int | None = None,
) -> list[Part]:
    """Convert all groups part by part, `batch_groups` (default: `BATCH_GROUPS`) at once.

    `progress` (a tqdm bar) counts raw rows.
    """
    groups = iter(groups)
    parts: list[Part] = []
    while part := _finished(folder / f"part-{len(parts):05d}"):
        skipped = sum(1 for _ in islice(groups, part.groups))
        if skipped != part.groups:
            raise RuntimeError(f"{part.stem}: holds {part.groups} groups, but the input only {skipped}")
        progress.update(part.read)
        parts.append(part)
    size = min(batch_groups or BATCH_GROUPS, PART_GROUPS)
    with closing(ordered_map(convert, chunks(groups, size), num_proc)) as batches:  # one pool for all parts
        while first := next(batches, None):
            of_part = chain([first], islice(batches, PART_GROUPS // size - 1))
            parts.append(_write_part(folder / f"part-{len(parts):05d}", of_part, convert, progress))
    return parts


def _write_part(stem: Path, batches: Iterable[Batch], convert: Convert, progress: Any) -> Part:
    part = Part(stem, 0, 0, 0, 0, Counter())
    files: dict[str, IO[bytes]] = {}
    with (
        pyarrow.ipc.new_file(part.file(".arrow"), convert.schema) as rows,
        ExitStack() as arrays,
        open(part.file(".refused.jsonl"), "w", encoding="utf-8", errors="backslashreplace") as refused,
    ):
        for batch in batches:
            if batch.rows.num_rows:
                rows.write_batch(batch.rows)
            for name, values in batch.arrays.items():
                if name not in files:
                    files[name] = arrays.enter_context(open(part.file(f".{name}"), "wb"))
                files[name].write(values.tobytes())
            refused.writelines(line + "\n" for line in batch.refused)
            part.groups += batch.groups
            part.read += batch.read
            part.used += batch.used
            part.rows += batch.rows.num_rows
            part.reasons.update(batch.reasons)
            progress.update(batch.read)
    counts = {name: getattr(part, name) for name in ("groups", "read", "used", "rows", "reasons")}
    write_atomically(part.file(".json"), json.dumps(counts))
    return part


def _finished(stem: Path) -> Part | None:
    try:
        counts = json.loads(stem.with_name(stem.name + ".json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Part(stem, **{**counts, "reasons": Counter(counts["reasons"])})
