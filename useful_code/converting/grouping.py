"""All rows of one key brought together, in constant memory, by way of files."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from useful_code.reasons import RowRefused
from useful_code.row_readers import ReadRow, UnparsedLine, parsed
from useful_code.sources.fields import Row

NUM_BUCKETS = 64


def group_rows(
    rows: Iterable[ReadRow | UnparsedLine], key_of: Callable[[Row], str], folder: Path
) -> Iterator[list[ReadRow]]:
    """Yield lists of rows with equal `key_of(row)`; a row without a usable key is a list of its own, refused.

    The rows are first dealt into `NUM_BUCKETS` files in `folder` by a hash of the key. The order of the lists follows
    the files, and within a file the first row of each list; it does not depend on anything but the rows. A finished
    dealing is used again.
    """
    if not (folder / "dealt").exists():
        with ExitStack() as stack:
            files = [
                stack.enter_context(open(folder / f"group-{number:02d}.jsonl", "w", encoding="ascii"))
                for number in range(NUM_BUCKETS)
            ]
            for row in (parsed(each, allow_nan=True) for each in rows):
                try:
                    if isinstance(row.row, RowRefused):
                        raise row.row
                    key, content = key_of(row.row), row.row
                    record = [key, row.file, row.number, content, None, None]
                except RowRefused as refused:
                    key = f"{row.file}:{row.number}"
                    raw = row.raw if row.raw is not None else json.dumps(row.row, default=str)
                    record = [None, row.file, row.number, raw, refused.reason, refused.detail]
                digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                line = json.dumps(record, default=str)
                files[int.from_bytes(digest, "big") % NUM_BUCKETS].write(line + "\n")
        (folder / "dealing").touch()
        os.replace(folder / "dealing", folder / "dealt")
    for number in range(NUM_BUCKETS):
        yield from _groups_of(folder / f"group-{number:02d}.jsonl")


def _groups_of(path: Path) -> Iterator[list[ReadRow]]:
    groups: dict[str, list[ReadRow]] = defaultdict(list)
    with open(path, encoding="ascii") as file:
        for line in file:
            key, name, number, content, reason, detail = json.loads(line)
            if key is None:
                yield [ReadRow(name, number, RowRefused(reason, detail), content)]
            else:
                groups[key].append(ReadRow(name, number, content, None))
    yield from groups.values()
