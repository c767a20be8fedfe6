"""All rows of one key brought together by way of files: a 64th of the rows is in memory at a time."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from useful_code.reasons import RowRefused
from useful_code.row_readers import ReadRow, UnparsedLine, parsed
from useful_code.sources.fields import Row

NUM_BUCKETS = 64


def group_rows(
    rows: Iterable[ReadRow | UnparsedLine], key_of: Callable[[Row], str], folder: Path
) -> Iterator[list[ReadRow | UnparsedLine]]:
    """Yield lists of rows with equal `key_of(row)`; a row without a usable key is a list of its own, refused.

    The rows are first dealt into `NUM_BUCKETS` files in `folder` by a hash of the key. The order of the lists follows
    the files, and within a file the refused rows come first, then the lists by their first rows; it does not depend on
    anything but the rows. A finished dealing is used again.
    """
    if not (folder / "dealt").exists():
        with ExitStack() as stack:
            paths = [folder / f"group-{number:02d}" for number in range(NUM_BUCKETS)]
            files = [stack.enter_context(open(path, "wb")) for path in paths]
            for row in rows:
                key, line = _dealt(row, key_of)
                digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                files[int.from_bytes(digest, "big") % NUM_BUCKETS].write(line)
        (folder / "dealing").touch()
        os.replace(folder / "dealing", folder / "dealt")
    for number in range(NUM_BUCKETS):
        yield from _groups_of(folder / f"group-{number:02d}")


def _dealt(unparsed: ReadRow | UnparsedLine, key_of: Callable[[Row], str]) -> tuple[str, bytes]:
    """The key of a row, and its line in a file: [key, file, number, reason, detail], a tab, and the row as JSON."""
    row = parsed(unparsed, allow_nan=True)
    try:
        if isinstance(row.row, RowRefused):
            raise row.row
        key = key_of(row.row)
        head = [key, row.file, row.number, None, None]
        line = unparsed.line if isinstance(unparsed, UnparsedLine) else json.dumps(row.row, default=_no_text).encode()
    except RowRefused as refused:
        key = f"{row.file}:{row.number}"
        head = [None, row.file, row.number, refused.reason, refused.detail]
        shown = "" if isinstance(row.row, RowRefused) else json.dumps(row.row, default=str)
        line = json.dumps(row.raw if row.raw is not None else shown).encode()
    return key, json.dumps(head).encode() + b"\t" + line + b"\n"  # no tab in the head: JSON writes it as \t


def _no_text(value: Any) -> dict[str, str]:
    """Bytes, a decimal, a date: not to be taken for text when it is read back."""
    return {type(value).__name__: str(value)}


def _groups_of(path: Path) -> Iterator[list[ReadRow | UnparsedLine]]:
    groups: dict[str, list[ReadRow | UnparsedLine]] = defaultdict(list)
    with open(path, "rb") as file:
        for dealt in file:
            head, line = dealt.rstrip(b"\n").split(b"\t", 1)
            key, name, number, reason, detail = json.loads(head)
            if key is None:
                yield [ReadRow(name, number, RowRefused(reason, detail), json.loads(line))]
            else:
                groups[key].append(UnparsedLine(name, number, line))
    yield from groups.values()
